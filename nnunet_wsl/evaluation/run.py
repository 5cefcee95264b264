"""The scores of a run: every object of every case, on disk as nnU-Net's ``summary.json`` and as a table."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_wsl import __version__
from nnunet_wsl.errors import InputError
from nnunet_wsl.evaluation.output import write_json, write_table
from nnunet_wsl.evaluation.scores import EMPTY_RULE, IGNORE_RULE, ObjectScores
from nnunet_wsl.evaluation.statistics import LEVEL, bootstrap_interval

SUMMARY_FILE = "summary.json"
TABLE_FILE = "metrics.csv"


@dataclass(frozen=True)
class Metric:
    """One of the metrics that are drawn and compared.

    Parameters
    ----------
    key : str
        Its key in ``summary.json`` and its column in ``metrics.csv``.
    title : str
        Its name for people, with the unit.
    higher_is_better : bool
        Otherwise the smaller magnitude is better.
    digits : int
        Decimals worth printing.
    signed : bool
        Whether values may be negative; runs are compared by the magnitude.
    """

    key: str
    title: str
    higher_is_better: bool
    digits: int
    signed: bool = False

    @property
    def magnitude_title(self) -> str:
        """Name of what is compared between runs."""
        return f"|{self.title}|" if self.signed else self.title


METRICS = (
    Metric("Dice", "Dice", True, 3),
    Metric("IoU", "IoU", True, 3),
    Metric("NSD", "NSD", True, 3),
    Metric("HD95_mm", "HD95 (mm)", False, 2),
    Metric("ASSD_mm", "ASSD (mm)", False, 2),
    Metric("volume_difference_mm3", "volume difference (mm³)", False, 1, signed=True),
)


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case.

    Parameters
    ----------
    case : str
        Its name.
    reference_file, prediction_file : str
        Where its label maps are.
    metrics : dict
        By key of the object, then by key of the metric, as in ``summary.json``; NaN where undefined.
    """

    case: str
    reference_file: str
    prediction_file: str
    metrics: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Run:
    """Scores of all cases of a run.

    Parameters
    ----------
    cases : tuple of CaseScores
        At least one; all with the same objects and metrics.
    names : dict of str to str
        Name of each object by its key.
    tolerances_mm : dict of str to float
        Tolerance of the NSD by key of the object; empty if the run has no NSD.
    settings : dict
        What else belongs into the block ``"wsl"`` of ``summary.json``.
    """

    cases: tuple[CaseScores, ...]
    names: Mapping[str, str]
    tolerances_mm: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that this run has."""
        available = next(iter(self.cases[0].metrics.values()))
        return tuple(metric for metric in METRICS if metric.key in available)

    def values(self, key: str, metric: str) -> npt.NDArray[np.float64]:
        """Values of a metric for an object, one per case; NaN where undefined."""
        return np.array([case.metrics[key][metric] for case in self.cases], np.float64)

    def mean(self, key: str, metric: str) -> float:
        """Mean over the cases in which the metric is defined; NaN if it is in none."""
        values = self.values(key, metric)
        return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else math.nan

    def interval(self, key: str, metric: str) -> tuple[float, float]:
        """Bootstrap interval of the mean over the cases in which the metric is defined; NaN if it is in none."""
        values = self.values(key, metric)
        return bootstrap_interval(values[np.isfinite(values)])

    def counts(self, key: str) -> dict[str, int]:
        """How often the object is absent, and how often a metric of it is undefined."""
        absent_ref, absent_pred = self.values(key, "n_ref") == 0, self.values(key, "n_pred") == 0
        undefined = np.zeros(len(self.cases), bool)
        for metric in self.metrics:
            undefined |= np.isnan(self.values(key, metric.key))
        return {
            "cases": len(self.cases),
            "absent_in_both": int((absent_ref & absent_pred).sum()),
            "absent_in_reference_only": int((absent_ref & ~absent_pred).sum()),
            "absent_in_prediction_only": int((~absent_ref & absent_pred).sum()),
            "undefined": int(undefined.sum()),
        }

    def write(self, folder: Path) -> None:
        """Write ``summary.json`` and ``metrics.csv`` into an existing folder."""
        keys = list(self.cases[0].metrics[next(iter(self.names))])
        mean = {key: {metric: self.mean(key, metric) for metric in keys} for key in self.names}
        summary = {
            "foreground_mean": {m: float(np.mean([mean[key][m] for key in self.names])) for m in keys},
            "mean": mean,
            "metric_per_case": [
                {
                    "metrics": {key: dict(values) for key, values in case.metrics.items()},
                    "prediction_file": case.prediction_file,
                    "reference_file": case.reference_file,
                }
                for case in self.cases
            ],
            "wsl": {
                "package_version": __version__,
                "objects": dict(self.names),
                "tolerances_mm": dict(self.tolerances_mm),
                "mean_intervals": {
                    key: {metric.key: list(self.interval(key, metric.key)) for metric in self.metrics}
                    for key in self.names
                },
                "interval_level": LEVEL,
                "counts": {key: self.counts(key) for key in self.names},
                "empty_rule": EMPTY_RULE,
                "ignore_rule": IGNORE_RULE,
                **self.settings,
            },
        }
        write_json(folder / SUMMARY_FILE, summary)
        write_table(
            folder / TABLE_FILE,
            (
                {
                    "case": case.case,
                    "object": self.names[key],
                    "key": key,
                    "tolerance_mm": self.tolerances_mm[key],
                    **case.metrics[key],
                }
                for case in self.cases
                for key in self.names
            ),
        )

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read ``summary.json``, written by this package or by nnU-Net.

        Raises
        ------
        InputError
            If there is none, it has another layout, a case comes twice, or a value is infinite.
        """
        path = folder / SUMMARY_FILE
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"'{folder}' {'is no folder' if folder.is_file() else f'has no {SUMMARY_FILE}'}. Give the folder that "
                "'nnunet_wsl evaluate' wrote to."
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"'{path}' cannot be read ({error}). Evaluate again.") from error
        try:
            cases = tuple(
                CaseScores(
                    case=_case_name(case["reference_file"]),
                    reference_file=case["reference_file"],
                    prediction_file=case["prediction_file"],
                    metrics={
                        key: {name: math.nan if value is None else float(value) for name, value in values.items()}
                        for key, values in case["metrics"].items()
                    },
                )
                for case in summary["metric_per_case"]
            )
            block = summary.get("wsl", {})
            names = block.get("objects", {key: key for key in cases[0].metrics})
            names = {key: str(name) for key, name in names.items()}
            tolerances_mm = {key: float(value) for key, value in block.get("tolerances_mm", {}).items()}
            layout = {key: set(cases[0].metrics[key]) for key in names}
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise InputError(
                f"'{path}' does not have the layout of nnU-Net's summary.json ({type(error).__name__}: {error}). "
                "Evaluate again."
            ) from error
        if not layout or any("n_ref" not in values for values in layout.values()):
            raise InputError(
                f"'{path}' does not have the layout of nnU-Net's summary.json: expected objects, each with n_ref. "
                "Evaluate again."
            )
        if len(set(map(frozenset, layout.values()))) > 1:
            raise InputError(f"'{path}': the objects have not all the same metrics. Evaluate again.")
        uneven = [c.case for c in cases if {key: set(values) for key, values in c.metrics.items()} != layout]
        if uneven:
            raise InputError(
                f"'{path}': the cases {', '.join(uneven)} have other objects or metrics than '{cases[0].case}'. "
                "Evaluate again."
            )
        problems = [
            f"'{path}': case '{case}' comes {count} times. Evaluate again."
            for case, count in Counter(case.case for case in cases).items()
            if count > 1
        ]
        problems += [
            f"'{path}': '{names[key]}' of case '{case.case}' has an infinite {metric}. Evaluate again."
            for case in cases
            for key, values in case.metrics.items()
            for metric, value in values.items()
            if math.isinf(value)
        ]
        if problems:
            raise InputError(problems)
        return cls(cases, names, tolerances_mm)


def case_metrics(scores: ObjectScores) -> dict[str, float]:
    """Scores of an object under the keys of nnU-Net's ``summary.json``, and those that it does not have."""
    return {
        "Dice": scores.dice,
        "IoU": scores.iou,
        "NSD": scores.surface.nsd,
        "HD95_mm": scores.surface.hd95_mm,
        "ASSD_mm": scores.surface.assd_mm,
        "volume_difference_mm3": scores.volume_difference_mm3,
        "volume_ref_mm3": scores.n_ref * scores.voxel_mm3,
        "TP": scores.tp,
        "FP": scores.fp,
        "FN": scores.fn,
        "TN": scores.tn,
        "n_pred": scores.n_pred,
        "n_ref": scores.n_ref,
    }


def _case_name(file: str) -> str:
    windows = "/" not in file and "\\" in file
    name = (PureWindowsPath if windows else PurePath)(file).name
    return name.removesuffix(".gz").rpartition(".")[0] or name
