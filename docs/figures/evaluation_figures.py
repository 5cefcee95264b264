"""Draw the pictures of docs/evaluation.md: made-up organs, and two made-up runs that miss them by a different margin.

Run in the root of the repository: ``python docs/figures/evaluation_figures.py``
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from nnunet_wsl.cli.main import main

CASES, SHAPE, SPACING_MM_ZYX = 24, (24, 64, 80), (3.0, 1.0, 1.0)
RUNS = {"run_a": (1.4, 0.24), "run_b": (1.2, 0.20)}  # smoothing of the surface in voxels, noise
OUTPUTS = {
    "evaluation_distributions.png": "scores_run_a/distributions.png",
    "evaluation_worst_cases.png": "scores_run_a/worst_cases.png",
    "evaluation_comparison.png": "comparison/comparison.png",
}


def write(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """Write a label map, shape (z, y, x)."""
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(SPACING_MM_ZYX[::-1])
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path), True)


def organ_and_lesion(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Make a lumpy ellipsoid with a ball in it; every sixth patient has no lesion."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    lumps = 25 * ndimage.gaussian_filter(rng.normal(size=SHAPE), (2, 5, 5))
    organ = ((z - 12) / 9) ** 2 + ((y - 32) / 20) ** 2 + ((x - 40) / 28) ** 2 + lumps < 1
    centre = rng.uniform((9, 25, 30), (15, 39, 50))
    lesion = ((z - centre[0]) * 3) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < rng.uniform(5, 9) ** 2
    labels: npt.NDArray[np.uint8] = organ.astype(np.uint8)
    if rng.random() > 1 / 6:
        labels[lesion] = 2
    return labels


def predict(
    labels: npt.NDArray[np.uint8], rng: np.random.Generator, sigma: float, noise: float
) -> npt.NDArray[np.uint8]:
    """Smooth and disturb a label map."""
    scores = np.stack(
        [ndimage.gaussian_filter((labels == k).astype(float), (sigma / 2, sigma, sigma)) for k in range(3)]
    )
    scores += noise * 15 * ndimage.gaussian_filter(rng.normal(size=scores.shape), (0, 1.5, 4, 4))
    predicted: npt.NDArray[np.uint8] = scores.argmax(0).astype(np.uint8)
    return predicted


def run() -> None:
    """Make the data in a temporary folder, run the commands there, and copy their pictures to docs/images."""
    pictures = Path(__file__).resolve().parents[1] / "images"
    with TemporaryDirectory() as name:
        os.chdir(name)  # the runs are called as they are on the command line
        for case in range(CASES):
            labels = organ_and_lesion(np.random.default_rng(case))
            write(Path("labelsTs", f"patient_{case:02d}.nii.gz"), labels)
            for number, (folder, (sigma, noise)) in enumerate(RUNS.items()):
                predicted = predict(labels, np.random.default_rng((case, number)), sigma, noise)
                write(Path(folder, f"patient_{case:02d}.nii.gz"), predicted)
        for folder in RUNS:
            dataset_json = {"labels": {"background": 0, "organ": 1, "lesion": 2}, "file_ending": ".nii.gz"}
            Path(folder, "dataset.json").write_text(json.dumps(dataset_json))
            command(f"evaluate --pred {folder} --ref labelsTs --tolerance-mm organ=2 lesion=1 --out scores_{folder}")
        command("compare scores_run_a scores_run_b --out comparison")
        for target, source in OUTPUTS.items():
            shutil.copy(source, pictures / target)
        os.chdir(pictures)


def command(line: str) -> None:
    """Run a command of nnunet_wsl."""
    if main(line.split()):
        raise SystemExit(line)


if __name__ == "__main__":
    run()
