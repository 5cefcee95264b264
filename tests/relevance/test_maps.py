from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from relevance.strategies import masks_with_spacing

from nnunet_wsl.contours import PlacedContour
from nnunet_wsl.errors import InputError
from nnunet_wsl.relevance import RelevanceSettings, fuse, nearest_contour, relevance_maps, relevance_maps_on_device
from nnunet_wsl.relevance.settings import RANGES

SHAPE = (5, 7, 11)
SPACING_MM = (3.0, 0.7, 1.1)

KERNELS = {
    "gaussian": lambda u: np.exp(-(u**2) / 2),
    "exponential": lambda u: np.exp(-u),
    "linear": lambda u: np.maximum(0, 1 - u),
}


def one_object(**values):
    return RelevanceSettings(**({"sigma_mm": (2.0,), "cutoff_mm": (6.0,)} | values))


def by_definition(image, mask, spacing_mm, wanted):
    """The formula of the method, voxel by voxel, from the reference voxels."""
    distance_mm, index = nearest_contour(mask, spacing_mm, cutoff_mm=wanted.cutoff_mm[0], search=wanted.search)
    within = np.isfinite(distance_mm)
    kernel = KERNELS[wanted.kernel]
    relevance = np.where(within, 1.0, 0.0)
    if wanted.mode != "intensity":
        relevance[within] *= kernel(distance_mm[within].astype(float) / wanted.sigma_mm[0])
    if wanted.mode != "distance":
        reference = [channel[tuple(index * within)].astype(float) for channel in image]
        squares = [
            ((channel.astype(float) - q) / scale) ** 2
            for channel, q, scale in zip(image, reference, wanted.intensity_scale, strict=True)
        ]
        relevance[within] *= kernel(np.sqrt(np.mean(squares, axis=0)))[within]
    return relevance


@pytest.mark.parametrize("mode", ["distance", "intensity", "both"])
@pytest.mark.parametrize("kernel", list(KERNELS))
@settings(max_examples=25)
@given(
    mask_spacing=masks_with_spacing(),
    sigma_mm=st.floats(0.05, 20.0),
    cutoff_mm=st.one_of(st.just(math.inf), st.floats(0.1, 40.0)),
    scales=st.lists(st.floats(0.1, 300.0), min_size=1, max_size=3),
    seed=st.integers(0, 999),
    search=st.sampled_from(["volume", "slice"]),
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.float32, np.float64]),
)
def test_maps_are_the_definition(mode, kernel, mask_spacing, sigma_mm, cutoff_mm, scales, seed, search, dtype):
    mask, spacing_mm = mask_spacing
    image = np.random.default_rng(seed).integers(0, 255, (len(scales), *mask.shape)).astype(dtype)
    wanted = RelevanceSettings(
        mode=mode,
        kernel=kernel,
        search=search,
        sigma_mm=(sigma_mm,),
        cutoff_mm=(cutoff_mm,),
        intensity_scale=tuple(scales),
    )
    (found,) = relevance_maps(image, [mask], spacing_mm, wanted)
    assert found.dtype == np.float32
    assert found.shape == mask.shape
    assert (found[mask] == 1).all()
    assert found.min() >= 0
    assert found.max() <= 1
    distance_mm, _ = nearest_contour(mask, spacing_mm, cutoff_mm=cutoff_mm, search=search)
    assert (found[np.isinf(distance_mm)] == 0).all()
    np.testing.assert_allclose(found, by_definition(image, mask, spacing_mm, wanted), atol=2e-6)


def test_hand_derived_values_of_the_three_modes():
    # One row: the contour at 0, spacing 2 mm, voxels at 2 mm and 4 mm with differences 30 and 10.
    image = np.array([[[[100, 130, 90]]]], dtype=np.uint8)
    contour = np.array([[0, 0, 0]])
    spacing_mm = (5.0, 5.0, 2.0)

    def row(**values):
        wanted = one_object(kernel="linear", sigma_mm=(8.0,), cutoff_mm=(20.0,), intensity_scale=(40.0,), **values)
        return relevance_maps(image, [contour], spacing_mm, wanted).ravel().tolist()

    assert row(mode="distance") == [1, 0.75, 0.5]
    assert row(mode="intensity") == [1, 0.25, 0.75]
    assert row(mode="both") == [1, 0.1875, 0.375]


def test_channels_count_by_the_root_of_their_mean_square():
    image = np.zeros((2, 1, 2))
    image[0, 0, 1], image[1, 0, 1] = 3.0, 40.0
    wanted = one_object(mode="intensity", kernel="linear", intensity_scale=(10.0, 100.0), cutoff_mm=(math.inf,))
    (found,) = relevance_maps(image, [np.array([[0, 0]])], (1.0, 1.0), wanted)
    assert found[0, 1] == pytest.approx(1 - math.sqrt((0.3**2 + 0.4**2) / 2))


def test_unsigned_integers_do_not_wrap_around():
    image = np.array([[[10, 250]]], dtype=np.uint8)
    wanted = one_object(mode="intensity", kernel="linear", intensity_scale=(480.0,), cutoff_mm=(math.inf,))
    for contour in ([[0, 0]], [[0, 1]]):
        (found,) = relevance_maps(image, [contour], (1.0, 1.0), wanted)
        assert sorted(found.ravel()) == [0.5, 1.0]


def test_differences_too_large_for_the_number_type_mean_no_relevance():
    image = np.array([[[-3e38, 3e38]]], dtype=np.float32)
    wanted = one_object(mode="both", intensity_scale=(1.0,))
    (found,) = relevance_maps(image, [[[0, 0]]], (1.0, 1.0), wanted)
    assert found.tolist() == [[1, 0]]


@pytest.mark.parametrize("mode", ["distance", "intensity", "both"])
@pytest.mark.parametrize("end", [0, 1])
def test_at_the_ends_of_the_ranges_the_relevance_is_1_on_the_contour(mode, end):
    """Off it, with a distance of 0.7 mm and a difference of 5, it has fallen to 0, or not at all."""
    scales = {name: (ends[end],) for name, ends in RANGES.items()}
    contour = np.zeros((1, 2, 3), bool)
    contour[0, 0] = True
    image = np.where(contour, np.float32(2), np.float32(7))[None]
    (relevance,) = relevance_maps(
        image, [contour], (3.0, 0.7, 1.1), one_object(mode=mode, cutoff_mm=(math.inf,), **scales)
    )
    np.testing.assert_array_equal(relevance, np.where(contour, 1, end))


def test_an_object_without_contour_has_no_relevance_and_changes_no_other():
    rng = np.random.default_rng(0)
    mask = rng.random(SHAPE) < 0.05
    three = RelevanceSettings(sigma_mm=(1.0, 2.0, 3.0), cutoff_mm=(3.0, 6.0, 9.0))
    found = relevance_maps(None, [np.empty((0, 3), dtype=int), mask, []], SPACING_MM, three)
    assert (found[[0, 2]] == 0).all()
    np.testing.assert_array_equal(found[1:2], relevance_maps(None, [mask], SPACING_MM, one_object()))


@pytest.mark.parametrize("shape", [(0, 7, 11), (5, 0, 11), (7, 0), (0, 0)])
@pytest.mark.parametrize("mode", ["distance", "intensity", "both"])
def test_an_image_without_voxels_has_a_map_without_voxels(shape, mode):
    wanted = one_object(mode=mode, intensity_scale=(1.0,))
    for nothing in ([], np.zeros(shape, dtype=bool)):
        found = relevance_maps(np.zeros((1, *shape)), [nothing], SPACING_MM[-len(shape) :], wanted)
        assert found.shape == (1, *shape)


def test_an_image_of_two_axes_is_an_image_of_one_slice():
    rng = np.random.default_rng(0)
    mask, image = rng.random((7, 11)) < 0.1, rng.normal(size=(2, 7, 11))
    wanted = one_object(mode="both", intensity_scale=(1.0, 2.0))
    flat = relevance_maps(image, [mask], SPACING_MM[1:], wanted)
    thick = relevance_maps(image[:, None], [mask[None]], SPACING_MM, wanted)
    assert flat.shape == (1, 7, 11)
    np.testing.assert_array_equal(flat, thick[:, 0])


def test_polylines_give_the_distance_between_voxel_centres():
    # A line along y at x = 2.25: 0.25 * 1.1 mm from the column x = 2 and 0.75 * 1.1 mm from x = 3.
    line = PlacedContour("GTV", "GTV", False, 2, np.array([[-1.0, 2.25], [8.0, 2.25]]))
    (found,) = relevance_maps(None, [[line]], SPACING_MM, one_object(kernel="linear"), shape=SHAPE)
    assert found[2, :, 2] == pytest.approx(1 - 0.275 / 2)
    assert found[2, :, 3] == pytest.approx(1 - 0.825 / 2)
    assert (found[[1, 3]] == 0).all()


@pytest.mark.parametrize(
    ("mode", "image", "contours", "message"),
    [
        ("intensity", None, [[[0, 0, 0]]], "needs the image"),
        ("both", np.zeros((2, *SHAPE)), [[[0, 0, 0]]], "1 for 2 channels"),
        ("distance", None, [[[0, 0, 0]]] * 2, "scales for 1 objects, but contours of 2"),
        ("both", np.full((1, *SHAPE), np.nan), [[[0, 0, 0]]], "within 6 mm of the contours that are not finite"),
        ("intensity", np.full((1, *SHAPE), -np.inf), [[[0, 0, 0]]], "not finite"),
        (
            "both",
            np.zeros((1, *SHAPE)),
            [[PlacedContour("a", "a", True, 0, np.eye(2))]],
            "object 1 is given as polylines",
        ),
    ],
)
def test_input_that_makes_no_sense_is_refused(mode, image, contours, message):
    wanted = one_object(mode=mode, intensity_scale=(1.0,))
    with pytest.raises(InputError, match=message):
        relevance_maps(image, contours, SPACING_MM, wanted, shape=SHAPE)


def test_intensities_that_are_not_numbers_are_counted_by_channel_and_object():
    # Within 1.2 mm of a voxel lie its neighbours along y, at 0.7 mm, and along x, at 1.1 mm.
    image = np.zeros((2, *SHAPE))
    image[0, 0, 0, 0], image[0, 0, 1, 0], image[1, 2, 2, 4] = np.nan, np.inf, -np.inf
    wanted = RelevanceSettings(mode="both", sigma_mm=(1.0, 1.0), cutoff_mm=(1.2, 1.2), intensity_scale=(1.0, 1.0))
    with pytest.raises(InputError) as caught:
        relevance_maps(image, [[[0, 0, 0], [2, 2, 6]], [[2, 2, 3]]], SPACING_MM, wanted)
    first, second = caught.value.problems
    assert "channel 0 has 2 voxels within 1.2 mm of the contours of object 1" in first
    assert "channel 1 has 1 voxels within 1.2 mm of the contours of object 2" in second


@pytest.mark.parametrize("maps", [relevance_maps, partial(relevance_maps_on_device, device="cpu")])
@pytest.mark.parametrize("mode", ["intensity", "both"])
def test_intensities_that_are_not_numbers_do_not_matter_beyond_the_cut_off(mode, maps):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    contour = [[2, 3, 5], [1, 3, 5]]
    wanted = one_object(mode=mode, cutoff_mm=(3.5,), intensity_scale=(1.0, 2.0))
    distance_mm, _ = nearest_contour(contour, SPACING_MM, cutoff_mm=3.5, shape=SHAPE)
    holed = np.where(np.isfinite(distance_mm), image, rng.choice([np.nan, np.inf, -np.inf], SHAPE)).astype(np.float32)
    assert not np.isfinite(holed).all(axis=(1, 2, 3)).any()
    expected = np.asarray(maps(image, [contour], SPACING_MM, wanted))
    np.testing.assert_array_equal(np.asarray(maps(holed, [contour], SPACING_MM, wanted)), expected)
    assert np.count_nonzero(expected) > 30


def test_intensities_that_are_not_numbers_do_not_matter_to_distances():
    (found,) = relevance_maps(np.full((1, *SHAPE), np.nan), [[[0, 0, 0]]], SPACING_MM, one_object())
    assert found[0, 0, 0] == 1


def test_indices_without_image_need_the_shape():
    with pytest.raises(ValueError, match="need the image's shape"):
        relevance_maps(None, [[[0, 0, 0]]], SPACING_MM, one_object())


@pytest.mark.parametrize("maps", [relevance_maps, partial(relevance_maps_on_device, device="cpu")])
@pytest.mark.parametrize("contour", [[], [[0, 0]]])
def test_spacings_of_another_number_of_axes_are_refused(maps, contour):
    with pytest.raises(ValueError, match="per axis of an image of 2 axes, found 3"):
        maps(np.zeros((1, 4, 5)), [contour], SPACING_MM, one_object())
    indices = [[0, *index] for index in contour]
    with pytest.raises(ValueError, match="per axis of an image of 3 axes, found 2"):
        maps(np.zeros((1, 1, 4, 5)), [indices], SPACING_MM[1:], one_object())


def test_fusions_by_hand():
    maps = np.array([[0.5, 1.0, 0.0, 0.2], [0.5, 0.3, 0.0, 0.4]], dtype=np.float32)
    np.testing.assert_allclose(fuse(maps), [0.5, 1.0, 0.0, 0.4])
    np.testing.assert_allclose(fuse(maps, "mean"), [0.5, 0.65, 0.0, 0.3], rtol=1e-6)
    np.testing.assert_allclose(fuse(maps, "noisy_or"), [0.75, 1.0, 0.0, 0.52], rtol=1e-6)
    assert fuse(maps, "noisy_or").dtype == np.float32
    for method in ("max", "mean", "noisy_or"):
        np.testing.assert_allclose(fuse(maps[:1], method), maps[0], rtol=1e-6)


def test_fusions_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="no relevance map"):
        fuse(np.empty((0, 3)))
    with pytest.raises(ValueError, match="median"):
        fuse(np.zeros((1, 3)), "median")


def test_settings_survive_json():
    wanted = RelevanceSettings(mode="both", sigma_mm=(1, 2.5), cutoff_mm=(3, 7.5), intensity_scale=(12,))
    assert RelevanceSettings.from_dict(wanted.to_dict()) == wanted
    with pytest.raises(InputError, match="unknown: sigma, missing: sigma_mm"):
        RelevanceSettings.from_dict({"sigma": [1], "cutoff_mm": [3]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "colour"}, "mode must be one of distance, intensity, both, not 'colour'"),
        ({"kernel": "box"}, "kernel must be one of"),
        ({"search": "patient"}, "search must be one of"),
        ({"sigma_mm": (0.0,)}, "sigma_mm must be positive, but value 1 is 0.0"),
        ({"sigma_mm": (math.inf,)}, "sigma_mm must be positive"),
        ({"sigma_mm": (1e-30,)}, "sigma_mm must be from 1e-06 to 1e\\+06, but value 1 is 1e-30"),
        ({"sigma_mm": (1e300,)}, "sigma_mm must be from 1e-06 to 1e\\+06, but value 1 is 1e\\+300"),
        ({"intensity_scale": (1.0, 1e-45)}, "intensity_scale must be from 1e-30 to 1e\\+300, but value 2 is 1e-45"),
        ({"cutoff_mm": (-1.0,)}, "cutoff_mm must be positive"),
        ({"intensity_scale": (1.0, math.nan)}, "intensity_scale must be positive, but value 2 is nan"),
        ({"sigma_mm": (1.0, 2.0)}, "2 and 1 are given"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        one_object(**values)


@pytest.mark.parametrize(("search", "beside"), [("volume", 0.25), ("slice", 0)])
def test_polylines_are_looked_for_where_the_settings_say(search, beside):
    """The next slices are 3 mm away."""
    line = PlacedContour("GTV", "GTV", False, 2, np.array([[-1.0, 2.0], [8.0, 2.0]]))
    wanted = one_object(kernel="linear", sigma_mm=(4.0,), search=search)
    (found,) = relevance_maps(None, [[line]], SPACING_MM, wanted, shape=SHAPE)
    assert (found[2, :, 2] == 1).all()
    assert found[[1, 3], :, 2] == pytest.approx(beside)
