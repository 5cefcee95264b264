from __future__ import annotations

import json
import os
import re
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conversion.phantom import SHAPE_ZYX, grid, voxels
from PIL import Image

from nnunet_wsl.cli.main import main
from nnunet_wsl.contours import Grid
from nnunet_wsl.conversion import ConversionSettings, Simulation, convert_masks
from nnunet_wsl.conversion.dataset import write_volume
from nnunet_wsl.conversion.masks import slices_last
from nnunet_wsl.errors import InputError

DATA = os.environ.get("NNUNET_WSL_TEST_DATA")

LABELS = np.zeros(SHAPE_ZYX, np.uint8)
LABELS[1:4, 2:5, 3:8] = 1
LABELS[2, 3, 4:6] = 2


@pytest.fixture
def raw(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def source(tmp_path):
    """Two cases of two channels, with the dataset.json of a raw dataset."""
    folder = tmp_path / "source"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for seed, case in enumerate(["ann", "bob"]):
        for channel in range(2):
            volume = voxels(10 * channel + seed).astype(np.int16)
            write_volume(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", volume, grid())
        write_volume(folder / "labelsTr" / f"{case}.nii.gz", LABELS, grid())
    describe(folder, {"background": 0, "organ": 1, "tumour": 2})
    return folder


def describe(folder, labels):
    content = {"channel_names": {"0": "CT", "1": "PET"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 2}
    (folder / "dataset.json").write_text(json.dumps(content))


def convert(source, **arguments):
    return convert_masks(source / "imagesTr", source / "labelsTr", 501, "Test", **arguments)


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_exact_contours_give_back_images_and_labels(source, raw):
    target = convert(source)
    for case in ("ann", "bob"):
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{case}.nii.gz"), LABELS)
        for channel in range(2):
            name = f"imagesTr/{case}_{channel:04d}.nii.gz"
            np.testing.assert_array_equal(read(target / name), read(source / name))
    content = json.loads((target / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "organ": 1, "tumour": 2}
    assert content["channel_names"] == {"0": "CT", "1": "PET", "2": "noNorm", "3": "noNorm"}
    assert content["wsl"]["simulation"] == {
        "every": 1, "jitter_mm": 0.0, "drop": 0.0, "opened": 0.0, "seed": 0, "plane": None
    }  # fmt: skip
    assert not (target / "splits_final.json").exists()


@pytest.mark.parametrize("axis", [1, 2])
def test_relevance_is_mirrored_with_image_and_mask(source, raw, axis):
    """Objects at both borders along an axis, too: a contour runs there."""
    labels = np.zeros(SHAPE_ZYX, np.uint8)
    labels[1:4, 3:, 1:6] = 1
    labels[2, :2, 7:] = 2
    settings = ConversionSettings(sigma_mm=(1.5,), relevance="per-object")
    for case, mask in (("ann", labels), ("bob", np.flip(labels, axis))):
        write_volume(source / "labelsTr" / f"{case}.nii.gz", mask, grid())
        for channel in range(2):
            write_volume(source / "imagesTr" / f"{case}_{channel:04d}.nii.gz", np.ones(SHAPE_ZYX, np.int16), grid())
    target = convert(source, settings=settings)
    for channel in (2, 3):
        one, other = (read(target / "imagesTr" / f"{case}_{channel:04d}.nii.gz") for case in ("ann", "bob"))
        np.testing.assert_allclose(one, np.flip(other, axis), atol=1e-6)
    relevance = read(target / "imagesTr" / "ann_0002.nii.gz")
    assert (relevance[2, 3:, [1, 5]] == 1).all()
    assert (relevance[2, [3, -1], 1:6] == 1).all()
    assert relevance[2, -1, 0] < 1 > relevance[2, 2, 3]


def test_relevance_of_an_earlier_conversion_is_no_image(source, raw, caplog):
    first = convert(source, settings=ConversionSettings(contour_sigma_mm=0.2), simulation=Simulation(every=2))
    described = json.loads((first / "dataset.json").read_text())
    assert described["wsl"]["confidence_channels"], "2 channels of the image, 2 of relevance, 2 of confidence"
    folders = (first / "imagesTr", first / "labelsTr", 502, "Again")
    caplog.set_level("INFO", "nnunet_wsl")
    for channels in (None, ("CT", "PET")):
        target = convert_masks(
            *folders,
            label_values={"tumour": 2},
            channels=channels,
            settings=ConversionSettings(annotated="contoured", missing="unknown"),
            overwrite=True,
        )
        names = json.loads((target / "dataset.json").read_text())["channel_names"]
        assert names == {"0": "CT", "1": "PET", "2": "noNorm"}
        assert "relevance channels (2, 3, 4, 5) already: they are left out" in caplog.text
    with pytest.raises(InputError, match="--channel names 3 image channels; the dataset has 2"):
        convert_masks(
            *folders,
            label_values={"tumour": 2},
            channels=("CT", "PET", "noNorm"),
            settings=ConversionSettings(annotated="contoured"),
            overwrite=True,
        )


def test_what_was_ignored_is_no_background(source, raw):
    """Slices 0 and 4 are not annotated; then a voxel of slice 2 is not, either."""
    describe(source, {"background": 0, "organ": 1, "ignore": 3})
    labels = np.where(LABELS == 2, 0, LABELS)
    labels[[0, 4]] = 3
    for case in ("ann", "bob"):
        write_volume(source / "labelsTr" / f"{case}.nii.gz", labels, grid())
    with pytest.raises(InputError, match=r"has voxels of the label 'ignore' \(value 3\), which would count as backg"):
        convert(source, label_values={"organ": 1})
    settings = ConversionSettings(annotated="contoured", between="ignore")
    target = convert(source, label_values={"organ": 1}, settings=settings)
    expected = labels.copy()
    expected[[0, 4]] = 2
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), expected)
    listed = source / "annotated.json"
    listed.write_text(json.dumps({"ann": {"organ": "0-4"}}))
    for wrong in ({"missing": "absent"}, {"annotated_file": listed}):
        with pytest.raises(InputError, match="Pass --annotated contoured, and not --missing absent"):
            convert(source, label_values={"organ": 1}, settings=replace(settings, **wrong), overwrite=True)
    labels[2, 0, 0] = 3
    write_volume(source / "labelsTr" / "bob.nii.gz", labels, grid())
    with pytest.raises(InputError) as caught:
        convert(source, label_values={"organ": 1}, settings=settings, overwrite=True)
    assert caught.value.problems == (
        f"Case 'bob': slice 2 of '{source / 'labelsTr' / 'bob.nii.gz'}' has objects and ignored voxels; contours make "
        "whole slices known. Complete it, or remove its objects.",
    )


def test_what_was_ignored_can_be_an_object(source, raw):
    describe(source, {"background": 0, "organ": 1, "ignore": 2})
    target = convert(source, label_values={"organ": 1, "rest": 2})
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), LABELS)


def test_slices_between_are_ignored(source, raw):
    """Slices 0, 2 and 4 are worked on; both objects are drawn on 2 only, so nothing else is known but 0 and 4."""
    settings = ConversionSettings(between="ignore")
    target = convert(source, simulation=Simulation(every=2), settings=settings)
    expected = LABELS.copy()
    expected[[1, 3]] = 3
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), expected)


def test_a_rule_replaces_what_the_simulation_knows(source, raw):
    target = convert(source, simulation=Simulation(every=2), settings=ConversionSettings(annotated="all"))
    expected = LABELS.copy()
    expected[[1, 3]] = 0
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), expected)


def test_an_object_that_a_case_lacks(source, raw):
    """The rule auto knows by the mask that it is absent; by another rule nothing tells."""
    labels = LABELS.copy()
    labels[labels == 2] = 1
    write_volume(source / "labelsTr" / "bob.nii.gz", labels, grid())
    for rule in ("all", "contoured"):
        with pytest.raises(InputError) as caught:
            convert(source, settings=ConversionSettings(annotated=rule))
        assert caught.value.problems == (
            "Case 'bob' has no contour of label 'tumour'. Draw it, say with --missing whether it is absent or unknown, "
            "or remove the case.",
        )
    target = convert(source, settings=ConversionSettings(annotated="all", missing="absent"))
    np.testing.assert_array_equal(read(target / "labelsTr" / "bob.nii.gz"), labels)
    target = convert(source, overwrite=True)
    np.testing.assert_array_equal(read(target / "labelsTr" / "bob.nii.gz"), labels)


def test_regions_overlap(source, raw):
    describe(source, {"background": 0, "all": [1, 2], "tumour": 2})
    with pytest.raises(InputError, match="'all' and 'tumour' overlap"):
        convert(source)
    target = convert(source, settings=ConversionSettings(overlap="regions"))
    assert json.loads((target / "dataset.json").read_text())["labels"] == {"background": 0, "all": [1, 2], "tumour": 2}
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), LABELS)


# The direction of the phantom turns its x, y, z axes by less than 30 degrees from those of the patient.
@pytest.mark.parametrize(
    ("plane", "shape_zyx"), [("axial", (5, 7, 11)), ("coronal", (7, 5, 11)), ("sagittal", (11, 5, 7))]
)
def test_other_planes_keep_every_voxel_in_its_place(source, raw, plane, shape_zyx):
    target = convert(source, plane=plane)
    for folder, names in (("imagesTr", ["ann_0000", "bob_0001"]), ("labelsTr", ["ann"])):
        for name in names:
            before = sitk.ReadImage(str(source / folder / f"{name}.nii.gz"))
            after = sitk.ReadImage(str(target / folder / f"{name}.nii.gz"))
            assert after.GetSize()[::-1] == shape_zyx
            for index in np.ndindex(*before.GetSize()):
                point_mm = before.TransformIndexToPhysicalPoint(index)
                there = after.TransformPhysicalPointToIndex(point_mm)
                np.testing.assert_allclose(after.TransformIndexToPhysicalPoint(there), point_mm, atol=1e-4)
                assert after[there] == before[index]


@pytest.mark.parametrize(("plane", "order"), [("sagittal", (0, 2, 1)), ("coronal", (0, 1, 2)), ("axial", (1, 2, 0))])
def test_the_axis_that_is_normal_to_a_plane_comes_last(plane, order):
    """The x, y and z axes of the image run along z, x and y of the patient."""
    turned = Grid((0, 0, 0), (1, 1, 1), [(0, 1, 0), (0, 0, 1), (1, 0, 0)], SHAPE_ZYX)
    assert slices_last(turned, plane) == order


def test_named_labels_and_channels_without_dataset_json(source, raw):
    (source / "dataset.json").unlink()
    target = convert(source, label_values={"tumour": 2}, channels=["CT"])
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), LABELS == 2)
    assert json.loads((target / "dataset.json").read_text())["channel_names"] == {"0": "CT", "1": "noNorm"}


def test_images_without_channel_number(source, raw):
    for path in (source / "imagesTr").iterdir():
        if path.name.endswith("_0001.nii.gz"):
            path.unlink()
        else:
            path.rename(path.with_name(path.name.replace("_0000", "")))
    target = convert(source, channels=["CT"])
    assert (target / "imagesTr" / "ann_0000.nii.gz").is_file()


def test_dataset_json_of_nnunet_v1_and_the_decathlon(source, raw):
    """It has a name for every value, and calls channels modality; here those are not in order."""
    labels = {"0": "background", "2": "tumour", "1": "organ"}
    (source / "dataset.json").write_text(json.dumps({"modality": {"1": "PET", "0": "CT"}, "labels": labels}))
    target = convert(source)
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz") == 1, LABELS == 2)
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz") == 2, LABELS == 1)
    content = json.loads((target / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "tumour": 1, "organ": 2}
    assert content["channel_names"] == {"0": "CT", "1": "PET", "2": "noNorm", "3": "noNorm"}


def test_several_values_of_one_name(source, raw):
    labels = {"0": "background", "1": "organ", "2": "organ"}
    (source / "dataset.json").write_text(json.dumps({"modality": {"0": "CT", "1": "PET"}, "labels": labels}))
    np.testing.assert_array_equal(read(convert(source) / "labelsTr" / "ann.nii.gz"), LABELS > 0)


def test_label_values_as_text(source, raw):
    describe(source, {"background": "0", "organ": "1", "tumour": ["2"]})
    np.testing.assert_array_equal(read(convert(source) / "labelsTr" / "ann.nii.gz"), LABELS)


def test_margin(source, raw):
    """Whether the organ ends at slices 1 and 3, and the tumour at slice 2, is not known one slice further on."""
    target = convert(source, settings=ConversionSettings(annotated_margin=1, between="ignore"))
    expected = np.full(SHAPE_ZYX, 3, np.uint8)
    expected[1:4, 2:5, 3:8] = 1
    expected[2] = LABELS[2]
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), expected)


def test_margin_leaves_listed_slices_known(source, raw, tmp_path):
    listed = tmp_path / "annotated.json"
    listed.write_text(json.dumps({"ann": {"*": "all"}}))
    target = convert(source, settings=ConversionSettings(annotated_margin=1, annotated_file=listed))
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), LABELS)
    assert 3 in read(target / "labelsTr" / "bob.nii.gz")


def problems_of(source, raw, **arguments):
    with pytest.raises(InputError) as caught:
        convert(source, **arguments)
    assert list(raw.iterdir()) == []
    return caught.value.problems


def test_missing_images_are_named_together(source, raw):
    (source / "imagesTr" / "ann_0001.nii.gz").unlink()
    (source / "imagesTr" / "bob_0000.nii.gz").unlink()
    ann, bob = problems_of(source, raw)
    assert "Case 'ann': there is no image 'ann_0001.nii.gz'" in ann
    assert "Case 'bob': there is no image 'bob_0000.nii.gz'" in bob


def test_a_link_to_nowhere_is_named_as_it_is(source, raw):
    describe_one_channel(source)
    (source / "imagesTr" / "bob_0000.nii.gz").unlink()
    (source / "imagesTr" / "bob_0000.nii.gz").symlink_to(source / "unmounted" / "bob_0000.nii.gz")
    (problem,) = problems_of(source, raw)
    assert "Case 'bob': there is no image 'bob_0000.nii.gz'" in problem


def describe_one_channel(folder):
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1, "tumour": 2}}
    (folder / "dataset.json").write_text(json.dumps(content))


def test_images_and_label_maps_in_one_folder(source, raw, caplog):
    describe_one_channel(source)
    folder = source / "imagesTr"
    for path in (source / "labelsTr").iterdir():
        path.rename(folder / path.name)
    for path in folder.glob("*_0001.nii.gz"):
        path.unlink()
    (folder / "ann.nii.gz").rename(folder / "bob_0001.nii.gz")  # a case of its own, for it has an image
    (folder / "ann_0000.nii.gz").rename(folder / "bob_0001_0000.nii.gz")
    target = convert_masks(folder, folder / ".." / "imagesTr", 501, "Test")
    assert "have no label map" not in caplog.text
    assert sorted(path.name for path in (target / "labelsTr").iterdir()) == ["bob.nii.gz", "bob_0001.nii.gz"]
    np.testing.assert_array_equal(read(target / "labelsTr" / "bob_0001.nii.gz"), LABELS)
    (folder / "bob_0001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"Case 'bob_0001_0000': .*; or, if it is an image itself, add its label map"):
        convert_masks(folder, folder, 502, "Other")


def test_a_plain_name_of_an_image_that_is_a_folder(source, raw):
    describe_one_channel(source)
    (source / "imagesTr" / "bob_0000.nii.gz").unlink()
    (source / "imagesTr" / "bob.nii.gz").mkdir()
    (problem,) = problems_of(source, raw)
    assert "Case 'bob': there is no image 'bob_0000.nii.gz'" in problem


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_folder_of_datasets_that_is_no_text(source, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / os.fsdecode(b"M\xfcller")))
    with pytest.raises(InputError, match=r"whose path is no UTF-8\. Set another folder"):
        convert(source)
    (tmp_path / os.fsdecode(b"M\xfcller")).mkdir()
    monkeypatch.chdir(tmp_path / os.fsdecode(b"M\xfcller"))
    monkeypatch.setenv("nnUNet_raw", "raw")
    with pytest.raises(InputError, match=r"whose path is no UTF-8\. Set another folder"):
        convert(source)


def test_a_label_map_is_not_its_own_image(source, raw):
    describe_one_channel(source)
    with pytest.raises(InputError, match=r"Case 'ann': there is no image 'ann_0000\.nii\.gz'"):
        convert_masks(source / "labelsTr", source / "labelsTr", 501, "Test")


def test_a_description_that_links_to_nowhere_does_not_give_way_to_another(source, raw):
    (source / "labelsTr" / "dataset.json").symlink_to(source / "unmounted" / "dataset.json")
    (problem,) = problems_of(source, raw)
    assert "labelsTr/dataset.json' cannot be read as JSON" in problem


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_names_that_are_no_text(source, raw, folder):
    (source / folder / "bob.nii.gz").touch()
    (source / folder / "bob.nii.gz").rename(source / folder / os.fsdecode(b"b\xf6b.nii.gz"))
    (problem,) = problems_of(source, raw)
    assert r"The name of 'b\udcf6b.nii.gz' in" in problem


def test_label_maps_that_link_to_nowhere_are_not_left_out(source, raw):
    (source / "labelsTr" / "bob.nii.gz").unlink()
    (source / "labelsTr" / "bob.nii.gz").symlink_to(source / "unmounted" / "bob.nii.gz")
    (problem,) = problems_of(source, raw)
    assert re.search(r"bob\.nii\.gz' cannot be read as an image", problem)


def test_volumes_that_do_not_fit(source, raw):
    write_volume(source / "imagesTr" / "ann_0001.nii.gz", voxels()[:4].astype(np.int16), grid((4, 7, 11)))
    moved = grid(origin_mm=(12.6, -40.25, 7.75))
    write_volume(source / "labelsTr" / "bob.nii.gz", LABELS, moved)
    shape, place = problems_of(source, raw)
    assert "Case 'ann'" in shape
    assert "has the shape (z, y, x) (4, 7, 11)" in shape
    assert "Case 'bob'" in place
    assert "lie 0.100 mm apart" in place


def test_volumes_that_part_from_a_common_corner_on(source, raw):
    """Along x, 10 voxels of 1.2 instead of 1.1 mm."""
    write_volume(source / "labelsTr" / "bob.nii.gz", LABELS, grid(spacing_mm_zyx=(3.0, 0.7, 1.2)))
    (problem,) = problems_of(source, raw)
    assert "lie 1.000 mm apart" in problem


def test_channels_are_in_the_order_of_their_numbers(source, raw):
    content = json.loads((source / "dataset.json").read_text()) | {"channel_names": {"1": "PET", "0": "CT"}}
    (source / "dataset.json").write_text(json.dumps(content))
    names = json.loads((convert(source) / "dataset.json").read_text())["channel_names"]
    assert names == {"0": "CT", "1": "PET", "2": "noNorm", "3": "noNorm"}


def test_axes_that_are_not_at_right_angles(source, raw):
    """NRRD can hold such a grid; both cases are reported."""
    for folder in ("imagesTr", "labelsTr"):
        for path in (source / folder).iterdir():
            image = sitk.ReadImage(str(path))
            if folder == "labelsTr":
                image.SetDirection([1, 0.3, 0, 0, 0.954, 0, 0, 0, 1])
            sitk.WriteImage(image, str(path.with_name(path.name.replace(".nii.gz", ".nrrd"))))
    content = json.loads((source / "dataset.json").read_text()) | {"file_ending": ".nrrd"}
    (source / "dataset.json").write_text(json.dumps(content))
    ann, bob = problems_of(source, raw)
    assert f"'{source}/labelsTr/ann.nrrd' is no grid of voxels: expected axes at right angles" in ann
    assert f"'{source}/labelsTr/bob.nrrd' is no grid of voxels: expected axes at right angles" in bob


def test_label_values_that_are_no_labels(source, raw):
    describe(source, {"background": 0, "organ": 1})
    write_volume(source / "labelsTr" / "bob.nii.gz", LABELS * np.float32(0.5), grid())
    unknown, fractions = problems_of(source, raw)
    assert "Case 'ann'" in unknown
    assert "has the values 2, which are no labels" in unknown
    assert "Case 'bob'" in fractions
    assert "holds fractions" in fractions


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("{", {}, "cannot be read as JSON"),
        ("[]", {}, "expected a JSON object"),
        ("{}", {}, "The labels are not known"),
        ('{"labels": {"background": 0, "a": 1, "ignore": 2}}', {}, "have the label 'ignore'"),
        ('{"labels": {"background": 0, "Background": 1}}', {}, "has the label 'Background' with the value 1; expected"),
        ('{"labels": {"background": 0, "IGNORE": 2}}', {}, "has the label 'IGNORE' with the value 2; expected"),
        ('{"labels": {"background": 0, "zero": 0}}', {}, "has the label 'zero' with the value 0; expected .* from 1"),
        ('{"labels": {"background": 0, "all": [0, 1]}}', {}, r"has the label 'all' with the value \[0, 1\]; expected"),
        ('{"labels": {"background": 0, "none": []}}', {}, r"has the label 'none' with the value \[\]; expected"),
        ('{"labels": {"background": 0, "a": 1.7}}', {}, "has the label 'a' with the value 1.7; .* whole values from 1"),
        ('{"labels": {"background": 0, "a": [1, true]}}', {}, r"has the label 'a' with the value \[1, true\]"),
        ('{"labels": {"background": 0, "a": null, "b": "x"}}', {}, "label 'a' with the value null.*\n.*'b' .* \"x\";"),
        ('{"labels": {"0": "void", "1": "a"}}', {}, "has the label 'void' with the value"),
        ('{"labels": ["a", "b"]}', {}, "The labels in dataset.json are no JSON object"),
        (
            '{"labels": {"a": 1}, "channel_names": ["CT"]}',
            {},
            r'channels in dataset.json are \["CT"\]; expected a name',
        ),
        ('{"labels": {"a": 1}, "channel_names": {"1": "CT"}}', {}, "expected a name for every number from 0"),
        ('{"labels": {"a": 1}, "channel_names": {"0": 7}}', {}, "expected a name for every number from 0"),
        ('{"labels": {"a": 1}, "modality": "CT"}', {}, 'channels in dataset.json are "CT"; expected a name for every'),
        ("[" * 100000, {}, "cannot be read as JSON"),
        ('{"labels": {"a": ' + "9" * 5000 + "}}", {}, "cannot be read as JSON"),
        ('{"labels": {"background": 0, "a": 1}}', {}, "The names of the image channels are not known"),
        ("{}", {"label_values": {"ignore": 1}}, "--label 'ignore=1' cannot be used"),
        ("{}", {"label_values": {"a": 0}}, "--label 'a=0' cannot be used"),
        (
            '{"file_ending": "**.nii"}',
            {"label_values": {"a": 1}, "channels": ["CT"]},
            r'the file_ending "\*\*\.nii"; exp',
        ),
        ('{"file_ending": 7}', {"label_values": {"a": 1}, "channels": ["CT"]}, "the file_ending 7; expected one such"),
        ('{"file_ending": ".mha"}', {"label_values": {"a": 1}, "channels": ["CT"]}, "No label map '\\*.mha'"),
    ],
)
def test_descriptions_that_do_not_do(source, raw, content, arguments, message):
    (source / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=message):
        convert(source, **arguments)


@pytest.mark.parametrize("mode", ["intensity", "both"])
def test_intensities_that_are_not_finite(source, raw, mode):
    """NIfTI files are read with 0 in their place; what counts is the image as it came, here NRRD."""
    for folder in ("imagesTr", "labelsTr"):
        for path in (source / folder).iterdir():
            image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32 if folder == "imagesTr" else sitk.sitkUInt8)
            if path.name.startswith("bob_0001"):
                image[1, 2, 3] = np.nan
                image[4, 4, 2] = -np.inf
            if path.name.startswith("ann_0000"):
                image[0, 0, 0] = np.inf
            sitk.WriteImage(image, str(path).replace(".nii.gz", ".nrrd"))
            path.unlink()
    described = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps(described | {"file_ending": ".nrrd"}))
    problems = problems_of(source, raw, settings=ConversionSettings(relevance_mode=mode))
    assert [problem.split(", but")[0].replace(str(source), "") for problem in problems] == [
        "Case 'ann': '/imagesTr/ann_0000.nrrd' has 1 voxels that are not finite numbers",
        "Case 'bob': '/imagesTr/bob_0001.nrrd' has 2 voxels that are not finite numbers",
    ]
    convert(source, settings=ConversionSettings(relevance_mode=mode, relevance="none"))
    convert_masks(source / "imagesTr", source / "labelsTr", 502, "Distance")


def test_files_that_cannot_be_read(source, raw):
    (source / "labelsTr" / "ann.nii.gz").write_bytes(b"no image")
    cut = source / "imagesTr" / "bob_0001.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-500])  # SimpleITK would read zeros
    damaged, missing = problems_of(source, raw)
    assert "ann.nii.gz' cannot be read as an image (it is damaged, or no gzip file)" in damaged
    assert "bob_0001.nii.gz' cannot be read as an image (it is cut off)" in missing


def test_command(source, raw, capsys):
    arguments = [
        "convert", "masks", "--images", str(source / "imagesTr"), "--labels", str(source / "labelsTr"),
        "--dataset", "501", "--name", "Test", "--jobs", "1",
    ]  # fmt: skip
    options = ["--every", "2", "--open", "1", "--jitter-mm", "0.2", "--seed", "3", "--plane", "axial"]
    assert main([*arguments, *options, "--label", "tumour=2", "--channel", "CT"]) == 0
    block = json.loads((raw / "Dataset501_Test" / "dataset.json").read_text())["wsl"]
    assert block["simulation"] == {
        "every": 2, "jitter_mm": 0.2, "drop": 0.0, "opened": 1.0, "seed": 3, "plane": "axial"
    }  # fmt: skip
    assert main([*arguments, "--label", "a", "--label", "b=1", "--label", "b=2"]) == 2
    errors = capsys.readouterr().err
    assert "--label 'a' is not NAME=VALUE" in errors
    assert "--label names 'b' twice" in errors
    assert main([*arguments, "--label", "a=" + "1" * 5000]) == 2  # more digits than Python turns into a number
    assert "is not NAME=VALUE" in capsys.readouterr().err
    assert main([*arguments, "--every", "0"]) == 2


@pytest.mark.skipif(DATA is None, reason="NNUNET_WSL_TEST_DATA is not set")
def test_hippocampus(raw, tmp_path):
    """Real masks come back exactly; with every 4th slice, what is not ignored is right."""
    source = tmp_path / "source"
    for ours, theirs in (("imagesTr", "images"), ("labelsTr", "labels")):
        (source / ours).mkdir(parents=True)
        for path in sorted((Path(DATA) / "hippocampus" / theirs).glob("*.nii.gz"))[:4]:
            (source / ours / path.name).symlink_to(path)
    arguments = {"label_values": {"anterior": 1, "posterior": 2}, "channels": ["MR"]}
    settings = ConversionSettings(relevance="none", between="ignore")
    dense = convert(source, settings=settings, **arguments)
    sparse = convert_masks(
        source / "imagesTr", source / "labelsTr", 502, "Sparse", simulation=Simulation(every=4), settings=settings,
        **arguments,
    )  # fmt: skip
    for path in (source / "labelsTr").iterdir():
        truth = read(path)
        np.testing.assert_array_equal(read(dense / "labelsTr" / path.name), truth)
        labels = read(sparse / "labelsTr" / path.name)
        determined = labels != 3
        np.testing.assert_array_equal(labels[determined], truth[determined])
        inside = np.flatnonzero((truth > 0).any(axis=(1, 2)))
        assert 0.2 < determined[inside].all(axis=(1, 2)).mean() < 0.35


def test_memory_does_not_grow_with_the_number_of_objects_by_whole_masks(tmp_path, raw):
    """Objects that are small in a large image, with interpolated slices: by masks, what is inside and what is known."""
    labels = np.zeros((27, 300, 250), np.uint8)
    num_objects = 30
    for k in range(num_objects):
        y, x = 10 + 48 * (k // 5), 10 + 48 * (k % 5)
        labels[1:26, y : y + 20, x : x + 24] = k + 1
    here = grid(labels.shape)
    for name, volume in (("imagesTr", labels.astype(np.int16)), ("labelsTr", labels)):
        (tmp_path / name).mkdir()
        write_volume(tmp_path / name / "ann.nii.gz", volume, here)
    names = {f"organ {k}": k for k in range(1, num_objects + 1)}
    options = {
        "label_values": names,
        "channels": ("CT",),
        "simulation": Simulation(every=3),
        "settings": ConversionSettings(between="gated", relevance="none"),
        "overwrite": True,
    }
    convert(tmp_path, **options)  # compiles
    tracemalloc.start()
    try:
        convert(tmp_path, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < num_objects * labels.nbytes


@pytest.mark.parametrize("name", ["imagesTr/ann_0001", "labelsTr/bob"])
def test_complex_numbers_are_refused(source, raw, name):
    path = source / f"{name}.nii.gz"
    image = sitk.ReadImage(str(path))
    complex_image = sitk.Cast(image, sitk.sitkComplexFloat32)
    complex_image.CopyInformation(image)
    sitk.WriteImage(complex_image, str(path))
    with pytest.raises(InputError, match=f"{path.name}' has complex numbers"):
        convert(source)
    assert not list(raw.iterdir())


def test_hidden_files_are_no_images(source, raw, caplog):
    """A Mac leaves such files in archives, those of the Medical Segmentation Decathlon among them."""
    for name in ("labelsTr/._ann.nii.gz", "imagesTr/._ann_0000.nii.gz"):
        (source / name).write_bytes(b"\x00\x05\x16\x07")
    target = convert(source)
    assert sorted(path.name for path in (target / "labelsTr").iterdir()) == ["ann.nii.gz", "bob.nii.gz"]
    assert "have no label map" not in caplog.text


PLANE_SHAPE_YX = (9, 13)


def write_pictures(folder, ending=".png", colours=True):
    """Write two 2D images with label maps as nnU-Net has them; return their pixels and labels."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(3)
    written = {}
    for shift, case in enumerate(["ann", "bob"]):
        pixels = rng.integers(1, 256, (*PLANE_SHAPE_YX, 3), dtype=np.uint8)
        labels = np.zeros(PLANE_SHAPE_YX, np.uint8)
        labels[2:6, 3 + shift : 9] = 1
        labels[3, 5] = 0
        labels[7, 0:2] = 2
        if colours:
            Image.fromarray(pixels).save(folder / "imagesTr" / f"{case}_0000{ending}")
        else:
            for channel in range(3):
                Image.fromarray(pixels[..., channel]).save(folder / "imagesTr" / f"{case}_{channel:04d}{ending}")
        Image.fromarray(labels).save(folder / "labelsTr" / f"{case}{ending}")
        written[case] = np.moveaxis(pixels, -1, 0)[:, None], labels[None]
    names = {"0": "R", "1": "G", "2": "B"}
    content = {"channel_names": names, "labels": {"background": 0, "cell": 1, "edge": 2}, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(content))
    return written


@pytest.mark.parametrize(("ending", "colours"), [(".png", True), (".png", False), (".bmp", True), (".tif", True)])
def test_2d_images_are_volumes_of_one_slice(tmp_path, raw, ending, colours):
    written = write_pictures(tmp_path / "flat", ending, colours)
    flat = convert(tmp_path / "flat", spacing_mm=(0.5, 0.8))
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / "deep" / name).mkdir(parents=True)
    plane = Grid((0, 0, 0), (0.5, 0.8, 0.8), np.eye(3), (1, *PLANE_SHAPE_YX))
    for case, (pixels, labels) in written.items():
        for channel in range(3):
            write_volume(tmp_path / "deep" / "imagesTr" / f"{case}_{channel:04d}.nii.gz", pixels[channel], plane)
        write_volume(tmp_path / "deep" / "labelsTr" / f"{case}.nii.gz", labels, plane)
    described = json.loads((tmp_path / "flat" / "dataset.json").read_text())
    (tmp_path / "deep" / "dataset.json").write_text(json.dumps(described | {"file_ending": ".nii.gz"}))
    deep = convert_masks(tmp_path / "deep" / "imagesTr", tmp_path / "deep" / "labelsTr", 502, "Test")

    for case, (pixels, labels) in written.items():
        np.testing.assert_array_equal(read(flat / "labelsTr" / f"{case}.nii.gz"), labels)
        for channel in range(5):
            one, other = (
                sitk.ReadImage(str(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz")) for folder in (flat, deep)
            )
            assert one.GetSpacing() == pytest.approx((0.5, 0.8, 0.8))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
            if channel < 3:
                np.testing.assert_array_equal(sitk.GetArrayFromImage(one), pixels[channel])
    names = json.loads((flat / "dataset.json").read_text())["channel_names"]
    assert list(names.values()) == ["R", "G", "B", "noNorm", "noNorm"]


def test_2d_images_that_do_not_fit(tmp_path, raw):
    source = tmp_path / "source"
    write_pictures(source)
    grey = source / "imagesTr" / "ann_0000.png"
    coloured = source / "labelsTr" / "bob.png"
    Image.open(grey).convert("L").save(grey)
    Image.open(coloured).convert("RGB").save(coloured)
    with pytest.raises(InputError) as caught:
        convert(source)
    assert caught.value.problems == (
        f"Case 'ann': 1 channel in '{grey}'; expected 3, as many as have names. Give all images the same channels, "
        "red, green and blue or grey, or correct the names in dataset.json or those of --channel.",
        f"Case 'bob': '{coloured}' has colours; expected label values, in grey. Save it so.",
    )
    assert not list(raw.iterdir())
    second = source / "imagesTr" / "bob_0001.png"
    Image.open(source / "imagesTr" / "bob_0000.png").convert("L").save(second)
    exif = Image.Exif()
    exif[0x0112] = 3  # half a turn
    Image.open(grey).convert("RGB").save(grey, exif=exif)
    Image.open(coloured).convert("L").save(coloured)
    turned, too_many = problems_of_conversion(source)
    assert turned == f"Image '{grey}' is stored turned by its orientation. Save it, and its label map, upright."
    assert too_many.startswith("Case 'bob': 4 channels in ")
    second.unlink()
    second.with_name("bob_0000.png").unlink()
    assert problems_of_conversion(source)[0].startswith("Case 'bob': there is no image 'bob_0000.png'")


def problems_of_conversion(source):
    with pytest.raises(InputError) as caught:
        convert(source)
    return caught.value.problems


def test_a_2d_image_has_one_plane_and_a_volume_its_spacing(tmp_path, source, raw, capsys):
    write_pictures(tmp_path / "flat")
    folders = [f"--{kind}={tmp_path / 'flat' / kind}Tr" for kind in ("images", "labels")]
    command = ["convert", "masks", *folders, "--dataset", "501", "--name", "Test"]
    assert main([*command, "--plane", "coronal"]) == 2
    assert "--plane coronal: the images are 2D ('*.png') and have one plane. Leave it out." in capsys.readouterr().err
    assert main([*command, "--spacing-mm", "0"]) == 2
    assert "expected one positive number" in capsys.readouterr().err
    with pytest.raises(InputError, match="tell their spacing"):
        convert(source, spacing_mm=(1.0,))
    assert main([*command, "--spacing-mm", "0.5"]) == 0
    (target,) = raw.iterdir()
    label_map = sitk.ReadImage(str(target / "labelsTr" / "ann.nii.gz"))
    assert label_map.GetSpacing() == pytest.approx((0.5, 0.5, 0.5))
