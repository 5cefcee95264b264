from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conversion.phantom import DIRECTION, ORIGIN_MM, SHAPE_ZYX, SPACING_MM_ZYX, grid, voxels
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from nnunet_wsl.conversion.dataset import build_dataset, read_slice, target_folder, write_volume
from nnunet_wsl.errors import InputError


@pytest.fixture
def raw(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


def test_target_folder(raw):
    assert target_folder(7, "Name") == raw / "Dataset007_Name"


def test_unset_nnunet_raw(monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(InputError, match=r"nnUNet_raw is not set.*export nnUNet_raw="):
        target_folder(501, "Name")


def test_nnunet_raw_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be created"):
        target_folder(501, "Name")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_nnunet_raw_that_is_read_only(raw):
    raw.chmod(0o500)
    with pytest.raises(InputError, match="you may not write to"):
        target_folder(501, "Name")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_dataset_that_is_read_only(raw):
    (raw / "Dataset501_Name").mkdir(mode=0o500)
    with pytest.raises(InputError, match="may not be replaced by you"):
        target_folder(501, "Name", overwrite=True)


@pytest.mark.parametrize(("dataset_id", "name", "count"), [(0, "A", 1), (1000, "A", 1), (1, "a/b", 1), (1000, "", 2)])
def test_ids_and_names_that_nnunet_does_not_have(raw, dataset_id, name, count):
    with pytest.raises(InputError) as caught:
        target_folder(dataset_id, name)
    assert len(caught.value.problems) == count


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_id_taken_by_another_dataset(raw, variable, overwrite):
    (raw.parent / variable / "Dataset501_Other").mkdir()
    with pytest.raises(InputError, match=f"already taken by Dataset501_Other in {variable}"):
        target_folder(501, "Name", overwrite=overwrite)


def test_the_same_dataset_needs_overwrite(raw):
    (raw / "Dataset501_Name").mkdir()
    (raw.parent / "nnUNet_preprocessed" / "Dataset501_Name").mkdir()
    with pytest.raises(InputError, match=r"already taken by Dataset501_Name in nnUNet_raw\. Pass --overwrite"):
        target_folder(501, "Name")
    assert target_folder(501, "Name", overwrite=True) == raw / "Dataset501_Name"


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_to_a_dataset_is_not_overwritten(raw, dangling):
    elsewhere = raw.parent / "other_disk"
    if not dangling:
        elsewhere.mkdir()
        (elsewhere / "file").touch()
    (raw / "Dataset501_Name").symlink_to(elsewhere)
    with pytest.raises(InputError, match=r"Dataset501_Name' is a link to '.*/other_disk'.*Remove the link"):
        target_folder(501, "Name", overwrite=True)
    with pytest.raises(InputError, match="already taken by Dataset501_Name"):
        target_folder(501, "Name")
    assert [path.name for path in raw.iterdir()] == ["Dataset501_Name"]


def test_preprocessed_data_of_a_former_conversion_is_mentioned(raw, caplog):
    assert target_folder(501, "Name", overwrite=True)
    assert caplog.text == ""
    (raw.parent / "nnUNet_preprocessed" / "Dataset501_Name").mkdir()
    assert target_folder(501, "Name", overwrite=True)
    assert "still has Dataset501_Name of a former conversion" in caplog.text


def test_nothing_to_see_until_all_is_written(raw):
    target = raw / "Dataset501_Name"
    with build_dataset(target) as building:
        (building / "file").write_text("new")
        assert not target.exists()
        assert list(find_candidate_datasets(501)) == []
    assert [path.name for path in raw.iterdir()] == [target.name]
    assert (target / "file").read_text() == "new"


@pytest.mark.parametrize(
    ("error", "raised"),
    [(InputError("bad"), InputError), (OSError("disk full"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_failure_leaves_what_was_there(raw, error, raised):
    target = raw / "Dataset501_Name"
    target.mkdir()
    (target / "file").write_text("old")

    def fail():
        with build_dataset(target) as building:
            (building / "file").write_text("new")
            raise error

    with pytest.raises(raised):
        fail()
    assert [path.name for path in raw.iterdir()] == [target.name]
    assert (target / "file").read_text() == "old"


def test_failure_of_the_last_step_leaves_what_was_there(raw, monkeypatch):
    target = raw / "Dataset501_Name"
    target.mkdir()
    (target / "file").write_text("old")
    rename = Path.rename

    def fail_for_new(self, other):
        if other == target and (self / "new").exists():
            raise OSError("no")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(InputError, match="moved to its place: no"), build_dataset(target, overwrite=True) as building:
        (building / "new").touch()
    assert (target / "file").read_text() == "old"
    assert [path.name for path in raw.iterdir()] == [target.name]


def test_two_runs_build_apart_and_the_second_to_finish_is_told(raw):
    target = raw / "Dataset501_Name"

    def second():
        with build_dataset(target) as building:
            (building / "file").write_text("second")
            with build_dataset(target) as first:
                (first / "file").write_text("first")

    with pytest.raises(InputError, match=r"Dataset501_Name' was made by another run.*remove it and convert again"):
        second()
    with pytest.raises(InputError, match="was made by another run"), build_dataset(target):
        pass
    assert (target / "file").read_text() == "first"
    assert [path.name for path in raw.iterdir()] == [target.name]


def test_of_two_runs_that_overwrite_the_last_one_stays(raw):
    target = raw / "Dataset501_Name"
    target.mkdir()
    (target / "old").touch()
    with build_dataset(target, overwrite=True) as building:
        (building / "file").write_text("second")
        with build_dataset(target, overwrite=True) as first:
            (first / "file").write_text("first")
    assert (target / "file").read_text() == "second"
    assert [path.name for path in target.iterdir()] == ["file"]
    assert [path.name for path in raw.iterdir()] == [target.name]


def test_leftovers_of_a_killed_run_are_named_and_kept(raw, caplog):
    target = raw / "Dataset501_Name"
    leftover = raw / ".Dataset501_Name.building-x"  # may as well be that of a run that goes on
    leftover.mkdir()
    (raw / ".Dataset501_Name2.building-x").mkdir()
    with build_dataset(target):
        assert f"'{leftover}' belongs to another run" in caplog.text
        assert "Name2" not in caplog.text
    assert leftover.exists()


def test_a_dataset_has_the_permissions_of_a_new_folder(raw):
    with build_dataset(raw / "Dataset501_Name"):
        pass
    (raw / "new").mkdir()
    assert (raw / "Dataset501_Name").stat().st_mode == (raw / "new").stat().st_mode


def test_a_slice_is_that_of_the_volume(tmp_path):
    write_volume(tmp_path / "a.nii.gz", voxels().astype(np.int16), grid())
    for k in range(5):
        np.testing.assert_array_equal(read_slice(tmp_path / "a.nii.gz", k), voxels()[k])


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_written_volume_has_the_geometry_of_the_grid_and_nothing_else(tmp_path, dtype):
    volume = voxels().astype(dtype)
    write_volume(tmp_path / "a.nii.gz", volume, grid())
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume)
    np.testing.assert_allclose(image.GetSpacing()[::-1], SPACING_MM_ZYX, rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), ORIGIN_MM, atol=1e-4)
    np.testing.assert_allclose(image.GetDirection(), DIRECTION.ravel(), atol=1e-6)
    assert image.GetMetaData("descrip") == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
@pytest.mark.parametrize("missing", [1, 2, 300, "all"])
def test_a_volume_that_the_disk_has_no_space_for(tmp_path, missing):
    import resource

    volume = np.random.default_rng(0).integers(0, 1000, SHAPE_ZYX).astype(np.int16)
    path = tmp_path / "case_0000.nii.gz"
    write_volume(path, volume, grid())
    space = 0 if missing == "all" else path.stat().st_size - missing
    path.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (space, limits[1]))  # to SimpleITK as a full disk: it writes on, silently
    try:
        with pytest.raises(InputError, match=r"case_0000.nii.gz' could not be written whole.*Free space"):
            write_volume(path, volume, grid())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
