"""Lists of the slices that are fully annotated, which a user keeps in a JSON or CSV file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nnunet_wsl.contours import SliceList
from nnunet_wsl.errors import InputError

EVERY_OBJECT = "*"

_FORMAT = (
    'Write slices as "0-4 8" or "all": in JSON as {"case": {"object": "0-4 8"}}, in CSV in the columns '
    "case, object and slices. The object * stands for every object that is not listed itself."
)


def read_annotated(path: Path, cases: Collection[str], objects: Collection[str]) -> dict[str, dict[str, SliceList]]:
    """Read which slices are fully annotated.

    Parameters
    ----------
    path : Path
        A file ``.json``: object of case names, each an object of object names, each a list of slice indices or a text
        such as ``"0-4 8"`` or ``"all"``. Or a file ``.csv`` with the columns ``case``, ``object`` and ``slices`` (such
        a text); several rows of one case and object are united. The object ``*`` stands for every object of the case
        that is not listed itself.
    cases, objects : collection of str
        The names that may occur.

    Returns
    -------
    dict of str to dict of str to slices
        By case and object; only what the file lists.

    Raises
    ------
    InputError
        If the file cannot be read, or names unknown cases or objects, or slices that are none; all problems together.
    """
    listed: dict[str, dict[str, SliceList]] = {}
    problems = []
    for case, name, value in _entries(path):
        if case not in cases:
            problems.append(f"{path}: there is no case '{case}'. The cases are {', '.join(sorted(cases))}.")
        elif name != EVERY_OBJECT and name not in objects:
            problems.append(f"{path}: case '{case}' lists '{name}', which is no label. The labels are "
                            f"{', '.join(objects)}, and {EVERY_OBJECT} for all.")  # fmt: skip
        elif (slices := _parse(value)) is None:
            problems.append(f"{path}: case '{case}', object '{name}': '{value}' lists no slices. {_FORMAT}")
        else:
            of_case = listed.setdefault(case, {})
            of_case[name] = _united(of_case.get(name, ()), slices)
    if problems:
        raise InputError(dict.fromkeys(problems))
    return {
        case: {name: of_case.get(name, of_case.get(EVERY_OBJECT, ())) for name in objects}
        if EVERY_OBJECT in of_case
        else of_case
        for case, of_case in listed.items()
    }


def slices_within(listed: SliceList, num_slices: int, *, case: str, object_name: str) -> list[int]:
    """Return the indices of listed slices.

    Raises
    ------
    InputError
        If the image has no such slice.
    """
    if listed == "all":
        return list(range(num_slices))
    if beyond := [k for k in listed if k >= num_slices]:
        raise InputError(
            f"Case '{case}', object '{object_name}': slice {beyond[0]} is listed as annotated, but the image has the "
            f"slices 0 to {num_slices - 1}. Correct the list."
        )
    return list(listed)


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
            if {"case", "object", "slices"} - set(rows.fieldnames or ()):
                found = ", ".join(rows.fieldnames or ()) or "none"
                raise InputError(f"{path}: expected the columns case, object and slices, found {found}. {_FORMAT}")
            yield from ((row["case"], row["object"], row["slices"]) for row in rows)
            return
        content = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{path}: the list of annotated slices cannot be read: {reason}.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is not valid JSON (line {error.lineno}: {error.msg}). {_FORMAT}") from error
    if not isinstance(content, Mapping) or not all(isinstance(of_case, Mapping) for of_case in content.values()):
        raise InputError(f"{path}: expected an object of cases, each an object of objects. {_FORMAT}")
    for case, of_case in content.items():
        yield from ((case, name, value) for name, value in of_case.items())


def _parse(value: Any) -> SliceList | None:
    """Return the slices that a list or a text means; None if it means none."""
    if isinstance(value, list):
        whole = all(isinstance(k, int) and not isinstance(k, bool) and k >= 0 for k in value)
        return tuple(sorted(set(value))) if whole else None
    if not isinstance(value, str):
        return None
    if value.strip() == "all":
        return "all"
    slices: set[int] = set()
    for word in value.replace(",", " ").split():
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if not found:
            return None
        first = int(found[1])
        last = int(found[2] or first)
        if last < first:
            return None
        slices.update(range(first, last + 1))
    return tuple(sorted(slices))


def _united(a: SliceList, b: SliceList) -> SliceList:
    return "all" if a == "all" or b == "all" else tuple(sorted({*a, *b}))
