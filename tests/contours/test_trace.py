from __future__ import annotations

import numpy as np
from conversion.phantom import grid
from hypothesis import given
from hypothesis.extra import numpy as arrays

from nnunet_wsl.contours import Contour, ContourSet, place, rasterise, trace


def area(points_yx):
    y, x = points_yx.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_one_voxel_is_a_diamond():
    mask = np.zeros((7, 11), bool)
    mask[2, 5] = True
    (points,) = trace(mask)
    assert sorted(points.tolist()) == [[1.5, 5], [2, 4.5], [2, 5.5], [2.5, 5]]


def test_a_rectangle_and_its_hole():
    """3 x 5 voxels lose a triangle of 1/8 at every corner; the hole of one voxel is a diamond of 1/2."""
    mask = np.zeros((7, 11), bool)
    mask[2:5, 3:8] = True
    mask[3, 5] = False
    assert sorted(area(points) for points in trace(mask)) == [0.5, 15 - 4 / 8]


def test_nothing_and_everything():
    assert trace(np.zeros((7, 11), bool)) == []
    (points,) = trace(np.ones((7, 11), bool))
    assert points.min(axis=0).tolist() == [-0.5, -0.5]
    assert points.max(axis=0).tolist() == [6.5, 10.5]


@given(arrays.arrays(bool, (5, 7, 11)))
def test_what_the_contours_enclose_is_the_mask(mask):
    """Through physical space, on an oblique and anisotropic grid."""
    geometry = grid()
    contours = [
        Contour("A", geometry.to_mm([(x, y, k) for y, x in points]))
        for k, plane in enumerate(mask)
        for points in trace(plane)
    ]
    placed = place(ContourSet(["A"], contours), geometry, case="a")
    np.testing.assert_array_equal(rasterise(placed, "A"), mask)
