from __future__ import annotations

import json
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_wsl.conversion.naming import case_names, patient_groups, patient_splits

UID = "1.3.6.1.4.1.14519.5.2.1"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["STS_001/PET/mask", "STS_002/PET/mask"], ["STS_001", "STS_002"]),
        (["STS_001/PET/mask", "STS_001/MR_T1/mask"], ["PET", "MR_T1"]),
        (["a/PET/mask", "a/MR/mask", "b/PET/mask"], ["a_PET", "a_MR", "b_PET"]),
        ([f"pat 1/{UID}.7/{UID}.8", f"pat 2/{UID}.9/{UID}.8"], ["pat-1", "pat-2"]),
        ([f"ann/CT.{UID}.7", f"bob/CT.{UID}.8"], ["ann", "bob"]),
        ([f"ann-{UID}.7", f"bob_{UID}.8"], ["ann", "bob"]),
        (["ann/RS1.2.840.7.2_new", "bob/old 2.25.0.3.10"], ["ann_RS_new", "bob_old"]),
        # dates, versions and other numbers are none
        (["a/2020.01.02", "a/v1.2.3.4"], ["2020-01-02", "v1-2-3-4"]),
        (
            ["CT.3.2.840.7.2", "CT.12.2.840.7.2", "CT.1.2.840.7.02"],
            ["CT-3-2-840-7-2", "CT-12-2-840-7-2", "CT-1-2-840-7-02"],
        ),
        # nothing tells these apart: numbered in the order of the folders
        ([f"b/{UID}.9", f"b/{UID}.7"], ["case_2", "case_1"]),
        (["a", "a", "b"], ["a_1", "a_2", "b"]),
        (["x", "x", "x_1"], ["x_2", "x_3", "x_1"]),
        (["a/B", "a/b"], ["B_1", "b_2"]),
        # a single case keeps what it shares with nobody
        (["STS_001/PET/mask"], ["STS_001_PET_mask"]),
        (["."], ["case"]),
        (["a/rs", "b/c/rs", "rs"], ["a", "b_c", "case"]),
        (["Müller/1", "Møller/2"], ["M-ller_1", "M-ller_2"]),
    ],
)
def test_case_names(folders, names):
    assert case_names([PurePath(folder) for folder in folders]) == names


@given(st.lists(st.lists(st.sampled_from(["a", "A", "b", "a_1", UID, "ä"]), max_size=3), min_size=1, max_size=8))
def test_case_names_are_unique_on_every_disk(folders):
    names = case_names([PurePath(*parts) for parts in folders])
    assert len({name.lower() for name in names}) == len(folders)
    assert all(name.isascii() and UID not in name for name in names)


def groups_of(folders, patient_ids):
    return patient_groups([PurePath(folder) for folder in folders], patient_ids)


def test_groups_share_a_folder_or_a_patient_id():
    folders = ["p1/PET", "p1/MR", "p2/PET", "p3/PET", "p4/PET"]
    assert groups_of(folders, ["", "", "", "", ""]) == [0, 0, 2, 3, 4]
    assert groups_of(folders, ["A", "B", "C", "A", "D"]) == [0, 0, 2, 0, 4]
    # through two links: p2 and p3 share an ID, p3 and p1 another
    assert groups_of(folders, ["A", "B", "B", "A", "D"]) == [0, 0, 0, 0, 4]


def test_groups_look_at_the_first_level_that_differs():
    assert groups_of(["study/p1/x", "study/p1/y", "study/p2/x"], ["", "", ""]) == [0, 0, 2]
    assert groups_of(["study/p1", "study", "study"], ["", "", ""]) == [0, 1, 2]


def test_one_patient_id_for_all_tells_nothing(caplog):
    assert groups_of(["p1", "p2", "p3"], ["ANON", "ANON", "ANON"]) == [0, 1, 2]
    assert "same Patient ID" in caplog.text
    assert "ANON" not in caplog.text
    assert groups_of(["p1"], ["X"]) == [0]


def test_several_patients_below_one_folder(caplog):
    """A folder per site or batch hides the patients; their IDs tell that it does."""
    folders = ["siteA/p1", "siteA/p2", "siteB/p3"]
    assert groups_of(folders, ["A", "B", "C"]) == [0, 0, 2]
    assert "carry 3 Patient IDs, but count as 2 patients" in caplog.text
    assert "such as 'siteA'" in caplog.text
    caplog.clear()
    assert groups_of(folders, ["A", "A", ""]) == [0, 0, 2]
    assert not caplog.text


@given(st.lists(st.integers(0, 9), min_size=1, max_size=25))
def test_splits_never_divide_a_group_and_validate_each_case_once(groups):
    names = [f"case{i:02d}" for i in range(len(groups))]
    splits = patient_splits(names, groups)
    num_groups = len(set(groups))
    assert len(splits) == (min(num_groups, 5) if num_groups > 1 else 0)
    group_of = dict(zip(names, groups, strict=True))
    for fold in splits:
        assert sorted(fold["train"] + fold["val"]) == names
        assert not {group_of[n] for n in fold["train"]} & {group_of[n] for n in fold["val"]}
        assert fold["val"]
    if splits:
        assert sorted(name for fold in splits for name in fold["val"]) == names


def test_single_cases_are_split_as_nnunet_splits_them():
    names = [f"case{i:02d}" for i in range(17)]
    theirs = [{part: [str(name) for name in fold[part]] for part in fold} for fold in generate_crossval_split(names)]
    ours = patient_splits(names, list(range(17)))
    assert ours == theirs
    assert json.loads(json.dumps(ours)) == ours


def test_cases_with_the_same_image_are_of_one_group():
    folders = [PurePath(folder) for folder in ("obsA/p1", "obsA/p2", "obsB/p1", "obsB/p2")]
    assert patient_groups(folders, [""] * 4, ["i1", "i2", "i1", "i2"]) == [0, 1, 0, 1]
    # The folders of annotators are none of patients; those below them are, also of a second image.
    folders = [PurePath(folder) for folder in ("obsA/p1/CT", "obsA/p2/CT", "obsB/p1/CT", "obsB/p2/CT", "obsB/p1/MR")]
    assert patient_groups(folders, [""] * 5, ["i1", "i2", "i1", "i2", "i3"]) == [0, 1, 0, 1, 0]
    flat = [PurePath("rt")] * 4
    assert patient_groups(flat, [""] * 4) == [0, 1, 2, 3]
    assert patient_groups(flat, [""] * 4, ["i1", "i2", "i1", "i2"]) == [0, 1, 0, 1]


def test_a_single_copied_image_does_not_divide_the_patients():
    """A structure set that lies beside its patient links two folders; the others stay patients."""
    folders = [PurePath(f"p{i}/t{j}") for i in range(4) for j in (0, 1)] + [PurePath("p0_replan/t0")]
    images = [f"i{i}{j}" for i in range(4) for j in (0, 1)] + ["i00"]
    assert patient_groups(folders, [""] * 9, images) == [0, 0, 2, 2, 4, 4, 6, 6, 0]
    patient_ids = [f"ID{i}" for i in range(4) for j in (0, 1)] + ["ID0"]
    assert patient_groups(folders, patient_ids, images) == [0, 0, 2, 2, 4, 4, 6, 6, 0]


@pytest.mark.parametrize("patient_ids", [[""] * 6, ["a", "b", "c"] * 2])
@pytest.mark.parametrize("first", [".", "rt"])
def test_a_second_annotator_below_the_first(first, patient_ids, caplog):
    folders = [PurePath(first)] * 3 + [PurePath(first) / "obsB"] * 3
    assert patient_groups(folders, patient_ids, ["i1", "i2", "i3"] * 2) == [0, 1, 2] * 2
    assert not caplog.text


def test_the_log_says_which_file_a_numbered_case_is(caplog):
    caplog.set_level("INFO", "nnunet_wsl")
    files = [PurePath("p1/plan.dcm"), PurePath("p1/replan.dcm"), PurePath("p2/plan.dcm")]
    assert case_names([file.parent for file in files], files) == ["p1_1", "p1_2", "p2"]
    assert "Case 'p1_2' comes from 'p1/replan.dcm'" in caplog.text
