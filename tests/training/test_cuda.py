"""nnU-Net's real commands on a GPU, where there is one; what they make is used without it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from training.conftest import CASES
from training.test_integration import results

from nnunet_wsl.cli.main import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize("compiled", ["f", "t"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("labels", ["labels", "regions and ignore"])
def test_train_go_on_and_predict(tiny, nnunet, monkeypatch, labels, configuration, compiled):
    monkeypatch.setenv("nnUNet_compile", compiled)
    # nnU-Net's command calls it, which works once in a process.
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda _: None)
    folder = tiny(labels)
    arguments = (801, configuration, 0, "-tr", "TinyWSLTwoEpochs", "-device", "cuda")
    nnunet("train", *arguments)
    fold = results(folder, "TinyWSLTwoEpochs", configuration) / "fold_0"
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False, map_location="cpu")
    assert np.isfinite(checkpoint["logging"]["train_first_difference"]).all()
    assert np.isfinite(checkpoint["logging"]["train_second_difference"]).all()
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    nnunet("train", *arguments, "--val")  # loads the checkpoint
    assert json.loads((fold / "validation" / "summary.json").read_text())["mean"] == summary["mean"]

    # Stock prediction without the GPU gives what the validation on it gave, up to what half precision decides.
    images, out = folder / "nnUNet_raw" / "Dataset801_Tiny" / "imagesTs", folder / "predicted"
    monkeypatch.delenv("nnUNet_extTrainer")
    nnunet("predict", "-i", images, "-o", out, "-d", 801, "-c", configuration, "-f", 0,
           "-tr", "TinyWSLTwoEpochs", "-device", "cpu", "-npp", 0, "-nps", 0)  # fmt: skip
    validated, predicted = (voxels(f / f"{CASES[2]}.nii.gz") for f in (fold / "validation", out))
    assert (validated == predicted).mean() > 0.98

    # So is the relevance, which no threshold cuts.
    maps = {}
    for device in ("cuda", "cpu"):
        maps[device] = folder / f"relevance_{device}"
        options = ["-i", images, "-o", maps[device], "-m", fold.parent, "-device", device]
        assert main(["predict-relevance", *map(str, options)]) == 0
    for case in CASES:
        on_gpu, on_cpu = (voxels(maps[device] / f"{case}_0000.nii.gz") for device in ("cuda", "cpu"))
        np.testing.assert_allclose(on_gpu, on_cpu, atol=0.02)


def test_a_training_goes_on_where_it_was(tiny, monkeypatch):
    path = tiny() / "checkpoint.pth"
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def make():
        trainer = get_trainer_from_args("801", "3d_fullres", 0, "TinyWSL", device=torch.device("cuda"))
        trainer.initialize()
        return trainer

    trained = make()
    trained.on_train_start()
    trained.on_train_epoch_start()
    for _ in range(3):
        trained.train_step(next(trained.dataloader_train))
    trained.save_checkpoint(str(path))
    resumed = make()
    resumed.load_checkpoint(str(path))
    for state in ("network", "relevance_head"):
        before, after = (getattr(trainer, state).state_dict() for trainer in (trained, resumed))
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert after[name].device.type == "cuda"
            assert torch.equal(value, after[name]), name
    assert resumed.grad_scaler.state_dict() == trained.grad_scaler.state_dict()
