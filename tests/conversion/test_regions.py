from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_wsl.conversion.annotation import label_map
from nnunet_wsl.conversion.cropped import CroppedMask
from nnunet_wsl.conversion.regions import LabelValues, Relations, Status, combine, count_pairs, count_statuses
from nnunet_wsl.errors import InputError

K, U = True, False
SHAPE = (5, 7, 11)
A, B, C = range(3)


def truth_table():
    """Objects A in B, and C, which overlaps B. On slice 1 A is unknown (and not drawn), on 2 B, on 3 C, on 4 all.

    The voxels x 0..5 of row 2 truly are in A and B; B; C; B and C; B and C; nothing.
    """
    truth = np.zeros((3, *SHAPE), bool)
    truth[A, :, 2, 0] = True
    truth[B, :, 2, [0, 1, 3, 4]] = True
    truth[C, :, 2, [2, 3, 4]] = True
    known = np.array([[K, U, K, K, U], [K, K, U, K, U], [K, K, K, U, U]])
    return truth & known[:, :, None, None], known


def values_of(masks, known, volumes_mm3=(10, 100, 50)):
    codes, statuses = combine(cropped(masks), voxelwise(known, masks))
    values = values_of_counts(count_statuses(codes, statuses), volumes_mm3[: len(masks)])
    return values, values.label_map(codes, statuses)


def values_of_counts(counts, volumes_mm3, *, names="ABCDEFGH", interpolated=None):
    """The values where all is drawn, or all but some voxels that are interpolated."""
    num_objects = len(volumes_mm3)
    relations = Relations.of(count_pairs(counts, num_objects))
    everything = counts + (interpolated or Counter())
    return LabelValues.of_combinations(list(names[:num_objects]), relations, everything, volumes_mm3)


def counted(numbers):
    """Counts of voxels by (inside, unknown)."""
    return Counter({Status(*status): number for status, number in numbers.items()})


def voxelwise(known, masks):
    """Cropped masks, known slice by slice: the window of an object is where it is."""
    found = []
    for of_object, mask in zip(known, cropped(masks), strict=True):
        values = np.broadcast_to(of_object[:, None, None], mask.values.shape)
        found.append(CroppedMask(values, mask.window, of_object, mask.shape_zyx))
    return found


def cropped(masks):
    return [CroppedMask.of(mask) for mask in masks]


def test_truth_table():
    """Occurring combinations: B = 1, C = 2, AB = 3, BC = 4; ignore = 5. A never occurs outside B."""
    values, labels = values_of(*truth_table())
    assert values.combinations == ((B,), (C,), (A, B), (B, C))
    assert labels.dtype == np.uint8
    assert labels[:, 2, :6].tolist() == [
        [3, 1, 2, 4, 4, 0],
        # in B, A unknown: B or AB; in C or in B and C: A is never there; outside all: A is never there alone
        [5, 5, 2, 4, 4, 0],
        # in A: always in B too; in C: C or BC; outside: nothing or B
        [3, 5, 5, 5, 5, 5],
        # in AB: C is never there; in B: B or BC; outside: nothing or C
        [3, 5, 5, 5, 5, 5],
        [5, 5, 5, 5, 5, 5],
    ]
    outside = np.ones(SHAPE, bool)
    outside[:, 2, :6] = False
    for k, label in enumerate([0, 0, 5, 5, 5]):
        assert (labels[k][outside[k]] == label).all()


def test_what_nnunet_makes_of_the_truth_table():
    masks, known = truth_table()
    values, labels = values_of(masks, known)
    content = values.dataset_labels(has_ignore=True)
    assert content == {"background": 0, "B": [1, 3, 4], "C": [2, 4], "A": 3, "ignore": 5}
    assert list(content) == ["background", "B", "C", "A", "ignore"]  # from the outermost to the innermost
    assert values.written == (1, 4, 3)  # C is in B twice and alone once
    manager = LabelManager(content, list(values.written))
    assert manager.has_regions
    assert manager.ignore_label == 5
    assert manager.all_labels == [0, 1, 2, 3, 4]
    for k, region in zip((B, C, A), manager.foreground_regions, strict=True):
        np.testing.assert_array_equal(np.isin(labels[0], region), masks[k][0])
    predicted = np.stack([masks[k][0] for k in (B, C, A)]).astype(np.float32)
    assert manager.convert_probabilities_to_segmentation(predicted)[2, :6].tolist() == [3, 1, 4, 4, 4, 0]
    assert [values.innermost(value) for value in (1, 2, 3, 4)] == [B, C, A, C]


@pytest.mark.parametrize(("beyond", "determined"), [(2, True), (3, False)])
def test_rounding_where_borders_touch_leaves_other_voxels_determined(beyond, determined):
    """A has 216 voxels on slices 0 to 3, of which 2 (0.9 %) or 3 (1.4 %) are not in B. On slice 4 B is unknown."""
    masks = np.zeros((2, *SHAPE), bool)
    masks[A, :4, 1:7, 1:10] = masks[B, :4, :, :10] = True
    masks[B, 0, 1, 1 : 1 + beyond] = False
    masks[A, 4, 3, 5] = True
    values, labels = values_of(masks, np.array([[K] * 5, [K, K, K, K, U]]))
    assert values.combinations == ((A,), (B,), (A, B))
    assert (labels[0, 1, 1 : 1 + beyond] == 1).all()
    assert labels[4, 3, 5] == (3 if determined else values.ignore)
    assert (np.delete(labels[4].ravel(), 3 * 11 + 5) == values.ignore).all()


def test_an_object_that_is_only_drawn_where_others_are_unknown():
    """B is unknown everywhere, so whether A lies in it, or B in A, is unknown too."""
    masks = np.zeros((2, *SHAPE), bool)
    masks[0, 1, 2, 3] = True
    values, labels = values_of(masks, np.array([[K] * 5, [U] * 5]))
    assert values.combinations == ((0,), (1,))
    assert (labels == 3).all()
    assert not values.has_regions


def test_objects_that_are_never_known_together_may_overlap():
    """A is drawn on even slices, B around it on odd ones: in A nothing is known of B, in B nothing of A."""
    masks = np.zeros((2, *SHAPE), bool)
    masks[A, ::2, 2, 3] = masks[B, 1::2, 1:4, 2:5] = True
    known = np.array([[K, U, K, U, K], [U, K, U, K, U]])
    _, labels = values_of(masks, known)
    assert (labels == 3).all()
    first, labels = prioritised(masks, known)
    assert (labels[::2, 2, 3] == 1).all()  # whatever B is there
    assert np.count_nonzero(labels != first.ignore) == 3


def prioritised(masks, known):
    codes, statuses = combine(cropped(masks), voxelwise(known, masks))
    counts = count_statuses(codes, statuses)
    relations = Relations.of(count_pairs(counts, len(masks)))
    values = LabelValues.by_priority(["A", "B", "C"][: len(masks)], relations)
    return values, values.label_map(codes, statuses)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        # A first. In B, A unknown: A or B; outside B there is no A; in A, B unknown: A all the same.
        ((A, B), [[1, 2, 0], [3, 3, 0], [1, 3, 3], [3, 3, 3]]),
        # B first. In A, B unknown: always in B too.
        ((B, A), [[1, 1, 0], [1, 1, 0], [1, 3, 3], [3, 3, 3]]),
    ],
)
def test_the_first_object_counts(order, expected):
    """A in B, at voxel 0; voxel 1 in B, voxel 2 in neither. On slice 1 A is unknown, on 2 B, on 3 both."""
    masks = np.zeros((2, 4, 7, 11), bool)
    masks[A, :, 2, 0] = masks[B, :, 2, :2] = True
    known = np.array([[K, U, K, U], [K, K, U, U]])
    masks &= known[:, :, None, None]
    values, labels = prioritised(masks[list(order)], known[list(order)])
    assert labels[:, 2, :3].tolist() == expected
    assert values.dataset_labels(has_ignore=True) == {"background": 0, "A": 1, "B": 2, "ignore": 3}


@pytest.mark.parametrize("other", [[], [((2,), ())], [((0, 1, 2), ())]])
def test_objects_that_are_the_same(other):
    """nnU-Net would take the labels {a: 1, b: 1} for one object, with C apart as much as without it."""
    counts = counted({((), ()): 500, ((0, 1), ()): 20, ((0,), (1,)): 5, **dict.fromkeys(other, 10)})
    with pytest.raises(InputError, match=r"^Labels 'A' and 'B' are the same: .* Leave one of them out"):
        values_of_counts(counts, [1.0] * (3 if other else 2))


def test_all_objects_that_are_the_same_are_named_together():
    counts = counted({((0, 1, 3), ()): 20, ((2, 4), ()): 10})
    with pytest.raises(InputError) as caught:
        values_of_counts(counts, [1.0] * 5)
    assert [problem.split(" are the same")[0] for problem in caught.value.problems] == [
        "Labels 'A' and 'B' and 'D'",
        "Labels 'C' and 'E'",
    ]


def test_more_combinations_than_values():
    counts = counted({(tuple(k for k in range(8) if code >> k & 1), ()): 1 for code in range(1, 256)})
    with pytest.raises(InputError, match=r"overlap in 255 combinations; expected at most 254.*--overlap priority"):
        values_of_counts(counts, [1.0] * 8)


def test_an_interpolation_that_contradicts_the_contours_does_not_count():
    """Drawn A lies in B, and drawn C apart from both. Interpolated A sticks out of B, by however much, or meets C."""
    counts = counted({((), ()): 5000, ((B,), ()): 900, ((A, B), ()): 400, ((C,), ()): 70})
    alone, in_unknown = Status((), (), (A,)), Status((), (B,), (A,))
    in_b, in_c, c_in_b = Status((B,), (), (A,)), Status((C,), (), (A,)), Status((B,), (), (C,))
    interpolated = Counter({alone: 300, in_unknown: 50, in_b: 70, in_c: 30, c_in_b: 30})
    values = values_of_counts(counts, [10, 100, 50], interpolated=interpolated)
    assert values.combinations == ((B,), (C,), (A, B))
    assert [values.determined(one) for one in (alone, in_unknown, in_b, in_c, c_in_b)] == [0, 3, 3, 2, 1]
    first = LabelValues.by_priority(["A", "B", "C"], values.relations)
    assert [first.determined(one) for one in (alone, in_unknown, in_b, in_c, c_in_b)] == [0, 1, 1, 3, 2]


def test_two_interpolations_that_contradict_each_other_are_unknown():
    values = values_of_counts(counted({((), ()): 5000, ((A,), ()): 900, ((B,), ()): 900}), [90, 100])
    assert values.determined(Status((), (), (A, B))) == values.ignore


def test_a_rare_combination_that_is_drawn_counts():
    counts = counted({((), ()): 5000, ((A,), ()): 900, ((B,), ()): 900, ((A, B), ()): 3})
    values = values_of_counts(counts, [90, 100])
    assert values.combinations == ((A,), (B,), (A, B))
    assert values.determined(Status((A,), (B,))) == 1  # hardly ever both
    assert values.determined(Status((B,), (), (A,))) == 2  # drawn
    first = LabelValues.by_priority(["A", "B"], values.relations)
    assert first.determined(Status((A, B), ())) == 1
    assert first.determined(Status((B,), (), (A,))) == 2


def test_what_lies_inside_is_written_last():
    """By its volume the inner object would be the outer one: the other one was drawn on few slices, say."""
    counts = counted({((), ()): 5000, ((B,), ()): 500, ((A, B), ()): 400})
    values = values_of_counts(counts, [100, 10])
    assert values.order == (B, A)
    assert values.written == (1, 2)
    assert values.dataset_labels(has_ignore=False) == {"background": 0, "B": [1, 2], "A": 2}


masks_and_knowledge = st.tuples(
    arrays.arrays(bool, (3, 2, 3, 4)),
    arrays.arrays(bool, (3, 2)),
)


@given(masks_and_knowledge)
def test_every_voxel_has_its_status(case):
    masks, known = case
    codes, statuses = combine(cropped(masks), voxelwise(known, masks))
    for voxel in np.ndindex(codes.shape):
        assert statuses[codes[voxel]] == (
            tuple(k for k in range(3) if masks[(k, *voxel)]),
            tuple(k for k in range(3) if not masks[(k, *voxel)] and not known[k, voxel[0]]),
            (),
        )
    counts = count_statuses(codes, statuses)
    assert all(counts[status] == np.count_nonzero(codes == code) for code, status in enumerate(statuses))
    assert sum(counts.values()) == codes.size


@given(masks_and_knowledge)
def test_labels_never_contradict_the_annotation(case):
    masks, known = case
    try:
        values, labels = values_of(masks, known)
    except InputError:
        reject()  # objects that are the same
    for voxel in np.ndindex(labels.shape):
        if labels[voxel] == values.ignore:
            assert not known[:, voxel[0]].all()
            continue
        members = () if labels[voxel] == 0 else values.combinations[labels[voxel] - 1]
        for k in range(3):
            if masks[(k, *voxel)]:
                assert k in members
            elif known[k, voxel[0]]:
                assert k not in members


@given(masks_and_knowledge)
def test_without_overlap_the_labels_are_the_plain_ones(case):
    """But where the objects might overlap, for all that is known."""
    masks, known = case
    masks[1] &= ~masks[0]
    masks[2] &= ~masks[0] & ~masks[1]
    plain = label_map(cropped(masks), voxelwise(known, masks))
    for values, labels in (values_of(masks, known), prioritised(masks, known)):
        assert values.combinations == ((0,), (1,), (2,))
        assert ((labels == plain) | (labels == values.ignore)).all()
        if known.all():
            np.testing.assert_array_equal(labels, plain)


@given(masks_and_knowledge)
def test_no_label_is_wrong_if_some_case_shows_how_objects_lie_to_each_other(case):
    """Slices 2 and 3 are slices 0 and 1 again, where all is known."""
    masks, known = case
    truth = np.concatenate([masks, masks], axis=1)
    known = np.concatenate([known, np.ones_like(known)], axis=1)
    drawn = truth & known[:, :, None, None]
    values, labels = prioritised(drawn, known)
    firsts = np.where(truth.any(axis=0), truth.argmax(axis=0) + 1, 0)
    assert ((labels == firsts) | (labels == values.ignore)).all()
    try:
        values, labels = values_of(drawn, known)
    except InputError:
        return  # objects that are the same
    for voxel in np.argwhere(labels != values.ignore):
        members = tuple(np.flatnonzero(truth[(slice(None), *voxel)]).tolist())
        label = labels[tuple(voxel)]
        assert (values.combinations[label - 1] if label else ()) == members


def test_objects_that_share_much_of_the_smaller_one_may_overlap():
    """B has 200 times the voxels of A, of which a fifth lies in B."""
    counts = counted({((), ()): 50000, ((A,), ()): 80, ((A, B), ()): 20, ((B,), ()): 20000})
    assert not Relations.of(count_pairs(counts, 2)).disjoint[A, B]
    values = values_of_counts(counts, [10, 100])
    assert values.determined(Status((A,), (B,))) == values.ignore


def test_what_follows_and_does_not_follow_is_unknown():
    """A is always in C, B never; where A and B are both drawn, nothing is known of C."""
    counts = counted({((), ()): 5000, ((C,), ()): 500, ((A, C), ()): 400, ((B,), ()): 300, ((A, B), (C,)): 5})
    values = values_of_counts(counts, [50, 60, 100])
    assert values.determined(Status((A, B), (C,))) == values.ignore
