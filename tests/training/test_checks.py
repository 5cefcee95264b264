from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_wsl.errors import InputError
from nnunet_wsl.training.checks import check_training, option_problems
from nnunet_wsl.training.trainer import _open_case

GOOD = {
    "dataset": "801",
    "configuration": "3d_fullres",
    "fold": "0",
    "trainer": "WSLTrainer",
    "plans_identifier": "nnUNetPlans",
    "pretrained_weights": None,
}


@pytest.fixture
def preprocessed(tiny, monkeypatch):
    from nnunet_wsl.cli.env import trainer_folders

    folder = tiny()
    monkeypatch.setenv("nnUNet_extTrainer", trainer_folders())
    return folder / "nnUNet_preprocessed" / "Dataset801_Tiny"


def problems_of(**changes):
    with pytest.raises(InputError) as found:
        check_training(**GOOD | changes)
    return found.value.problems


@pytest.mark.parametrize("changes", [{}, {"dataset": "Dataset801_Tiny"}, {"configuration": "2d"}, {"fold": "all"}])
def test_what_is_there_passes(preprocessed, changes):
    check_training(**GOOD | changes)


def test_weights_that_are_there_pass(preprocessed, tmp_path):
    torch.save({"network_weights": {}}, tmp_path / "weights.pth")
    check_training(**GOOD | {"pretrained_weights": str(tmp_path / "weights.pth")})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"<html>" * 9), "cannot be read"),
        (lambda path: path.touch(), "cannot be read"),
        (
            lambda path: path.write_bytes(b"cnowhere\nThing\n."),
            "cannot be read (ModuleNotFoundError: ",
        ),
        (lambda path: torch.save([1, 2], path), "is no checkpoint of nnU-Net's"),
        (lambda path: torch.save({"weights": 1}, path), "is no checkpoint of nnU-Net's"),
    ],
)
def test_weights_that_are_none(preprocessed, tmp_path, write, message):
    write(tmp_path / "weights.pth")
    (problem,) = problems_of(pretrained_weights=str(tmp_path / "weights.pth"))
    assert f"{tmp_path / 'weights.pth'}' {message}" in problem


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "{}",
        "[3]",
        '[{"train": []}]',
        '[{"train": [], "val": "case_a"}]',
        '[{"train": [["a"]], "val": []}]',
    ],
)
def test_folds_that_are_none(preprocessed, content):
    (preprocessed / "splits_final.json").write_text(content)
    (problem,) = problems_of()
    assert str(preprocessed / "splits_final.json") in problem
    assert "Correct it, or remove it" in problem
    check_training(**GOOD | {"fold": "all"})  # for which nnU-Net does not read it


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_fold_without_cases(preprocessed, part):
    folds = [{"train": ["a"], "val": ["b"]}, {"train": ["a"], "val": ["b"]} | {part: []}]
    (preprocessed / "splits_final.json").write_text(json.dumps(folds))
    (problem,) = problems_of(fold="1")
    assert (
        f"splits_final.json, fold 1: expected cases to train and cases to validate on, found none under '{part}'"
        in problem
    )
    check_training(**GOOD)
    check_training(**GOOD | {"fold": "2"})  # nnU-Net splits at random


def test_cases_that_are_in_no_fold_are_a_warning(preprocessed, caplog):
    cases = sorted(path.stem for path in (preprocessed / "nnUNetPlans_3d_fullres").glob("*.pkl"))
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": cases[1:-1], "val": cases[-1:]}]))
    check_training(**GOOD)
    assert caplog.messages == [
        f"No fold of {preprocessed / 'splits_final.json'} has 1 case of nnUNetPlans_3d_fullres, such as '{cases[0]}': "
        "it neither trains nor validates. If it shall, remove that file, and nnU-Net makes new folds."
    ]


def test_validation_of_what_is_not_trained(preprocessed):
    (problem,) = problems_of(only_run_validation=True)
    assert problem.startswith("--val: expected a finished training, but there is no ")
    folder = Path(problem.split("there is no ")[1].split(" Train")[0]).parent
    assert folder.parts[-3:] == ("Dataset801_Tiny", "WSLTrainer__nnUNetPlans__3d_fullres", "fold_0")
    folder.mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()
    check_training(**GOOD | {"only_run_validation": True})


@pytest.mark.parametrize(
    ("changes", "devices", "expected"),
    [
        ({}, 1, []),
        ({"num_gpus": 2}, 2, []),
        ({"device": torch.device("cpu")}, 0, []),
        ({"device": torch.device("cpu"), "num_gpus": 2}, 4, ["-num_gpus 2: expected as many CUDA devices, found cpu."]),
        ({"num_gpus": 2}, 1, ["-num_gpus 2: expected as many CUDA devices, found 1."]),
        ({}, 0, ["-device cuda: no CUDA device found."]),
        ({"continue_training": True, "only_run_validation": True}, 1, ["--c and --val exclude each other."]),
        (
            {"continue_training": True, "pretrained_weights": "x", "num_gpus": 3},
            2,
            ["--c and -pretrained_weights exclude each other", "-num_gpus 3"],
        ),
    ],
)
def test_options_that_do_not_go_together(monkeypatch, changes, devices, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    options = {
        "device": torch.device("cuda"), "num_gpus": 1, "continue_training": False, "only_run_validation": False,
        "pretrained_weights": None,
    }  # fmt: skip
    found = option_problems(**options | changes)
    assert len(found) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(found, expected, strict=True))


def test_a_trainer_that_cannot_be_imported(preprocessed, tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own_trainers.py").write_text("import no_such_module\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "own"))
    (problem,) = problems_of(trainer="OwnTrainer")
    assert problem.startswith("Trainer 'OwnTrainer': ")
    assert "no_such_module" in problem


def test_too_few_cases_for_nnunets_folds(preprocessed):
    for path in (
        preprocessed / "splits_final.json",
        *sorted((preprocessed / "nnUNetPlans_3d_fullres").glob("*.pkl"))[4:],
    ):
        path.unlink(missing_ok=True)
    (problem,) = problems_of()
    number = len(list((preprocessed / "nnUNetPlans_3d_fullres").glob("*.pkl")))
    assert f" has {number} cases: too few for nnU-Net's 5 folds. Train fold all" in problem
    check_training(**GOOD | {"fold": "all"})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset": "802"}, ["'802'", "Dataset801_Tiny"]),
        ({"dataset": "Tiny"}, ["'Tiny'", "id or the name", "Dataset801_Tiny"]),
        ({"dataset": "Dataset802_Tiny"}, ["Dataset802_Tiny is not in", "nnUNetv2_plan_and_preprocess"]),
        ({"configuration": "3d_lowres"}, ["'3d_lowres'", "2d, 3d_fullres"]),
        ({"fold": "first"}, ["'first'", "'all'"]),
        ({"fold": "-1"}, ["'-1'"]),
        ({"trainer": "Mine"}, ["'Mine'", "Could not find"]),
        ({"trainer": "nnUNetTrainer"}, ["2 relevance and confidence channels", "--relevance none"]),
        ({"plans_identifier": "nnUNetResEncUNetMPlans"}, ["nnUNetResEncUNetMPlans.json", "there: nnUNetPlans."]),
        ({"pretrained_weights": "/nowhere/weights.pth"}, ["/nowhere/weights.pth", "no such file"]),
    ],
)
def test_what_is_not_there_is_named_with_what_is(preprocessed, changes, expected):
    (problem,) = problems_of(**changes)
    for part in expected:
        assert part in problem


def test_all_problems_are_reported_together(preprocessed):
    found = problems_of(dataset="802", fold="x", trainer="Mine", pretrained_weights="/nowhere")
    assert [problem.split()[0] for problem in found] == ["Fold", "-pretrained_weights", "Trainer", "Dataset"]


def test_planned_but_not_preprocessed(preprocessed):
    shutil.rmtree(preprocessed / "nnUNetPlans_3d_fullres")
    (problem,) = problems_of()
    assert "nnUNetv2_preprocess -d 801 -plans_name nnUNetPlans -c 3d_fullres" in problem
    check_training(**GOOD | {"configuration": "2d"})


@pytest.mark.parametrize(
    ("kept", "added", "expected"),
    [
        ("", ".gitkeep", "has 1 file that nnU-Net did not write, such as '.gitkeep'."),
        ("", "", "has no preprocessed case."),
        ("*", "notes.txt", "has 1 file that nnU-Net did not write, such as 'notes.txt'."),
        ("*", "old.npz", "has cases of several formats (b2nd, npz)."),
    ],
)
def test_a_folder_of_cases_with_other_files(preprocessed, kept, added, expected):
    """Which nnU-Net would end in an assertion on."""
    folder = preprocessed / "nnUNetPlans_3d_fullres"
    if not kept:
        shutil.rmtree(folder)
        folder.mkdir()
    if added:
        (folder / added).touch()
    (problem,) = problems_of()
    assert f"{folder} {expected}" in problem


@pytest.mark.parametrize("name", ["dataset.json", "nnUNetPlans.json"])
def test_a_damaged_file_is_named(preprocessed, name):
    (preprocessed / name).write_text("{")
    (problem,) = problems_of()
    assert str(preprocessed / name) in problem


def test_stock_trainer_on_a_dataset_without_relevance_is_fine(preprocessed):
    path = preprocessed / "dataset.json"
    content = json.loads(path.read_text())
    content["channel_names"] = {"0": "CT"}
    content["wsl"]["relevance_channels"] = {}
    path.write_text(json.dumps(content))
    check_training(**GOOD | {"trainer": "nnUNetTrainer"})


def test_trainer_of_the_users_own_with_relevance_passes(preprocessed, tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own_trainers.py").write_text(
        "from nnunet_wsl.training import RelevanceSupervision\n"
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class OwnTrainer(RelevanceSupervision, nnUNetTrainer):\n"
        "    pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    check_training(**GOOD | {"trainer": "OwnTrainer"})


def test_a_case_that_the_previous_stage_has_not_predicted(preprocessed, tmp_path):
    data = str(preprocessed / "nnUNetPlans_3d_fullres")
    dataset = infer_dataset_class(data)(data, folder_with_segs_from_previous_stage=str(tmp_path))
    case = dataset.identifiers[0]
    with pytest.raises(InputError, match=rf"'{case}' has no segmentation of the previous stage .* the other folds"):
        _open_case(dataset, case)
