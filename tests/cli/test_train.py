from __future__ import annotations

import os

import pytest
import torch

from nnunet_wsl.cli.main import main


@pytest.fixture
def clean(monkeypatch):
    for variable in ("nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.setenv(variable, "set by the command, restored by the fixture")
        monkeypatch.delenv(variable)


def test_unset_folders_are_named_together(clean, capsys):
    assert main(["train", "501", "3d_fullres", "0"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "nnUNet_preprocessed is not set" in errors[0]
    assert "nnUNet_results is not set" in errors[1]


def test_without_cuda_it_says_how_to_go_on(clean, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "501", "3d_fullres", "0"]) == 2
    assert "-device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("spelling", [["-tr", "Mine"], ["-tr=Mine"], ["-t", "Mine"]])
@pytest.mark.parametrize("device", [["-device", "cpu"], ["-device=cpu"]])
def test_the_users_trainer_and_device_count(clean, monkeypatch, tmp_path, capsys, spelling, device):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    assert main(["train", "501", "3d_fullres", "0", *spelling, *device]) == 2
    trainer, dataset = capsys.readouterr().err.splitlines()
    assert "Could not find requested nnunet trainer Mine" in trainer  # nnU-Net's own words
    assert "Dataset '501'" in dataset


def test_every_argument_is_passed_on(clean, monkeypatch, capsys):
    # nnU-Net's own help, options first: nothing is taken for an option of ours.
    with pytest.raises(SystemExit) as left:
        main(["train", "--npz", "-h"])
    assert left.value.code == 0
    assert "-pretrained_weights" in capsys.readouterr().out
    assert os.environ["nnUNet_extTrainer"].endswith("nnunet_plugin")
