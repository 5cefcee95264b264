from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_wsl.contours import PlacedContour
from nnunet_wsl.relevance import polyline_distance

SHAPE = (5, 7, 11)
SPACING_MM = (3.0, 0.7, 1.1)

contours = st.builds(
    lambda seed, n, closed, k: PlacedContour(
        "GTV", "GTV", closed, k, np.random.default_rng(seed).uniform((-6, -9), (13, 20), (n, 2))
    ),
    st.integers(0, 2**32 - 1),
    st.integers(2, 6),
    st.booleans(),
    st.integers(0, SHAPE[0] - 1),
)


def distance_to_edges(contour, points_mm):
    """Distance of points (z, y, x) to every edge by projection, all in physical space."""
    corners = np.column_stack([np.full(len(contour.points_yx_vox), contour.slice_index), contour.points_yx_vox])
    corners = corners * SPACING_MM
    ends = np.roll(corners, -1, axis=0)
    count = len(corners) if contour.closed else len(corners) - 1
    found = []
    for a, b in zip(corners[:count], ends[:count], strict=True):
        t = np.clip((points_mm - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        found.append(np.linalg.norm(points_mm - a - t[:, None] * (b - a), axis=1))
    return np.min(found, axis=0)


@settings(max_examples=100)
@given(st.lists(contours, min_size=1, max_size=4), st.one_of(st.just(math.inf), st.floats(0.3, 12.0)))
def test_distance_equals_projection_onto_every_edge(drawn, cutoff_mm):
    points_mm = np.stack(np.unravel_index(np.arange(math.prod(SHAPE)), SHAPE), axis=1) * SPACING_MM
    expected = np.min([distance_to_edges(contour, points_mm) for contour in drawn], axis=0).reshape(SHAPE)
    found = polyline_distance(drawn, SHAPE, SPACING_MM, cutoff_mm=cutoff_mm)
    within = np.isfinite(found)
    np.testing.assert_allclose(found[within], expected[within], atol=1e-4)
    assert (expected[within] <= cutoff_mm + 1e-4).all()
    assert (expected[~within] >= cutoff_mm - 1e-4).all()


def test_a_volume_of_many_blocks_equals_projection_onto_every_edge():
    shape = (40, 70, 13)
    rng = np.random.default_rng(5)
    drawn = [PlacedContour("GTV", "GTV", True, k, rng.uniform((0, -3), (70, 16), (4, 2))) for k in (1, 2, 21, 39)]
    points_mm = np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), axis=1) * SPACING_MM
    expected = np.min([distance_to_edges(contour, points_mm) for contour in drawn], axis=0).reshape(shape)
    found = polyline_distance(drawn, shape, SPACING_MM, cutoff_mm=14.0)
    np.testing.assert_allclose(found, np.where(expected <= 14.0, expected, np.inf), atol=1e-4)


def test_in_the_slice_only():
    contour = PlacedContour("GTV", "GTV", True, 1, np.array([[1.5, 2.5], [1.5, 8.0], [5.0, 4.0]]))
    everywhere = polyline_distance([contour], SHAPE, SPACING_MM)
    in_slice = polyline_distance([contour], SHAPE, SPACING_MM, search="slice")
    np.testing.assert_array_equal(in_slice[1], everywhere[1])
    assert np.isinf(in_slice[[0, 2, 3, 4]]).all()


def test_two_axes_no_contour_and_a_single_point():
    assert np.isinf(polyline_distance([], SHAPE[1:], SPACING_MM[1:])).all()
    point = PlacedContour("GTV", "GTV", True, 0, np.array([[2.0, 3.5]]))
    found = polyline_distance([point], SHAPE[1:], SPACING_MM[1:])
    assert found[2, 3] == pytest.approx(0.55)
    assert found[4, 3] == pytest.approx(math.hypot(1.4, 0.55))


def test_a_contour_wholly_outside_is_reached_from_the_border_only():
    far = PlacedContour("GTV", "GTV", False, 0, np.array([[3.0, 12.0], [3.0, 13.0]]))
    found = polyline_distance([far], SHAPE, SPACING_MM, cutoff_mm=2.5)
    assert found[0, 3, 10] == pytest.approx(2.2)
    assert np.isfinite(found).sum() == 3
    assert np.isinf(polyline_distance([far], SHAPE, SPACING_MM, cutoff_mm=1.0)).all()


def test_a_contour_in_a_slice_that_is_not_there_is_refused():
    contour = PlacedContour("GTV", "GTV", True, 5, np.eye(2))
    with pytest.raises(ValueError, match="slices 5 to 5 of an image of 5 slices"):
        polyline_distance([contour], SHAPE, SPACING_MM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"search": "slices"}, "search must be one of volume, slice, not 'slices'"),
        ({"spacing_mm": SPACING_MM[1:]}, "per axis of an image of 3 axes, found 2"),
        ({"spacing_mm": SPACING_MM[1:], "shape": (1, 7, 11)}, "per axis of an image of 3 axes, found 2"),
        ({"shape": SHAPE[1:]}, "per axis of an image of 2 axes, found 3"),
        ({"shape": (2, *SHAPE), "spacing_mm": (1.0, *SPACING_MM)}, "two or three axes, not 4"),
        ({"spacing_mm": (3.0, 0.0, 1.1)}, "one positive spacing per axis"),
        ({"cutoff_mm": 0.0}, "cut-off must be positive"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    sensible = {"contours": [], "shape": SHAPE, "spacing_mm": SPACING_MM}
    with pytest.raises(ValueError, match=message):
        polyline_distance(**(sensible | arguments))


def test_the_cut_off_itself_is_within():
    line = PlacedContour("GTV", "GTV", False, 0, np.array([[0.0, 0.0], [3.0, 0.0]]))
    found = polyline_distance([line], (4, 5), (0.5, 1.0), cutoff_mm=2.0)
    np.testing.assert_array_equal(found, [[0, 1, 2, np.inf, np.inf]] * 4)
