from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_wsl.conversion.between import CERTAINTY, Interpolation, _signed_distance_mm, interpolate

SPACING_MM = (3.0, 0.7, 1.1)

Mask = NDArray[np.bool_]


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> Mask:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2)


def dice(a: Mask, b: Mask) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def from_slices(truth: Mask, slices: list[int], **given: Any) -> Interpolation:
    """Interpolate between some slices of a mask."""
    known = np.zeros(len(truth), dtype=np.bool_)
    known[slices] = True
    return interpolate(truth & known[:, None, None], known, given.pop("spacing_mm_zyx", (1.0, 1.0, 1.0)), **given)


def test_shape_that_does_not_change_is_repeated_and_only_its_contour_is_uncertain() -> None:
    shape = disc((21, 27), (10, 12), 6)
    found = from_slices(np.stack([shape] * 5), [0, 4], spacing_mm_zyx=(3.0, 1.0, 1.0))
    np.testing.assert_array_equal(found.mask, [shape] * 5)
    (gap,) = found.gaps
    assert (gap.first, gap.last, gap.distance_mm, gap.shift_mm, gap.change_mm) == (0, 4, 12.0, 0.0, 0.0)
    # 0.13 of a voxel, so the nearest voxels, half a voxel off the contour, have log-odds 0.5 / 0.13 on either side.
    assert gap.uncertainty_mm == pytest.approx(0.13)
    assert gap.gate_mm(0.95) == pytest.approx(0.13 * math.log(19), rel=1e-6)
    assert found.probability[2, 10, 12 + 6] == pytest.approx(1 / (1 + math.exp(-0.5 / 0.13)), rel=1e-5)
    assert found.probability[2, 10, 12 + 7] == pytest.approx(1 / (1 + math.exp(0.5 / 0.13)), rel=1e-5)


def test_shift_in_mm_widens_the_gate() -> None:
    truth = np.zeros((5, 20, 24), dtype=np.bool_)
    truth[0, 4:12, 5:14] = truth[4, 7:15, 7:16] = True  # 3 rows and 2 columns further
    (gap,) = from_slices(truth, [0, 4], spacing_mm_zyx=SPACING_MM).gaps
    shift_mm = math.hypot(3 * 0.7, 2 * 1.1)
    assert gap.shift_mm == pytest.approx(shift_mm)
    assert gap.change_mm == pytest.approx(0, abs=1e-5)
    assert gap.uncertainty_mm == pytest.approx(0.13 * math.sqrt(0.7 * 1.1) + 0.035 * shift_mm)


def test_small_object_that_moves_by_more_than_its_size_is_followed() -> None:
    truth = np.stack([disc((17, 31), (8, 6 + 4 * z), 3) for z in range(5)])
    found = from_slices(truth, [0, 4])
    np.testing.assert_array_equal(found.mask, truth)  # discs at both ends do not overlap


def test_bulge_between_equal_slices_comes_from_the_slices_beyond() -> None:
    # A ball's slices at -6 and 6 are equal; those at -18 and 18 tell that it is thicker between them.
    z, y, x = np.ogrid[-20:21, -30:31, -31:32]
    ball = np.asarray(z**2 + y**2 + x**2 <= 24.6**2)
    with_others, alone = from_slices(ball, [2, 14, 26, 38]).mask, from_slices(ball, [14, 26]).mask
    np.testing.assert_array_equal(alone[20], ball[14])
    assert np.count_nonzero(with_others[20]) > np.count_nonzero(ball[14])
    assert dice(with_others[20], ball[20]) > dice(alone[20], ball[20])


def test_cone_grows_evenly() -> None:
    truth = np.stack([disc((31, 33), (15, 16), 4 + 2 * z) for z in range(5)])
    found = from_slices(truth, [0, 4])
    for z in range(1, 4):
        radius = math.sqrt(np.count_nonzero(found.mask[z]) / math.pi)
        assert radius == pytest.approx(4 + 2 * z, abs=0.4)
    # The two contours are 8 mm apart, each known to half a voxel.
    assert found.gaps[0].change_mm == pytest.approx(8, abs=1)


def test_object_that_branches() -> None:
    shape = (25, 41)
    left, right = disc(shape, (12, 12), 5), disc(shape, (12, 28), 5)
    trunk = np.zeros(shape, dtype=np.bool_)
    trunk[8:17, 8:33] = True
    found = from_slices(np.stack([trunk, trunk, trunk, left | right, left | right]), [0, 4]).mask
    assert found[1, 12, 20]
    assert not found[3, 12, 20]
    assert found[1:4, 12, [12, 28]].all()


def test_part_that_ends_shrinks_and_leaves_the_others_alone() -> None:
    shape = (21, 61)
    stays, ends = disc(shape, (10, 9), 5), disc(shape, (10, 50), 5)
    truth = np.stack([stays | ends] * 4 + [stays] * 5)
    found = from_slices(truth, [0, 8])
    np.testing.assert_array_equal(found.mask[:, :, :30], truth[:, :, :30])
    areas = np.count_nonzero(found.mask[:, :, 30:], axis=(1, 2))
    assert (np.diff(areas) <= 0).all()
    assert areas[1] > 0.6 * areas[0]
    assert (areas[4:] <= 1).all()  # half way, by rule
    assert found.gaps[0].shift_mm == 0


def test_object_shrinks_towards_a_slice_without_it() -> None:
    shape = disc((19, 23), (9, 11), 7)
    truth = np.stack([shape & False, *[shape] * 9, shape & False])
    found = from_slices(truth, [0, 4, 6, 10])
    areas = np.count_nonzero(found.mask, axis=(1, 2)).tolist()
    assert areas == areas[::-1]
    assert areas[0] == areas[1] == 0 < areas[2] < areas[3] < areas[4]  # it ends two thirds of the way
    assert [(gap.first, gap.last) for gap in found.gaps] == [(0, 4), (4, 6), (6, 10)]


def test_object_that_is_absent_for_a_while() -> None:
    shape = disc((19, 23), (9, 11), 6)
    none = shape & False
    found = from_slices(np.stack([shape, *[none] * 7, shape, *[none] * 4]), [0, 4, 8, 12])
    areas = np.count_nonzero(found.mask, axis=(1, 2))
    assert areas[0] > areas[1] > areas[2] > areas[3] == areas[4] == 0  # from the border of the image on
    assert areas[4] == areas[12] == 0 <= areas[5] < areas[6] < areas[7] <= areas[8]
    np.testing.assert_array_equal(found.mask[5:8], found.mask[11:8:-1])


@pytest.mark.parametrize("slices", [[0, 8], [0, 1, 7, 8], [0, 1, 10, 11], [0, 8, 9], [0, 1, 2, 11]])
@pytest.mark.parametrize("length", [12, 13])
def test_shape_that_does_not_change_is_repeated_whatever_the_distances(slices: list[int], length: int) -> None:
    """Also if it ends abruptly."""
    shape = disc((21, 23), (9, 11), 6)
    last = slices[-1]
    truth = np.stack([shape & (z <= last) for z in range(length)])
    found = from_slices(truth, sorted({*slices, *range(last + 1, length)}))
    np.testing.assert_array_equal(found.mask[: last + 1], truth[: last + 1])


def test_what_a_rounded_end_would_add_is_not_sure() -> None:
    shape = disc((43, 45), (20, 23), 14)
    truth = np.stack([shape & False, *[shape] * 11, shape & False])
    found = from_slices(truth, [0, 4, 8, 12])
    between = slice(5, 8)
    assert np.count_nonzero(found.mask[between]) > 1.1 * np.count_nonzero(truth[between])
    assert not (found.confident()[between] & found.mask[between] & ~truth[between]).any()
    assert (found.confident()[between] & truth[between]).any()


def test_end_of_a_large_part_does_not_widen_a_small_one() -> None:
    shape = (61, 71)
    small = disc(shape, (9, 60), 3)
    both = disc(shape, (32, 24), 20) | small
    found = from_slices(np.stack([both & False, *[both] * 15, both & False]), [0, 4, 8, 12, 16])
    areas = np.count_nonzero(found.mask[:, :18, 50:], axis=(1, 2))
    assert areas.max() <= 2 * np.count_nonzero(small)


@pytest.mark.parametrize("axis", [1, 2])
def test_parts_of_any_depth_are_flipped_with_the_image(axis: int) -> None:
    """Voxels half way between two parts belong to neither of them."""
    shape = disc((31, 45), (12, 11), 8) | disc((31, 45), (14, 29), 4)
    truth = np.stack([shape & False, shape, shape & False, shape, shape, shape & False])
    slices = [0, 1, 3, 5]
    found = from_slices(truth, slices)
    flipped = from_slices(np.flip(truth, axis), slices)
    np.testing.assert_allclose(np.flip(flipped.probability, axis), found.probability, atol=1e-4)


def test_straight_oblique_object_stays_straight() -> None:
    """On the slices beside its ends, of which those that do not show it know no place."""
    shape = (21, 61)
    truth = np.stack([disc(shape, (10, 14 + 2 * z), 5) & (3 <= z <= 19) for z in range(23)])
    found = from_slices(truth, [0, 5, 10, 15, 20])
    for z in range(5, 16):
        assert np.nonzero(found.mask[z])[1].mean() == pytest.approx(14 + 2 * z, abs=0.3)


@pytest.mark.parametrize("step", [3, 5])
@pytest.mark.parametrize("tilt", [0.0, 0.4])
def test_rounded_ends(step: int, tilt: float) -> None:
    """An ellipsoid, every k-th slice of the image drawn, from each of the first k on."""
    z, y, x = np.ogrid[-17:18, -22:23, -21:22]
    truth = (z / 13.3) ** 2 + ((y - tilt * z) / 14.2) ** 2 + (x / 17.7) ** 2 <= 1
    shown = truth.any(axis=(1, 2))
    volumes = np.zeros((2, 2))  # before the last slice that was drawn with the object, and behind it: true, found
    wrong = 0
    for start in range(step):
        slices = np.arange(start, len(truth), step)
        found = from_slices(truth, slices.tolist())
        outermost = slices[shown[slices]][[0, -1]]
        for gap in found.gaps:
            between = slice(gap.first + 1, gap.last)
            if {gap.first, gap.last} & set(outermost.tolist()):
                behind = int(not (shown[gap.first] and shown[gap.last]))
                volumes[behind] += np.count_nonzero(truth[between]), np.count_nonzero(found.mask[between])
                wrong += np.count_nonzero(found.confident()[between] & (found.mask[between] != truth[between]))
    assert volumes[0, 1] == pytest.approx(volumes[0, 0], rel=0.05)
    assert volumes[1, 1] == pytest.approx(volumes[1, 0], rel=0.25)
    assert wrong < 0.005 * volumes[:, 0].sum()


def test_hole_stays_a_hole() -> None:
    shape = disc((23, 27), (11, 13), 9) & ~disc((23, 27), (11, 13), 4)
    np.testing.assert_array_equal(from_slices(np.stack([shape] * 3), [0, 2]).mask[1], shape)


@pytest.mark.parametrize("slices", [[], [2], [0, 1, 2, 3, 4]])
def test_nothing_between_known_slices(slices: list[int]) -> None:
    truth = np.random.default_rng(0).random((5, 7, 11)) < 0.5
    found = from_slices(truth, slices)
    assert found.gaps == ()
    expected = np.full(truth.shape, 0.5)
    expected[slices] = truth[slices]
    np.testing.assert_array_equal(found.probability, expected)
    np.testing.assert_array_equal(found.confident().all(axis=(1, 2)), np.isin(range(5), slices))
    assert not found.mask[np.setdiff1d(range(5), slices)].any()


@pytest.mark.parametrize("shown", [[], [6]])
def test_slices_between_two_without_the_object_stay_unknown(shown: list[int]) -> None:
    """A part of the object may lie wholly between them, whether or not the object is drawn elsewhere."""
    truth = np.zeros((8, 7, 11), dtype=np.bool_)
    truth[shown, 2:5, 3:8] = True
    found = from_slices(truth, [0, 4, 6, 7])
    assert (found.probability[1:4] == 0.5).all()
    assert [(gap.first, gap.last) for gap in found.gaps] == ([(4, 6)] if shown else [])
    assert (found.probability[5] != 0.5).all() == bool(shown)


@pytest.mark.parametrize("known", [[True, False, True], [True, False, False]])
def test_what_is_drawn_on_an_unknown_slice_is_inside(known: list[bool]) -> None:
    mask = np.zeros((3, 7, 11), dtype=np.bool_)
    mask[1, 2, 3] = True
    assert interpolate(mask, known, SPACING_MM).probability[1, 2, 3] == 1


def test_object_that_fills_the_image() -> None:
    found = from_slices(np.ones((5, 7, 11), dtype=np.bool_), [0, 4], spacing_mm_zyx=SPACING_MM)
    assert found.mask.all()


def test_object_at_the_border_of_the_image() -> None:
    truth = np.zeros((5, 17, 19), dtype=np.bool_)
    truth[:, :6, 12:] = True
    np.testing.assert_array_equal(from_slices(truth, [0, 4]).mask, truth)


def test_one_voxel_per_slice() -> None:
    truth = np.zeros((3, 7, 11), dtype=np.bool_)
    truth[:, 3, 5] = True
    np.testing.assert_array_equal(from_slices(truth, [0, 2], spacing_mm_zyx=SPACING_MM).mask, truth)


def square_that_bulges() -> tuple[Mask, NDArray[np.float32]]:
    """Return a square that is larger by two voxels on the middle one of five slices, and a noisy image of it."""
    truth = np.zeros((5, 31, 33), dtype=np.bool_)
    truth[:, 10:21, 11:22] = True
    truth[2, 8:23, 9:24] = True
    # The contour moves a little between the known slices, so that the shape alone is not sure of it.
    truth[4, 20] = False
    image = np.random.default_rng(0).normal(100, 8, truth.shape) + 60 * truth
    return truth, image[np.newaxis].astype(np.float32)


def test_image_shows_where_the_contour_is() -> None:
    # The more the known slices differ, the less the shape alone is sure, and the more the image counts.
    truth, image = square_that_bulges()
    truth[0, :, :18] = False
    with_image, without = from_slices(truth, [0, 4], image=image), from_slices(truth, [0, 4])
    assert dice(with_image.mask[2], truth[2]) > dice(without.mask[2], truth[2]) + 0.02


def test_intensities_are_compared_along_the_path_of_the_object() -> None:
    # The object moves by more than the window in which intensities are compared.
    truth, image = square_that_bulges()
    wide = ((0, 0), (0, 0), (0, 48))
    truth = np.stack([np.roll(one, 12 * z, axis=1) for z, one in enumerate(np.pad(truth, wide))])
    rolled = np.stack([np.roll(one, 12 * z, axis=1) for z, one in enumerate(np.pad(image[0], wide, mode="reflect"))])
    with_image, without = from_slices(truth, [0, 4], image=rolled[np.newaxis]), from_slices(truth, [0, 4])
    assert without.gaps[0].shift_mm == pytest.approx(48, abs=1)
    assert dice(with_image.mask[2], truth[2]) > dice(without.mask[2], truth[2]) + 0.02


def test_image_may_be_given_in_any_unit_and_twice() -> None:
    truth, image = square_that_bulges()
    expected = from_slices(truth, [0, 4], image=image).probability
    assert np.abs(expected - from_slices(truth, [0, 4]).probability).max() > 0.1
    for other in (image * 0.01 - 7, -image, np.concatenate([image, image])):
        np.testing.assert_allclose(from_slices(truth, [0, 4], image=other).probability, expected, atol=1e-3)


def test_contrast_too_small_for_the_rest_of_the_image() -> None:
    """Single precision holds no number that is so many times larger than the spread of the intensities nearby."""
    truth, image = square_that_bulges()
    image = np.float32(1e-40) * image
    image[0, 2, 15, 15] = 100
    assert np.isfinite(from_slices(truth, [0, 4], image=image).probability).all()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_image_that_says_nothing(value: float) -> None:
    truth, image = square_that_bulges()
    expected = from_slices(truth, [0, 4]).probability
    found = from_slices(truth, [0, 4], image=np.full_like(image, value)).probability
    np.testing.assert_array_equal(found, expected)


def test_voxels_without_a_number_tell_nothing_and_spoil_nothing() -> None:
    truth, image = square_that_bulges()
    spoilt = image.copy()
    spoilt[0, 2, 9] = np.inf
    spoilt[0, 0, 15, 15] = np.nan
    found = from_slices(truth, [0, 4], image=spoilt).probability
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[2, 9], from_slices(truth, [0, 4]).probability[2, 9])
    rows = np.setdiff1d(range(31), [9])
    np.testing.assert_allclose(found[2, rows], from_slices(truth, [0, 4], image=image).probability[2, rows], atol=0.1)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 12), st.floats(0.2, 3), st.floats(0.2, 3))
def test_signed_distance_is_that_of_scipy(seed: int, height: int, width: int, y_mm: float, x_mm: float) -> None:
    rng = np.random.default_rng(seed)
    shapes = rng.random((3, height, width)) < rng.random((3, 1, 1))
    shapes[:, rng.integers(height), rng.integers(width)] = True
    found = _signed_distance_mm(shapes, y_mm, x_mm)
    for shape, signed_mm in zip(shapes, found, strict=True):
        padded = np.pad(shape, 1)
        inside, outside = (ndimage.distance_transform_edt(side, sampling=(y_mm, x_mm)) for side in (padded, ~padded))
        half_voxel_mm = math.sqrt(y_mm * x_mm) / 2
        expected = np.where(padded, inside - half_voxel_mm, half_voxel_mm - outside)[1:-1, 1:-1]
        np.testing.assert_allclose(signed_mm, expected, rtol=1e-6, atol=1e-5)


@st.composite
def annotations(draw: st.DrawFn) -> tuple[Mask, Mask, NDArray[np.float32]]:
    """Draw smooth random masks (z, y, x), known slices (z,) and images (1, z, y, x)."""
    shape = draw(st.tuples(st.integers(1, 8), st.integers(1, 12), st.integers(1, 15)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = rng.normal(size=shape)
    smooth = sum(np.roll(noise, shift, axis) for axis in (1, 2) for shift in (-1, 0, 1))
    mask = np.asarray(smooth > draw(st.sampled_from([-1.0, 0.0, 2.0])))
    known = np.array(draw(st.lists(st.booleans(), min_size=shape[0], max_size=shape[0])))
    mask &= known[:, None, None]
    image = (smooth + rng.normal(size=shape))[np.newaxis].astype(np.float32)
    return mask, known, image


@settings(max_examples=60)
@given(annotations(), st.sampled_from([0, 1, 2]), st.booleans())
def test_mirrored_volumes_give_mirrored_results(
    case: tuple[Mask, Mask, NDArray[np.float32]], axis: int, with_image: bool
) -> None:
    mask, known, image = case
    found = interpolate(mask, known, SPACING_MM, image if with_image else None)
    mirrored = interpolate(
        np.flip(mask, axis),
        known[::-1] if axis == 0 else known,
        SPACING_MM,
        np.flip(image, axis + 1) if with_image else None,
    )
    np.testing.assert_allclose(np.flip(mirrored.probability, axis), found.probability, atol=2e-3)


@settings(max_examples=60)
@given(annotations(), st.floats(0.1, 10))
def test_invariants(case: tuple[Mask, Mask, NDArray[np.float32]], scale: float) -> None:
    mask, known, image = case
    found = interpolate(mask, known, SPACING_MM, image)
    np.testing.assert_array_equal(found.probability[known], mask[known])
    assert (found.probability >= 0).all()
    assert (found.probability <= 1).all()
    swapped = interpolate(mask.swapaxes(1, 2), known, (3.0, 1.1, 0.7), image.swapaxes(2, 3))
    np.testing.assert_allclose(swapped.probability.swapaxes(1, 2), found.probability, atol=2e-3)
    scaled = interpolate(mask, known, [scale * spacing for spacing in SPACING_MM], image)
    np.testing.assert_allclose(scaled.probability, found.probability, atol=2e-3)
    for gap in found.gaps:
        assert known[[gap.first, gap.last]].all()
        assert not known[gap.first + 1 : gap.last].any()
        assert gap.uncertainty_mm > 0


@settings(max_examples=30)
@given(annotations(), st.floats(0.6, 0.99))
def test_confident_voxels_are_those_outside_the_gate(
    case: tuple[Mask, Mask, NDArray[np.float32]], certainty: float
) -> None:
    found = interpolate(*case[:2], SPACING_MM)
    odds = found.probability / np.maximum(1 - found.probability, 1e-12)
    least = certainty / (1 - certainty)
    expected = (odds > least * 1.0001) | (odds < 0.9999 / least)
    undecided = (np.abs(odds / least - 1) < 1e-3) | (np.abs(odds * least - 1) < 1e-3)
    np.testing.assert_array_equal(found.confident(certainty)[~undecided], expected[~undecided])


@pytest.mark.parametrize(
    ("given_wrong", "message"),
    [
        ({"mask": np.zeros((7, 11))}, r"a mask \(z, y, x\)"),
        ({"known": [True] * 4}, r"one value per slice, not \(5, 7, 11\) and \(4,\)"),
        ({"spacing_mm_zyx": (1.0, 0.0, 1.0)}, "positive spacings"),
        ({"spacing_mm_zyx": (1.0, 1.0)}, "positive spacings"),
        ({"partial": [False] * 4}, r"tells whether it is partial, not \(4,\)"),
        ({"image": np.zeros((5, 7, 11))}, r"an image \(C, 5, 7, 11\)"),
    ],
)
def test_arrays_that_do_not_fit(given_wrong: dict[str, Any], message: str) -> None:
    right = {"mask": np.zeros((5, 7, 11)), "known": [True] * 5, "spacing_mm_zyx": SPACING_MM}
    with pytest.raises(ValueError, match=message):
        interpolate(**(right | given_wrong))


@pytest.mark.parametrize("certainty", [0.5, 1.0])
def test_certainty_must_leave_something(certainty: float) -> None:
    with pytest.raises(ValueError, match=r"above 0\.5 and below 1"):
        from_slices(np.ones((1, 2, 3), dtype=np.bool_), [0]).confident(certainty)


def test_every_fourth_slice_of_hippocampi() -> None:
    data = os.environ.get("NNUNET_WSL_TEST_DATA")
    if not data:
        pytest.skip("NNUNET_WSL_TEST_DATA is not set")
    import SimpleITK as sitk

    right, confident, total = 0, 0, 0
    for label_file in sorted(Path(data, "hippocampus", "labels").glob("*.nii.gz"))[60:75]:
        labels = sitk.GetArrayFromImage(sitk.ReadImage(label_file))
        image = sitk.GetArrayFromImage(sitk.ReadImage(label_file.parents[1] / "images" / label_file.name))
        for label in (1, 2):
            truth = labels == label
            shown = np.flatnonzero(truth.any(axis=(1, 2)))
            drawn = shown[::4]
            found = from_slices(truth, drawn.tolist(), image=image[np.newaxis])
            between = np.setdiff1d(np.arange(drawn[0], drawn[-1]), drawn)
            box = (between, *(slice(axis.min() - 3, axis.max() + 4) for axis in np.nonzero(truth)[1:]))
            sure = found.confident(CERTAINTY)[box[0]][:, box[1], box[2]]
            correct = (found.mask == truth)[box[0]][:, box[1], box[2]]
            right += np.count_nonzero(correct & sure)
            confident += np.count_nonzero(sure)
            total += sure.size
    assert right / confident >= 0.996
    assert confident / total >= 0.85


def test_a_shift_of_less_than_a_voxel_counts():
    truth = np.zeros((5, 20, 24), dtype=np.bool_)
    truth[0, 4:12, 5:14] = truth[4, 4:12, 5:15] = True  # the centroid moves by half a column
    (gap,) = from_slices(truth, [0, 4], spacing_mm_zyx=SPACING_MM).gaps
    assert gap.shift_mm == pytest.approx(0.55)


def log_odds(probability):
    return np.log(probability.astype(float)) - np.log1p(-probability.astype(float))


def test_what_the_image_adds_is_what_the_notes_say():
    """The same shape on both known slices, so that nothing moves; intensities that rise from slice to slice."""
    shape = disc((25, 27), (12, 13), 6)
    truth = np.stack([shape] * 4)
    rng = np.random.default_rng(0)
    image = rng.normal(scale=0.5, size=truth.shape) + 3 * truth + 0.3 * np.arange(4)[:, None, None]
    image[1:3] = rng.uniform(-2, 5, (2, *shape.shape))
    found, without = (
        from_slices(truth, [0, 3], spacing_mm_zyx=SPACING_MM, image=given).probability for given in (image[None], None)
    )
    voxel_mm = math.sqrt(0.7 * 1.1)
    near = np.abs(_signed_distance_mm(truth[:1], 0.7, 1.1)[0]) < 4 * voxel_mm
    values = (image - image[[0, 3]][:, near].mean()) / image[[0, 3]][:, near].std()

    def windowed(weights):
        return ndimage.gaussian_filter(weights, 2 * voxel_mm / np.array([0.7, 1.1]), mode="constant", truncate=3)

    for z in (1, 2):
        log_densities = []
        for side in (near & shape, near & ~shape):
            count, total, squares = (
                (1 - z / 3) * windowed(side * values[0] ** n) + z / 3 * windowed(side * values[3] ** n)
                for n in range(3)
            )
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = total / count
                variance = squares / count - mean**2 + 0.05
            log_densities.append(-0.5 * ((values[z] - mean) ** 2 / variance + np.log(variance)))
        evidence = log_densities[0] - log_densities[1]
        open_ = np.abs(log_odds(np.clip(without[z], 1e-7, 1 - 1e-7))) < 7.9
        assert (np.abs(evidence[open_]) > 3).any()
        assert (np.abs(evidence[open_]) < 3).sum() > 10
        expected = log_odds(without[z][open_]) + 0.66 * np.clip(evidence[open_], -3, 3)
        np.testing.assert_allclose(log_odds(found[z][open_]), expected, atol=0.02)
