"""The console command ``nnunet_wsl``.

Each command is a module of this package with two functions: ``add_parser(subparsers)``, which declares the
arguments and sets ``run`` as the default of ``func``, and ``run(args)``, which returns the exit code. Heavy imports
belong inside ``run``: the help must be fast.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from _thread import interrupt_main
from collections.abc import Callable, Sequence
from threading import Timer, main_thread
from types import ModuleType
from typing import TextIO

from nnunet_wsl import __version__
from nnunet_wsl.cli import compare, convert, demo, env, evaluate, predict_relevance, relevance, train
from nnunet_wsl.errors import InputError
from nnunet_wsl.files import is_text

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a process; Windows has no SIGHUP."""

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
    args = build_parser().parse_args(argv)

    def run() -> int:
        _check_names(sys.argv[1:] if argv is None else argv)
        return int(args.func(args))

    return exit_code(run)


def exit_code(run: Callable[[], int]) -> int:
    """Do what a command is for and return its exit code; errors become messages, and so do signals that end it.

    Parameters
    ----------
    run : callable
        Returns the exit code, if nothing goes wrong.

    Returns
    -------
    int
        Also 2 for bad input, 130 if it was interrupted.
    """
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("nnunet_wsl").setLevel(logging.INFO)
    # Who kills a process, closes its terminal or ends a job on a cluster means what Ctrl-C means: clean up, and let no
    # worker go on.
    handlers = {one: signal.signal(one, signal.default_int_handler) for one in _ENDING if not _is_ignored(one)}
    # Python drops an exception of a hook that runs when a process is forked, and such like: then it is raised again,
    # by any signal that is not ignored.
    handled = next(iter(handlers), signal.SIGINT)
    former_hook, retries = sys.unraisablehook, list[Timer]()

    def interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            retries.append(Timer(0.1, _interrupt_main_thread, [handled]))
            retries[-1].start()
        else:
            former_hook(unraisable)

    sys.unraisablehook = interrupt_again
    try:
        code = run()
        sys.stdout.flush()  # or a pipe that is closed would be noticed too late
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except NotImplementedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not _is_closed(sys.stdout):
            raise
        # Who reads the output has read enough. Python would complain when it closes what it cannot write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    else:
        return code
    finally:
        sys.unraisablehook = former_hook
        for retry in retries:
            retry.cancel()
        for one, handler in handlers.items():
            signal.signal(one, handler)


def _interrupt_main_thread(one: signal.Signals) -> None:
    """Send a signal to the main thread, which may be waiting for something."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(main_thread().ident or 0, one)
    else:  # Windows
        interrupt_main(one)


def _is_ignored(one: signal.Signals) -> bool:
    """Return whether this process shall outlive a signal, as that of its terminal under nohup."""
    return signal.getsignal(one) == signal.SIG_IGN


def _is_closed(stream: TextIO) -> bool:
    """Return whether nobody reads what is written; an error that ends the program has come up already."""
    try:
        print(file=stream, flush=True)
    except BrokenPipeError:
        return True
    return False


def _check_names(arguments: Sequence[str]) -> None:
    if problems := [
        f"The argument '{ascii(argument)[1:-1]}' is no UTF-8, which names of files and objects must be. Rename it."
        for argument in arguments
        if not is_text(argument)
    ]:
        raise InputError(problems)
