from __future__ import annotations

import re

import pytest

from nnunet_wsl.conversion.objects import check_rois, match_rois, rois_of_all
from nnunet_wsl.errors import InputError


def test_labels_match_whole_names_in_any_case_and_unite():
    rois = {"tumour": "gtv.*", "lung": "lung_(left|right)"}
    present = {"GTV1": 3, "gtv_nodes": 1, "Lung_Left": 4, "Lung_Right": 2, "Lung_Left_old": 5}
    assert match_rois("a", present, rois) == {
        "tumour": ("GTV1", "gtv_nodes"),
        "lung": ("Lung_Left", "Lung_Right"),
    }


@pytest.mark.parametrize(("expression", "name"), [("Fu\u0308.*", "F\u00fc 1"), ("F\u00fc.*", "Fu\u0308 1")])
def test_accents_match_however_they_are_written(expression, name):
    assert match_rois("a", {name: 1}, {"filling": expression}) == {"filling": (name,)}


def test_all_problems_of_a_case_are_reported():
    with pytest.raises(InputError) as caught:
        match_rois("a", {"GTV": 0, "Heart": 3}, {"tumour": "GTV", "lung": "Lung.*", "muscle": "Hea.*", "x": "Heart"})
    missing, twice, empty = caught.value.problems
    assert "no ROI matches 'Lung.*' for label 'lung'" in missing
    assert "'GTV', 'Heart'" in missing
    assert "ROI 'Heart' matches the labels 'muscle', 'x'" in twice
    assert "ROI 'GTV' for label 'tumour' has no contours" in empty
    assert all(problem.startswith("Case 'a': ") for problem in caught.value.problems)


@pytest.mark.parametrize("missing", ["absent", "unknown"])
def test_missing_rois_that_are_expected(missing):
    rois = {"tumour": "GTV", "lung": "Lung.*"}
    assert match_rois("a", {"GTV": 0, "Heart": 3}, rois, missing) == {"tumour": ("GTV",), "lung": ()}
    with pytest.raises(InputError, match="matches the labels 'x', 'y'"):
        match_rois("a", {"GTV": 1}, {"x": "GTV", "y": "G.*"}, missing)


def test_without_expressions_every_roi_is_a_label():
    rois = rois_of_all({"a": ("Lung (L)", "GTV+"), "b": ("GTV+", "Lung (L)")})
    assert list(rois) == ["Lung (L)", "GTV+"]
    assert match_rois("a", {"GTV+": 1, "Lung (L)": 1}, rois) == {"Lung (L)": ("Lung (L)",), "GTV+": ("GTV+",)}


def test_different_rois_are_listed_with_counts():
    with pytest.raises(InputError, match=r"'GTV' \(2\), 'Heart' \(1\), 'Lung' \(1\).*--roi 'GTV=REGEX'"):
        rois_of_all({"a": ("GTV", "Lung"), "b": ("GTV", "Heart")})


def test_without_expressions_no_roi_may_have_a_name_of_nnunet():
    with pytest.raises(InputError) as caught:
        rois_of_all({"a": ("GTV", "Background", "IGNORE"), "b": ("IGNORE", "GTV", "Background")})
    background, ignore = caught.value.problems
    assert "ROI 'Background' cannot be a label of this name" in background
    assert "--roi 'NAME=Background'" in background
    assert "ROI 'IGNORE' cannot be a label of this name" in ignore


def test_without_expressions_rois_must_differ_in_more_than_letter_case():
    with pytest.raises(InputError) as caught:
        rois_of_all({"a": ("GTV+", "Lung", "gtv+"), "b": ("Lung", "gtv+", "GTV+")})
    (problem,) = caught.value.problems
    assert problem.startswith("The ROIs 'GTV+' and 'gtv+' differ in letter case only")
    unite, choose = re.findall(r"--roi '[^'=]+=(.*?)'", problem)
    present = {"GTV+": 1, "Lung": 1, "gtv+": 1}
    assert match_rois("a", present, {"x": unite}) == {"x": ("GTV+", "gtv+")}
    assert match_rois("a", present, {"x": choose}) == {"x": ("GTV+",)}


@pytest.mark.parametrize("label", ["T", "linke Lunge (\u00e4u\u00dfere)", "\u80ba", "GTV'", "ignored", "a/b"])
def test_good_labels(label):
    check_rois({label: "x"})


@pytest.mark.parametrize(
    ("rois", "message"),
    [
        ({"ignore": "x"}, "Label 'ignore' cannot be used"),
        ({"Background": "x"}, "Label 'Background' cannot be used"),
        ({" ": "x"}, "Label ' ' cannot be used"),
        ({"": "x"}, "Label '' cannot be used"),
        ({" background": "x"}, "Label ' background' cannot be used"),
        ({"Ignore ": "x"}, "Label 'Ignore ' cannot be used"),
        ({"T\u00a0": "x"}, r"Label 'T\\xa0' cannot be used: expected a name without line breaks or blanks at its ends"),
        ({"T\n2": "x"}, r"Label 'T\\n2' cannot be used"),
        ({"a": "GTV("}, "not a regular expression"),
    ],
)
def test_bad_labels_and_expressions(rois, message):
    with pytest.raises(InputError, match=message):
        check_rois(rois)
