from __future__ import annotations

import json
import math

import numpy as np
import pytest

from nnunet_wsl.errors import InputError
from nnunet_wsl.relevance import CaseFingerprint, boundary_voxels, case_fingerprint, plan_scales
from nnunet_wsl.relevance.scales import ObjectFingerprint

SPACING_MM = (3.0, 0.7, 1.1)


def case(spacing_mm, *objects):
    (num_channels,) = {len(one[1]) for one in objects if one}
    return CaseFingerprint(spacing_mm, tuple(one and ObjectFingerprint(*one) for one in objects), num_channels)


def disc(shape_yx, centre_yx, radius_mm, spacing_yx):
    y, x = np.ogrid[: shape_yx[0], : shape_yx[1]]
    return ((y - centre_yx[0]) * spacing_yx[0]) ** 2 + ((x - centre_yx[1]) * spacing_yx[1]) ** 2 <= radius_mm**2


def test_plan_by_hand():
    cases = [
        case((3.0, 0.7, 1.1), (8.0, (4.0,), (9.0,)), (1.0, (1.0,), (1.0,))),
        case((3.0, 0.9, 1.3), (12.0, (2.0,), (8.0,)), None),
        case((3.0, 0.7, 1.2), (60.0, (0.0,), (5.0,)), (1.0, (100.0,), (100.0,))),
    ]
    sigma_mm, intensity_scale, cutoff_mm = plan_scales(cases)
    # Radii 8, 12, 60: a fifth of 12. Radius 1: the median of the larger pixel spacings 1.1, 1.3, 1.2.
    assert sigma_mm == pytest.approx((2.4, 1.2))
    assert cutoff_mm == pytest.approx((7.2, 3.6))
    # sqrt(4 * 9), sqrt(2 * 8), (0), 1, 100: the median of 6, 4, 1, 100.
    assert intensity_scale == (5.0,)


def test_each_channel_has_its_own_scale_and_a_constant_one_gets_1():
    _, intensity_scale, _ = plan_scales([case((1.0, 1.0), (5.0, (1.0, 0.0), (4.0, 0.0)))])
    assert intensity_scale == (2.0, 1.0)


def test_no_channels_no_intensity_scale():
    assert plan_scales([case((1.0, 1.0), (5.0, (), ()))])[1] == ()


def test_an_object_that_no_case_has_cannot_be_planned():
    with pytest.raises(InputError, match="object 2 has none in any case"):
        plan_scales([case((1.0, 1.0), (5.0, (), ()), None)] * 2)
    with pytest.raises(InputError, match=r"'GTV' has none in any case.* Give sigma_mm yourself"):
        plan_scales([case((1.0, 1.0), (5.0, (), ()), None)] * 2, ["PTV", "GTV"])
    with pytest.raises(InputError, match="there is no case"):
        plan_scales([])


def test_what_is_given_is_not_planned():
    """The intensity scale comes from the object that has contours: sqrt(1 * 4)."""
    cases = [case((1.0, 1.0), (5.0, (1.0,), (4.0,)), None)]
    assert plan_scales(cases, sigma_mm=[2.0, 3.0]) == ((2.0, 3.0), (2.0,), (6.0, 9.0))


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_without_any_contour_each_channel_gets_1(channels):
    nothing, image = np.zeros((4, 5), dtype=bool), np.random.default_rng(0).normal(size=(channels, 4, 5))
    fingerprint = case_fingerprint(image if channels else None, [nothing], [nothing], (0.7, 1.1))
    assert plan_scales([fingerprint] * 2, sigma_mm=[2.0]) == ((2.0,), (1.0,) * channels, (6.0,))


def test_radius_of_discs_whatever_their_number_and_the_spacing():
    shape, spacing_mm = (160, 130), (0.7, 1.1)
    one = disc(shape, (50, 40), 20.0, spacing_mm)
    two = one | disc(shape, (115, 90), 20.0, spacing_mm)
    for mask in (one, two):
        fingerprint = case_fingerprint(None, [mask], [boundary_voxels(mask)], spacing_mm)
        assert fingerprint.objects[0].radius_mm == pytest.approx(20.0, rel=0.03)
        stacked = np.stack([mask] * 3)
        thick = case_fingerprint(None, [stacked], [boundary_voxels(stacked)], (3.0, *spacing_mm))
        assert thick.objects[0].radius_mm == pytest.approx(fingerprint.objects[0].radius_mm)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0), (0.5, 2.0), (0.4, 4.0), (3.0, 0.7)])
def test_radius_whatever_the_pixels_and_how_the_contour_voxels_were_found(spacing_mm):
    """Whoever draws the same disc on a slice of another plane gets the same scale."""
    radius_mm = 40.0
    shape = tuple(math.ceil(2 * radius_mm / spacing) + 3 for spacing in spacing_mm)
    centre = [(length - 1) / 2 for length in shape]
    mask = disc(shape, centre, radius_mm, spacing_mm)
    angles = np.linspace(0, 2 * np.pi, 5000)
    circle = np.column_stack([np.sin(angles), np.cos(angles)]) * radius_mm / spacing_mm + centre
    for contour in (boundary_voxels(mask), np.unique(np.rint(circle).astype(int), axis=0)):
        (found,) = case_fingerprint(None, [mask], [contour], spacing_mm).objects
        assert found.radius_mm == pytest.approx(radius_mm, rel=0.05)


def test_slices_without_contours_do_not_count_to_the_radius():
    mask = np.stack([disc((60, 50), (30, 20), 10.0, (0.7, 1.1))] * 5)
    contour = boundary_voxels(mask)
    contour[[1, 2, 4]] = False
    sparse = case_fingerprint(None, [mask], [contour], SPACING_MM)
    dense = case_fingerprint(None, [mask], [boundary_voxels(mask)], SPACING_MM)
    assert sparse.objects[0].radius_mm == pytest.approx(dense.objects[0].radius_mm)


def test_spread_along_and_difference_across_an_edge():
    # Inside 100, outside 20, and the boundary voxels lie inside: more of the band around them is outside.
    mask = disc((80, 70), (40, 35), 25.0, (0.7, 1.1))
    noise = np.random.default_rng(0).normal(0, 3.0, mask.shape)
    image = np.stack([np.where(mask, 100.0, 20.0), np.where(mask, 100.0, 20.0) + noise, noise])
    (found,) = case_fingerprint(image, [mask], [boundary_voxels(mask)], (0.7, 1.1)).objects
    assert found.along[0] == 0
    assert found.along[1] == pytest.approx(3.0, rel=0.3)
    assert found.across[0] == 80
    assert 60 < found.across[1] < 80
    # The difference of two normal variables: median |N(0, 2 * 9)| = 0.6745 * sqrt(2) * 3.
    assert found.across[2] == pytest.approx(0.6745 * math.sqrt(2) * 3.0, rel=0.3)
    _, (_, scale, noise_scale), _ = plan_scales([CaseFingerprint((0.7, 1.1), (found,), 3)])
    assert found.along[1] < scale < found.across[1]
    assert 2.0 < noise_scale < 4.5


def test_absent_objects_and_voxels_that_are_not_numbers():
    mask = disc((30, 25), (15, 12), 6.0, (0.7, 1.1))
    contour = boundary_voxels(mask)
    image = np.where(mask, 5.0, 1.0)[None]
    expected = case_fingerprint(image, [mask], [contour], (0.7, 1.1))
    spoilt = image.copy()
    spoilt[0, 15, 5] = np.nan
    found = case_fingerprint(spoilt, [mask, np.zeros_like(mask)], [contour, np.empty((0, 2), int)], (0.7, 1.1))
    assert found.objects == (expected.objects[0], None)
    unknown = case_fingerprint(np.full_like(image, np.nan), [mask], [contour], (0.7, 1.1))
    assert unknown.objects[0].along == unknown.objects[0].across == (0.0,)


def test_contours_that_enclose_nothing_get_the_smallest_sigma():
    line = np.zeros((5, 7, 11), dtype=bool)
    line[2, 3, 2:9] = True
    fingerprint = case_fingerprint(np.ones((1, 5, 7, 11)), None, [line], SPACING_MM)
    assert fingerprint.objects[0].radius_mm == 0
    assert plan_scales([fingerprint]) == ((1.1,), (1.0,), pytest.approx((3.3,)))


@pytest.mark.parametrize("contour", [[], [[1, 2]]])
def test_spacings_of_another_number_of_axes_are_refused(contour):
    with pytest.raises(ValueError, match="per axis of an image of 2 axes, found 3"):
        case_fingerprint(None, [np.ones((4, 5), dtype=bool)], [contour], SPACING_MM)


def test_fingerprints_survive_json():
    fingerprint = case((3.0, 0.7, 1.1), (8.0, (4.0, 1.0), (9.0, 2.0)), None)
    assert CaseFingerprint.from_dict(json.loads(json.dumps(fingerprint.to_dict()))) == fingerprint


def test_boundary_voxels_by_hand():
    mask = np.zeros((2, 5, 6), dtype=bool)
    mask[0, 0:4, 1:5] = True
    mask[1, 2, 3] = True
    found = boundary_voxels(mask).astype(int)
    assert found[0].tolist() == [
        [0, 1, 1, 1, 1, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    # Slices are drawn one by one: a voxel above background is no boundary for that.
    assert found[1].sum() == 1
    np.testing.assert_array_equal(boundary_voxels(mask[0]), found[0].astype(bool))
    with pytest.raises(ValueError, match="two or three axes"):
        boundary_voxels(np.ones(3, dtype=bool))


def test_masks_of_another_shape_than_the_image_are_refused():
    mask = np.zeros((4, 7), bool)
    mask[1:3, 2:5] = True
    image = np.zeros((1, 4, 8))
    with pytest.raises(ValueError, match=r"mask 0 has shape \(4, 7\), but the image channels \(4, 8\)"):
        case_fingerprint(image, [mask], [boundary_voxels(mask)], (0.7, 1.1))


def test_differences_across_are_those_within_three_voxels_in_the_slice():
    """The contour is the first column of slice 0. Columns are 2 mm apart: the median of 10, 20 and 30.

    What lies in the fourth column, and 1 mm away in the next slice, does not count.
    """
    image = np.full((1, 2, 6, 5), 1000.0)
    image[0, 0] = [0, 10, 20, 30, 1000]
    contour = np.zeros((2, 6, 5), bool)
    contour[0, :, 0] = True
    (found,) = case_fingerprint(image, None, [contour], (1.0, 1.0, 2.0)).objects
    assert found.across == (20.0,)
