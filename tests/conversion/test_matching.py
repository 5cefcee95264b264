from __future__ import annotations

import numpy as np
import pytest
from conversion.phantom import (
    DIRECTION,
    ORIGIN_MM,
    PATIENT,
    RECTANGLE_YX,
    edit,
    forget_frame,
    forget_references,
    grid,
    write_contours,
    write_series,
)

from nnunet_wsl.contours import read_rtstruct
from nnunet_wsl.conversion.matching import match_series
from nnunet_wsl.conversion.series import find_dicom
from nnunet_wsl.errors import InputError

ROIS = {"GTV": {key: [RECTANGLE_YX] for key in (1, 2, 3)}}
OTHER_PLANES_MM = tuple(np.array(ORIGIN_MM) + 1.5 * DIRECTION[:, 2])


def match(folder, modality=None, outside="error"):
    found = find_dicom(folder)
    (path,) = found.rtstructs
    rtstruct = read_rtstruct(path)
    series = match_series(rtstruct, lambda: rtstruct.contours, found.series, modality, outside)
    return series and series.slices[0].path.parent.name


def forget_series(dataset):
    for frame in dataset.ReferencedFrameOfReferenceSequence:
        frame.RTReferencedStudySequence = []


def refer_to(series_headers):
    def change(dataset):
        (study,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
        study.RTReferencedSeriesSequence[0].SeriesInstanceUID = series_headers[0].SeriesInstanceUID

    return change


def also_refer_to(series_headers):
    def change(dataset):
        (study,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
        (first,) = study.RTReferencedSeriesSequence
        second = type(first)()
        second.SeriesInstanceUID = series_headers[0].SeriesInstanceUID
        study.RTReferencedSeriesSequence = [first, second]

    return change


@pytest.fixture
def two_series(tmp_path):
    """An MR series with its structure set, and a PET series on other planes in the same frame of reference."""
    headers = write_series(tmp_path / "mr", series="mr")
    write_contours(tmp_path / "rs" / "rs.dcm", headers, ROIS)
    pet = write_series(tmp_path / "pet", series="pet", modality="PT", origin_mm=OTHER_PLANES_MM)
    return tmp_path, headers, pet


def test_by_referenced_series(two_series):
    folder, _, pet = two_series
    assert match(folder) == "mr"
    assert match(folder, "MR") == "mr"
    # The reference counts, not where the contours fit: a wrong reference must show up as an error later.
    edit(folder / "rs" / "rs.dcm", refer_to(pet))
    assert match(folder) == "pet"


def test_a_structure_set_of_another_modality_is_no_case(two_series):
    folder = two_series[0]
    assert match(folder, "PT") is None
    edit(folder / "rs" / "rs.dcm", forget_references)
    assert match(folder, "PT") is None


def test_by_referenced_images(two_series):
    folder = two_series[0]
    edit(folder / "rs" / "rs.dcm", forget_series)
    assert match(folder) == "mr"


def test_by_frame_of_reference_and_planes(two_series):
    folder = two_series[0]
    edit(folder / "rs" / "rs.dcm", forget_references)
    assert match(folder) == "mr"


def test_by_frame_of_reference_alone(tmp_path):
    """One series in the frame of reference is taken, also if the contours do not fit: placing them says why."""
    headers = write_series(tmp_path / "mr", series="mr")
    write_contours(tmp_path / "rs" / "rs.dcm", headers, ROIS)
    for header in headers:
        header.filename.unlink()
    write_series(tmp_path / "pet", series="pet", origin_mm=OTHER_PLANES_MM)
    write_series(tmp_path / "other", series="other", frame="other")
    assert match(tmp_path) == "pet"


def test_by_geometry_where_the_structure_set_has_no_frame_of_reference(two_series):
    folder = two_series[0]
    edit(folder / "rs" / "rs.dcm", forget_frame)
    assert match(folder) == "mr"


def test_by_geometry_where_the_images_have_no_frame_of_reference(two_series):
    folder, headers, pet = two_series
    edit(folder / "rs" / "rs.dcm", forget_references)
    for header in (*headers, *pet):
        edit(header.filename, lambda d: delattr(d, "FrameOfReferenceUID"))
    assert match(folder) == "mr"


@pytest.fixture
def without_frame(tmp_path):
    """Contours that leave the image of an MR series by 2.5 voxels, and name neither series nor frame of reference."""
    headers = write_series(tmp_path / "mr", series="mr")
    beyond = np.add(RECTANGLE_YX, (4.5, 0))  # y 6 to 9; the image ends at 6.5
    write_contours(tmp_path / "rs" / "rs.dcm", headers, {"GTV": {2: [beyond]}})
    edit(tmp_path / "rs" / "rs.dcm", forget_frame)
    return tmp_path


def test_by_geometry_with_contours_that_leave_the_image(without_frame):
    write_series(without_frame / "beside", series="beside", origin_mm=grid().to_mm([(0, -20, 0)])[0])
    write_series(without_frame / "pet", series="pet", modality="PT", origin_mm=OTHER_PLANES_MM)
    with pytest.raises(InputError, match="no image series matches it"):
        match(without_frame)
    assert match(without_frame, outside="clip") == "mr"


def test_an_image_that_holds_the_contours_whole_comes_before_one_that_cuts_them(without_frame):
    write_series(without_frame / "whole", series="whole", origin_mm=grid().to_mm([(0, 3, 0)])[0])
    assert match(without_frame) == "whole"
    assert match(without_frame, outside="clip") == "whole"


def test_two_that_match_equally_well(two_series):
    folder = two_series[0]
    write_series(folder / "again", series="again", modality="CT")
    edit(folder / "rs" / "rs.dcm", forget_references)
    with pytest.raises(InputError) as caught:
        match(folder)
    (problem,) = caught.value.problems
    assert "2 series share its frame of reference and fit its contours equally well" in problem
    assert "the series in folder 'again' (CT, 5 files from 'slice001.dcm' on)" in problem
    assert "the series in folder 'mr' (MR, 5 files from 'slice001.dcm' on)" in problem
    assert "--modality" in problem
    assert "1.2.826" not in problem
    assert match(folder, "MR") == "mr"


def test_two_in_the_frame_of_reference_of_a_structure_set_without_contours(two_series):
    folder, headers, _ = two_series
    write_contours(folder / "rs" / "rs.dcm", headers, {"GTV": {}})
    edit(folder / "rs" / "rs.dcm", forget_series)
    with pytest.raises(InputError, match="2 series share its frame of reference and it has no contours to tell them"):
        match(folder)
    assert match(folder, "PT") == "pet"


def test_a_structure_set_without_contours_and_without_references(two_series):
    folder = two_series[0]

    def make_points(dataset):
        forget_frame(dataset)
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            contour.ContourGeometricType = "POINT"

    edit(folder / "rs" / "rs.dcm", make_points)
    with pytest.raises(InputError, match=r"it has no contours.*none among 2 series.*draw an ROI.*found 'POINT'"):
        match(folder)


def test_two_that_are_referenced(two_series):
    folder, _headers, pet = two_series

    edit(folder / "rs" / "rs.dcm", also_refer_to(pet))
    assert match(folder) == "mr"
    assert match(folder, "PT") == "pet"


def test_none_that_matches(tmp_path):
    headers = write_series(tmp_path / "mr", series="mr")
    write_contours(tmp_path / "rs" / "rs.dcm", headers, ROIS)
    for header in headers:
        header.filename.unlink()
    write_series(tmp_path / "other", series="other", frame="other")
    with pytest.raises(InputError, match=r"no image series matches it.*none among 1 series"):
        match(tmp_path)


def test_an_irregular_series_is_named_where_geometry_decides(two_series):
    folder, headers, _ = two_series
    edit(folder / "rs" / "rs.dcm", forget_frame)
    headers[2].filename.unlink()
    with pytest.raises(InputError, match=r"Not considered: The series in folder 'mr'.*missing slice"):
        match(folder)


def test_referenced_series_in_another_frame_of_reference(tmp_path):
    headers = write_series(tmp_path / "mr", series="mr")
    write_contours(tmp_path / "rs" / "rs.dcm", headers, ROIS)
    for header in headers:
        edit(header.filename, lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3.4"))
    with pytest.raises(InputError) as caught:
        match(tmp_path)
    (problem,) = caught.value.problems
    assert "another frame of reference" in problem
    assert "register" in problem
    assert "1.2.3.4" not in problem
    assert not any(value in problem for value in PATIENT.values())


def test_phantom_planes_differ():
    """The fixture's second series is off the first one's planes by half a slice."""
    index_xyz = grid().to_voxel_xyz([OTHER_PLANES_MM])[0]
    np.testing.assert_allclose(index_xyz, (0, 0, 0.5), atol=1e-9)


@pytest.fixture
def two_patients(tmp_path):
    """The structure set of one patient, and images of two on the same planes; references resolve to nothing."""
    headers = {name: write_series(tmp_path / name, series=name, PatientID=name) for name in ("ann", "bob")}
    write_contours(tmp_path / "rs" / "rs.dcm", headers["ann"], ROIS)
    return tmp_path, headers


def remove(headers):
    for header in headers:
        header.filename.unlink()


@pytest.mark.parametrize("with_frame", [True, False])
def test_the_patient_decides_between_images_that_fit(two_patients, with_frame):
    folder, headers = two_patients
    edit(folder / "rs" / "rs.dcm", forget_references if with_frame else forget_frame)
    assert match(folder) == "ann"
    # A slice that is missing must not lead to the images of another patient.
    headers["ann"][2].filename.unlink()
    if with_frame:
        assert match(folder) == "ann"
    else:
        with pytest.raises(InputError, match=r"none among 2 series, 1 of them with another Patient ID.*missing slice"):
            match(folder)


def test_images_that_fit_by_geometry_are_not_those_of_another_patient(two_patients):
    folder, headers = two_patients
    edit(folder / "rs" / "rs.dcm", forget_frame)
    remove(headers["ann"])
    with pytest.raises(InputError, match="none among 1 series, 1 of them with another Patient ID") as caught:
        match(folder)
    assert "bob'" not in str(caught.value)
    edit(folder / "rs" / "rs.dcm", lambda d: setattr(d, "PatientID", ""))
    assert match(folder) == "bob"


def test_a_frame_of_reference_that_all_patients_share(two_patients):
    folder, headers = two_patients
    edit(folder / "rs" / "rs.dcm", forget_references)
    remove(headers["ann"])
    # The frame of reference of one patient's images: perhaps two pseudonyms of one person.
    assert match(folder) == "bob"
    write_series(folder / "cem", series="cem", PatientID="cem", origin_mm=OTHER_PLANES_MM)
    with pytest.raises(InputError, match="none among 2 series, 2 of them with another Patient ID"):
        match(folder)


def test_a_frame_of_reference_of_others_leaves_geometry_to_decide(two_patients):
    folder, headers = two_patients
    edit(folder / "rs" / "rs.dcm", forget_references)
    for header in headers["ann"]:
        edit(header.filename, lambda d: delattr(d, "FrameOfReferenceUID"))
    write_series(folder / "cem", series="cem", PatientID="cem", origin_mm=OTHER_PLANES_MM)
    assert match(folder) == "ann"


@pytest.mark.parametrize("other", ["HOSP\\7", " HOSP\\7 ", "M\u00fcller", "Mu\u0308ller"])
def test_a_patient_id_equals_itself(tmp_path, other):
    """However many values it has, and however accents are written."""
    own = "HOSP\\7" if "7" in other else "M\u00fcller"
    headers = write_series(tmp_path / "mr", series="mr", PatientID=own, SpecificCharacterSet="ISO_IR 192")
    write_contours(tmp_path / "rs" / "rs.dcm", headers, ROIS)
    edit(tmp_path / "rs" / "rs.dcm", forget_frame)
    edit(headers[1].filename, lambda d: setattr(d, "PatientID", other))
    assert match(tmp_path) == "mr"


def test_of_two_that_fit_the_one_that_the_contours_name(two_series):
    folder, _headers, _pet = two_series
    again = write_series(folder / "again", series="again")

    edit(folder / "rs" / "rs.dcm", also_refer_to(again))
    assert match(folder) == "mr"

    def name_the_other(dataset):
        for contour, header in zip(dataset.ROIContourSequence[0].ContourSequence, again[1:], strict=False):
            contour.ContourImageSequence[0].ReferencedSOPInstanceUID = header.SOPInstanceUID

    edit(folder / "rs" / "rs.dcm", name_the_other)
    assert match(folder) == "again"
