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
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
TRAINERS = Path(__file__).parent / "trainers"
RESULTS = Path(__file__).parent / "results"


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
    """

    epochs: int
    iterations_per_epoch: int
    seeds: tuple[int, ...]
    fold: int = 0
    configuration: str = "3d_fullres"
    device: str = "cpu"


def environment(work: Path, budget: Budget | None = None, seed: int = 0) -> dict[str, str]:
    """nnU-Net's folders of one seed, and the budget, as environment variables."""
    variables = dict(os.environ)
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        variables[name] = str(work / name)
    variables["nnUNet_results"] = str(work / f"nnUNet_results_seed{seed}")
    variables["nnUNet_extTrainer"] = str(TRAINERS)
    cores = os.cpu_count() or 1
    variables.setdefault("nnUNet_def_n_proc", str(min(8, cores)))
    if budget is not None:
        variables["STUDY_EPOCHS"] = str(budget.epochs)
        variables["STUDY_ITERATIONS_PER_EPOCH"] = str(budget.iterations_per_epoch)
        variables["STUDY_SEED"] = str(seed)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        Path(variables[name]).mkdir(parents=True, exist_ok=True)
    return variables


def run(command: list[str], variables: dict[str, str], log: Path) -> None:
    """Run a console command of this environment; its output goes to a log file."""
    print(f"$ {shlex.join(command)}", flush=True)
    program = str(Path(sys.executable).parent / command[0])
    with log.open("a") as file:
        subprocess.run([program, *command[1:]], env=variables, stdout=file, stderr=file, check=True)


def plan(work: Path, dataset: str, configuration: str) -> None:
    """Plan and preprocess a raw dataset, once."""
    done = work / "nnUNet_preprocessed" / dataset / "planned"
    if not done.exists():
        number = str(int(dataset[7:10]))
        cores = str(min(4, os.cpu_count() or 1))
        command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", configuration, "-np", cores]
        run(command, environment(work), work / "plan.log")
        done.touch()


def train(work: Path, arm: Arm, budget: Budget, seed: int) -> Path:
    """Train one arm with one seed, from its latest checkpoint if there is one; return its fold's folder."""
    variables = environment(work, budget, seed)
    model = Path(variables["nnUNet_results"]) / arm.dataset / f"{arm.trainer}__nnUNetPlans__{budget.configuration}"
    fold = model / f"fold_{budget.fold}"
    command = ["nnUNetv2_train", arm.dataset, budget.configuration, str(budget.fold), "-tr", arm.trainer]
    command += ["-device", budget.device]
    log = work / f"{arm.trainer}_{arm.dataset}_seed{seed}.log"
    if not (fold / "validation" / "summary.json").exists():
        run(command + (["--c"] if list(fold.glob("checkpoint_*.pth")) else []), variables, log)
    return fold


def collect(fold: Path) -> dict[str, Any]:
    """Read what nnU-Net measured on the validation cases, and the curves of the training."""
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    dice = {
        Path(case["prediction_file"]).name.split(".")[0]: {k: v["Dice"] for k, v in case["metrics"].items()}
        for case in summary["metric_per_case"]
    }
    logged = torch.load(fold / "checkpoint_final.pth", weights_only=False, map_location="cpu")["logging"]
    curves = {
        key: [float(value) for value in values]
        for key, values in logged.items()
        if values and not isinstance(values[0], list) and "timestamps" not in key
    }
    return {"dice": dice, "curves": curves}


def save(name: str, command: str, budget: Budget, runs: list[dict[str, Any]], notes: dict[str, Any]) -> Path:
    """Write the results of a study as JSON into the repository."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "study": name,
        "command": command,
        "budget": budget.__dict__ | {"seeds": list(budget.seeds)},
        "versions": {p: version(p) for p in ("nnunet_wsl", "nnunetv2", "torch", "numpy")},
        "hardware": {"machine": platform.machine(), "cores": os.cpu_count(), "device": budget.device},
        **notes,
        "runs": runs,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
