from __future__ import annotations

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_wsl.files import check_complete, replacing

CONTENT = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()


@pytest.fixture
def compressed(tmp_path):
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(CONTENT))
    return path


def test_whole_files(compressed, tmp_path):
    check_complete(compressed)
    compressed.write_bytes(gzip.compress(CONTENT) + gzip.compress(b""))  # members, as pigz and bgzip write them
    check_complete(compressed)
    check_complete(tmp_path / "of_another_kind.nii")


@pytest.fixture(params=["mha", "nrrd"])
def compressed_inside(request, tmp_path):
    """A compressed image whose name does not say so."""
    path = tmp_path / f"image.{request.param}"
    image = sitk.GetImageFromArray(np.frombuffer(CONTENT, np.uint8).reshape(10, 15, 20))
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def test_images_compressed_inside(compressed_inside):
    check_complete(compressed_inside)
    content = bytearray(compressed_inside.read_bytes())
    for place in (-1000, -6):
        damaged = content.copy()
        damaged[place] ^= 0xFF
        compressed_inside.write_bytes(damaged)
        with pytest.raises(OSError, match="damaged"):
            check_complete(compressed_inside)
    for length in (-1000, -1):
        compressed_inside.write_bytes(content[:length])
        with pytest.raises(OSError, match="cut off"):
            check_complete(compressed_inside)


@pytest.mark.parametrize("ending", ["mha", "nrrd", "nhdr", "mhd"])
def test_images_that_are_not_compressed_inside(tmp_path, ending):
    path = tmp_path / f"image.{ending}"
    image = sitk.GetImageFromArray(np.frombuffer(CONTENT, np.uint8).reshape(10, 15, 20))
    for compressed in (False, ending in ("nhdr", "mhd")):  # of those two the voxels are in another file
        sitk.WriteImage(image, str(path), useCompression=compressed)
        check_complete(path)


@pytest.mark.parametrize("length", [20, 1500, -8, -1])
def test_cut_off(compressed, length):
    compressed.write_bytes(compressed.read_bytes()[:length])
    with pytest.raises(OSError, match="cut off"):
        check_complete(compressed)


@pytest.mark.parametrize("place", [0, 40, 1500, -6])
def test_damaged(compressed, place):
    content = bytearray(compressed.read_bytes())
    content[place] ^= 0xFF
    compressed.write_bytes(content)
    with pytest.raises(OSError, match="damaged"):
        check_complete(compressed)


def test_empty(compressed):
    compressed.write_bytes(b"")
    with pytest.raises(OSError, match="empty"):
        check_complete(compressed)


def test_two_runs_that_write_one_file(tmp_path):
    path = tmp_path / "relevance.json"
    with replacing(path) as first, replacing(path) as second:
        second.write_text("second, half")
        first.write_text("first")
        assert first.suffixes == second.suffixes == path.suffixes
    assert path.read_text() == "first"  # moved last, and whole
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", gzip.compress(CONTENT)[:-1]])
def test_what_was_not_written_whole_replaces_nothing(compressed, tmp_path, content):
    with pytest.raises(OSError, match=r"empty|cut off"), replacing(compressed) as partial:
        partial.write_bytes(content)
    check_complete(compressed)
    assert list(tmp_path.iterdir()) == [compressed]


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_complete(tmp_path / "image.nii.gz")
