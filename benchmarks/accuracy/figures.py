"""Tables and figures of docs/evidence.md from the committed results.

    python benchmarks/accuracy/figures.py

Rewrites the part of the page between its two markers, and the pictures that it shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "evidence.md"
BEGIN, END = "<!-- results: written by benchmarks/accuracy/figures.py -->", "<!-- end of results -->"


def case_means(run: dict[str, Any]) -> np.ndarray:
    """Dice of each case, mean over its labels; NaN where neither mask has the label."""
    return np.array([np.nanmean(list(case.values())) for case in run["dice"].values()])


def table(study: dict[str, Any]) -> str:
    """One row per run."""
    rows = [
        "| trainer | seed | cases | mean Dice | median | worst case |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for run in study["runs"]:
        dice = case_means(run)
        rows.append(
            f"| {run['arm']} | {run['seed']} | {len(dice)} | {dice.mean():.3f} | {np.median(dice):.3f} | "
            f"{dice.min():.3f} |"
        )
    return "\n".join(rows)


def curves(study: dict[str, Any], path: Path) -> None:
    """Losses, pseudo Dice and both differences of every run, per epoch."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    mask, dice, relevance = figure.subplots(1, 3)
    for colour, run in zip(("#0a6cff", "#d9480f", "#2b8a3e", "#862e9c"), study["runs"], strict=False):
        name, logged = f"{run['arm']}, seed {run['seed']}", run["curves"]
        for split, style in (("train", "-"), ("val", ":")):
            # Without relevance supervision the whole loss is the second difference.
            second = logged.get(f"{split}_second_difference", logged[f"{split}_losses"])
            mask.plot(second, style, color=colour, label=f"{name}, {split}")
            if f"{split}_first_difference" in logged:
                relevance.plot(logged[f"{split}_first_difference"], style, color=colour, label=f"{name}, {split}")
        dice.plot(logged["mean_fg_dice"], color=colour, label=name)
    mask.set_title("second difference (mask loss)")
    dice.set_title("pseudo Dice on validation patches")
    relevance.set_title("first difference (relevance)")
    for axes in (mask, dice, relevance):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def section(path: Path) -> str:
    """The section of one study."""
    study = json.loads(path.read_text())
    picture = DOCS / "images" / f"evidence_{path.stem}.png"
    curves(study, picture)
    budget, hardware, versions = study["budget"], study["hardware"], study["versions"]
    lines = [
        f"### {study['title']}",
        "",
        study["description"],
        "",
        f"Fold {budget['fold']}, {budget['configuration']}, {budget['epochs']} epochs of "
        f"{budget['iterations_per_epoch']} iterations on {hardware['cores']} cores ({hardware['device']}); "
        f"nnU-Net {versions['nnunetv2']}, torch {versions['torch']}. Command: `{study['command']}`",
        "",
        table(study),
        "",
        f"![Training curves](images/{picture.name})",
    ]
    overlay = DOCS / "images" / f"evidence_{path.stem}_overlay.png"
    if overlay.exists():
        lines += ["", f"![Validation cases with contours and predictions](images/{overlay.name})"]
    return "\n".join(lines)


def main() -> None:
    (DOCS / "images").mkdir(exist_ok=True)
    sections = "\n\n".join(section(path) for path in sorted(RESULTS.glob("*.json")))
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{sections}\n\n{END}{after}")


if __name__ == "__main__":
    main()
