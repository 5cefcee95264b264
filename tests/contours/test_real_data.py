"""Real structure sets against the publisher's own masks and against facts of the files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from nnunet_wsl.contours import Grid, Repairs, contour_voxels, drawn_slices, place, rasterise, read_rtstruct
from nnunet_wsl.errors import InputError

if "NNUNET_WSL_TEST_DATA" not in os.environ:
    pytest.skip("NNUNET_WSL_TEST_DATA is not set", allow_module_level=True)

DATA = Path(os.environ["NNUNET_WSL_TEST_DATA"])
STS = sorted(path.parents[1] for path in DATA.glob("sts/dicom/*/*/mask/RS.dcm"))
FIXTURES = DATA / "rtstruct_fixtures"


def test_all_soft_tissue_sarcoma_cases_are_there():
    assert len(STS) == 46


@pytest.mark.parametrize("folder", STS, ids=lambda folder: "-".join(folder.parts[-2:]))
def test_masks_are_the_publishers(folder):
    publisher = sitk.ReadImage(DATA / "sts" / "mask_nifti" / folder.parent.name / f"{folder.name}_mask.nii.gz")
    grid = Grid(
        publisher.GetOrigin(),
        publisher.GetSpacing(),
        np.reshape(publisher.GetDirection(), (3, 3)),
        publisher.GetSize()[::-1],
    )
    rtstruct = read_rtstruct(folder / "mask" / "RS.dcm")
    (name,) = rtstruct.contours.objects
    assert name.startswith("GTV_Mass")
    placed = place(rtstruct.selected({"GTV": [name]}), grid, case=folder.name)

    expected = sitk.GetArrayFromImage(publisher) > 0
    mask = rasterise(placed, "GTV")
    dice = 2 * (mask & expected).sum() / (mask.sum() + expected.sum())
    assert dice >= 0.999

    keyholes = {"STS_007/PET": 1, "STS_013/PET": 4}.get("/".join(folder.parts[-2:]), 0)
    assert placed.repairs == ((Repairs("GTV", name, keyhole=keyholes),) if keyholes else ())

    assert drawn_slices(placed, "GTV").tolist() == np.flatnonzero(expected.any(axis=(1, 2))).tolist()
    touched = np.zeros(expected.shape, dtype=bool)
    touched[tuple(contour_voxels(placed, "GTV").T)] = True
    # Between neighbours of one slice, one in and one out, there is a contour: one of the two is touched.
    for axis in (1, 2):
        here, there = np.moveaxis(mask, axis, 0)[:-1], np.moveaxis(mask, axis, 0)[1:]
        near = np.moveaxis(touched, axis, 0)
        assert not ((here != there) & ~near[:-1] & ~near[1:]).any()


def test_breast_plan_of_ten_rois():
    rtstruct = read_rtstruct(FIXTURES / "dicompyler" / "rtss.dcm")
    image = pydicom.dcmread(FIXTURES / "dicompyler" / "ct.0.dcm", stop_before_pixels=True)
    assert rtstruct.problems == {}
    assert {name: len(rtstruct.contours.of(name)) for name in rtstruct.contours.objects} == {
        "BODY": 141,
        "Areola": 0,
        "Borders": 2,
        "Breast": 48,
        "Heart": 33,
        "Lt Lung": 165,
        "Nodes": 4,
        "Scar": 6,
        "Tumor Bed": 18,
        "Tumor Bed Block": 24,
    }
    assert rtstruct.frame_of_reference_uid == image.FrameOfReferenceUID
    assert rtstruct.referenced_series_uids == (image.SeriesInstanceUID,)

    # Of the image's series only the last slice is here.
    grid = Grid(image.ImagePositionPatient, (*image.PixelSpacing, 3), np.eye(3), (1, 512, 512))
    with pytest.raises(InputError) as caught:
        place(rtstruct.contours, grid, case="breast")
    placed = place(rtstruct.contours, grid, case="breast", outside="clip")
    missing = sum(clipping.contours for clipping in placed.clippings)
    assert missing == 441 - len(placed.contours)
    assert len(caught.value.problems) == len(placed.clippings) == 9
    assert [name for name in placed.objects if rasterise(placed, name).any()] == ["BODY"]


@pytest.mark.parametrize("file", ["invalid_reference_rt.dcm", "non_existent_reference_rt.dcm", "../empty/dummy_rt.dcm"])
def test_references_that_lead_nowhere_do_not_stop_reading(file):
    rtstruct = read_rtstruct(FIXTURES / "rt_utils" / "mock_data" / file)
    assert [len(rtstruct.contours.of(name)) for name in rtstruct.contours.objects] == [3, 3, 3, 3]
    assert rtstruct.problems == {}
    if "non_existent" in file:
        assert rtstruct.referenced_series_uids == ()
