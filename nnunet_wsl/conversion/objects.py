"""Which ROIs of a structure set become which label of the dataset."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal

from nnunet_wsl.errors import InputError

Missing = Literal["error", "absent", "unknown"]
"""What it means that a case has no contour of an object: an error, the object is not there, or nothing is known."""

RESERVED_LABELS = ("background", "ignore")

LABEL_RULE = f"a name without line breaks or blanks at its ends, and other than {' and '.join(RESERVED_LABELS)}"
"""What messages say of the names that an object may have."""


def is_usable_label(name: str) -> bool:
    """Return whether an object may have this name.

    It is not empty, in no letter case nnU-Net's own, and on one line, without blanks at its ends.
    """
    on_one_line = not any(unicodedata.category(character) in {"Cc", "Zl", "Zp"} for character in name)
    return bool(name) and name == name.strip() and on_one_line and name.lower() not in RESERVED_LABELS


def check_rois(rois: Mapping[str, str]) -> None:
    """Check labels and regular expressions before any file is read.

    Raises
    ------
    InputError
        If a label has no usable name, or an expression is not valid.
    """
    problems = []
    for label, expression in rois.items():
        if not is_usable_label(label):
            problems.append(f"Label {label!r} cannot be used: expected {LABEL_RULE}. Choose another name.")
        try:
            re.compile(expression)
        except (re.error, OverflowError, RecursionError) as error:
            problems.append(
                f"'{expression}', the expression of label '{label}', is not a regular expression: {error}. "
                "Put a backslash before characters such as '+' and '('."
            )
    if problems:
        raise InputError(problems)


def rois_of_all(names_of_cases: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Make every ROI a label of its own, where all cases have the same ROIs.

    Parameters
    ----------
    names_of_cases : mapping of str to sequence of str
        The ROI names of each case.

    Returns
    -------
    dict of str to str
        Label to regular expression, in the order of the first case.

    Raises
    ------
    InputError
        If the cases have different ROIs: then only the user knows which are the same. If the name of an ROI cannot
        be that of a label. Or if the names of two ROIs differ in letter case only.
    """
    first = next(iter(names_of_cases.values()))
    if all(set(names) == set(first) for names in names_of_cases.values()):
        if unusable := [name for name in first if not is_usable_label(name)]:
            raise InputError(
                f"ROI {name!r} cannot be a label of this name: expected {LABEL_RULE}. Give it another one with "
                f"--roi 'NAME={re.escape(name)}', and name every other ROI to convert with a --roi as well."
                for name in unusable
            )
        rois = {name: re.escape(name) for name in first}
        if alike := [(a, b) for a, b in combinations(rois, 2) if is_match(b, rois[a])]:
            raise InputError(
                f"The ROIs '{a}' and '{b}' differ in letter case only, so it is not clear whether they are one object. "
                f"Unite them with --roi '{a}={rois[a]}', or choose one with --roi 'NAME=(?-i:{rois[a]})', in which "
                "letter case matters; name every other ROI to convert with a --roi as well."
                for a, b in alike
            )
        return rois
    counts = Counter(name for names in names_of_cases.values() for name in set(names))
    listing = ", ".join(f"'{name}' ({count})" for name, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
    raise InputError(
        f"The {len(names_of_cases)} cases have different ROIs, so the labels are not clear. ROI names and the number "
        f"of cases that have them: {listing}. Say which make a label, for example --roi "
        f"'{min(counts, key=lambda name: (-counts[name], name))}=REGEX', once per label."
    )


def matching_names(names: Iterable[str], rois: Mapping[str, str]) -> list[str]:
    """Return the ROI names that match any of the expressions, see :func:`match_rois`."""
    return [name for name in names if any(is_match(name, expression) for expression in rois.values())]


def match_rois(
    case: str, num_contours: Mapping[str, int], rois: Mapping[str, str], missing: Missing = "error"
) -> dict[str, tuple[str, ...]]:
    """Assign the ROIs of one case to labels.

    Parameters
    ----------
    case : str
        Name of the case, for messages.
    num_contours : mapping of str to int
        Number of contours of each ROI of the case.
    rois : mapping of str to str
        Label to regular expression, which must match the whole ROI name, in any letter case.
    missing : {"error", "absent", "unknown"}
        Whether a label without an ROI, or an ROI without contours, is an error.

    Returns
    -------
    dict of str to tuple of str
        Label to ROI names, in the order of ``rois``; several ROIs are united, and there may be none if ``missing``
        allows it.

    Raises
    ------
    InputError
        If an ROI matches two labels, or, with ``missing`` an error, a label has no ROI or an ROI no contours.
    """
    matched = {
        label: tuple(name for name in num_contours if is_match(name, expression)) for label, expression in rois.items()
    }
    listing = ", ".join(f"'{name}'" for name in num_contours) or "none"
    problems = [
        f"Case '{case}': no ROI matches '{rois[label]}' for label '{label}'. It has the ROIs {listing}. "
        "Change the expression of --roi, say with --missing whether it is absent or unknown, or remove the case."
        for label, found in matched.items()
        if not found and missing == "error"
    ]
    labels_of: dict[str, list[str]] = {}
    for label, found in matched.items():
        for name in found:
            labels_of.setdefault(name, []).append(label)
    problems += [
        f"Case '{case}': ROI '{name}' matches the labels {', '.join(map(repr, labels))}; expected one. "
        "Make the expressions of --roi narrower."
        for name, labels in labels_of.items()
        if len(labels) > 1
    ]
    problems += [
        f"Case '{case}': ROI '{name}' for label '{labels[0]}' has no contours. "
        "Draw it, leave it out with --roi, say with --missing whether it is absent or unknown, or remove "
        "the case."
        for name, labels in labels_of.items()
        if num_contours[name] == 0 and missing == "error"
    ]
    if problems:
        raise InputError(problems)
    return matched


def is_match(name: str, expression: str) -> bool:
    """Return whether an expression matches a whole name, in any letter case and however accents are written."""
    expression, name = (unicodedata.normalize("NFC", text) for text in (expression, name))
    return re.fullmatch(expression, name, re.IGNORECASE) is not None
