"""Tables and figures of docs/evidence.md and docs/evidence_tables.md from the committed results.

    python benchmarks/accuracy/figures.py

Writes the page of tables, the tables of the other page between their marks, and the pictures of both.
"""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, BETWEEN, METHODS
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from questions import TABLES, answered, crossed, panels
from study import compare, pooled, seed_means

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "evidence.md"

COLOURS = ("#868e96", "#0a6cff", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#e8a200", "#0b7285")
METRICS = {
    "dice": ("Dice", 3),
    "nsd": ("NSD", 3),
    "hd95_mm": ("HD95, mm", 2),
    "assd_mm": ("ASSD, mm", 2),
    "volume_ratio": ("volume / true volume", 2),
}


def arms_of(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The first run of each arm, by the arm's name, in the order of the study."""
    arms: dict[str, dict[str, Any]] = {}
    for run in study["runs"]:
        arms.setdefault(run["arm"], run)
    return arms


def scored(study: dict[str, Any]) -> dict[str, Any]:
    """The study without the trainings that were cut off, which have curves only."""
    return study | {"runs": [run for run in study["runs"] if "scores" in run]}


def title_of(run: dict[str, Any]) -> str:
    return str(run["title"])


def table(study: dict[str, Any]) -> str:
    """One row per arm: means over cases, and their spread over seeds."""
    runs = study["runs"]
    metrics = {key: metric for key, metric in METRICS.items() if key in runs[0]["scores"]}
    names = [f"{name} at {study['tolerance_mm']:g} mm" if key == "nsd" else name for key, (name, _) in metrics.items()]
    rows = [
        f"| arm | drawn | seeds | cases | {' | '.join(names)} | worst case, Dice |",
        "| --- " * (len(names) + 5) + "|",
    ]
    for arm, run in arms_of(study).items():
        cells = []
        for key, (_, digits) in metrics.items():
            means = np.array(list(seed_means(runs, arm, key).values()))
            spread = f" ± {means.std(ddof=1):.{digits}f}" if len(means) > 1 else ""
            cells.append(f"{means.mean():.{digits}f}{spread}")
        drawn = f"{run['share_drawn']:.0%}"
        seeds = seed_means(runs, arm, "dice")
        dice = pooled(runs, arm, "dice", seeds).values()
        cells = [title_of(run), drawn, ", ".join(map(str, seeds)), str(len(dice)), *cells, f"{min(dice):.3f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def comparisons(study: dict[str, Any]) -> str:
    """One row per pair of arms: differences of Dice and NSD, and those of Dice by seed."""
    titles = {arm: title_of(run) for arm, run in arms_of(study).items()}
    scored = [run for run in study["runs"] if "scores" in run]
    rows = [
        "| B | against A | Dice, B - A | p | NSD, B - A | p | Dice, by seed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for a, b in dict.fromkeys((c["a"], c["b"]) for c in study["comparisons"]):
        cells = [titles[b], titles[a]]
        # Anew, for the test may have become more exact since.
        found = {metric: compare(scored, a, b, metric) for metric in ("dice", "nsd")}
        for c in found.values():
            low, high = c["interval"]
            cells += [f"{c['difference']:+.3f} ({low:+.3f} to {high:+.3f})", f"{c['p']:.2g}"]
        cells.append(", ".join(f"{value:+.3f}" for value in found["dice"]["by_seed"].values()))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def curves(study: dict[str, Any], path: Path) -> None:
    """Mask loss and pseudo Dice of every arm per epoch: thin lines are seeds, thick ones their mean."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, dice = figure.subplots(1, 2)
    lines = product(("-", "--", ":"), COLOURS)
    for (style, colour), (arm, run) in zip(lines, arms_of(study).items(), strict=False):
        logged = [r["curves"] for r in study["runs"] if r["arm"] == arm]
        # Without relevance supervision the whole loss is the second difference.
        losses = [c.get("train_second_difference", c["train_losses"]) for c in logged]
        for axes, of_seeds in ((loss, losses), (dice, [c["mean_fg_dice"] for c in logged])):
            mean = _mean_curve(of_seeds)
            axes.plot(range(1, len(mean) + 1), mean, style, color=colour, linewidth=2, label=title_of(run))
            for values in of_seeds if len(of_seeds) > 1 else ():
                axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=0.5, alpha=0.6)
    loss.set_title("second difference (mask loss), training patches")
    dice.set_title("pseudo Dice, supervised voxels of validation patches")
    for axes in (loss, dice):
        axes.set_xlabel(f"epoch of {study['budget']['iterations_per_epoch']} iterations")
        axes.grid(alpha=0.3)
    figure.legend(*dice.get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _mean_curve(of_seeds: list[list[float]]) -> NDArray[np.float64]:
    """The mean over the seeds, to where all of them are."""
    return np.array([np.mean(values) for values in zip(*of_seeds, strict=False)])


def _is_of_effort(arm: str) -> bool:
    """Whether nothing but the number of slices makes the annotation less than dense."""
    return ARMS[arm][0].startswith(("dense", "every"))


def effort(study: dict[str, Any], path: Path) -> None:
    """Dice of the test cases against the share of the slices that was drawn: one line per supervision and method."""
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    arms = arms_of(study)
    points = {
        arm: (100 * run["share_drawn"], np.array(list(seed_means(study["runs"], arm, "dice").values())))
        for arm, run in arms.items()
        if _is_of_effort(arm)
    }
    for between, colour in zip(BETWEEN, ("#d9480f", "#0a6cff", "#2b8a3e"), strict=True):
        for method, style in (("stock", "s--"), ("wsl-stock-patches", "^:"), ("wsl", "o-")):
            line = [points[arm] for arm in points if ARMS[arm][0].endswith(between) and ARMS[arm][1] == method]
            if not line:
                continue
            if f"dense-{method}" in points:
                line.append(points[f"dense-{method}"])
            line.sort(key=lambda point: point[0])
            # The methods stand side by side.
            shares = np.array([share for share, _ in line]) * (0.985 if method == "stock" else 1.015)
            title = f"{BETWEEN[between]}: {METHODS[method].title}"
            axes.plot(shares, [dice.mean() for _, dice in line], style, color=colour, label=title, markersize=8)
            for share, (_, dice) in zip(shares, line, strict=True):
                axes.plot([share] * len(dice), dice, style[0], color=colour, markersize=3, alpha=0.6)
    axes.set_xscale("log")
    shares_drawn = sorted({share for share, _ in points.values()})
    axes.set_xticks(shares_drawn, [f"{share:.0f} %" for share in shares_drawn])
    axes.minorticks_off()
    axes.set_xlabel("slices drawn, of those that show an object")
    axes.set_ylabel("Dice, mean over test cases; small: seeds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})


LINES = {
    "dense-stock": ("#868e96", "s--"),
    "dense-wsl-stock-patches": ("#74a9ff", "^:"),
    "dense-in-image": ("#862e9c", "D-."),
    "dense-wsl": ("#0a6cff", "o-"),
    "every5-ignore-stock": ("#d9480f", "s--"),
    "every5-gated-stock": ("#2b8a3e", "s--"),
    "every5-gated-wsl-stock-patches": ("#69db7c", "^:"),
    "every5-gated-wsl": ("#0b7285", "o-"),
}
"""Colour and style of the arms that were trained for several lengths."""


def lengths(studies: list[dict[str, Any]], path: Path) -> None:
    """Dice of the test cases against the number of iterations: a panel per data set, a line per arm."""
    by_data: dict[str, list[dict[str, Any]]] = {}
    for study in studies:
        if study["budget"]["optimiser"] == "adam" and "test" in study["cases"]:
            by_data.setdefault(re.sub(r"_\d+$", "", study["study"]), []).append(study)
    by_data = {data: found for data, found in by_data.items() if len(found) > 1}
    figure = Figure(figsize=(5.5 * len(by_data), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (data, found) in zip(figure.subplots(1, len(by_data), squeeze=False)[0], by_data.items(), strict=True):
        ticks = set()
        for arm, (colour, style) in LINES.items():
            points = []
            for study in found:
                iterations = study["budget"]["epochs"] * study["budget"]["iterations_per_epoch"]
                for dice in (seeds := seed_means(study["runs"], arm, "dice")).values():
                    axes.plot(iterations, dice, style[0], color=colour, markersize=3, alpha=0.6)
                if seeds:
                    points.append((iterations, float(np.mean(list(seeds.values())))))
            if points:
                title = next(arms_of(s)[arm]["title"] for s in found if arm in arms_of(s))
                axes.plot(*zip(*sorted(points), strict=True), style, color=colour, label=title)
                ticks |= {iterations for iterations, _ in points}
        axes.set_xscale("log")
        axes.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
        axes.minorticks_off()
        axes.set_title(data)
        axes.set_xlabel("iterations")
        axes.set_ylabel("Dice, mean over test cases; small: seeds")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def speed(study: dict[str, Any], faster: str, stock: str) -> str:
    """How soon an arm reaches the final pseudo Dice of another one, with the seeds that both have."""
    curves_of = {
        arm: {r["seed"]: r["curves"]["mean_fg_dice"] for r in study["runs"] if r["arm"] == arm}
        for arm in (faster, stock)
    }
    seeds = sorted(curves_of[faster].keys() & curves_of[stock].keys())
    mean = {arm: _mean_curve([of_seed[seed] for seed in seeds]) for arm, of_seed in curves_of.items()}
    final = mean[stock][-1]
    first = {arm: np.flatnonzero(curve >= final) + 1 for arm, curve in mean.items()}
    titles = {arm: title_of(run) for arm, run in arms_of(study).items()}
    start = (
        f"Pseudo Dice on validation patches, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}: "
        f'"{titles[stock]}" ends at {final:.3f}, and first has '
        f'that after {first[stock][0]} of {len(mean[stock])} epochs; "{titles[faster]}" '
    )
    ends = mean[faster]
    never = f"does not get there: after {len(ends)} it has {ends[-1]:.3f}, and at most {ends.max():.3f}."
    return start + (f"after {first[faster][0]}." if len(first[faster]) else never)


def section(path: Path) -> str:
    """The section of one study."""
    study = json.loads(path.read_text())
    budget, hardware, versions = study["budget"], study["hardware"], study["versions"]
    how = ", ".join(filter(None, (hardware["device"], study.get("precision"))))  # older results do not say
    lines = [
        f"## {study['title']}",
        "",
        study["description"],
        "",
        f"Fold {budget['fold']}, {budget['configuration']}, {budget['epochs']} epochs of "
        f"{budget['iterations_per_epoch']} iterations, {hardware['cores']} core{'s' * (hardware['cores'] > 1)} "
        f"of {hardware['machine']} "
        f"({how}); nnU-Net {versions['nnunetv2']}, torch {versions['torch']}. "
        f"Command: `{study['command']}`",
        "",
        table(scored(study)),
    ]
    if study.get("comparisons"):
        lines += ["", comparisons(study)]
    # Pseudo Dice is that of validation patches: it can be compared between trainings that see patches of one kind.
    # The patches that nnU-Net plans for its own network are as large as hippocampi: both kinds are nearly the same.
    stock_of_wsl = "dense-stock" if study["network"]["features"] == "planned" else "dense-in-image"
    for stock, faster in (("dense-stock", "dense-wsl-stock-patches"), (stock_of_wsl, "dense-wsl")):
        if {stock, faster} <= arms_of(study).keys():
            lines += ["", speed(study, faster, stock)]
    if len({run["share_drawn"] for run in scored(study)["runs"] if _is_of_effort(run["arm"])}) > 1:
        picture = DOCS / "images" / f"evidence_{path.stem}_effort.png"
        effort(scored(study), picture)
        lines += ["", f"![Dice against the share of slices drawn](images/{picture.name})"]
    picture = DOCS / "images" / f"evidence_{path.stem}.png"
    curves(study, picture)
    lines += ["", f"![Training curves](images/{picture.name})"]
    return "\n".join(lines)


HEAD = """# Evidence: the studies

Written by `benchmarks/accuracy/figures.py` from `benchmarks/accuracy/results/`. [The evidence](evidence.md) says what
they mean, and [how they were measured](evidence.md#how-it-was-measured)."""


def main() -> None:
    (DOCS / "images").mkdir(exist_ok=True)
    paths = sorted(RESULTS.glob("*.json"))
    (DOCS / TABLES).write_text("\n\n".join((HEAD, *map(section, paths))) + "\n")
    studies = [scored(json.loads(path.read_text())) for path in paths]
    lengths(studies, DOCS / "images" / "evidence_lengths.png")
    studies += crossed(studies)
    panels([study for study in studies if "test" in study["cases"]], DOCS / "images" / "evidence_differences.png")
    PAGE.write_text(answered(PAGE.read_text(), studies))


if __name__ == "__main__":
    main()
