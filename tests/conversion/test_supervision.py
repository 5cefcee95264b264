"""What is supervised of one object, derived by hand on a grid of (5, 7, 11) voxels of 3 x 0.7 x 1.1 mm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from conversion.phantom import COLUMNS, RECTANGLE_YX, ROWS, SHAPE_ZYX, SPACING_MM_ZYX, grid
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nnunet_wsl.contours import Contour, ContourSet, Grid, contour_voxels, drawn_slices, place, rasterise
from nnunet_wsl.contract import INTERPOLATED_CONFIDENCE
from nnunet_wsl.conversion.annotation import label_map, slice_knowledge
from nnunet_wsl.conversion.between import Gap
from nnunet_wsl.conversion.cropped import CroppedMask
from nnunet_wsl.conversion.supervision import (
    ObjectSupervision,
    RelevanceSource,
    exclude_conflicts,
    supervise,
    supervision_window,
)

FLAT = np.ones((1, *SHAPE_ZYX))
"""An image that tells nothing."""

LINE_YX = np.array([(1.0, 5.0), (5.0, 5.0)])
"""Passes through the voxels y 1..5 of x 5."""


def cropped_and_source(closed=(), opened=(), image=FLAT, listed=None, between="ignore", **options):
    """The rectangle on some slices, the line on others."""
    contours = [
        Contour("A", grid().to_mm([(x, y, k) for y, x in points]), is_closed)
        for slices, points, is_closed in ((closed, RECTANGLE_YX, True), (opened, LINE_YX, False))
        for k in slices
    ]
    placed = place(ContourSet(["A"], contours), grid(), case="ann")
    knowledge = slice_knowledge(drawn_slices(placed, "A"), SHAPE_ZYX[0], "auto", opened, listed=listed)
    window = supervision_window(placed, "A", options.get("contour_sigma_mm", 0))
    mask = CroppedMask.of(rasterise(placed, "A"), window)
    one, found = supervise(placed, "A", mask, knowledge, image, between=between, **options)
    return one, RelevanceSource.of(placed, "A", contour_voxels(placed, "A"), knowledge, found, window)


@dataclass(frozen=True)
class Whole:
    """What is supervised, in whole arrays."""

    inside: np.ndarray
    known: np.ndarray
    uncertain: np.ndarray | None
    gaps: tuple[Gap, ...]

    def cropped(self):
        return ObjectSupervision(whole(self.inside), whole(self.known), None, self.gaps)


def whole(mask):
    """A mask whose window is the image."""
    window = slice(None), slice(0, mask.shape[1]), slice(0, mask.shape[2])
    return CroppedMask(mask, window, np.zeros(len(mask), bool), mask.shape)


def supervised(**given):
    one, source = cropped_and_source(**given)
    uncertain = None if one.uncertain is None else np.asarray(one.uncertain)
    return Whole(np.asarray(one.inside), np.asarray(one.known), uncertain, one.gaps), source


def confidence_of(source, sigma_mm=2.0):
    return source.confidence_map(SHAPE_ZYX, SPACING_MM_ZYX, sigma_mm)


def test_known_slices_are_supervised_and_the_others_not():
    one, source = supervised(closed=[0, 4])
    expected = np.zeros(SHAPE_ZYX, bool)
    expected[[0, 4], ROWS, COLUMNS] = True
    np.testing.assert_array_equal(one.inside, expected)
    assert one.known.all(axis=(1, 2)).tolist() == one.known.any(axis=(1, 2)).tolist() == [True] + [False] * 3 + [True]
    np.testing.assert_array_equal(confidence_of(source), one.known)
    assert one.gaps == ()
    assert one.uncertain is None


def test_gated_slices_between_are_supervised_where_the_interpolation_is_sure():
    """The same shape on both sides: sure from 0.13 * 0.877 mm * ln 19 = 0.336 mm on.

    The contour runs 0.439 mm from the voxels on either side of it, so voxels beside it along y, 0.7 mm apart, are
    0.261 mm from it and not sure; those along x are 0.661 mm from it.
    """
    one, _ = supervised(closed=[0, 4], between="gated")
    known = np.ones(SHAPE_ZYX, bool)
    known[1:4, [1, 2, 4, 5], COLUMNS] = False
    np.testing.assert_array_equal(one.known, known)
    inside = np.zeros(SHAPE_ZYX, bool)
    inside[[0, 4], ROWS, COLUMNS] = inside[1:4, 3, COLUMNS] = True
    np.testing.assert_array_equal(one.inside, inside)
    ((first, last), gate_mm) = ((one.gaps[0].first, one.gaps[0].last), one.gaps[0].gate_mm())
    assert (first, last) == (0, 4)
    assert gate_mm == pytest.approx(0.13 * np.sqrt(0.7 * 1.1) * np.log(19), rel=1e-3)


def test_interpolated_slices_between_are_supervised_everywhere():
    one, _ = supervised(closed=[0, 4], between="interpolate")
    assert one.known.all()
    inside = np.zeros(SHAPE_ZYX, bool)
    inside[:, ROWS, COLUMNS] = True
    np.testing.assert_array_equal(one.inside, inside)


def test_relevance_between_is_that_to_interpolated_contours_and_trusted_as_far_as_they_are():
    """The odds of being inside, 0.261 mm from the contour, are e^(0.261 / 0.114)."""
    _, source = supervised(closed=[0, 4], between="gated")
    on_slice = source.contour_voxels[source.contour_voxels[:, 0] == 2, 1:].tolist()
    border = [[2, x] for x in range(3, 8)] + [[3, 3], [3, 7]] + [[4, x] for x in range(3, 8)]
    assert on_slice == border
    confidence = confidence_of(source)
    assert (confidence[[0, 4]] == 1).all()
    probability = 1 / (1 + np.exp(-(0.7 - np.sqrt(0.7 * 1.1) / 2) / (0.13 * np.sqrt(0.7 * 1.1))))
    np.testing.assert_allclose(confidence[2, [1, 2], 5], INTERPOLATED_CONFIDENCE * (2 * probability - 1), rtol=1e-4)
    assert (confidence[1:4, 3, COLUMNS] > 0.96).all()
    assert (confidence[1:4] <= INTERPOLATED_CONFIDENCE).all()  # what is drawn can be told from what is interpolated


def test_slices_beyond_the_known_ones_stay_unknown():
    one, source = supervised(closed=[1, 3], listed=[1, 3], between="interpolate")
    assert one.known.all(axis=(1, 2)).tolist() == [False, True, True, True, False]
    assert not one.inside[[0, 4]].any()
    assert (confidence_of(source)[[0, 4]] == 0).all()


def test_an_object_of_which_nothing_is_known():
    one, source = supervised(closed=[], listed=[], between="interpolate")
    assert not one.known.any()
    assert not one.inside.any()
    assert (confidence_of(source) == 0).all()


@pytest.mark.parametrize("between", ["gated", "interpolate"])
@pytest.mark.parametrize("drawn", [[], [4]])
def test_slices_between_two_without_the_object_are_not_supervised(between, drawn):
    """Slice 1 lies between the known slices 0 and 2, which do not show the object; slice 3 between 2 and 4."""
    one, source = supervised(closed=drawn, listed=[0, 2, 4], between=between)
    assert not one.known[1].any()
    assert (confidence_of(source)[1] == 0).all()
    assert one.known[3].any() == bool(drawn)
    assert sum(gap.last - gap.first - 1 for gap in one.gaps) == len(drawn)


def test_nothing_to_interpolate():
    for one, source in (supervised(between="gated"), supervised(closed=[0, 1, 2, 3, 4], between="gated")):
        assert one.gaps == ()
        assert one.known.all()
        assert (confidence_of(source) == 1).all()


def test_confidence_beside_an_open_contour():
    """It falls off with the distance within the slice, and is 0 where an end of the line is nearest but on it."""
    one, source = supervised(closed=[1, 3], opened=[2])
    assert not one.known[2].any()
    assert not one.inside[2].any()
    confidence = confidence_of(source, sigma_mm=2.0)
    assert (confidence[[0, 1, 3, 4]] == 1).all()
    np.testing.assert_allclose(confidence[2, 2:5, 7], np.exp(-0.5 * (2.2 / 2) ** 2), rtol=1e-5)
    np.testing.assert_array_equal(confidence[2, 1:6, 5], 1)
    beyond = np.zeros((7, 11), bool)
    beyond[[0, 1, 5, 6]] = True
    beyond[[1, 5], 5] = False
    assert (confidence[2][beyond] == 0).all()


def test_a_closed_contour_on_a_slice_that_is_not_known_to_be_complete():
    one, source = supervised(closed=[1, 2, 3], listed=[1, 3])
    assert not one.known[2].any()
    assert one.inside[2, ROWS, COLUMNS].all()
    confidence = confidence_of(source, sigma_mm=1.0)
    assert confidence[2, 3, 8] == 1  # the contour runs along the edge of this voxel
    np.testing.assert_allclose(confidence[2, 3, 10], np.exp(-0.5 * 2.2**2), rtol=1e-5)


def test_voxels_within_the_uncertainty_of_a_contour_are_not_known():
    """The contour runs 0.35 mm (along y) and 0.55 mm (along x) from the voxels beside it; its corner 0.65 mm."""
    one, source = supervised(closed=[1, 2, 3], contour_sigma_mm=0.6)
    near = np.zeros(SHAPE_ZYX, bool)
    near[1:4, 1:6, COLUMNS] = near[1:4, ROWS, 2:9] = True
    near[1:4, 3, 4:7] = False
    np.testing.assert_array_equal(one.uncertain, near)
    assert one.known.all()
    assert np.argwhere(one.inside[2] & ~near[2]).tolist() == [[3, 4], [3, 5], [3, 6]]
    assert (confidence_of(source) == 1).all()


def test_interpolations_that_contradict_each_other_are_unknown():
    """Drawn masks always count; where an interpolation meets another object it is given up."""
    (a, _), (b, _) = (supervised(closed=[0, 4], between="interpolate") for _ in range(2))
    b.inside[:] = False
    b.inside[:, 3, 6:10] = True
    drawn = np.zeros(SHAPE_ZYX, bool)
    drawn[[0, 4]] = True
    exclude_conflicts([a.cropped(), b.cropped()], [whole(a.inside & drawn), whole(b.inside & drawn & False)])
    assert a.known[0, 3, 6]  # drawn
    assert a.inside[0, 3, 6]
    assert not b.inside[0, 3, 6]
    for one in (a, b):
        assert not one.known[1:4, 3, 6:8].any()
        assert not one.inside[1:4, 3, 6:8].any()
    assert a.inside[2, 3, 3:6].all()
    assert b.inside[2, 3, 8:10].all()


@pytest.mark.parametrize("between", ["gated", "interpolate"])
def test_nothing_is_interpolated_across_an_open_contour(between):
    """The slices beside an open contour may show what the closed ones far away do not."""
    one, source = supervised(closed=[0, 2], opened=[3], between=between, listed=[0, 2, 4])
    assert one.known[1].any()
    assert not one.known[3].any()
    assert (confidence_of(source)[1] > 0).any()
    one, source = supervised(closed=[0, 4], opened=[2], between=between)
    assert not one.gaps
    assert not one.known[1:4].any()
    assert not one.inside[1:4].any()
    assert not confidence_of(source)[[1, 3]].any()


def test_the_intensity_between_counts():
    """Bright where the object is: a voxel of the gate that is bright is known to be inside."""
    image = np.full((1, *SHAPE_ZYX), 10.0)
    image[:, :, ROWS, COLUMNS] = 90
    image += np.random.default_rng(0).normal(0, 5, image.shape)
    one, _ = supervised(closed=[0, 4], image=image, between="gated")
    assert one.inside[2, [2, 4], 4:7].all()


@given(
    st.sets(st.integers(0, 4), min_size=1, max_size=3),
    st.sets(st.integers(0, 4), max_size=2),
    st.sampled_from(["ignore", "gated", "interpolate"]),
    arrays.arrays(np.float32, (1, *SHAPE_ZYX), elements=st.floats(0, 100, width=32)),
)
def test_invariants(closed, opened, between, image):
    """Drawn contours are never contradicted, and nothing is inside where nothing is known but in drawn contours."""
    opened = opened - closed
    one, source = supervised(closed=sorted(closed), opened=sorted(opened), image=image, between=between)
    assert one.inside[sorted(closed), ROWS, COLUMNS].all()
    drawn = np.zeros(SHAPE_ZYX, bool)
    drawn[sorted(closed), ROWS, COLUMNS] = True
    assert not (one.inside & ~one.known & ~drawn).any()
    confidence = confidence_of(source)
    assert (confidence >= 0).all()
    assert (confidence <= 1).all()


LARGE_ZYX, LARGE_MM_ZYX = (5, 52, 41), (3.0, 0.7, 1.1)
"""Large enough for windows that are a part of the image."""

ellipses = st.tuples(
    st.tuples(st.floats(-6, 58), st.floats(-6, 47)), st.tuples(st.floats(1, 8), st.floats(1, 8)), st.booleans()
)
drawings = st.dictionaries(st.integers(0, 4), ellipses, max_size=3)


def placed_ellipses(objects):
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    large = Grid((3.0, -2.0, 5.0), LARGE_MM_ZYX[::-1], np.eye(3), LARGE_ZYX)
    contours = []
    for name, drawn in objects.items():
        for k, (centre, radii, closed) in drawn.items():
            points_yx = np.array(centre) + np.array(radii) * np.column_stack([np.sin(angle), np.cos(angle)])
            contours.append(Contour(name, large.to_mm([(x, y, k) for y, x in points_yx]), closed))
    return place(ContourSet(list(objects), contours), large, case="large", outside="clip")


@settings(max_examples=150)
@given(
    objects=st.fixed_dictionaries({"A": drawings, "B": drawings}),
    between=st.sampled_from(["ignore", "gated", "interpolate"]),
    sigma_mm=st.sampled_from([0.0, 0.6, 9.0]),
    listed=st.one_of(st.none(), st.sets(st.integers(0, 4))),
)
def test_the_window_changes_nothing(tmp_path_factory, objects, between, sigma_mm, listed):
    """All is as if the window were the image: masks, relevance, confidence, labels; also beside and across borders."""
    placed = placed_ellipses(objects)
    image = np.random.default_rng(0).normal(size=(1, *LARGE_ZYX))
    path = tmp_path_factory.mktemp("source") / "source.npz"
    in_windows, in_images, masks_in_windows, masks_in_images = [], [], [], []
    for name in objects:
        mask = rasterise(placed, name)
        slices = None if listed is None else sorted(listed)
        opened = [k for k, (*_, closed) in objects[name].items() if not closed]
        knowledge = slice_knowledge(drawn_slices(placed, name), LARGE_ZYX[0], "auto", opened, listed=slices)
        found = []
        for cropped in (CroppedMask.of(mask, supervision_window(placed, name, sigma_mm)), whole(mask)):
            one, interpolation = supervise(
                placed, name, cropped, knowledge, image, between=between, contour_sigma_mm=sigma_mm
            )
            source = RelevanceSource.of(
                placed, name, contour_voxels(placed, name), knowledge, interpolation, cropped.window
            )
            source.save(path)
            found.append((cropped, one, RelevanceSource.load(path)))
        (cropped, here, source), (uncropped, there, expected) = found
        assert here.gaps == there.gaps
        for attribute in ("inside", "known", "uncertain"):
            if sigma_mm or attribute != "uncertain":
                np.testing.assert_array_equal(getattr(here, attribute), getattr(there, attribute))
        np.testing.assert_array_equal(source.contour_voxels, expected.contour_voxels)
        np.testing.assert_array_equal(source.ends, expected.ends)
        np.testing.assert_array_equal(*(one.confidence_map(LARGE_ZYX, LARGE_MM_ZYX, 2.0) for one in (source, expected)))
        in_windows.append(here)
        in_images.append(there)
        masks_in_windows.append(cropped)
        masks_in_images.append(uncropped)
    exclude_conflicts(in_windows, masks_in_windows)
    exclude_conflicts(in_images, masks_in_images)
    np.testing.assert_array_equal(
        *(label_map([one.inside for one in found], [one.known for one in found]) for found in (in_windows, in_images))
    )


def test_saved_and_read_back(tmp_path):
    _, source = supervised(closed=[0, 2, 4], opened=[3], between="gated")
    source.save(tmp_path / "source.npz")
    found = RelevanceSource.load(tmp_path / "source.npz")
    np.testing.assert_array_equal(found.contour_voxels, source.contour_voxels)
    np.testing.assert_array_equal(found.ends, source.ends)
    np.testing.assert_allclose(found.confidence, source.confidence, atol=5e-4)
    np.testing.assert_array_equal(found.elsewhere, source.elsewhere)
    assert found.window == source.window
    assert found.partial_slices == source.partial_slices == (3,)


def test_the_uncertainty_of_a_contour_stays_in_its_slice():
    """Slices are 3 mm apart."""
    one, _ = supervised(closed=[2], listed=range(5), contour_sigma_mm=3.5)
    assert one.uncertain.any(axis=(1, 2)).tolist() == [False, False, True, False, False]


def test_no_contour_is_added_where_one_is_drawn():
    """Slice 3 is drawn, but not known to be complete; slice 1 is interpolated."""
    _, source = supervised(closed=[0, 2, 3], listed=[0, 2, 4], between="gated")
    drawn, added, partial = (source.contour_voxels[source.contour_voxels[:, 0] == k, 1:].tolist() for k in (0, 1, 3))
    assert added
    assert partial == drawn


def test_beyond_the_window_an_interpolation_is_trusted_less_than_what_is_drawn():
    placed = placed_ellipses({"A": {0: ((26, 20), (4, 5), True), 4: ((26, 20), (4, 5), True)}})
    knowledge = slice_knowledge(drawn_slices(placed, "A"), LARGE_ZYX[0])
    window = supervision_window(placed, "A")
    mask = CroppedMask.of(rasterise(placed, "A"), window)
    _, found = supervise(placed, "A", mask, knowledge, np.ones((1, *LARGE_ZYX)), between="gated")
    source = RelevanceSource.of(placed, "A", contour_voxels(placed, "A"), knowledge, found, window)
    confidence = source.confidence_map(LARGE_ZYX, LARGE_MM_ZYX, 2.0)
    assert confidence[:, 0, 0].tolist() == [1, *[INTERPOLATED_CONFIDENCE] * 3, 1]


def test_what_is_interpolated_is_not_written_into_the_mask():
    placed = placed_ellipses({"A": {0: ((26, 20), (4, 5), True), 4: ((26, 20), (4, 5), True)}})
    knowledge = slice_knowledge(drawn_slices(placed, "A"), LARGE_ZYX[0])
    mask = CroppedMask.of(rasterise(placed, "A"), supervision_window(placed, "A"))
    one, _ = supervise(placed, "A", mask, knowledge, np.ones((1, *LARGE_ZYX)), between="interpolate")
    assert one.inside.values[2].any()
    np.testing.assert_array_equal(mask, rasterise(placed, "A"))


def test_an_open_contour_between_two_columns_ends_in_both():
    """At x = 2.5, from y = 1 to y = 5."""
    line = Contour("A", grid().to_mm([(2.5, y, 2) for y in (1, 5)]), closed=False)
    placed = place(ContourSet(["A"], [line]), grid(), case="ann")
    voxels = contour_voxels(placed, "A")
    assert voxels.tolist() == [[2, y, x] for y in range(1, 6) for x in (2, 3)]
    knowledge = slice_knowledge(drawn_slices(placed, "A"), SHAPE_ZYX[0], "auto", [2])
    source = RelevanceSource.of(placed, "A", voxels, knowledge, None, supervision_window(placed, "A"))
    assert voxels[source.ends].tolist() == [[2, y, x] for y in (1, 5) for x in (2, 3)]
