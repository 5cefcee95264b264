from __future__ import annotations

import gzip
import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_wsl.files import check_complete, replacing, wildcard_expression

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
    check_complete(tmp_path / "of_another_kind.tif")


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
    for length in (-1000, -1, 100):  # of the last, even its header is cut off
        compressed_inside.write_bytes(content[:length])
        with pytest.raises(OSError, match="cut off"):
            check_complete(compressed_inside)


@pytest.mark.parametrize("ending", ["nii", "gipl"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5)])
def test_images_that_are_not_compressed(tmp_path, ending, dtype, shape):
    path = tmp_path / f"image.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones(shape, dtype)), str(path))
    check_complete(path)
    content = path.read_bytes()
    path.write_bytes(content + b"and more")  # as some programs pad files
    check_complete(path)
    for length in (-1, -20):
        path.write_bytes(content[:length])
        with pytest.raises(OSError, match="cut off"):
            check_complete(path)
    path.write_bytes(b"")
    with pytest.raises(OSError, match="empty"):
        check_complete(path)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_nifti_whose_voxels_are_not_those_that_are_read(tmp_path, dtype):
    """Scaled ones become real numbers, colours have components, and extensions lie before them."""
    path = tmp_path / "image.nii"
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), dtype), np.diag([2.0, 3, 4, 1]))
    if isinstance(dtype, str):
        image.header.set_slope_inter(0.5, 1)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"long" * 100))
    nibabel.save(image, path)
    check_complete(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match="cut off"):
        check_complete(path)


@pytest.mark.parametrize("length", [0, 300, 400])
def test_an_image_that_a_full_disk_cuts_off_replaces_nothing(tmp_path, length):
    path = tmp_path / "maps.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.float32)), str(path))
    before = path.read_bytes()
    with pytest.raises(OSError, match=r"empty|cut off"), replacing(path) as partial:
        partial.write_bytes(before[:length])
    assert path.read_bytes() == before


def test_an_image_that_was_cut_off_before_it_was_compressed(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.int16)), str(tmp_path / "image.nii"))
    content = (tmp_path / "image.nii").read_bytes()
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(content))
    check_complete(path)
    path.write_bytes(gzip.compress(content[:-1]))
    with pytest.raises(OSError, match="what was compressed is cut off"):
        check_complete(path)


@pytest.mark.parametrize("separator", [b" = ", b"\t=\t", b" : ", b"="])
@pytest.mark.parametrize("compressed", [False, True])
def test_headers_of_mha_are_written_in_several_ways(tmp_path, separator, compressed):
    path = tmp_path / "image.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((30, 4, 5), np.uint8)), str(path), compressed)
    content = path.read_bytes()
    header, local, voxels = content.partition(b"LOCAL")
    path.write_bytes(header.replace(b" = ", separator) + local + voxels)
    check_complete(path)
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).sum() == 600
    if compressed:
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(OSError, match="cut off"):
            check_complete(path)


def test_pairs_of_nifti_files(tmp_path):
    path = tmp_path / "image.img"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.int16)), str(path))
    for name in ("image.img", "image.hdr"):
        check_complete(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-1])
    for name in ("image.img", "image.hdr"):
        with pytest.raises(OSError, match="cut off"):
            check_complete(tmp_path / name)


@pytest.mark.parametrize("name", ["data file", "Data File", "datafile"])
@pytest.mark.parametrize("rest", ["", "\n"])
def test_voxels_of_nrrd_that_are_elsewhere(tmp_path, name, rest):
    (tmp_path / "image.raw.gz").write_bytes(gzip.compress(bytes(60)))
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 4 3\nencoding: gzip\n"
    (tmp_path / "image.nrrd").write_text(f"{header}{name}: image.raw.gz\n{rest}")
    check_complete(tmp_path / "image.nrrd")
    assert sitk.ReadImage(str(tmp_path / "image.nrrd")).GetSize() == (5, 4, 3)


def test_voxels_of_nrrd_after_lines_that_are_no_header(tmp_path):
    header = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 4 3\nline skip: 1\nencoding: gzip\n\n"
    (tmp_path / "image.nrrd").write_bytes(header + b"a line\n" + gzip.compress(bytes(60)))
    check_complete(tmp_path / "image.nrrd")
    assert sitk.ReadImage(str(tmp_path / "image.nrrd")).GetSize() == (5, 4, 3)


def test_voxels_of_mha_that_are_elsewhere(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.uint8)), str(tmp_path / "image.mhd"), True)
    (tmp_path / "image.mhd").rename(tmp_path / "image.mha")
    check_complete(tmp_path / "image.mha")
    assert sitk.ReadImage(str(tmp_path / "image.mha")).GetSize() == (5, 4, 3)


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


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a?.txt", ["ab.txt", "a?.txt"], ["a.txt", "abc.txt", "abxtxt"]),
        ("*/i*.txt", ["x/y/i.txt", "/in.txt"], ["i.txt"]),
        ("[1]", ["[1]"], ["1"]),
    ],
)
def test_wildcards(pattern, matching, others):
    expression = re.compile(wildcard_expression(pattern))
    assert all(expression.fullmatch(text) for text in matching)
    assert not any(expression.fullmatch(text) for text in others)
