"""The whole conversion on small DICOM data: what it writes, and what it refuses."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk
from conversion.phantom import (
    COLUMNS,
    DIRECTION,
    ORIGIN_MM,
    PATIENT,
    RECTANGLE_YX,
    ROWS,
    SHAPE_ZYX,
    SPACING_MM_ZYX,
    edit,
    forget_frame,
    voxels,
    write_contours,
    write_patient,
    write_series,
)
from pydicom.uid import generate_uid
from scipy.ndimage import distance_transform_edt

from nnunet_wsl import __version__
from nnunet_wsl.cli.main import main
from nnunet_wsl.contours import contour_voxels
from nnunet_wsl.contract import RelevanceChannels
from nnunet_wsl.conversion import ConversionSettings, cases, convert_rtstruct, supervision
from nnunet_wsl.conversion.supervision import RelevanceSource
from nnunet_wsl.errors import InputError
from nnunet_wsl.relevance import case_fingerprint

VOXEL_MM3 = float(np.prod(SPACING_MM_ZYX))

# What RECTANGLE_YX passes through: y 1.5..4.5 and x 2.5..7.5 run between voxels; those on both sides count.
CONTOUR_VOXELS = np.zeros(SHAPE_ZYX[1:], bool)
CONTOUR_VOXELS[2:5, [2, 3, 7, 8]] = True
CONTOUR_VOXELS[[[1], [2], [4], [5]], 3:8] = True


@pytest.fixture
def raw(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


TWICE = {1: [RECTANGLE_YX], 2: [RECTANGLE_YX]}
"""A dense annotation; a single drawn slice would not tell."""


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def problems_of(source, raw, **arguments):
    """Convert, which must fail and leave nothing; return the problems."""
    with pytest.raises(InputError) as caught:
        convert_rtstruct(source, 501, "Test", **arguments)
    assert list(raw.iterdir()) == []
    return caught.value.problems


def only_problem_of(source, raw, **arguments):
    (problem,) = problems_of(source, raw, **arguments)
    return problem


# --- what is written ---


def test_files_masks_and_geometry(source, raw):
    for seed, name in enumerate(["ann", "bob"]):
        write_patient(source / name, seed=seed)
    target = convert_rtstruct(source, 501, "Test")
    assert target == raw / "Dataset501_Test"
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()) == [
        "dataset.json",
        "imagesTr/ann_0000.nii.gz",
        "imagesTr/ann_0001.nii.gz",
        "imagesTr/bob_0000.nii.gz",
        "imagesTr/bob_0001.nii.gz",
        "labelsTr/ann.nii.gz",
        "labelsTr/bob.nii.gz",
        "splits_final.json",
        "wsl_overview.png",
        "wsl_report.csv",
    ]
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[1:4, ROWS, COLUMNS] = 1
    for seed, name in enumerate(["ann", "bob"]):
        np.testing.assert_array_equal(read(target / "imagesTr" / f"{name}_0000.nii.gz"), voxels(seed))
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{name}.nii.gz"), expected)
        images = [sitk.ReadImage(str(p)) for p in sorted(target.rglob(f"{name}*.nii.gz"))]
        assert [image.GetPixelID() for image in images] == [sitk.sitkInt16, sitk.sitkFloat32, sitk.sitkUInt8]
        for image in images:
            np.testing.assert_allclose(image.GetOrigin(), ORIGIN_MM, atol=1e-4)
            np.testing.assert_allclose(image.GetSpacing()[::-1], SPACING_MM_ZYX, rtol=1e-6)
            np.testing.assert_allclose(image.GetDirection(), DIRECTION.ravel(), atol=1e-6)


def test_relevance_is_that_of_the_contours_and_zero_where_the_image_is(source, raw):
    write_patient(source / "ann")
    write_patient(source / "bob", seed=1)
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(sigma_mm=(1.5,)))
    contour = np.zeros(SHAPE_ZYX, bool)
    contour[1:4] = CONTOUR_VOXELS
    distance_mm = distance_transform_edt(~contour, sampling=SPACING_MM_ZYX)
    settings = json.loads((target / "dataset.json").read_text())["wsl"]["relevance_settings"]
    expected = np.exp(-(distance_mm**2) / (2 * 1.5**2))
    expected[distance_mm > settings["cutoff_mm"][0]] = 0
    expected[voxels(0) == 0] = 0
    relevance = read(target / "imagesTr" / "ann_0001.nii.gz")
    np.testing.assert_allclose(relevance, expected, atol=1e-5)
    assert (relevance[voxels(0) == 0] == 0).all()
    assert (relevance[contour & (voxels(0) != 0)] == 1).all()
    assert settings["mode"] == "distance"
    assert settings["sigma_mm"] == [1.5]


INNER_YX = np.array([(2.5, 3.5), (2.5, 5.5), (3.5, 5.5), (3.5, 3.5)])  # encloses y 3, x 4..5
BESIDE_YX = np.array([(1.5, 7.5), (1.5, 8.5), (4.5, 8.5), (4.5, 7.5)])  # encloses y 2..4, x 8
TWO_ROIS = {"Inner": {2: [INNER_YX]}, "Outer": {1: [RECTANGLE_YX], 2: [RECTANGLE_YX]}}


def test_dataset_json(source, raw):
    write_patient(source / "ann", rois={"B": TWICE, "A": {1: [BESIDE_YX]}}, modality="CT")
    target = convert_rtstruct(source, 501, "Test", rois={"right": "a", "left": "b"})
    content = json.loads((target / "dataset.json").read_text())
    block = content.pop("wsl")
    assert content == {
        "channel_names": {"0": "CT", "1": "noNorm", "2": "noNorm"},
        "labels": {"background": 0, "right": 1, "left": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "name": "Dataset501_Test",
        "converted_by": f"nnunet_wsl {__version__}",
    }
    settings = block.pop("relevance_settings")
    assert block == {
        "format_version": 2,
        "package_version": __version__,
        "relevance_channels": {"1": "right", "2": "left"},
        "confidence_channels": {},
        "objects": ["right", "left"],
        "fusion": None,
        "annotated": "auto",
        "annotated_file": None,
        "annotated_margin": None,
        "between": "gated",
        "contour_sigma_mm": 0.0,
        "missing": "error",
        "overlap": "error",
        "outside": "error",
        "rois": {"right": "a", "left": "b"},
        "modality": None,
    }
    assert set(settings) == {"mode", "kernel", "search", "sigma_mm", "intensity_scale", "cutoff_mm"}
    assert len(settings["sigma_mm"]) == 2
    assert RelevanceChannels.from_dataset_json(content | {"wsl": block}, "Test").objects == ("right", "left")


@pytest.mark.parametrize("mode", ["distance", "intensity", "both"])
def test_fused_relevance_is_the_largest(source, raw, mode):
    write_patient(source / "ann", rois={"A": TWICE, "B": {3: [BESIDE_YX]}})
    convert_rtstruct(source, 501, "Each", settings=ConversionSettings(relevance_mode=mode))
    convert_rtstruct(source, 502, "Fused", settings=ConversionSettings(relevance_mode=mode, relevance="fused"))
    images = raw / "Dataset501_Each" / "imagesTr"
    name = "ann_rs"
    each = [read(images / f"{name}_{channel:04d}.nii.gz") for channel in (1, 2)]
    fused = read(raw / "Dataset502_Fused" / "imagesTr" / f"{name}_0001.nii.gz")
    np.testing.assert_array_equal(fused, np.maximum(*each))
    assert not (raw / "Dataset502_Fused" / "imagesTr" / f"{name}_0002.nii.gz").exists()
    block = json.loads((raw / "Dataset502_Fused" / "dataset.json").read_text())["wsl"]
    assert (block["relevance_channels"], block["fusion"]) == ({"1": "fused"}, "max")
    assert block["relevance_settings"]["mode"] == mode


@pytest.mark.parametrize("search", ["volume", "slice"])
def test_where_the_nearest_contour_voxel_is_searched(source, raw, search):
    """Searched in the voxel's own slice, a slice without contours has no relevance."""
    write_patient(source / "ann", rois={"GTV": {2: [RECTANGLE_YX]}})
    settings = ConversionSettings(relevance_search=search, sigma_mm=(9.0,), annotated="all")
    target = convert_rtstruct(source, 501, "Test", settings=settings)
    relevant = read(target / "imagesTr" / "ann_rs_0001.nii.gz").any(axis=(1, 2))
    drawn = np.arange(len(relevant)) == 2
    np.testing.assert_array_equal(relevant, drawn if search == "slice" else np.ones_like(drawn))
    assert json.loads((target / "dataset.json").read_text())["wsl"]["relevance_settings"]["search"] == search


def test_no_relevance_gives_a_stock_dataset(source, raw):
    write_patient(source / "ann")
    convert_rtstruct(source, 501, "With")
    target = convert_rtstruct(source, 502, "Without", settings=ConversionSettings(relevance="none"))
    assert [p.name for p in (target / "imagesTr").iterdir()] == ["ann_rs_0000.nii.gz"]
    assert json.loads((target / "dataset.json").read_text())["channel_names"] == {"0": "MR"}
    for path in ("imagesTr/ann_rs_0000.nii.gz", "labelsTr/ann_rs.nii.gz"):
        assert (target / path).read_bytes() == (raw / "Dataset501_With" / path).read_bytes()


def test_without_relevance_nothing_of_it_is_measured_or_saved(source, raw, monkeypatch):
    def forbidden(*arguments):
        raise AssertionError

    monkeypatch.setattr(cases, "case_fingerprint", forbidden)
    monkeypatch.setattr(RelevanceSource, "save", forbidden)
    write_patient(source / "ann", rois={"GTV": {0: [RECTANGLE_YX], 2: [RECTANGLE_YX]}})
    convert_rtstruct(source, 501, "Test", settings=ConversionSettings(relevance="none"))


@pytest.mark.parametrize(
    ("settings", "planned"),
    [
        (ConversionSettings(), False),
        (ConversionSettings(relevance_mode="both"), True),
        (ConversionSettings(relevance_mode="both", intensity_scale=(5.0,)), False),
    ],
)
def test_intensities_are_measured_where_their_scale_is_planned(source, raw, monkeypatch, settings, planned):
    measured = []

    def fingerprint(image, *arguments):
        measured.append(image is not None)
        return case_fingerprint(image, *arguments)

    monkeypatch.setattr(cases, "case_fingerprint", fingerprint)
    write_patient(source / "ann")
    target = convert_rtstruct(source, 501, "Test", settings=settings)
    assert measured == [planned]
    (scale,) = json.loads((target / "dataset.json").read_text())["wsl"]["relevance_settings"]["intensity_scale"] or [0]
    assert (scale > 0) == (settings.relevance_mode == "both")
    assert scale == 5 or not settings.intensity_scale


def test_contour_voxels_are_found_once(source, raw, monkeypatch):
    names = []

    def counted(placed, name):
        names.append(name)
        return contour_voxels(placed, name)

    monkeypatch.setattr(cases, "contour_voxels", counted)
    monkeypatch.setattr(supervision, "contour_voxels", counted, raising=False)
    write_patient(source / "ann", rois={"A": TWICE, "B": {3: [BESIDE_YX]}})
    convert_rtstruct(source, 501, "Test")
    assert names == ["A", "B"]


def test_sparse_contours_leave_slices_ignored(source, raw, caplog):
    """ROI A on slices 0, 2 and 4 (step 2), B dense on slices 0 and 1; image slices 1 and 3 are unknown for A."""
    rois = {"A": {key: [RECTANGLE_YX] for key in (0, 2, 4)}, "B": {key: [BESIDE_YX] for key in (0, 1)}}
    caplog.set_level(logging.INFO, "nnunet_wsl")
    write_patient(source / "ann", rois=rois)
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(between="ignore"))
    assert "--between" not in caplog.text
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[[1, 3]] = 3
    expected[[0, 2, 4], ROWS, COLUMNS] = 1
    expected[:2, 2:5, 8] = 2
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann_rs.nii.gz"), expected)
    labels = json.loads((target / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "A": 1, "B": 2, "ignore": 3}

    caplog.clear()
    convert_rtstruct(source, 502, "All", settings=ConversionSettings(annotated="all"))
    assert "--between" not in caplog.text
    convert_rtstruct(source, 503, "Gated")
    assert "On 2 slices between drawn ones an object is supervised where an interpolation" in caplog.text
    assert 3 not in read(raw / "Dataset502_All" / "labelsTr" / "ann_rs.nii.gz")
    assert "ignore" not in json.loads((raw / "Dataset502_All" / "dataset.json").read_text())["labels"]


def test_listed_slices(source, raw, tmp_path):
    """A is listed on slices 0 and 2, where it is drawn; on 4 its contour need not be all there is. B is never drawn."""
    write_patient(source / "ann", rois={"A": {key: [RECTANGLE_YX] for key in (0, 2, 4)}, "B": {0: [BESIDE_YX]}})
    write_patient(source / "bob", rois={"A": TWICE, "B": {1: [BESIDE_YX]}})
    listed = tmp_path / "annotated.json"
    listed.write_text(json.dumps({"ann": {"A": "0,2", "*": "all"}}))
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(annotated_file=listed, between="ignore"))
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[[1, 3, 4]] = 3
    expected[[0, 2, 4], ROWS, COLUMNS] = 1
    expected[0, 2:5, 8] = 2
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), expected)
    assert 3 not in read(target / "labelsTr" / "bob.nii.gz")
    assert json.loads((target / "wsl_annotated.json").read_text()) == {"ann": {"A": [0, 2], "B": "all"}}
    block = json.loads((target / "dataset.json").read_text())["wsl"]
    assert (block["annotated"], block["annotated_file"]) == ("auto", "wsl_annotated.json")
    with (target / "wsl_report.csv").open() as file:
        assert [(row["known_slices"], row["slices"]) for row in csv.DictReader(file)] == [
            ("2", "5"), ("5", "5"), ("5", "5"), ("5", "5")
        ]  # fmt: skip

    listed.write_text(json.dumps({"ann": {"A": "0-5"}, "bob": {"B": [7]}}))
    with pytest.raises(InputError) as caught:
        convert_rtstruct(source, 502, "Bad", settings=ConversionSettings(annotated_file=listed))
    assert [problem.split(" is listed")[0] for problem in caught.value.problems] == [
        "Case 'ann', object 'A': slice 5",
        "Case 'bob', object 'B': slice 7",
    ]
    assert [path.name for path in raw.iterdir()] == ["Dataset501_Test"]


def test_an_object_on_one_slice_of_a_sparse_annotation(source, raw, caplog):
    """A is drawn on every second slice, B on one of them: slices 1 and 3 are unknown of both."""
    write_patient(source / "ann", rois={"A": {key: [RECTANGLE_YX] for key in (0, 2, 4)}, "B": {2: [BESIDE_YX]}})
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(between="ignore"))
    # The same slices are known of both objects, so no confidence channel is needed.
    assert json.loads((target / "dataset.json").read_text())["wsl"]["confidence_channels"] == {}
    with (target / "wsl_report.csv").open() as file:
        assert [(row["known_slices"], row["step"]) for row in csv.DictReader(file)] == [("3", "2"), ("3", "2")]
    assert "on one slice only" not in caplog.text


def test_a_case_that_does_not_tell_its_step(source, raw, tmp_path, caplog):
    """Ann and bob are drawn on one slice each, cid on two, and of an image of one slice all is known."""
    caplog.set_level(logging.INFO, "nnunet_wsl")
    for name, slices in (("ann", [1]), ("bob", [3]), ("cid", [1, 2])):
        write_patient(source / name, rois={"A": {key: [RECTANGLE_YX] for key in slices}})
    write_patient(source / "dan", rois={"A": {0: [RECTANGLE_YX]}}, volume=voxels()[:1])
    target = convert_rtstruct(source, 501, "Test")
    for name, ignored in (("ann", [0, 2, 3, 4]), ("bob", [0, 1, 2, 4]), ("cid", []), ("dan", [])):
        labels = read(target / "labelsTr" / f"{name}.nii.gz")
        assert np.flatnonzero((labels == 2).all(axis=(1, 2))).tolist() == ignored
        assert np.count_nonzero((labels == 2).any(axis=(1, 2))) == len(ignored)
    (warning,) = (record.getMessage() for record in caplog.records if "on one slice only" in record.getMessage())
    assert warning.startswith("In 2 cases")
    assert warning.endswith("The cases: ann, bob.")
    assert "(step 1)" in caplog.text
    with (target / "wsl_report.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "0", "1", "1"]

    caplog.clear()
    listed = tmp_path / "annotated.json"
    listed.write_text(json.dumps({"ann": {"A": "0-2"}, "bob": {"A": "all"}}))
    convert_rtstruct(source, 502, "Listed", settings=ConversionSettings(annotated_file=listed))
    convert_rtstruct(source, 503, "All", settings=ConversionSettings(annotated="all"))
    assert "on one slice only" not in caplog.text


def test_margin(source, raw):
    write_patient(source / "ann", rois={"A": {1: [RECTANGLE_YX], 2: [RECTANGLE_YX]}})
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(annotated_margin=1, between="ignore"))
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[[0, 3]] = 2
    expected[1:3, ROWS, COLUMNS] = 1
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann_rs.nii.gz"), expected)


def test_what_lies_behind_sparse_contours_is_unknown_up_to_a_step(source, raw):
    """By default, and from the command line."""
    write_patient(source / "ann", rois={"A": {0: [RECTANGLE_YX], 2: [RECTANGLE_YX]}})
    command = ["convert", "rtstruct", str(source), "--dataset", "501", "--name", "Test", "--between", "ignore"]
    expected = np.full(SHAPE_ZYX, 2, np.uint8)
    expected[[0, 2, 4]] = 0
    expected[:3:2, ROWS, COLUMNS] = 1
    assert main(command) == 0
    np.testing.assert_array_equal(read(raw / "Dataset501_Test" / "labelsTr" / "ann_rs.nii.gz"), expected)

    expected[3] = 0
    assert main([*command, "--dataset", "502", "--annotated-margin", "0"]) == 0
    np.testing.assert_array_equal(read(raw / "Dataset502_Test" / "labelsTr" / "ann_rs.nii.gz"), expected)


def write_incomplete_patients(source):
    """Bob has no ROI B, in cid it has no contours, and dan has neither object."""
    write_patient(source / "ann", rois={"A": TWICE, "B": {2: [BESIDE_YX]}})
    write_patient(source / "bob", rois={"A": TWICE})
    write_patient(source / "cid", rois={"A": TWICE, "B": {}})
    write_patient(source / "dan", rois={"Heart": {1: [RECTANGLE_YX]}})


def test_missing_objects_that_are_absent(source, raw, caplog):
    write_incomplete_patients(source)
    target = convert_rtstruct(
        source, 501, "Test", rois={"A": "A", "B": "B"}, settings=ConversionSettings(missing="absent")
    )
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    np.testing.assert_array_equal(read(target / "labelsTr" / "dan.nii.gz"), expected)
    expected[1:3, ROWS, COLUMNS] = 1
    for case in ("bob", "cid"):
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{case}.nii.gz"), expected)
        assert (read(target / "imagesTr" / f"{case}_0001.nii.gz") > 0).any()
        assert (read(target / "imagesTr" / f"{case}_0002.nii.gz") == 0).all()
    assert "Case 'bob', label 'B': no contours; the object is known to be absent on 5 of 5 slices" in caplog.text
    assert json.loads((target / "dataset.json").read_text())["wsl"]["missing"] == "absent"


@pytest.mark.parametrize("overlap", ["error", "priority", "regions"])
def test_missing_objects_that_are_unknown(source, raw, overlap, caplog):
    """Outside A, bob and cid may have B anywhere; A and B never overlap. Dan, with neither, teaches nothing."""
    write_incomplete_patients(source)
    settings = ConversionSettings(missing="unknown", overlap=overlap)
    problem = only_problem_of(source, raw, rois={"A": "A", "B": "B"}, settings=settings)
    assert problem.startswith("Case 'dan': it has no contour, and on no slice are all objects known to be absent")
    shutil.rmtree(source / "dan")
    target = convert_rtstruct(source, 501, "Test", rois={"A": "A", "B": "B"}, settings=settings)
    expected = np.full(SHAPE_ZYX, 3, np.uint8)
    expected[1:3, ROWS, COLUMNS] = 1
    for case in ("bob", "cid"):
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{case}.nii.gz"), expected)
    assert 3 not in read(target / "labelsTr" / "ann.nii.gz")
    assert "Case 'cid', label 'B': no contours; the object is known to be absent on 0 of 5 slices" in caplog.text


def test_a_missing_object_that_may_overlap(source, raw):
    """Inner lies in Outer in ann; bob has Outer only, and nobody knows where Inner is: maybe anywhere in Outer."""
    write_patient(source / "ann", rois=TWO_ROIS)
    write_patient(source / "bob", rois={"Outer": TWICE})
    settings = ConversionSettings(missing="unknown", overlap="regions")
    target = convert_rtstruct(source, 501, "Test", rois={"in": "Inner", "out": "Outer"}, settings=settings)
    expected = np.zeros(SHAPE_ZYX, np.uint8)  # outside Outer there is never an Inner
    expected[1:3, ROWS, COLUMNS] = 3
    np.testing.assert_array_equal(read(target / "labelsTr" / "bob.nii.gz"), expected)


LINE_YX = np.array([(1.5, 2.5), (1.5, 7.5), (1.5, 4.5)])
BESIDE_THE_IMAGE_YX = RECTANGLE_YX + np.array([0, 20])


def write_vanishing_patients(source):
    """B is drawn in ann; a line in bob, beyond the last slice in cid, beside the image in dan."""
    write_patient(source / "ann", rois={"A": TWICE, "B": {2: [BESIDE_YX]}})
    write_patient(source / "bob", rois={"A": TWICE, "B": {2: [LINE_YX]}})
    write_patient(source / "cid", rois={"A": TWICE, "B": {2: [BESIDE_YX]}})
    edit(source / "cid" / "rs" / "rs.dcm", lambda dataset: _shift_contour(dataset, 0, 7 * 3 * DIRECTION[:, 2], roi=1))
    write_patient(source / "dan", rois={"A": TWICE, "B": {2: [BESIDE_THE_IMAGE_YX]}})


def test_objects_of_which_nothing_is_left_are_refused(source, raw):
    write_vanishing_patients(source)
    problems = problems_of(source, raw, settings=ConversionSettings(outside="clip"))
    assert [problem.split(" is left")[0] for problem in problems] == [
        f"Case '{case}': none of the 1 contours of label 'B'" for case in ("bob", "cid", "dan")
    ]


@pytest.mark.parametrize(("missing", "known"), [("absent", 5), ("unknown", 0)])
def test_objects_of_which_nothing_is_left_are_as_if_not_drawn(source, raw, missing, known):
    write_vanishing_patients(source)
    settings = ConversionSettings(outside="clip", missing=missing)
    target = convert_rtstruct(source, 501, "Test", settings=settings)
    expected = np.full(SHAPE_ZYX, 0 if known else 3, np.uint8)
    expected[1:3, ROWS, COLUMNS] = 1
    for case in ("bob", "cid", "dan"):
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{case}.nii.gz"), expected)
    with (target / "wsl_report.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file) if row["object"] == "B"}
    columns = ("drawn_slices", "known_slices", "extentless_contours", "clipped_contours")
    assert {case: tuple(int(row[column]) for column in columns) for case, row in rows.items()} == {
        "ann": (1, 5, 0, 0),
        "bob": (0, known, 1, 0),
        "cid": (0, known, 0, 1),
        "dan": (0, known, 0, 1),
    }
    assert float(rows["cid"]["clipped_farthest_mm"]) == pytest.approx(13.5)  # 4.5 slices beyond the last one's end


def test_a_case_of_which_no_contour_is_left(source, raw):
    write_patient(source / "ann")
    write_patient(source / "bob", rois={"GTV": {2: [LINE_YX]}})
    problem = only_problem_of(source, raw, settings=ConversionSettings(missing="unknown"))
    assert problem.startswith("Case 'bob': it has no contour, and on no slice are all objects known")


def test_a_label_that_no_case_has(source, raw):
    write_patient(source / "ann")
    problem = only_problem_of(
        source, raw, rois={"A": "GTV", "B": "Lung"}, settings=ConversionSettings(missing="absent")
    )
    assert problem == "No case has a contour of label 'B'. Draw it in one, or leave the label out."


def test_a_negative_margin(source, raw):
    write_patient(source / "ann")
    assert "--annotated-margin -1" in only_problem_of(source, raw, settings=ConversionSettings(annotated_margin=-1))


def test_relevance_of_an_object_that_is_unknown_inside_another_one_has_no_confidence(source, raw):
    """A is known on slices 0, 2 and 4 only, B everywhere: inside B on slice 1 the mask is known, A's relevance not."""
    rois = {"A": {key: [RECTANGLE_YX] for key in (0, 2, 4)}, "B": {key: [BESIDE_YX] for key in (0, 1)}}
    write_patient(source / "ann", rois=rois)
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(between="ignore"))
    block = json.loads((target / "dataset.json").read_text())["wsl"]
    assert block["confidence_channels"] == {"3": "A", "4": "B"}
    image, of_a, of_b = (read(target / "imagesTr" / f"ann_rs_{channel:04d}.nii.gz") for channel in (0, 3, 4))
    in_image = image != 0
    np.testing.assert_array_equal(of_b, in_image)
    assert (of_a[1:4:2] == 0).all()
    np.testing.assert_array_equal(of_a[::2], in_image[::2])


@pytest.mark.parametrize(("between", "overlap"), [("gated", "error"), ("interpolate", "regions")])
def test_slices_between_from_the_interpolation(source, raw, between, overlap):
    """Two objects on slices 0 and 4; the hand-derived truth of one object is in test_supervision."""
    write_patient(source / "ann", rois={"A": {key: [RECTANGLE_YX] for key in (0, 4)}}, volume=np.full(SHAPE_ZYX, 7))
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(between=between, overlap=overlap))
    labels = read(target / "labelsTr" / "ann_rs.nii.gz")
    assert (labels[:, 3, COLUMNS] == 1).all()
    assert (labels[:, 0] == 0).all()
    gate = labels[1:4, [1, 2, 4, 5], COLUMNS]
    if between == "gated":
        assert (gate == 2).all()
    else:
        assert (gate[:, 1:3] == 1).all()
        assert (gate[:, ::3] == 0).all()
    content = json.loads((target / "dataset.json").read_text())
    assert content["wsl"]["between"] == between
    assert content["wsl"]["confidence_channels"] == {"2": "A"}
    assert ("ignore" in content["labels"]) == (between == "gated")
    relevance = read(target / "imagesTr" / "ann_rs_0001.nii.gz")
    assert (relevance[2, 2, COLUMNS] == 1).all()  # on the interpolated contour
    with (target / "wsl_report.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["interpolated_slices"], row["gate_mm"]) == ("3", "0.34")
    assert float(row["volume_mm3"]) == pytest.approx(2 * 15 * VOXEL_MM3, abs=0.06)  # of what is drawn


def test_interpolated_objects_that_overlap(source, raw):
    """The inner object on slices 0 and 4, the outer one on 0, 2 and 4: inner in outer and outer alone are drawn."""
    inner = np.array([(2.5, 3.5), (2.5, 6.5), (3.5, 6.5), (3.5, 3.5)])
    rois = {"in": {0: [inner], 4: [inner]}, "out": {key: [RECTANGLE_YX] for key in (0, 2, 4)}}
    write_patient(source / "ann", rois=rois, volume=np.full(SHAPE_ZYX, 7))
    options = ConversionSettings(overlap="regions", between="interpolate")
    target = convert_rtstruct(source, 501, "Test", rois={"in": "in", "out": "out"}, settings=options)
    content = json.loads((target / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "out": [1, 2], "in": 2}
    labels = read(target / "labelsTr" / "ann_rs.nii.gz")
    assert (labels[:, 3, 4:7] == 2).all()
    assert (labels[:, 2:5, [4, 6]] > 0).all()
    assert (labels[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("overlap", "rois", "drawn", "beside"),
    [
        ("error", "AB", 2, 1),
        ("priority", "BA", 1, 2),
        # A is 1 and 2, B is 2: what is drawn of B says nothing about A
        ("regions", "AB", 2, 1),
    ],
)
def test_drawn_contours_win_over_interpolated_ones(source, raw, overlap, rois, drawn, beside):
    """A on slices 0 and 4, interpolated between; B drawn there, in what is surely A; named first, if that counts."""
    write_patient(
        source / "ann",
        rois={"A": {key: [RECTANGLE_YX] for key in (0, 4)}, "B": {key: [INNER_YX] for key in (1, 2, 3)}},
        volume=np.full(SHAPE_ZYX, 7),
    )
    settings = ConversionSettings(overlap=overlap, between="gated")
    target = convert_rtstruct(source, 501, "Test", rois={name: name for name in rois}, settings=settings)
    if overlap == "regions":
        values = json.loads((target / "dataset.json").read_text())["labels"]
        assert values == {"background": 0, "A": [1, 2], "B": 2, "ignore": 3}
    labels = read(target / "labelsTr" / "ann_rs.nii.gz")
    assert (labels[1:4, 3, 4:6] == drawn).all()
    assert (labels[1:4, 3, [3, 6, 7]] == beside).all()


@pytest.mark.parametrize("overlap", ["error", "priority", "regions"])
def test_uncertain_contours_widen_relevance_and_leave_their_surroundings_ignored(source, raw, overlap):
    write_patient(source / "ann")
    settings = ConversionSettings(contour_sigma_mm=0.6, sigma_mm=(0.8,), overlap=overlap)
    target = convert_rtstruct(source, 501, "Test", settings=settings)
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[1:4, 1:6, COLUMNS] = expected[1:4, ROWS, 2:9] = 2
    expected[1:4, 3, 4:7] = 1
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann_rs.nii.gz"), expected)
    settings_used = json.loads((target / "dataset.json").read_text())["wsl"]["relevance_settings"]
    assert settings_used["sigma_mm"] == pytest.approx([1.0])
    assert settings_used["cutoff_mm"] == pytest.approx([3.0])
    confidence = read(target / "imagesTr" / "ann_rs_0002.nii.gz")
    np.testing.assert_array_equal(confidence, read(target / "imagesTr" / "ann_rs_0000.nii.gz") != 0)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, 1e6, 1e200])
def test_an_uncertainty_that_is_no_distance(source, raw, value):
    write_patient(source / "ann")
    with pytest.raises(InputError, match=r"--contour-sigma-mm .* is no distance"):
        convert_rtstruct(source, 501, "Test", settings=ConversionSettings(contour_sigma_mm=value))


def test_fused_relevance_is_as_sure_as_the_least_known_object(source, raw):
    rois = {"A": {key: [RECTANGLE_YX] for key in (0, 2, 4)}, "B": {key: [BESIDE_YX] for key in (0, 1)}}
    write_patient(source / "ann", rois=rois)
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(relevance="fused", between="ignore"))
    assert json.loads((target / "dataset.json").read_text())["wsl"]["confidence_channels"] == {"2": "fused"}
    assert read(target / "imagesTr" / "ann_rs_0002.nii.gz").any(axis=(1, 2)).tolist() == [True, False] * 2 + [True]


def test_open_contours_leave_their_slice_ignored(source, raw):
    """The second contour is open: inside the first it is known, around both nothing is."""
    write_patient(source / "ann", rois={"GTV": {1: [RECTANGLE_YX], 2: [RECTANGLE_YX, BESIDE_YX], 3: [RECTANGLE_YX]}})

    def open_contour(dataset):
        dataset.ROIContourSequence[0].ContourSequence[2].ContourGeometricType = "OPEN_PLANAR"

    edit(source / "ann" / "rs" / "rs.dcm", open_contour)
    target = convert_rtstruct(source, 501, "Test")
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[2] = 2
    expected[1:4, ROWS, COLUMNS] = 1
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann_rs.nii.gz"), expected)
    # The contours on it are known all the same, and what is near to them is likely.
    assert json.loads((target / "dataset.json").read_text())["wsl"]["confidence_channels"] == {"2": "GTV"}
    image, confidence = (read(target / "imagesTr" / f"ann_rs_{channel:04d}.nii.gz") for channel in (0, 2))
    assert (confidence[2][CONTOUR_VOXELS & (image[2] != 0)] == 1).all()
    assert 0 < confidence[2, 3, 5] < 1  # amid the rectangle
    np.testing.assert_array_equal(confidence[[0, 1, 3, 4]], image[[0, 1, 3, 4]] != 0)


def test_an_object_with_open_contours_only_is_drawn(source, raw):
    write_patient(source / "ann", rois={"GTV": {key: [RECTANGLE_YX] for key in (1, 2)}})
    write_patient(source / "bob", rois={"GTV": {key: [RECTANGLE_YX] for key in (1, 2)}})

    def open_all(dataset):
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType = "OPEN_PLANAR"

    edit(source / "ann" / "rs" / "rs.dcm", open_all)
    target = convert_rtstruct(source, 501, "Test")
    with (target / "wsl_report.csv").open() as file:
        ann, bob = csv.DictReader(file)
    assert (ann["drawn_slices"], ann["known_slices"], ann["volume_mm3"]) == ("2", "3", "0.0")
    assert (bob["drawn_slices"], bob["known_slices"]) == ("2", "5")
    labels = read(target / "labelsTr" / "ann.nii.gz")
    assert labels.max(axis=(1, 2)).tolist() == labels.min(axis=(1, 2)).tolist() == [0, 2, 2, 0, 0]
    assert read(target / "imagesTr" / "ann_0001.nii.gz")[1:3].max() == 1


def test_an_image_of_one_slice(source, raw):
    write_patient(source / "ann", volume=voxels()[:1], rois={"GTV": {0: [RECTANGLE_YX]}})
    target = convert_rtstruct(source, 501, "Test")
    expected = np.zeros((1, *SHAPE_ZYX[1:]), np.uint8)
    expected[0, ROWS, COLUMNS] = 1
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann_rs.nii.gz"), expected)
    assert sitk.ReadImage(str(target / "labelsTr" / "ann_rs.nii.gz")).GetSpacing()[2] == 99  # its thickness


def test_overlap_takes_the_first_label(source, raw):
    """Of the 4 voxels of Inner, 2 are among the 30 of Outer."""
    write_patient(source / "ann", rois={**TWO_ROIS, "Inner": {2: [INNER_YX], 3: [INNER_YX]}})
    settings = ConversionSettings(overlap="priority")
    convert_rtstruct(source, 501, "A", rois={"in": "Inner", "out": "Outer"}, settings=settings)
    convert_rtstruct(source, 502, "B", rois={"out": "Outer", "in": "Inner"}, settings=settings)
    a, b = (read(raw / name / "labelsTr" / "ann_rs.nii.gz") for name in ("Dataset501_A", "Dataset502_B"))
    assert np.count_nonzero(a == 1) == 4
    assert np.count_nonzero(a == 2) == 30 - 2
    assert np.count_nonzero(b == 1) == 30
    assert np.count_nonzero(b == 2) == 2


def test_a_label_that_others_cover(source, raw):
    write_patient(source / "ann", rois=TWO_ROIS)
    problem = only_problem_of(
        source, raw, rois={"out": "Outer", "in": "Inner"}, settings=ConversionSettings(overlap="priority")
    )
    assert re.match(r"Label 'in': in all cases its contours enclose 0\.00\d+ ml, but no label map has a voxel", problem)
    assert "Name it first, or pass --overlap regions" in problem
    assert not list(raw.iterdir())


@pytest.mark.parametrize(
    ("between", "inside", "around"), [("ignore", {3}, {3}), ("gated", {1, 3}, {2, 3}), ("interpolate", {1}, {2})]
)
def test_priority_where_the_first_object_is_not_drawn(source, raw, between, inside, around):
    """Inner on every second slice, Outer around it on all: between, nobody has said that a voxel is not Inner."""
    write_patient(
        source / "ann",
        rois={"Inner": {key: [INNER_YX] for key in (0, 2, 4)}, "Outer": {key: [RECTANGLE_YX] for key in range(5)}},
        volume=np.full(SHAPE_ZYX, 7),
    )
    settings = ConversionSettings(overlap="priority", between=between)
    target = convert_rtstruct(source, 501, "Test", rois={"in": "Inner", "out": "Outer"}, settings=settings)
    labels = read(target / "labelsTr" / "ann_rs.nii.gz")
    assert (labels[::2, 3, 4:6] == 1).all()
    assert (labels[::2, 3, [3, 6, 7]] == 2).all()
    assert set(labels[1::2, 3, 4:6].ravel()) <= inside
    assert set(labels[1::2, [2, 4], COLUMNS].ravel()) <= around
    assert (labels[:, 0] == 0).all()


@pytest.mark.parametrize("overlap", ["error", "priority", "regions"])
def test_objects_that_are_never_known_together(source, raw, overlap, caplog):
    """Inner on even slices, Outer on odd ones."""
    both = {"Inner": {key: [INNER_YX] for key in (0, 2, 4)}, "Outer": {key: [RECTANGLE_YX] for key in (1, 3)}}
    write_patient(source / "ann", rois=both)
    settings = ConversionSettings(overlap=overlap, between="ignore")
    rois = {"in": "Inner", "out": "Outer"}
    if overlap == "error":
        convert_rtstruct(source, 501, "Test", rois=rois, settings=settings)
        assert "is not known. 'in' and 'out'. --overlap error takes them not to." in caplog.text
        return
    problems = problems_of(source, raw, rois=rois, settings=settings)
    named = {"priority": ["Label 'out'"], "regions": ["Label 'in'", "Label 'out'"]}
    assert [problem.split(":")[0] for problem in problems] == named[overlap]


@pytest.mark.parametrize("between", ["gated", "interpolate"])
@pytest.mark.parametrize("overlap", ["priority", "regions"])
def test_interpolation_says_nothing_of_how_objects_lie_to_each_other(source, raw, overlap, between):
    """Left is wide on slices 0 and 4; Right, beside it, bulges into its place between. Where both are drawn, apart."""
    wide, bulge = RECTANGLE_YX, np.array([(1.5, 5.5), (1.5, 9.5), (4.5, 9.5), (4.5, 5.5)])
    rois = {
        "Left": {key: [wide] for key in (0, 4)},
        "Right": {key: [BESIDE_YX if key in (0, 4) else bulge] for key in range(5)},
    }
    write_patient(source / "ann", rois=rois, volume=np.full(SHAPE_ZYX, 7))
    settings = ConversionSettings(overlap=overlap, between=between)
    target = convert_rtstruct(source, 501, "Test", rois={"L": "Left", "R": "Right"}, settings=settings)
    content = json.loads((target / "dataset.json").read_text())["labels"]
    assert all(isinstance(value, int) for value in content.values())
    labels = read(target / "labelsTr" / "ann_rs.nii.gz")
    assert (labels[1:4, ROWS, 6:10] == content["R"]).all()


def test_slices_where_one_object_has_ended_do_not_tell_that_they_are_apart(source, raw, caplog):
    """Where both A and B are, one is drawn on even slices, the other on odd ones: known together beyond that only."""
    rois = {
        "A": {key: [RECTANGLE_YX] for key in (0, 2, 4, 6)},
        "B": {key: [RECTANGLE_YX] for key in (3, 5, 7, 9)},
    }
    write_patient(source / "ann", rois=rois, volume=np.full((12, *SHAPE_ZYX[1:]), 7))
    settings = ConversionSettings(overlap="priority", between="ignore")
    target = convert_rtstruct(source, 501, "Test", rois={"A": "A", "B": "B"}, settings=settings)
    inside = read(target / "labelsTr" / "ann_rs.nii.gz")[:, ROWS, COLUMNS]
    for k, label in enumerate([1, 3, 1, 3, 1, 3, 1, 3, 3, 2, 3, 0]):
        assert (inside[k] == label).all(), k
    assert "Nothing tells whether these labels overlap" in caplog.text


def test_objects_of_different_slices_are_known_to_be_apart(source, raw, caplog):
    rois = {"A": {key: [RECTANGLE_YX] for key in (0, 1)}, "B": {key: [RECTANGLE_YX] for key in (3, 4)}}
    write_patient(source / "ann", rois=rois)
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(overlap="regions"))
    assert json.loads((target / "dataset.json").read_text())["labels"] == {"background": 0, "A": 1, "B": 2}
    assert "Nothing tells" not in caplog.text


@pytest.mark.parametrize("between", ["ignore", "gated"])
def test_an_inner_object_that_is_drawn_more_often(source, raw, between):
    """The contours of Inner enclose more slices than those of Outer, which it lies in wherever both are known.

    Its voxels on the other slices are in Outer, too, whatever its interpolation leaves open, and are not counted.
    """
    inner_yx = np.array([(1.5, 3.5), (1.5, 7.5), (4.5, 7.5), (4.5, 3.5)])
    rois = {"Inner": {key: [inner_yx] for key in range(5)}, "Outer": {key: [RECTANGLE_YX] for key in (0, 2, 4)}}
    write_patient(source / "ann", rois=rois)
    settings = ConversionSettings(overlap="regions", between=between)
    target = convert_rtstruct(source, 501, "Test", rois={"in": "Inner", "out": "Outer"}, settings=settings)
    content = json.loads((target / "dataset.json").read_text())
    assert (read(target / "labelsTr" / "ann_rs.nii.gz")[:, 2:5, 4:8] == 2).all()
    assert content["labels"] == {"background": 0, "out": [1, 2], "in": 2, "ignore": 3}
    assert content["regions_class_order"] == [1, 2]


def test_objects_that_are_drawn_on_fewer_slices_are_no_smaller(source, raw):
    """Of two that overlap, the outer one is the larger: 3 slices of 15 voxels, of 5, are more than 5 slices of 12."""
    often_yx = np.array([(1.5, 6.5), (1.5, 10.4), (4.5, 10.4), (4.5, 6.5)])  # they share x 7
    rois = {"Often": {key: [often_yx] for key in range(5)}, "Seldom": {key: [RECTANGLE_YX] for key in (0, 2, 4)}}
    write_patient(source / "ann", rois=rois)
    settings = ConversionSettings(overlap="regions", between="ignore")
    target = convert_rtstruct(source, 501, "Test", rois={"a": "Often", "b": "Seldom"}, settings=settings)
    content = json.loads((target / "dataset.json").read_text())
    assert list(content["labels"].items()) == [("background", 0), ("b", [2, 3]), ("a", [1, 3]), ("ignore", 4)]
    assert content["regions_class_order"] == [2, 1]  # of each object the value of most of its voxels, in this order


def test_a_narrow_overlap_of_uncertain_contours(source, raw):
    """Left and Right share two columns, all of them near a contour: ignored, but not taken for one of them."""
    left_yx, right_yx = RECTANGLE_YX, RECTANGLE_YX + np.array([0, 3])
    write_patient(source / "ann", rois={"Left": {2: [left_yx]}, "Right": {2: [right_yx]}})
    labels = {}
    for sigma_mm in (0.0, 0.6):
        settings = ConversionSettings(overlap="regions", contour_sigma_mm=sigma_mm, annotated="all", sigma_mm=(2.0,))
        target = convert_rtstruct(
            source, 501, "Test", rois={"L": "Left", "R": "Right"}, settings=settings, overwrite=True
        )
        content = json.loads((target / "dataset.json").read_text())
        assert content["labels"]["L"] == [1, 3]
        assert content["labels"]["R"] == [2, 3]
        labels[sigma_mm] = read(target / "labelsTr" / "ann_rs.nii.gz")
    exact, uncertain = labels.values()
    assert (exact == 3).sum() > 0
    assert (uncertain[exact == 3] == 4).all()
    assert ((uncertain == exact) | (uncertain == 4)).all()
    assert {0, 1, 2, 4} <= set(uncertain.ravel().tolist())


def test_overlap_as_regions(source, raw):
    """Inner lies in Outer on slice 2 of ann; both have contours on every second slice only in bob."""
    write_patient(source / "ann", rois=TWO_ROIS)
    both = {"Inner": {key: [INNER_YX] for key in (0, 2, 4)}, "Outer": {key: [RECTANGLE_YX] for key in (0, 2, 4)}}
    write_patient(source / "bob", rois=both)
    settings = ConversionSettings(overlap="regions", between="ignore")
    target = convert_rtstruct(source, 501, "Test", rois={"in": "Inner", "out": "Outer"}, settings=settings)
    content = json.loads((target / "dataset.json").read_text())
    assert list(content["labels"].items()) == [("background", 0), ("out", [1, 2]), ("in", 2), ("ignore", 3)]
    assert content["regions_class_order"] == [1, 2]
    assert content["wsl"]["relevance_channels"] == {"1": "in", "2": "out"}
    assert content["wsl"]["overlap"] == "regions"
    ann, bob = np.zeros((2, *SHAPE_ZYX), np.uint8)
    ann[1:3, ROWS, COLUMNS] = 1
    ann[2, 3, 4:6] = 2
    bob[[1, 3]] = 3
    bob[::2, ROWS, COLUMNS] = 1
    bob[::2, 3, 4:6] = 2
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann.nii.gz"), ann)
    np.testing.assert_array_equal(read(target / "labelsTr" / "bob.nii.gz"), bob)
    assert sitk.ReadImage(str(target / "labelsTr" / "ann.nii.gz")).GetPixelID() == sitk.sitkUInt8


def test_regions_without_overlap_are_plain_labels(source, raw):
    write_patient(source / "ann", rois={"A": TWICE, "B": {1: [BESIDE_YX]}})
    plain = convert_rtstruct(source, 501, "Plain")
    regions = convert_rtstruct(source, 502, "Regions", settings=ConversionSettings(overlap="regions"))
    contents = [json.loads((folder / "dataset.json").read_text()) for folder in (plain, regions)]
    assert contents[0]["labels"] == contents[1]["labels"] == {"background": 0, "A": 1, "B": 2}
    assert "regions_class_order" not in contents[1]
    for folder in ("labelsTr", "imagesTr"):
        for path in (plain / folder).iterdir():
            assert path.read_bytes() == (regions / folder / path.name).read_bytes()


def test_several_rois_of_one_label_are_united(source, raw, caplog):
    caplog.set_level(logging.INFO, "nnunet_wsl")
    write_patient(source / "ann", rois={"GTV 1": {1: [RECTANGLE_YX]}, "GTV 2": {1: [RECTANGLE_YX, BESIDE_YX]}})
    target = convert_rtstruct(source, 501, "Test", rois={"tumour": "gtv.*"})
    mask = read(target / "labelsTr" / "ann_rs.nii.gz")
    assert np.count_nonzero(mask == 1) == 15 + 3
    assert "label 'tumour' unites the ROIs 'GTV 1', 'GTV 2'" in caplog.text


def test_clipped_contours_are_counted(source, raw, caplog):
    wide = np.array([(1.5, 7.5), (1.5, 12.5), (4.5, 12.5), (4.5, 7.5)])  # ends two pixels beyond the image
    write_patient(source / "ann", rois={"GTV": {2: [wide], 3: [RECTANGLE_YX]}, "Heart": {1: [RECTANGLE_YX]}})
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(outside="clip"))
    mask = read(target / "labelsTr" / "ann_rs.nii.gz") == 1
    assert mask[2, 2:5, 8:].all()
    assert mask.sum() == 9 + 15
    with (target / "wsl_report.csv").open() as file:
        row, whole = csv.DictReader(file)
    assert (row["clipped_contours"], whole["clipped_contours"]) == ("1", "0")
    # 3 pixels high, 2 wide: 6 * 0.7 * 1.1 mm2; the points are 2 pixels of 1.1 mm from the border
    assert float(row["clipped_area_mm2"]) == pytest.approx(4.62, abs=0.06)
    assert float(row["clipped_farthest_mm"]) == pytest.approx(2.2)
    assert "1 contour clipped at" in caplog.text


def test_clipping_where_geometry_finds_the_series(source, raw):
    beyond = np.add(RECTANGLE_YX, (4.5, 0))  # y 6 to 9; the image ends at 6.5
    write_patient(source / "ann", rois={"GTV": {2: [beyond]}})
    edit(source / "ann" / "rs" / "rs.dcm", forget_frame)
    assert "no image series matches it" in only_problem_of(source, raw)
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(outside="clip"))
    assert np.count_nonzero(read(target / "labelsTr" / "ann_rs.nii.gz") == 1) == 5


def test_repaired_contours_are_counted(source, raw, caplog):
    caplog.set_level(logging.INFO, "nnunet_wsl")
    (top, left), (_, right), (bottom, _) = RECTANGLE_YX[:3]
    spur = [*RECTANGLE_YX, (bottom, left - 1), RECTANGLE_YX[-1]]
    crossed = [(top, left), (bottom, right), (bottom, left), (top, right)]
    hole = [(top, left), (top + 1, left + 1), (top + 1, right - 1), (bottom - 1, left + 2), (top + 1, left + 1)]
    stray = [(top, left)] * 3
    contours = {0: [spur, stray], 1: [crossed], 2: [RECTANGLE_YX, RECTANGLE_YX[::-1]], 3: [[*hole, *RECTANGLE_YX]]}
    write_patient(source / "ann", rois={"GTV": {k: list(map(np.array, of)) for k, of in contours.items()}})
    target = convert_rtstruct(source, 501, "Test")
    with (target / "wsl_report.csv").open() as file:
        (row,) = csv.DictReader(file)
    faults = ("repeated", "extentless", "crossing", "spur", "keyhole")
    assert [row[f"{fault}_contours"] for fault in faults] == ["1"] * 5
    where = "Case 'ann_rs', label 'GTV': 1 contour "
    for text in ("drawn twice", "without extent", "with self-crossings", "with spurs"):
        assert where + text in caplog.text
    assert "label 'GTV': 1 keyhole contour divided into rings." in caplog.text
    mask = read(target / "labelsTr" / "ann_rs.nii.gz")
    np.testing.assert_array_equal(mask[0], mask[2])
    assert mask[2].sum() > mask[3].sum() > 0


def test_report(source, raw, caplog):
    caplog.set_level(logging.INFO, "nnunet_wsl")
    rois = {"A": {key: [RECTANGLE_YX] for key in (0, 1, 3)}, "B": {2: [INNER_YX]}}
    write_patient(source / "ann", rois=rois)
    target = convert_rtstruct(source, 501, "Test")
    with (target / "wsl_report.csv").open() as file:
        a, b = csv.DictReader(file)
    assert (a["case"], a["object"], a["drawn_slices"], a["step"], a["gaps"]) == ("ann_rs", "A", "3", "1", "1-3")
    assert (a["first_slice"], a["last_slice"]) == ("0", "3")
    assert float(a["volume_mm3"]) == pytest.approx(45 * VOXEL_MM3, abs=0.06)
    assert (b["object"], b["drawn_slices"], b["gaps"]) == ("B", "1", "")
    assert float(b["volume_mm3"]) == pytest.approx(2 * VOXEL_MM3, abs=0.06)
    assert "gaps wider than the usual 1 slice: 1-3" in caplog.text
    assert "Label 'A': drawn in 1 case, 3 slices (step 1)" in caplog.text
    assert "Label 'B': drawn in 1 case, 1 slice (step 1)" in caplog.text


def test_patients_stay_in_one_fold(source, raw):
    for i in range(7):
        write_patient(source / f"p{i}" / "first", PatientID=f"ID{i}")
        write_patient(source / f"p{i}" / "second", PatientID="ID0" if i == 6 else f"ID{i}")
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(relevance="none"))
    splits = json.loads((target / "splits_final.json").read_text())
    assert len(splits) == 5
    assert sorted(case for fold in splits for case in fold["val"]) == sorted(
        f"p{i}_{visit}" for i in range(7) for visit in ("first", "second")
    )
    for fold in splits:
        patients = [{case[:2].replace("6", "0") for case in fold[part]} for part in ("train", "val")]
        assert not patients[0] & patients[1]


def test_patient_ids_of_structure_sets_count_where_images_have_none(source, raw, caplog):
    """Those of images count first: the last two are of patient 0 and of one of their own."""
    own = ["Zyx0", "Zyx0", "Zyx1", "Zyx2", "Zyx1"]
    for i, (image, patient) in enumerate(zip(["", "", "", "Zyx0", "Zyx3"], own, strict=True)):
        write_patient(source / f"p{i}", PatientID=image)
        edit(source / f"p{i}" / "rs" / "rs.dcm", lambda d, patient=patient: setattr(d, "PatientID", patient))
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(relevance="none"))
    splits = json.loads((target / "splits_final.json").read_text())
    assert sorted(sorted(fold["val"]) for fold in splits) == [["p0", "p1", "p3"], ["p2"], ["p4"]]
    assert "Zyx" not in caplog.text
    assert not any(b"Zyx" in path.read_bytes() for path in target.rglob("*.json"))


def test_structure_sets_of_one_series_stay_in_one_fold(source, raw):
    """Two annotators of the same images, in folders and with a Patient ID that tell no patients apart."""
    for i in range(3):
        headers = write_series(source / "images" / f"p{i}", series=f"p{i}", frame=f"p{i}", seed=i, PatientID="ANON")
        for annotator in ("a", "b"):
            write_contours(source / "drawn" / f"p{i}{annotator}.dcm", headers, {"GTV": TWICE})
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(relevance="none"))
    for fold in json.loads((target / "splits_final.json").read_text()):
        images = [
            {(target / "imagesTr" / f"{case}_0000.nii.gz").read_bytes() for case in fold[part]}
            for part in ("train", "val")
        ]
        assert len(fold["val"]) == 2
        assert len(images[1]) == 1
        assert not images[0] & images[1]


def test_a_structure_set_with_another_patient_id_than_its_images_is_told(source, raw, caplog):
    write_patient(source / "ann")
    edit(source / "ann" / "rs" / "rs.dcm", lambda d: setattr(d, "PatientID", "Zyx"))
    convert_rtstruct(source, 501, "Test")
    assert "The Patient ID in 1 structure set is another than in the images" in caplog.text
    assert "such as 'ann/rs/rs.dcm'" in caplog.text
    assert "Zyx" not in caplog.text


def test_contours_that_name_images_of_another_series_than_the_header_are_told(source, raw, caplog):
    headers = write_patient(source / "ann")
    again = write_series(source / "again", series="again")
    convert_rtstruct(source, 501, "Test", settings=ConversionSettings(relevance="none"))
    assert "name images of another series" not in caplog.text

    def name_the_other(dataset):
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            (image,) = contour.ContourImageSequence
            index = [header.SOPInstanceUID for header in headers].index(image.ReferencedSOPInstanceUID)
            image.ReferencedSOPInstanceUID = again[index].SOPInstanceUID

    edit(source / "ann" / "rs" / "rs.dcm", name_the_other)
    convert_rtstruct(source, 501, "Test", settings=ConversionSettings(relevance="none"), overwrite=True)
    assert "The contours of 1 structure set, such as 'ann/rs/rs.dcm', name images of another series" in caplog.text


def test_series_without_and_with_several_structure_sets_are_named(source, raw, caplog):
    headers = write_patient(source / "ann")
    write_contours(source / "ann" / "other" / "rs.dcm", headers, {"GTV": {2: [RECTANGLE_YX]}})
    write_series(source / "bob", series="bob", frame="bob")
    write_series(source / "cid", series="cid", frame="cid", modality="CT")  # of another modality: not missed
    convert_rtstruct(source, 501, "Test", modality="MR")
    assert "1 image series of modality MR have no structure set and are left out" in caplog.text
    assert "such as the series in folder 'bob'" in caplog.text
    assert "The cases 'other' and 'rs' have the same image" in caplog.text


def test_images_that_are_missing_at_an_end_are_told(source, raw, caplog):
    for name in ("ann", "bob"):
        write_patient(source / name)
    convert_rtstruct(source, 501, "Test")
    assert "lacks images" not in caplog.text
    headers = write_series(source / "new", series="new")
    write_contours(source / "new" / "rs.dcm", headers, {"GTV": TWICE})
    max(headers, key=lambda header: header.ImagePositionPatient[2]).filename.unlink()
    convert_rtstruct(source, 501, "Test", overwrite=True)
    assert "lacks images that are named by 1 structure set, such as 'new/rs.dcm' (1 of 5)" in caplog.text


def test_images_that_got_other_identifiers_are_not_missing(source, raw, caplog):
    headers = write_patient(source / "ann")
    for header in headers:
        edit(header.filename, lambda d: setattr(d, "SOPInstanceUID", generate_uid()))
    convert_rtstruct(source, 501, "Test")
    assert "lacks images" not in caplog.text


@pytest.mark.parametrize("expression", ["x{99999999999}", "(" * 5000 + ")" * 5000])
def test_expressions_that_are_too_large(source, raw, expression):
    assert "is not a regular expression" in only_problem_of(source, raw, rois={"a": expression})


def test_a_disk_that_is_full_when_all_cases_are_written(source, raw, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.json")

    write_patient(source / "ann")
    monkeypatch.setattr(cases, "write_dataset_json", full)
    assert re.search(r"cannot be made: report\.json: No space left", only_problem_of(source, raw))


def test_relevance_channels_are_no_images_for_a_stock_trainer(source, raw, caplog):
    caplog.set_level(logging.INFO)
    write_patient(source / "ann")
    convert_rtstruct(source, 501, "Test", settings=ConversionSettings(relevance="none"))
    assert "a stock trainer would take them for images" not in caplog.text
    convert_rtstruct(source, 501, "Test", overwrite=True)
    assert "a stock trainer would take them for images" in caplog.text


def test_one_patient_has_no_splits(source, raw, caplog):
    write_patient(source / "ann")
    target = convert_rtstruct(source, 501, "Test")
    assert not (target / "splits_final.json").exists()
    assert "All cases are of one patient" in caplog.text


def test_parallel_conversion_writes_the_same_bytes(source, raw):
    for seed, name in enumerate(["ann", "bob", "cid"]):
        write_patient(source / name, seed=seed)
    one = convert_rtstruct(source, 501, "Test", jobs=1)
    files = {path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()}
    two = convert_rtstruct(source, 501, "Test", jobs=2, overwrite=True)
    assert {path.relative_to(two): path.read_bytes() for path in two.rglob("*") if path.is_file()} == files


def test_nothing_of_the_patient_anywhere(source, raw, caplog):
    """Names, identifiers, dates and UIDs of the headers are in no file, header, file name or log."""
    caplog.set_level(logging.DEBUG)
    headers = [write_patient(source / name, seed=seed)[0] for seed, name in enumerate(["ann", "bob"])]
    convert_rtstruct(source, 501, "Test")
    texts = [caplog.text]
    for path in raw.rglob("*"):
        texts.append(str(path.relative_to(raw)))
        if path.is_file():
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            texts.append(data.decode("latin-1"))
    secrets = [part for value in PATIENT.values() for part in value.split("^")]
    for header in headers:
        secrets += [header.SOPInstanceUID, header.SeriesInstanceUID, header.StudyInstanceUID]
        secrets.append(header.FrameOfReferenceUID)
    secrets.append(str(source))
    assert not [secret for secret in secrets for text in texts if secret in text]


# --- what is refused ---


def test_missing_rois_of_all_cases_together(source, raw):
    write_patient(source / "ann")
    write_patient(source / "bob", rois={"Heart": {1: [RECTANGLE_YX]}})
    write_patient(source / "cid", rois={"Lung": {1: [RECTANGLE_YX]}, "GTV": {}})
    bob, cid = problems_of(source, raw, rois={"tumour": "GTV"})
    assert bob.startswith("Case 'bob': no ROI matches 'GTV' for label 'tumour'. It has the ROIs 'Heart'.")
    assert cid.startswith("Case 'cid': ROI 'GTV' for label 'tumour' has no contours.")


def test_problems_of_different_kinds_together(source, raw):
    """A missing ROI, an irregular series (named once for two structure sets), misplaced contours: all in one run."""
    write_patient(source / "ann", rois={"Heart": {1: [RECTANGLE_YX]}})
    bob = write_patient(source / "bob")
    bob[2].filename.unlink()
    write_contours(source / "bob" / "rs" / "second.dcm", bob, {"GTV": {1: [RECTANGLE_YX]}})
    write_patient(source / "cid", rois={"GTV": {1: [RECTANGLE_YX + np.array([0, 6])]}})
    headers = write_patient(source / "dan")
    edit(
        source / "dan" / "rs" / "rs.dcm",
        lambda d: _shift_contour(d, 0, 1.4 * DIRECTION[:, 2]),
    )
    for header in write_patient(source / "eve"):
        header.filename.unlink()
    problems = problems_of(source, raw, rois={"tumour": "GTV"})
    assert len(problems) == 5
    text = "\n".join(problems)
    assert "Case 'ann': no ROI matches" in text
    assert "missing slice: 'bob/image/slice004.dcm' and 'bob/image/slice002.dcm'" in text
    assert "Case 'cid': contour 1 of ROI 'GTV' lies " in text
    assert "--outside clip" in text
    assert "Case 'dan': contour 1 of ROI 'GTV'" in text
    assert "RTSTRUCT 'eve/rs/rs.dcm': no image series matches it" in text
    assert len(headers) == 5


def test_problems_of_single_cases_do_not_hide_those_of_all(source, raw):
    write_patient(source / "ann")
    write_patient(source / "bob", rois={"Heart": TWICE})
    for header in write_patient(source / "cid"):
        header.filename.unlink()
    lost, different = problems_of(source, raw)
    assert lost.startswith("RTSTRUCT 'cid/rs/rs.dcm': no image series matches it")
    assert different.startswith("The 2 cases have different ROIs")
    write_patient(source / "dan", modality="CT")
    lost, mixed = problems_of(source, raw)
    assert lost.startswith("RTSTRUCT 'cid/rs/rs.dcm': no image series matches it")
    assert "different modalities: MR (2 cases), CT (1 case)" in mixed


def _shift_contour(dataset, position, offset_mm, roi=0):
    contour = dataset.ROIContourSequence[roi].ContourSequence[position]
    points_mm = np.array(contour.ContourData, float).reshape(-1, 3) + offset_mm
    contour.ContourData = [f"{value:.6f}" for value in points_mm.ravel()]


def test_fewer_than_three_points(source, raw):
    write_patient(source / "ann")

    def shorten(dataset):
        contour = dataset.ROIContourSequence[0].ContourSequence[1]
        contour.ContourData = contour.ContourData[:6]
        contour.NumberOfContourPoints = 2

    edit(source / "ann" / "rs" / "rs.dcm", shorten)
    assert "contour 2 of ROI 'GTV'" in only_problem_of(source, raw)


def test_problems_of_what_is_not_selected_do_not_matter(source, raw):
    """An irregular series nobody drew on, and a faulty ROI nobody asked for."""
    write_patient(source / "ann", rois={"GTV": TWICE, "Heart": {2: [RECTANGLE_YX]}})
    write_series(source / "scout", series="scout", frame="scout")[2].filename.unlink()

    def shorten(dataset):
        dataset.ROIContourSequence[1].ContourSequence[0].ContourData = ["1", "2"]

    edit(source / "ann" / "rs" / "rs.dcm", shorten)
    target = convert_rtstruct(source, 501, "Test", rois={"tumour": "GTV"})
    assert read(target / "labelsTr" / "ann_rs.nii.gz").sum() == 2 * 15


def test_overlap_names_objects_and_volume(source, raw):
    write_patient(source / "ann", rois=TWO_ROIS)
    problem = only_problem_of(source, raw)
    assert "Case 'ann_rs': the objects 'Inner' and 'Outer' overlap in " in problem
    assert f"{2 * VOXEL_MM3:.1f} mm3 (2 voxels)" in problem
    assert "--overlap priority" in problem


def test_of_several_objects_those_that_overlap_are_named(source, raw):
    wider_yx = np.add(BESIDE_YX, [(0, 0), (0, 1), (0, 1), (0, 0)])  # encloses x 8 and 9
    outlines = {"A": RECTANGLE_YX, "B": BESIDE_YX, "C": INNER_YX, "D": wider_yx, "E": wider_yx}
    write_patient(source / "ann", rois={name: {2: [outline_yx]} for name, outline_yx in outlines.items()})
    found = [problem.split(" mm3 ")[0].split("objects ")[1] for problem in problems_of(source, raw)]
    assert found == [
        f"'{a}' and '{b}' overlap in {voxels * VOXEL_MM3:.1f}"
        for a, b, voxels in (("A", "C", 2), ("B", "D", 3), ("B", "E", 3), ("D", "E", 6))
    ]


def test_cases_of_different_modalities(source, raw):
    write_patient(source / "ann")
    write_patient(source / "bob", modality="CT")
    problem = only_problem_of(source, raw)
    assert "MR (1 case), CT (1 case)" in problem
    assert "--modality" in problem


@pytest.mark.parametrize("how", ["empty", "missing"])
def test_images_without_modality(source, raw, how):
    write_patient(source / "ann")
    for header in write_patient(source / "bob", modality=""):
        if how == "missing":
            edit(header.filename, lambda d: delattr(d, "Modality"))
    problem = only_problem_of(source, raw)
    assert problem.startswith(
        "The series in folder 'bob/image' (no modality, 5 files from 'slice001.dcm' on): its files"
    )
    assert "have no Modality" in problem
    assert "Restore the attribute, or export the series again." in problem
    assert "the series are MR, none. Change" in only_problem_of(source, raw, modality="PT")


def test_no_case_of_the_modality(source, raw):
    write_patient(source / "ann")
    problem = only_problem_of(source, raw, modality="PT")
    assert "None of the 1 structure sets" in problem
    assert "the series are MR" in problem


def test_no_structure_set(source, raw):
    write_series(source / "ann")
    assert "No RTSTRUCT file below" in only_problem_of(source, raw)


def test_scales_that_do_not_fit_the_labels(source, raw):
    write_patient(source / "ann")
    settings = ConversionSettings(relevance_mode="both", sigma_mm=(1.0, 2.0), intensity_scale=(-1.0,))
    count, sign = problems_of(source, raw, settings=settings)
    assert "--sigma-mm has 2 values; expected 1" in count
    assert "--intensity-scale -1.0 is not a positive number" in sign


def test_scales_of_no_relevance(source, raw):
    write_patient(source / "ann")
    settings = ConversionSettings(relevance="none", sigma_mm=(2.0,), intensity_scale=(5.0,))
    with pytest.raises(InputError) as caught:
        convert_rtstruct(source, 501, "Test", settings=settings)
    assert [problem.split(" has no effect")[0] for problem in caught.value.problems] == [
        "--sigma-mm", "--intensity-scale"
    ]  # fmt: skip


def test_an_intensity_scale_that_the_mode_ignores(source, raw):
    write_patient(source / "ann")
    problem = only_problem_of(source, raw, settings=ConversionSettings(intensity_scale=(5.0,)))
    assert "--intensity-scale has no effect in --relevance-mode distance" in problem


def test_scales_out_of_range(source, raw):
    write_patient(source / "ann")
    settings = ConversionSettings(relevance_mode="both", sigma_mm=(1e-30,), intensity_scale=(1e-300,))
    sigma, scale = problems_of(source, raw, settings=settings)
    assert sigma == "--sigma-mm 1e-30 is not a positive number from 1e-06 to 1e+06."
    assert scale == "--intensity-scale 1e-300 is not a positive number from 1e-30 to 1e+300."


def test_contours_that_run_outside_the_image_only_need_a_scale(source, raw):
    """The whole image is inside on slices 1 and 2, and no voxel is on a contour."""
    around = np.array([(-5.0, -5.0), (-5.0, 20.0), (20.0, 20.0), (20.0, -5.0)])
    write_patient(source / "ann", rois={"A": {3: [INNER_YX]}, "B": {1: [around], 2: [around]}})
    problem = only_problem_of(source, raw, settings=ConversionSettings(outside="clip"))
    assert "'B' has none in any case. Give sigma_mm yourself" in problem
    target = convert_rtstruct(source, 501, "Test", settings=ConversionSettings(outside="clip", sigma_mm=(1.0,)))
    assert (read(target / "labelsTr" / "ann_rs.nii.gz")[1:3] == 2).all()
    assert (read(target / "imagesTr" / "ann_rs_0002.nii.gz") == 0).all()


def test_two_series_that_match_equally_well(source, raw):
    write_patient(source / "ann")
    write_series(source / "ann" / "copy", series="copy", frame=str(source / "ann"))

    def forget(dataset):
        dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence = []
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            del contour.ContourImageSequence

    edit(source / "ann" / "rs" / "rs.dcm", forget)
    problem = only_problem_of(source, raw)
    assert "in folder 'ann/image'" in problem
    assert "in folder 'ann/copy'" in problem


def test_where_no_selected_roi_is_drawn_the_others_tell_the_series(source, raw):
    """A patient without the object, and an expression that matches nothing, to see all names."""
    write_patient(source / "ann", PatientID="ann")
    write_patient(source / "bob", rois={"body": TWICE, "GTV": {}}, PatientID="bob")
    for name in ("ann", "bob"):
        # Half a slice off the other's planes. Without a frame of reference only geometry can tell the two apart.
        write_series(
            source / name / "beside", series=f"{name} beside", frame=str(source / name), PatientID=name,
            origin_mm=np.add(ORIGIN_MM, 1.5 * DIRECTION[:, 2]),
        )  # fmt: skip
        edit(source / name / "rs" / "rs.dcm", forget_frame)
    ann, bob = problems_of(source, raw, rois={"x": "NONE"})
    assert ann.startswith("Case 'ann': no ROI matches 'NONE' for label 'x'. It has the ROIs 'GTV'.")
    assert bob.startswith("Case 'bob': no ROI matches 'NONE' for label 'x'. It has the ROIs 'body', 'GTV'.")
    target = convert_rtstruct(
        source, 501, "Test", rois={"GTV": "GTV"}, settings=ConversionSettings(missing="absent", relevance="none")
    )
    assert read(target / "labelsTr" / "ann.nii.gz").sum() == 3 * 15
    assert not read(target / "labelsTr" / "bob.nii.gz").any()
    np.testing.assert_array_equal(read(target / "imagesTr" / "bob_0000.nii.gz"), voxels(0))


# --- the command ---


def test_command(source, raw, capsys):
    write_patient(source / "ann", rois={"GTV": {1: [RECTANGLE_YX]}, "Heart": {1: [INNER_YX]}})
    arguments = ["convert", "rtstruct", str(source), "--dataset", "501", "--name", "Test", "--jobs", "1"]
    assert main([*arguments, "--roi", "tumour=GTV", "--roi", "heart=Heart"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "overlap" in line
    assert list(raw.iterdir()) == []
    assert main([*arguments, "--roi", "tumour=GTV", "--relevance", "fused", "--sigma-mm", "2"]) == 0
    block = json.loads((raw / "Dataset501_Test" / "dataset.json").read_text())["wsl"]
    assert block["relevance_settings"]["sigma_mm"] == [2.0]
    assert main([*arguments, "--roi", "tumour=GTV"]) == 2
    assert "Pass --overwrite" in capsys.readouterr().err
    listed = source.parent / "annotated.csv"
    listed.write_text("case,object,slices\nann_rs,*,1-2\n")
    assert main([*arguments, "--roi", "tumour=GTV", "--overwrite", "--annotated", str(listed)]) == 0
    labels = read(raw / "Dataset501_Test" / "labelsTr" / "ann_rs.nii.gz")
    assert [(plane == 2).any() for plane in labels] == [True, False, False, True, True]
    assert main([*arguments, "--roi", "tumour=GTV", "--overwrite", "--annotated", "no-such-file"]) == 2
    assert "no-such-file: the list of annotated slices cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("roi", [["GTV"], ["a="], ["a=x", "a=y"]])
def test_command_with_bad_rois(source, raw, capsys, roi):
    options = [word for value in roi for word in ("--roi", value)]
    assert main(["convert", "rtstruct", str(source), "--dataset", "1", "--name", "T", *options]) == 2
    assert "error: --roi" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_no_dataset_and_can_be_repeated(source, raw, caplog, how):
    for name in ("ann", "bob"):
        write_patient(source / name)
    # Stops in the middle: the first case is written, the second waits.
    program = f"""
import signal
import time
from pathlib import Path
from nnunet_wsl.conversion import convert_rtstruct, rtstruct
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
read = rtstruct.RTStructCase.read
def slow(self):
    if self.name == "bob":
        Path({str(source)!r}, "reached").touch()
        time.sleep(60)
    return read(self)
rtstruct.RTStructCase.read = slow
convert_rtstruct({str(source)!r}, 501, "Test")
"""
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, env=os.environ.copy())
    deadline = time.monotonic() + 60
    while not (source / "reached").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert list(raw.rglob("ann_0000.nii.gz"))
    process.send_signal(how)
    process.wait(30)
    leftovers = list(raw.iterdir())
    assert len(leftovers) == (0 if how == signal.SIGINT else 1)
    (source / "reached").unlink()
    target = convert_rtstruct(source, 501, "Test")
    assert all(path.name.startswith(".") and f"'{path}' belongs to another run" in caplog.text for path in leftovers)
    assert sorted(raw.iterdir()) == sorted([*leftovers, target])
    assert len(list((target / "imagesTr").iterdir())) == 4


def test_unknown_names_are_refused_together():
    with pytest.raises(InputError) as caught:
        ConversionSettings(between="gate", overlap="first", relevance_mode="Distance", sigma_mm=(2.0,))
    assert sorted(caught.value.problems) == [
        "The conversion's between must be one of ignore, gated, interpolate, not 'gate'.",
        "The conversion's overlap must be one of error, priority, regions, not 'first'.",
        "The conversion's relevance_mode must be one of distance, intensity, both, not 'Distance'.",
    ]
