from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_wsl.contours import Grid


def test_points_are_where_itk_says(grid):
    image = sitk.Image([11, 7, 5], sitk.sitkUInt8)
    image.SetOrigin(grid.origin_mm.tolist())
    image.SetSpacing(grid.spacing_mm_xyz.tolist())
    image.SetDirection(grid.direction.ravel().tolist())
    index_xyz = np.array([[0, 0, 0], [10, 6, 4], [2.25, -1.5, 7.125]])

    points_mm = grid.to_mm(index_xyz)

    expected = [image.TransformContinuousIndexToPhysicalPoint(index) for index in index_xyz.tolist()]
    np.testing.assert_allclose(points_mm, expected, atol=1e-10)
    np.testing.assert_allclose(grid.to_voxel_xyz(points_mm), index_xyz, atol=1e-10)


def test_axes_by_hand():
    """Grid x runs along the patient's z, y along -x, z along y."""
    grid = Grid((10, 20, 30), (1.1, 0.7, 3), [[0, -1, 0], [0, 0, 1], [1, 0, 0]], (5, 7, 11))

    np.testing.assert_allclose(grid.to_mm([[1, 2, 3]]), [[10 - 2 * 0.7, 20 + 3 * 3, 30 + 1.1]])
    np.testing.assert_array_equal(grid.normal, [0, 1, 0])
    np.testing.assert_array_equal(grid.spacing_mm_zyx, [3, 0.7, 1.1])


def test_no_points():
    grid = Grid((10, 20, 30), (1.1, 0.7, 3), np.eye(3), (5, 7, 11))
    assert grid.to_voxel_xyz(np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origin_mm": (0, 0)}, "origin_mm"),
        ({"origin_mm": (0, 0, np.nan)}, "origin_mm"),
        ({"spacing_mm_xyz": (1, 0, 1)}, "spacing_mm_xyz"),
        ({"spacing_mm_xyz": (1, np.inf, 1)}, "spacing_mm_xyz"),
        ({"direction": np.diag([1, 1, 2])}, "direction"),
        ({"direction": [[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]}, "direction"),
        ({"direction": np.eye(2)}, "direction"),
        ({"shape_zyx": (7, 11)}, "shape_zyx"),
        ({"shape_zyx": (0, 7, 11)}, "shape_zyx"),
    ],
)
def test_impossible_grids_are_refused(change, message):
    good = {
        "origin_mm": (0, 0, 0),
        "spacing_mm_xyz": (1.1, 0.7, 3),
        "direction": np.diag([1, -1, 1]),
        "shape_zyx": (5, 7, 11),
    }
    Grid(**good)
    with pytest.raises(ValueError, match=message):
        Grid(**(good | change))


def test_grid_keeps_its_own_numbers():
    origin = np.array([1.0, 2.0, 3.0])
    grid = Grid(origin, (1.1, 0.7, 3), np.eye(3), (5, 7, 11))
    origin[0] = 99
    assert grid.origin_mm[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.origin_mm[0] = 99
