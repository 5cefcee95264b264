from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relevance.strategies import masks_with_spacing
from scipy import ndimage

from nnunet_wsl.relevance import nearest_contour

SHAPE = (5, 7, 11)
SPACING_MM = (3.0, 0.7, 1.1)


def brute_force(mask, squares, *, same_slice=False):
    """Nearest contour voxel of every voxel in exact integers, the first of the lexicographic order if several are."""
    contour = np.argwhere(mask).astype(object)
    squares = np.array(squares, dtype=object)
    index = np.empty((mask.ndim, *mask.shape), dtype=np.int64)
    squared = np.empty(mask.shape, dtype=object)
    for voxel in np.ndindex(mask.shape):
        distances = ((contour - np.array(voxel, dtype=object)) ** 2 * squares).sum(axis=1)
        if same_slice:
            distances = np.where(contour[:, 0] == voxel[0], distances, math.inf)
        nearest = min(range(len(contour)), key=lambda i, distances=distances: (distances[i], i))
        index[(slice(None), *voxel)] = contour[nearest]
        squared[voxel] = distances[nearest]
    return squared, index


@settings(max_examples=200)
@given(masks_with_spacing(), st.one_of(st.just(math.inf), st.floats(0.005, 60.0)))
def test_distance_equals_scipy_within_the_cut_off(mask_spacing, cutoff_mm):
    mask, spacing_mm = mask_spacing
    distance_mm, index = nearest_contour(mask, spacing_mm, cutoff_mm=cutoff_mm)
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    within = np.isfinite(distance_mm)
    assert distance_mm[within] == pytest.approx(expected[within], abs=1e-4)
    assert (expected[within] <= cutoff_mm * (1 + 1e-6)).all()
    assert (expected[~within] >= cutoff_mm * (1 - 1e-6)).all()
    assert (index[:, ~within] == -1).all()


@settings(max_examples=100)
@given(masks_with_spacing(spacings=st.sampled_from([1, 2, 3, 5, 25, 8, 10]), max_side=8), st.integers(0, 2))
def test_reference_voxels_equal_integer_brute_force(mask_spacing, decimals):
    mask, steps = mask_spacing
    squared, expected = brute_force(mask, [step * step for step in steps])
    spacing_mm = [step / 10**decimals for step in steps]
    distance_mm, index = nearest_contour(mask, spacing_mm)
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(distance_mm, np.sqrt(squared.astype(float)) / 10**decimals, rtol=1e-6)


@settings(max_examples=60)
@given(masks_with_spacing(spacings=st.sampled_from([1, 2, 3, 5]), ndims=(3,), max_side=7))
def test_search_in_the_slice_equals_brute_force(mask_spacing):
    mask, steps = mask_spacing
    squared, expected = brute_force(mask, [step * step for step in steps], same_slice=True)
    distance_mm, index = nearest_contour(mask, steps, search="slice")
    drawn = mask.any(axis=(1, 2))
    np.testing.assert_array_equal(index[:, drawn], expected[:, drawn])
    np.testing.assert_allclose(distance_mm[drawn], np.sqrt(squared[drawn].astype(float)), rtol=1e-6)
    assert np.isinf(distance_mm[~drawn]).all()
    assert (index[:, ~drawn] == -1).all()


@pytest.mark.parametrize("search", ["volume", "slice"])
@pytest.mark.parametrize(("shape", "steps", "cutoff"), [((41, 70, 13), (3, 1, 2), 9), ((150, 43), (2, 3), 21)])
def test_images_of_many_blocks_equal_integer_brute_force(shape, steps, cutoff, search):
    rng = np.random.default_rng(4)
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(rng.integers(0, shape, (60, len(shape))).T)] = True
    contour = np.argwhere(mask)
    voxels = np.stack(np.unravel_index(np.arange(mask.size), shape), axis=1)
    squared = (((voxels[:, None] - contour) * steps) ** 2).sum(axis=2)
    if search == "slice" and len(shape) == 3:
        squared[voxels[:, None, 0] != contour[:, 0]] = 10**6
    nearest = (squared * len(contour) + np.arange(len(contour))).argmin(axis=1)
    squared = squared[np.arange(mask.size), nearest].reshape(shape)
    within = squared <= cutoff**2
    distance_mm, index = nearest_contour(mask, steps, cutoff_mm=cutoff, search=search)
    np.testing.assert_array_equal(index, np.where(within, contour[nearest].T.reshape(-1, *shape), -1))
    np.testing.assert_allclose(distance_mm, np.where(within, np.sqrt(squared), np.inf), rtol=1e-6)


def test_equal_distances_along_different_axes_are_ties():
    # 8 slices of 2.5 mm and 25 columns of 0.8 mm are both 20 mm; the earlier slice wins.
    mask = np.zeros((9, 2, 26), dtype=bool)
    mask[0, 1, 0] = mask[8, 1, 25] = True
    distance_mm, index = nearest_contour(mask, (2.5, 0.3, 0.8))
    assert distance_mm[8, 1, 0] == pytest.approx(20.0)
    assert tuple(index[:, 8, 1, 0]) == (0, 1, 0)
    assert tuple(index[:, 0, 1, 25]) == (0, 1, 0)


def test_spacing_that_float32_rounded_still_ties():
    mask = np.zeros((9, 26), dtype=bool)
    mask[0, 0] = mask[8, 25] = True
    _, index = nearest_contour(mask, (float(np.float32(2.5)), float(np.float32(0.8))))
    assert tuple(index[:, 8, 0]) == (0, 0)
    assert tuple(index[:, 0, 25]) == (0, 0)


@settings(max_examples=60)
@given(masks_with_spacing(), st.floats(0.1, 30.0))
def test_the_cut_off_only_takes_away(mask_spacing, cutoff_mm):
    mask, spacing_mm = mask_spacing
    everywhere, _ = nearest_contour(mask, spacing_mm)
    near, _ = nearest_contour(mask, spacing_mm, cutoff_mm=cutoff_mm)
    within = np.isfinite(near)
    assert near[within] == pytest.approx(everywhere[within], rel=1e-6)


@pytest.mark.parametrize("place", ["start", "end"])
def test_flips_of_the_volume_flip_the_distances(place):
    rng = np.random.default_rng(3)
    mask = rng.random(SHAPE) < 0.03
    mask[(0, 0, 0) if place == "start" else (-1, -1, -1)] = True
    distance_mm, _ = nearest_contour(mask, SPACING_MM, cutoff_mm=4.0)
    for axis in range(3):
        flipped, _ = nearest_contour(np.flip(mask, axis), SPACING_MM, cutoff_mm=4.0)
        np.testing.assert_array_equal(np.flip(flipped, axis), distance_mm)


def test_hand_derived_distances():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2, 3, 5] = True
    distance_mm, index = nearest_contour(mask, SPACING_MM)
    assert distance_mm[2, 3, 5] == 0
    assert distance_mm[0, 3, 5] == pytest.approx(6.0)
    assert distance_mm[2, 0, 5] == pytest.approx(2.1)
    assert distance_mm[2, 3, 9] == pytest.approx(4.4)
    assert distance_mm[1, 2, 4] == pytest.approx(math.sqrt(9 + 0.49 + 1.21))
    assert (index == np.array([2, 3, 5]).reshape(3, 1, 1, 1)).all()


def test_a_voxel_exactly_at_the_cut_off_is_within():
    distance_mm, _ = nearest_contour(np.array([[0, 0, 0]]), (2.5, 0.8, 0.8), cutoff_mm=20.0, shape=(10, 3, 27))
    assert distance_mm[8, 0, 0] == pytest.approx(20.0)
    assert np.isinf(distance_mm[9, 0, 0])
    assert distance_mm[0, 0, 25] == pytest.approx(20.0)
    assert np.isinf(distance_mm[0, 0, 26])


def test_indices_and_bool_array_mean_the_same():
    rng = np.random.default_rng(0)
    mask = rng.random(SHAPE) < 0.05
    voxels = np.argwhere(mask)
    shuffled = np.concatenate([rng.permutation(voxels), voxels[:3]]).astype(np.uint64)
    expected = nearest_contour(mask, SPACING_MM)
    for given_voxels in (voxels, shuffled):
        for found, wanted in zip(nearest_contour(given_voxels, SPACING_MM, shape=SHAPE), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("shape", [SHAPE, (7, 11), (1, 7, 11), (0, 7, 11), (7, 0)])
def test_no_contour_voxels_mean_no_reference_voxels(shape):
    for nothing in (np.zeros(shape, dtype=bool), np.empty((0, len(shape)), dtype=np.int32), []):
        distance_mm, index = nearest_contour(nothing, SPACING_MM[-len(shape) :], shape=shape)
        assert distance_mm.shape == shape
        assert index.shape == (len(shape), *shape)
        assert np.isinf(distance_mm).all()
        assert (index == -1).all()


def test_one_voxel_image():
    distance_mm, index = nearest_contour(np.ones((1, 1, 1), dtype=bool), (0.01, 20.0, 1.0))
    assert distance_mm.item() == 0
    assert index.ravel().tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "spacing_mm", [(0.01, 20.0, 0.0123457), (20.0, 0.0123457, 0.01), (0.3333333, 7.7777777, 19.99)]
)
def test_extreme_spacings_in_a_large_volume(spacing_mm):
    rng = np.random.default_rng(1)
    shape = (60, 90, 130)
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(rng.integers(0, shape, (30, 3)).T)] = True
    distance_mm, _ = nearest_contour(mask, spacing_mm)
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    np.testing.assert_allclose(distance_mm, expected, atol=1e-4)


def test_sparse_slices_with_gaps_wider_than_the_cut_off():
    mask = np.zeros((40, 7, 11), dtype=bool)
    mask[[3, 4, 19, 37], 2, 3] = True
    distance_mm, _ = nearest_contour(mask, SPACING_MM, cutoff_mm=6.5)
    expected = ndimage.distance_transform_edt(~mask, sampling=SPACING_MM)
    np.testing.assert_allclose(distance_mm, np.where(expected <= 6.5, expected, np.inf), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contour_voxels": np.array([[0, 0, 11]])}, "outside the image"),
        ({"contour_voxels": np.array([[-1, 0, 0]])}, "outside the image"),
        ({"contour_voxels": np.array([[0, 0]])}, r"shape \(N, 3\)"),
        ({"contour_voxels": np.array([[0.0, 0.0, 1.0]])}, "float64"),
        ({"contour_voxels": np.array([[0, 0, 1]]), "shape": None}, "need the image's shape"),
        ({"contour_voxels": np.ones((5, 7), dtype=bool)}, "do not fit"),
        ({"contour_voxels": np.ones((1, 1, 1, 1), dtype=bool), "shape": None}, "two or three axes"),
        ({"spacing_mm": (3.0, 0.7)}, "per axis of an image of 3 axes, found 2"),
        ({"spacing_mm": (3.0, 0.7), "shape": (1, 7, 11)}, "per axis of an image of 3 axes, found 2"),
        ({"contour_voxels": np.ones((4, 4), dtype=bool), "shape": None}, "per axis of an image of 2 axes, found 3"),
        ({"contour_voxels": [], "shape": (7, 11)}, "per axis of an image of 2 axes, found 3"),
        ({"spacing_mm": (3.0, 0.0, 1.1)}, "one positive spacing per axis"),
        ({"spacing_mm": (3.0, math.nan, 1.1)}, "one positive spacing per axis"),
        ({"cutoff_mm": 0.0}, "cut-off must be positive"),
        ({"cutoff_mm": math.nan}, "cut-off must be positive"),
        ({"search": "slices"}, "search must be one of volume, slice, not 'slices'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    sensible = {"contour_voxels": np.array([[0, 0, 1]]), "spacing_mm": SPACING_MM, "shape": SHAPE}
    with pytest.raises(ValueError, match=message):
        nearest_contour(**(sensible | arguments))
