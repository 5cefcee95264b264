"""What this package asks of files that others wrote."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

_BLOCK_BYTES = 2**24


def check_complete(path: Path) -> None:
    """Read a gzip-compressed file to its end; other files are left alone.

    SimpleITK gives zeros, without an error, for what is missing of a compressed image, and does not check the rest.

    Parameters
    ----------
    path : Path
        File whose name ends in ``.gz`` if it is compressed.

    Raises
    ------
    OSError
        If the file is cut off or damaged, or cannot be opened.
    """
    if path.suffix != ".gz":
        return
    try:
        with gzip.open(path) as file:
            while file.read(_BLOCK_BYTES):
                pass
    except EOFError as error:
        raise OSError("it is cut off") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise OSError("it is damaged, or no gzip file") from error
