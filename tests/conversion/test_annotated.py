from __future__ import annotations

import json

import pytest

from nnunet_wsl.conversion.annotated import read_annotated, slices_within
from nnunet_wsl.errors import InputError

CASES = ["ann", "bob"]
OBJECTS = ["GTV", "lung"]


def read(tmp_path, content, name="list.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotated(path, CASES, OBJECTS)


def problems_of(tmp_path, content, name="list.json"):
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, name)
    assert all(str(tmp_path / name) in problem for problem in caught.value.problems)
    return caught.value.problems


def test_json(tmp_path):
    content = {"ann": {"GTV": [4, 0, 4], "*": "1-3, 6"}, "bob": {"lung": "all"}}
    assert read(tmp_path, content) == {
        "ann": {"GTV": (0, 4), "lung": (1, 2, 3, 6)},
        "bob": {"lung": "all"},
    }


def test_csv_rows_are_united(tmp_path):
    content = "slices,object,case\n0-1,GTV,ann\n5,GTV,ann\n,lung,ann\nall,*,bob\n2,lung,bob\n"
    assert read(tmp_path, content, "list.csv") == {
        "ann": {"GTV": (0, 1, 5), "lung": ()},
        "bob": {"GTV": "all", "lung": (2,)},
    }


def test_all_problems_together(tmp_path):
    content = {"cid": {"*": "1"}, "ann": {"PTV": "1", "GTV": "3-1"}, "bob": {"GTV": "1;2", "lung": [-1]}}
    case, label, reverse, text, negative = problems_of(tmp_path, content)
    assert "there is no case 'cid'. The cases are ann, bob." in case
    assert "case 'ann' lists 'PTV', which is no label. The labels are GTV, lung" in label
    for problem, value in ((reverse, "3-1"), (text, "1;2"), (negative, "[-1]")):
        assert f"'{value}' lists no slices" in problem


@pytest.mark.parametrize("value", [1.5, None, True, [True], ["1"], {"a": 1}])
def test_json_values_that_are_no_slices(tmp_path, value):
    (problem,) = problems_of(tmp_path, {"ann": {"GTV": value}})
    assert "lists no slices" in problem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.json", "{", "is not valid JSON (line 1"),
        ("list.json", "[1]", "expected an object of cases"),
        ("list.json", '{"ann": "1-2"}', "expected an object of cases"),
        ("list.csv", "case,slices\nann,1\n", "expected the columns case, object and slices, found case, slices"),
        ("list.csv", "", "found none"),
        ("list.csv", "case,object,slices\nann,GTV\n", "lists no slices"),
        ("list.csv", "case,object,slices\nbob,GTV,0\nann,GTV,1,4,7\n", "line 3 has more columns than the 3 named"),
        ("list.csv", "case,object,slices,\nann,GTV,1,4\n", "expected the columns case, object and slices, found"),
        ("list.csv", "case,object,slices,slices\nann,GTV,1,4\n", "expected the columns case, object and slices, found"),
        (
            "list.csv",
            "case,object,slices\nann,GTV," + "1 " * 90000,
            "is not valid CSV (after line 1: field larger than",
        ),
        ("list.json", '{"ann": {"GTV": "0"}, "ann": {"GTV": "all"}}', "'ann' is listed twice in one place"),
        ("list.json", '{"ann": {"GTV": "0", "GTV": "all"}}', "'GTV' is listed twice in one place"),
        ("list.json", "[" * 100000, "or is nested too deeply"),
        ("list.json", '{"ann": {"GTV": [' + "9" * 5000 + "]}}", "has a number of too many digits"),
    ],
)
def test_files_of_another_form(tmp_path, name, content, message):
    (problem,) = problems_of(tmp_path, content, name)
    assert message in problem


@pytest.mark.parametrize("slices", ["3-500000000", "500000000", "9" * 5000, "0-" + "9" * 5000, [500000000]])
def test_more_slices_than_any_image_has(tmp_path, slices):
    """They are refused before they are written out, and not repeated in full."""
    (problem,) = problems_of(tmp_path, {"ann": {"GTV": slices}})
    assert "lists no slices. Write slices, from 0 to 99999, as" in problem
    assert len(problem) < 500 + len(str(tmp_path))


def test_the_last_slice_that_can_be_listed(tmp_path):
    assert read(tmp_path, {"ann": {"GTV": "99998-99999"}}) == {"ann": {"GTV": (99998, 99999)}}


def test_slices_with_commas_in_quotes(tmp_path):
    content = ',case, object, slices, who\n0,ann, GTV, "1,4,7", me\n'
    assert read(tmp_path, content, "list.csv") == {"ann": {"GTV": (1, 4, 7)}}


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_annotated(tmp_path / "none.json", CASES, OBJECTS)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="it is no text"):
        read_annotated(tmp_path / "bytes.csv", CASES, OBJECTS)


def test_slices_within():
    assert slices_within("all", 3, case="ann", object_name="GTV") == [0, 1, 2]
    assert slices_within((0, 2), 3, case="ann", object_name="GTV") == [0, 2]
    with pytest.raises(InputError, match=r"Case 'ann', object 'GTV': slice 3 is listed .* has the slices 0 to 2"):
        slices_within((0, 3), 3, case="ann", object_name="GTV")


def test_unknown_cases_are_one_problem_with_a_few_of_their_names(tmp_path):
    unknown = [f"cid{number:03d}" for number in range(1000)]
    known = [f"ann{number:03d}" for number in range(1000)]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({case: {"GTV": "1"} for case in unknown} | {"ann000": {"PTV": "1"}}))
    with pytest.raises(InputError) as caught:
        read_annotated(path, known, OBJECTS)
    cases, label = caught.value.problems
    few_unknown = "'cid000', 'cid001', 'cid002', 'cid003', 'cid004' and 995 more"
    few_known = "ann000, ann001, ann002, ann003, ann004 and 995 more"
    assert f"there is no case {few_unknown}. The cases are {few_known}." in cases
    assert "'PTV', which is no label" in label
