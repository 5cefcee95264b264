"""One function over many cases: parallel processes, a progress bar, and all problems together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from typing import TypeVar

from joblib import Parallel, delayed
from tqdm import tqdm

from nnunet_wsl.errors import InputError, reason_of

Input = TypeVar("Input")
Result = TypeVar("Result")


def for_all(
    function: Callable[[Input], Result], items: Sequence[Input], jobs: int, description: str
) -> tuple[list[Result], list[str]]:
    """Apply a function to all items, in parallel processes and with a progress bar.

    Parameters
    ----------
    function : callable
        Raises InputError for a bad item. Where it raises OSError or MemoryError, that is a problem of the item too.
    items : sequence
        Its arguments. Problems name those that have a name.
    jobs : int
        Number of processes; 1 stays in this one.
    description : str
        Text of the progress bar.

    Returns
    -------
    list
        The results of the good items, in their order.
    list of str
        The problems of all bad items.

    Raises
    ------
    InputError
        If the system killed a process, as it does when memory runs out.
    """

    def attempt(item: Input) -> Result | InputError:
        try:
            return function(item)
        except InputError as error:
            return error
        except OSError as error:
            return InputError(
                f"{_title(description, item)}: {reason_of(error)}. Check the place, its space and its permissions."
            )
        except MemoryError:
            return InputError(f"{_title(description, item)}: there is not enough memory. Give a lower --jobs.")

    outcomes = Parallel(n_jobs=jobs, return_as="generator")(delayed(attempt)(item) for item in items)
    try:
        outcomes = list(tqdm(outcomes, description, len(items), delay=2, unit="case"))
    except BrokenExecutor as error:
        raise InputError(
            f"{description}: the system killed a process, which it does when memory runs out. {jobs} cases were worked "
            f"on at the same time; expected memory for all of them. Give a lower --jobs, 1 if nothing else helps."
        ) from error
    return (
        [outcome for outcome in outcomes if not isinstance(outcome, InputError)],
        [problem for outcome in outcomes if isinstance(outcome, InputError) for problem in outcome.problems],
    )


def _title(description: str, item: object) -> str:
    name = getattr(item, "name", None)
    return f"{description}, '{name}'" if isinstance(name, str) else description
