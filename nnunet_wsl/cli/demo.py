"""``nnunet_wsl demo``: the whole path on embedded data."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments of ``nnunet_wsl demo``."""
    parser = subparsers.add_parser(
        "demo",
        help="convert, plan, train, predict and score phantoms; no download, no GPU, a few minutes",
        description="Write phantoms as DICOM series with RTSTRUCT files that are drawn on every third slice, run the "
        "commands that you would run on your own data, score the prediction, and draw what happened.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("nnunet_wsl_demo"), metavar="FOLDER",
        help="folder to write to; must not exist (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="default: %(default)s")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo and print its commands, the Dice and where the picture is."""
    import torch

    from nnunet_wsl.demo.pipeline import run_demo
    from nnunet_wsl.errors import InputError

    backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
    if args.device != "cpu" and not backends[args.device].is_available():
        raise InputError(f"No {args.device} device found. Leave out --device to run the demo on the CPU.")
    start = time.monotonic()

    def report(command: str) -> None:
        print(f"\n[{time.monotonic() - start:.0f} s] $ {command}", flush=True)

    result = run_demo(args.out, device=args.device, report=report)
    print(f"\nDone in {time.monotonic() - start:.0f} s. Dice on the test patients, whom nobody annotated:")
    for name, dice in result.dice.items():
        print(f"  {name:<8} {dice:.3f}")
    print(f"Look at {result.picture}: image, contours, relevance, prediction.")
    sys.stdout.flush()
    return 0
