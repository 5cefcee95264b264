"""Run the whole path with the commands that a user would type."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_wsl.contours import place
from nnunet_wsl.conversion.dataset import write_volume
from nnunet_wsl.conversion.report import CaseSketch, draw_overview
from nnunet_wsl.cores import usable_cores
from nnunet_wsl.demo.phantom import OBJECTS, Phantom
from nnunet_wsl.errors import InputError

DATASET_ID = 999
TRAINER = "WSLTrainerDemo"
_CONFIGURATION = "2d"  # the quickest to train without a GPU
_TRAINING_PATIENTS = 8
_TEST_PATIENTS = 2


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves.

    Parameters
    ----------
    dice : dict of str to float
        Mean Dice of each object over the test patients, against the true label maps.
    picture : Path
        PNG of image, contours, relevance and prediction.
    """

    dice: dict[str, float]
    picture: Path


def run_demo(folder: Path, *, device: str = "cpu", report: Callable[[str], None]) -> DemoResult:
    """Write phantoms, convert, plan, train, predict, score and draw.

    Parameters
    ----------
    folder : Path
        Everything is written below it; it must not exist yet.
    device : str
        nnU-Net's device: ``cpu``, ``cuda`` or ``mps``.
    report : callable
        Called with each command line before it runs.

    Raises
    ------
    InputError
        If the folder exists, or one of the commands fails.
    """
    if os.path.lexists(folder):
        raise InputError(f"The folder '{folder}' exists already. Remove it, or choose another with --out.")
    dicom, images, truth, predicted = (folder / name for name in ("dicom", "images", "truth", "predicted"))
    try:
        truth.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"The folder '{folder}' cannot be made ({error.strerror}). Choose another with --out."
        ) from error
    patients = {f"patient_{seed:02d}": Phantom.random(seed) for seed in range(1, _TRAINING_PATIENTS + 1)}
    for name, phantom in patients.items():
        phantom.write_dicom(dicom / "training" / name, with_contours=True)
    for seed in range(_TRAINING_PATIENTS + 1, _TRAINING_PATIENTS + _TEST_PATIENTS + 1):
        phantom = Phantom.random(seed)
        phantom.write_dicom(dicom / "test" / f"patient_{seed:02d}", with_contours=False)
        write_volume(truth / f"patient_{seed:02d}.nii.gz", phantom.label_map(), phantom.grid)

    environment = os.environ | {
        name: str((folder / name).resolve()) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (folder / name).mkdir()
    cores = usable_cores()
    # nnU-Net starts eight processes unless told otherwise; each needs a second or more just to start.
    environment.setdefault("nnUNet_def_n_proc", str(min(8, cores)))

    def command(*arguments: object) -> None:
        words = [str(argument) for argument in arguments]
        report(shlex.join(words))
        program = shutil.which(words[0], path=str(Path(sys.executable).parent)) or words[0]
        code = subprocess.run([program, *words[1:]], env=environment, check=False).returncode
        if code:
            raise InputError(f"The command '{words[0]}' failed with exit code {code}; its own message is above.")

    command("nnunet_wsl", "convert", "rtstruct", dicom / "training", "--dataset", DATASET_ID, "--name", "Demo")
    command("nnUNetv2_plan_and_preprocess", "-d", DATASET_ID, "-c", _CONFIGURATION, "-np", min(4, cores))
    command("nnunet_wsl", "train", DATASET_ID, _CONFIGURATION, 0, "-tr", TRAINER, "-device", device)
    command("nnunet_wsl", "convert", "images", dicom / "test", "-o", images)
    model = ("-d", DATASET_ID, "-c", _CONFIGURATION, "-f", 0, "-tr", TRAINER, "-device", device)
    command("nnUNetv2_predict", "-i", images, "-o", predicted, *model, "-npp", 0, "-nps", 0)
    labels = range(1, len(OBJECTS) + 1)
    command("nnUNetv2_evaluate_simple", truth, predicted, "-l", *labels, "-np", 1)

    mean = json.loads((predicted / "summary.json").read_text())["mean"]
    fold = next((folder / "nnUNet_results").glob(f"*/{TRAINER}__*/fold_0"))
    validated = sorted(path.name.removesuffix(".nii.gz") for path in (fold / "validation").glob("*.nii.gz"))
    picture = folder / "demo.png"
    draw_overview(
        next((folder / "nnUNet_raw").glob("Dataset*")),
        [
            CaseSketch.of(name, place(patients[name].annotated_contours(), patients[name].grid, case=name))
            for name in validated
        ],
        objects=OBJECTS,
        image_channels=1,
        channels=1 + len(OBJECTS),
        predictions=fold / "validation",
        output=picture,
    )
    return DemoResult({name: mean[str(k)]["Dice"] for k, name in enumerate(OBJECTS, start=1)}, picture)
