"""From sparse and half-drawn contours to dense predictions, by the commands that a user types."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from training.conftest import CASES, FOLDERS, TRAINERS, phantom, write_image

from nnunet_wsl.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

DRAWN = {
    "every fifth slice, gated": ["--every", "5", "--between", "gated"],
    "half of the slices half drawn": ["--open", "0.5", "--overlap", "regions"],
}


@pytest.mark.parametrize("drawn", DRAWN)
def test_convert_plan_train_predict(drawn, tmp_path, monkeypatch, nnunet):
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for seed, case in enumerate(CASES):
        image, label = phantom(seed)
        write_image(image, images / f"{case}_0000.nii.gz")
        write_image(label, labels / f"{case}.nii.gz")
    command = ["convert", "masks", "--images", images, "--labels", labels, "--dataset", 802, "--name", "Sparse",
               "--label", "shell=1", "--label", "core=2", "--channel", "CT", "--jobs", 1, *DRAWN[drawn]]  # fmt: skip
    assert main([str(word) for word in command]) == 0
    content = json.loads((tmp_path / "nnUNet_raw" / "Dataset802_Sparse" / "dataset.json").read_text())
    assert list(content["wsl"]["confidence_channels"].values()) == ["shell", "core"]
    assert "ignore" in content["labels"]

    splits = [{"train": list(CASES[:2]), "val": list(CASES[2:])}]
    (tmp_path / "nnUNet_raw" / "Dataset802_Sparse" / "splits_final.json").write_text(json.dumps(splits))
    nnunet("plan_and_preprocess", "-d", 802, "-c", "3d_fullres", "-np", 1, "--verify_dataset_integrity")
    nnunet("train", 802, "3d_fullres", 0, "-tr", "TinyWSLTwoEpochs", "-device", "cpu")

    model = tmp_path / "nnUNet_results" / "Dataset802_Sparse" / "TinyWSLTwoEpochs__nnUNetPlans__3d_fullres"
    logged = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)["logging"]
    for split in ("train", "val"):
        assert np.isfinite(logged[f"{split}_sub_differences"]).all()
        assert (np.array(logged[f"{split}_sub_differences"]) > 0).all()
        assert np.isfinite(logged[f"{split}_second_difference"]).all()

    monkeypatch.delenv("nnUNet_extTrainer")
    nnunet("predict", "-i", images, "-o", tmp_path / "predicted", "-d", 802, "-c", "3d_fullres", "-f", 0,
           "-tr", "TinyWSLTwoEpochs", "-device", "cpu", "-npp", 0, "-nps", 0)  # fmt: skip
    for case in CASES:
        predicted = sitk.ReadImage(str(tmp_path / "predicted" / f"{case}.nii.gz"))
        image = sitk.ReadImage(str(images / f"{case}_0000.nii.gz"))
        assert predicted.GetSize() == image.GetSize()
        # Dense: the ignore label, the highest, is never predicted.
        assert sitk.GetArrayFromImage(predicted).max() < content["labels"]["ignore"]
