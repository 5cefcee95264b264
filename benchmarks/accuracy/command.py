"""The command that every study shares: which arms, seeds and budget, on one data set with dense truth.

The cases are shuffled once: the first train, the next validate during training, the next are the test, which decides
nothing. With other numbers of cases the test stays as it is: more cases train with those behind the test. With
``--screening`` all that neither train, nor validate, nor test are scored instead, to choose by. With ``--swap`` the
test cases train, and those that otherwise train are the test: both together cross-validate in two folds. Contours of
the training cases are simulated around their dense masks; truth is always dense. Every arm gets the same cases, plan,
seeds and number of iterations. A study that was cut off continues where it stopped when the command is given again; the
results are written after every training. On another machine, ``--extend`` takes the trainings that the committed
results hold, and trains the others.

The defaults are a small network and a small budget for a CPU. nnU-Net's full settings on a GPU:
``--features --patch --batch-size 0 --epochs 1000 --iterations 250 --optimiser sgd --device cuda
--mirror``. With ``nnUNet_n_proc_DA=0 nnUNet_compile=f`` and ``--parallel`` a GPU trains as many small networks at once
as there are cores to augment for them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from arms import (
    ARMS,
    DRAWN_ONE_BY_ONE,
    LABELLINGS,
    MAIN_ARMS,
    METHODS,
    dataset_of,
    pairs,
    settings_of,
    title_of,
)
from study import (
    SWAPPED,
    Arm,
    Budget,
    claim,
    collect_curves,
    compare,
    environment,
    evaluate,
    fold_of,
    mean_score,
    plan,
    predict,
    recorded_runs,
    save,
    seeds_of,
    shrink,
    train,
    write_changed,
)

from nnunet_wsl.conversion import convert_masks, convert_polygons

SPLIT_SEED = 4
SCORES = {"Dice": "dice", "NSD": "nsd", "HD95_mm": "hd95_mm", "ASSD_mm": "assd_mm"}
FILE_ENDING = ".nii.gz"
POLYGONS = "polygons"
"""Folder with images that have a polygon around every object, where a data set has them."""


@dataclass(frozen=True)
class DataSet:
    """Images with dense masks.

    Parameters
    ----------
    name, title, source : str
        Of the results file, of the section in the docs, and where the data are from.
    script : str
        The study's file, for the command in the results.
    labels : mapping of str to int
        Values in the masks.
    channel : str
        nnU-Net's name of the image channel.
    prepare : callable
        Takes DATA and the work folder; returns a folder with ``images`` and ``labels``, with one file per case.
    tolerance_mm : float
        Of the surface Dice.
    cases : tuple of int
        How many train, validate and test.
    features, patch_zyx : tuple of int
        Of the small network; empty: as planned.
    configuration : str
        nnU-Net's, which the small network is made from.
    spacing_mm_zyx : tuple of float
        That images are resampled to; empty: as planned.
    """

    name: str
    title: str
    source: str
    script: str
    labels: Mapping[str, int]
    channel: str
    prepare: Callable[[Path, Path], Path]
    tolerance_mm: float
    cases: tuple[int, int, int]
    features: tuple[int, ...]
    patch_zyx: tuple[int, ...]
    configuration: str = "3d_fullres"
    spacing_mm_zyx: tuple[float, ...] = ()


def main(data_set: DataSet, description: str) -> None:
    """Run a study, or go on with it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="datasets, models and logs go here")
    parser.add_argument("--name", default=data_set.name, help="of the file in results/ (default: %(default)s)")
    parser.add_argument("--title", default=data_set.title, help="of the section in the docs")
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=MAIN_ARMS, metavar="LABELLING-METHOD",
        help=f"labellings: {', '.join(LABELLINGS)}; methods: {', '.join(METHODS)} (default: {' '.join(MAIN_ARMS)})",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=50, help="per epoch")
    parser.add_argument("--train-cases", type=int, default=data_set.cases[0])
    parser.add_argument("--val-cases", type=int, default=data_set.cases[1])
    parser.add_argument("--test-cases", type=int, default=data_set.cases[2])
    parser.add_argument(
        "--features", type=int, nargs="*", default=data_set.features,
        help="features of each stage of the U-Net; none: nnU-Net's plan",
    )  # fmt: skip
    parser.add_argument(
        "--patch", type=int, nargs="*", default=data_set.patch_zyx, metavar="VOXELS",
        help="patch size z y x; none: nnU-Net's plan",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=2, help="0: nnU-Net's plan")
    parser.add_argument(
        "--optimiser", choices=("sgd", "adam"), default="adam",
        help="nnU-Net's SGD, or AdamW as in its nnUNetTrainerAdam1en3 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--mirror", action="store_true", help="mirror the test cases in prediction, as nnU-Net does")
    parser.add_argument(
        "--screening", action="store_true",
        help="score the cases that neither train, nor validate, nor test: to choose by them",
    )  # fmt: skip
    parser.add_argument(
        "--swap", action="store_true", help="train on the test cases, and test on those that otherwise train"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parallel", type=int, default=1, help="trainings side by side (default: %(default)s)")
    parser.add_argument("--finished-only", action="store_true", help="train nothing: write the results there are")
    parser.add_argument(
        "--extend", action="store_true",
        help="take the arms and seeds that results/NAME.json has from there; its study must be the same",
    )  # fmt: skip
    args = parser.parse_args()
    if args.swap and (args.screening or not args.name.endswith(SWAPPED)):
        parser.error(f"--swap goes with a --name that ends in {SWAPPED}, and not with --screening")
    work = args.work.resolve()
    os.environ.update(environment(work))

    data = data_set.prepare(args.data, work)
    labels = data / "labels"
    cases = sorted(path.name.removesuffix(FILE_ENDING) for path in labels.glob(f"*{FILE_ENDING}"))
    random.Random(SPLIT_SEED).shuffle(cases)
    # The test cases stay the same however many cases train; those that then neither train nor validate are left over.
    first = sum(data_set.cases[:2])
    test = cases[first:][: args.test_cases]
    rest = cases[:first] + cases[first:][args.test_cases :]
    training, rest = rest[: args.train_cases], rest[args.train_cases :]
    validation, left_over = rest[: args.val_cases], rest[args.val_cases :]
    if args.swap:
        training, test = test, training
    role, scored = ("screening", left_over) if args.screening else ("test", test)
    _link(data, work, "development", sorted([*training, *validation]))
    _link(data, work, role, scored, channel="_0000")

    small = bool(args.features or args.patch or args.batch_size)
    budget = Budget(
        args.epochs, args.iterations, tuple(args.seeds), device=args.device, optimiser=args.optimiser,
        configuration=f"{data_set.configuration.split('_')[0]}_small" if small else data_set.configuration,
    )  # fmt: skip
    # What the command line of the machine that ran it needs to repeat the study, without its folders.
    command = shlex.join(["python", f"benchmarks/accuracy/{data_set.script}", "DATA", *_options(sys.argv[1:], args)])
    notes: dict[str, Any] = {
        "title": args.title,
        "description": (
            f"{data_set.source}: contours drawn by the simulator around the masks of {len(training)} training cases; "
            f"{len(scored)} other cases "
            f"{'are there to choose by' if args.screening else 'are the test, and decided nothing'}. "
            f"{_network_text(args, data_set)}"
        ),
        "network": {
            "features": args.features or "planned",
            "patch_zyx": args.patch or "planned",
            "batch_size": args.batch_size or "planned",
        },
        "prediction": {"mirroring": args.mirror},
        "cases": {"split_seed": SPLIT_SEED, "train": training, "val": validation, role: sorted(scored)},
        "labels": {str(value): name for name, value in data_set.labels.items()},
        "tolerance_mm": data_set.tolerance_mm,
    }
    claim(work, budget, notes)
    recorded = recorded_runs(args.name, budget, notes) if args.extend else {}

    arms, share_drawn = {}, {}
    for name in args.arms:
        if all("scores" in recorded.get((name, seed), {}) for seed in budget.seeds):
            continue
        dataset = dataset_of(name)
        _prepare(work, data_set, name, training, validation)
        if small:
            shrink(
                work, dataset, budget.configuration, planned=data_set.configuration, features=tuple(args.features),
                patch_zyx=tuple(args.patch), batch_size=args.batch_size,
            )  # fmt: skip
        arms[name] = Arm(title_of(name), METHODS[ARMS[name][1]].trainer, dataset)
        share_drawn[name] = _share_drawn(work, data_set, dataset, training)

    wanted = list(product(budget.seeds, args.arms))
    runs = {(seed, name): recorded[name, seed] for seed, name in wanted if (name, seed) in recorded}
    missing = [(seed, name) for seed, name in wanted if "scores" not in runs.get((seed, name), {})]
    if args.finished_only:
        missing = [
            (seed, name) for seed, name in missing if _summary(fold_of(work, arms[name], budget, seed), role).exists()
        ]
    pool = ThreadPoolExecutor(args.parallel)
    try:
        trained = {
            (seed, name): pool.submit(_train_and_score, work, arms[name], budget, seed, data_set, role, args.mirror)
            for seed, name in missing
        }
        for (seed, name), result in trained.items():
            fold, arm = result.result(), arms[name]
            scores = _read_scores(_summary(fold, role))
            curves, seconds_per_epoch = collect_curves(fold)
            runs[seed, name] = {
                "arm": name,
                "title": arm.name,
                "trainer": arm.trainer,
                "share_drawn": share_drawn[name],
                "seed": seed,
                "scores": scores,
                "curves": curves,
                "median_seconds_per_epoch": seconds_per_epoch,
            }
            print(f"{name}, seed {seed}: " + ", ".join(f"{m} {mean_score(scores[m]):.3f}" for m in scores), flush=True)
            _save(args, command, budget, [runs[key] for key in wanted if key in runs], notes)
    finally:
        pool.shutdown(cancel_futures=True)
    _save(args, command, budget, [runs[key] for key in wanted if key in runs], notes)


def _save(
    args: argparse.Namespace, command: str, budget: Budget, runs: list[dict[str, Any]], notes: dict[str, Any]
) -> None:
    """Compare the arms that are there, and write everything."""
    scored = [run for run in runs if "scores" in run]
    done = {run["arm"] for run in scored}
    comparisons = [
        compare(scored, *pair, metric)
        for pair in pairs([arm for arm in args.arms if arm in done])
        if seeds_of(scored, pair[0]) & seeds_of(scored, pair[1])
        for metric in SCORES.values()
    ]
    save(args.name, command, budget, runs, notes | {"comparisons": comparisons})


def _network_text(args: argparse.Namespace, data_set: DataSet) -> str:
    """What of nnU-Net's plan and training was changed."""
    changes = []
    if data_set.spacing_mm_zyx:
        changes.append(f"voxels of {' x '.join(f'{mm:g}' for mm in data_set.spacing_mm_zyx)} mm")
    if args.features:
        changes.append(f"{len(args.features)} stages of {', '.join(map(str, args.features))} features")
    if args.patch:
        changes.append(f"patches of {' x '.join(map(str, args.patch))} voxels")
    if args.batch_size:
        changes.append(f"batches of {args.batch_size}")
    if args.optimiser == "adam":
        changes.append("AdamW at 0.001 as in nnUNetTrainerAdam1en3")
    if not args.mirror:
        changes.append("no mirroring in prediction")
    if changes:
        return f"Other than nnU-Net's own: {'; '.join(changes)}."
    is_whole = (args.epochs, args.iterations) == (1000, 250)
    return "All settings are nnU-Net's own." if is_whole else "All settings but the length are nnU-Net's own."


def _options(argv: list[str], args: argparse.Namespace) -> list[str]:
    """The options of the command line, with a placeholder for the folder of this machine."""
    # argparse takes --work=FOLDER too.
    argv = [part for option in argv for part in (option.split("=", 1) if option.startswith("--work=") else [option])]
    options = [option for option in argv if option not in (str(args.data), "--finished-only", "--extend")]
    return ["FOLDER" if option == str(args.work) else option for option in options]


def _link(data: Path, work: Path, name: str, cases: list[str], channel: str = "") -> None:
    """Make folders of links to the files of some cases."""
    for kind, suffix in (("images", channel), ("labels", "")):
        folder = work / name / kind
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            link = folder / f"{case}{suffix}{FILE_ENDING}"
            if not link.exists():
                link.symlink_to((data / kind / f"{case}{FILE_ENDING}").resolve())


def _prepare(work: Path, data_set: DataSet, arm: str, training: list[str], validation: list[str]) -> None:
    """Draw, convert, plan and preprocess the cases that an arm trains on, once."""
    dataset = dataset_of(arm)
    if not (work / "nnUNet_raw" / dataset).exists():
        _convert(work, data_set, arm, [*training, *validation])
    plan(work, dataset, data_set.configuration, data_set.spacing_mm_zyx)
    splits = work / "nnUNet_preprocessed" / dataset / "splits_final.json"
    write_changed(splits, json.dumps([{"train": sorted(training), "val": sorted(validation)}]))


def _convert(work: Path, data_set: DataSet, arm: str, cases: list[str]) -> None:
    """Draw contours around the masks of the cases, or around every object of them, and make an arm's raw dataset."""
    labelling, method = ARMS[arm]
    number, name = dataset_of(arm).removeprefix("Dataset").split("_")
    relevance = METHODS[method].relevance
    development = work / "development"
    if relevance in DRAWN_ONE_BY_ONE:
        (development / POLYGONS).mkdir(exist_ok=True)
        for case, ending in product(cases, (".png", ".json")):
            shutil.copy(work / "dense" / POLYGONS / f"{case}{ending}", development / POLYGONS)
        convert_polygons(
            development / POLYGONS,
            int(number),
            name,
            channels=(data_set.channel,),
            settings=settings_of(arm),
        )
        return
    convert_masks(
        development / "images",
        development / "labels",
        int(number),
        name,
        label_values=data_set.labels,
        channels=(data_set.channel,),
        simulation=LABELLINGS[labelling].simulation,
        settings=settings_of(arm),
    )


def _share_drawn(work: Path, data_set: DataSet, dataset: str, training: list[str]) -> float:
    """Share of the slices of the training cases that show an object on which it was drawn."""
    shown = 0
    for case in training:
        label_map = sitk.GetArrayFromImage(sitk.ReadImage(work / "development" / "labels" / f"{case}{FILE_ENDING}"))
        shown += sum(int((label_map == value).any(axis=(1, 2)).sum()) for value in data_set.labels.values())
    with (work / "nnUNet_raw" / dataset / "wsl_report.csv").open(newline="") as file:
        drawn = sum(int(row["drawn_slices"]) for row in csv.DictReader(file) if row["case"] in training)
    return round(drawn / shown, 4)


def _train_and_score(
    work: Path, arm: Arm, budget: Budget, seed: int, data_set: DataSet, role: str, mirror: bool
) -> Path:
    """Train, then predict and score the cases of one role, each once; return the fold's folder."""
    fold = train(work, arm, budget, seed)
    predictions = fold / role
    if not _summary(fold, role).exists():
        predict(work, arm, budget, seed, work / role / "images", predictions, mirror=mirror)
        # The truth is dense, whatever the model was trained on.
        dataset_json = predictions / "truth.json"
        dataset_json.write_text(
            json.dumps({"labels": {"background": 0, **data_set.labels}, "file_ending": FILE_ENDING})
        )
        evaluate(work, arm, seed, predictions, work / role / "labels", dataset_json, data_set.tolerance_mm)
    return fold


def _summary(fold: Path, role: str) -> Path:
    """What ``nnunet_wsl evaluate`` writes when all cases are scored."""
    return fold / role / "scores" / "summary.json"


def _read_scores(summary: Path) -> dict[str, dict[str, dict[str, float | None]]]:
    """Read what was scored, by metric, case and label."""
    content = json.loads(summary.read_text())
    scores: dict[str, dict[str, dict[str, float | None]]] = {m: {} for m in (*SCORES.values(), "volume_ratio")}
    for case in content["metric_per_case"]:
        name = Path(case["reference_file"]).name.removesuffix(FILE_ENDING)
        for key, metric in SCORES.items():
            values = {label: values[key] for label, values in case["metrics"].items()}
            scores[metric][name] = {k: None if v is None else round(v, 5) for k, v in values.items()}
        # Too small or too large: what a mean Dice does not tell.
        scores["volume_ratio"][name] = {
            label: round(values["n_pred"] / values["n_ref"], 5) if values["n_ref"] else None
            for label, values in case["metrics"].items()
        }
    return scores
