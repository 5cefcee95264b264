"""Pictures of an evaluation: distributions, worst cases, differences between two runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_wsl.errors import counted, rounded
from nnunet_wsl.evaluation.label_maps import LabelMap
from nnunet_wsl.evaluation.objects import ScoredObject
from nnunet_wsl.evaluation.run import CaseScores, Metric, Run

if TYPE_CHECKING:
    from nnunet_wsl.evaluation.compare import Comparison

WORST_CASES = 6
"""Number of objects in the picture of the worst."""

_AGREED, _MISSED, _FALSE, _IGNORED = 1, 2, 3, 4
_COLOURS = {0: "#000000", _AGREED: "#d0d0d0", _MISSED: "#0a84ff", _FALSE: "#ff9f0a", _IGNORED: "#4a4a55"}
_LEGEND = {_AGREED: "in both", _MISSED: "in the reference only", _FALSE: "in the prediction only", _IGNORED: "ignored"}
_LEGEND_INCHES = 7.5
_POINT, _SUMMARY = "#0a84ff", "#1c1c1e"
_MARGIN_VOX, _MIN_VIEW_VOX = 4, 24
_FAR_MM = 10


@dataclass(frozen=True)
class CaseView:
    """The slice of a case in which an object is worst.

    Parameters
    ----------
    title : str
        Case, object, slice and scores.
    classes : ndarray of uint8, shape (y, x)
        Which voxels are in both, in one, or ignored; cropped to the object.
    aspect : float
        Height of a voxel by its width.
    """

    title: str
    classes: npt.NDArray[np.uint8]
    aspect: float

    @classmethod
    def of(cls, case: CaseScores, obj: ScoredObject, pred: LabelMap, ref: LabelMap, ignore: int | None) -> CaseView:
        """Find the slice with the most wrong voxels, or the largest cross-section where none is wrong."""
        # Along z, but for images of one slice along another axis.
        axis = ref.values.shape.index(1) if 1 in ref.values.shape else 0
        pred_values, ref_values = (np.moveaxis(label_map.values, axis, 0) for label_map in (pred, ref))
        spacing_mm = [mm for place, mm in enumerate(ref.spacing_mm_zyx) if place != axis]
        predicted, expected = np.isin(pred_values, obj.values), np.isin(ref_values, obj.values)
        classes = expected * np.uint8(_MISSED) + predicted * np.uint8(_FALSE)
        classes[predicted & expected] = _AGREED
        if ignore is not None:
            classes[ref_values == ignore] = _IGNORED
        wrong = ((classes == _MISSED) | (classes == _FALSE)).sum(axis=(1, 2))
        agreed = (classes == _AGREED).sum(axis=(1, 2))
        z = int(np.lexsort((agreed, wrong))[-1])
        shown = np.argwhere(np.isin(classes[z], (_AGREED, _MISSED, _FALSE)))
        crop = classes[z]
        if len(shown):
            low, high = shown.min(axis=0), shown.max(axis=0) + 1
            margin = np.maximum(_MARGIN_VOX, (_MIN_VIEW_VOX - (high - low)) // 2)
            low, high = np.maximum(low - margin, 0), high + margin
            crop = crop[low[0] : high[0], low[1] : high[1]]
        scores = case.metrics[obj.key]
        values = f"Dice {scores['Dice']:.3f}, NSD {scores['NSD']:.3f}, HD95 {rounded(scores['HD95_mm'])} mm"
        where = f", slice {z}" if len(classes) > 1 else ""
        return cls(f"{case.case}: {obj.name}{where}\n{values}", crop, spacing_mm[0] / spacing_mm[1])


def worst_first(run: Run) -> list[tuple[CaseScores, str]]:
    """Cases and keys of objects by NSD, then Dice; where the NSD is undefined, by Dice alone."""

    def badness(item: tuple[CaseScores, str]) -> tuple[float, float]:
        scores = item[0].metrics[item[1]]
        return (scores["Dice"] if math.isnan(scores["NSD"]) else scores["NSD"], scores["Dice"])

    return sorted(((case, key) for case in run.cases for key in run.names), key=badness)


@rc_context({"text.parse_math": False})  # a name with two $ is no formula
def draw_distributions(run: Run, output: Path) -> None:
    """Draw every case's scores: a panel per metric, a row per object.

    Parameters
    ----------
    run : Run
        The scores.
    output : Path
        PNG to write.
    """
    metrics = [metric for metric in run.metrics if metric.key != "IoU"]  # says the same as Dice
    figure, panels = _panels(metrics, len(run.names))
    for panel, metric in zip(panels, metrics, strict=True):
        for row, key in enumerate(run.names):
            values = run.values(key, metric.key)
            values = values[np.isfinite(values)]
            if not len(values):
                panel.text(0.5, row, "undefined", transform=panel.get_yaxis_transform(), ha="center", va="center")
                continue
            _points(panel, values, row)
            panel.boxplot(
                values, positions=[row], widths=0.5, orientation="horizontal", showfliers=False, manage_ticks=False,
                medianprops={"color": _SUMMARY, "linewidth": 2}, boxprops={"color": _SUMMARY},
                whiskerprops={"color": _SUMMARY}, capprops={"color": _SUMMARY},
            )  # fmt: skip
        if metric.signed:
            panel.axvline(0, color=_SUMMARY, linewidth=0.8)
        elif metric.higher_is_better:
            panel.set_xlim(left=min(0.9, panel.get_xlim()[0]), right=1.02)
        else:
            panel.set_xlim(left=0)
        panel.set_xlabel(metric.title)
        _compress_far_distances(panel, metric)
    _name_rows(panels[0], run.names, run.tolerances_mm)
    figure.suptitle(f"{counted(len(run.cases), 'case')}: every case, median, quartiles")
    _save(figure, output)


@rc_context({"text.parse_math": False})  # a name with two $ is no formula
def draw_worst_cases(views: Sequence[CaseView], output: Path) -> None:
    """Draw the worst slices of the worst objects.

    Parameters
    ----------
    views : sequence of CaseView
        Worst first.
    output : Path
        PNG to write.
    """
    columns = min(3, len(views))
    rows = math.ceil(len(views) / columns)
    figure = Figure(figsize=(max(4.2 * columns, _LEGEND_INCHES), 4.2 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = ListedColormap([_COLOURS[value] for value in sorted(_COLOURS)])
    for panel in panels:
        panel.set_axis_off()
    for panel, view in zip(panels, views, strict=False):
        panel.imshow(view.classes, cmap=colours, vmin=0, vmax=len(_COLOURS) - 1, aspect=view.aspect,
                     interpolation="nearest")  # fmt: skip
        panel.set_title(_wrapped(view.title, 46), fontsize=9)
    shown = {int(value) for view in views for value in np.unique(view.classes)}
    figure.legend(
        handles=[Patch(color=_COLOURS[value], label=label) for value, label in _LEGEND.items() if value in shown],
        loc="outside lower center", ncols=len(_LEGEND), frameon=False,
    )  # fmt: skip
    _save(figure, output)


@rc_context({"text.parse_math": False})  # a name with two $ is no formula
def draw_comparison(comparison: Comparison, output: Path) -> None:
    """Draw the difference of every pair, and its mean with the bootstrap interval: a panel per metric.

    Parameters
    ----------
    comparison : Comparison
        Two runs.
    output : Path
        PNG to write.
    """
    metrics = [metric for metric in comparison.metrics if metric.key != "IoU"]
    names = {row.key: row.object for row in comparison.rows}
    figure, panels = _panels(metrics, len(names))
    by_place = {(row.key, row.metric.key): row for row in comparison.rows}
    for panel, metric in zip(panels, metrics, strict=True):
        panel.axvline(0, color=_SUMMARY, linewidth=0.8)
        for row, key in enumerate(names):
            result = by_place[key, metric.key]
            differences = result.differences[np.isfinite(result.differences)]
            if not len(differences):
                panel.text(0.5, row, "undefined", transform=panel.get_yaxis_transform(), ha="center", va="center")
                continue
            _points(panel, differences, row)
            panel.plot(result.interval, [row, row], color=_SUMMARY, linewidth=3, solid_capstyle="butt", zorder=3)
            panel.plot(result.difference, row, marker="D", color="white", markeredgecolor=_SUMMARY, zorder=4)
            panel.annotate(
                f"p = {result.p_value:.2g}", (1, row - 0.36), xycoords=panel.get_yaxis_transform(), xytext=(-3, 0),
                textcoords="offset points", ha="right", va="center", fontsize=8,
            )  # fmt: skip
        better = "right" if metric.higher_is_better else "left"
        panel.set_xlabel(f"{metric.magnitude_title}: B - A\nB is better to the {better}")
        _compress_far_distances(panel, metric)
    _name_rows(panels[0], names, comparison.tolerances_mm)
    title = (
        f"A: {comparison.name_a}\nB: {comparison.name_b}\n"
        f"{counted(len(comparison.cases), 'case')}: every pair, mean and {comparison.level:.0%} bootstrap interval"
    )
    title = _wrapped(title, int(8 * figure.get_figwidth()))
    figure.set_figheight(figure.get_figheight() + 0.2 * (title.count("\n") - 1))
    figure.suptitle(title)
    _save(figure, output)


def _panels(metrics: Sequence[Metric], num_rows: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(1.8 + 2.9 * len(metrics), 1.9 + 0.8 * num_rows), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        panel.grid(axis="x", alpha=0.25)
        panel.locator_params(axis="x", nbins=3 if metric.signed else 5)  # numbers of six digits are as wide as this
        panel.tick_params(axis="y", length=0)
    panels[0].set_ylim(num_rows - 0.45, -0.55)
    return figure, panels


def _name_rows(panel: Axes, names: Mapping[str, str], tolerances_mm: Mapping[str, float]) -> None:
    titles = [
        f"{name}\nNSD at {tolerances_mm[key]:g} mm" if key in tolerances_mm else name for key, name in names.items()
    ]
    panel.set_yticks(range(len(names)), [_wrapped(title, 30) for title in titles])


def _wrapped(title: str, width: int) -> str:
    """Break lines that are wider than so many letters, for matplotlib cuts them off or draws over what is beside."""
    return "\n".join(textwrap.fill(line, width) for line in title.splitlines())


def _points(panel: Axes, values: npt.NDArray[np.float64], row: int) -> None:
    """One dot per case, spread over the row so that equal values stay visible."""
    spread = (np.arange(len(values)) * 0.618034) % 1  # golden ratio: even, and the same at every run
    panel.scatter(
        values, row + 0.4 * (spread - 0.5), s=12, color=_POINT, alpha=0.5, linewidths=0, zorder=2, clip_on=False
    )


def _compress_far_distances(panel: Axes, metric: Metric) -> None:
    """Make room for the distances of an absent object: linear to 1 mm, logarithmic beyond."""
    if metric.key.endswith("_mm") and max(np.abs(panel.dataLim.intervalx)) > _FAR_MM:
        panel.set_xscale("symlog", linthresh=1)
        panel.xaxis.set_major_formatter("{x:g}")


def _save(figure: Figure, output: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(output, dpi=110)
