"""Files: whole ones only, read and written, and their names."""

from __future__ import annotations

import gzip
import json
import math
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_wsl.errors import InputError, described

_BLOCK_BYTES = 2**24

_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS

_COMPRESSED_INSIDE = {
    # MetaImage's header ends with the line that says that the voxels follow; NRRD's with an empty line.
    ".mha": (
        rb"\nCompressedData[ \t]*[=:][ \t]*True\s", rb"\nElementDataFile[ \t]*[=:][ \t]*LOCAL\s*?\n",
        rb"\nElementDataFile[ \t]*[=:][ \t]*(?!LOCAL)\S", _ZLIB,
    ),
    ".nrrd": (
        rb"\nencoding: *gz(ip)?\s", rb"\r?\n\r?\n", rb"\n(data ?file|(line|byte) ?skip):", _GZIP,
    ),
}  # fmt: skip
"""Formats whose files may hold compressed voxels: what their headers say then, how these end if the voxels follow, what
they say if the voxels are elsewhere, and the compression."""

_LONGEST_HEADER = 2**16

_UNCOMPRESSED = {".nii": 348, ".gipl": 256, ".img": 0, ".hdr": 348}
"""Formats with the voxels as they are at the end of the file, or of that beside it, and the bytes of their headers."""


def check_complete(path: Path) -> None:
    """Read a compressed image to its end, and compare the length of others with what their headers say.

    SimpleITK gives zeros, without an error, for what is missing of many images, and does not check the rest of
    compressed ones. Nor does it say that an image that it writes is cut off by a full disk.

    Parameters
    ----------
    path : Path
        File whose name ends in ``.gz`` if it is compressed; or in ``.mha`` or ``.nrrd``, and its header says so; or in
        ``.nii``, ``.gipl``, ``.img`` or ``.hdr``. Others are left alone; of those that nnU-Net knows, SimpleITK reports
        a want of bytes itself, but for TIFF.

    Raises
    ------
    OSError
        If the file is empty, cut off or damaged, or cannot be opened.
    """
    if path.suffix in _UNCOMPRESSED:
        _check_length(path)
    if path.suffix in _COMPRESSED_INSIDE:
        _check_inside(path, *_COMPRESSED_INSIDE[path.suffix])
    if path.suffix != ".gz":
        return
    if path.stat().st_size == 0:
        raise OSError("it is empty")
    length = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(_BLOCK_BYTES):
                length += len(block)
    except EOFError as error:
        raise OSError("it is cut off") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise OSError("it is damaged, or no gzip file") from error
    if path.name.endswith(".nii.gz") and length < _expected_bytes(path):
        raise OSError("what was compressed is cut off")


def _check_length(path: Path) -> None:
    length = path.stat().st_size
    if length < max(1, _UNCOMPRESSED[path.suffix]):
        raise OSError("it is cut off" if length else "it is empty")
    if path.suffix == ".hdr":
        voxels = path.with_suffix(".img")
        if not voxels.is_file():  # compressed, or missing, which reading says
            return
        length = voxels.stat().st_size
    if length < _expected_bytes(path):
        raise OSError("it is cut off")


def _expected_bytes(path: Path) -> float:
    """Return how long an uncompressed image is at least, by its header; 0 if SimpleITK cannot read that."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # nothing is read of it, so nothing is taken for zeros; other readers may know it
        return 0
    if reader.HasMetaDataKey("bitpix"):  # NIfTI, whose voxels ITK scales
        axes = range(1, 1 + int(reader.GetMetaData("dim[0]")))
        voxels = math.prod(int(reader.GetMetaData(f"dim[{axis}]")) for axis in axes)
        return float(reader.GetMetaData("vox_offset")) + voxels * float(reader.GetMetaData("bitpix")) / 8
    voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    component_bytes: int = sitk.Image(1, 1, reader.GetPixelID()).GetSizeOfPixelComponent()
    return float(_UNCOMPRESSED.get(path.suffix, 0) + voxels * component_bytes)


def _check_inside(path: Path, compressed: bytes, end: bytes, elsewhere: bytes, window_bits: int) -> None:
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
        header_end = re.search(end, start, re.IGNORECASE)
        header = start[: header_end.end()] if header_end else start
        if re.search(elsewhere, header, re.IGNORECASE):
            return
        if header_end is None and len(start) < _LONGEST_HEADER:
            raise OSError("it is cut off" if start else "it is empty")
        if header_end is None or not re.search(compressed, header, re.IGNORECASE):
            return
        file.seek(header_end.end())
        stream = zlib.decompressobj(window_bits)
        try:
            while not stream.eof and (block := file.read(_BLOCK_BYTES)):
                while block:
                    stream.decompress(block, _BLOCK_BYTES)
                    block = stream.unconsumed_tail
        except zlib.error as error:
            raise OSError("it is damaged") from error
    if not stream.eof:
        raise OSError("it is cut off")


def read_json(path: Path, remedy: str) -> Any:
    """Return the content of a JSON file.

    Parameters
    ----------
    path : Path
        The file.
    remedy : str
        What to do if it cannot be read: the end of the message.

    Raises
    ------
    InputError
        If it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"'{path}' cannot be read as JSON ({described(error)}). {remedy}") from error


def is_text(name: str) -> bool:
    """Return whether the name of a file is UTF-8: other names SimpleITK cannot take, it ends the process."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def wildcard_expression(pattern: str) -> str:
    """Make a regular expression of a pattern in which * is any text, a group, and ? any character."""
    return re.escape(pattern).replace(r"\*", "(.*)").replace(r"\?", ".")


def name_problems(paths: Iterable[Path]) -> list[str]:
    """Say which files have names that are no UTF-8."""
    return [
        f"The name of '{ascii(path.name)[1:-1]}' in '{path.parent}' is no UTF-8. Rename it."
        for path in sorted(paths)
        if not is_text(path.name)
    ]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name to write a file under; when it is whole, it is moved to its place in one step.

    The name is hidden, unique, because another run may write the same file, and ends as that of the file.

    Raises
    ------
    OSError
        If what was written is a compressed file and not whole, as on a full disk.
    """
    partial = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        yield partial
        check_complete(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
