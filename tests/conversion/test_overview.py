from __future__ import annotations

import numpy as np
import pytest
from conversion.phantom import RECTANGLE_YX, SHAPE_ZYX, grid, voxels
from PIL import Image

from nnunet_wsl.conversion.dataset import image_path, label_path, write_volume
from nnunet_wsl.conversion.report import CaseSketch, draw_overview


def height_of_picture(tmp_path, case, name, rows=1):
    for path, volume in ((image_path(tmp_path, case, 0), voxels()), (label_path(tmp_path, case), np.ones(SHAPE_ZYX))):
        path.parent.mkdir(exist_ok=True)
        write_volume(path, volume.astype(np.uint8), grid())
    sketch = CaseSketch(case, 2, ((1, RECTANGLE_YX),), size_mm_yx=(4.9, 12.1), spacing_mm_yx=(0.7, 1.1))
    draw_overview(tmp_path, [sketch] * rows, objects=[name], image_channels=1, channels=1)
    with Image.open(tmp_path / "wsl_overview.png") as picture:
        return picture.height


def test_names_are_drawn_as_they_are(tmp_path):
    """To matplotlib what stands between two $ is a formula, and these are wrong."""
    assert height_of_picture(tmp_path, "case $\\x$", "tumour $\\frac$") > 100


def test_all_sketches_are_drawn(tmp_path):
    six, seven, eight = (height_of_picture(tmp_path, "ann", "GTV", rows) for rows in (6, 7, 8))
    assert seven - six > 100
    assert eight - seven == pytest.approx(seven - six, abs=1)
