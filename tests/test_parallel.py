from __future__ import annotations

import os
import signal

import pytest

from nnunet_wsl.errors import InputError
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
