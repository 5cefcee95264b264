"""Files of a result: they appear together, and an undefined value is null in JSON and empty in CSV."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nnunet_wsl.errors import InputError


@contextmanager
def results_in(out: Path) -> Iterator[Path]:
    """Write files elsewhere and move them into a folder when all are there.

    Parameters
    ----------
    out : Path
        The folder, made if needed when all is written; files of the same names are replaced, others stay.

    Yields
    ------
    Path
        The folder to write to.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    out = Path(os.path.realpath(out))
    existing = next(folder for folder in (out, *out.parents) if os.access(folder, os.F_OK))
    try:
        with suppress(FileNotFoundError):
            out.stat()  # fails for what can never be made, as a name that is too long
        with TemporaryDirectory(dir=existing, prefix=".building-") as name:
            building = Path(name)
            yield building
            out.mkdir(parents=True, exist_ok=True)
            files = sorted(building.iterdir())
            if occupied := [file.name for file in files if (out / file.name).is_dir()]:
                raise IsADirectoryError(errno.EISDIR, f"{os.strerror(errno.EISDIR)}: {', '.join(occupied)}")
            for file in files:
                file.replace(out / file.name)
    except OSError as error:
        raise InputError(f"--out '{out}' cannot be written to ({error.strerror or error}). Choose another.") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write strict JSON."""
    text = json.dumps(_null_for_nan(content), indent=4, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write at least one row of the same keys as CSV."""
    lines = [{name: "" if _is_nan(value) else value for name, value in row.items()} for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nan(item) for item in value]
    return None if _is_nan(value) else value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
