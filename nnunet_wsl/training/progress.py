"""Both differences in nnU-Net's ``progress.png``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator
from PIL import Image

from nnunet_wsl.files import replacing

_INCHES = (30, 18)
"""Size of the panel: that of each of nnU-Net's."""


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
    with plt.rc_context({"savefig.bbox": None}):  # whatever matplotlibrc says: as wide as nnU-Net's panels
        figure.savefig(pixels, format="rgba", dpi=stock.width / _INCHES[0])
    plt.close(figure)
    height = pixels.getbuffer().nbytes // (4 * stock.width)
    panel = Image.frombytes("RGBA", (stock.width, height), pixels.getvalue()).convert("RGB")
    combined = Image.new("RGB", (stock.width, stock.height + panel.height), "white")
    combined.paste(stock, (0, 0))
    combined.paste(panel, (0, stock.height))
    with replacing(path) as partial:
        combined.save(partial, format="png", compress_level=1)  # a third faster: this is done in every epoch
