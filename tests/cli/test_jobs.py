from __future__ import annotations

import pytest

from nnunet_wsl.cli.main import build_parser, main
from nnunet_wsl.cores import usable_cores

EVALUATE = ["evaluate", "--pred", "a", "--ref", "b", "--out", "c"]
COMMANDS = [
    ["convert", "rtstruct", "a", "--dataset", "1", "--name", "b"],
    ["convert", "text", "a", "--dataset", "1", "--name", "b"],
    ["convert", "masks", "--images", "a", "--labels", "b", "--dataset", "1", "--name", "b"],
    ["convert", "images", "a", "-o", "b"],
    EVALUATE,
]


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(command[:2]) for command in COMMANDS])
@pytest.mark.parametrize("jobs", ["0", "-1", "1.5", "two", "9" * 5000])
def test_a_number_of_jobs_from_1_is_needed(capsys, command, jobs):
    with pytest.raises(SystemExit) as caught:
        main([*command, f"--jobs={jobs}"])
    assert caught.value.code == 2
    assert f"argument --jobs: '{jobs}' is no whole number from 1" in capsys.readouterr().err


def test_jobs():
    assert build_parser().parse_args([*EVALUATE, "--jobs", "3"]).jobs == 3
    assert build_parser().parse_args(EVALUATE).jobs == usable_cores()


def test_jobs_are_no_more_than_a_container_gives_cores(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # counts as the quota of a container does
    assert build_parser().parse_args(EVALUATE).jobs == 1
