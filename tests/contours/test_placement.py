"""Expected distances are derived by hand from the grid: shape (5, 7, 11), spacing x 1.1, y 0.7, z 3 mm."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_wsl.contours import Contour, ContourSet, Grid, Repairs, contour_voxels, drawn_slices, place, rasterise
from nnunet_wsl.errors import InputError

SQUARE = [(1, 1), (1, 4), (3, 4), (3, 1)]


def problems_of(contours, grid, objects=("GTV",), **options):
    with pytest.raises(InputError) as caught:
        place(ContourSet(objects, contours), grid, case="patient_007", **options)
    return caught.value.problems


def test_contour_lands_in_its_slice(grid, draw):
    placed = place(ContourSet(["GTV"], [draw(grid, 3, SQUARE)]), grid, case="c")
    (contour,) = placed.contours
    assert contour.slice_index == 3
    np.testing.assert_array_equal(contour.points_yx_vox, SQUARE)
    assert placed.notes == ()


@pytest.mark.parametrize("off", [-0.24, 0.24])
@pytest.mark.parametrize("k", [0, 2, 4])
def test_a_little_off_the_plane_is_the_slice(grid, draw, k, off):
    placed = place(ContourSet(["GTV"], [draw(grid, k + off, SQUARE)]), grid, case="c")
    assert drawn_slices(placed, "GTV").tolist() == [k]


@pytest.mark.parametrize(
    ("z", "slice_index", "off_mm"),
    [
        (1.26, 1, "0.78"),
        (1.6, 2, "1.20"),
        (0.73, 1, "0.81"),
        ([1.1, 1.1, 1.45, 1.45], 1, "1.35"),  # the farthest point counts
        ([1.52, 1.52, 1.3, 1.3], 1, "1.56"),  # and the slice nearest to the middle
    ],
)
def test_between_slices(grid, draw, z, slice_index, off_mm):
    (problem,) = problems_of([draw(grid, z, SQUARE)], grid)
    assert problem == (
        f"Case 'patient_007': contour 1 of ROI 'GTV' lies between slice planes: {off_mm} mm off slice "
        f"{slice_index} (allowed 0.75 mm, slices are 3.00 mm apart). Check that no slice of the series is missing "
        "and that the contours were drawn on this series."
    )


def test_tilted(grid, draw):
    (problem,) = problems_of([draw(grid, [1, 1, 3, 3], SQUARE)], grid)
    assert "contour 1 of ROI 'GTV' lies across slices instead of in one: its points spread over 6.00 mm" in problem
    assert "allowed 1.50 mm" in problem


def test_tilted_within_tolerance(grid, draw):
    placed = place(ContourSet(["GTV"], [draw(grid, [1.8, 1.8, 2.2, 2.2], SQUARE)]), grid, case="c")
    assert drawn_slices(placed, "GTV").tolist() == [2]


@pytest.mark.parametrize(("z", "end", "mm"), [(-1, "first", "3.00"), (5, "last", "3.00"), (6.5, "last", "7.50")])
def test_slice_that_the_image_lacks(grid, draw, z, end, mm):
    (problem,) = problems_of([draw(grid, z, SQUARE)], grid)
    assert f"lies {mm} mm beyond the {end} slice of the image" in problem
    assert "--outside clip" in problem


@pytest.mark.parametrize(
    ("corner_yx", "outside_mm", "allowed_mm"),
    [
        # The image ends at index 6.5 along y and 10.5 along x, and begins at -0.5.
        ((8.5, 4), "1.40", "0.35"),
        ((-2.5, 4), "1.40", "0.35"),
        ((2, 12.5), "2.20", "0.55"),
        ((2, -2.5), "2.20", "0.55"),
        ((7.02, 4), "0.36", "0.35"),
    ],
)
def test_outside_the_grid(grid, draw, corner_yx, outside_mm, allowed_mm):
    (problem,) = problems_of([draw(grid, 2, [*SQUARE, corner_yx])], grid)
    assert problem == (
        f"Case 'patient_007': contour 1 of ROI 'GTV' lies {outside_mm} mm outside the image grid (allowed "
        f"{allowed_mm} mm). Check that the contours were drawn on this image, or pass --outside clip."
    )


@pytest.mark.parametrize("corner_yx", [(6.98, 4), (-0.98, 4), (2, 10.98), (2, -0.98)])
def test_half_a_voxel_outside_is_tolerated(grid, draw, corner_yx):
    placed = place(ContourSet(["GTV"], [draw(grid, 2, [*SQUARE, corner_yx])]), grid, case="c")
    assert placed.clippings == ()
    assert rasterise(placed, "GTV").any()


def test_all_problems_together_with_numbers_within_the_source(grid, draw):
    contours = [
        draw(grid, 1.5, SQUARE, "A"),
        draw(grid, 1, SQUARE, "B"),
        draw(grid, 2, SQUARE, "A"),
        draw(grid, 9, SQUARE, "A"),
        draw(grid, 2, [(1, 1), (1, 40), (3, 4)], "B", source="ROI b"),
    ]
    problems = problems_of(contours, grid, ("A", "B"))
    assert [problem.split(" lies ")[0].removeprefix("Case 'patient_007': ") for problem in problems] == [
        "contour 1 of ROI 'A'",
        "contour 3 of ROI 'A'",
        "contour 1 of ROI 'ROI b'",
    ]


def test_many_contours_of_one_fault_are_one_problem(grid, draw):
    contours = [draw(grid, z, SQUARE) for z in (5, 1, 8, 6)]
    (problem,) = problems_of(contours, grid)
    assert problem == (
        "Case 'patient_007': contour 3, the worst of 3, of ROI 'GTV' lies 12.00 mm beyond the last slice of the "
        "image, where it has no slice. Check that the contours were drawn on this image, or pass --outside clip."
    )


def test_clip_cuts_and_says_how_much(grid, draw):
    """A 4 x 6 rectangle whose right half leaves the image, a slice that is not there, and one that fits."""
    half_out = [(0.5, 7.5), (0.5, 13.5), (4.5, 13.5), (4.5, 7.5)]
    contours = [draw(grid, 2, half_out), draw(grid, 6, SQUARE), draw(grid, 1, SQUARE)]

    placed = place(ContourSet(["GTV"], contours), grid, case="c", outside="clip")

    (clipping,) = placed.clippings
    assert clipping.source == "GTV"
    assert clipping.contours == 2
    pixel_mm2 = 1.1 * 0.7
    assert clipping.area_mm2 == pytest.approx((4 * 3 + 2 * 3) * pixel_mm2)
    assert clipping.farthest_mm == pytest.approx(1.5 * 3)  # from the image's end, half a slice past the last
    assert placed.notes == ("2 contours of ROI 'GTV' clipped: 13.9 mm2 outside the image, up to 4.5 mm away",)
    assert drawn_slices(placed, "GTV").tolist() == [1, 2]
    expected = np.zeros((7, 11), dtype=bool)
    expected[1:5, 8:11] = True
    np.testing.assert_array_equal(rasterise(placed, "GTV")[2], expected)
    # The cut leaves no contour along the border: only the left edge and two edges that end there.
    voxels = contour_voxels(placed, "GTV")
    touched = {(y, x) for z, y, x in voxels.tolist() if z == 2}
    assert touched == {(y, x) for y in range(1, 5) for x in (7, 8)} | {
        (y, x) for y in (0, 1, 4, 5) for x in range(8, 11)
    }


def test_clip_does_not_excuse_other_problems(grid, draw):
    problems = problems_of(
        [draw(grid, 9, SQUARE), draw(grid, 1.5, SQUARE), draw(grid, [0, 0, 4, 4], SQUARE)], grid, outside="clip"
    )
    assert len(problems) == 2
    assert "between slice planes" in problems[0]
    assert "across slices" in problems[1]


def test_clipped_open_contour_has_no_area(grid, draw):
    placed = place(
        ContourSet(["GTV"], [draw(grid, 2, [(1, 5), (1, 20), (4, 20)], closed=False)]),
        grid,
        case="c",
        outside="clip",
    )
    assert placed.clippings[0].area_mm2 == 0
    assert placed.clippings[0].farthest_mm == pytest.approx(9.5 * 1.1)


def test_a_contour_drawn_twice_counts_once(grid, draw):
    contours = [draw(grid, 2, SQUARE), draw(grid, 2, SQUARE), draw(grid, 3, SQUARE), draw(grid, 2, SQUARE, "B")]
    placed = place(ContourSet(["GTV", "B"], contours), grid, case="c")
    assert placed.repairs == (Repairs("GTV", "GTV", repeated=1),)
    assert placed.notes == ("1 repeated contour of ROI 'GTV' left out",)
    assert rasterise(placed, "GTV").sum() == 2 * rasterise(placed, "B").sum() > 0


def test_one_slice_image(draw):
    flat = Grid((1, 2, 3), (1.1, 0.7, 1), np.diag([1, -1, -1]), (1, 7, 11))
    placed = place(ContourSet(["GTV"], [draw(flat, 0, SQUARE)]), flat, case="c")
    assert drawn_slices(placed, "GTV").tolist() == [0]


def test_objects_without_contours_stay(grid, draw):
    placed = place(ContourSet(["empty", "GTV"], [draw(grid, 2, SQUARE)]), grid, case="c")
    assert placed.objects == ("empty", "GTV")
    assert placed.of("empty") == {}
    with pytest.raises(KeyError):
        placed.of("unknown")


def test_repetitions_are_found_across_the_border_of_a_voxel():
    """The same contour, exported twice; rounding puts one of them on the other side of a voxel's border."""
    square = np.array([(2.0, 2.0, 1.0), (2.0, 6.0, 1.0), (5.0, 6.0, 1.0), (5.0, 2.0, 1.0)])
    geometry = Grid((0, 0, 0), (1, 1, 1), np.eye(3), (3, 9, 11))
    for shift in (0, 1e-5, -1e-5):
        contours = [Contour("A", geometry.to_mm(points)) for points in (square, square + np.array([shift, -shift, 0]))]
        placed = place(ContourSet(["A"], contours), geometry, case="twice")
        assert len(placed.contours) == 1
        assert [one.repeated for one in placed.repairs] == [1]
