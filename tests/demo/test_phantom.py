from __future__ import annotations

import numpy as np
import pydicom
import pytest
from scipy.ndimage import label

from nnunet_wsl.contours import read_rtstruct
from nnunet_wsl.conversion.series import find_dicom
from nnunet_wsl.demo.phantom import ANNOTATED_STEP, OBJECTS, Phantom


@pytest.fixture(scope="module")
def phantom():
    return Phantom.random(5)


def test_the_same_seed_is_the_same_patient(phantom):
    again, other = Phantom.random(5), Phantom.random(6)
    assert np.array_equal(again.image, phantom.image)
    assert not np.array_equal(other.image, phantom.image)
    assert not np.array_equal(other.label_map(), phantom.label_map())


def test_objects_are_what_they_are_meant_to_be(phantom):
    labels = phantom.label_map()
    for value, name in enumerate(OBJECTS, start=1):
        _, parts = label(labels == value)
        assert parts == 1, name
        inside, outside = phantom.image[labels == value].mean(), phantom.image[labels == 0].mean()
        assert inside > outside + 30, name
    # The spine has a canal: its mask encloses background on every slice.
    for k in range(len(labels)):
        _, regions = label(labels[k] != 2)
        assert regions >= 2


def test_annotators_draw_every_third_slice_and_both_ends(phantom):
    def slices(contours):
        return sorted({round(phantom.grid.to_voxel_xyz(c.points_mm)[0, 2]) for c in contours})

    drawn = phantom.annotated_contours()
    for name in OBJECTS:
        complete, annotated = slices(phantom.contours.of(name)), slices(drawn.of(name))
        assert annotated == complete[::ANNOTATED_STEP]
        assert annotated[-1] == complete[-1]


def test_files_give_back_the_patient(phantom, tmp_path):
    phantom.write_dicom(tmp_path / "patient", with_contours=True)
    found = find_dicom(tmp_path)
    (series,), (path,) = found.series, found.rtstructs
    grid = series.grid()
    assert np.array_equal(series.read(), phantom.image)
    assert grid.shape_zyx == phantom.grid.shape_zyx
    np.testing.assert_allclose(grid.origin_mm, phantom.grid.origin_mm, atol=1e-5)
    np.testing.assert_allclose(grid.direction, phantom.grid.direction, atol=1e-5)
    contours = read_rtstruct(path).selected({name: [name] for name in OBJECTS})
    expected = phantom.annotated_contours()
    assert len(contours.contours) == len(expected.contours)
    for contour, original in zip(contours.contours, expected.contours, strict=True):
        np.testing.assert_allclose(contour.points_mm, original.points_mm, atol=1e-3)
    header = pydicom.dcmread(tmp_path / "patient" / "ct_001.dcm")
    assert header.pixel_array.shape == phantom.image.shape[1:]


def test_without_contours_there_is_no_structure_set(phantom, tmp_path):
    phantom.write_dicom(tmp_path, with_contours=False)
    assert not list(tmp_path.glob("rtstruct*"))
