"""``nnunet_wsl compare``: compare two evaluated runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_wsl.cli.output import replace_what_cannot_be_shown
from nnunet_wsl.errors import counted, rounded

if TYPE_CHECKING:
    from nnunet_wsl.evaluation import Comparison


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments of ``nnunet_wsl compare``."""
    parser = subparsers.add_parser(
        "compare",
        help="compare two evaluated runs case by case: paired test, bootstrap intervals",
        description="Compare two folders with a summary.json of 'nnunet_wsl evaluate' (or of nnU-Net): mean difference "
        "B - A with its bootstrap interval, and the Wilcoxon signed-rank test over cases.",
    )
    parser.add_argument("run_a", type=Path, metavar="RUN_A")
    parser.add_argument("run_b", type=Path, metavar="RUN_B")
    parser.add_argument("--out", type=Path, help="folder for comparison.json, comparison.csv and comparison.png")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Compare, and print a table."""
    from nnunet_wsl.evaluation import compare_runs

    comparison = compare_runs(args.run_a, args.run_b)
    if args.out is not None:
        comparison.write(args.out)
    replace_what_cannot_be_shown()
    print_rows(comparison)
    return 0


def print_rows(comparison: Comparison) -> None:
    """Print a line per object and metric."""
    print(f"A: {comparison.name_a}\nB: {comparison.name_b}")
    print(f"{counted(len(comparison.cases), 'case')}; B - A with its {comparison.level:.0%} bootstrap interval\n")
    width = max(len("object"), *(len(row.object) for row in comparison.rows))
    title_width = max(len(row.metric.magnitude_title) for row in comparison.rows) + 2
    print(
        f"{'object':<{width}}  {'metric':<{title_width}} {'A':>9} {'B':>9} {'B - A':>9}  {'interval':<22}"
        f"{'p':>8}  better in"
    )
    for row in comparison.rows:
        title = row.metric.magnitude_title
        if not row.pairs:
            print(f"{row.object:<{width}}  {title:<{title_width}} undefined in all cases")
            continue
        digits = row.metric.digits
        low, high, difference = (rounded(value, digits, "+") for value in (*row.interval, row.difference))
        mean_a, mean_b = (rounded(value, digits) for value in (row.mean_a, row.mean_b))
        wins_a, wins_b = row.wins
        undefined = len(comparison.cases) - row.pairs
        note = f", undefined {undefined}" if undefined else ""
        print(
            f"{row.object:<{width}}  {title:<{title_width}} {mean_a:>9} {mean_b:>9} "
            f"{difference:>9}  {f'{low} to {high}':<22}{row.p_value:8.2g}  A {wins_a}, B {wins_b}{note}"
        )
    print("\np: two-sided Wilcoxon signed-rank test over cases, not corrected for the number of rows.")
