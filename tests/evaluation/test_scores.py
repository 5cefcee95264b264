from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.evaluation.evaluate_predictions import compute_tp_fp_fn_tn, region_or_label_to_mask

from nnunet_wsl.errors import InputError
from nnunet_wsl.evaluation import ScoredLabels, score_label_maps, surface_metrics

SHAPE, SPACING_MM = (5, 7, 11), (3.0, 0.7, 1.1)
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}


def labels_of(**labels):
    return ScoredLabels.from_dataset_json({"labels": {"background": 0, **labels}}, "dataset.json")


def random_maps(seed, values):
    rng = np.random.default_rng(seed)
    ref = np.kron(rng.integers(0, values + 1, (2, 3, 4)), np.ones((3, 3, 3), int))[:5, :7, :11]
    noise = rng.random(SHAPE) < 0.2
    pred = np.where(noise | (ref == values), rng.integers(0, values, SHAPE), ref)
    return pred, ref


def test_keys_and_values_are_those_of_nnunet():
    plain = labels_of(a=1, b=3, ignore=4)
    assert [(o.key, o.name, o.values) for o in plain.objects] == [("1", "a", (1,)), ("3", "b", (3,))]
    assert plain.ignore == 4
    assert plain.predictable == {0, 1, 3}
    regions = ScoredLabels.from_dataset_json({"labels": REGIONS}, "dataset.json")
    assert [o.key for o in regions.objects] == ["(1, 2, 3)", "(2, 3)", "3"]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_counts_are_those_of_nnunet_with_regions_and_ignore(seed):
    pred, ref = random_maps(seed, 4)
    scores = score_label_maps(pred, ref, SPACING_MM, ScoredLabels.from_dataset_json({"labels": REGIONS}, "json"))
    for key, values in (("(1, 2, 3)", (1, 2, 3)), ("(2, 3)", (2, 3)), ("3", 3)):
        masks = region_or_label_to_mask(ref, values), region_or_label_to_mask(pred, values)
        assert (scores[key].tp, scores[key].fp, scores[key].fn, scores[key].tn) == compute_tp_fp_fn_tn(*masks, ref == 4)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_cropping_to_the_object_changes_nothing(seed):
    pred, ref = random_maps(seed, 3)
    scores = score_label_maps(pred, ref, SPACING_MM, labels_of(a=1, b=2, ignore=3))
    for value in (1, 2):
        whole = surface_metrics(pred == value, ref == value, SPACING_MM, 1.0, scored=ref != 3)
        found = scores[str(value)].surface
        assert [found.nsd, found.hd95_mm, found.assd_mm] == pytest.approx(
            [whole.nsd, whole.hd95_mm, whole.assd_mm], nan_ok=True
        )


def test_ignored_voxel_beside_the_bounding_box_counts():
    ref = np.zeros(SHAPE, int)
    ref[2, 3, 3:6] = 1
    pred = ref.copy()
    ref[2, 3, 6] = 2
    scores = score_label_maps(pred, ref, SPACING_MM, labels_of(a=1, ignore=2))["1"]
    expected = surface_metrics(pred == 1, ref == 1, SPACING_MM, 1.0, scored=ref != 2)
    assert scores.surface == expected
    pred[2, 3, 6] = 1  # nobody knows whether this is wrong
    assert score_label_maps(pred, ref, SPACING_MM, labels_of(a=1, ignore=2))["1"] == scores


def test_one_voxel_too_many():
    # Reference 2 voxels, prediction 3; voxel 3 x 0.7 x 1.1 = 2.31 mm3.
    ref = np.zeros(SHAPE, int)
    ref[2, 3, 4:6] = 1
    pred = ref.copy()
    pred[2, 3, 6] = 1
    scores = score_label_maps(pred, ref, SPACING_MM, labels_of(a=1))["1"]
    assert (scores.tp, scores.fp, scores.fn, scores.tn) == (2, 1, 0, 5 * 7 * 11 - 3)
    assert scores.dice == pytest.approx(4 / 5)
    assert scores.iou == pytest.approx(2 / 3)
    assert scores.volume_difference_mm3 == pytest.approx(2.31)


@pytest.mark.parametrize("axis", [1, 2])
def test_one_slice_along_any_axis_is_measured_in_its_plane(axis):
    ref = np.zeros((1, 20, 30), np.uint8)
    ref[0, 5:15, 8:18] = 1
    pred = np.roll(ref, 3, axis=2)
    spacing_mm = [5.0, 0.7, 1.1]
    labels = labels_of(a=1)
    expected = score_label_maps(pred, ref, spacing_mm, labels)
    spacing_mm.insert(axis, spacing_mm.pop(0))
    turned = [np.moveaxis(label_map, 0, axis) for label_map in (pred, ref)]
    assert score_label_maps(*turned, spacing_mm, labels) == expected


def test_one_slice_is_measured_in_its_plane():
    # In the plane, squares of one voxel two columns apart: corners 1.1 and 2.2 mm from the other. As a volume the
    # slices above and below would count as surface.
    ref, pred = np.zeros((1, 7, 11), int), np.zeros((1, 7, 11), int)
    ref[0, 3, 4] = pred[0, 3, 6] = 1
    scores = score_label_maps(pred, ref, (2.0, 0.7, 1.1), labels_of(a=1))["1"]
    assert scores.surface.assd_mm == pytest.approx(1.65)
    assert scores.surface.hd95_mm == pytest.approx(2.2)
    assert scores.voxel_mm3 == pytest.approx(0.77)


@pytest.mark.parametrize("absent", ["both", "ref", "pred"])
def test_absent_objects(absent):
    ref, pred = np.zeros(SHAPE, int), np.zeros(SHAPE, int)
    if absent != "both":
        (pred if absent == "ref" else ref)[0, 0, 0] = 1
    scores = score_label_maps(pred, ref, SPACING_MM, labels_of(a=1))["1"]
    diagonal_mm = math.sqrt(15**2 + 4.9**2 + 12.1**2)
    share, distance_mm = (1, 0) if absent == "both" else (0, diagonal_mm)
    assert (scores.dice, scores.iou, scores.surface.nsd) == (share, share, share)
    assert scores.surface.hd95_mm == pytest.approx(distance_mm)
    assert scores.surface.assd_mm == pytest.approx(distance_mm)


def test_prediction_at_ignored_voxels_alone_is_no_prediction():
    ref = np.zeros(SHAPE, int)
    ref[2, 3, 3:6] = 2
    pred = (ref == 2).astype(int)
    scores = score_label_maps(pred, ref, SPACING_MM, labels_of(a=1, ignore=2))["1"]
    assert (scores.n_pred, scores.dice, scores.surface.nsd, scores.surface.hd95_mm) == (0, 1, 1, 0)


def test_object_that_only_ignored_voxels_surround_has_no_surface_score():
    ref = np.full(SHAPE, 2)
    ref[1:4, 2:5, 3:6] = 1
    pred = np.ones(SHAPE, int)
    scores = score_label_maps(pred, ref, SPACING_MM, labels_of(a=1, ignore=2))["1"]
    assert scores.dice == 1
    assert all(math.isnan(v) for v in (scores.surface.nsd, scores.surface.hd95_mm, scores.surface.assd_mm))


def test_object_that_fills_the_image():
    # The border of the image is its surface.
    full = np.ones(SHAPE, int)
    scores = score_label_maps(full, full, SPACING_MM, labels_of(a=1))["1"]
    assert (scores.dice, scores.surface.nsd, scores.surface.assd_mm) == (1, 1, 0)
    assert scores.tn == 0
    with_ignore = score_label_maps(full, full, SPACING_MM, labels_of(a=1, ignore=2))["1"]
    assert with_ignore == scores


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("inside", [1, 2, 255])
def test_masks_of_numbers_are_masks(dtype, inside):
    pred, ref = (mask > 0 for mask in random_maps(7, 3))
    scored = np.arange(ref.size).reshape(SHAPE) % 19 > 0
    numbers = [(mask * inside).astype(dtype) for mask in (pred, ref, scored)]
    expected = surface_metrics(pred, ref, SPACING_MM, 1.0, scored=scored)
    assert surface_metrics(*numbers[:2], SPACING_MM, 1.0, scored=numbers[2]) == expected
    assert surface_metrics(*numbers[:2], SPACING_MM, 1.0) == surface_metrics(pred, ref, SPACING_MM, 1.0)


def test_masks_of_two_shapes():
    with pytest.raises(ValueError, match=r"\(5, 7, 10\).*\(5, 7, 11\)"):
        surface_metrics(np.ones((5, 7, 10), bool), np.ones(SHAPE, bool), SPACING_MM, 1.0)


def test_tolerances_by_name():
    labels = labels_of(a=1, b=2, c=3).with_tolerances({"b": 2.5, None: 4.0})
    assert [o.tolerance_mm for o in labels.objects] == [4.0, 2.5, 4.0]
    with pytest.raises(InputError) as caught:
        labels.with_tolerances({"d": 1.0, "a": 0.0, None: math.inf})
    assert len(caught.value.problems) == 3
    assert "'d'" in caught.value.problems[0]
    assert "a, b, c" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "no 'labels'"),
        ({"background": 0, "ignore": 1}, "nothing to score"),
        ({"0": "background"}, "'0'"),
        ({"background": 0, "a": -1}, "label 'a' is -1"),
        ({"background": 0, "a": [1, -2], "b": 1}, r"label 'a' is \[1, -2\]"),
        ({"background": 0, "a": 1, "ignore": -1}, "label 'ignore' is -1"),
    ],
)
def test_labels_that_cannot_be_scored(labels, words):
    with pytest.raises(InputError, match=words):
        ScoredLabels.from_dataset_json({"labels": labels}, "dataset.json")


@pytest.mark.parametrize("beside", [(1, 3, 4), (3, 3, 4), (2, 2, 4), (2, 4, 4), (2, 3, 2), (2, 3, 8)])
def test_ignored_voxel_on_any_side_of_the_bounding_box_counts(beside):
    """The surface elements that touch it are left out, where prediction and reference differ too."""
    ref, pred = np.zeros(SHAPE, int), np.zeros(SHAPE, int)
    ref[2, 3, 3:6] = pred[2, 3, 3:8] = 1
    ref[beside] = 2
    found = score_label_maps(pred, ref, SPACING_MM, labels_of(a=1, ignore=2))["1"].surface
    expected = surface_metrics(pred == 1, ref == 1, SPACING_MM, 1.0, scored=ref != 2)
    assert [found.nsd, found.hd95_mm, found.assd_mm] == pytest.approx(
        [expected.nsd, expected.hd95_mm, expected.assd_mm]
    )
