from __future__ import annotations

import os
import sys

import numpy as np
import pydicom
import pytest
from conversion.phantom import (
    DIRECTION,
    ORIGIN_MM,
    PATIENT,
    SHAPE_ZYX,
    SPACING_MM_ZYX,
    edit,
    voxels,
    write_contours,
    write_series,
)

from nnunet_wsl.conversion.series import find_dicom
from nnunet_wsl.errors import InputError


def only_series(folder):
    (series,) = find_dicom(folder).series
    return series


def problem_of(folder):
    """The one problem of the one series, which must be named by its folder and without patient data."""
    with pytest.raises(InputError) as caught:
        only_series(folder).grid()
    (problem,) = caught.value.problems
    assert problem.startswith("The series in folder 'image' (MR, ")
    assert not any(value in problem for value in PATIENT.values())
    return problem


def test_grid_comes_from_positions_not_from_file_names_thickness_or_location(tmp_path):
    write_series(tmp_path / "image")
    grid = only_series(tmp_path).grid()
    assert grid.shape_zyx == SHAPE_ZYX
    np.testing.assert_allclose(grid.spacing_mm_zyx, SPACING_MM_ZYX, rtol=1e-7)
    np.testing.assert_allclose(grid.origin_mm, ORIGIN_MM, atol=1e-7)
    np.testing.assert_allclose(grid.direction, DIRECTION, atol=1e-7)


def test_every_voxel_is_where_its_header_says(tmp_path):
    volume = voxels()
    write_series(tmp_path / "image", volume=volume)
    series = only_series(tmp_path)
    grid, read = series.grid(), series.read()
    assert read.dtype == np.int16
    assert read.shape == SHAPE_ZYX
    for path in (tmp_path / "image").iterdir():
        header = pydicom.dcmread(path)
        column, row = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        y, x = 4, 6
        point_mm = (
            np.array(header.ImagePositionPatient, float)
            + x * column * header.PixelSpacing[1]
            + y * row * header.PixelSpacing[0]
        )
        index_xyz = grid.to_voxel_xyz(point_mm[None])[0]
        np.testing.assert_allclose(index_xyz, index_xyz.round(), atol=1e-5)
        i, j, k = index_xyz.round().astype(int)
        assert read[k, j, i] == header.pixel_array[y, x]


def test_reversed_normal_gives_the_same_voxels_in_the_same_places(tmp_path):
    """A series whose slices are stacked against row x column comes out right-handed."""
    write_series(tmp_path / "image", volume=voxels())
    for path in (tmp_path / "image").iterdir():

        def flip(header):
            column, row = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
            last_column_mm = 10 * SPACING_MM_ZYX[2] * column
            position_mm = np.array(header.ImagePositionPatient, float) + last_column_mm
            header.ImagePositionPatient = [f"{v:.8f}" for v in position_mm]
            header.ImageOrientationPatient = [f"{v:.10f}" for v in (*-column, *row)]
            header.PixelData = header.pixel_array[:, ::-1].tobytes()

        edit(path, flip)
    series = only_series(tmp_path)
    grid = series.grid()
    assert np.linalg.det(grid.direction) == pytest.approx(1)
    np.testing.assert_array_equal(series.read(), voxels()[::-1, :, ::-1])
    corner_mm = grid.to_mm([(10, 0, 4)])[0]
    np.testing.assert_allclose(corner_mm, ORIGIN_MM, atol=1e-6)


def test_rescale_slope_of_each_slice(tmp_path):
    slopes = [0.5, 0.001234567, 2, 1 / 3, 7.5e-5]
    write_series(tmp_path / "image", slopes=slopes)
    expected = voxels() * np.array([float(f"{s:.10g}") for s in slopes])[:, None, None] - 3
    read = only_series(tmp_path).read()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, expected.astype(np.float32))


@pytest.mark.parametrize(("value", "dtype"), [(32767, np.int16), (32768, np.float32), (65535, np.float32)])
def test_whole_numbers_stay_exact(tmp_path, value, dtype):
    volume = voxels()
    volume[2, 3, 4] = value
    write_series(tmp_path / "image", volume=volume)
    read = only_series(tmp_path).read()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, volume)


@pytest.mark.parametrize(("intercept", "dtype"), [(-32768, np.int16), (-32769, np.float32)])
def test_whole_numbers_below_zero_stay_exact(tmp_path, intercept, dtype):
    headers = write_series(tmp_path / "image", volume=np.zeros(SHAPE_ZYX, int))
    edit(headers[2].filename, lambda d: d.update({"RescaleSlope": 1, "RescaleIntercept": intercept}))
    read = only_series(tmp_path).read()
    assert read.dtype == dtype
    assert read.min() == intercept
    assert np.count_nonzero(read) == 7 * 11


def test_rounding_in_headers_is_no_problem(tmp_path):
    headers = write_series(tmp_path / "image")
    rng = np.random.default_rng(0)
    for header in headers:
        noise_mm = rng.uniform(-0.02, 0.02, 3)

        def disturb(dataset, noise_mm=noise_mm):
            dataset.ImagePositionPatient = [f"{v:.3f}" for v in dataset.ImagePositionPatient + noise_mm]
            dataset.ImageOrientationPatient = [f"{v:.5f}" for v in dataset.ImageOrientationPatient]

        edit(header.filename, disturb)
    grid = only_series(tmp_path).grid()
    np.testing.assert_allclose(grid.spacing_mm_zyx, SPACING_MM_ZYX, atol=0.02)
    np.testing.assert_allclose(grid.direction.T @ grid.direction, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_missing_slice(tmp_path, k):
    headers = write_series(tmp_path / "image")
    headers[k].filename.unlink()
    problem = problem_of(tmp_path)
    assert f"missing slice: '{headers[k - 1].filename.relative_to(tmp_path)}' and " in problem
    assert "are 6.000 mm apart, expected 3.000 mm. Restore 1 missing file" in problem


def test_missing_slice_of_four(tmp_path):
    headers = write_series(tmp_path / "image")
    headers[0].filename.unlink()
    headers[2].filename.unlink()
    assert "are 6.000 mm apart, expected 3.000 mm" in problem_of(tmp_path)


@pytest.mark.parametrize(
    ("positions_mm", "expected"),
    [
        (
            (0, 3, 6, 11, 16),
            "'image/slice002.dcm' are 5.000 mm apart, expected 3.000 mm, and 1 other pair too",
        ),
        ((0, 3, 6, 9, 15.7), "unevenly spaced slices: 'image/slice002.dcm' and 'image/slice001.dcm' are 6.700 mm"),
        # 1.25 mm apart, rounded to 0.1 mm; two are missing.
        ((0, 1.3, 2.5, 3.8, 7.5), "3.700 mm apart, expected 1.300 mm. Restore 2 missing file(s)"),
        ((0, 3, 6, 9, 15.2), "missing slice: 'image/slice002.dcm' and 'image/slice001.dcm' are 6.200 mm apart"),
        ((0, 3, 6, 9, 21.1), "Restore 3 missing file(s)."),
        ((0, 3, 6, 9, 13), "unevenly spaced slices: "),  # less than half a slice too much: of the whole grid
    ],
)
def test_slices_are_missing_where_a_whole_number_of_them_fits(tmp_path, positions_mm, expected):
    for k, (header, z_mm) in enumerate(zip(write_series(tmp_path / "image"), positions_mm, strict=True)):
        shift(header, axis=2, mm=z_mm - 3 * k)
    problem = problem_of(tmp_path)
    assert expected in problem
    assert ("Resample" in problem) == ("unevenly spaced slices" in problem) == ("missing slice" not in problem)


def test_duplicated_slice(tmp_path):
    headers = write_series(tmp_path / "image")
    copy = tmp_path / "image" / "copy.dcm"
    copy.write_bytes(headers[2].filename.read_bytes())
    problem = problem_of(tmp_path)
    assert "duplicated slice: 'image/copy.dcm' and 'image/slice003.dcm' have the same position" in problem


def test_all_slices_in_one_place(tmp_path):
    headers = write_series(tmp_path / "image")
    for header in headers[1:]:
        edit(header.filename, lambda d: setattr(d, "ImagePositionPatient", headers[0].ImagePositionPatient))
    with pytest.raises(InputError) as caught:
        only_series(tmp_path).grid()
    (problem,) = caught.value.problems
    assert "and 3 other pairs too" in problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0, 1, 0]), "mixed orientation: 1 file"),
        # Turned about the direction of the columns, which a scout image often shares.
        (
            lambda d: setattr(d, "ImageOrientationPatient", [*DIRECTION[:, 0], *DIRECTION[:, 2]]),
            "mixed orientation: 1 file",
        ),
        (lambda d: setattr(d, "PixelSpacing", [0.7, 1.2]), "mixed pixel spacing: 1 file"),
        (lambda d: (setattr(d, "Rows", 6), setattr(d, "Columns", 12)), "mixed matrix size: 1 file"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), "its slices are in 2 frames of reference"),
        (lambda d: delattr(d, "ImagePositionPatient"), "'image/slice002.dcm' has no valid ImagePositionPatient"),
        (lambda d: setattr(d, "PixelSpacing", [0, 0]), "'image/slice002.dcm' has no valid PixelSpacing"),
        (lambda d: setattr(d, "NumberOfFrames", 2), "'image/slice002.dcm' holds 2 frames"),
        (lambda d: setattr(d, "SamplesPerPixel", 3), "'image/slice002.dcm' is a colour image"),
    ],
)
def test_slices_that_do_not_belong_together(tmp_path, change, message):
    headers = write_series(tmp_path / "image")
    edit(headers[3].filename, change)
    assert message in problem_of(tmp_path)


@pytest.mark.parametrize("row", [(0.6, 0.8, 0), (0, 0.9, 0)], ids=["at no right angle", "of another length"])
def test_direction_cosines_that_are_none(tmp_path, row):
    for header in write_series(tmp_path / "image"):
        edit(header.filename, lambda d: setattr(d, "ImageOrientationPatient", [1, 0, 0, *row]))
    assert "cosines of 'image/slice001.dcm' are not of length 1 and at right angles" in problem_of(tmp_path)


def shift(header, axis, mm):
    position_mm = np.array(header.ImagePositionPatient, float) + mm * DIRECTION[:, axis]
    edit(header.filename, lambda d: setattr(d, "ImagePositionPatient", [f"{v:.8f}" for v in position_mm]))


def test_unevenly_spaced_slices(tmp_path):
    headers = write_series(tmp_path / "image")
    shift(headers[2], axis=2, mm=0.6)
    assert "unevenly spaced slices: 'image/slice003.dcm' lies 0.600 mm from its place (allowed 0.300 mm)" in problem_of(
        tmp_path
    )


def test_tilted_gantry(tmp_path):
    headers = write_series(tmp_path / "image")
    for k, header in enumerate(headers):
        shift(header, axis=1, mm=0.7 * k)
    assert "not stacked along their normal: 'image/slice001.dcm' is shifted by 4.00 pixels" in problem_of(tmp_path)


def test_a_single_slice_takes_its_thickness(tmp_path):
    (header,) = write_series(tmp_path / "image", volume=voxels()[:1])
    edit(header.filename, lambda d: setattr(d, "SliceThickness", 4.5))
    grid = only_series(tmp_path).grid()
    assert grid.shape_zyx == (1, 7, 11)
    np.testing.assert_allclose(grid.spacing_mm_zyx, (4.5, 0.7, 1.1))
    edit(header.filename, lambda d: setattr(d, "SpacingBetweenSlices", -6))  # which counts, in either direction
    np.testing.assert_allclose(only_series(tmp_path).grid().spacing_mm_zyx, (6, 0.7, 1.1))
    edit(header.filename, lambda d: (delattr(d, "SliceThickness"), delattr(d, "SpacingBetweenSlices")))
    assert "a single slice without SpacingBetweenSlices or SliceThickness" in problem_of(tmp_path)


def test_pixels_that_cannot_be_decoded(tmp_path):
    headers = write_series(tmp_path / "image")
    edit(headers[1].filename, lambda d: delattr(d, "PixelData"))
    with pytest.raises(InputError, match=r"voxel values of 'image/slice004.dcm' cannot be read"):
        only_series(tmp_path).read()


def test_find_tells_images_structure_sets_and_other_files_apart(tmp_path):
    headers = write_series(tmp_path / "a", series="one")
    write_series(tmp_path / "b" / "c", series="two", modality="PT")
    write_series(tmp_path / "dose", series="three", modality="RTDOSE")
    write_contours(tmp_path / "a" / "rs", headers, {"GTV": {}})
    (tmp_path / "readme.txt").write_text("nothing")
    (tmp_path / "empty").touch()
    found = find_dicom(tmp_path, jobs=2)
    assert [(s.modality, len(s.slices)) for s in found.series] == [("MR", 5), ("PT", 5)]
    assert found.rtstructs == (tmp_path / "a" / "rs",)
    assert found.num_other_files == 5 + 2
    assert PATIENT["PatientID"] not in repr(found)


def test_pydicom_validates_again_afterwards(tmp_path):
    write_series(tmp_path)
    before = pydicom.config.settings.reading_validation_mode
    find_dicom(tmp_path, jobs=2)
    assert pydicom.config.settings.reading_validation_mode == before


def test_links_to_folders_are_followed_once(tmp_path):
    write_series(tmp_path / "data" / "a")
    source = tmp_path / "source"
    source.mkdir()
    (source / "patient").symlink_to(tmp_path / "data" / "a")
    (source / "same").symlink_to(tmp_path / "data" / "a")
    (source / "loop").symlink_to(source)
    (series,) = find_dicom(source).series
    assert {image.path.parent.name for image in series.slices} == {"patient"}
    assert len(series.slices) == 5


def test_damaged_files_are_all_named(tmp_path):
    headers = write_series(tmp_path / "image")
    for header in headers[:2]:
        header.filename.write_bytes(header.filename.read_bytes()[:200])
    with pytest.raises(InputError) as caught:
        find_dicom(tmp_path)
    assert [p.split(":")[0] for p in caught.value.problems] == [
        "File 'image/slice004.dcm' cannot be read",
        "File 'image/slice005.dcm' cannot be read",
    ]


@pytest.mark.parametrize("content", [b"", bytes(700)])
def test_files_that_are_named_as_dicom_and_are_none(tmp_path, content):
    headers = write_series(tmp_path / "image")
    (tmp_path / "image" / "._slice001.dcm").write_bytes(content)  # of a Mac
    assert len(only_series(tmp_path).slices) == len(headers)
    headers[0].filename.write_bytes(content)
    (tmp_path / "image" / "RS.DCM").write_bytes(content)
    with pytest.raises(InputError) as caught:
        find_dicom(tmp_path)
    assert [p.split(",")[0] for p in caught.value.problems] == [
        "File 'image/RS.DCM' is named as DICOM",
        f"File 'image/{headers[0].filename.name}' is named as DICOM",
    ]


@pytest.mark.parametrize("target", ["unmounted", "x" * 300])
def test_links_to_nowhere_are_not_left_out(tmp_path, target):
    write_series(tmp_path)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(InputError, match=r"File 'link' cannot be read: .* Restore or remove it"):
        find_dicom(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is closed to this user")
def test_folders_that_cannot_be_read(tmp_path):
    write_series(tmp_path / "image")
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InputError, match=r"closed' cannot be read: Permission denied"):
        find_dicom(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
def test_pipes_are_no_files(tmp_path):
    write_series(tmp_path)
    os.mkfifo(tmp_path / "pipe.dcm")
    assert len(find_dicom(tmp_path).series) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(tmp_path):
    write_series(tmp_path / "image")
    (tmp_path / "image").rename(tmp_path / os.fsdecode(b"M\xfcller"))
    with pytest.raises(InputError, match=r"names of 5 files below .* no UTF-8, such as 'M\\udcfcller/slice001.dcm'"):
        find_dicom(tmp_path)


@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
def test_images_without_rows_or_columns(tmp_path, keyword):
    for header in write_series(tmp_path / "image"):
        edit(header.filename, lambda d: setattr(d, keyword, 0))
    assert "has no valid Rows or Columns" in problem_of(tmp_path)


def test_source_that_is_no_folder(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        find_dicom(tmp_path / "nowhere")


def test_series_of_several_patients_under_one_uid(tmp_path):
    for name in ("ann", "bob"):
        write_series(tmp_path / name, PatientID=name)
    with pytest.raises(InputError) as caught:
        only_series(tmp_path).grid()
    problems = caught.value.problems
    assert "carry 2 Patient IDs; expected one" in problems[0]


def test_files_without_a_patient_id_are_of_no_other_patient(tmp_path):
    headers = write_series(tmp_path / "image")
    edit(headers[1].filename, lambda d: setattr(d, "PatientID", ""))
    series = only_series(tmp_path)
    assert series.grid().shape_zyx == SHAPE_ZYX
    assert series.patient_id == PATIENT["PatientID"]


def test_inverted_greys_are_refused(tmp_path):
    """GDCM turns them over before it applies slope and intercept, and the values are no longer those of the file."""
    for header in write_series(tmp_path / "image"):
        edit(header.filename, lambda d: setattr(d, "PhotometricInterpretation", "MONOCHROME1"))
    assert "the greys of 'image/slice001.dcm' are inverted (MONOCHROME1)" in problem_of(tmp_path)


def test_pixel_data_that_are_too_short(tmp_path):
    """GDCM fills what is missing with whatever is in memory."""
    headers = write_series(tmp_path / "image", volume=np.ones((3, 48, 64), int))
    edit(headers[1].filename, lambda d: setattr(d, "PixelData", d.PixelData[:3000]))
    with pytest.raises(InputError, match=r"'image/slice002.dcm' lacks 3144 bytes of its pixel data"):  # of 48 * 64 * 2
        only_series(tmp_path).read()


@pytest.mark.parametrize("keyword", ["BitsAllocated", "PixelData"])
def test_what_the_pixels_cannot_be_read_without(tmp_path, keyword):
    headers = write_series(tmp_path / "image")
    edit(headers[2].filename, lambda d: delattr(d, keyword))
    with pytest.raises(InputError, match=r"the voxel values of 'image/slice003.dcm' cannot be read"):
        only_series(tmp_path).read()
