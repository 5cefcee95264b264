from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_wsl.conversion.annotation import label_map, slice_knowledge, usual_step
from nnunet_wsl.conversion.cropped import CroppedMask

K, U = True, False


@pytest.mark.parametrize(
    ("rule", "drawn", "known", "step", "gaps"),
    [
        # dense: an undrawn slice means absent, also in a gap, which is reported
        ("auto", [1, 2, 3], [K, K, K, K, K, K, K], 1, ()),
        ("auto", [1, 2, 3, 5], [K, K, K, K, K, K, K], 1, ((3, 5),)),
        # every second slice: those between are unknown, and those outside the range that are nearer than a step
        ("auto", [1, 3, 5], [U, K, U, K, U, K, U], 2, ()),
        ("auto", [2, 4], [K, U, K, U, K, U, K], 2, ()),
        ("auto", [3, 6], [K, U, U, K, U, U, K], 3, ()),
        ("auto", [0, 2, 6], [K, U, K, U, U, U, K], 2, ((2, 6),)),
        # steps 3 and 1 tie: the smaller one wins
        ("auto", [1, 4, 5], [K, K, K, K, K, K, K], 1, ((1, 4),)),
        ("auto", [1, 3, 4, 6], [U, K, U, K, K, U, K], 2, ()),
        # nothing tells the step
        ("auto", [3], [U, U, U, K, U, U, U], 0, ()),
        ("all", [3], [K, K, K, K, K, K, K], 1, ()),
        ("auto", [], [K, K, K, K, K, K, K], 1, ()),
        ("all", [1, 3, 5], [K, K, K, K, K, K, K], 2, ()),
        ("contoured", [1, 2, 5], [U, K, K, U, U, K, U], 1, ((2, 5),)),
        ("contoured", [], [U, U, U, U, U, U, U], 1, ()),
    ],
)
def test_slice_knowledge(rule, drawn, known, step, gaps):
    found = slice_knowledge(np.array(drawn, np.int64), 7, rule)
    assert found.known.tolist() == known
    assert not found.partial.any()
    assert (found.step, found.gaps) == (step, gaps)


@pytest.mark.parametrize(
    ("drawn", "step"),
    [
        ([[0, 4, 8], [4]], 4),
        ([[0, 4, 8], [4, 5]], 4),
        ([[2], []], None),
        ([], None),
        # two of 3 within one object and two of 2 over two objects tie: the smaller one wins
        ([[0, 3, 6], [1, 3], [4, 6]], 2),
    ],
)
def test_usual_step_over_all_objects(drawn, step):
    assert usual_step([np.array(of_object, np.int64) for of_object in drawn]) == step


@pytest.mark.parametrize(
    ("drawn", "case_step", "margin", "known", "step"),
    [
        # the others are drawn on every slice: absent where it is not drawn
        ([3], 1, None, [K, K, K, K, K, K, K], 1),
        # on every third slice: they may all have been drawn on 0, 3 and 6; nobody looked at those between
        ([3], 3, None, [K, U, U, K, U, U, K], 3),
        ([1], 3, None, [U, K, U, U, K, K, K], 3),
        ([3], 2, 2, [K, U, U, K, U, U, K], 2),
        ([3], 3, 0, [K, K, K, K, K, K, K], 3),
        # its own step comes first
        ([1, 3], 1, None, [U, K, U, K, U, K, K], 2),
        ([], 3, None, [K, K, K, K, K, K, K], 3),
    ],
)
def test_a_single_drawn_slice_takes_the_step_of_the_case(drawn, case_step, margin, known, step):
    found = slice_knowledge(np.array(drawn, np.int64), 7, case_step=case_step, margin=margin)
    assert found.known.tolist() == known
    assert (found.step, found.gaps) == (step, ())


def test_the_only_slice_of_an_image_is_known():
    found = slice_knowledge(np.array([0]), 1)
    assert found.known.tolist() == [K]
    assert found.step == 1


@pytest.mark.parametrize("rule", ["auto", "all", "contoured"])
def test_a_slice_with_an_open_contour_is_drawn_but_not_known(rule):
    found = slice_knowledge(np.array([1, 2, 3]), 7, rule, open_slices=[2])
    outside = rule != "contoured"
    assert found.known.tolist() == [outside, K, U, K, outside, outside, outside]
    assert np.flatnonzero(found.partial).tolist() == [2]
    assert (found.step, found.gaps) == (1, ())


@pytest.mark.parametrize(
    ("rule", "drawn", "margin", "known"),
    [
        ("auto", [2, 4], 1, [K, U, K, U, K, U, K]),
        ("auto", [1, 3, 5], 0, [K, K, U, K, U, K, K]),
        ("auto", [1, 2], 2, [U, K, K, U, U, K, K]),
        ("all", [1, 3], 1, [U, K, K, K, U, K, K]),
        ("contoured", [3], 1, [U, U, U, K, U, U, U]),
        ("auto", [0, 6], 9, [K, U, U, U, U, U, K]),
        ("auto", [], 2, [K, K, K, K, K, K, K]),
    ],
)
def test_margin_beyond_the_drawn_slices(rule, drawn, margin, known):
    assert slice_knowledge(np.array(drawn, np.int64), 7, rule, margin=margin).known.tolist() == known


def test_listed_slices_are_the_known_ones():
    """What is drawn on slice 3 is not said to be complete; the contour on slice 5 is open."""
    found = slice_knowledge(np.array([1, 3, 5]), 7, "all", [5], listed=[0, 1, 5])
    assert found.known.tolist() == [K, K, U, U, U, U, U]
    assert np.flatnonzero(found.partial).tolist() == [3, 5]
    assert (found.step, found.gaps) == (2, ())


def test_margin_around_listed_slices():
    found = slice_knowledge(np.array([2, 3]), 7, listed=[0, 1, 2, 3, 4, 5], margin=1)
    assert found.known.tolist() == [K, U, K, K, U, K, U]


@given(st.sets(st.integers(0, 20), min_size=1), st.sampled_from(["auto", "all", "contoured"]))
def test_drawn_slices_are_always_known(drawn, rule):
    drawn = np.array(sorted(drawn))
    assert slice_knowledge(drawn, 21, rule).known[drawn].all()


def test_label_map_truth_table():
    """Objects A (label 1) and B (label 2), ignore 3; one slice per row, four voxels: in A, in B, in both, in neither.

    A is unknown on slices 1 and 3, B on slices 2 and 3. What is drawn is known everywhere.
    """
    in_a = np.zeros((5, 7, 11), bool)
    in_b = np.zeros((5, 7, 11), bool)
    in_a[:4, 2, [0, 2]] = True
    in_b[:4, 2, [1, 2]] = True
    known_a = np.array([K, U, K, U, K])
    known_b = np.array([K, K, U, U, K])
    inside = [CroppedMask.of(in_a), CroppedMask.of(in_b)]
    known = [
        CroppedMask(np.broadcast_to(of_object[:, None, None], mask.values.shape), mask.window, of_object, (5, 7, 11))
        for of_object, mask in zip((known_a, known_b), inside, strict=True)
    ]
    labels = label_map(inside, known)
    assert labels.dtype == np.uint8
    assert labels[:, 2, :4].tolist() == [
        [1, 2, 1, 0],
        [1, 2, 1, 3],
        [1, 2, 1, 3],
        [1, 2, 1, 3],
        [0, 0, 0, 0],
    ]
    for k, outside in enumerate([0, 3, 3, 3, 0]):
        assert (labels[k, 3:] == outside).all()
        assert (labels[k, :2] == outside).all()
