"""Files: whole ones only, read and written."""

from __future__ import annotations

import gzip
import re
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK_BYTES = 2**24


_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS

_COMPRESSED_INSIDE = {
    # MetaImage's header ends with the line that says that the voxels follow; NRRD's with an empty line.
    ".mha": (rb"\nCompressedData *= *True\s", rb"\nElementDataFile *= *LOCAL\s*?\n", _ZLIB),
    ".nrrd": (rb"\nencoding: *gz(ip)?\s", rb"\r?\n\r?\n", _GZIP),
}
"""Formats whose files may hold compressed voxels: what their headers say then, how these end, and the compression."""

_LONGEST_HEADER = 2**16


def check_complete(path: Path) -> None:
    """Read a compressed file to its end; other files are left alone.

    SimpleITK gives zeros, without an error, for what is missing of a compressed image, and does not check the rest. Nor
    does it say that an image that it writes is cut off by a full disk.

    Parameters
    ----------
    path : Path
        File whose name ends in ``.gz`` if it is compressed; or in ``.mha`` or ``.nrrd``, and its header says so.

    Raises
    ------
    OSError
        If the file is empty, cut off or damaged, or cannot be opened.
    """
    if path.suffix in _COMPRESSED_INSIDE:
        _check_inside(path, *_COMPRESSED_INSIDE[path.suffix])
    if path.suffix != ".gz":
        return
    if path.stat().st_size == 0:
        raise OSError("it is empty")
    try:
        with gzip.open(path) as file:
            while file.read(_BLOCK_BYTES):
                pass
    except EOFError as error:
        raise OSError("it is cut off") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise OSError("it is damaged, or no gzip file") from error


def _check_inside(path: Path, compressed: bytes, end: bytes, window_bits: int) -> None:
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
        header_end = re.search(end, start)
        if header_end is None or not re.search(compressed, start[: header_end.end()], re.IGNORECASE):
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
