"""The one error that the command line turns into a message and exit code 2, and what messages are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 case``, ``2 cases``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def rounded(value: float, digits: int = 1, sign: Literal["", "+"] = "") -> str:
    """Return a number with so many decimals, or with three significant digits if it is too small for them."""
    return f"{value:{sign}.{digits}f}" if value == 0 or abs(value) >= 10 ** (1 - digits) else f"{value:{sign}.3g}"


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, where libraries say what is wrong, or the kind of error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def described(error: BaseException) -> str:
    """Return the kind of an error and the last line of its message."""
    return ": ".join(dict.fromkeys([type(error).__name__, last_line(error)]))


def reason_of(error: OSError) -> str:
    """Return what the system says, with the file that it says it of."""
    return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)


class InputError(ValueError):
    """Bad input: one clear line per problem, all problems of a run together.

    Parameters
    ----------
    problems : str or iterable of str
        Each says which case or file, what was expected, what was found, and what to do.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        """Join the problems, one per line."""
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[str, ...]]]:
        """Cross process borders with all problems."""
        return (type(self), (self.problems,))
