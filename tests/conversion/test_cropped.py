from __future__ import annotations

import numpy as np
import pytest
from conversion.phantom import RECTANGLE_YX, SHAPE_ZYX, grid
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnunet_wsl.contours import Contour, ContourSet, place, rasterise
from nnunet_wsl.conversion.cropped import CroppedMask, overlap, window_around

masks = arrays.arrays(bool, (3, 5, 7), elements=st.booleans(), fill=st.just(False))
slices = arrays.arrays(bool, 3)


def parted(mask, elsewhere):
    """A mask in a window of rows 1..3 and columns 2..5."""
    window = slice(None), slice(1, 4), slice(2, 6)
    return CroppedMask(mask[window].copy(), window, elsewhere, mask.shape)


@given(masks)
def test_cropped_and_whole_again(mask):
    cropped = CroppedMask.of(mask)
    np.testing.assert_array_equal(cropped, mask)
    there = np.argwhere(mask)
    if len(there):
        expected = there.max(axis=0) - there.min(axis=0) + 1
        assert cropped.values.shape[1:] == tuple(expected[1:])


def test_of_nothing():
    cropped = CroppedMask.of(np.zeros(SHAPE_ZYX, bool))
    assert cropped.values.size == 0
    np.testing.assert_array_equal(cropped, np.zeros(SHAPE_ZYX, bool))
    assert np.asarray(~cropped).all()


@given(masks, masks, slices, slices)
def test_operations_are_those_of_whole_masks(a, b, a_elsewhere, b_elsewhere):
    one, other = parted(a, a_elsewhere), parted(b, b_elsewhere)
    np.testing.assert_array_equal(~one, ~np.asarray(one))
    np.testing.assert_array_equal(one | other, np.asarray(one) | np.asarray(other))
    expected = np.asarray(one).copy()
    expected[one.window] ^= True
    np.testing.assert_array_equal(one.with_values(~one.values), expected)
    image = np.zeros(a.shape, int)
    window, there = one.where()
    image[window][there] = 7
    np.testing.assert_array_equal(image == 7, np.asarray(one))


def test_of_another_type():
    cropped = CroppedMask.of(np.eye(3, dtype=bool)[None])
    assert np.asarray(cropped, dtype=np.uint8).dtype == np.uint8
    with pytest.raises(ValueError, match="by copying"):
        cropped.__array__(copy=False)


def test_masks_that_do_not_fit():
    corner = slice(None), slice(0, 2), slice(0, 2)
    with pytest.raises(ValueError, match="leaves its window"):
        CroppedMask.of(np.eye(3, dtype=bool)[None], corner)
    one, other = (CroppedMask.of(mask[None]) for mask in (np.eye(3, dtype=bool), np.eye(3, dtype=bool)[:2]))
    with pytest.raises(ValueError, match="of one window"):
        _ = one | other


@given(st.lists(masks, min_size=1, max_size=4))
def test_overlap(found):
    np.testing.assert_array_equal(overlap([CroppedMask.of(mask) for mask in found]), np.sum(found, axis=0) > 1)


@pytest.mark.parametrize("margin_vox", [0, 1, 100])
@given(offset_yx=st.tuples(st.integers(-5, 8), st.integers(-9, 12)), closed=st.booleans())
def test_the_window_has_the_whole_object(margin_vox, offset_yx, closed):
    """Also where the contour leaves the image, or lies beside it; on slices where it lies elsewhere; and no more."""
    points_yx = np.array(RECTANGLE_YX) + offset_yx
    contours = [
        Contour("A", grid().to_mm([(x, y, k) for y, x in points_yx + move]), closed)
        for k, move in ((1, 0), (3, [2, -1]))
    ]
    placed = place(ContourSet(["A", "B"], contours), grid(), case="a", outside="clip")
    mask = rasterise(placed, "A")
    window = window_around(placed, "A", margin_vox)
    np.testing.assert_array_equal(CroppedMask.of(mask, window), mask)
    assert CroppedMask.of(rasterise(placed, "B"), window_around(placed, "B", margin_vox)).values.size == 0
    if mask.any():
        there = np.argwhere(mask)[:, 1:]
        for axis, size in enumerate(SHAPE_ZYX[1:]):
            assert window[1 + axis].start <= max(there[:, axis].min() - margin_vox, 0)
            assert window[1 + axis].stop >= min(there[:, axis].max() + margin_vox + 1, size)
            if mask.sum() == 2 * 15:  # all of the object lies in the image; its contours half a voxel around it
                assert window[1 + axis].start >= max(there[:, axis].min() - margin_vox - 1, 0)
                assert window[1 + axis].stop <= min(there[:, axis].max() + margin_vox + 2, size)
