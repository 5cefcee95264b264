"""The panel of both differences in nnU-Net's progress.png."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from PIL import Image

from nnunet_wsl.training.progress import append_differences_plot

DIFFERENCES = {split: {"first": [0.4, 0.2, 0.1], "second": [0.1, -0.5, -0.8]} for split in ("train", "val")}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("settings", [{}, {"savefig.bbox": "tight"}, {"figure.dpi": 37.0, "savefig.dpi": 50.0}])
def test_the_panel_is_below_those_of_nnunet_and_as_large(tmp_path, settings):
    logger = LocalLogger()
    for epoch in range(3):
        for key in logger.my_fantastic_logging:
            logger.log(key, float(epoch), epoch)
    with mpl.rc_context(settings):
        logger.plot_progress_png(str(tmp_path))
        stock = pixels(tmp_path / "progress.png")
        append_differences_plot(tmp_path / "progress.png", DIFFERENCES)
    combined = pixels(tmp_path / "progress.png")
    np.testing.assert_array_equal(combined[: len(stock)], stock)
    panel = combined[len(stock) :]
    assert panel.shape[1] == stock.shape[1]
    assert len(panel) == pytest.approx(0.6 * stock.shape[1], abs=1)  # 18 by 30 inches
    assert len(np.unique(panel[..., 0])) > 10  # there is something in it
