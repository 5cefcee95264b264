"""Lists of the slices that are fully annotated, which a user keeps in a JSON or CSV file."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_wsl.contours import SliceList
from nnunet_wsl.errors import InputError

EVERY_OBJECT = "*"

MAX_SLICE = 99_999
"""No image has so many slices; a list beyond would take memory before it can be compared with the image."""

_SHOWN_NAMES = 5

_FORMAT = (
    f'Write slices, from 0 to {MAX_SLICE}, as "0-4 8" or "all": in JSON as {{"case": {{"object": "0-4 8"}}}}, in '
    "CSV in the columns case, object and slices. The object * stands for every object that is not listed itself."
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
    known_cases = frozenset(cases)
    unknown_cases: dict[str, None] = {}
    for case, name, value in _entries(path):
        if case not in known_cases:
            unknown_cases[case] = None
        elif name != EVERY_OBJECT and name not in objects:
            problems.append(f"{path}: case '{case}' lists '{name}', which is no label. The labels are "
                            f"{', '.join(objects)}, and {EVERY_OBJECT} for all.")  # fmt: skip
        elif (slices := _parse(value)) is None:
            shown = text if len(text := str(value)) <= 40 else f"{text[:40]}..."
            problems.append(f"{path}: case '{case}', object '{name}': '{shown}' lists no slices. {_FORMAT}")
        else:
            of_case = listed.setdefault(case, {})
            of_case[name] = _united(of_case.get(name, ()), slices)
    if unknown_cases:
        unknown, known = _few([repr(case) for case in unknown_cases]), _few(sorted(known_cases))
        problems.insert(0, f"{path}: there is no case {unknown}. The cases are {known}. Correct the names.")
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
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"{path}: the list of annotated slices cannot be read: {reason}.") from error
    return _csv_entries(path, text) if path.suffix.lower() == ".csv" else _json_entries(path, text)


def _csv_entries(path: Path, text: str) -> Iterator[tuple[str, str, Any]]:
    table = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        columns, rows = table.fieldnames or (), [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise InputError(f"{path}: is not valid CSV (after line {table.line_num}: {error}). {_FORMAT}") from error
    # A column without a name, or one of two of the same name, would be lost. The first may be pandas' index.
    if not {"case", "object", "slices"} <= set(columns) or "" in columns[1:] or len(set(columns)) < len(columns):
        found = ", ".join(columns) or "none"
        raise InputError(f"{path}: expected the columns case, object and slices, found {found}. {_FORMAT}")
    if problems := [
        f"{path}: line {line} has more columns than the {len(columns)} named in the first. Put a list of slices with "
        f"commas in quotes, or separate them by blanks. {_FORMAT}"
        for line, row in rows
        if None in row
    ]:
        raise InputError(problems)
    yield from ((row["case"], row["object"], row["slices"]) for _, row in rows)


def _json_entries(path: Path, text: str) -> Iterator[tuple[str, str, Any]]:
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: is not valid JSON (line {error.lineno}: {error.msg}). {_FORMAT}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: has a number of too many digits, or is nested too deeply. {_FORMAT}") from error
    if repeated:
        raise InputError(
            f"{path}: '{name}' is listed twice in one place, and the first would be lost. Write each case, and each "
            "object of a case, once."
            for name in repeated
        )
    if not isinstance(content, Mapping) or not all(isinstance(of_case, Mapping) for of_case in content.values()):
        raise InputError(f"{path}: expected an object of cases, each an object of objects. {_FORMAT}")
    for case, of_case in content.items():
        yield from ((case, name, value) for name, value in of_case.items())


def _parse(value: Any) -> SliceList | None:
    """Return the slices that a list or a text means; None if it means none."""
    if isinstance(value, list):
        whole = all(isinstance(k, int) and not isinstance(k, bool) and 0 <= k <= MAX_SLICE for k in value)
        return tuple(sorted(set(value))) if whole else None
    if not isinstance(value, str):
        return None
    if value.strip() == "all":
        return "all"
    slices: set[int] = set()
    for word in value.replace(",", " ").split():
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", word)
        if not found:
            return None
        first = int(found[1])
        last = int(found[2] or first)
        if not first <= last <= MAX_SLICE:
            return None
        slices.update(range(first, last + 1))
    return tuple(sorted(slices))


def _few(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _united(a: SliceList, b: SliceList) -> SliceList:
    return "all" if a == "all" or b == "all" else tuple(sorted({*a, *b}))
