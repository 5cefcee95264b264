"""What the studies say together: for each question the pairs of arms that answer it, from all that have them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from arms import BETWEEN, LABELLINGS, METHODS, title_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study import SWAPPED, compare, seed_means, seeds_of

TABLES = "evidence_tables.md"
DATA_SETS = {"hippocampus": "hippocampus", "nuclei": "nuclei", "sarcoma_mr": "MR", "sarcoma": "PET"}
"""How tables call them, by how the names of their studies begin."""

_NOTES = {SWAPPED: ", swapped", "_contours_inside": ", contours inside"}
"""What the names of some studies end in, and how tables say it."""


@dataclass(frozen=True)
class Question:
    """A question, and the pairs of arms whose differences answer it.

    Parameters
    ----------
    title : str
        What the difference is of.
    pairs : dict of str to (str, str)
        B and A of each difference B - A, by how tables call the pair.
    share : bool
        Whether the question is how much of A's Dice B has.
    """

    title: str
    pairs: dict[str, tuple[str, str]]
    share: bool = False


QUESTIONS = {
    "dense": Question(
        "Every slice drawn: WSL - stock",
        {"": ("dense-wsl", "dense-stock"), "a contour for each object": ("dense-each", "dense-stock")},
    ),
    "patches": Question("Every slice drawn: patches in the image - nnU-Net's", {"": ("dense-in-image", "dense-stock")}),
    "relevance": Question(
        "The relevance alone: WSL - stock on the same patches",
        {
            "every slice": ("dense-wsl", "dense-in-image"),
            "a contour for each object": ("dense-each", "dense-in-image"),
            "every slice, nnU-Net's patches": ("dense-wsl-stock-patches", "dense-stock"),
            "every 5th, gated": ("every5-gated-wsl", "every5-gated-in-image"),
            "every 5th, gated, nnU-Net's patches": ("every5-gated-wsl-stock-patches", "every5-gated-stock"),
        },
    ),
    "few": Question(
        "Every 5th slice drawn: WSL - stock with the rest ignored",
        {
            "WSL gated": ("every5-gated-wsl", "every5-ignore-stock"),
            "WSL ignored": ("every5-ignore-wsl", "every5-ignore-stock"),
        },
    ),
    "enough": Question(
        "WSL on every 5th slice - stock on every slice",
        {"gated": ("every5-gated-wsl", "dense-stock"), "ignored": ("every5-ignore-wsl", "dense-stock")},
        share=True,
    ),
    "between": Question(
        "Every 5th slice drawn: gated - ignored between",
        {
            "WSL": ("every5-gated-wsl", "every5-ignore-wsl"),
            "WSL, nnU-Net's patches": ("every5-gated-wsl-stock-patches", "every5-ignore-wsl-stock-patches"),
            "stock": ("every5-gated-stock", "every5-ignore-stock"),
        },
    ),
    "half": Question(
        "Half of the iterations - all of them",
        {
            "WSL half as long - stock": ("dense-half", "dense-stock"),
            "stock on WSL's patches half as long - stock": ("dense-in-image-half", "dense-stock"),
            "WSL - stock on WSL's patches, both half as long": ("dense-half", "dense-in-image-half"),
        },
    ),
}
"""By the marks of their tables on the page."""

PANELS = {
    "dense": ("", "a contour for each object"),
    "relevance": ("every slice", "a contour for each object"),
    "few": ("WSL gated", "WSL ignored"),
    "between": ("WSL",),
}
"""Which pairs of which questions the picture shows."""

MAIN = ("stock", "in-image", "wsl", "wsl-stock-patches", "half", "in-image-half")
"""Methods that are no variants of WSL."""


@dataclass(frozen=True)
class Difference:
    """B - A in one study, over its cases and the seeds that both have."""

    study: dict[str, Any]
    pair: str
    b: str
    a: str

    @property
    def setting(self) -> str:
        """Data set, number of training cases, iterations, optimiser and, if it is not the small one, the network."""
        study, budget = self.study, self.study["budget"]
        data_set = next(name for prefix, name in DATA_SETS.items() if study["study"].startswith(prefix))
        network = {"planned": ", nnU-Net's network", "[16, 32, 64, 128]": ", half of nnU-Net's network"}
        notes = "".join(note for ending, note in _NOTES.items() if study["study"].endswith(ending))
        cases = f"{len(study['cases']['train'])} cases{notes}"
        return (
            f"{data_set}, {study.get('folds', cases)}, {budget['epochs'] * budget['iterations_per_epoch']} "
            f"{'AdamW' if budget['optimiser'] == 'adam' else 'SGD'}{network.get(str(study['network']['features']), '')}"
        )

    def of(self, metric: str) -> dict[str, Any]:
        """The paired comparison in one metric."""
        return compare(self.study["runs"], self.a, self.b, metric)


def crossed(studies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join each study with the one of swapped cases: a cross-validation in two folds, every case a test case once."""
    by_name = {study["study"]: study for study in studies}
    return [
        _joined(by_name[name.removesuffix(SWAPPED)], study) for name, study in by_name.items() if name.endswith(SWAPPED)
    ]


def _joined(study: dict[str, Any], swapped: dict[str, Any]) -> dict[str, Any]:
    """The arms and seeds that both have, with the test cases of both."""
    others = {(run["arm"], run["seed"]): run["scores"] for run in swapped["runs"]}
    runs = [
        run | {"scores": {metric: cases | other[metric] for metric, cases in run["scores"].items()}}
        for run in study["runs"]
        if (other := others.get((run["arm"], run["seed"])))
    ]
    folds = f"both folds, {len(study['cases']['test']) + len(swapped['cases']['test'])} test cases"
    return study | {"runs": runs, "folds": folds}


def differences(question: Question, studies: list[dict[str, Any]]) -> list[Difference]:
    """All that the studies have to a question, short trainings of each data set first."""
    return [
        Difference(study, pair, b, a)
        for pair, (b, a) in question.pairs.items()
        for study in sorted(studies, key=_data_set_and_length)
        if _common_seeds(study, a, b)
    ]


def _data_set_and_length(study: dict[str, Any]) -> tuple[int, bool, int, bool, bool]:
    place = next(place for place, prefix in enumerate(DATA_SETS) if study["study"].startswith(prefix))
    return (
        place,
        study["budget"]["optimiser"] == "sgd",
        study["budget"]["epochs"] * study["budget"]["iterations_per_epoch"],
        "folds" in study,
        study["study"].endswith(SWAPPED),
    )


def variants(studies: list[dict[str, Any]]) -> list[Difference]:
    """Every other way of training against WSL as it is: on the same labels, or else on those gated and ignored between.

    WSL with nnU-Net's patches stands in where a study has no other.
    """
    found = []
    for method in METHODS:
        for study, (labelling, _) in product(studies, LABELLINGS.items()):
            b = f"{labelling}-{method}"
            same = [labelling], [f"{labelling.removesuffix('-interpolate')}-{between}" for between in BETWEEN]
            pairs = (
                [Difference(study, title_of(b), b, a) for one in of if _common_seeds(study, a := f"{one}-{wsl}", b)]
                for of, wsl in product(same, ("wsl", "wsl-stock-patches"))
            )
            if method not in MAIN:
                found += next(filter(None, pairs), [])
    return found


def _common_seeds(study: dict[str, Any], a: str, b: str) -> set[int]:
    return seeds_of(study["runs"], a) & seeds_of(study["runs"], b)


def table(rows: list[Difference], *, share: bool = False, against: bool = False) -> str:
    """One row per study and pair."""
    several = any(row.pair for row in rows)
    head = ["study", *["what"] * several, *["against"] * against, *["share of A's Dice"] * share]
    head += ["Dice, B - A", "by seed", "p", "NSD, B - A", "p"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for row in rows:
        dice, nsd = row.of("dice"), row.of("nsd")
        title = row.study["title"]
        cells = [f"[{row.setting}]({TABLES}#{anchor(title)}){'' if 'test' in row.study['cases'] else ' (choose)'}"]
        cells += [row.pair] * several + [title_of(row.a)] * against
        if share:
            of_a, of_b = (seed_means(row.study["runs"], arm, "dice") for arm in (row.a, row.b))
            seeds = of_a.keys() & of_b.keys()
            cells.append(f"{sum(of_b[seed] for seed in seeds) / sum(of_a[seed] for seed in seeds):.1%}")
        cells += [f"**{dice['difference']:+.3f}**", ", ".join(f"{value:+.3f}" for value in dice["by_seed"].values())]
        cells += [f"{dice['p']:.2g}", f"{nsd['difference']:+.3f}", f"{nsd['p']:.2g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def anchor(title: str) -> str:
    """What the heading of a study is linked by."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def panels(studies: list[dict[str, Any]], path: Path) -> None:
    """Differences in Dice: a panel per question, a row per study and pair; dots are seeds, a diamond is their mean."""
    shown = {key: [row for row in differences(QUESTIONS[key], studies) if row.pair in PANELS[key]] for key in PANELS}
    figure = Figure(figsize=(9, 0.21 * sum(len(rows) + 3 for rows in shown.values())), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(len(shown), 1, height_ratios=[len(rows) + 1 for rows in shown.values()], sharex=True)
    for axes, (key, rows) in zip(all_axes, shown.items(), strict=True):
        for place, row in enumerate(rows):
            by_seed = list(row.of("dice")["by_seed"].values())
            agree = len(by_seed) > 1 and len({value > 0 for value in by_seed}) == 1
            colour = "#868e96" if not agree else "#0a6cff" if by_seed[0] > 0 else "#d9480f"
            axes.plot(by_seed, [place] * len(by_seed), "o", color=colour, markersize=4, alpha=0.6)
            axes.plot(sum(by_seed) / len(by_seed), place, "D", color=colour, markersize=6)
        names = [f"{row.setting}{f': {row.pair}' * (len(PANELS[key]) > 1 and row.pair != '')}" for row in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=7.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(QUESTIONS[key].title, loc="left", fontsize=9, fontweight="bold")
        axes.grid(alpha=0.3)
    all_axes[-1].tick_params(axis="x", labelsize=8)
    all_axes[-1].set_xlabel("difference in Dice on test cases", fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def answered(page: str, studies: list[dict[str, Any]]) -> str:
    """The page with the table of each question, between its two marks, as the studies have it now."""
    tests = [study for study in studies if "test" in study["cases"]]
    tables = {
        key: f"{question.title} (B - A).\n\n{table(differences(question, tests), share=question.share)}"
        for key, question in QUESTIONS.items()
    }
    tables["variants"] = table(variants(studies), against=True)
    for key, text in tables.items():
        begin, end = f"<!-- table: {key} -->", "<!-- end of table -->"
        before, rest = page.split(begin)
        page = f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end, 1)[1]}"
    return page
