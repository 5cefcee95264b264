"""nnU-Net's real commands on tiny data, with the relevance head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from training.conftest import CASES, TRAINERS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def results(folder, trainer, configuration="3d_fullres", plans="nnUNetPlans"):
    return folder / "nnUNet_results" / "Dataset801_Tiny" / f"{trainer}__{plans}__{configuration}"


def predict(nnunet, folder, trainer, configuration, monkeypatch):
    out = folder / f"predicted_{configuration}"
    monkeypatch.delenv("nnUNet_extTrainer")  # the model must do without this package's trainers
    nnunet("predict", "-i", folder / "nnUNet_raw" / "Dataset801_Tiny" / "imagesTs", "-o", out, "-d", 801,
           "-c", configuration, "-f", 0, "-tr", trainer, "-device", "cpu", "-npp", 1, "-nps", 1)  # fmt: skip
    return out


@pytest.mark.parametrize(
    ("configuration", "labels", "relevance"),
    list(product(("2d", "3d_fullres"), ("labels", "regions", "ignore"), ("per-object", "fused"))),
)
def test_train_validate_predict(tiny, nnunet, monkeypatch, configuration, labels, relevance):
    folder = tiny(labels, relevance)
    nnunet("train", 801, configuration, 0, "-tr", "TinyWSL", "-device", "cpu")
    model = results(folder, "TinyWSL", configuration)

    # The model folder describes a stock model of one image channel.
    assert json.loads((model / "dataset.json").read_text())["channel_names"] == {"0": "CT"}
    plans = json.loads((model / "plans.json").read_text())
    assert len(plans["configurations"][configuration]["normalization_schemes"]) == 1
    assert list(plans["foreground_intensity_properties_per_channel"]) == ["0"]

    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    num_relevance = 1 if relevance == "fused" else 2
    rows = checkpoint["relevance_head"]["weights"]
    assert {r.shape[0] for r in rows.values()} == {num_relevance}
    logged = checkpoint["logging"]
    for split in ("train", "val"):
        assert len(logged[f"{split}_sub_differences"][0]) == num_relevance
        assert logged[f"{split}_first_difference"][0] == pytest.approx(np.mean(logged[f"{split}_sub_differences"][0]))
        assert np.isfinite(logged[f"{split}_second_difference"][0])
    total = logged["train_first_difference"][0] + logged["train_second_difference"][0]
    assert logged["train_losses"][0] == pytest.approx(total, abs=1e-4)

    summary = json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    assert summary["metric_per_case"]

    out = predict(nnunet, folder, "TinyWSL", configuration, monkeypatch)
    for case in CASES:
        image = sitk.ReadImage(str(folder / "nnUNet_raw/Dataset801_Tiny/imagesTs" / f"{case}_0000.nii.gz"))
        prediction = sitk.ReadImage(str(out / f"{case}.nii.gz"))
        assert prediction.GetSize() == image.GetSize()
        assert prediction.GetDirection() == pytest.approx(image.GetDirection())
    # The case that training validated: stock nnUNetv2_predict gives what the trainer's own validation gave.
    validated = sitk.ReadImage(str(model / "fold_0" / "validation" / f"{CASES[2]}.nii.gz"))
    predicted = sitk.ReadImage(str(out / f"{CASES[2]}.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(validated), sitk.GetArrayFromImage(predicted))
