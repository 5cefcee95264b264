"""nnU-Net's real commands on tiny data, with the relevance head."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from training.conftest import CASES

from nnunet_wsl.cli.main import main
from nnunet_wsl.contract import FUSED
from nnunet_wsl.errors import InputError
from nnunet_wsl.training.inference import RelevancePredictor
from nnunet_wsl.training.loader import CompactMapsLoader, PatchesInImageLoader

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


def results(folder, trainer, configuration="3d_fullres", plans="nnUNetPlans"):
    return folder / "nnUNet_results" / "Dataset801_Tiny" / f"{trainer}__{plans}__{configuration}"


def predict(nnunet, folder, trainer, configuration, monkeypatch, *options):
    out = folder / f"predicted_{configuration}"
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)  # the model must do without this package's trainers
    nnunet("predict", "-i", folder / "nnUNet_raw" / "Dataset801_Tiny" / "imagesTs", "-o", out, "-d", 801,
           "-c", configuration, "-f", 0, "-tr", trainer, "-device", "cpu", "-npp", 0, "-nps", 0, *options)  # fmt: skip
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


def test_predicts_without_this_package(tiny, nnunet):
    """Another environment has nnunetv2 and not this package: here, one where its import fails."""
    folder = tiny()
    nnunet("train", 801, "2d", 0, "-tr", "TinyWSL", "-device", "cpu")
    model = folder / "nnUNet_results" / "Dataset801_Tiny" / "TinyWSL__nnUNetPlans__2d"
    code = (
        "import sys; sys.modules['nnunet_wsl'] = None; "
        "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as main; main()"
    )
    out = folder / "predicted"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")} | {"nnUNet_def_n_proc": "1"}
    images = folder / "nnUNet_raw" / "Dataset801_Tiny" / "imagesTs"
    arguments = ["-i", images, "-o", out, "-m", model, "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1"]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, check=True)
    assert sorted(p.name for p in out.glob("*.nii.gz")) == [f"{case}.nii.gz" for case in CASES]


def test_the_script_for_containers(tiny, nnunet):
    """The script of docs/deployment.md works in another format and without this package."""
    folder = tiny()
    nnunet("train", 801, "3d_fullres", 0, "-tr", "TinyWSL", "-device", "cpu")
    model = results(folder, "TinyWSL")
    page = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    images = folder / "images"
    images.mkdir()
    for case in CASES:
        image = sitk.ReadImage(str(folder / "nnUNet_raw/Dataset801_Tiny/imagesTs" / f"{case}_0000.nii.gz"))
        sitk.WriteImage(image, str(images / f"{case}.mha"))
    (images / ".DS_Store").touch()
    (images / "folder").mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")} | {"nnUNet_def_n_proc": "1"}
    code = f"import sys; sys.modules['nnunet_wsl'] = None\n{script}"
    out = folder / "out" / "label_maps"
    subprocess.run([sys.executable, "-c", code, str(model), str(images), str(out)], env=environment, check=True)
    assert sorted(p.name for p in out.iterdir()) == [f"{case}.mha" for case in CASES]
    validated = sitk.ReadImage(str(model / "fold_0" / "validation" / f"{CASES[2]}.nii.gz"))
    predicted = sitk.ReadImage(str(out / f"{CASES[2]}.mha"))
    assert predicted.GetDirection() == pytest.approx(validated.GetDirection())
    assert np.array_equal(sitk.GetArrayFromImage(validated), sitk.GetArrayFromImage(predicted))


def trainer_states(trainer):
    states = {f"network.{k}": v for k, v in trainer.network.named_parameters()}
    states |= {f"head.{k}": v for k, v in trainer.relevance_head.state_dict().items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        states |= {f"optimizer.{index}.{k}": v for k, v in state.items() if torch.is_tensor(v)}
    return {k: v.detach().clone() for k, v in states.items()}


def test_resumes_bitwise(tiny, nnunet, monkeypatch):
    folder = tiny()
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")

    def make(continue_training):
        trainer = get_trainer_from_args("801", "3d_fullres", 0, "TinyWSLTwoEpochs", "nnUNetPlans",
                                        continue_training, torch.device("cpu"))  # fmt: skip
        maybe_load_checkpoint(trainer, continue_training, False)
        return trainer

    killed = make(continue_training=False)
    killed.save_every = 1

    stock_epoch_start = killed.on_epoch_start

    def killed_in_the_second_epoch():
        if killed.current_epoch == 1:
            raise KeyboardInterrupt
        stock_epoch_start()

    monkeypatch.setattr(killed, "on_epoch_start", killed_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        killed.run_training()
    resumed = make(continue_training=True)
    assert resumed.current_epoch == 1
    before, after = trainer_states(killed), trainer_states(resumed)
    assert before.keys() == after.keys()
    assert any(k.startswith("optimizer.") for k in before)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    fold = results(folder, "TinyWSLTwoEpochs") / "fold_0"
    assert not list(fold.glob("*.partial"))

    # And by the command, to the end.
    nnunet("train", 801, "3d_fullres", 0, "-tr", "TinyWSLTwoEpochs", "-device", "cpu", "--c")
    final = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert len(final["logging"]["train_first_difference"]) == 2


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list what is mapped")
def test_a_checkpoint_stays_if_the_next_one_cannot_be_written(tiny, monkeypatch):
    path = tiny() / "checkpoint.pth"
    trainer = get_trainer_from_args("801", "2d", 0, "TinyWSL", device=torch.device("cpu"))
    trainer.initialize()
    trainer.save_checkpoint(str(path))
    before = path.read_bytes()
    save = torch.save

    def disk_is_full(content, to):
        save(content, to)
        if isinstance(to, Path):
            to.write_bytes(to.read_bytes()[:1000])
            raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(str(path))
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.partial"))


class Rows:
    """In the place of a tensor on a GPU."""

    def cpu(self):
        return torch.ones(1)


def test_what_is_trained_on_a_gpu_is_loaded_without_one(tiny, monkeypatch):
    path = tiny() / "checkpoint.pth"
    trainer = get_trainer_from_args("801", "2d", 0, "TinyWSL", device=torch.device("cpu"))
    trainer.initialize()
    monkeypatch.setattr(trainer.relevance_head, "state_dict", lambda: {"layer": Rows()})
    trainer.save_checkpoint(str(path))
    assert torch.load(path)["relevance_head"]["weights"] == {"layer": torch.ones(1)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows that nothing is loaded to a GPU by there being none")
def test_the_device_does_not_hold_a_checkpoint_twice(tiny, monkeypatch):
    path = tiny() / "checkpoint.pth"
    trainer = get_trainer_from_args("801", "2d", 0, "TinyWSL", device=torch.device("cpu"))
    trainer.initialize()
    trainer.save_checkpoint(str(path))
    rows = trainer.relevance_head.state_dict()
    trainer.relevance_head.load_state_dict({name: torch.zeros_like(value) for name, value in rows.items()})
    trainer.device = torch.device("cuda")
    monkeypatch.setattr(nnUNetTrainer, "load_checkpoint", lambda *_: None)  # it loads all to the device
    trainer.load_checkpoint(str(path))
    for name, value in trainer.relevance_head.state_dict().items():
        assert torch.equal(value, rows[name])


def test_starts_from_pretrained_weights(tiny, nnunet):
    folder = tiny()
    nnunet("train", 801, "2d", 0, "-tr", "TinyWSL", "-device", "cpu")
    weights = results(folder, "TinyWSL", "2d") / "fold_0" / "checkpoint_final.pth"
    nnunet("train", 801, "2d", 0, "-tr", "TinyWSLTwoEpochs", "-device", "cpu", "-pretrained_weights", weights)
    assert (results(folder, "TinyWSLTwoEpochs", "2d") / "fold_0" / "checkpoint_final.pth").is_file()


@pytest.mark.parametrize(
    ("trainer", "stock"),
    [
        ("TinyWSLDA5", "nnUNetTrainerDA5"),
        ("TinyWSLNoMirroring", "nnUNetTrainerNoMirroring"),
        ("TinyWSLNoDeepSupervision", "nnUNetTrainerNoDeepSupervision"),
    ],
)
def test_mixes_into_nnunets_other_trainers(tiny, nnunet, trainer, stock):
    folder = tiny("ignore")
    nnunet("train", 801, "3d_fullres", 0, "-tr", trainer, "-device", "cpu")
    fold = results(folder, trainer) / "fold_0"
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == stock
    assert (fold / "validation" / "summary.json").is_file()


def test_mixes_into_primus(tiny, nnunet):
    folder = tiny()
    plans_file = folder / "nnUNet_preprocessed" / "Dataset801_Tiny" / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 40, 48]  # Primus wants multiples of 8
    plans_file.write_text(json.dumps(plans))
    nnunet("train", 801, "3d_fullres", 0, "-tr", "TinyWSLPrimus", "-device", "cpu")
    fold = results(folder, "TinyWSLPrimus") / "fold_0"
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == "nnUNet_Primus_S_Trainer"
    (fold / "validation" / "summary.json").unlink()
    nnunet("train", 801, "3d_fullres", 0, "-tr", "TinyWSLPrimus", "-device", "cpu", "--val")  # loads the checkpoint
    assert (fold / "validation" / "summary.json").is_file()


def test_fuses_the_objects_of_a_per_object_dataset(tiny, nnunet):
    folder = tiny()
    nnunet("train", 801, "2d", 0, "-tr", "TinyWSLFused", "-device", "cpu")
    checkpoint = torch.load(
        results(folder, "TinyWSLFused", "2d") / "fold_0" / "checkpoint_final.pth", weights_only=False
    )
    assert checkpoint["relevance_head"]["objects"] == ("fused",)
    assert {rows.shape[0] for rows in checkpoint["relevance_head"]["weights"].values()} == {1}


def test_mask_only_trains_nnunets_loss(tiny, monkeypatch):
    tiny("ignore")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = get_trainer_from_args("801", "2d", 0, "TinyWSLMaskOnly", device=torch.device("cpu"))
    trainer.initialize()
    batch = trainer._with_float_maps(next(trainer.get_dataloaders()[0]))
    output = trainer.network(batch["data"])
    levels = len(output) // 2
    loss = trainer.loss(output, batch["target"])
    stock = nnUNetTrainer._build_loss(trainer)
    assert loss.item() == pytest.approx(stock(output[:levels], batch["target"][:levels]).item())
    mask, *relevance = torch.autograd.grad(loss, [output[0], *output[levels:]], allow_unused=True)
    assert (mask != 0).any()
    assert not any(gradient is not None and gradient.any() for gradient in relevance)


def test_residual_encoder_regions_and_ignore_validated_again(tiny, nnunet):
    folder = tiny("regions and ignore")
    nnunet("plan_experiment", "-d", 801, "-pl", "nnUNetPlannerResEncM")
    arguments = (801, "3d_fullres", 0, "-tr", "TinyWSL", "-p", "nnUNetResEncUNetMPlans", "-device", "cpu")
    nnunet("train", *arguments)
    fold = results(folder, "TinyWSL", plans="nnUNetResEncUNetMPlans") / "fold_0"
    weights = torch.load(fold / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert {w.shape[0] for k, w in weights.items() if ".seg_layers." in k} == {2}  # the two regions
    summary = (fold / "validation" / "summary.json").read_text()
    nnunet("train", *arguments, "--val")
    assert (fold / "validation" / "summary.json").read_text() == summary


def test_best_configuration_ensemble_and_zip(tiny, nnunet, monkeypatch):
    folder = tiny()
    for configuration in ("2d", "3d_fullres"):
        nnunet("train", 801, configuration, 0, "-tr", "TinyWSL", "-device", "cpu", "--npz")
    nnunet("find_best_configuration", 801, "-c", "2d", "3d_fullres", "-tr", "TinyWSL", "-f", 0, "-np", 1)
    models = folder / "nnUNet_results" / "Dataset801_Tiny"
    assert json.loads((models / "inference_information.json").read_text())["considered_models"]
    assert list((models / "ensembles").iterdir())

    archive = folder / "model.zip"
    nnunet("export_model_to_zip", "-d", 801, "-o", archive, "-c", "2d", "-tr", "TinyWSL", "-f", 0)
    monkeypatch.setenv("nnUNet_results", str(folder / "installed"))
    nnunet("install_pretrained_model_from_zip", archive)
    out = predict(nnunet, folder, "TinyWSL", "2d", monkeypatch, "--save_probabilities")
    assert len(list(out.glob("*.nii.gz"))) == len(CASES)
    monkeypatch.setenv("nnUNet_results", str(folder / "nnUNet_results"))
    other = predict(nnunet, folder, "TinyWSL", "3d_fullres", monkeypatch, "--save_probabilities")
    nnunet("ensemble", "-i", out, other, "-o", folder / "ensemble", "-np", 1)
    assert len(list((folder / "ensemble").glob("*.nii.gz"))) == len(CASES)


def test_cascade(tiny, nnunet):
    folder = tiny()
    plans_file = folder / "nnUNet_preprocessed" / "Dataset801_Tiny" / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    configurations = plans["configurations"]
    low = configurations["3d_fullres"] | {
        "data_identifier": "nnUNetPlans_3d_lowres",
        "next_stage": "3d_cascade_fullres",
    }
    low["spacing"] = [s * f for s, f in zip(low["spacing"], (1.0, 1.5, 1.5), strict=True)]
    configurations["3d_lowres"] = low
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans_file.write_text(json.dumps(plans))
    nnunet("preprocess", "-d", 801, "-c", "3d_lowres", "-np", 1)
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        nnunet("train", 801, configuration, "all", "-tr", "TinyWSL", "-device", "cpu")
    fold = results(folder, "TinyWSL", "3d_cascade_fullres") / "fold_all"
    assert (fold / "validation" / "summary.json").is_file()
    weights = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    first = next(w for k, w in weights.items() if k.endswith("conv.weight"))
    assert first.shape[1] == 1 + 2  # the image and the previous stage's two labels


def test_a_checkpoint_of_other_objects_is_not_resumed(tiny, nnunet):
    folder = tiny()
    nnunet("train", 801, "2d", 0, "-tr", "TinyWSL", "-device", "cpu")
    dataset_json = folder / "nnUNet_preprocessed" / "Dataset801_Tiny" / "dataset.json"
    content = json.loads(dataset_json.read_text())
    content["wsl"]["relevance_channels"] = {"1": "core", "2": "whole"}  # converted anew, in another order
    dataset_json.write_text(json.dumps(content))
    with pytest.raises(InputError, match="relevance maps of whole, core; this training has core, whole"):
        nnunet("train", 801, "2d", 0, "-tr", "TinyWSL", "-device", "cpu", "--val")


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_predicts_relevance(tiny, nnunet, configuration, capsys):
    folder = tiny()
    nnunet("train", 801, configuration, 0, "-tr", "TinyWSL", "-device", "cpu")
    model = results(folder, "TinyWSL", configuration)
    images, out = folder / "nnUNet_raw" / "Dataset801_Tiny" / "imagesTs", folder / "relevance"
    arguments = ["predict-relevance", "-i", images, "-o", out, "-m", model, "-device", "cpu"]
    assert main([str(a) for a in arguments]) == 0
    maps_of_cases = [f"{case}_000{channel}.nii.gz" for case in CASES for channel in (0, 1)]
    assert sorted(p.name for p in out.iterdir()) == sorted([*maps_of_cases, "relevance.json"])
    channels = json.loads((out / "relevance.json").read_text())["channel_names"]
    assert channels == {"0": "whole", "1": "core"}
    image = sitk.ReadImage(str(images / f"{CASES[0]}_0000.nii.gz"))
    relevance = sitk.ReadImage(str(out / f"{CASES[0]}_0000.nii.gz"))
    assert relevance.GetSize() == image.GetSize()
    assert relevance.GetDirection() == pytest.approx(image.GetDirection())
    values = sitk.GetArrayFromImage(relevance)
    # A hardly trained model: near one half inside, exactly 0 outside nnU-Net's crop to the non-zero region.
    assert ((values > 0) & (values < 1)).any()
    cropped = sitk.GetArrayFromImage(image) == 0
    assert (values[cropped] == 0).all()

    # Each fold's own head: averaging a fold with itself changes nothing, and a rerun finds everything done.
    twice = RelevancePredictor(model, (0, 0), "checkpoint_final.pth", torch.device("cpu"))
    maps = twice.predict([images / f"{CASES[0]}_0000.nii.gz"])
    np.testing.assert_allclose(maps[0], values, atol=1e-6)
    before = (out / f"{CASES[0]}_0000.nii.gz").stat().st_mtime_ns
    assert main([str(a) for a in [*arguments, "--continue_prediction"]]) == 0
    assert (out / f"{CASES[0]}_0000.nii.gz").stat().st_mtime_ns == before

    assert main([str(a) for a in [*arguments, "-f", "3"]]) == 2
    assert "fold_3" in capsys.readouterr().err
    arguments[2] = images.with_name("imagesTr")  # with relevance channels
    assert main([str(a) for a in arguments]) == 2
    assert capsys.readouterr().err.count("has 3 channels") == len(CASES)


def test_a_dataset_without_relevance_channels_is_refused(tiny, nnunet):
    folder = tiny()
    dataset_json = folder / "nnUNet_preprocessed" / "Dataset801_Tiny" / "dataset.json"
    content = json.loads(dataset_json.read_text())
    content["wsl"]["relevance_channels"] = {}
    dataset_json.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"Dataset801_Tiny.*--relevance none.*nnunet_wsl convert"):
        nnunet("train", 801, "3d_fullres", 0, "-tr", "TinyWSL", "-device", "cpu")
    assert not list((folder / "nnUNet_results").iterdir())  # nothing half-written


def test_cases_preprocessed_before_another_conversion_are_refused(tiny, nnunet):
    """Without a word the second map would pass for the confidence in the first one."""
    folder = tiny() / "nnUNet_preprocessed" / "Dataset801_Tiny"
    content = json.loads((folder / "dataset.json").read_text())
    content["channel_names"].popitem()
    content["wsl"]["relevance_channels"] = {"1": FUSED}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        nnunet("train", 801, "2d", 0, "-tr", "TinyWSL", "-device", "cpu")
    assert [problem.split(":")[0] for problem in caught.value.problems] == [f"Case '{case}'" for case in CASES]
    assert "it has 3 channels; its dataset.json lists 1 of the image, 1 of relevance and 0 of confidence" in str(
        caught.value
    )


def test_cases_that_cannot_be_read_are_told_together(tiny, nnunet):
    folder = tiny() / "nnUNet_preprocessed" / "Dataset801_Tiny" / "nnUNetPlans_2d"
    damaged, lost, _ = CASES
    (folder / f"{damaged}.b2nd").write_bytes(b"no image")
    (folder / f"{lost}.pkl").unlink()
    with pytest.raises(InputError) as caught:
        nnunet("train", 801, "2d", 0, "-tr", "TinyWSL", "-device", "cpu")
    assert [problem.split(" from")[0] for problem in caught.value.problems] == [
        f"Case '{case}' cannot be read" for case in (damaged, lost)
    ]


def test_a_damaged_checkpoint_is_not_resumed(tiny, nnunet):
    folder = tiny()
    fold = results(folder, "TinyWSL", "2d") / "fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").write_bytes(b"half of it")
    with pytest.raises(InputError, match=r"checkpoint_latest\.pth' cannot be read"):
        nnunet("train", 801, "2d", 0, "-tr", "TinyWSL", "-device", "cpu", "--c")


def test_trains_where_no_compact_maps_can_be_written(tiny, nnunet, capsys):
    folder = tiny()
    (folder / "nnUNet_preprocessed" / "Dataset801_Tiny" / "nnUNetPlans_2d_target_maps").touch()  # in the way
    nnunet("train", 801, "2d", 0, "-tr", "TinyWSL", "-device", "cpu")
    assert "cannot be written" in capsys.readouterr().out
    assert (results(folder, "TinyWSL", "2d") / "fold_0" / "checkpoint_final.pth").is_file()


def test_a_trainer_without_loader_is_refused(tiny, nnunet):
    tiny()
    with pytest.raises(NotImplementedError, match=r"TinyWSLMadeUpBatches trains on made-up batches.*Mix"):
        nnunet("train", 801, "2d", 0, "-tr", "TinyWSLMadeUpBatches", "-device", "cpu")


@pytest.mark.parametrize("compact", [True, False])
def test_patches_of_training_and_validation_stay_in_the_image(tiny, monkeypatch, compact):
    folder = tiny("ignore") / "nnUNet_preprocessed" / "Dataset801_Tiny"
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    if not compact:
        (folder / "nnUNetPlans_2d_target_maps").touch()  # in the way
    trainer = get_trainer_from_args("801", "2d", 0, "TinyWSL", device=torch.device("cpu"))
    trainer.initialize()
    loaders = [augmenter.data_loader for augmenter in trainer.get_dataloaders()]
    assert all(isinstance(loader, PatchesInImageLoader) for loader in loaders)
    assert all(isinstance(loader, CompactMapsLoader) == compact for loader in loaders)
