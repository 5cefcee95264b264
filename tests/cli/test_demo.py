from __future__ import annotations

import pytest
import torch

from nnunet_wsl.cli.main import main


@pytest.mark.parametrize("taken", ["file", "link", "file/below"])
def test_a_folder_that_cannot_be_made(tmp_path, capsys, taken):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    assert main(["demo", "--out", str(tmp_path / taken)]) == 2
    assert f"The folder '{tmp_path / taken}'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_no_such_device(tmp_path, capsys, device):
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}[device]
    if backend.is_available():
        pytest.skip(f"there is a {device} device")
    assert main(["demo", "--out", str(tmp_path / "demo"), "--device", device]) == 2
    assert f"No {device} device found" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
