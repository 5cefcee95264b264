from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conversion.phantom import RECTANGLE_YX, edit, forget_frame, write_patient
from scipy import ndimage

from nnunet_wsl.cli.main import main
from nnunet_wsl.relevance import boundary_voxels, nearest_contour

SHAPE = (5, 7, 11)
SPACING_MM = (3.0, 0.7, 1.1)


def volume(values, path, origin_xyz=(-31.7, 12.3, -39.5), spacing_mm=SPACING_MM):
    image = sitk.GetImageFromArray(values, isVector=values.ndim > len(spacing_mm))
    image.SetSpacing(spacing_mm[::-1])
    if len(spacing_mm) == 3:
        image.SetOrigin(origin_xyz)
        image.SetDirection((0, 1, 0, 0, 0, 1, 1, 0, 0))
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def labels():
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[1:4, 1:5, 2:7] = 1
    values[2, 3:6, 7:10] = 3
    return values


@pytest.fixture
def files(tmp_path, labels):
    intensities = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    image = volume(intensities, tmp_path / "image.nii.gz")
    return {"image": str(image), "labels": str(volume(labels, tmp_path / "labels.nii.gz"))}


def written(path):
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image), image


def test_one_map_per_label_with_the_geometry_of_the_image(files, labels, tmp_path, capsys):
    out = tmp_path / "maps.nii.gz"
    command = ["relevance", files["image"], files["labels"], "-o", str(out), "--sigma-mm", "2", "--cutoff-mm", "5", "4"]
    assert main(command) == 0
    maps, image = written(out)
    assert maps.shape == (2, *SHAPE)
    for found, label, cutoff_mm in zip(maps, (1, 3), (5.0, 4.0), strict=True):
        distance_mm, _ = nearest_contour(boundary_voxels(labels == label), SPACING_MM, cutoff_mm=cutoff_mm)
        expected = np.where(np.isfinite(distance_mm), np.exp(-((distance_mm / 2) ** 2) / 2), 0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    source = sitk.ReadImage(files["image"])
    np.testing.assert_allclose(image.GetOrigin()[:3], source.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing()[:3], source.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(
        np.reshape(image.GetDirection(), (4, 4))[:3, :3].ravel(), source.GetDirection(), atol=1e-6
    )
    assert "1: sigma 2 mm, cut-off 5 mm" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"image.nii.gz", "labels.nii.gz", "maps.nii.gz"}


def test_one_object_and_fused_objects_have_the_axes_of_the_image(files, tmp_path):
    single, fused = tmp_path / "single.nii.gz", tmp_path / "fused.nii.gz"
    arguments = [files["image"], files["labels"], "--mode", "both", "--kernel", "linear"]
    assert main(["relevance", *arguments, "-o", str(single), "--object", "3"]) == 0
    assert main(["relevance", *arguments, "-o", str(fused), "--fuse", "max"]) == 0
    (one, _), (both, image) = written(single), written(fused)
    assert one.shape == both.shape == SHAPE
    assert image.GetOrigin() == sitk.ReadImage(files["image"]).GetOrigin()
    assert both.max() == 1


def test_search_kernel_and_fusion_are_those_asked_for(files, labels, tmp_path):
    """By hand: exp(-d / 2 mm) of the distance within the slice, and of two maps the mean."""
    out = tmp_path / "map.nii.gz"
    command = ["relevance", files["image"], files["labels"], "-o", str(out), "--sigma-mm", "2", "--cutoff-mm", "9"]
    assert main([*command, "--search", "slice", "--kernel", "exponential", "--fuse", "mean"]) == 0
    expected = np.zeros(SHAPE)
    for label in (1, 3):
        for k in np.flatnonzero((labels == label).any(axis=(1, 2))):
            mask = labels[k] == label
            inner = ndimage.binary_erosion(mask, border_value=0)
            expected[k] += np.exp(-ndimage.distance_transform_edt(~(mask & ~inner), SPACING_MM[1:]) / 2) / 2
    np.testing.assert_allclose(written(out)[0], expected, atol=1e-5)


@pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd"])
def test_every_ending_is_that_of_one_file_with_all_maps(files, tmp_path, ending):
    (tmp_path / "out").mkdir()
    arguments = ["relevance", files["image"], files["labels"], "--sigma-mm", "2", "-o"]
    out, same = tmp_path / "out" / f"maps{ending}", tmp_path / "same.nii.gz"
    assert main([*arguments, str(out)]) == main([*arguments, str(same)]) == 0
    assert list(out.parent.iterdir()) == [out]
    np.testing.assert_array_equal(written(out)[0], written(same)[0])


def test_colour_image_of_two_axes(tmp_path):
    rng = np.random.default_rng(0)
    colours = volume(rng.integers(0, 255, (7, 11, 3), dtype=np.uint8), tmp_path / "image.png", spacing_mm=(1.0, 1.0))
    mask = np.zeros((7, 11), dtype=np.uint8)
    mask[2:5, 3:8] = 255
    label_map = volume(mask, tmp_path / "mask.png", spacing_mm=(1.0, 1.0))
    out = tmp_path / "map.tif"
    scales = ["--intensity-scale", "10", "20", "30"]
    assert main(["relevance", str(colours), str(label_map), "-o", str(out), "--mode", "intensity", *scales]) == 0
    found, _ = written(out)
    assert found.shape == (7, 11)
    assert (found[boundary_voxels(mask)] == 1).all()


def test_a_file_that_is_cut_off(files, tmp_path, capsys):
    image = Path(files["image"])
    image.write_bytes(image.read_bytes()[:-100])
    assert main(["relevance", files["image"], files["labels"], "-o", str(tmp_path / "map.nii.gz")]) == 2
    assert "image.nii.gz: cannot be read: it is cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--object": "2"}, "no label '2'; there are '1', '3'"),
        ({"--sigma-mm": "0"}, "sigma_mm must be positive"),
        ({"--exact": None}, "--exact needs polylines"),
        ({"--outside": "error"}, "--outside needs polylines"),
        ({"--mode": "both", "--intensity-scale": ("1", "2")}, "--intensity-scale has 2 values; expected 1"),
        ({"--intensity-scale": "5"}, "--intensity-scale has no effect in mode 'distance'"),
        ({"--mode": "intensity", "--sigma-mm": "5"}, "--sigma-mm has no effect in mode 'intensity'"),
        ({"image": "nowhere.nii.gz"}, "nowhere.nii.gz: cannot be read: there is no such file"),
        ({"labels": "nowhere.nii.gz"}, "nowhere.nii.gz: cannot be read"),
        ({"image": "labels.nii.gz", "-o": "image.nii.gz"}, "image.nii.gz exists. Pass --overwrite"),
        ({"-o": "nowhere/map.nii.gz"}, "The folder of"),
        ({"-o": "map.txt"}, "map.txt: maps cannot be written in this format"),
        # Formats of two files, which a rename tears apart; MINC crashes on several maps.
        ({"-o": "map.hdr"}, "one of these endings: .nii.gz, .nii,"),
        ({"-o": "map.img.gz"}, "cannot be written in this format"),
        ({"-o": "map.mhd"}, "cannot be written in this format"),
        ({"-o": "map.nhdr"}, "cannot be written in this format"),
        ({"-o": "map.mnc"}, "cannot be written in this format"),
        ({"-o": "map.tif"}, "map.tif: TIFF holds one map of a volume, and there are 2"),
    ],
)
def test_bad_input_is_said_and_leaves_nothing(files, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    values = {"image": "image.nii.gz", "labels": "labels.nii.gz", "-o": "map.nii.gz"} | changes
    command = ["relevance", values.pop("image"), values.pop("labels")]
    for option, value in values.items():
        command += [option, *((value,) if isinstance(value, str) else value or ())]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
@pytest.mark.parametrize("out", ["image.nii.gz", "labels.nii.gz", "sub/../labels.nii.gz", "link.nii.gz"])
def test_an_input_is_never_replaced(tmp_path, capsys, monkeypatch, out, options):
    """It is not even read: these are no images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("image.nii.gz", "labels.nii.gz"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link.nii.gz").symlink_to("labels.nii.gz")
    assert main(["relevance", "image.nii.gz", "labels.nii.gz", "-o", out, *options]) == 2
    assert f"{out} is an input, too. Choose another --output." in capsys.readouterr().err
    for name in ("image.nii.gz", "labels.nii.gz"):
        assert (tmp_path / name).read_text() == name
    assert (tmp_path / "link.nii.gz").is_symlink()


def test_only_scales_that_are_used_are_printed(files, tmp_path, capsys):
    """The cut-off counts in mode intensity, too."""
    command = ["relevance", files["image"], files["labels"], "--object", "3", "--cutoff-mm", "4", "-o"]
    assert main([*command, str(tmp_path / "distance.nii.gz"), "--sigma-mm", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  3: sigma 2 mm, cut-off 4 mm"]
    intensity = ["--mode", "intensity", "--intensity-scale", "7"]
    assert main([*command, str(tmp_path / "intensity.nii.gz"), *intensity]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  3: cut-off 4 mm", "  intensity scale: 7"]


@pytest.mark.parametrize("mode", ["distance", "both"])
@pytest.mark.parametrize("which", ["image", "labels"])
def test_complex_numbers_are_refused(files, tmp_path, capsys, mode, which):
    odd = tmp_path / "complex.nii.gz"
    sitk.WriteImage(sitk.Cast(sitk.ReadImage(files[which]), sitk.sitkComplexFloat32), str(odd))
    out = tmp_path / "map.nii.gz"
    assert main(["relevance", *(files | {which: str(odd)}).values(), "-o", str(out), "--mode", mode]) == 2
    assert "complex.nii.gz: its voxels are complex numbers; expected real ones." in capsys.readouterr().err
    assert not out.exists()


def test_a_label_map_on_another_grid_is_refused(files, labels, tmp_path, capsys):
    out = str(tmp_path / "map.nii.gz")
    shifted = volume(labels, tmp_path / "shifted.nii.gz", origin_xyz=(-31.7, 12.3, -38.5))
    assert main(["relevance", files["image"], str(shifted), "-o", out]) == 2
    assert "lies 1 mm from that of the image" in capsys.readouterr().err
    smaller = volume(labels[1:], tmp_path / "smaller.nii.gz")
    assert main(["relevance", files["image"], str(smaller), "-o", out]) == 2
    assert "found size (11, 7, 4)" in capsys.readouterr().err
    stretched = volume(labels, tmp_path / "stretched.nii.gz", spacing_mm=(3.0, 0.7, 1.2))
    assert main(["relevance", files["image"], str(stretched), "-o", out]) == 2
    assert "Resample it" in capsys.readouterr().err
    halves = volume(labels / np.float32(2), tmp_path / "halves.nii.gz")
    assert main(["relevance", files["image"], str(halves), "-o", out]) == 2
    assert "not whole numbers" in capsys.readouterr().err
    empty = volume(np.zeros_like(labels), tmp_path / "empty.nii.gz")
    assert main(["relevance", files["image"], str(empty), "-o", out]) == 2
    assert "no label at all" in capsys.readouterr().err


def test_repairs_and_clipping_of_contours_are_told(tmp_path, capsys):
    beyond = np.add(RECTANGLE_YX, (0, 6))  # columns 8.5 to 13.5 of 11, which end at 10.5: 3 x 3 pixels of 0.7 x 1.1 mm
    rois = {"GTV": {1: [RECTANGLE_YX, RECTANGLE_YX], 2: [RECTANGLE_YX], 3: [beyond]}, "far": {1: [beyond * 3]}}
    write_patient(tmp_path / "patient", rois=rois)
    folder, structures = tmp_path / "patient" / "image", tmp_path / "patient" / "rs" / "rs.dcm"
    command = ["relevance", str(folder), str(structures), "-o", str(tmp_path / "map.nii.gz"), "--sigma-mm", "2"]
    assert main(command) == 2
    assert "lies 3.30 mm outside the image grid" in capsys.readouterr().err
    assert main([*command, "--outside", "clip"]) == 2
    assert "no contour of ROI 'far' passes through the image" in capsys.readouterr().err
    assert main([*command, "--outside", "clip", "--object", "GTV"]) == 0
    printed = capsys.readouterr().out
    assert "1 repeated contour of ROI 'GTV' left out" in printed
    assert "1 contour of ROI 'GTV' clipped: 6.9 mm2 outside the image, up to 3.3 mm away" in printed
    edit(structures, forget_frame)  # then geometry has to find the series
    assert main([*command, "--outside", "clip", "--object", "GTV", "--overwrite"]) == 0
    assert main([*command, "--object", "GTV", "--overwrite"]) == 2
    assert "no image series matches it" in capsys.readouterr().err


@pytest.mark.parametrize("contours", ["labels.nrrd", "patient/rs/rs.dcm"])
def test_a_sheared_image_is_refused(labels, tmp_path, capsys, contours):
    write_patient(tmp_path / "patient")
    for name, values in (("labels", labels), ("image", labels.astype(np.int16))):
        image = sitk.GetImageFromArray(values)
        image.SetDirection((1, 0.3, 0, 0, 0.954, 0, 0, 0, 1))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    image, out = tmp_path / "image.nrrd", tmp_path / "map.nii.gz"
    assert main(["relevance", str(image), str(tmp_path / contours), "-o", str(out)]) == 2
    assert "image.nrrd: its header" in (error := capsys.readouterr().err)
    assert "axes at right angles" in error
    assert not out.exists()


def test_a_sheared_nifti_file_is_not_said_to_be_damaged(labels, tmp_path, capsys):
    path = tmp_path / "image.nii"
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))
    header = bytearray(path.read_bytes())
    header[252:256] = np.array([0, 1], np.int16).tobytes()  # the place is in srow_x to srow_z, in no quaternion
    header[280:328] = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], np.float32).tobytes()
    path.write_bytes(header)
    assert main(["relevance", str(path), str(path), "-o", str(tmp_path / "map.nii.gz")]) == 2
    assert "image.nii: cannot be read: its axes are not at right angles; resample it." in capsys.readouterr().err


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[1:]])
@pytest.mark.parametrize("which", ["image", "labels"])
def test_an_image_that_lies_nowhere_is_refused(tmp_path, capsys, shape, which):
    paths = []
    for name in ("image", "labels"):
        image = sitk.GetImageFromArray(np.eye(*shape[-2:], dtype=np.uint8) * np.ones(shape, np.uint8))
        path = tmp_path / f"{name}.nii"
        sitk.WriteImage(image, str(path))
        if name == which:
            header = bytearray(path.read_bytes())
            header[292:296] = np.float32(np.nan).tobytes()  # NIfTI's srow_x: where the first voxel lies
            path.write_bytes(header)
        paths.append(str(path))
    assert main(["relevance", *paths, "-o", str(tmp_path / "map.nii.gz")]) == 2
    assert f"{which}.nii: its " in capsys.readouterr().err
    assert not (tmp_path / "map.nii.gz").exists()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha"])
def test_a_disk_that_is_full(files, tmp_path, capsys, ending):
    """SimpleITK does not say that a file is cut off; a limit of the file's size stands for the disk."""
    resource = pytest.importorskip("resource")
    out = tmp_path / "out"
    out.mkdir()
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, former[1][1]))
    try:
        code = main(["relevance", files["image"], files["labels"], "-o", str(out / f"map{ending}"), "--sigma-mm", "2"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former[1])
        signal.signal(signal.SIGXFSZ, former[0])
    assert code == 2
    assert f"map{ending}: cannot be written" in capsys.readouterr().err
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("value", [np.inf, np.nan, 0.5])
def test_labels_that_are_no_numbers(files, labels, tmp_path, capsys, value):
    odd = labels.astype(np.float32)
    odd[0, 0, 0] = value
    path = volume(odd, tmp_path / "odd.nrrd")
    assert main(["relevance", files["image"], str(path), "-o", str(tmp_path / "map.nii.gz")]) == 2
    assert "values that are not whole numbers" in capsys.readouterr().err


def test_real_structure_set_exact_and_by_voxels(tmp_path, capsys):
    data = os.environ.get("NNUNET_WSL_TEST_DATA")
    if not data:
        pytest.skip("NNUNET_WSL_TEST_DATA is not set")
    patient = sorted((Path(data) / "sts" / "dicom").iterdir())[0] / "PET"
    maps = []
    for name, options in (("voxels", []), ("exact", ["--exact"])):
        out = tmp_path / f"{name}.nii.gz"
        command = ["relevance", str(patient / "image"), str(next((patient / "mask").glob("*.dcm")))]
        assert main([*command, "-o", str(out), "--sigma-mm", "8", *options]) == 0
        maps.append(written(out)[0])
    by_voxels, exact = maps
    assert by_voxels.max() == 1
    # A voxel's centre is within half a diagonal of the contour that passes through it.
    assert np.abs(by_voxels - exact).max() < 0.4
    assert np.abs(by_voxels - exact).mean() < 0.02
