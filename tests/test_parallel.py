from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from nnunet_wsl.cores import usable_cores
from nnunet_wsl.errors import InputError, counted
from nnunet_wsl.evaluation.label_maps import CasePair
from nnunet_wsl.parallel import for_all


def half(number):
    if number % 2:
        raise InputError([f"{number} is odd", f"{number} has no half"])
    return number // 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_in_order_and_all_problems(jobs):
    results, problems = for_all(half, [8, 3, 2, 5, 0], jobs, "Halving")
    assert results == [4, 1, 0]
    assert problems == ["3 is odd", "3 has no half", "5 is odd", "5 has no half"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_is_one_clear_error():
    with pytest.raises(InputError, match=r"^Dying: the system killed a process.* 2 cases .* lower --jobs"):
        for_all(lambda _: os.kill(os.getpid(), signal.SIGKILL), [0, 1, 2], 2, "Dying")
    # The next command of the same process works again.
    assert for_all(half, [4, 6], 2, "Halving") == ([2, 3], [])


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError):
        for_all(lambda number: 1 // number, [0], 1, "Dividing")


@dataclass(frozen=True)
class Case:
    name: str
    error: Exception


def test_errors_of_the_system_are_problems_of_the_case():
    def work(case):
        raise case.error

    full = Case("p1", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/p1.nii.gz"))
    results, problems = for_all(work, [full, Case("p2", MemoryError())], 1, "Converting")
    assert not results
    assert problems == [
        "Converting, 'p1': /data/p1.nii.gz: No space left on device. Check the place, its space and its permissions.",
        "Converting, 'p2': there is not enough memory. Give a lower --jobs.",
    ]


def test_the_cases_of_an_evaluation_have_names():
    def work(_):
        raise MemoryError

    pair = CasePair("p3", Path("pred/p3.nii.gz"), Path("ref/p3.nii.gz"))
    assert for_all(work, [pair], 1, "Scoring")[1] == ["Scoring, 'p3': there is not enough memory. Give a lower --jobs."]


@pytest.mark.parametrize(("number", "text"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases")])
def test_a_number_with_its_noun(number, text):
    assert counted(number, "case") == text


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not tie processes to cores")
def test_cores_that_this_process_may_not_use_do_not_count():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
