from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_wsl.conversion.annotation import label_map
from nnunet_wsl.conversion.regions import LabelValues, combine, count_statuses
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
    codes, statuses = combine(masks, voxelwise(known, masks))
    values = LabelValues.of_combinations(
        ["A", "B", "C"][: len(masks)], count_statuses(codes, statuses), volumes_mm3[: len(masks)]
    )
    return values, values.label_map(codes, statuses)


def voxelwise(known, masks):
    return [np.broadcast_to(of_object[:, None, None], mask.shape) for of_object, mask in zip(known, masks, strict=True)]


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


def test_an_object_that_is_only_drawn_where_others_are_unknown():
    """B is unknown everywhere, so whether A lies in it is unknown too, but no combination of both occurs."""
    masks = np.zeros((2, *SHAPE), bool)
    masks[0, 1, 2, 3] = True
    values, labels = values_of(masks, np.array([[K] * 5, [U] * 5]))
    assert values.combinations == ((0,), (1,))
    assert labels[1, 2, 3] == 1
    assert np.count_nonzero(labels == 3) == labels.size - 1
    assert not values.has_regions


def test_objects_that_are_the_same():
    masks = np.zeros((2, *SHAPE), bool)
    masks[:, 1, 2, 3] = True
    values, labels = values_of(masks, np.ones((2, 5), bool))
    assert values.combinations == ((0, 1),)
    assert values.dataset_labels(has_ignore=False) == {"background": 0, "B": 1, "A": 1}
    assert values.written == (1, 1)
    assert labels.sum() == 1


def test_more_combinations_than_values():
    objects = [str(k) for k in range(8)]
    counts = Counter({(tuple(k for k in range(8) if code >> k & 1), ()): 1 for code in range(1, 256)})
    with pytest.raises(InputError, match=r"overlap in 255 combinations; expected at most 254.*--overlap priority"):
        LabelValues.of_combinations(objects, counts, [1.0] * 8)


masks_and_knowledge = st.tuples(
    arrays.arrays(bool, (3, 2, 3, 4)),
    arrays.arrays(bool, (3, 2)),
)


@given(masks_and_knowledge)
def test_every_voxel_has_its_status(case):
    masks, known = case
    codes, statuses = combine(masks, voxelwise(known, masks))
    for voxel in np.ndindex(codes.shape):
        assert statuses[codes[voxel]] == (
            tuple(k for k in range(3) if masks[(k, *voxel)]),
            tuple(k for k in range(3) if not masks[(k, *voxel)] and not known[k, voxel[0]]),
        )
    counts = count_statuses(codes, statuses)
    assert all(counts[status] == np.count_nonzero(codes == code) for code, status in enumerate(statuses))
    assert sum(counts.values()) == codes.size


@given(masks_and_knowledge)
def test_labels_never_contradict_the_annotation(case):
    masks, known = case
    values, labels = values_of(masks, known)
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
    masks, known = case
    masks[1] &= ~masks[0]
    masks[2] &= ~masks[0] & ~masks[1]
    values, labels = values_of(masks, known)
    assert values.combinations == ((0,), (1,), (2,))
    np.testing.assert_array_equal(labels, label_map(masks, voxelwise(known, masks)))
