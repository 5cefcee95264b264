"""Expected voxels are derived by hand on slices of 7 x 11 pixels of 0.7 x 1.1 mm; most lines run at n + 0.25."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_wsl.contours import ContourSet, Repairs, contour_voxels, place, rasterise
from nnunet_wsl.contours.repair import repair

HEIGHT, WIDTH = 7, 11


@pytest.fixture(scope="module")
def placed_in(grid, draw):
    def build(*polygons_yx, closed=True):
        contours = [draw(grid, 2, polygon, closed=closed, source="ROI") for polygon in polygons_yx]
        return place(ContourSet(["GTV"], contours), grid, case="c", outside="clip")

    return build


def seen(placed):
    """Mask and band of contour voxels of slice 2."""
    band = np.zeros((HEIGHT, WIDTH), dtype=bool)
    band[tuple(contour_voxels(placed, "GTV")[:, 1:].T)] = True
    return rasterise(placed, "GTV")[2], band


def assert_same(placed, other):
    for ours, theirs in zip(seen(placed), seen(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def rectangle(top, left, bottom, right):
    return [(top, left), (top, right), (bottom, right), (bottom, left)]


def block(*spans):
    """Pixels of blocks (first row, first column, last row, last column)."""
    pixels = np.zeros((HEIGHT, WIDTH), dtype=bool)
    for top, left, bottom, right in spans:
        pixels[top : bottom + 1, left : right + 1] = True
    return pixels


def frame(top, left, bottom, right):
    return block((top, left, top, right), (bottom, left, bottom, right), (top, left, bottom, left),
                 (top, right, bottom, right))  # fmt: skip


def star(seed, n, centre_yx=(3, 5), size_yx=(2.9, 4.9)):
    """Contour that winds once around its centre and nowhere meets itself."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * (np.arange(n) + rng.uniform(0, 0.8, n)) / n
    radius = rng.uniform(0.6, 1, n)
    return np.column_stack([np.sin(angle), np.cos(angle)]) * radius[:, None] * size_yx + centre_yx


on_lattice = st.integers(-16, 12 * 16).map(lambda n: n / 16)
points = st.tuples(on_lattice, on_lattice)
corners = st.builds(lambda y, x: (y + 0.353553, x + 0.216506), st.integers(-1, 7), st.integers(-1, 11))
tangles = st.lists(corners, min_size=3, max_size=9)
"""Polygons that often run over their own corners and along their own lines, but not through centres and corners of
pixels, where rounding decides."""
stars = st.builds(star, st.integers(0, 2**32 - 1), st.integers(5, 14))

# The right side of the rectangle runs down from (1.25, 7.25), the left one up from (5.25, 2.25).
SPURS = {
    "outwards": [(3.25, 7.25), (3.25, 10.25), (3.25, 7.25)],
    "inwards": [(3.25, 7.25), (3.25, 4.25), (3.25, 7.25)],
    "to the other side and beyond": [(3.25, 7.25), (3.25, 0.25), (3.25, 7.25)],
    "back over other points": [(3.25, 7.25), (3.25, 10.25), (3.25, 8.75), (3.25, 7.25)],
    "to and fro": [(3.25, 7.25), (3.25, 10.25), (3.25, 8.25), (3.25, 9.25), (3.25, 7.25)],
    "with a corner": [(3.25, 7.25), (3.25, 9.25), (5.25, 9.25), (3.25, 9.25), (3.25, 7.25)],
    "with two ends": [(3.25, 7.25), (3.25, 9.25), (5.25, 9.25), (1.25, 9.25), (3.25, 9.25), (3.25, 7.25)],
    "back along the contour": [(4.25, 7.25), (2.25, 7.25)],
    "from a corner, along the line": [(5.25, 7.25), (6.25, 7.25), (5.25, 7.25)],
}


@pytest.mark.parametrize("spur", SPURS.values(), ids=SPURS)
def test_spur(placed_in, spur):
    top_left, top_right, *below = rectangle(1.25, 2.25, 5.25, 7.25)
    placed = placed_in([top_left, top_right, *spur, *below])
    mask, band = seen(placed)
    np.testing.assert_array_equal(mask, block((2, 3, 5, 7)))
    np.testing.assert_array_equal(band, frame(1, 2, 5, 7))
    assert placed.repairs == (Repairs("GTV", "ROI", spur=1),)
    assert placed.notes == ("1 contour with spurs of ROI 'ROI' freed of them",)


def test_spur_that_leaves_the_image_is_no_error(grid, draw):
    contour = draw(grid, 2, [*rectangle(1, 2, 5, 7), (5, -40), (5, 2)])
    placed = place(ContourSet(["GTV"], [contour]), grid, case="c")
    assert placed.clippings == ()
    assert placed.repairs == (Repairs("GTV", "GTV", spur=1),)


KEYHOLES = {
    "opposite directions": lambda hole: [(0.25, 3.25), *hole, hole[0]],
    "one direction": lambda hole: [(0.25, 3.25), hole[0], *hole[:0:-1], hole[0]],
    "another point on the way back": lambda hole: [(0.25, 3.25), *hole, hole[0], (1, 3.25)],
    "both ends drawn twice": lambda hole: [(0.25, 3.25), hole[0], *hole, hole[0], hole[0], (0.25, 3.25)],
}


@pytest.mark.parametrize("way", KEYHOLES.values(), ids=KEYHOLES)
def test_keyhole(placed_in, way):
    """The channel runs from the upper side, in column 3, to the hole's corner."""
    hole = [(2.25, 3.25), (4.25, 3.25), (4.25, 6.25), (2.25, 6.25)]
    placed = placed_in([(0.25, 1.25), *way(hole), (0.25, 3.25), (0.25, 9.25), (5.25, 9.25), (5.25, 1.25)])
    mask, band = seen(placed)
    np.testing.assert_array_equal(mask, block((1, 2, 5, 9)) & ~block((3, 4, 4, 6)))
    np.testing.assert_array_equal(band, frame(0, 1, 5, 9) | frame(2, 3, 4, 6))
    assert not band[1, 3]
    assert placed.repairs == (Repairs("GTV", "ROI", keyhole=1),)


def test_two_islands_joined_by_a_channel_with_a_spur(placed_in):
    left, right = rectangle(1.25, 1.25, 4.25, 3.25), rectangle(1.25, 6.25, 4.25, 9.25)
    contour = [*left[:2], *right, (1.25, 6.25), (1.25, 5.25), (3.25, 5.25), (1.25, 5.25), (1.25, 3.25), *left[2:]]
    placed = placed_in(contour)
    mask, band = seen(placed)
    np.testing.assert_array_equal(mask, block((2, 2, 4, 3), (2, 7, 4, 9)))
    np.testing.assert_array_equal(band, frame(1, 1, 4, 3) | frame(1, 6, 4, 9))
    assert placed.repairs == (Repairs("GTV", "ROI", keyhole=1, spur=1),)


def test_bow_tie_has_two_lobes(placed_in):
    """Its diagonals cross in (3.25, 5.25)."""
    placed = placed_in([(1.25, 1.25), (1.25, 9.25), (5.25, 1.25), (5.25, 9.25)])
    mask, _ = seen(placed)
    np.testing.assert_array_equal(mask, block((2, 3, 2, 7), (3, 5, 3, 5), (4, 4, 4, 6), (5, 2, 5, 8)))
    assert sorted(len(contour.points_yx_vox) for contour in placed.contours) == [3, 3]
    assert all([3.25, 5.25] in contour.points_yx_vox.tolist() for contour in placed.contours)
    assert placed.repairs == (Repairs("GTV", "ROI", crossing=1),)


def test_loop_that_is_wound_around_twice_is_inside(placed_in):
    """The pen leaves the lower side, draws a loop within, and crosses its own line at (4.25, 4.25)."""
    placed = placed_in(
        [(0.25, 0.25), (0.25, 9.25), (5.25, 9.25), (5.25, 4.25), (1.25, 4.25), (1.25, 7.25), (4.25, 7.25), (4.25, 0.25)]
    )
    mask, band = seen(placed)
    np.testing.assert_array_equal(mask, block((1, 1, 4, 9), (5, 5, 5, 9)))
    expected = block((0, 0, 0, 9), (0, 9, 5, 9), (5, 4, 5, 9), (4, 4, 5, 4), (4, 0, 4, 4), (0, 0, 4, 0))
    np.testing.assert_array_equal(band, expected)
    assert placed.repairs == (Repairs("GTV", "ROI", crossing=1),)


def test_end_that_runs_on_over_the_start(placed_in):
    """The second lap's first two sides lie within the first lap, and then along it."""
    placed = placed_in([*rectangle(0.25, 1.25, 5.25, 8.25), (2.25, 1.25), (2.25, 8.25), (5.25, 8.25), (5.25, 1.25)])
    mask, band = seen(placed)
    np.testing.assert_array_equal(mask, block((1, 2, 5, 8)))
    np.testing.assert_array_equal(band, frame(0, 1, 5, 8))


@pytest.mark.parametrize(
    "contour",
    [
        [(1, 1), (1, 9), (3, 5), (5, 9), (5, 1), (3, 5)],  # in a corner
        [(1, 1), (1, 9), (5, 9), (1, 5), (5, 1)],  # a corner on a line
    ],
)
def test_a_contour_that_only_touches_itself_is_not_changed(contour):
    points = np.array(contour, dtype=float)
    repaired = repair(points, closed=True)
    assert repaired.faults == ()
    np.testing.assert_array_equal(repaired.lines_yx_vox, [points])


@pytest.mark.parametrize(
    ("contour", "closed"),
    [
        ([(3, 5)] * 4, True),
        ([(3, 5), (3, 8), (3, 8)], True),
        ([(1, 2), (3, 5), (5, 8)], True),
        ([(1, 2), (5, 8), (3, 5), (7, 11), (2, 3.5)], True),
        ([(1, 2), (1, 4), (3, 4), (1, 4)], True),
        ([(3, 5), (3, 5)], False),
    ],
)
def test_without_extent(placed_in, contour, closed):
    placed = placed_in(contour, closed=closed)
    assert placed.contours == ()
    assert placed.repairs == (Repairs("GTV", "ROI", without_extent=1),)


def test_open_contours_keep_all_but_points_drawn_twice():
    line = np.array([(1, 2), (1, 2), (5, 2), (3, 4), (3, 4), (3, 0), (5, 2), (1, 2)], dtype=float)
    repaired = repair(line, closed=False)
    assert repaired.faults == ()
    np.testing.assert_array_equal(repaired.lines_yx_vox, [line[[0, 2, 3, 5, 6, 7]]])


OUTLINE = [(1.25, 2.5), (0.75, 7), (4.5, 8.25), (5.5, 3)]
REPEATS = {
    "same": OUTLINE,
    "another start": OUTLINE[2:] + OUTLINE[:2],
    "another direction": OUTLINE[::-1],
    "closing point": [*OUTLINE, OUTLINE[0]],
    "points twice": [OUTLINE[0], *OUTLINE, OUTLINE[3]],
    "additional point": [*OUTLINE[:2], (2.625, 7.625), *OUTLINE[2:]],
    "spur": [*OUTLINE, (6, 1), OUTLINE[3]],
    "rounded to 0.01 mm": (np.round(np.array(OUTLINE) * (0.7, 1.1), 2) / (0.7, 1.1)).tolist(),
}


@pytest.mark.parametrize("repeat", REPEATS.values(), ids=REPEATS)
def test_repeats_are_used_once(placed_in, repeat):
    placed = placed_in(OUTLINE, repeat, OUTLINE)
    assert placed.repairs == (Repairs("GTV", "ROI", repeated=2),)
    assert_same(placed, placed_in(OUTLINE))
    assert seen(placed)[0].sum() > 15


def test_open_repeats(placed_in):
    placed = placed_in(OUTLINE, OUTLINE[::-1], np.add(OUTLINE, (-0.2, 0.1)), OUTLINE[1:], closed=False)
    assert placed.repairs == (Repairs("GTV", "ROI", repeated=2),)
    assert len(placed.contours) == 2


@pytest.mark.parametrize("step", [(0.24, 0), (0.15, -0.18)])
def test_contours_a_quarter_of_a_voxel_apart_are_repeats(placed_in, step):
    """By even-odd, all would be left of the object is where only one of them is."""
    placed = placed_in(OUTLINE, np.add(OUTLINE, step), np.subtract(OUTLINE, step)[::-1])
    assert placed.repairs == (Repairs("GTV", "ROI", repeated=2),)
    assert_same(placed, placed_in(OUTLINE))


def test_a_disc_that_is_there_again_rounded_to_a_tenth_of_a_millimetre_stays(placed_in):
    angle = 2 * np.pi * np.arange(80) / 80
    disc = np.column_stack([3 + 2.9 * np.sin(angle), 5 + 4.4 * np.cos(angle)])
    placed = placed_in(disc, np.round(disc * (0.7, 1.1), 1) / (0.7, 1.1))
    assert placed.repairs == (Repairs("GTV", "ROI", repeated=1),)
    assert_same(placed, placed_in(disc))


def test_repeats_are_those_of_contours_that_are_used(placed_in):
    """The third is as far from the second as that is from the first, but twice as far from the first."""
    shifted = [np.add(OUTLINE, (0, 0.2 * k)) for k in range(4)]
    placed = placed_in(*shifted)
    assert [one.repeated for one in placed.repairs] == [2]
    np.testing.assert_allclose([one.points_yx_vox for one in placed.contours], [shifted[0], shifted[2]], atol=1e-6)


def test_small_contours_are_repeats_like_others(placed_in):
    pixel = rectangle(2.6, 4.6, 3.4, 5.4)
    placed = placed_in(pixel, np.add(pixel, (0.1, 0.2)), np.add(pixel, (0, 1)))
    assert placed.repairs == (Repairs("GTV", "ROI", repeated=1),)
    np.testing.assert_array_equal(seen(placed)[0], block((3, 5, 3, 6)))


def test_a_contour_close_to_another_is_no_repeat(placed_in):
    placed = placed_in(OUTLINE, np.add(OUTLINE, (0.3, 0)), np.add(np.array(OUTLINE) * 0.85, (0.45, 0.8)))
    assert placed.repairs == ()
    assert len(placed.contours) == 3


@pytest.mark.parametrize("inset", [0.3, 1])
def test_a_hole_close_to_its_ring_stays_a_hole(placed_in, inset):
    """Inset 0.3: the lines go 0.1 before and 0.2 behind the centres of the outer pixels."""
    placed = placed_in(rectangle(0.9, 1.9, 5.1, 8.1), rectangle(0.9 + inset, 1.9 + inset, 5.1 - inset, 8.1 - inset))
    assert placed.repairs == ()
    np.testing.assert_array_equal(seen(placed)[0], frame(1, 2, 5, 8))


def test_same_box_but_other_lines_are_no_repeat(placed_in):
    assert placed_in(rectangle(1, 2, 5, 7), [(1, 2), (1, 7), (5, 7)]).repairs == ()


def test_same_points_but_other_lines_are_no_repeat(placed_in):
    """A triangle that is pushed in to the point (2, 5) from above, or from the left."""
    placed = placed_in([(1, 2), (2, 5), (1, 9), (6, 2)], [(1, 2), (1, 9), (6, 2), (2, 5)])
    assert placed.repairs == ()
    assert len(placed.contours) == 2


def test_repairs_are_counted_per_object_and_source(grid, draw):
    spur = [*rectangle(1, 2, 5, 7), (3, 0), (5, 2)]
    contours = [
        draw(grid, 1, spur, "A", source="one"),
        draw(grid, 2, spur, "A", source="one"),
        draw(grid, 1, rectangle(1, 2, 5, 7), "A", source="two"),
        draw(grid, 2, [(1, 2)] * 3, "B", source="one"),
        draw(grid, 3, spur, "B", source="two"),
    ]
    placed = place(ContourSet(["A", "B"], contours), grid, case="c")
    assert placed.repairs == (
        Repairs("A", "one", spur=2),
        Repairs("B", "one", without_extent=1),
        Repairs("B", "two", spur=1),
    )
    assert placed.notes == (
        "2 contours with spurs of ROI 'one' freed of them",
        "1 contour without extent of ROI 'one' left out",
        "1 contour with spurs of ROI 'two' freed of them",
    )


@given(polygon=stars)
def test_a_contour_without_faults_stays_as_it_is(polygon):
    repaired = repair(polygon, closed=True)
    assert repaired.faults == ()
    (line,) = repaired.lines_yx_vox
    np.testing.assert_array_equal(line, polygon)


@given(polygon=st.one_of(tangles, stars), start=st.integers(0, 20), backwards=st.booleans())
def test_start_and_direction_do_not_matter(placed_in, polygon, start, backwards):
    placed = placed_in(polygon)
    other = placed_in(np.roll(polygon, start, axis=0)[:: -1 if backwards else 1])
    assert_same(placed, other)
    assert placed.repairs == other.repairs


@given(polygon=st.one_of(tangles, stars), data=st.data())
def test_spurs_and_points_drawn_twice_change_nothing(placed_in, polygon, data):
    at = data.draw(st.integers(0, len(polygon) - 1))
    tips = data.draw(st.lists(st.one_of(st.just(tuple(polygon[at])), points), min_size=1, max_size=3))
    out = [polygon[at], *tips]
    assert_same(placed_in(polygon), placed_in([*polygon[:at], *out, *out[::-1], *polygon[at:]]))


@given(polygon=tangles)
def test_what_is_repaired_has_no_faults(polygon):
    for line in repair(np.array(polygon, dtype=float), closed=True).lines_yx_vox:
        assert repair(line, closed=True).faults == ()


@given(
    outer=st.builds(star, st.integers(0, 2**32 - 1), st.integers(6, 12)),
    inner=st.builds(star, st.integers(0, 2**32 - 1), st.integers(6, 12), size_yx=st.just((1, 1.7))),
    backwards=st.booleans(),
)
def test_a_keyhole_is_its_two_rings(placed_in, outer, inner, backwards):
    """Even-odd of the two, whatever the direction; the channel may cross both."""
    ring = inner[::-1] if backwards else inner
    assert_same(placed_in([*outer, outer[0], *ring, ring[0]]), placed_in(outer, inner))


@given(polygon=tangles)
def test_inside_is_what_is_wound_around(placed_in, polygon):
    """By the sum of the angles under which the sides are seen; channels, which make holes of their own, left out."""
    polygon = np.array(polygon)
    placed = placed_in(polygon)
    if not any(repairs.keyhole for repairs in placed.repairs):
        corners = polygon[:, 0] + 1j * polygon[:, 1]
        centres = np.add.outer(np.arange(HEIGHT), 1j * np.arange(WIDTH))[..., None]
        angles = np.angle((np.roll(corners, -1) - centres) / (corners - centres))
        np.testing.assert_array_equal(seen(placed)[0], np.round(angles.sum(axis=-1) / (2 * np.pi)) != 0)
