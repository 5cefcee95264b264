from __future__ import annotations

import numpy as np
import pytest

from nnunet_wsl.contours import Contour, ContourSet

TRIANGLE = [[0, 0, 0], [1, 0, 0], [0, 2, 0]]


@pytest.mark.parametrize(
    ("points", "closed", "message"),
    [
        (TRIANGLE[:2], True, "a closed contour needs 3 points or more, and has 2"),
        (TRIANGLE[:1], False, "an open contour needs 2 points or more, and has 1"),
        (np.zeros((3, 2)), True, "shape \\(N, 3\\)"),
        (np.zeros(9), True, "shape \\(N, 3\\)"),
        ([[0, 0, 0], [1, 0, np.nan], [0, 2, 0]], True, "numbers of at most"),
        ([[0, 0, 0], [1, 0, -1e307], [0, 2, 0]], True, "numbers of at most"),
        ([[0, 0, 0], [1, 0, np.inf], [0, 2, 0]], True, "numbers of at most"),
    ],
)
def test_impossible_contours_are_refused(points, closed, message):
    with pytest.raises(ValueError, match=message):
        Contour("GTV", points, closed)


def test_points_cannot_change():
    points = np.array(TRIANGLE, dtype=float)
    contour = Contour("GTV", points)
    points[0] = 99
    np.testing.assert_array_equal(contour.points_mm, TRIANGLE)
    with pytest.raises(ValueError, match="read-only"):
        contour.points_mm[0] = 99


def test_objects_are_listed_once_and_own_all_contours():
    with pytest.raises(ValueError, match="differ: A, A"):
        ContourSet(["A", "A"], [])
    with pytest.raises(ValueError, match="not listed: B"):
        ContourSet(["A"], [Contour("B", TRIANGLE)])


def test_selected_renames_unites_and_remembers_the_source():
    a1, b, a2 = Contour("a", TRIANGLE), Contour("b", TRIANGLE), Contour("a", TRIANGLE, closed=False)
    contour_set = ContourSet(["a", "empty", "b", "unused"], [a1, b, a2])

    selected = contour_set.selected({"both": ["b", "a"], "nothing": ["empty"], "again": ["a"]})

    assert selected.objects == ("both", "nothing", "again")
    assert [(c.object, c.source, c.closed) for c in selected.contours] == [
        ("both", "b", True),
        ("both", "a", True),
        ("both", "a", False),
        ("again", "a", True),
        ("again", "a", False),
    ]
    assert selected.of("nothing") == ()


def test_selecting_what_is_not_there_fails():
    with pytest.raises(KeyError, match="c"):
        ContourSet(["a"], []).selected({"label": ["c"]})


def test_what_is_annotated_belongs_to_the_contour_set():
    """A union is known where all its parts are, if that is said of all of them."""
    annotated = {"a": (1, 2, 5), "b": "all", "c": (2, 3)}
    contour_set = ContourSet(["a", "b", "c", "d"], [], annotated)
    united = {"ab": ["a", "b"], "abc": ["a", "b", "c"], "b": ["b"], "ad": ["a", "d"], "none": []}
    assert contour_set.selected(united).annotated == {"ab": (1, 2, 5), "abc": (2,), "b": "all"}
    assert ContourSet(["a"], []).annotated == {}
    with pytest.raises(ValueError, match="not listed: B"):
        ContourSet(["A"], [], {"B": "all"})
