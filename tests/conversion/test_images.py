from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conversion.phantom import write_series
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from nnunet_wsl.cli.main import main
from nnunet_wsl.demo.phantom import Phantom


@pytest.fixture
def source(tmp_path):
    for seed in (1, 2):
        Phantom.random(seed).write_dicom(tmp_path / "source" / f"patient_{seed}" / "ct", with_contours=seed == 1)
    return tmp_path / "source"


def convert(source, output, *options):
    return main(["convert", "images", str(source), "-o", str(output), "--jobs", "1", *options])


def test_every_series_becomes_an_image(source, tmp_path):
    assert convert(source, tmp_path / "deep" / "images") == 0
    written = sorted((tmp_path / "deep" / "images").iterdir())
    assert [path.name for path in written] == ["patient_1_0000.nii.gz", "patient_2_0000.nii.gz"]
    for seed, path in enumerate(written, start=1):
        phantom, image = Phantom.random(seed), sitk.ReadImage(str(path))
        assert np.array_equal(sitk.GetArrayFromImage(image), phantom.image)
        np.testing.assert_allclose(image.GetOrigin(), phantom.grid.origin_mm, atol=1e-4)
        np.testing.assert_allclose(image.GetDirection(), phantom.grid.direction.ravel(), atol=1e-4)
        np.testing.assert_allclose(image.GetSpacing(), phantom.grid.spacing_mm_xyz, atol=1e-4)


def test_existing_output_is_kept(source, tmp_path, capsys):
    output = tmp_path / "images"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    assert convert(source, output) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("output", ["file/x", "file/deep/x", "/proc/x/y"])
def test_output_where_no_folder_can_be(source, tmp_path, capsys, output):
    (tmp_path / "file").touch()
    assert convert(source, tmp_path / output) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert "nnUNet_raw" not in error


def test_output_with_dots_or_behind_a_link(source, tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert convert(source, "new/..") == 2
    assert "exists already" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []
    Path("link").symlink_to(tmp_path / "elsewhere")
    assert convert(source, "link") == 0
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2


def test_no_series_of_the_modality(source, tmp_path, capsys):
    assert convert(source, tmp_path / "images", "--modality", "MR") == 2
    assert "modality MR" in capsys.readouterr().err
    assert not (tmp_path / "images").exists()


def test_series_of_several_modalities_or_of_none(tmp_path, capsys):
    write_series(tmp_path / "source" / "mr", series="mr")
    write_series(tmp_path / "source" / "ct", series="ct", modality="CT")
    assert convert(tmp_path / "source", tmp_path / "images") == 2
    assert "different modalities: CT, MR. Choose one with --modality" in capsys.readouterr().err
    write_series(tmp_path / "source" / "ct", series="ct", modality="")
    assert convert(tmp_path / "source", tmp_path / "images") == 2
    assert "different modalities: MR, none. Choose one with --modality" in capsys.readouterr().err
    assert convert(tmp_path / "source", tmp_path / "images", "--modality", "PT") == 2
    assert "modalities there: MR, none." in capsys.readouterr().err
    assert convert(tmp_path / "source", tmp_path / "images", "--modality", "MR") == 0
    # A model needs no modality to predict.
    assert convert(tmp_path / "source" / "ct", tmp_path / "alone") == 0


def test_all_bad_series_are_named_and_nothing_is_written(source, tmp_path, capsys):
    for patient in ("patient_1", "patient_2"):
        (source / patient / "ct" / "ct_009.dcm").unlink()
    assert convert(source, tmp_path / "deep" / "images") == 2
    error = capsys.readouterr().err
    assert "patient_1" in error
    assert "patient_2" in error
    assert not [path for path in tmp_path.iterdir() if path.name != "source"]


def test_a_series_of_mixed_matrix_sizes_is_named(source, tmp_path, capsys):
    path = source / "patient_1" / "ct" / "ct_009.dcm"
    header = pydicom.dcmread(path)
    header.PixelData = header.pixel_array[:-2].tobytes()
    header.Rows -= 2
    header.save_as(path)
    assert convert(source, tmp_path / "images") == 2
    error = capsys.readouterr().err
    assert "patient_1" in error
    assert "mixed matrix size" in error
    assert "ct_009.dcm" in error


def test_localizers_and_captures_are_left_out_with_a_warning(source, tmp_path, caplog):
    def alter(path, name, change):
        (source / "patient_1" / name).mkdir()
        header = pydicom.dcmread(path)
        header.SeriesInstanceUID = generate_uid(entropy_srcs=[name])
        change(header)
        header.save_as(source / "patient_1" / name / "image.dcm")

    def capture(header):
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        header.ImagePositionPatient = None

    def colour(header):
        header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = 3, "RGB", 0
        header.BitsAllocated = header.BitsStored = 8
        header.HighBit = 7
        header.PixelData = bytes(3 * header.Rows * header.Columns)

    first = source / "patient_1" / "ct" / "ct_009.dcm"
    alter(first, "scout", lambda header: setattr(header, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    alter(first, "capture", capture)
    alter(first, "fused_colours", colour)
    assert convert(source, tmp_path / "images") == 0
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        "patient_1_0000.nii.gz",
        "patient_2_0000.nii.gz",
    ]
    assert "Left out: 3 series of localizers" in caplog.text


def test_a_capture_with_a_place_in_space_is_an_image(source, tmp_path, caplog):
    """So are the slices of some programs that reformat volumes."""
    for path in (source / "patient_1" / "ct").glob("ct_*.dcm"):
        header = pydicom.dcmread(path)
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        header.save_as(path)
    assert convert(source, tmp_path / "images") == 0
    assert len(list((tmp_path / "images").iterdir())) == 2
    assert "Left out" not in caplog.text


def test_nothing_but_a_localizer_of_the_modality(tmp_path, capsys):
    write_series(tmp_path / "source" / "mr", series="mr")
    write_series(
        tmp_path / "source" / "scout", series="ct", modality="CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    assert convert(tmp_path / "source", tmp_path / "images", "--modality", "CT") == 2
    assert "All image series of modality CT below" in capsys.readouterr().err
