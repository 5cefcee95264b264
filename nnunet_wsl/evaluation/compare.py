"""Compare two runs that were scored on the same cases."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_wsl.errors import InputError
from nnunet_wsl.evaluation.figures import draw_comparison
from nnunet_wsl.evaluation.output import results_in, write_json, write_table
from nnunet_wsl.evaluation.run import Metric, Run
from nnunet_wsl.evaluation.statistics import LEVEL, RESAMPLES, SEED, bootstrap_interval, paired_p_value

COMPARISON_FILE = "comparison.json"
COMPARISON_TABLE_FILE = "comparison.csv"
COMPARISON_PICTURE_FILE = "comparison.png"

_ROUNDING = 1e-12

ALL_OBJECTS = "mean of objects"
"""The row in which a case counts with the mean over its objects."""


@dataclass(frozen=True)
class ComparisonRow:
    """Two runs by one metric of one object; of the volume difference the magnitude is compared.

    Parameters
    ----------
    key, object : str
        Key and name of the object, or ``ALL_OBJECTS``.
    metric : Metric
        The metric.
    differences : ndarray of float64, shape (cases,)
        B less A, case by case; NaN where undefined in either run.
    mean_a, mean_b : float
        Means over the pairs that are defined in both.
    interval : tuple of float
        Bootstrap interval of the mean difference.
    p_value : float
        Two-sided Wilcoxon signed-rank test, not corrected for the number of rows; NaN without pairs.
    """

    key: str
    object: str
    metric: Metric
    differences: npt.NDArray[np.float64]
    mean_a: float
    mean_b: float
    interval: tuple[float, float]
    p_value: float

    @property
    def difference(self) -> float:
        """Mean of B less mean of A; 0 if they differ by rounding alone, as those of scores in another order."""
        return 0.0 if math.isclose(self.mean_a, self.mean_b, rel_tol=_ROUNDING) else self.mean_b - self.mean_a

    @property
    def pairs(self) -> int:
        """Number of cases in which both runs are defined."""
        return int(np.isfinite(self.differences).sum())

    @property
    def wins(self) -> tuple[int, int]:
        """In how many cases A is better, and in how many B."""
        gain = self.differences if self.metric.higher_is_better else -self.differences
        return int((gain < 0).sum()), int((gain > 0).sum())

    def as_dict(self) -> dict[str, Any]:
        """Return the row as in ``comparison.json`` and ``comparison.csv``."""
        return {
            "object": self.object,
            "key": self.key,
            "metric": self.metric.key,
            "higher_is_better": self.metric.higher_is_better,
            "pairs": self.pairs,
            "undefined_pairs": len(self.differences) - self.pairs,
            "mean_a": self.mean_a,
            "mean_b": self.mean_b,
            "difference": self.difference,
            "interval_low": self.interval[0],
            "interval_high": self.interval[1],
            "p_value": self.p_value,
            "a_better": self.wins[0],
            "b_better": self.wins[1],
        }


@dataclass(frozen=True)
class Comparison:
    """All metrics of all objects in two runs.

    Parameters
    ----------
    name_a, name_b : str
        How the runs are called.
    cases : tuple of str
        The cases of both.
    rows : tuple of ComparisonRow
        Every object with every metric that both runs have.
    tolerances_mm : dict of str to float
        Tolerance of the NSD by key of the object; empty if it is not compared.
    level : float
        Coverage of the intervals.
    """

    name_a: str
    name_b: str
    cases: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]
    tolerances_mm: dict[str, float]
    level: float = LEVEL

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that were compared."""
        return tuple(dict.fromkeys(row.metric for row in self.rows))

    def write(self, out: Path) -> None:
        """Write the comparison as JSON, CSV and PNG; see :func:`results_in`."""
        rows = [row.as_dict() for row in self.rows]
        with results_in(out) as folder:
            write_json(
                folder / COMPARISON_FILE,
                {
                    "a": self.name_a,
                    "b": self.name_b,
                    "cases": self.cases,
                    "tolerances_mm": self.tolerances_mm,
                    "bootstrap": {"level": self.level, "resamples": RESAMPLES, "seed": SEED},
                    "test": "Wilcoxon signed-rank, two-sided, paired by case, not corrected for the number of rows",
                    "rows": rows,
                },
            )
            write_table(folder / COMPARISON_TABLE_FILE, rows)
            draw_comparison(self, folder / COMPARISON_PICTURE_FILE)


def compare_runs(folder_a: Path, folder_b: Path) -> Comparison:
    """Compare two evaluations case by case.

    Parameters
    ----------
    folder_a, folder_b : Path
        Folders with a ``summary.json``, of this package or of nnU-Net; what both have is compared.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If the runs were not scored on the same cases, objects, references and tolerances; all that differs.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for folder in (folder_a, folder_b):
        try:
            runs.append(Run.read(folder))
        except InputError as error:  # noqa: PERF203 - one bad run must not hide the other
            problems += error.problems
    if problems:
        raise InputError(dict.fromkeys(problems))
    run_a, run_b = runs
    _check_comparable(run_a, run_b, str(folder_a), str(folder_b))
    order = {case.case: case for case in run_b.cases}
    run_b = replace(run_b, cases=tuple(order[case.case] for case in run_a.cases))
    rows = []
    for metric in run_a.metrics:
        if metric not in run_b.metrics:
            continue
        a = {key: _magnitudes(run_a, key, metric) for key in run_a.names}
        b = {key: _magnitudes(run_b, key, metric) for key in run_a.names}
        rows += [_row(key, name, metric, a[key], b[key]) for key, name in run_a.names.items()]
        if len(run_a.names) > 1:
            mean_a, mean_b = (np.mean(list(values.values()), axis=0) for values in (a, b))
            rows.append(_row(ALL_OBJECTS, ALL_OBJECTS, metric, mean_a, mean_b))
    if not rows:
        raise InputError(f"'{folder_a}' and '{folder_b}' have no metric in common. Evaluate both again.")
    tolerances_mm = dict(run_a.tolerances_mm) if any(row.metric.key == "NSD" for row in rows) else {}
    return Comparison(
        str(folder_a), str(folder_b), tuple(case.case for case in run_a.cases), tuple(rows), tolerances_mm
    )


def _magnitudes(run: Run, key: str, metric: Metric) -> npt.NDArray[np.float64]:
    return np.abs(run.values(key, metric.key))


def _row(key: str, name: str, metric: Metric, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> ComparisonRow:
    # Values that are equal up to rounding, as means of the same scores in another order, are no difference.
    finite = np.abs([a, b])[np.isfinite([a, b])]
    differences = np.where(np.isclose(a, b, rtol=0, atol=_ROUNDING * finite.max(initial=0)), 0, b - a)
    defined = np.isfinite(differences)
    paired = differences[defined]
    return ComparisonRow(
        key=key,
        object=name,
        metric=metric,
        differences=differences,
        mean_a=float(a[defined].mean()) if len(paired) else float("nan"),
        mean_b=float(b[defined].mean()) if len(paired) else float("nan"),
        interval=bootstrap_interval(paired),
        p_value=paired_p_value(paired) if len(paired) else float("nan"),
    )


def _check_comparable(run_a: Run, run_b: Run, name_a: str, name_b: str) -> None:
    problems = []
    cases_a, cases_b = ({case.case: case for case in run.cases} for run in (run_a, run_b))
    for cases, others, name in ((cases_a, cases_b, name_b), (cases_b, cases_a, name_a)):
        problems += [
            f"Case '{case}' is missing in '{name}'. Score both runs on the same cases."
            for case in cases
            if case not in others
        ]
    objects_a, objects_b = set(run_a.names), set(run_b.names)
    if objects_a != objects_b:
        problems.append(
            f"'{name_a}' has the objects {', '.join(sorted(objects_a))}, '{name_b}' {', '.join(sorted(objects_b))}. "
            "Score both runs with the same dataset.json."
        )
    for key in sorted(objects_a & objects_b):
        called_a, called_b = run_a.names[key], run_b.names[key]
        if called_a != called_b and key not in (called_a, called_b):  # nnU-Net's own summary has keys only
            problems.append(
                f"Object {key} is '{called_a}' in '{name_a}', '{called_b}' in '{name_b}'. "
                "Score both runs with the same dataset.json."
            )
        tolerances_mm = run_a.tolerances_mm.get(key), run_b.tolerances_mm.get(key)
        if None not in tolerances_mm and tolerances_mm[0] != tolerances_mm[1]:
            problems.append(
                f"The NSD of '{run_a.names[key]}' is at {tolerances_mm[0]} mm in '{name_a}', at {tolerances_mm[1]} mm "
                f"in '{name_b}'. Score both runs with the same --tolerance-mm."
            )
        problems += [
            f"Case '{case}', '{run_a.names[key]}': the reference has {n_a:g} voxels in '{name_a}', {n_b:g} in "
            f"'{name_b}'. Score both runs against the same references."
            for case in cases_a
            if case in cases_b
            and (n_a := cases_a[case].metrics[key]["n_ref"]) != (n_b := cases_b[case].metrics[key]["n_ref"])
        ]
    if problems:
        raise InputError(problems)
