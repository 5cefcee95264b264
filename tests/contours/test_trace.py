from __future__ import annotations

import numpy as np
from conversion.phantom import grid
from hypothesis import given
from hypothesis.extra import numpy as arrays

from nnunet_wsl.contours import Contour, ContourSet, contour_voxels, place, rasterise, trace
from nnunet_wsl.relevance import boundary_voxels


def area(points_yx):
    y, x = points_yx.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def test_one_voxel_is_a_diamond():
    mask = np.zeros((7, 11), bool)
    mask[2, 5] = True
    (points,) = trace(mask)
    expected = [[1.5, 5], [2, 4.5], [2, 5.5], [2.5, 5]]
    np.testing.assert_allclose(sorted(points.tolist()), expected, atol=2e-4)


def test_a_rectangle_and_its_hole():
    """3 x 5 voxels lose a triangle of 1/8 at every corner; the hole of one voxel is a diamond of 1/2."""
    mask = np.zeros((7, 11), bool)
    mask[2:5, 3:8] = True
    mask[3, 5] = False
    np.testing.assert_allclose(sorted(area(points) for points in trace(mask)), [0.5, 15 - 4 / 8], atol=5e-3)


def test_nothing_and_everything():
    assert trace(np.zeros((7, 11), bool)) == []
    (points,) = trace(np.ones((7, 11), bool))
    np.testing.assert_allclose(points.min(axis=0), [-0.5, -0.5], atol=2e-4)
    np.testing.assert_allclose(points.max(axis=0), [6.5, 10.5], atol=2e-4)


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


@given(arrays.arrays(bool, (7, 11)))
def test_the_contour_voxels_lie_along_the_inside_of_the_mask(mask):
    """All outermost voxels of the mask, and outside it only where a concave corner is cut off."""
    geometry = grid()
    contours = [Contour("A", geometry.to_mm([(x, y, 2) for y, x in points])) for points in trace(mask)]
    placed = place(ContourSet(["A"], contours), geometry, case="a")
    passed = np.zeros(geometry.shape_zyx, bool)
    passed[tuple(contour_voxels(placed, "A").T)] = True
    passed = passed[2, : mask.shape[0], : mask.shape[1]]
    outermost = boundary_voxels(mask)
    np.testing.assert_array_equal(passed & mask, outermost)
    beside = np.pad(mask, 1)
    in_a_corner = np.zeros_like(mask)
    for dy, dx in ((0, 0), (0, 2), (2, 0), (2, 2)):
        along_y = beside[dy : dy + 7, 1:-1]
        along_x = beside[1:-1, dx : dx + 11]
        in_a_corner |= along_y & along_x
    assert not (passed & ~mask & ~in_a_corner).any()
