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
    ],
)
def test_files_of_another_form(tmp_path, name, content, message):
    (problem,) = problems_of(tmp_path, content, name)
    assert message in problem


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
