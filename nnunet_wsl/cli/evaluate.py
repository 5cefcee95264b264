"""``nnunet_wsl evaluate``: score predictions against references."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_wsl.cli.jobs import add_jobs
from nnunet_wsl.cli.output import replace_what_cannot_be_shown
from nnunet_wsl.errors import InputError, counted, rounded

if TYPE_CHECKING:
    from nnunet_wsl.evaluation import Run


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments of ``nnunet_wsl evaluate``."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score predictions: Dice, surface Dice (NSD), HD95, ASSD, volume difference",
        description="Score every case of PRED against the file of the same name in REF. Labels, regions, ignore label "
        "and file ending are those of dataset.json. Writes summary.json (nnU-Net's layout), metrics.csv and two "
        "pictures to OUT.",
    )
    parser.add_argument("--pred", type=Path, required=True, help="folder of predictions, as nnUNetv2_predict leaves it")
    parser.add_argument("--ref", type=Path, required=True, help="folder of references, for example labelsTs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--dataset-json", type=Path, metavar="FILE", help="default: PRED/dataset.json")
    parser.add_argument(
        "--tolerance-mm", nargs="+", action="extend", default=[], metavar="[LABEL=]MM",
        help="distance that the NSD takes for agreement, of one label or of all others (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--predicted-only", action="store_true",
        help="leave out references without prediction, as for the validation folder of one fold",
    )  # fmt: skip
    add_jobs(parser, "scored")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Score, and print a table of the means."""
    from nnunet_wsl.evaluation import evaluate_folders

    result = evaluate_folders(
        args.pred,
        args.ref,
        args.out,
        dataset_json=args.dataset_json,
        tolerances_mm=parse_tolerances(args.tolerance_mm),
        predicted_only=args.predicted_only,
        jobs=args.jobs,
    )
    replace_what_cannot_be_shown()
    print_means(result)
    return 0


def parse_tolerances(arguments: list[str]) -> dict[str | None, float]:
    """Split ``LABEL=MM`` arguments; a number alone is for all labels without their own, under None.

    Raises
    ------
    InputError
        If a tolerance is no positive number, or a label comes twice; all problems together.
    """
    tolerances_mm: dict[str | None, float] = {}
    problems = []
    for argument in arguments:
        name, separator, number = argument.rpartition("=")
        label = name if separator else None
        if label in tolerances_mm:
            problems.append(f"--tolerance-mm '{argument}': {label or 'the default'} comes twice. Give it once.")
        try:
            tolerances_mm[label] = float(number)
            if not 0 < tolerances_mm[label] < math.inf:
                problems.append(f"--tolerance-mm '{argument}' is no positive distance in mm.")
        except ValueError:
            problems.append(f"--tolerance-mm '{argument}' is not LABEL=MM or MM. Write, for example, tumour=2.")
    if problems:
        raise InputError(problems)
    return tolerances_mm


def print_means(result: Run) -> None:
    """Print mean and bootstrap interval of every object and metric, and what lies behind them."""
    import numpy as np

    print(f"{counted(len(result.cases), 'case')}: mean (95% bootstrap interval over cases)")
    for key, name in result.names.items():
        print(f"\n{name}")
        for metric in result.metrics:
            values = result.values(key, metric.key)
            defined = values[np.isfinite(values)]
            title = f"{metric.title} at {result.tolerances_mm[key]:g} mm" if metric.key == "NSD" else metric.title
            if len(defined):
                low, high = result.interval(key, metric.key)
                mean, lowest, highest = (rounded(value, metric.digits) for value in (defined.mean(), low, high))
                text = f"{mean} ({lowest} to {highest})"
            else:
                text = "undefined"
            num_undefined = len(values) - len(defined)
            note = f"   undefined in {counted(num_undefined, 'case')}" if num_undefined else ""
            print(f"  {title:<26} {text}{note}")
        counts = result.counts(key)
        absent = [
            f"{counts[f'absent_in_{where}']} {text}"
            for where, text in (
                ("both", "in both (scored as perfect)"),
                ("reference_only", "in the reference only (scored as failed)"),
                ("prediction_only", "in the prediction only (scored as failed)"),
            )
            if counts[f"absent_in_{where}"]
        ]
        if absent:
            print(f"  absent: {', '.join(absent)}")
