from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from surface_distance import lookup_tables, metrics

from nnunet_wsl.evaluation import SurfaceDistances, surface_distances
from nnunet_wsl.evaluation.surface import element_areas

SPACING_MM = (3.0, 0.7, 1.1)


def blob(rng, shape):
    """A mask with holes, islands and parts on the border; never empty."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 2, len(shape)))
    return smooth >= np.quantile(smooth, rng.uniform(0.2, 0.95))


def deepmind(pred, ref, spacing_mm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it uses former names of scipy
        return metrics.compute_surface_distances(ref, pred, spacing_mm)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), SPACING_MM, (0.3, 9.0, 2.0)])
def test_areas_are_those_of_surface_distance_for_all_arrangements(spacing_mm):
    # It numbers the voxels from the other end.
    bits_3d = [int(f"{code:08b}"[::-1], 2) for code in range(256)]
    expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)
    np.testing.assert_allclose(element_areas(spacing_mm)[bits_3d], expected, rtol=1e-12)
    bits_2d = [int(f"{code:04b}"[::-1], 2) for code in range(16)]
    expected = lookup_tables.create_table_neighbour_code_to_contour_length(spacing_mm[1:])
    np.testing.assert_allclose(element_areas(spacing_mm[1:])[bits_2d], expected, rtol=1e-12)


@pytest.mark.parametrize("seed", range(200))
def test_equal_to_surface_distance_on_random_anisotropic_pairs(seed):
    rng = np.random.default_rng(seed)
    ndim = 2 if seed % 4 == 0 else 3
    shape = tuple(rng.integers(1, 14, ndim))
    spacing_mm = tuple(rng.uniform(0.3, 5, ndim))
    pred, ref = blob(rng, shape), blob(rng, shape)
    tolerance_mm = rng.uniform(0, 6)

    ours = surface_distances(pred, ref, spacing_mm)

    theirs = deepmind(pred, ref, spacing_mm)
    expected = metrics.compute_surface_dice_at_tolerance(theirs, tolerance_mm)
    assert ours.nsd(tolerance_mm) == pytest.approx(expected, abs=1e-6)
    assert ours.hausdorff_mm(95) == pytest.approx(metrics.compute_robust_hausdorff(theirs, 95), abs=1e-6)
    assert ours.hausdorff_mm(100) == pytest.approx(metrics.compute_robust_hausdorff(theirs, 100), abs=1e-6)
    to_pred, to_ref = metrics.compute_average_surface_distance(theirs)
    area_ref, area_pred = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    pooled = (to_pred * area_ref + to_ref * area_pred) / (area_ref + area_pred)
    assert ours.average_mm() == pytest.approx(pooled, abs=1e-6)


def test_two_voxels_two_rows_apart():
    # Each voxel has eight corners of equal area, four on its lower and four on its upper face in y.
    # Lower voxel's corners at y = 2 and 3, the other's at y = 4 and 5: 0.7 mm from 3 to 4, 1.4 mm from 2 to 4.
    pred, ref = np.zeros((5, 7, 11), bool), np.zeros((5, 7, 11), bool)
    pred[2, 2, 6] = ref[2, 4, 6] = True
    distances = surface_distances(pred, ref, SPACING_MM)
    assert sorted(distances.pred_to_ref_mm) == pytest.approx([0.7] * 4 + [1.4] * 4)
    assert distances.average_mm() == pytest.approx(1.05)
    assert distances.hausdorff_mm() == pytest.approx(1.4)
    assert distances.nsd(0.5) == 0
    assert distances.nsd(0.7) == pytest.approx(0.5)
    assert distances.nsd(1.4) == 1


def test_a_plane_across_the_image_is_as_large_as_its_face():
    # Half the image; the flat part of the cut, away from the rim, has one face of 0.7 x 1.1 mm per element.
    mask = np.zeros((4, 7, 11), bool)
    mask[:2] = True
    distances = surface_distances(mask, mask, SPACING_MM)
    flat = np.isclose(distances.pred_areas, 0.7 * 1.1)
    assert flat.sum() == 2 * 6 * 10


def test_distance_equal_to_the_tolerance_is_within_in_spite_of_rounding():
    pred, ref = np.zeros((1, 12), bool), np.zeros((1, 12), bool)
    pred[0, :2], ref[0, :5] = True, True
    assert 3 * 0.1 > 0.3
    assert surface_distances(pred, ref, (0.1, 0.1)).nsd(0.3) == 1


def test_percentile_is_weighted_by_area_and_robust_to_rounding():
    # 19 of 20 equal elements are exactly 95 %: the 19th distance, not the 20th.
    distances = np.arange(1.0, 21.0)
    for area in (0.1, 1 / 3, 7.7):
        both = SurfaceDistances(distances, distances[::-1], np.full(20, area), np.full(20, area))
        assert both.hausdorff_mm(95) == 19
    # One element with 94 % of the area: the 95th percentile is the next.
    heavy = SurfaceDistances(np.array([1.0, 2, 3]), np.array([0.5]), np.array([94.0, 3, 3]), np.array([1.0]))
    assert heavy.hausdorff_mm(95) == 2


def test_one_empty_mask_has_no_surface():
    pred = np.zeros((5, 7, 11), bool)
    ref = pred.copy()
    ref[2, 3, 4] = True
    distances = surface_distances(pred, ref, SPACING_MM)
    assert distances.nsd(100) == 0
    assert np.isnan(distances.hausdorff_mm())
    assert np.isnan(distances.average_mm())
    assert np.isnan(surface_distances(pred, pred, SPACING_MM).nsd(1))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(5, 7, 11), (7, 11), (1, 7, 11), (6, 1, 3)]))
def test_swap_flip_and_transpose_change_nothing(seed, shape):
    rng = np.random.default_rng(seed)
    spacing_mm = SPACING_MM[-len(shape) :]
    pred, ref = blob(rng, shape), blob(rng, shape)
    expected = surface_distances(pred, ref, spacing_mm)
    axes = list(itertools.permutations(range(len(shape))))[seed % 2]
    moved = [np.flip(mask, seed % len(shape)).transpose(axes) for mask in (ref, pred)]
    found = surface_distances(*moved, [spacing_mm[axis] for axis in axes])
    assert found.nsd(1.2) == pytest.approx(expected.nsd(1.2))
    assert found.hausdorff_mm() == pytest.approx(expected.hausdorff_mm())
    assert found.average_mm() == pytest.approx(expected.average_mm())


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_prediction_at_ignored_voxels_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    pred, ref, ignored = (blob(rng, (5, 7, 11)) for _ in range(3))
    other = np.where(ignored, rng.random(pred.shape) < 0.5, pred)
    first, second = (surface_distances(mask, ref, SPACING_MM, ~ignored) for mask in (pred, other))
    for name in ("pred_to_ref_mm", "ref_to_pred_mm", "pred_areas", "ref_areas"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_elements_that_touch_an_ignored_voxel_are_left_out():
    # A rod along x from 2 to 8: corners at x = 2..9, four each. Ignoring x >= 7 leaves those at x = 2..6.
    rod = np.zeros((5, 7, 11), bool)
    rod[2, 3, 2:9] = True
    scored = np.ones_like(rod)
    scored[:, :, 7:] = False
    assert len(surface_distances(rod, rod, SPACING_MM).pred_areas) == 8 * 4
    assert len(surface_distances(rod, rod, SPACING_MM, scored).pred_areas) == 5 * 4
