"""What relevance supervision costs per training step, loader included, against stock nnUNetTrainer.

    python benchmarks/training_step.py [--relevance 2] [--labels R] [--confidence] [--steps 6] [--rounds 5]
    python benchmarks/training_step.py --loaded --device cuda

Both trainers see the same images, labels, plan and patch, in one process, in alternating rounds; the loader runs in
the training process, so that its whole cost is in the step. The loader alone runs on one thread, as in nnU-Net's
worker processes, draws the same patches and augmentations for both, and is measured in CPU time, which other load on
the machine disturbs less. With ``--loaded`` the batches are loaded beforehand, as on a GPU with enough worker
processes. Results go to ``training_step_relevanceR_labelsL.json`` beside this script, with ``_confidence`` behind if
the dataset has confidence channels too, ``_loaded`` with that option, and the device if it is not the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_wsl.contract import FORMAT_VERSION

SHAPE_ZYX = (40, 64, 56)
STOCK, WSL = "Dataset901_StepStock", "Dataset902_StepWSL"


def write_dataset(folder: Path, num_relevance: int, num_labels: int, confidence: bool) -> None:
    """Four cases of noise with a ball of shells; relevance falls off with the distance from the shells' surfaces.

    The confidence is as if every 5th slice were drawn and the others interpolated.
    """
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    z, y, x = np.indices(SHAPE_ZYX)
    for case in range(4):
        radius = np.sqrt((z - 20) ** 2 + (y - 30 - case) ** 2 + (x - 28) ** 2)
        image = (100 * (radius < 12) + rng.normal(0, 30, SHAPE_ZYX)).astype(np.float32)
        surfaces = [12 - 2.5 * k for k in range(max(num_relevance, num_labels))]
        relevance = [np.exp(-((radius - r) ** 2) / 8).astype(np.float32) for r in surfaces[:num_relevance]]
        maps = [*relevance, *(np.where(z % 5, 1 - r, 1) for r in relevance if confidence)]
        for channel, volume in enumerate([image, *maps]):
            sitk.WriteImage(sitk.GetImageFromArray(volume), str(folder / f"imagesTr/case{case}_{channel:04d}.nii.gz"))
        label = sum((radius < r).astype(np.uint8) for r in surfaces[:num_labels])
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / f"labelsTr/case{case}.nii.gz"))
    channels = {"0": "MR"} | {str(c): "noNorm" for c in range(1, len(maps) + 1)}
    content: dict[str, Any] = {
        "channel_names": channels,
        "labels": {"background": 0} | {f"shell {k}": k for k in range(1, num_labels + 1)},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    if num_relevance:
        relevance_channels = {str(c): f"object {c}" for c in range(1, num_relevance + 1)}
        content["wsl"] = {"format_version": FORMAT_VERSION, "relevance_channels": relevance_channels}
        if confidence:
            confidence_channels = {str(c + num_relevance): f"object {c}" for c in range(1, num_relevance + 1)}
            content["wsl"]["confidence_channels"] = confidence_channels
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case0", "case1", "case2"], "val": ["case3"]}]))


def make_trainer(dataset: str, trainer_class: Any, device: torch.device) -> Any:
    """Set up a trainer with its loaders, as nnUNetv2_train does."""
    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / dataset
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text()) | {"continue_training": False}
    dataset_json = json.loads((preprocessed / "dataset.json").read_text())
    trainer = trainer_class(plans, "3d_fullres", 0, dataset_json, device)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def seconds_per_step(trainer: Any, steps: int, loaded: bool) -> float:
    """Time some steps, each with the loading of its batch unless that is done before."""
    batches: Iterable[Any] = (next(trainer.dataloader_train) for _ in range(steps))
    if loaded:
        batches = list(batches)
    start = perf_counter()
    for batch in batches:
        trainer.train_step(batch)  # ends with the loss on the host: it is synchronous
    return (perf_counter() - start) / steps


def seconds_per_batch(trainer: Any, batches: int, seed: int) -> float:
    """Time the loader alone, on one thread, in CPU time."""
    np.random.seed(seed)  # noqa: NPY002 - what nnU-Net draws from
    torch.manual_seed(seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = process_time()
    for _ in range(batches):
        next(trainer.dataloader_train)
    seconds = (process_time() - start) / batches
    torch.set_num_threads(threads)
    return seconds


def summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Medians of both sides and of the ratio of each pair, and what the ratio means for the throughput."""
    ratios = [b / a for a, b in pairs]
    change = 100 * (1 / statistics.median(ratios) - 1)
    return {
        "stock_s": round(statistics.median(a for a, _ in pairs), 4),
        "wsl_s": round(statistics.median(b for _, b in pairs), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "throughput_change_percent": round(change, 1),
    }


def compare(stock: Any, wsl: Any, steps: int, rounds: int, loaded: bool) -> dict[str, Any]:
    """Alternate the trainers; the ratio of each round is one sample."""
    for trainer in (stock, wsl):
        seconds_per_step(trainer, 2, loaded)
    pairs = [(seconds_per_step(stock, steps, loaded), seconds_per_step(wsl, steps, loaded)) for _ in range(rounds)]
    return summary(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relevance", type=int, default=2, help="number of relevance channels")
    parser.add_argument("--labels", type=int, help="number of labels; one per relevance channel by default")
    parser.add_argument("--confidence", action="store_true", help="with confidence channels")
    parser.add_argument("--steps", type=int, default=6, help="per round and trainer; 0 for the loader alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loaded", action="store_true", help="leave the loader out of the step, and out of the table")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    labels = args.relevance if args.labels is None else args.labels

    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_wsl.training import WSLTrainer
    from nnunet_wsl.training.precision import VARIABLE, bfloat16_on_cpu

    with tempfile.TemporaryDirectory() as work:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(Path(work) / name)
        os.environ.setdefault("nnUNet_def_n_proc", "2")
        for dataset, number in ((STOCK, 0), (WSL, args.relevance)):
            write_dataset(Path(os.environ["nnUNet_raw"]) / dataset, number, labels, args.confidence)
            planner = str(Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess")
            command = [planner, "-d", dataset[7:10], "-c", "3d_fullres", "-np", "2"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        os.environ["nnUNet_n_proc_DA"] = "0"
        device = torch.device(args.device)
        torch.set_num_threads(1 if device.type == "cuda" else os.cpu_count() or 1)
        results = {}
        stock = make_trainer(STOCK, nnUNetTrainer, device)
        for precision, choice in (("float32", "0"), ("bfloat16", "auto")):
            os.environ[VARIABLE] = choice
            if precision == "bfloat16" and (device.type != "cpu" or not bfloat16_on_cpu()):
                continue
            wsl = make_trainer(WSL, WSLTrainer, device)
            if not args.loaded and "loader alone" not in results:
                for trainer in (stock, wsl):
                    seconds_per_batch(trainer, 10, 0)
                batches = [
                    (seconds_per_batch(stock, 25, seed), seconds_per_batch(wsl, 25, seed))
                    for seed in range(2 * args.rounds)
                ]
                results["loader alone"] = summary(batches)
                print(f"loader alone: {results['loader alone']}", flush=True)
            if not args.steps:
                break
            name = "float16" if device.type == "cuda" else precision  # on a GPU both have nnU-Net's own
            results[name] = compare(stock, wsl, args.steps, args.rounds, args.loaded)
            print(f"{name}: {results[name]}", flush=True)
        patch = stock.configuration_manager.patch_size
    content = {
        "command": shlex.join(["python", "benchmarks/training_step.py", *sys.argv[1:]]),
        "patch_zyx": [int(n) for n in patch],
        "relevance_channels": args.relevance,
        "labels": labels,
        "confidence": args.confidence,
        "batch_size": int(stock.batch_size),
        "compiled": hasattr(stock.network, "_orig_mod"),
        "results": results,
        "versions": {p: version(p) for p in ("nnunet_wsl", "nnunetv2", "torch")},
        "hardware": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else args.device,
        },
    }
    suffix = ("_confidence" if args.confidence else "") + ("_loaded" if args.loaded else "")
    suffix += "" if device.type == "cpu" else f"_{device.type}"
    path = Path(__file__).with_name(f"training_step_relevance{args.relevance}_labels{labels}{suffix}.json")
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
