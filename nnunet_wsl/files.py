"""Files: whole ones only, read and written."""

from __future__ import annotations

import gzip
import secrets
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK_BYTES = 2**24


def check_complete(path: Path) -> None:
    """Read a gzip-compressed file to its end; other files are left alone.

    SimpleITK gives zeros, without an error, for what is missing of a compressed image, and does not check the rest. Nor
    does it say that an image that it writes is cut off by a full disk.

    Parameters
    ----------
    path : Path
        File whose name ends in ``.gz`` if it is compressed.

    Raises
    ------
    OSError
        If the file is empty, cut off or damaged, or cannot be opened.
    """
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
