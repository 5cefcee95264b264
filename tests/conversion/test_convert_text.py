"""Text contours on small cine series, and on the Sunnybrook Cardiac Data."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

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
    voxels,
    write_series,
)
from pydicom.uid import generate_uid
from scipy.ndimage import map_coordinates

from nnunet_wsl.cli.main import main
from nnunet_wsl.contours.text import FIRST_PIXEL, read_text_contour
from nnunet_wsl.conversion import ConversionSettings, convert_text
from nnunet_wsl.conversion.series import find_dicom
from nnunet_wsl.errors import InputError

DATA = os.environ.get("NNUNET_WSL_TEST_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="NNUNET_WSL_TEST_DATA is not set")

FRAMES = 3
INNER_YX = np.array([(2.5, 3.5), (2.5, 5.5), (3.5, 5.5), (3.5, 3.5)])
"""Encloses the voxel centres y 3, x 4..5, within RECTANGLE_YX."""
REGIONS = ConversionSettings(missing="unknown", overlap="regions")
PRIORITY = ConversionSettings(missing="unknown", overlap="priority")


@pytest.fixture
def raw(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


def frame_voxels(seed, frame):
    return voxels(100 * seed + frame)


def instance(k, frame):
    """Number the frames of a slice one after the other, and the slices against the normal: 1 to 15."""
    return (SHAPE_ZYX[0] - 1 - k) * FRAMES + frame + 1


def write_cine(folder, seed=0):
    """Write a cine series; the times of a frame differ from slice to slice."""
    for frame in range(FRAMES):
        headers = write_series(
            folder, volume=frame_voxels(seed, frame), name=f"f{frame}_", series=str(folder), frame=str(folder)
        )
        for k, header in enumerate(headers):
            header.SOPInstanceUID = generate_uid(entropy_srcs=[str(folder), str(k), str(frame)])
            header.InstanceNumber = instance(k, frame)
            header.TriggerTime = f"{100.0 * frame + 11 * k:.1f}"
            header.save_as(header.filename, enforce_file_format=True)


def write_contour(folder, k, frame, kind, polygon_yx, first_pixel=1):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"IM-0001-{instance(k, frame):04d}-{kind}contour-manual.txt"
    np.savetxt(path, polygon_yx[:, ::-1] + first_pixel, fmt="%.3f")
    return path


def write_patient(source, patient, original, seed=0, shift=0.0):
    """Inner contours on slices 1 to 3 of frames 1 and 2, outer ones on those of frame 1, as of another heart each.

    The shift, less than what lies between a contour and the next voxel centre, tells the contours of patients apart.
    """
    write_cine(source / "dicoms" / patient, seed)
    for k in (1, 2, 3):
        for frame in (1, 2):
            write_contour(source / "contourfiles" / original / "i", k, frame, "i", INNER_YX + shift)
        write_contour(source / "contourfiles" / original / "o", k, 1, "o", RECTANGLE_YX + shift)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    write_patient(folder, "ann", "HF-1")
    write_patient(folder, "bob", "HF-2", seed=1, shift=0.1)
    (folder / "link.csv").write_text("patient_id,original_id\nann,HF-1\nbob,HF-2\n")
    return folder


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def problems_of(source, raw, **arguments):
    """Convert, which must fail and leave nothing; return the problems, which must not tell who the patients are."""
    with pytest.raises(InputError) as caught:
        convert_text(source, 503, "Test", **({"settings": PRIORITY} | arguments))
    assert list(raw.iterdir()) == []
    assert not any(value in problem for problem in caught.value.problems for value in PATIENT.values())
    return caught.value.problems


def only_problem_of(source, raw, **arguments):
    (problem,) = problems_of(source, raw, **arguments)
    return problem


# --- what is written ---


def test_a_case_is_a_patient_and_a_phase_with_contours(source, raw, caplog):
    caplog.set_level(logging.INFO, "nnunet_wsl")
    target = convert_text(source, 503, "Test", settings=PRIORITY)
    cases = ["ann_phase01", "ann_phase02", "bob_phase01", "bob_phase02"]
    assert sorted(path.name for path in (target / "labelsTr").iterdir()) == [f"{case}.nii.gz" for case in cases]
    for seed, name in enumerate(["ann", "bob"]):
        for frame in (1, 2):
            image = sitk.ReadImage(str(target / "imagesTr" / f"{name}_phase{frame:02d}_0000.nii.gz"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), frame_voxels(seed, frame))
            np.testing.assert_allclose(image.GetOrigin(), ORIGIN_MM, atol=1e-4)
            np.testing.assert_allclose(image.GetSpacing()[::-1], SPACING_MM_ZYX, rtol=1e-6)
            np.testing.assert_allclose(image.GetDirection(), DIRECTION.ravel(), atol=1e-6)
    assert not any(value in caplog.text for value in PATIENT.values())


def test_priority_and_what_nobody_drew(source, raw):
    """Phase 2 has no outer contour: what is not inside the inner one may be inside the outer one, on all slices."""
    target = convert_text(source, 503, "Test", settings=PRIORITY)
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[1:4, ROWS, COLUMNS] = 2
    expected[1:4, 3, 4:6] = 1
    unknown = np.full(SHAPE_ZYX, 3, np.uint8)
    unknown[1:4, 3, 4:6] = 1
    for name in ("ann", "bob"):
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{name}_phase01.nii.gz"), expected)
        np.testing.assert_array_equal(read(target / "labelsTr" / f"{name}_phase02.nii.gz"), unknown)
    content = json.loads((target / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "inner": 1, "outer": 2, "ignore": 3}
    assert content["channel_names"]["0"] == "MR"
    assert content["wsl"]["text_contours"] == {"first_pixel": 1.0, "excluded_files": 0}


def test_regions(source, raw):
    """Inner is always in outer where both are known, so an inner voxel is in both where outer is unknown."""
    target = convert_text(source, 503, "Test", settings=REGIONS)
    content = json.loads((target / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "outer": [1, 2], "inner": 2, "ignore": 3}
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[1:4, ROWS, COLUMNS] = 1
    expected[1:4, 3, 4:6] = 2
    unknown = np.full(SHAPE_ZYX, 3, np.uint8)
    unknown[1:4, 3, 4:6] = 2
    np.testing.assert_array_equal(read(target / "labelsTr" / "bob_phase01.nii.gz"), expected)
    np.testing.assert_array_equal(read(target / "labelsTr" / "bob_phase02.nii.gz"), unknown)


def test_what_is_missing_can_be_absent_or_an_error(source, raw):
    target = convert_text(source, 503, "Test", settings=ConversionSettings(missing="absent", overlap="priority"))
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[1:4, 3, 4:6] = 1
    np.testing.assert_array_equal(read(target / "labelsTr" / "ann_phase02.nii.gz"), expected)
    with pytest.raises(InputError) as caught:
        convert_text(source, 504, "Test", settings=ConversionSettings(overlap="priority"))
    assert [problem[:85] for problem in caught.value.problems] == [
        "Case 'ann_phase02': no file has a contour of label 'outer'. Draw it, or say with --mi",
        "Case 'bob_phase02': no file has a contour of label 'outer'. Draw it, or say with --mi",
    ]


def test_overlap_is_an_error_by_default_and_no_other_is_reported(source, raw):
    """The cases that have outer contours are refused, which does not mean that no case had any."""
    problems = problems_of(source, raw, settings=None)
    assert [problem[:64] for problem in problems] == [
        "Case 'ann_phase01': the objects 'inner' and 'outer' overlap in 1",
        "Case 'bob_phase01': the objects 'inner' and 'outer' overlap in 1",
    ]


def test_folds_keep_the_phases_of_a_patient_together(source, raw):
    target = convert_text(source, 503, "Test", settings=PRIORITY)
    (first, second) = json.loads((target / "splits_final.json").read_text())
    ann, bob = (["ann_phase01", "ann_phase02"], ["bob_phase01", "bob_phase02"])
    assert {tuple(map(tuple, (fold["train"], fold["val"]))) for fold in (first, second)} == {
        (tuple(ann), tuple(bob)),
        (tuple(bob), tuple(ann)),
    }


def test_a_series_uid_that_patients_share(source, raw):
    """Of the series the part in a patient's folder counts, with its own Patient ID."""
    for patient in ("ann", "bob"):
        for file in (source / "dicoms" / patient).iterdir():

            def change(header, patient=patient):
                header.PatientID, header.SeriesInstanceUID, header.FrameOfReferenceUID = patient, "1.2.3", "1.2.4"

            edit(file, change)
    target = convert_text(source, 503, "Test", settings=PRIORITY)
    splits = json.loads((target / "splits_final.json").read_text())
    assert sorted(fold["val"] for fold in splits) == [["ann_phase01", "ann_phase02"], ["bob_phase01", "bob_phase02"]]


def test_one_patient_makes_no_folds(source, raw):
    (source / "link.csv").write_text("patient_id,original_id\nann,HF-1\n")
    target = convert_text(source, 503, "Test", settings=PRIORITY, exclude=["contourfiles/HF-2/*"])
    assert sorted(path.name for path in (target / "labelsTr").iterdir()) == ["ann_phase01.nii.gz", "ann_phase02.nii.gz"]
    assert not (target / "splits_final.json").exists()


@pytest.mark.parametrize(("first_pixel", "expected"), [(1, (3, 4)), (0, (4, 5)), (2, (2, 3))])
def test_first_pixel(source, raw, first_pixel, expected):
    """Contours written with 1 as the first centre lie a voxel further on both axes if it is taken to be 0."""
    only_inner = {"inner": "*-{instance}-icontour-*.txt"}
    target = convert_text(source, 503, "Test", contours=only_inner, first_pixel=first_pixel)
    y, x = expected
    for case in ("ann_phase01", "bob_phase02"):
        labels = read(target / "labelsTr" / f"{case}.nii.gz")
        assert np.argwhere(labels[1]).tolist() == [[y, x], [y, x + 1]]


def test_other_names_labels_and_series_without_phases(tmp_path, raw):
    """A static series: a number per slice, two contours on one of them, other files beside."""
    source = tmp_path / "source"
    for seed, patient in enumerate(["ann", "bob"]):
        for k, header in enumerate(write_series(source / "in" / patient, seed=seed, series=patient, frame=patient)):
            edit(header.filename, lambda dataset, k=k: setattr(dataset, "InstanceNumber", 50 - k))
        drawn = source / "out" / patient
        drawn.mkdir(parents=True)
        first, second = INNER_YX + seed / 10 + 1, INNER_YX + np.array([3, 5 + seed / 10])
        np.savetxt(drawn / "49_ROI-A.TXT", first[:, ::-1])
        np.savetxt(drawn / "49_roi-b.txt", second[:, ::-1])
        (drawn / "49-p1-manual.txt").write_text("1 2")
        (drawn / "._49_roi-a.txt").write_bytes(b"\x00\x05\x16\x07")
    (source / "link.csv").write_text("patient_id,age,original_id\nin/ann,,out/ann\nin/bob,,out/bob\n")
    settings = ConversionSettings(annotated="all")
    target = convert_text(source, 503, "Test", contours={"organ": "{instance}_roi-?.txt"}, settings=settings)
    assert sorted(path.name for path in (target / "labelsTr").iterdir()) == ["ann_phase00.nii.gz", "bob_phase00.nii.gz"]
    labels = read(target / "labelsTr" / "ann_phase00.nii.gz")
    assert np.argwhere(labels).tolist() == [[1, 3, 4], [1, 3, 5], [1, 5, 8], [1, 5, 9]]


def test_annotated_file_names_cases(source, raw, tmp_path):
    """What is known can be said per case: phase 2 of ann has no outer contour, and no object at all on slice 4."""
    listed = tmp_path / "annotated.json"
    listed.write_text(json.dumps({"ann_phase02": {"outer": "4"}}))
    settings = ConversionSettings(missing="unknown", overlap="priority", annotated_file=listed)
    target = convert_text(source, 503, "Test", settings=settings)
    labels = read(target / "labelsTr" / "ann_phase02.nii.gz")
    assert (labels[4] == 0).all()
    assert (labels[0] == 3).all()


def test_frames_of_reference_of_single_images_are_ignored(source, raw, caplog):
    for number, path in enumerate(sorted((source / "dicoms").rglob("*.dcm"))):
        edit(path, lambda dataset, n=number: setattr(dataset, "FrameOfReferenceUID", f"1.2.3.4.{n}"))
    convert_text(source, 503, "Test", settings=PRIORITY)
    assert "every image of the series in folder 'dicoms/ann'" in caplog.text
    assert "1.2.3.4" not in caplog.text


# --- phases ---


def phases_of(folder):
    (series,) = find_dicom(folder).series
    return series.phases()


def test_some_images_in_another_frame_of_reference(source, raw):
    edit(next((source / "dicoms" / "ann").iterdir()), lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"))
    assert "its slices are in 2 frames of reference; expected one" in only_problem_of(source, raw)


def test_phases_follow_the_trigger_time_not_the_instance_number(tmp_path):
    write_cine(tmp_path / "cine")

    def turn(dataset):
        dataset.TriggerTime = 1000.0 - float(dataset.TriggerTime)

    for path in (tmp_path / "cine").iterdir():
        edit(path, turn)
    phases = phases_of(tmp_path)
    assert len(phases) == FRAMES
    for frame, phase in enumerate(phases):
        assert phase.grid().shape_zyx == SHAPE_ZYX
        np.testing.assert_array_equal(phase.read(), frame_voxels(0, FRAMES - 1 - frame))


@pytest.mark.parametrize("time", [None, 0.0], ids=["one image has no time", "all times are equal"])
def test_without_trigger_time_phases_follow_the_instance_number(tmp_path, time):
    write_cine(tmp_path / "cine")
    for path in sorted((tmp_path / "cine").iterdir())[0 if time == 0 else -1 :]:  # the last is of the last frame
        edit(path, lambda dataset: setattr(dataset, "TriggerTime", time))
    for frame, phase in enumerate(phases_of(tmp_path)):
        np.testing.assert_array_equal(phase.read(), frame_voxels(0, frame))


def test_frames_in_no_order(tmp_path):
    write_cine(tmp_path / "cine")
    for path in (tmp_path / "cine").iterdir():
        edit(path, lambda dataset: dataset.update({"TriggerTime": None, "InstanceNumber": None}))
    with pytest.raises(InputError, match=r"nothing tells which of .* at one position, comes first"):
        phases_of(tmp_path)


def test_a_missing_frame(tmp_path):
    write_cine(tmp_path / "cine")
    (tmp_path / "cine" / "f1_003.dcm").unlink()
    expected = r"4 of 5 slice positions have 3 frames, but that of 'cine/f[02]_003\.dcm' has 2; expected one number"
    with pytest.raises(InputError, match=expected):
        phases_of(tmp_path)


def test_a_missing_position_is_missing_in_every_phase(tmp_path):
    write_cine(tmp_path / "cine")
    for path in (tmp_path / "cine").glob("*_003.dcm"):
        path.unlink()
    with pytest.raises(InputError, match=r"missing slice.*6\.000 mm apart, expected 3\.000 mm"):
        phases_of(tmp_path)[1].grid()


def test_frames_of_a_slice_whose_positions_are_rounded_otherwise(tmp_path):
    write_cine(tmp_path / "cine")
    for frame in range(FRAMES):
        off_mm = 1e-3 * frame * DIRECTION[:, 2]
        for path in (tmp_path / "cine").glob(f"f{frame}_*"):
            edit(path, lambda d, mm=off_mm: setattr(d, "ImagePositionPatient", list(d.ImagePositionPatient + mm)))
    phases = phases_of(tmp_path)
    assert [phase.grid().shape_zyx for phase in phases] == [SHAPE_ZYX] * FRAMES


def test_a_series_without_frames_is_its_only_phase(tmp_path):
    write_series(tmp_path / "image")
    (phase,) = phases_of(tmp_path)
    np.testing.assert_array_equal(phase.read(), voxels())


def test_a_cine_series_of_one_slice(tmp_path):
    for frame in range(2):
        (header,) = write_series(
            tmp_path,
            volume=voxels(frame)[:1],
            name=f"f{frame}_",
            origin_mm=ORIGIN_MM + 1e-4 * frame * DIRECTION[:, 2],  # rounded otherwise
            SpacingBetweenSlices=8,
        )
        edit(header.filename, lambda dataset, n=frame: setattr(dataset, "InstanceNumber", n))
    phases = phases_of(tmp_path)
    assert [phase.grid().shape_zyx for phase in phases] == [(1, *SHAPE_ZYX[1:])] * 2
    np.testing.assert_array_equal(phases[1].read(), voxels(1)[:1])


# --- what is refused ---


def test_contours_of_two_patients_that_are_the_same(source, raw):
    """Frame 1 of bob gets the outer contours of ann, in a file that differs in its line endings."""
    for k in (1, 2):
        name = f"o/IM-0001-{instance(k, 1):04d}-ocontour-manual.txt"
        text = (source / "contourfiles" / "HF-1" / name).read_bytes().replace(b"\n", b"\r\n")
        (source / "contourfiles" / "HF-2" / name).write_bytes(text)
    assert only_problem_of(source, raw) == (
        "2 contours 'outer' of 'HF-2' are, point by point, those of 'HF-1'; expected those of two patients to differ. "
        "The first are 'contourfiles/HF-2/o/IM-0001-0008-ocontour-manual.txt' and "
        "'contourfiles/HF-1/o/IM-0001-0008-ocontour-manual.txt'. See whose images they fit, and leave the others out "
        "with --exclude 'contourfiles/HF-2/o/*-*-ocontour-*.txt' or "
        "--exclude 'contourfiles/HF-1/o/*-*-ocontour-*.txt'."
    )
    target = convert_text(source, 503, "Test", settings=PRIORITY, exclude=["contourfiles/HF-2/o/*-*-ocontour-*.txt"])
    assert set(np.unique(read(target / "labelsTr" / "ann_phase01.nii.gz"))) == {0, 1, 2}
    assert set(np.unique(read(target / "labelsTr" / "bob_phase01.nii.gz"))) == {1, 3}
    assert json.loads((target / "dataset.json").read_text())["wsl"]["text_contours"]["excluded_files"] == 3


def write_second_annotator(folder, name):
    """Draw the inner contour of frame 1 on slices 1 and 2 again, one voxel to the right."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in (1, 2):
        np.savetxt(folder / name.format(instance(k, 1)), INNER_YX[:, ::-1] + np.array([2, 1]), fmt="%.3f")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("i", "IM-0001-{:04d}-icontour-auto.txt"),
        ("i", "IM-0001-{:05d}-icontour-manual.txt"),
        ("auto", "IM-0001-{:04d}-icontour-manual.txt"),
    ],
    ids=["another text for *", "another way to write the number", "another folder"],
)
def test_contours_of_two_annotators_are_not_united(source, raw, folder, name):
    drawn = source / "contourfiles" / "HF-2"
    write_second_annotator(drawn / folder, name)
    problem = only_problem_of(source, raw)
    assert problem.startswith("'contourfiles/HF-2' has 2 contour files too many of label 'inner': an image has another")
    both = {"contourfiles/HF-2/i/IM-0001-0008-icontour-manual.txt", f"contourfiles/HF-2/{folder}/{name}".format(8)}
    assert {problem.split("'")[5], problem.split("'")[7]} == both
    assert ", for Instance Number 8; expected files of one annotator" in problem


def test_a_narrower_pattern_or_an_exclusion_chooses_an_annotator(source, raw):
    write_second_annotator(source / "contourfiles" / "HF-2" / "i", "IM-0001-{:04d}-icontour-auto.txt")
    contours = {"inner": "*-{instance}-icontour-manual.txt", "outer": "*-{instance}-ocontour-*.txt"}
    narrow = convert_text(source, 503, "Narrow", settings=PRIORITY, contours=contours)
    without = convert_text(source, 504, "Without", settings=PRIORITY, exclude=["*-AUTO.txt"])
    for target in (narrow, without):
        labels = read(target / "labelsTr" / "bob_phase01.nii.gz")
        assert np.argwhere(labels[2] == 1).tolist() == [[3, 4], [3, 5]]


def test_a_contour_that_one_patient_has_on_two_slices_is_no_mistake(source, raw):
    """That is how the phantoms are drawn."""
    convert_text(source, 503, "Test", settings=PRIORITY)


def test_a_patient_whose_contours_are_excluded_is_left_out(source, raw):
    target = convert_text(source, 503, "Test", settings=PRIORITY, exclude=["*/HF-2/*"])
    assert sorted(path.name for path in (target / "labelsTr").iterdir()) == ["ann_phase01.nii.gz", "ann_phase02.nii.gz"]


def test_the_proposed_exclusions_match_folders_with_brackets(source, raw):
    drawn, old = source / "contourfiles" / "HF-2", source / "data [old]"
    old.mkdir()
    for path in (drawn / "i").iterdir():
        (old / path.name).write_bytes(path.read_bytes())
    problem = only_problem_of(source, raw)
    assert "'data [old]' has 6 contour files" in problem
    proposed = re.search("--exclude '(.*?)'", problem)[1]
    assert proposed == "data [old]/*"
    target = convert_text(source, 503, "Test", settings=PRIORITY, exclude=[proposed])
    assert json.loads((target / "dataset.json").read_text())["wsl"]["text_contours"]["excluded_files"] == 6


def test_letter_case_does_not_matter_to_an_exclusion(source, raw):
    target = convert_text(source, 503, "Test", settings=PRIORITY, exclude=["*/hf-2/?/*"])
    assert not [path for path in (target / "labelsTr").iterdir() if path.name.startswith("bob")]


def test_everything_is_excluded(source, raw):
    assert only_problem_of(source, raw, exclude=["*"]).startswith(
        f"No contour file below '{source}' is left to convert: 18 are excluded, and no other matches "
    )


def test_an_exclusion_that_matches_nothing(source, raw):
    assert only_problem_of(source, raw, exclude=["HF-2/*"]) == (
        f"--exclude 'HF-2/*' matches no contour file. Give the path below '{source}', with * for any text."
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, r"There is no '.*link\.csv'\. Write it, with a line 'patient_id,original_id'"),
        ("", r"has the columns of an empty file; expected patient_id,original_id"),
        ("patient,contours\nann,HF-1\n", r"has the columns patient, contours; expected patient_id,original_id"),
        ("patient_id,original_id\n", "lists no patient"),
        ("patient_id,original_id\nann,HF-1\nbob\n", "patient 2: expected a folder in each of the columns"),
        ("patient_id,original_id\nann,HF-1\nbob,HF-1\n", "names 'HF-1' 2 times in the column original_id"),
        ("patient_id,original_id\nann,HF-1\nann,HF-2\n", "names 'ann' 2 times in the column patient_id"),
        ("patient_id,original_id\nann,HF-1\ndicoms/ann,HF-2\n", "patient_id, for two patients 'dicoms/ann' and 'd"),
        ("patient_id,original_id\nann,HF-1\nbob,HF-1/i\n", "original_id, for two patients '.*HF-1' and '.*HF-1/i'"),
        (
            "patient_id,original_id\nann,HF-1\n",
            r"'contourfiles/HF-2/i' has 6 contour files, but 'link\.csv' does not list the folder\. Add a line",
        ),
        (
            "patient_id,original_id\nann,HF-1\nbob,HF-3\n",
            r"names the folder 'HF-3' in the column original_id, but no folder of that name has contour files",
        ),
        (
            "patient_id,original_id\nann,HF-1\ncid,HF-2\n",
            r"names the folder 'cid' in the column patient_id, but no folder of that name has DICOM images",
        ),
        (
            "patient_id,original_id\nann,i\nbob,HF-2\n",
            r"names the folder 'i' .* there are 2: 'contourfiles/HF-1/i', 'contourfiles/HF-2/i'\. Write more of its",
        ),
    ],
)
def test_link_file(source, raw, content, expected):
    (source / "link.csv").unlink()
    if content is not None:
        (source / "link.csv").write_text(content)
    assert re.search(expected, problems_of(source, raw)[0])


def test_a_number_of_no_image(source, raw):
    for path in (source / "dicoms" / "bob").glob("*_003.dcm"):  # slice 2 of 5
        path.unlink()
    assert only_problem_of(source, raw) == (
        "Patient 'bob': 3 of 9 contour files have the number of no image. The first is "
        "'contourfiles/HF-2/i/IM-0001-0008-icontour-manual.txt': expected an image with Instance Number 8 in the "
        "series in folder 'dicoms/bob' (MR, 12 files from 'f0_001.dcm' on). Restore the images, or leave the files "
        "out with --exclude."
    )


def test_faulty_contour_files_are_reported_together(source, raw):
    folder = source / "contourfiles" / "HF-1" / "i"
    first, second, third = sorted(folder.iterdir())[:3]
    first.write_text("1 2\n3 4\n")
    second.write_text("1 2\n3 4 5\n6 7\n")
    third.write_bytes(b"\xff\xfe")
    problems = problems_of(source, raw)
    assert [problem.split("'")[1] for problem in problems] == [str(first), str(second), str(third)]


def test_contours_outside_the_image(source, raw):
    """The image ends at x 10.5; the contour at 12.5 lies 2 voxels of 1.1 mm beyond."""
    path = write_contour(source / "contourfiles" / "HF-1" / "i", 2, 1, "i", RECTANGLE_YX + np.array([0, 5]))
    assert only_problem_of(source, raw) == (
        f"Case 'ann_phase01': contour 1 of ROI '{path.relative_to(source)}' lies 2.20 mm outside the image grid "
        "(allowed 0.55 mm). Check that the contours were drawn on this image, or pass --outside clip."
    )
    settings = ConversionSettings(missing="unknown", overlap="priority", outside="clip")
    target = convert_text(source, 503, "Test", settings=settings)
    with (target / "wsl_report.csv").open() as file:
        clipped = [row["clipped_contours"] for row in csv.DictReader(file)]
    assert clipped == ["1", *["0"] * 7]


def test_two_series_with_the_same_numbers(source, raw):
    write_cine(source / "dicoms" / "ann" / "again", seed=3)
    problem = only_problem_of(source, raw)
    assert problem.startswith("Patient 'ann': 2 series have the Instance Numbers of all its contour files: the series")
    for path in (source / "dicoms" / "ann" / "again").iterdir():
        edit(path, lambda dataset: setattr(dataset, "Modality", "CT"))
    target = convert_text(source, 503, "Test", settings=PRIORITY, modality="MR")
    np.testing.assert_array_equal(read(target / "imagesTr" / "ann_phase01_0000.nii.gz"), frame_voxels(0, 1))


def test_no_series_of_the_modality(source, raw):
    problems = problems_of(source, raw, modality="CT")
    assert problems[0] == (
        "Patient 'ann': no image series of modality CT in 'dicoms/ann'; those there are MR. Change --modality."
    )
    assert len(problems) == 2


def test_images_without_modality(source, raw):
    for path in (source / "dicoms" / "ann").rglob("*.dcm"):
        edit(path, lambda dataset: setattr(dataset, "Modality", ""))
    assert "have no Modality" in only_problem_of(source, raw)  # once for all phases
    problems = problems_of(source, raw, modality="CT")
    assert "in 'dicoms/ann'; those there are none. Change --modality." in problems[0]


def test_a_long_axis_series_beside_is_told_apart_by_its_numbers(source, raw):
    write_cine(source / "dicoms" / "ann" / "long_axis", seed=3)
    for path in (source / "dicoms" / "ann" / "long_axis").iterdir():
        edit(path, lambda dataset: setattr(dataset, "InstanceNumber", dataset.InstanceNumber + 9))
    target = convert_text(source, 503, "Test", settings=PRIORITY)
    np.testing.assert_array_equal(read(target / "imagesTr" / "ann_phase01_0000.nii.gz"), frame_voxels(0, 1))


def test_two_images_of_one_number(source, raw):
    for path in (source / "dicoms" / "ann").glob("f0_*"):
        edit(path, lambda dataset: setattr(dataset, "InstanceNumber", dataset.InstanceNumber + 1))
    assert "2 images of the series in folder 'dicoms/ann' (MR, 15 files" in only_problem_of(source, raw)


@pytest.mark.parametrize(
    ("contours", "expected"),
    [
        ({"inner": "*icontour*"}, r"--contour 'inner=\*icontour\*': expected one \{instance\} where .* found 0"),
        ({"inner": "{instance}-{instance}"}, "found 2"),
        ({"ignore": "*-{instance}-i*.txt"}, "Label 'ignore' cannot be used"),
        ({"heart": "*-{instance}-*.txt", "inner": "*-{instance}-i*.txt"}, "matches the labels 'heart', 'inner'"),
        ({"inner": "{instance}.txt"}, r"No contour file below .* no other matches '\{instance\}\.txt'"),
    ],
)
def test_patterns(source, raw, contours, expected):
    assert re.search(expected, problems_of(source, raw, contours=contours)[0])


def test_the_source_is_no_folder(source, raw):
    assert only_problem_of(source / "nowhere", raw).startswith(f"Source '{source / 'nowhere'}' is not a folder.")


# --- the command ---


def test_command(source, raw, capsys):
    """Its default is that what is not drawn is unknown."""
    command = ["convert", "text", str(source), "--dataset", "503", "--name", "Test", "--jobs", "1"]
    assert main([*command, "--overlap", "regions"]) == 0
    content = json.loads((raw / "Dataset503_Test" / "dataset.json").read_text())
    assert content["wsl"]["missing"] == "unknown"
    options = ["--contour", "blood=*-{instance}-icontour-*.txt", "--exclude", "*/HF-2/*", "--first-pixel", "1"]
    assert main([*command, *options, "--overwrite"]) == 0
    content = json.loads((raw / "Dataset503_Test" / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "blood": 1}
    capsys.readouterr()
    for pattern in ("inner", "inner="):
        assert main([*command, "--contour", pattern]) == 2
        assert "is not LABEL=PATTERN" in capsys.readouterr().err
    assert main([*command, "--contour", "a={instance}", "--contour", "a=x{instance}"]) == 2
    assert "--contour names 'a' twice" in capsys.readouterr().err


# --- the Sunnybrook Cardiac Data ---


@pytest.fixture
def sunnybrook():
    return Path(str(DATA), "sunnybrook")


OUTER_OF_6 = "contourfiles/SC-HF-I-6/o-contours/*"


@needs_data
def test_sunnybrook_has_the_outer_contours_of_one_patient_twice(sunnybrook, raw):
    problem = only_problem_of(sunnybrook, raw)
    assert problem.startswith("9 contours 'outer' of 'SC-HF-I-6' are, point by point, those of 'SC-HF-I-1'; expected")
    assert "--exclude 'contourfiles/SC-HF-I-6/o-contours/" in problem


@needs_data
def test_sunnybrook_by_priority(sunnybrook, raw):
    """The areas are those of the polygons by the shoelace formula, straight from the files."""
    target = convert_text(sunnybrook, 503, "Test", settings=PRIORITY, exclude=[OUTER_OF_6])
    names = {"SCD0000101": "SC-HF-I-1", "SCD0000201": "SC-HF-I-2", "SCD0000501": "SC-HF-I-6"}
    cases = [f"{name}_phase{phase:02d}" for name in names for phase in range(2)]
    assert sorted(path.name for path in (target / "labelsTr").iterdir()) == [f"{case}.nii.gz" for case in cases]
    # Slices are 10, 10 and 8 mm apart along the normal, though Slice Location steps by 6.72, 6.68 and 5.71.
    for name, (slices, spacing_mm) in zip(names, [(9, 10.0), (9, 10.0), (11, 8.0)], strict=True):
        for phase in range(2):
            image = sitk.ReadImage(str(target / "labelsTr" / f"{name}_phase{phase:02d}.nii.gz"))
            assert image.GetSize() == (256, 256, slices)
            np.testing.assert_allclose(image.GetSpacing(), (1.3672, 1.3672, spacing_mm), atol=1e-3)
            labels = sitk.GetArrayFromImage(image)
            if phase == 1 and name != "SCD0000501":
                assert set(np.unique(labels)) == {0, 1, 2}
            else:
                assert set(np.unique(labels)) == {1, 3}
    with (target / "wsl_report.csv").open() as file:
        rows = {(row["case"], row["object"]): row for row in csv.DictReader(file)}
    for name, original in names.items():
        area = {"i": 0.0, "o": 0.0}
        for path in (sunnybrook / "contourfiles" / original).rglob("*.txt"):
            x, y = np.loadtxt(path).T
            area[path.name[13]] += abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        voxel_mm3 = 1.3672**2 * (8 if original == "SC-HF-I-6" else 10)
        inner_mm3 = sum(float(rows[f"{name}_phase{phase:02d}", "inner"]["volume_mm3"]) for phase in range(2))
        assert inner_mm3 == pytest.approx(area["i"] * voxel_mm3, rel=0.01)
        outer = rows[f"{name}_phase01", "outer"]
        if original == "SC-HF-I-6":
            assert (outer["drawn_slices"], outer["known_slices"]) == ("0", "0")
        else:
            assert float(outer["volume_mm3"]) == pytest.approx(area["o"] * voxel_mm3, rel=0.01)
        assert rows[f"{name}_phase00", "outer"]["known_slices"] == "0"
        # The heart is full in the phase that has outer contours.
        assert float(rows[f"{name}_phase01", "inner"]["volume_mm3"]) > 1.3 * float(
            rows[f"{name}_phase00", "inner"]["volume_mm3"]
        )


@needs_data
def test_sunnybrook_by_regions(sunnybrook, raw):
    target = convert_text(sunnybrook, 503, "Test", settings=REGIONS, exclude=[OUTER_OF_6])
    content = json.loads((target / "dataset.json").read_text())
    assert list(content["labels"]) == ["background", "outer", "inner", "ignore"]
    both = set(content["labels"]["outer"]) & set(content["labels"]["inner"])
    labels = read(target / "labelsTr" / "SCD0000201_phase01.nii.gz")
    assert both <= set(np.unique(labels).tolist())
    assert content["labels"]["ignore"] not in labels
    # Of 23 159 voxels in inner contours one is not in the outer one; that does not make the others doubtful.
    for case in ("SCD0000101_phase00", "SCD0000201_phase00", "SCD0000501_phase00", "SCD0000501_phase01"):
        labels = read(target / "labelsTr" / f"{case}.nii.gz")
        assert set(np.unique(labels).tolist()) == both | {content["labels"]["ignore"]}


def edge_offsets(image_yx, points_xy):
    """How far the steepest edges, bright inside, lie from a contour, in pixels: radially outwards, in x, in y."""
    steps = np.linspace(0, 1, len(points_xy) + 1)
    closed = np.vstack([points_xy, points_xy[:1]])
    t = np.arange(120) / 120
    z = np.interp(t, steps, closed[:, 0]) + 1j * np.interp(t, steps, closed[:, 1])
    waves = np.fft.fftfreq(120, 1 / 120)
    spectrum = np.where(np.abs(waves) <= 6, np.fft.fft(z), 0)  # smooths half-pixel steps away
    z, tangent = np.fft.ifft(spectrum), np.fft.ifft(spectrum * 1j * waves)
    normal = -1j * tangent / np.abs(tangent)
    if np.real(np.conj(z - z.mean()) * normal).sum() < 0:
        normal = -normal
    distance = np.arange(-2.5, 2.55, 0.1)
    line = z[:, None] + normal[:, None] * distance
    slope = -np.gradient(map_coordinates(image_yx, [line.imag, line.real], order=3), axis=1)
    best = slope.argmax(axis=1)
    kept = (best > 2) & (best < len(distance) - 3) & (slope.max(axis=1) > 0.7 * np.median(slope.max(axis=1)))
    design = np.stack([np.ones(kept.sum()), normal.real[kept], normal.imag[kept]], axis=1)
    return np.linalg.lstsq(design, distance[best[kept]], rcond=None)[0]


@needs_data
def test_sunnybrook_contours_lie_on_edges_if_pixels_are_counted_from_1(sunnybrook):
    """Read with the right convention, they need not be displaced to lie on the edges of the image, in any patient."""
    folders = {"SC-HF-I-1": "SCD0000101", "SC-HF-I-2": "SCD0000201", "SC-HF-I-6": "SCD0000501"}
    for original, folder in folders.items():
        offsets = {0.0: [], 0.5: [], 1.0: [], 1.5: []}
        for path in sorted((sunnybrook / "contourfiles" / original / "i-contours").iterdir()):
            file = sunnybrook / "dicoms" / folder / f"{int(path.name[8:12])}.dcm"
            image_yx = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0].astype(float)
            for first_pixel, found in offsets.items():
                found.append(edge_offsets(image_yx, read_text_contour(path) - first_pixel)[1:])
        mean = {first_pixel: np.mean(found, axis=0) for first_pixel, found in offsets.items()}
        assert np.abs(mean[1.0]).max() < 0.2
        for other in (0.0, 0.5, 1.5):
            assert np.linalg.norm(mean[other]) > 1.5 * np.linalg.norm(mean[1.0])
        assert (mean[0.0] < mean[0.5]).all()
        assert (mean[0.5] < 0).all()
        assert (mean[1.5] > 0).all()
    assert FIRST_PIXEL == 1.0


@pytest.mark.parametrize("script", ["Dataset501_SoftTissueSarcoma.py", "Dataset503_Sunnybrook.py"])
def test_scripts_tell_errors_as_the_command_does(raw, tmp_path, script):
    path = Path(__file__).parents[2] / "dataset_conversion" / script
    done = subprocess.run([sys.executable, path, tmp_path / "nowhere"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@needs_data
def test_the_script_of_this_dataset(sunnybrook, tmp_path):
    script = Path(__file__).parents[2] / "dataset_conversion" / "Dataset503_Sunnybrook.py"
    command = [sys.executable, script, sunnybrook, "--jobs", "1"]
    subprocess.run(command, check=True, env=os.environ | {"nnUNet_raw": str(tmp_path / "raw")}, capture_output=True)
    (target,) = (tmp_path / "raw").iterdir()
    assert target.name == "Dataset503_Sunnybrook"
    assert len(list((target / "labelsTr").iterdir())) == 6
