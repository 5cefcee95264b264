from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import nnunet_wsl
from nnunet_wsl.cli.main import main

PLUGIN = str(Path(nnunet_wsl.__file__).parent / "nnunet_plugin")


def test_the_line_sets_the_variable_in_a_shell(capsys, monkeypatch, tmp_path):
    theirs = str(tmp_path / "my trainer's folder")
    Path(theirs).mkdir()
    monkeypatch.setenv("nnUNet_extTrainer", theirs)
    monkeypatch.setenv("SHELL", "/bin/sh")
    assert main(["env"]) == 0
    line = capsys.readouterr().out
    script = f'{line}\nprintf %s "$nnUNet_extTrainer"'
    found = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout
    assert found == os.pathsep.join([theirs, PLUGIN])


def test_a_folder_that_is_none_is_named(capsys, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(tmp_path), str(tmp_path / "typo")]))
    assert main(["env", "--shell", "sh"]) == 0
    assert caplog.messages == [
        f"nnUNet_extTrainer names '{tmp_path / 'typo'}', which is no folder: nnU-Net finds no trainer there."
    ]


def test_twice_is_once(capsys, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", PLUGIN)
    main(["env", "--shell", "sh"])
    assert capsys.readouterr().out == f"export nnUNet_extTrainer={PLUGIN}\n"


@pytest.mark.parametrize(
    ("shell", "start"),
    [
        ("/usr/bin/fish", "set -gx nnUNet_extTrainer "),
        ("/bin/tcsh", "setenv nnUNet_extTrainer "),
        ("/usr/bin/pwsh", "$env:nnUNet_extTrainer = '"),
        ("/usr/bin/zsh", "export nnUNet_extTrainer="),
        ("/opt/unheard-of", "export nnUNet_extTrainer="),
    ],
)
def test_the_shell_in_use(capsys, monkeypatch, shell, start):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    monkeypatch.setenv("SHELL", shell)
    main(["env"])
    assert capsys.readouterr().out.startswith(start)
