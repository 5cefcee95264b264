from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_erosion, distance_transform_edt

from nnunet_wsl.contract import FORMAT_VERSION, FUSED

TRAINERS = Path(__file__).parent / "trainers"
SHAPE_ZYX = (10, 36, 44)
SPACING_XYZ = (0.7, 1.1, 3.0)
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
CASES = ("case_a", "case_b", "case_c")


def write_image(array, path):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_XYZ)
    image.SetOrigin((-4.0, 7.0, 11.0))
    image.SetDirection((0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    sitk.WriteImage(image, str(path))


def relevance_of(mask):
    """Gaussian relevance by distance, straight from scipy."""
    contour = mask & ~binary_erosion(mask, np.ones((1, 3, 3)))
    if not contour.any():
        return np.zeros(mask.shape, np.float32)
    distance = distance_transform_edt(~contour, sampling=SPACING_XYZ[::-1])
    return np.exp(-(distance**2) / (2 * 2.0**2)).astype(np.float32)


def phantom(seed):
    """A shell around a core, in noise, with a frame of zeros."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE_ZYX)
    centre = np.array([5, 17, 21]) + rng.uniform(-1, 1, 3)
    radius = np.sqrt(((z - centre[0]) / 3.2) ** 2 + ((y - centre[1]) / 11) ** 2 + ((x - centre[2]) / 14) ** 2)
    label = np.where(radius < 0.55, 2, np.where(radius < 1, 1, 0)).astype(np.uint8)
    image = (100 + 60 * label + rng.normal(0, 12, SHAPE_ZYX)).astype(np.float32)
    image[:, :2] = 0
    image[:, :, -3:] = 0
    return image, label


def write_tiny_dataset(raw, labels, relevance):
    """Write a dataset by the contract, without the conversion."""
    folder = raw / "Dataset801_Tiny"
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    for seed, case in enumerate(CASES):
        image, label = phantom(seed)
        maps = [relevance_of(label >= 1), relevance_of(label == 2)]
        if relevance == "fused":
            maps = [np.maximum(*maps)]
        if "ignore" in labels:
            label[1::2] = 3
        write_image(image, folder / "imagesTr" / f"{case}_0000.nii.gz")
        write_image(image, folder / "imagesTs" / f"{case}_0000.nii.gz")
        for channel, values in enumerate(maps, start=1):
            write_image(values * (image != 0), folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
        write_image(label, folder / "labelsTr" / f"{case}.nii.gz")
    names = {"fused": [FUSED], "per-object": ["whole", "core"]}[relevance]
    dataset_json = {
        "channel_names": {"0": "CT"} | {str(i): "noNorm" for i, _ in enumerate(names, start=1)},
        "labels": {"background": 0, "shell": 1, "core": 2},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
        "wsl": {
            "format_version": FORMAT_VERSION,
            "package_version": "0",
            "relevance_channels": {str(i): name for i, name in enumerate(names, start=1)},
        },
    }
    if "regions" in labels:
        dataset_json["labels"] = {"background": 0, "whole": [1, 2], "core": [2]}
        dataset_json["regions_class_order"] = [1, 2]
    if "ignore" in labels:
        dataset_json["labels"]["ignore"] = 3
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    splits = [{"train": list(CASES[:2]), "val": list(CASES[2:])}]
    (folder / "splits_final.json").write_text(json.dumps(splits))


@pytest.fixture(scope="session")
def planned(tmp_path_factory):
    """Give the folder of a tiny dataset, planned and preprocessed for 2d and 3d_fullres, made once per session."""
    made = {}

    def make(labels, relevance):
        if (labels, relevance) not in made:
            folder = tmp_path_factory.mktemp("planned")
            with pytest.MonkeyPatch.context() as monkeypatch:
                for name in FOLDERS:
                    (folder / name).mkdir()
                    monkeypatch.setenv(name, str(folder / name))
                write_tiny_dataset(folder / "nnUNet_raw", labels, relevance)
                run_nnunet(monkeypatch, "plan_and_preprocess", "-d", 801, "-c", "2d", "3d_fullres", "-np", 1, 1)
            made[labels, relevance] = folder
        return made[labels, relevance]

    return make


@pytest.fixture
def tiny(planned, tmp_path, monkeypatch):
    """Copy a planned dataset and set nnU-Net's variables to the copy: tiny(labels, relevance) -> folder."""

    def use(labels="labels", relevance="per-object"):
        shutil.copytree(planned(labels, relevance), tmp_path, dirs_exist_ok=True)
        for name in FOLDERS:
            monkeypatch.setenv(name, str(tmp_path / name))
        monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))
        return tmp_path

    return use


def run_nnunet(monkeypatch, command, *args):
    """Run one of nnU-Net's commands in this process: its imports take longer than the work."""
    (entry,) = (e for e in entry_points(group="console_scripts") if e.name == f"nnUNetv2_{command}")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [f"nnUNetv2_{command}", *map(str, args)])
        if command == "train":  # planning wants at least one process
            patch.setenv("nnUNet_n_proc_DA", "0")
        entry.load()()


@pytest.fixture
def nnunet(monkeypatch):
    """Give the function that runs one of nnU-Net's commands."""
    return lambda command, *args: run_nnunet(monkeypatch, command, *args)
