"""Train the arms of a study with the same budget and seeds, and collect what they did.

A study is a function that prepares raw datasets and says which arm trains on which. Everything is resumable: what is
converted, planned or trained is not done again.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nnunet_wsl.cores import usable_cores
from nnunet_wsl.evaluation import bootstrap_interval, paired_p_value
from nnunet_wsl.files import replacing
from nnunet_wsl.training.precision import bfloat16_on_cpu

TRAINERS = Path(__file__).parent / "trainers"
RESULTS = Path(__file__).parent / "results"
SWAPPED = "_swapped"
"""How the name of a study ends whose test cases are those that train in the study of the name without it."""

_TRAINED = "trained"


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Parameters
    ----------
    name : str
        How the table calls it.
    trainer : str
        Class in ``trainers/``.
    dataset : str
        Folder name of the raw dataset that it trains on.
    """

    name: str
    trainer: str
    dataset: str


@dataclass(frozen=True)
class Budget:
    """What every arm gets.

    Parameters
    ----------
    epochs, iterations_per_epoch : int
        Length of training.
    seeds : tuple of int
        One training per seed.
    fold : int
        Which fold trains and which cases validate.
    configuration, device : str
        nnU-Net's.
    optimiser : {"sgd", "adam"}
        nnU-Net's own, or that of its ``nnUNetTrainerAdam1en3``, which gets further in few iterations.
    """

    epochs: int
    iterations_per_epoch: int
    seeds: tuple[int, ...]
    fold: int = 0
    configuration: str = "3d_fullres"
    device: str = "cpu"
    optimiser: Literal["sgd", "adam"] = "sgd"


def environment(work: Path, budget: Budget | None = None, seed: int = 0) -> dict[str, str]:
    """nnU-Net's folders of one seed, and the budget, as environment variables."""
    variables = dict(os.environ)
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        variables[name] = str(work / name)
    variables["nnUNet_results"] = str(work / f"nnUNet_results_seed{seed}")
    variables["nnUNet_extTrainer"] = str(TRAINERS)
    variables.setdefault("nnUNet_def_n_proc", str(min(8, usable_cores())))
    if budget is not None:
        variables["STUDY_EPOCHS"] = str(budget.epochs)
        variables["STUDY_ITERATIONS_PER_EPOCH"] = str(budget.iterations_per_epoch)
        variables["STUDY_SEED"] = str(seed)
        variables["STUDY_OPTIMISER"] = budget.optimiser
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        Path(variables[name]).mkdir(parents=True, exist_ok=True)
    return variables


def run(command: list[str], variables: dict[str, str], log: Path) -> None:
    """Run a console command of this environment; its output goes to a log file."""
    print(f"$ {shlex.join(command)}", flush=True)
    program = str(Path(sys.executable).parent / command[0])
    with log.open("a") as file:
        subprocess.run([program, *command[1:]], env=variables, stdout=file, stderr=file, check=True)


def plan(work: Path, dataset: str, configuration: str, spacing_mm_zyx: Sequence[float] = ()) -> None:
    """Plan and preprocess a raw dataset, once; with nnU-Net's spacing, if none is given."""
    done = work / "nnUNet_preprocessed" / dataset / "planned"
    if not done.exists():
        number = str(int(dataset[7:10]))
        cores = str(min(4, usable_cores()))
        command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", configuration, "-np", cores]
        if spacing_mm_zyx:
            command += ["-overwrite_target_spacing", *map(str, spacing_mm_zyx)]
        variables = environment(work)
        variables.pop("nnUNet_n_proc_DA", None)  # nnU-Net's planning takes it for threads, and fails at 0
        run(command, variables, work / "plan.log")
        done.touch()


def shrink(
    work: Path,
    dataset: str,
    configuration: str,
    *,
    planned: str,
    features: tuple[int, ...] = (),
    patch_zyx: tuple[int, ...] = (),
    batch_size: int = 0,
) -> None:
    """Add a smaller configuration to the plans of a planned dataset.

    Parameters
    ----------
    work : Path
        Folder of the study.
    dataset : str
        Folder name of the dataset.
    configuration : str
        Name of the new configuration.
    planned : str
        Name of the configuration that gives all that is not given here.
    features : tuple of int
        Of each stage of the U-Net, from fine to coarse; as planned if empty. The planned kernels and strides of the
        first stages are kept.
    patch_zyx : tuple of int
        Patch size in voxels; as planned if empty.
    batch_size : int
        As planned if 0.

    Raises
    ------
    ValueError
        If there are more features than planned stages.
    """
    path = work / "nnUNet_preprocessed" / dataset / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    small = json.loads(json.dumps(plans["configurations"][planned]))
    if batch_size:
        small["batch_size"] = batch_size
    if patch_zyx:
        small["patch_size"] = list(patch_zyx)
    if features:
        architecture = small["architecture"]["arch_kwargs"]
        planned_stages, stages = architecture["n_stages"], len(features)
        if stages > planned_stages:
            raise ValueError(f"{stages} stages asked for; nnU-Net planned {planned_stages}")
        architecture["n_stages"] = stages
        architecture["features_per_stage"] = list(features)
        for key in ("kernel_sizes", "strides", "n_conv_per_stage"):
            architecture[key] = architecture[key][:stages]
        architecture["n_conv_per_stage_decoder"] = architecture["n_conv_per_stage_decoder"][: stages - 1]
    plans["configurations"][configuration] = small
    write_changed(path, json.dumps(plans, indent=4))


def write_changed(path: Path, text: str) -> None:
    """Write a file in one step, if that changes it: trainings beside this process read it."""
    if not path.exists() or path.read_text() != text:
        with replacing(path) as partial:
            partial.write_text(text)


def train(work: Path, arm: Arm, budget: Budget, seed: int) -> Path:
    """Train one arm with one seed, from its latest checkpoint if there is one; return its fold's folder."""
    fold = fold_of(work, arm, budget, seed)
    command = ["nnUNetv2_train", arm.dataset, budget.configuration, str(budget.fold), "-tr", arm.trainer]
    command += ["-device", budget.device]
    if not (fold / _TRAINED).exists():
        resume = ["--c"] if list(fold.glob("checkpoint_*.pth")) else []
        run(command + resume, environment(work, budget, seed), _log(work, arm, seed))
        (fold / _TRAINED).touch()
    return fold


def predict(work: Path, arm: Arm, budget: Budget, seed: int, images: Path, predictions: Path, *, mirror: bool) -> None:
    """Predict all images with the last checkpoint of one training."""
    command = ["nnUNetv2_predict", "-i", str(images), "-o", str(predictions), "-d", arm.dataset, "-tr", arm.trainer]
    command += ["-c", budget.configuration, "-f", str(budget.fold), "-device", budget.device]
    command += ["-npp", "1", "-nps", "1", "--disable_progress_bar"]
    run(command + ([] if mirror else ["--disable_tta"]), environment(work, budget, seed), _log(work, arm, seed))


def evaluate(
    work: Path, arm: Arm, seed: int, predictions: Path, labels: Path, dataset_json: Path, tolerance_mm: float
) -> None:
    """Score predictions with ``nnunet_wsl evaluate``, into their folder ``scores``."""
    command = ["nnunet_wsl", "evaluate", "--pred", str(predictions), "--ref", str(labels)]
    command += ["--out", str(predictions / "scores"), "--dataset-json", str(dataset_json)]
    command += ["--tolerance-mm", str(tolerance_mm), "--jobs", "1"]
    run(command, environment(work), _log(work, arm, seed))


def _log(work: Path, arm: Arm, seed: int) -> Path:
    return work / f"{arm.trainer}_{arm.dataset}_seed{seed}.log"


def fold_of(work: Path, arm: Arm, budget: Budget, seed: int) -> Path:
    """Folder of one training's fold."""
    results = Path(environment(work, budget, seed)["nnUNet_results"])
    model = results / arm.dataset / f"{arm.trainer}__nnUNetPlans__{budget.configuration}"
    return model / f"fold_{budget.fold}"


def collect_curves(fold: Path) -> tuple[dict[str, list[float]], float]:
    """Read what nnU-Net logged per epoch: one number each, as losses and pseudo Dice; and the median of its seconds."""
    logged = torch.load(fold / "checkpoint_final.pth", weights_only=False, map_location="cpu")["logging"]
    curves = {
        key: [round(float(value), 5) for value in values]
        for key, values in logged.items()
        if values and not isinstance(values[0], list) and "timestamps" not in key
    }
    seconds = np.subtract(logged["epoch_end_timestamps"], logged["epoch_start_timestamps"])
    return curves, round(float(np.median(seconds)), 2)


def pooled(runs: list[dict[str, Any]], arm: str, metric: str, seeds: Collection[int]) -> dict[str, float]:
    """Value of a metric for each case: the mean over labels, then over the seeds.

    Labels for which it is undefined are left out; a case without any is not in the result.
    """
    scores = [run["scores"][metric] for run in runs if run["arm"] == arm and run["seed"] in seeds]
    means = {}
    for case in scores[0]:
        values = [_mean(seed[case].values()) for seed in scores]
        if not any(np.isnan(values)):
            means[case] = float(np.mean(values))
    return means


def seeds_of(runs: list[dict[str, Any]], arm: str) -> set[int]:
    """Seeds that an arm was trained with."""
    return {run["seed"] for run in runs if run["arm"] == arm}


def mean_score(cases: dict[str, dict[str, float | None]]) -> float:
    """Mean of a metric over cases and labels."""
    return _mean(_mean(labels.values()) for labels in cases.values())


def seed_means(runs: list[dict[str, Any]], arm: str, metric: str) -> dict[int, float]:
    """Mean of a metric over cases and labels, by seed."""
    return {run["seed"]: mean_score(run["scores"][metric]) for run in runs if run["arm"] == arm}


def compare(runs: list[dict[str, Any]], arm_a: str, arm_b: str, metric: str) -> dict[str, Any]:
    """Compare two arms over the same cases; each case counts once, with its mean over the seeds that both have.

    Returns
    -------
    dict
        Mean difference B - A with its 95 % bootstrap interval over cases, p of the two-sided Wilcoxon signed-rank test,
        and the difference of each seed.
    """
    by_seed_a, by_seed_b = seed_means(runs, arm_a, metric), seed_means(runs, arm_b, metric)
    seeds = sorted(by_seed_a.keys() & by_seed_b.keys())
    a, b = pooled(runs, arm_a, metric, seeds), pooled(runs, arm_b, metric, seeds)
    differences = np.array([b[case] - a[case] for case in a if case in b])
    low, high = bootstrap_interval(differences)
    return {
        "a": arm_a,
        "b": arm_b,
        "metric": metric,
        "cases": len(differences),
        "difference": float(differences.mean()),
        "interval": [low, high],
        "p": paired_p_value(differences),
        "by_seed": {str(seed): by_seed_b[seed] - by_seed_a[seed] for seed in seeds},
    }


def _mean(values: Iterable[float | None]) -> float:
    defined = [value for value in values if value is not None and not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def save(name: str, command: str, budget: Budget, runs: list[dict[str, Any]], notes: dict[str, Any]) -> Path:
    """Write the results of a study as JSON into the repository."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "study": name,
        "command": command,
        "budget": budget.__dict__ | {"seeds": list(budget.seeds)},
        "versions": _versions(),
        "hardware": {
            "machine": platform.machine(),
            "cores": usable_cores(),
            "device": _device_name(budget.device),
        },
        "precision": precision(budget.device),
        **notes,
    }
    head = json.dumps(content, indent=1).removesuffix("\n}")
    # One line per run: scores of all cases on lines of their own would fill a book.
    lines = ",\n  ".join(json.dumps(run) for run in runs)
    with replacing(path) as partial:
        partial.write_text(f'{head},\n "runs": [\n  {lines}\n ]\n}}\n')
    return path


def recorded_runs(name: str, budget: Budget, notes: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Trainings that the results of a study hold, by arm and seed; those that were cut off have no scores.

    Raises
    ------
    ValueError
        If they were made in another way: with another budget, network, precision, cases, versions and so on.
    """
    path = RESULTS / f"{name}.json"
    recorded = json.loads(path.read_text())
    _check_same(path, recorded, budget, notes)
    return {(run["arm"], run["seed"]): run for run in recorded["runs"]}


def claim(work: Path, budget: Budget, notes: dict[str, Any]) -> None:
    """Keep a work folder for one way of training: what is trained in it is not trained again.

    Raises
    ------
    ValueError
        If it was begun in another way.
    """
    path = work / "study.json"
    if path.exists():
        _check_same(path, json.loads(path.read_text()), budget, notes)
    else:
        path.write_text(json.dumps(_way_of_training(budget, notes), indent=1))


def _way_of_training(budget: Budget, notes: dict[str, Any]) -> dict[str, Any]:
    way = {key: value for key, value in notes.items() if key not in ("title", "description")}
    way |= {"budget": budget.__dict__, "versions": _versions(), "precision": precision(budget.device)}
    return json.loads(json.dumps(way))  # type: ignore[no-any-return]  # as it is written: JSON has no tuples


def _check_same(path: Path, recorded: dict[str, Any], budget: Budget, notes: dict[str, Any]) -> None:
    way = _way_of_training(budget, notes)
    for content in (recorded, way):
        content["budget"].pop("seeds")
    different = sorted(key for key, value in way.items() if recorded.get(key) != value)
    if different:
        raise ValueError(f"{path} is of another study: it differs in {', '.join(different)}")


def precision(device: str) -> str:
    """Precision of the network in training, which the CPU decides: see ``nnunet_wsl.training.precision``."""
    kind = torch.device(device).type
    if kind == "cpu":
        return "bfloat16" if bfloat16_on_cpu() else "float32"
    return "float16" if kind == "cuda" else "float32"


def _device_name(device: str) -> str:
    is_there = torch.device(device).type == "cuda" and torch.cuda.is_available()
    return torch.cuda.get_device_name(device) if is_there else device


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("nnunet_wsl", "nnunetv2", "torch", "numpy")}
