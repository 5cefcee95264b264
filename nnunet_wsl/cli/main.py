"""The console command ``nnunet_wsl``.

Each command is a module of this package with two functions: ``add_parser(subparsers)``, which declares the
arguments and sets ``run`` as the default of ``func``, and ``run(args)``, which returns the exit code. Heavy imports
belong inside ``run``: the help must be fast.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from nnunet_wsl import __version__
from nnunet_wsl.cli import compare, convert, demo, env, evaluate, predict_relevance, relevance, train
from nnunet_wsl.errors import InputError

COMMANDS: tuple[ModuleType, ...] = (demo, convert, train, predict_relevance, evaluate, compare, relevance, env)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(prog="nnunet_wsl", description="Learn segmentation from contours with nnU-Net v2.")
    parser.add_argument("--version", action="version", version=f"nnunet_wsl {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 2 bad input, 130 interrupted.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program name; those of the process by default.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("nnunet_wsl").setLevel(logging.INFO)
    args = build_parser().parse_args(argv)
    # Who kills a process or ends a job on a cluster means what Ctrl-C means: clean up, and let no worker go on.
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(args.func(args))
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except NotImplementedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, handler)
