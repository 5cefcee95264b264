"""Both differences in nnU-Net's ``progress.png``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator
from PIL import Image

from nnunet_wsl.files import replacing

_INCHES, _DPI = (30, 18), 100
"""As wide as nnU-Net's panels, and as high as one of them."""


def append_differences_plot(path: Path, differences: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Append a panel with the first and second difference per epoch below an existing PNG.

    Parameters
    ----------
    path : Path
        nnU-Net's ``progress.png``; it is replaced.
    differences : mapping
        For ``"train"`` and ``"val"``: ``"first"`` and ``"second"``, one value per epoch.
    """
    with Image.open(path) as progress:
        stock = progress.convert("RGB")
    figure, axes = plt.subplots(figsize=_INCHES)
    second_axes = axes.twinx()
    for split, colour in (("train", "b"), ("val", "r")):
        for name, target, style in (("first", axes, "-"), ("second", second_axes, "dotted")):
            values = differences[split][name]
            target.plot(
                range(len(values)),
                values,
                color=colour,
                ls=style,
                linewidth=4,
                label=f"{name} difference, {split}",
            )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("first difference (relevance)")
    second_axes.set_ylabel("second difference (mask)")
    axes.legend(loc=(0, 1))
    second_axes.legend(loc=(0.35, 1))
    figure.tight_layout()
    pixels = BytesIO()
    figure.savefig(pixels, format="rgba", dpi=_DPI)
    plt.close(figure)
    panel = Image.frombytes("RGBA", (_INCHES[0] * _DPI, _INCHES[1] * _DPI), pixels.getvalue()).convert("RGB")
    combined = Image.new("RGB", (stock.width, stock.height + panel.height), "white")
    combined.paste(stock, (0, 0))
    combined.paste(panel, (0, stock.height))
    with replacing(path) as partial:
        combined.save(partial, format="png", compress_level=1)  # a third faster: this is done in every epoch
