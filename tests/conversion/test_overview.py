from __future__ import annotations

import numpy as np
import pytest
from conversion.phantom import RECTANGLE_YX, SHAPE_ZYX, grid, voxels
from PIL import Image

from nnunet_wsl.contours import Grid
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


def test_colours_are_shown(tmp_path):
    plane = np.zeros((3, 1, 40, 60), np.uint8)
    plane[2, 0, 10:30, 20:50] = 200  # blue only
    shape = Grid((0, 0, 0), (1, 1, 1), np.eye(3), (1, 40, 60))
    for channel in range(3):
        path = image_path(tmp_path, "ann", channel)
        path.parent.mkdir(exist_ok=True)
        write_volume(path, plane[channel], shape)
    label_path(tmp_path, "ann").parent.mkdir()
    write_volume(label_path(tmp_path, "ann"), np.zeros((1, 40, 60), np.uint8), shape)
    sketch = CaseSketch("ann", 0, (), size_mm_yx=(40, 60), spacing_mm_yx=(1, 1))
    draw_overview(tmp_path, [sketch], objects=["GTV"], image_channels=3, channels=3, in_colour=True)
    with Image.open(tmp_path / "wsl_overview.png") as picture:
        red, green, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), -1, 0)
    is_blue = (blue > 200) & (red < 30) & (green < 30)
    assert 0.2 < is_blue.sum() / ((red < 30) & (green < 30)).sum() < 0.3  # 600 of 2400 pixels


def test_thin_lines_of_large_images_are_shown(tmp_path):
    """Far more pixels than the picture has: a line of one pixel must not fall between those that are shown."""
    height, width = 1501, 5003
    empty = np.zeros((1, height, width), np.float32)
    lines = empty.copy()
    lines[0, 703] = lines[0, :, 4001] = 1
    large = Grid((0, 0, 0), (1, 1, 1), np.eye(3), empty.shape)
    pictures = []
    for relevance in (empty, lines):
        for path, volume in (
            (image_path(tmp_path, "ann", 0), np.full(empty.shape, 99, np.uint8)),
            (image_path(tmp_path, "ann", 1), relevance),
            (label_path(tmp_path, "ann"), empty.astype(np.uint8)),
        ):
            path.parent.mkdir(exist_ok=True)
            write_volume(path, volume, large)
        sketch = CaseSketch("ann", 0, (), size_mm_yx=(height, width), spacing_mm_yx=(1, 1))
        draw_overview(tmp_path, [sketch], objects=["GTV"], image_channels=1, channels=2)
        with Image.open(tmp_path / "wsl_overview.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    differs = (pictures[0] != pictures[1]).any(axis=-1)
    rows, columns = differs.any(axis=1).sum(), differs.any(axis=0).sum()  # from border to border of the panel
    assert columns > 300
    assert rows == pytest.approx(columns * height / width, rel=0.05)
