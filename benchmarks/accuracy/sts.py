"""Soft-tissue sarcoma, real RTSTRUCTs: WSLTrainer against nnUNetTrainer, one fold, same budget.

    python benchmarks/accuracy/sts.py DATA --work FOLDER [--modality PT] [--epochs 20] [--iterations 50]

DATA is the folder with the DICOM files of the data set (see dataset_conversion/Dataset501_SoftTissueSarcoma.py).
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

import numpy as np
from study import ROOT, Arm, Budget, collect, environment, plan, save, train

from nnunet_wsl.contours import place, read_rtstruct
from nnunet_wsl.conversion import ConversionSettings, convert_rtstruct
from nnunet_wsl.conversion.report import CaseSketch, draw_overview
from nnunet_wsl.conversion.series import find_dicom

DATASETS = {"PT": (501, "SoftTissueSarcomaPET"), "MR": (502, "SoftTissueSarcomaMR")}
FOLDERS = {"PT": "PET", "MR": "MR_T1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="datasets, models and logs go here")
    parser.add_argument("--modality", choices=DATASETS, default="PT")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=50, help="per epoch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    budget = Budget(args.epochs, args.iterations, tuple(args.seeds), device=args.device)
    work = args.work.resolve()
    os.environ.update(environment(work))

    number, name = DATASETS[args.modality]
    arms = []
    for offset, title, trainer, settings in (
        (0, "WSLTrainer", "StudyWSL", ConversionSettings(relevance="per-object")),
        (100, "nnUNetTrainer", "StudyStock", ConversionSettings(relevance="none")),
    ):
        dataset = f"Dataset{number + offset}_{name}"
        if not (work / "nnUNet_raw" / dataset).exists():
            convert_rtstruct(
                args.data,
                number + offset,
                name,
                rois={"GTV": "GTV.*"},
                modality=args.modality,
                settings=settings,
                jobs=os.cpu_count() or 1,
            )
        plan(work, dataset, budget.configuration)
        arms.append(Arm(title, trainer, dataset))

    runs = []
    for seed in budget.seeds:
        for arm in arms:
            result = collect(train(work, arm, budget, seed))
            runs.append({"arm": arm.name, "seed": seed, **result})
            dice = [case["1"] for case in result["dice"].values()]
            print(f"{arm.name}, seed {seed}: Dice {np.mean(dice):.4f} over {len(dice)} cases")
    command = shlex.join(["python", "benchmarks/accuracy/sts.py", "DATA", "--work", "FOLDER", *sys.argv[4:]])
    notes = {
        "title": f"Soft-tissue sarcoma, {args.modality}: real structure sets",
        "description": "Structure sets of the tumour, drawn on every slice; Dice against the masks of those contours.",
        "labels": {"1": "GTV"},
    }
    stem = f"sts_{args.modality.lower()}"
    print(save(stem, command, budget, runs, notes))
    _draw_validation_cases(work, args.data, FOLDERS[args.modality], arms[0], budget, stem)


def _draw_validation_cases(work: Path, data: Path, folder: str, arm: Arm, budget: Budget, stem: str) -> None:
    """Contours and predictions of the validation cases, side by side."""
    raw = work / "nnUNet_raw" / arm.dataset
    fold = train(work, arm, budget, budget.seeds[0])
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (fold / "validation").glob("*.nii.gz"))
    sketches = []
    for case in cases:
        series = find_dicom(data / case / folder / "image").series[0]
        contours = read_rtstruct(data / case / folder / "mask" / "RS.dcm").contours
        (roi,) = contours.objects
        sketches.append(CaseSketch.of(case, place(contours.selected({"GTV": [roi]}), series.grid(), case=case)))
    draw_overview(
        raw, sketches, objects=["GTV"], image_channels=1, channels=2, predictions=fold / "validation",
        output=ROOT / "docs" / "images" / f"evidence_{stem}_overlay.png",
    )  # fmt: skip


if __name__ == "__main__":
    main()
