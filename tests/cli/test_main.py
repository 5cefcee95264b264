from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nnunet_wsl.cli import env
from nnunet_wsl.cli.main import main
from nnunet_wsl.contours import Grid
from nnunet_wsl.conversion.dataset import write_volume

COMMAND = [sys.executable, "-c", "import sys; from nnunet_wsl.cli.main import main; sys.exit(main())"]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def is_running(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither of these signals")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP"])
def test_a_terminated_conversion_cleans_up(tmp_path, how):
    """Nothing half-written stays, and no worker process goes on."""
    rng = np.random.default_rng(0)
    grid = Grid((0, 0, 0), (0.7, 1.1, 3.0), np.eye(3), (60, 90, 120))
    labels = np.zeros(grid.shape_zyx, np.uint8)
    labels[10:50, 20:70, 30:90] = 1
    for folder in ("images", "labels", "raw"):
        (tmp_path / folder).mkdir()
    first = tmp_path / "images" / "case00_0000.nii.gz"
    write_volume(first, rng.normal(0, 100, labels.shape).astype(np.int16), grid)
    write_volume(tmp_path / "labels" / "case00.nii.gz", labels, grid)
    for case in range(1, 40):
        (tmp_path / "images" / f"case{case:02d}_0000.nii.gz").symlink_to(first)
        (tmp_path / "labels" / f"case{case:02d}.nii.gz").symlink_to(tmp_path / "labels" / "case00.nii.gz")
    command = [*COMMAND, "convert", "masks", "--dataset", "501", "--name", "Test", "--label", "organ=1", "--jobs", "2"]
    command += ["--images", str(tmp_path / "images"), "--labels", str(tmp_path / "labels"), "--channel", "MR"]
    raw = tmp_path / "raw"
    former = signal.signal(getattr(signal, how), signal.SIG_DFL)  # the tests may run under nohup, which is inherited
    process = subprocess.Popen(
        command, env={**os.environ, "nnUNet_raw": str(raw)}, start_new_session=True, text=True, stderr=subprocess.PIPE
    )
    signal.signal(getattr(signal, how), former)
    try:
        assert wait_for(lambda: list(raw.glob(".*/new/*/*.nii.gz")) or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(getattr(signal, how))
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors.endswith("interrupted\n")
        assert not list(raw.iterdir())
        assert wait_for(lambda: not is_running(process.pid)), "worker processes go on"
    finally:
        if is_running(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not fork")
def test_a_signal_during_a_fork_is_not_lost():
    """Python drops what is raised in a hook of the fork; here twice."""
    program = """
import os, signal, sys, time
from nnunet_wsl.cli.main import exit_code

def run():
    os.register_at_fork(before=lambda: signal.raise_signal(signal.SIGTERM))
    for _ in range(2):
        if os.fork() == 0:
            os._exit(0)
    time.sleep(30)
    return 0

sys.exit(exit_code(run))
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    former = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=25)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_output_that_nobody_reads_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*COMMAND, "env"], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 0


def test_output_that_cannot_show_a_character_is_no_error():
    code = "from nnunet_wsl.cli import output; output.replace_what_cannot_be_shown(); print('mm\u00b3')"
    for errors, shown in (("", b"mm?"), (":backslashreplace", rb"mm\xb3")):
        environment = os.environ | {"PYTHONIOENCODING": f"ascii{errors}"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
        assert (done.returncode, done.stdout.rstrip(), done.stderr) == (0, shown, b"")


def test_a_broken_pipe_between_processes_is_an_error(monkeypatch):
    def fail(args):
        raise BrokenPipeError("a worker is gone")

    monkeypatch.setattr(env, "run", fail)
    with pytest.raises(BrokenPipeError, match="a worker is gone"):
        main(["env"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_arguments_that_are_no_text(tmp_path):
    image = os.fsencode(tmp_path) + b"/M\xfcller.nii.gz"
    done = subprocess.run(
        [*COMMAND, "relevance", image, image, "-o", tmp_path / "maps.nii.gz"],
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("M\\udcfcller.nii.gz' is no UTF-8") == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGHUP")
def test_a_process_that_shall_outlive_its_terminal_does(monkeypatch):
    """As under nohup, which ignores the signal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(env, "run", lambda _args: os.kill(os.getpid(), signal.SIGHUP) or 0)
    try:
        assert main(["env"]) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
