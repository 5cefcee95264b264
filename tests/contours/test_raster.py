from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label as connected_components

from nnunet_wsl.contours import (
    ContourSet,
    Grid,
    PlacedContour,
    PlacedContours,
    contour_voxels,
    drawn_slices,
    place,
    rasterise,
)

HEIGHT, WIDTH = 7, 11

on_lattice = st.integers(-32, 14 * 16).map(lambda n: n / 16)
"""Coordinates that often hit voxel centres, voxel corners, and the outside of the image."""

lattice_polygons = st.lists(st.tuples(on_lattice, on_lattice), min_size=3, max_size=8)
generic_polygons = st.builds(
    lambda seed, n: np.random.default_rng(seed).uniform((-2, -2), (HEIGHT + 1, WIDTH + 1), (n, 2)),
    st.integers(0, 2**32 - 1),
    st.integers(3, 9),
)


@pytest.fixture(scope="module")
def placed_in(grid, draw):
    """Put polygons (y, x) into slice 2 of the oblique grid, each a contour of the object GTV."""

    def build(*polygons_yx, closed=True, sources=()):
        sources = sources or [""] * len(polygons_yx)
        contours = [
            draw(grid, 2, polygon, closed=closed, source=source)
            for polygon, source in zip(polygons_yx, sources, strict=True)
        ]
        return place(ContourSet(["GTV"], contours), grid, case="c", outside="clip")

    return build


@pytest.fixture(scope="module")
def fill(placed_in):
    def mask(*polygons_yx, **options):
        filled = rasterise(placed_in(*polygons_yx, **options), "GTV")
        assert not filled[[0, 1, 3, 4]].any()
        return filled[2]

    return mask


@pytest.fixture(scope="module")
def passed(placed_in):
    def voxels(polygon_yx, closed=True):
        found = contour_voxels(placed_in(polygon_yx, closed=closed), "GTV")
        assert (found[:, 0] == 2).all()
        return {(y, x) for _, y, x in found.tolist()}

    return voxels


@pytest.fixture(scope="module")
def passed_as_drawn(grid):
    """Without the repair of contours that cross themselves."""

    def voxels(polygon_yx, closed=True):
        contour = PlacedContour("GTV", "GTV", closed, 2, np.asarray(polygon_yx, dtype=float))
        found = contour_voxels(PlacedContours(grid, ("GTV",), (contour,), (), ()), "GTV")
        return {(y, x) for _, y, x in found.tolist()}

    return voxels


def rectangle(top, left, bottom, right):
    return [(top, left), (top, right), (bottom, right), (bottom, left)]


def wound_around(polygon_yx):
    """Winding number about each voxel centre other than 0, from the sum of the angles under which edges are seen."""
    polygon = np.asarray(polygon_yx)[:, 0] + 1j * np.asarray(polygon_yx)[:, 1]
    centres = np.add.outer(np.arange(HEIGHT), 1j * np.arange(WIDTH))[..., None]
    angles = np.angle((np.roll(polygon, -1) - centres) / (polygon - centres))
    return np.round(angles.sum(axis=-1) / (2 * np.pi)).astype(int) != 0


def passes_square(start, end, y, x):
    """Exact: does the segment have a piece of positive length in the square of a voxel?"""
    entry, leave = Fraction(0), Fraction(1)
    for p, q, centre in zip(start, end, (y, x), strict=True):
        low, high = centre - Fraction(1, 2), centre + Fraction(1, 2)
        if p == q:
            if not low <= p <= high:
                return False
        else:
            t = sorted(((low - p) / (q - p), (high - p) / (q - p)))
            entry, leave = max(entry, t[0]), min(leave, t[1])
    return entry < leave


def test_voxel_centres_on_the_contour(fill):
    """Enclosed to the right of a left edge and below a top edge, not the other way round."""
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(fill(rectangle(1, 2, 3, 5)), expected)


def test_slanted_edge_by_hand(fill):
    """Right-angled triangle with legs along row 0.5 and column 0.5; x + y = 6 is its long side."""
    expected = np.array([[y > 0.5 and x > 0.5 and x + y < 6 for x in range(WIDTH)] for y in range(HEIGHT)])
    np.testing.assert_array_equal(fill([(0.5, 0.5), (0.5, 5.5), (5.5, 0.5)]), expected)


def test_hole_and_island(fill):
    mask = fill(rectangle(-0.5, -0.5, 6.5, 10.5), rectangle(0.5, 0.5, 5.5, 9.5), rectangle(2.5, 3.5, 3.5, 7.5))
    expected = np.ones((HEIGHT, WIDTH), dtype=bool)
    expected[1:6, 1:10] = False
    expected[3, 4:8] = True
    np.testing.assert_array_equal(mask, expected)


def test_keyhole_is_a_hole(fill):
    """One contour that runs in along a channel, round the hole, and out along the same channel."""
    outer, inner = rectangle(0.5, 0.5, 5.5, 9.5), rectangle(1.5, 2.5, 4.5, 6.5)
    keyhole = [*outer, outer[0], inner[0], *inner[:0:-1], inner[0], outer[0]]
    np.testing.assert_array_equal(fill(keyhole), fill(outer, inner))


def test_sources_unite_where_contours_of_one_source_cancel(fill):
    left, right = rectangle(0.5, 0.5, 4.5, 5.5), rectangle(2.5, 3.5, 6.5, 8.5)
    np.testing.assert_array_equal(fill(left, right, sources=["a", "b"]), fill(left) | fill(right))
    np.testing.assert_array_equal(fill(left, right, sources=["a", "a"]), fill(left) ^ fill(right))


def test_one_voxel(fill, passed):
    polygon = rectangle(2.6, 4.7, 3.4, 5.2)
    assert np.argwhere(fill(polygon)).tolist() == [[3, 5]]
    assert passed(polygon) == {(3, 5)}


def test_smaller_than_a_voxel_and_between_centres(fill, passed):
    polygon = rectangle(2.6, 4.6, 2.9, 4.9)
    assert not fill(polygon).any()
    assert passed(polygon) == {(3, 5)}


@pytest.mark.parametrize("points", [[(3, 5)] * 4, [(3, 5), (3, 8), (3, 6)]])
def test_contour_without_extent(fill, passed, points):
    assert not fill(points).any()
    assert passed(points) == set()


def test_whole_image_and_contours_far_outside(fill, passed):
    assert fill(rectangle(-1e7, -1e7, 1e7, 1e7)).all()
    assert not fill(rectangle(20, 20, 1e7, 1e7)).any()
    assert passed(rectangle(-1e7, -1e7, 1e7, 1e7)) == set()
    assert passed([(3, -1e7), (3, 1e7)], closed=False) == {(3, x) for x in range(WIDTH)}


def test_open_contour_encloses_nothing_and_does_not_close(fill, passed):
    line = [(1, 1), (1, 4), (4, 4)]
    assert not fill(line, closed=False).any()
    assert passed(line, closed=False) == {(1, x) for x in range(1, 5)} | {(y, 4) for y in range(1, 5)}
    assert passed(line, closed=True) > passed(line, closed=False)
    assert (2, 2) in passed(line, closed=True)


def test_contour_through_corners_and_along_edges(passed):
    assert passed([(1, 1), (4, 4)], closed=False) == {(n, n) for n in range(1, 5)}
    assert passed([(1, 4), (4, 1)], closed=False) == {(n, 5 - n) for n in range(1, 5)}
    # Through the corner (5.5, 6.5), which rounding errors of the two crossings would tear apart.
    assert passed([(5.4, 7.9), (5.7, 3.7)], closed=False) == {(5, 8), (5, 7), (6, 6), (6, 5), (6, 4)}
    # Along the line between two rows or columns: both count; along the border of the image there is one.
    assert passed([(1.5, 1), (1.5, 3)], closed=False) == {(y, x) for y in (1, 2) for x in (1, 2, 3)}
    assert passed([(1, 1.5), (3, 1.5 + 1e-12)], closed=False) == {(y, x) for y in (1, 2, 3) for x in (1, 2)}
    assert passed([(1, 1.5), (3, 1.5 + 1e-4)], closed=False) == {(y, 2) for y in (1, 2, 3)}
    border = rectangle(-0.5, -0.5, HEIGHT - 0.5, WIDTH - 0.5)
    ring = {(y, x) for y in range(HEIGHT) for x in range(WIDTH) if y in (0, HEIGHT - 1) or x in (0, WIDTH - 1)}
    assert passed(border) == ring


def test_no_contour(grid):
    placed = place(ContourSet(["GTV"], []), grid, case="c")
    assert not rasterise(placed, "GTV").any()
    assert contour_voxels(placed, "GTV").shape == (0, 3)
    assert contour_voxels(placed, "GTV").dtype == np.int32
    assert drawn_slices(placed, "GTV").size == 0
    for function in (rasterise, contour_voxels, drawn_slices):
        with pytest.raises(KeyError):
            function(placed, "unknown")


def test_contour_voxels_of_all_slices_are_sorted_and_unique(grid, draw):
    square = rectangle(1, 2, 3, 5)
    contours = [draw(grid, k, square) for k in (4, 0, 2)] + [draw(grid, 2, rectangle(1, 5, 3, 8))]
    placed = place(ContourSet(["GTV"], contours), grid, case="c")
    voxels = contour_voxels(placed, "GTV")
    assert drawn_slices(placed, "GTV").tolist() == [0, 2, 4]
    assert [tuple(v) for v in voxels.tolist()] == sorted({tuple(v) for v in voxels.tolist()})
    ring = [(y, x) for y in range(1, 4) for x in range(2, 6) if y in (1, 3) or x in (2, 5)]
    assert [tuple(v[1:]) for v in voxels.tolist() if v[0] == 0] == ring


@given(polygon=generic_polygons)
def test_filling_agrees_with_the_winding_number(fill, polygon):
    np.testing.assert_array_equal(fill(polygon), wound_around(polygon))


@given(a=lattice_polygons, b=generic_polygons)
def test_contours_of_one_source_combine_by_exclusive_or(fill, a, b):
    np.testing.assert_array_equal(fill(a, b, sources=["a", "b"]), fill(a) | fill(b))
    np.testing.assert_array_equal(fill(a, b), fill(a) ^ fill(b))


@given(triangle=st.lists(st.tuples(on_lattice, on_lattice), min_size=4, max_size=4))
def test_parts_that_share_edges_make_up_the_whole(fill, triangle):
    """The rule for centres on an edge gives such a voxel to exactly one side."""
    a, b, c, d = triangle
    np.testing.assert_array_equal(fill([a, b, d]) ^ fill([b, c, d]) ^ fill([c, a, d]), fill([a, b, c]))


@given(polygon=lattice_polygons, closed=st.booleans())
def test_contour_voxels_agree_with_exact_clipping(passed_as_drawn, polygon, closed):
    exact = [tuple(map(Fraction, point)) for point in polygon]
    segments = list(zip(exact, [*exact[1:], exact[0]], strict=True))[: None if closed else -1]
    expected = {
        (y, x)
        for y in range(HEIGHT)
        for x in range(WIDTH)
        if any(passes_square(start, end, y, x) for start, end in segments if start != end)
    }
    if any(start != end for start, end in segments):
        assert passed_as_drawn(polygon, closed) == expected


@given(polygon=generic_polygons)
def test_a_contour_has_no_gaps_and_separates_inside_from_outside(fill, passed, passed_as_drawn, polygon):
    within = np.clip(polygon, (-0.4, -0.4), (HEIGHT - 0.6, WIDTH - 0.6))
    whole, band = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
    whole[tuple(zip(*passed_as_drawn(within), strict=True))] = True
    assert connected_components(whole, np.ones((3, 3)))[1] == 1
    band[tuple(zip(*passed(within), strict=True))] = True
    regions, _ = connected_components(~band)
    mask = fill(within)
    for region in range(1, regions.max() + 1):
        assert len(set(mask[regions == region].tolist())) == 1


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 40))
def test_area_is_right_up_to_the_contour_voxels(fill, passed, seed, n):
    rng = np.random.default_rng(seed)
    angle, radius = np.sort(rng.uniform(0, 2 * np.pi, n)), rng.uniform(0.5, 1, n)
    y, x = 3 + 3.2 * radius * np.sin(angle), 5 + 5.2 * radius * np.cos(angle)
    shoelace = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    polygon = np.column_stack([y, x])
    assert abs(fill(polygon).sum() - shoelace) <= len(passed(polygon))


@given(polygon=generic_polygons, dy=st.integers(-6, 6), dx=st.integers(-10, 10))
def test_whole_voxels_of_translation_move_the_result(fill, passed, polygon, dy, dx):
    moved = np.zeros((HEIGHT, WIDTH), dtype=bool)
    y, x = np.nonzero(fill(polygon))
    stays = (y + dy >= 0) & (y + dy < HEIGHT) & (x + dx >= 0) & (x + dx < WIDTH)
    moved[y[stays] + dy, x[stays] + dx] = True
    in_both = np.zeros((HEIGHT, WIDTH), dtype=bool)
    in_both[max(dy, 0) : HEIGHT + min(dy, 0), max(dx, 0) : WIDTH + min(dx, 0)] = True
    np.testing.assert_array_equal(fill(polygon + np.array([dy, dx])) & in_both, moved)

    shifted = {(y + dy, x + dx) for y, x in passed(polygon)}
    assert {v for v in passed(polygon + np.array([dy, dx])) if in_both[v]} == {
        (y, x) for y, x in shifted if 0 <= y < HEIGHT and 0 <= x < WIDTH
    }


@given(
    polygon=generic_polygons,
    order=st.permutations([0, 1]),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_the_image_may_name_and_orient_its_axes_otherwise(grid, draw, polygon, order, flips):
    """The same physical contour on the same voxels, stored with axes swapped and reversed."""
    axes = [*order, 2]
    size_xyz = np.array(grid.shape_zyx[::-1])
    first_voxel = np.where(flips, size_xyz - 1, 0)
    other = Grid(
        grid.to_mm(first_voxel[None])[0],
        grid.spacing_mm_xyz[axes],
        (grid.direction * np.where(flips, -1, 1))[:, axes],
        tuple(size_xyz[axes][::-1].tolist()),
    )
    contour_set = ContourSet(["GTV"], [draw(grid, 1, polygon)])
    here = place(contour_set, grid, case="c", outside="clip")
    there = place(contour_set, other, case="c", outside="clip")

    def from_other(volume):
        xyz = volume.transpose(2, 1, 0).transpose(np.argsort(axes))
        return np.flip(xyz, np.flatnonzero(flips)).transpose(2, 1, 0)

    np.testing.assert_array_equal(rasterise(here, "GTV"), from_other(rasterise(there, "GTV")))
    bands = []
    for placed in (here, there):
        band = np.zeros(placed.grid.shape_zyx, dtype=bool)
        band[tuple(contour_voxels(placed, "GTV").T)] = True
        bands.append(band)
    np.testing.assert_array_equal(bands[0], from_other(bands[1]))


@given(polygon=lattice_polygons, closed=st.booleans(), along=st.sampled_from([0, 1]))
def test_contours_between_voxels_are_flipped_with_the_image(passed_as_drawn, polygon, closed, along):
    last = (HEIGHT - 1, WIDTH - 1)[along]
    flipped = np.array(polygon, dtype=float)
    flipped[:, along] = last - flipped[:, along]
    expected = {(last - y, x) if along == 0 else (y, last - x) for y, x in passed_as_drawn(polygon, closed)}
    if (np.ptp(flipped, axis=0) > 0).any():
        assert passed_as_drawn(flipped, closed) == expected
