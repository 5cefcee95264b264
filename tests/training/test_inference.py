"""``predict-relevance`` with an untrained network: what is read, refused and written, and where the maps lie."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from skimage import io

from nnunet_wsl.cli.main import main
from nnunet_wsl.training.inference import RelevancePredictor
from nnunet_wsl.training.network import RelevanceHead

pytestmark = pytest.mark.filterwarnings("default")

SPACING_XYZ = (0.7, 1.1, 3.0)
SHAPE_ZYX = (6, 11, 17)
BOX_ZYX = (slice(1, 3), slice(5, 9), slice(2, 14))
CHECKPOINT = "fold_0/checkpoint_final.pth"


def configuration(ndim):
    conv = f"torch.nn.modules.conv.Conv{ndim}d"
    resampling = {
        f"resampling_fn_{kind}": "resample_data_or_seg_to_shape" for kind in ("data", "seg", "probabilities")
    } | {
        f"resampling_fn_{kind}_kwargs": {"is_seg": kind == "seg", "order": 1, "order_z": 0, "force_separate_z": None}
        for kind in ("data", "seg", "probabilities")
    }
    architecture = {
        "n_stages": 2,
        "features_per_stage": [2, 4],
        "conv_op": conv,
        "kernel_sizes": [[3] * ndim] * 2,
        "strides": [[1] * ndim, [2] * ndim],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
        "norm_op_kwargs": {"affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {},
    }
    return resampling | {
        "data_identifier": "made_up",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8] * ndim,
        "spacing": [2.0, 1.0, 1.0][-ndim:],
        "normalization_schemes": ["NoNormalization"] * 2,
        "use_mask_for_norm": [False] * 2,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": architecture,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }


def write_model(folder, seed=1, reader="SimpleITKIO", ending=".nii.gz", name="3d_fullres", channels=1):
    """Write a model folder as training leaves it, with random weights and maps of two objects."""
    plans = {
        "dataset_name": "Dataset801_Tiny",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": reader,
        "transpose_forward": [2, 0, 1] if name == "3d_fullres" else [0, 1, 2],
        "transpose_backward": [1, 2, 0] if name == "3d_fullres" else [0, 1, 2],
        "configurations": {"2d": configuration(2), "3d_fullres": configuration(3)},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
    }
    dataset_json = {
        "channel_names": {str(channel): "CT" for channel in range(channels)},
        "labels": {"background": 0, "core": 1},
        "file_ending": ending,
    }
    manager = PlansManager(plans)
    torch.manual_seed(seed)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(name), channels, 2, enable_deep_supervision=False
    )
    head = RelevanceHead(network, 2)
    (folder / CHECKPOINT).parent.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    checkpoint = {
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": name},
        "inference_allowed_mirroring_axes": None,
        "network_weights": network.state_dict(),
        "relevance_head": {"objects": ("whole", "core"), "weights": head.state_dict()},
    }
    torch.save(checkpoint, folder / CHECKPOINT)
    return folder


def box():
    """Values in a box that lies otherwise in every other orientation, zeros around it."""
    values = np.zeros(SHAPE_ZYX, np.float32)
    values[BOX_ZYX] = np.random.default_rng(5).uniform(1, 2, values[BOX_ZYX].shape)
    return values


def oblique(permutation, signs):
    """Direction cosines: axes permuted and turned round, then tilted about two of them."""
    (c, s), (d, t) = (np.cos(0.3), np.sin(0.3)), (np.cos(0.2), np.sin(0.2))
    tilt = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, d, -t], [0, t, d]])
    return tilt @ np.eye(3)[list(permutation)] @ np.diag(signs)


def write_image(path, direction=None):
    image = sitk.GetImageFromArray(box())
    image.SetSpacing(SPACING_XYZ)
    image.SetOrigin((-4.0, 7.0, 11.0))
    image.SetDirection((oblique((1, 2, 0), (1, -1, -1)) if direction is None else direction).ravel().tolist())
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "WSLTrainer__nnUNetPlans__3d_fullres")


@pytest.fixture
def images(tmp_path):
    write_image(tmp_path / "images" / "a_0000.nii.gz")
    return tmp_path / "images"


def predict(images, out, model, *options):
    return main(["predict-relevance", "-i", str(images), "-o", str(out), "-m", str(model), "-device", "cpu", *options])


def refused(capsys, *arguments):
    """Predict, which fails, and give the problems."""
    capsys.readouterr()
    assert predict(*arguments) == 2
    problems = capsys.readouterr().err.splitlines()
    assert all(problem.startswith("error: ") for problem in problems)
    return problems


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize(("permutation", "signs"), [((1, 2, 0), (1, -1, -1)), ((2, 1, 0), (-1, 1, -1))])
def test_maps_lie_on_the_image(tmp_path, reader, permutation, signs):
    model = write_model(tmp_path / "model", reader=reader)
    write_image(tmp_path / "images" / "a_0000.nii.gz", oblique(permutation, signs))
    assert predict(tmp_path / "images", tmp_path / "out", model) == 0
    image, relevance = (nibabel.load(tmp_path / folder / "a_0000.nii.gz") for folder in ("images", "out"))
    np.testing.assert_allclose(relevance.affine, image.affine, atol=1e-4)
    # nnU-Net crops to what is not zero: there the relevance is 0 < p < 1, elsewhere exactly 0.
    np.testing.assert_array_equal(relevance.get_fdata() > 0, image.get_fdata() > 0)


def test_readers_agree_on_the_values(tmp_path, images):
    maps = []
    for reader in ("SimpleITKIO", "NibabelIO"):
        model = write_model(tmp_path / reader / "model", reader=reader)
        assert predict(images, tmp_path / reader / "out", model) == 0
        maps.append(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / reader / "out" / "a_0001.nii.gz"))))
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-6)


@pytest.mark.parametrize(
    ("reader", "ending", "name", "write"),
    [
        ("NaturalImage2DIO", ".png", "2d", lambda path, values: io.imsave(path, values[1], check_contrast=False)),
        ("Tiff3DIO", ".tif", "3d_fullres", tifffile.imwrite),
    ],
)
def test_images_without_geometry(tmp_path, reader, ending, name, write):
    model = write_model(tmp_path / "model", reader=reader, ending=ending, name=name)
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / f"a_0000{ending}", (box() * 100).astype(np.uint8))
    assert predict(tmp_path / "images", tmp_path / "out", model) == 0
    relevance = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "a_0001.nii.gz")))
    np.testing.assert_array_equal(relevance > 0, (box()[1] if name == "2d" else box()) > 0)


def test_a_reader_that_turns_images_otherwise(tmp_path, images, capsys):
    model = write_model(tmp_path / "model", reader="SimpleITKIOWithReorient")
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "SimpleITKIOWithReorient" in problem
    assert "overwrite_image_reader_writer" in problem
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [(), ("--overwrite",), ("--continue_prediction",)])
def test_never_into_the_folder_of_the_images(tmp_path, images, capsys, option):
    before = contents(images)
    (tmp_path / "link").symlink_to(images, target_is_directory=True)
    for out in (images, tmp_path / "link", images / ".." / "images"):
        (problem,) = refused(capsys, images, out, tmp_path / "no model is needed to see that", *option)
        assert "-o" in problem
        assert "would overwrite" in problem
    assert contents(images) == before


def test_results_are_kept_or_replaced_as_asked(tmp_path, images, model, capsys):
    out = tmp_path / "out"
    assert predict(images, out, model) == 0
    before = contents(out)
    (problem,) = refused(capsys, images, out, model)
    for part in (str(out), "--continue_prediction", "--overwrite"):
        assert part in problem
    assert contents(out) == before

    (out / "a_0001.nii.gz").unlink()  # as an interrupted run leaves it
    assert predict(images, out, model, "--continue_prediction") == 0
    assert contents(out) == before

    (out / "a_0001.nii.gz").write_bytes(b"")
    assert predict(images, out, model, "--overwrite") == 0
    assert contents(out) == before

    (out / "relevance.json").unlink()  # images of somebody else's, say
    (problem,) = refused(capsys, images, out, model, "--continue_prediction")
    assert "relevance.json" in problem
    with pytest.raises(SystemExit):
        predict(images, out, model, "--continue_prediction", "--overwrite")


def test_relevance_json_tells_what_made_the_maps(tmp_path, images, model):
    assert predict(images, tmp_path / "out", model) == 0
    content = json.loads((tmp_path / "out" / "relevance.json").read_text())
    assert len(content.pop("weights_sha256")) == 64
    assert content == {
        "channel_names": {"0": "whole", "1": "core"},
        "dataset": "Dataset801_Tiny",
        "model": "WSLTrainer__nnUNetPlans__3d_fullres",
        "folds": ["0"],
        "checkpoint": "checkpoint_final.pth",
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_0000.nii.gz",
        "a_0001.nii.gz",
        "relevance.json",
    ]


def test_maps_of_another_model_are_not_kept(tmp_path, images, model, capsys):
    out = tmp_path / "out"
    assert predict(images, out, model) == 0
    before = contents(out)
    other = tmp_path / "WSLTrainerFused__nnUNetPlans__3d_fullres"
    shutil.copytree(model, other)
    shutil.copytree(other / "fold_0", other / "fold_1")
    shutil.copy(other / CHECKPOINT, other / "fold_1" / "checkpoint_best.pth")
    (problem,) = refused(capsys, images, out, other, "--continue_prediction", "-f", "1", "-chk", "checkpoint_best.pth")
    for key in ("folds", "checkpoint"):
        assert f"{key} " in problem
    assert "channel_names" not in problem
    assert "weights_sha256" not in problem
    assert other.name not in problem.split("Choose")[0], "a folder may be renamed"
    for part in ("checkpoint_final.pth", "checkpoint_best.pth", '["0"]', '["1"]'):
        assert part in problem
    assert contents(out) == before

    # The same name, trained anew.
    anew = write_model(tmp_path / model.name, seed=2)
    (problem,) = refused(capsys, images, out, anew, "--continue_prediction")
    assert "weights_sha256" in problem
    # The folds are a set.
    assert predict(images, tmp_path / "two", other, "-f", "1", "0") == 0
    assert predict(images, tmp_path / "two", other, "-f", "0", "1", "--continue_prediction") == 0

    (out / "relevance.json").write_text("{")
    (problem,) = refused(capsys, images, out, model, "--continue_prediction")
    assert "relevance.json" in problem


def test_maps_of_other_cases_are_not_said_to_be_of_another_model(tmp_path, images, model, capsys):
    out = tmp_path / "out"
    assert predict(images, out, model) == 0
    shutil.copy(out / "a_0000.nii.gz", out / "b_0000.nii.gz")
    before = contents(out)
    (problem,) = refused(capsys, images, out, write_model(tmp_path / "other", seed=2), "--overwrite")
    assert "weights_sha256" in problem
    assert contents(out) == before
    assert predict(images, out, model, "--overwrite") == 0
    assert contents(out) == before


def test_maps_of_a_model_with_more_objects_are_replaced(tmp_path, images, model):
    out = tmp_path / "out"
    assert predict(images, out, model) == 0
    shutil.copy(out / "a_0000.nii.gz", out / "a_0002.nii.gz")
    assert predict(images, out, write_model(tmp_path / "other", seed=2), "--overwrite") == 0
    assert sorted(contents(out)) == ["a_0000.nii.gz", "a_0001.nii.gz", "relevance.json"]


def test_an_interrupted_replacement_mixes_no_models(tmp_path, images, model, monkeypatch):
    out = tmp_path / "out"
    write_image(images / "b_0000.nii.gz")
    assert predict(images, out, model) == 0
    old = contents(out)
    other = write_model(tmp_path / "other", seed=2)

    def interrupted(self, paths):
        if paths[0].name.startswith("b_"):
            raise KeyboardInterrupt
        return whole(self, paths)

    whole = RelevancePredictor.predict
    monkeypatch.setattr(RelevancePredictor, "predict", interrupted)
    assert predict(images, out, other, "--overwrite") == 130
    assert sorted(contents(out)) == ["a_0000.nii.gz", "a_0001.nii.gz", "relevance.json"]
    assert contents(out)["a_0000.nii.gz"] != old["a_0000.nii.gz"]


def test_nothing_is_replaced_where_images_are_damaged(tmp_path, images, model, capsys):
    out = tmp_path / "out"
    for case in "bc":
        write_image(images / f"{case}_0000.nii.gz")
    assert predict(images, out, model) == 0
    old = contents(out)
    for case in "bc":
        path = images / f"{case}_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:-20])  # its header is whole
    problems = refused(capsys, images, out, model, "--overwrite")
    assert ["b_0000" in problems[0], "c_0000" in problems[1], len(problems)] == [True, True, 2]
    assert contents(out) == old
    assert predict(images, out, model, "--continue_prediction") == 0  # reads none of them
    assert contents(out) == old


def test_images_that_link_to_nowhere_are_not_left_out(tmp_path, images, model, capsys):
    (images / "b_0000.nii.gz").symlink_to(tmp_path / "unmounted" / "b_0000.nii.gz")
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "b_0000.nii.gz' cannot be read as an image" in problem


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(tmp_path, images, model, capsys):
    (images / "a_0000.nii.gz").rename(images / os.fsdecode(b"\xe4_0000.nii.gz"))
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert r"The name of '\udce4_0000.nii.gz' in" in problem


def test_images_that_lie_nowhere(tmp_path, images, model, capsys):
    path = images / "a_0000.nii.gz"
    header = bytearray(gzip.decompress(path.read_bytes()))
    header[292:296] = np.float32(np.nan).tobytes()  # NIfTI's srow_x: where the first voxel lies
    path.write_bytes(gzip.compress(header))
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "a_0000.nii.gz' lies nowhere" in problem


def test_a_fold_that_is_named_twice_counts_once(tmp_path, images, model):
    assert predict(images, tmp_path / "once", model, "-f", "0") == 0
    assert predict(images, tmp_path / "twice", model, "-f", "0", "0") == 0
    assert contents(tmp_path / "once") == contents(tmp_path / "twice")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plans.json", "{", "cannot be read as JSON"),
        ("plans.json", "[]", "has no configurations, dataset_name"),
        ("dataset.json", '{"labels": {"a": 1}, "file_ending": ".nii.gz"}', "has no channel_names"),
    ],
)
def test_damaged_descriptions_of_a_model(tmp_path, images, model, capsys, name, content, message):
    damaged = tmp_path / "model"
    shutil.copytree(model, damaged)
    (damaged / name).write_text(content)
    (problem,) = refused(capsys, images, tmp_path / "out", damaged)
    assert f"'{damaged / name}' {message}" in problem


@pytest.mark.parametrize(
    "key",
    ["transpose_backward", "image_reader_writer", "foreground_intensity_properties_per_channel", "spacing",
     "resampling_fn_probabilities", "use_mask_for_norm"],
)  # fmt: skip
def test_what_is_read_of_the_plans_in_prediction_only(tmp_path, images, model, capsys, key):
    """Found before old maps are removed."""
    out, damaged = tmp_path / "out", tmp_path / "model"
    assert predict(images, out, model) == 0
    old = contents(out)
    shutil.copytree(model, damaged)
    plans = json.loads((damaged / "plans.json").read_text())
    del (plans if key in plans else plans["configurations"]["3d_fullres"])[key]
    (damaged / "plans.json").write_text(json.dumps(plans))
    (problem,) = refused(capsys, images, out, damaged, "--overwrite")
    assert f"plans.json' has no {key}" in problem
    assert contents(out) == old


def test_plans_of_the_first_versions_of_nnunet(tmp_path, images, model):
    former = tmp_path / "former" / model.name
    shutil.copytree(model, former)
    plans = (former / "plans.json").read_text()
    assert "properties_per_channel" in plans
    (former / "plans.json").write_text(plans.replace("properties_per_channel", "properties_by_modality"))
    assert predict(images, tmp_path / "out", former) == 0


def test_a_folder_that_cannot_be_made_is_told_before_the_first_prediction(tmp_path, images, model, capsys, monkeypatch):
    monkeypatch.setattr(RelevancePredictor, "predict", None)
    (tmp_path / "file").touch()
    (problem,) = refused(capsys, images, tmp_path / "file" / "out", model)
    assert "cannot be made" in problem


def test_a_record_of_another_form(tmp_path, images, model, capsys):
    out = tmp_path / "out"
    assert predict(images, out, model) == 0
    (out / "relevance.json").write_text("[" * 100_000)
    (problem,) = refused(capsys, images, out, model, "--continue_prediction")
    assert "relevance.json' cannot be read" in problem


def test_maps_that_cannot_be_written(tmp_path, images, model, capsys, monkeypatch):
    """As on a disk whose quota allows no more files: SimpleITK raises an error of its own."""

    def full(*_args, **_kwargs):
        raise RuntimeError("ITK ERROR: nifti library failed to write image")

    monkeypatch.setattr(sitk, "WriteImage", full)
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "a_0000.nii.gz' could not be written whole (ITK ERROR: nifti library failed" in problem


def test_a_model_that_does_not_predict_removes_nothing(tmp_path, images, model, monkeypatch):
    out = tmp_path / "out"
    assert predict(images, out, model) == 0
    old = contents(out)

    def fails(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(RelevancePredictor, "predict", fails)
    assert predict(images, out, model, "--overwrite") == 130
    assert contents(out) == old


def test_checkpoints_of_other_things(tmp_path, images, model, capsys):
    other = tmp_path / "model"
    shutil.copytree(model, other)
    whole = torch.load(other / CHECKPOINT, weights_only=False)
    torch.save([1, 2], other / CHECKPOINT)
    (problem,) = refused(capsys, images, tmp_path / "out", other)
    assert "is no checkpoint of nnU-Net" in problem
    rows = {name: weights[:0] for name, weights in whole["relevance_head"]["weights"].items()}
    for change, message in (
        ({"network_weights": {}}, "nnU-Net cannot load the model"),
        ({"trainer_name": "OfAnotherLab"}, "OfAnotherLab"),
        ({"relevance_head": None}, "has no relevance head"),
        ({"relevance_head": {"objects": ("whole", "core")}}, "relevance head of another form"),
        ({"relevance_head": {"objects": None, "weights": rows}}, "relevance head of another form"),
        ({"relevance_head": {"objects": ("whole", "core"), "weights": {"x": 3}}}, "relevance head of another form"),
        ({"relevance_head": {"objects": ("whole", "core"), "weights": rows}}, "The relevance head does not fit"),
    ):
        torch.save(whole | change, other / CHECKPOINT)
        (problem,) = refused(capsys, images, tmp_path / "out", other)
        assert message in problem


def test_checkpoints_in_the_former_format_of_torch(tmp_path, images, model):
    former = tmp_path / "former" / model.name
    shutil.copytree(model, former)
    whole = torch.load(former / CHECKPOINT, weights_only=False)
    torch.save(whole, former / CHECKPOINT, _use_new_zipfile_serialization=False)
    assert predict(images, tmp_path / "out", model) == predict(images, tmp_path / "same", former) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "same")


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"<html>" * 9])
def test_damaged_checkpoints(tmp_path, images, model, capsys, damage):
    damaged = tmp_path / "model"
    shutil.copytree(model, damaged)
    shutil.copytree(damaged / "fold_0", damaged / "fold_1")
    for fold in ("fold_0", "fold_1"):
        path = damaged / fold / "checkpoint_final.pth"
        path.write_bytes(damage(path.read_bytes()))
    problems = refused(capsys, images, tmp_path / "out", damaged, "-f", "0", "1")
    assert [f"fold_{k}/checkpoint_final.pth' cannot be read" in problem for k, problem in enumerate(problems)] == [
        True,
        True,
    ]


def test_an_incomplete_model_folder(tmp_path, images, model, capsys):
    incomplete = tmp_path / "model"
    shutil.copytree(model, incomplete)
    (incomplete / "plans.json").unlink()
    (incomplete / "dataset.json").unlink()
    problems = refused(capsys, images, tmp_path / "out", incomplete, "-f", "0", "7")
    assert len(problems) == 3
    for name, problem in zip(("dataset.json", "plans.json", "fold_7"), problems, strict=True):
        assert f"'{incomplete / name}" in problem
        assert "-m" in problem


def test_an_output_that_is_no_folder(tmp_path, images, model, capsys):
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        (problem,) = refused(capsys, images, out, model)
        assert f"-o '{out}'" in problem
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_no_such_device(tmp_path, images, model, capsys, device):
    if {"cuda": torch.cuda, "mps": torch.backends.mps}[device].is_available():
        pytest.skip(f"this machine has a {device} device")
    (problem,) = refused(capsys, images, tmp_path / "out", model, "-device", device)
    assert device in problem.lower()
    assert "-device cpu" in problem


def test_unreadable_images_are_told_before_the_first_prediction(tmp_path, images, model, capsys):
    (images / "b_0000.nii.gz").write_bytes(b"no image")
    sitk.WriteImage(sitk.Image([3, 4, 5, 2], sitk.sitkFloat32), str(images / "c_0000.nii.gz"))
    problems = refused(capsys, images, tmp_path / "out", model)
    assert len(problems) == 2
    assert "b_0000.nii.gz" in problems[0]
    assert "c_0000.nii.gz" in problems[1]
    assert "4 dimensions" in problems[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_an_image_with_a_whole_header_only(tmp_path, images, capsys, reader):
    model = write_model(tmp_path / "model", reader=reader)
    data = (images / "a_0000.nii.gz").read_bytes()
    (images / "a_0000.nii.gz").write_bytes(data[: len(data) // 2])
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "a_0000.nii.gz" in problem


def test_channels_of_different_shapes(tmp_path, images, capsys):
    model = write_model(tmp_path / "model", channels=2)
    write_image(images / "b_0000.nii.gz")
    for case in "ab":
        sitk.WriteImage(sitk.Image([17, 11, 5], sitk.sitkFloat32), str(images / f"{case}_0001.nii.gz"))
    problems = refused(capsys, images, tmp_path / "out", model)
    assert [f"{case}_0001.nii.gz" in problem for case, problem in zip("ab", problems, strict=True)] == [True, True]
    assert "of one shape" in problems[0]


@pytest.mark.parametrize(("reader", "ending"), [("SimpleITKIO", ".mha"), ("NibabelIO", ".nii")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(tmp_path, capsys, reader, ending, value):
    """One of them would make the maps of the whole image meaningless."""
    model = write_model(tmp_path / "model", reader=reader, ending=ending)
    values = box()
    values[2, 3, 4] = value
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / f"a_0000{ending}"
    if ending == ".nii":  # of which ITK makes zeros
        nibabel.save(nibabel.Nifti1Image(values.T, np.diag([*SPACING_XYZ, 1])), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    (problem,) = refused(capsys, path.parent, tmp_path / "out", model)
    assert f"'{path}': has 1 voxel that is no finite number" in problem
    assert not (tmp_path / "out").exists()


def test_weights_that_are_no_numbers(tmp_path, images, capsys):
    model = write_model(tmp_path / "model")
    checkpoint = torch.load(model / CHECKPOINT, weights_only=False)
    for weights in checkpoint["network_weights"].values():
        weights.fill_(torch.nan)
    torch.save(checkpoint, model / CHECKPOINT)
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "The model predicts no finite numbers" in problem
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_colours_where_the_model_wants_one_channel(tmp_path, images, model, capsys):
    colours = sitk.GetImageFromArray(np.stack([box()] * 3, -1), isVector=True)
    sitk.WriteImage(colours, str(images / "b_0000.nii.gz"))
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "b_0000.nii.gz' has 3 values per voxel; expected one, and a file per channel." in problem


def test_an_image_of_which_nothing_is_left_at_the_spacing_of_the_model(tmp_path, images, model, capsys):
    """The model's spacing is 2 mm along x, the file's last axis, 1 mm along the others."""
    thin = sitk.GetImageFromArray(np.ones((6, 11, 1), np.float32))
    thin.SetSpacing(SPACING_XYZ)
    sitk.WriteImage(thin, str(images / "b_0000.nii.gz"))
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "b_0000.nii.gz': of 1 x 6 x 11 voxels of 0.7 x 3 x 1.1 mm" in problem
    assert "nothing is left at the 2 x 1 x 1 mm of the model" in problem


def test_an_image_of_which_nothing_is_left_without_its_zeros(tmp_path, images, model, capsys):
    values = np.zeros((6, 11, 17), np.float32)
    values[2:5, 3:9, 4] = 1
    thin = sitk.GetImageFromArray(values)
    thin.SetSpacing(SPACING_XYZ)
    sitk.WriteImage(thin, str(images / "b_0000.nii.gz"))
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "b_0000.nii.gz': of 1 x 3 x 6 voxels" in problem


def test_grey_images_with_a_palette(tmp_path):
    """As which BMP is read by ITK, but not by nnU-Net."""
    model = write_model(tmp_path / "model", reader="NaturalImage2DIO", ending=".bmp", name="2d")
    (tmp_path / "images").mkdir()
    io.imsave(tmp_path / "images" / "a_0000.bmp", (box()[2] * 100).astype(np.uint8), check_contrast=False)
    assert predict(tmp_path / "images", tmp_path / "out", model) == 0


def test_complex_images(tmp_path, images, model, capsys):
    sitk.WriteImage(sitk.Image([17, 11, 6], sitk.sitkComplexFloat32), str(images / "b_0000.nii.gz"))
    (problem,) = refused(capsys, images, tmp_path / "out", model)
    assert "b_0000.nii.gz' has complex numbers; expected real ones." in problem


def test_files_of_other_formats_are_named(tmp_path, images, model, caplog):
    shutil.copy(images / "a_0000.nii.gz", images / "b_0000.NII.GZ")
    (images / "a_0000.raw").touch()  # may belong to the image of this name
    (images / "notes.txt").touch()
    assert predict(images, tmp_path / "out", model) == 0
    assert (
        f"1 file in '{images}' does not end in '.nii.gz', as the model's images do, and is left out, such as "
        "'b_0000.NII.GZ'." in caplog.messages
    )


def test_names_of_images(tmp_path, images, capsys):
    model = write_model(tmp_path / "model", channels=2)
    data = (images / "a_0000.nii.gz").read_bytes()
    for name in ("scan", "b_0000", "b_0001", "c_0001", "d_0000", "d_0001", "d_0002", "e_00000"):
        (images / f"{name}.nii.gz").write_bytes(data)
    (images / "notes.txt").write_text("")
    (images / "._b_0000.nii.gz").write_bytes(b"of another operating system")
    problems = refused(capsys, images, tmp_path / "out", model)
    assert len(problems) == 5
    for name, problem in zip(("e_00000.nii.gz", "scan.nii.gz"), problems[:2], strict=True):
        assert f"'{images / name}'" in problem
        assert "CASE_dddd.nii.gz" in problem
    assert "scan_0000.nii.gz" in problems[1]
    assert "'a_0001.nii.gz' is missing" in problems[2]
    assert "'c_0000.nii.gz' is missing" in problems[3]
    assert "Case 'd' has 3 channels" in problems[4]
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images(tmp_path, model, capsys):
    (tmp_path / "images").mkdir()
    for folder in (tmp_path / "images", tmp_path / "nowhere"):
        (problem,) = refused(capsys, folder, tmp_path / "out", model)
        assert f"No images CASE_0000.nii.gz in '{folder}'" in problem


def test_names_with_glob_characters(tmp_path, images, model):
    names = ["p*_0000.nii.gz", "pat[1]_0000.nii.gz", "pat1_0000.nii.gz"]
    for name in names:
        shutil.copy(images / "a_0000.nii.gz", images / name)
    assert predict(images, tmp_path / "out", model) == 0
    assert {path.name for path in (tmp_path / "out").glob("*_0000.nii.gz")} == {"a_0000.nii.gz", *names}
