"""The option ``--jobs`` of commands that work on several cases at the same time."""

from __future__ import annotations

import argparse

from nnunet_wsl.cores import usable_cores

_ALL = "all"


def add_jobs(parser: argparse.ArgumentParser, verb: str) -> None:
    """Declare ``--jobs``, the number of cases that are converted, scored or whatever the verb says in parallel."""
    parser.add_argument(
        "--jobs", type=number_of_jobs, default=_ALL, metavar="N",
        help=f"cases {verb} at the same time (default: as many as the cores that it may use)",
    )  # fmt: skip


def number_of_jobs(text: str) -> int:
    """Return a whole number from 1; that of the cores by default.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is none.
    """
    if text == _ALL:  # argparse passes a default that is text through here, if it is needed
        return usable_cores()
    if not (text.isdecimal() and len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 1")
    return int(text)
