"""What training patches show, of nnU-Net's loader and of one whose patches stay in the image.

    python benchmarks/patches.py WORK [--dataset Dataset601_Dense Dataset621_Every5Gated] [--configuration 3d_small]

WORK is the folder of a study of benchmarks/accuracy, which converts and preprocesses the datasets. Writes patches.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_wsl.training.loader import PatchesInImageLoader

# What nnUNetTrainer augments a patch by whose sides are about equal.
ROTATION = (-30 / 360 * 2 * np.pi, 30 / 360 * 2 * np.pi)
SCALE = (0.7, 1.4)
FOREGROUND_SHARE = 0.33
LOADERS = {"nnU-Net's": nnUNetDataLoader, "in the image": PatchesInImageLoader}


def measure(folder: Path, configuration: str, loader_class: type[nnUNetDataLoader], batches: int) -> dict[str, float]:
    """Average over the training patches of a preprocessed dataset, before augmentation."""
    plans = PlansManager(str(folder / "nnUNetPlans.json"))
    dataset_json = json.loads((folder / "dataset.json").read_text())
    labels = plans.get_label_manager(dataset_json)
    settings = plans.get_configuration(configuration)
    cases = json.loads((folder / "splits_final.json").read_text())[0]["train"]
    preprocessed = str(folder / settings.data_identifier)
    final = settings.patch_size
    initial = get_patch_size(final, ROTATION, ROTATION, ROTATION, SCALE)
    loader = loader_class(
        infer_dataset_class(preprocessed)(preprocessed, cases), settings.batch_size, initial, final, labels,
        FOREGROUND_SHARE, None, None,
    )  # fmt: skip
    np.random.seed(0)  # noqa: NPY002 - what nnU-Net draws from
    margin = [(a - b) // 2 for a, b in zip(initial, final, strict=True)]
    inner = tuple(slice(start, start + size) for start, size in zip(margin, final, strict=True))
    labelled, outside = [], []
    for _ in range(batches):
        for segmentation in next(loader)["target"]:
            patch = segmentation[0][inner]
            labelled.append(np.isin(patch, labels.foreground_labels).sum())
            outside.append((patch == -1).mean(dtype=float))
    return {"labelled_voxels": float(np.mean(labelled)), "share_outside": float(np.mean(outside))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--dataset", nargs="+", default=["Dataset601_Dense", "Dataset621_Every5Gated"])
    parser.add_argument("--configuration", default="3d_small")
    parser.add_argument("--batches", type=int, default=400)
    args = parser.parse_args()
    rows = []
    for dataset in args.dataset:
        folder = args.work / "nnUNet_preprocessed" / dataset
        for name, loader_class in LOADERS.items():
            found = measure(folder, args.configuration, loader_class, args.batches)
            rows.append({"dataset": dataset, "patches": name, **found})
            print(rows[-1], flush=True)
    options = ["WORK" if option == str(args.work) else option for option in sys.argv[1:]]
    content = {
        "command": shlex.join(["python", "benchmarks/patches.py", *options]),
        "versions": {package: version(package) for package in ("nnunet_wsl", "nnunetv2")},
        "batches": args.batches,
        "rows": rows,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
