"""Case names and patient groups from folders, and the cross-validation folds made from the groups."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from pathlib import PurePath

_LOG = logging.getLogger(__name__)

MAX_FOLDS = 5
"""nnU-Net's number of folds."""

_UID = re.compile(r"^\d+(\.\d+){3,}\Z|(?<!\d)(?<!\d\.)[012](\.(0|[1-9]\d*)){4,}(?!\.?\d)")
"""A name of nothing but numbers with dots between; or, amid other text, the form of a UID (DICOM PS3.5, chapter 9)."""


def case_names(folders: Sequence[PurePath], files: Sequence[PurePath] = ()) -> list[str]:
    """Name cases after their folders.

    The components of a folder are joined with ``_``. Components that all cases share, and what looks like a DICOM
    UID, say nothing and are dropped; a single case keeps its shared ones. Cases of the same name are numbered in the
    order of their folders.

    Parameters
    ----------
    folders : sequence of PurePath
        One folder per case, relative to the source; a folder may occur several times.
    files : sequence of PurePath, optional
        What the log says numbered cases come from, instead of their folders.

    Returns
    -------
    list of str
        Unique names of letters, digits, ``-`` and ``_``, in the order of the folders.

    Examples
    --------
    >>> case_names([PurePath("STS_001/PET/mask"), PurePath("STS_002/PET/mask")])
    ['STS_001', 'STS_002']
    """
    telling = [[text for part in folder.parts if (text := _UID.sub("", part).strip(" ._-"))] for folder in folders]
    shared = set.intersection(*map(set, telling)) if len(folders) > 1 else set()
    names = [
        re.sub(r"[^A-Za-z0-9_-]+", "-", "_".join(part for part in parts if part not in shared)).strip("-_") or "case"
        for parts in telling
    ]
    # Letter case does not tell files apart on every disk.
    counts = Counter(name.lower() for name in names)
    taken = set(counts)
    numbered = list(names)
    for i in sorted(range(len(names)), key=lambda i: folders[i]):
        if counts[names[i].lower()] > 1:
            number = 1
            while (candidate := f"{names[i]}_{number}").lower() in taken:
                number += 1
            taken.add(candidate.lower())
            numbered[i] = candidate
            _LOG.info("Case '%s' comes from '%s'.", candidate, (files or folders)[i])
    return numbered


def patient_groups(
    folders: Sequence[PurePath], patient_ids: Sequence[str], images: Sequence[Hashable] = ()
) -> list[int]:
    """Group the cases that must stay in one fold.

    Two cases belong together if they have the same image, the same Patient ID, or the same folder at the first level at
    which the cases' folders differ. A level of annotators, whose folders all have images in common, does not count.

    Parameters
    ----------
    folders : sequence of PurePath
        One folder per case, relative to the source.
    patient_ids : sequence of str
        Patient ID per case, empty where unknown. One ID for all cases tells nothing (anonymised data) and is not
        used.
    images : sequence of hashable, optional
        What tells the image of each case.

    Returns
    -------
    list of int
        The group of each case: the index of the group's first case.
    """
    if len(folders) > 1 and len(set(patient_ids)) == 1 and patient_ids[0]:
        _LOG.warning(
            "All %d cases carry the same Patient ID: only folders and images tell patients apart.", len(folders)
        )
        patient_ids = [""] * len(folders)
    levels = [
        [folder.parts[level] if level < len(folder.parts) else "" for folder in folders]
        for level in range(max((len(folder.parts) for folder in folders), default=0))
    ]
    telling = (level for level in levels if len(set(level)) > 1 and len(set(_linked(level, images))) > 1)
    first_level = next(telling, [])
    told_by_id = len(set(patient_ids) - {""})
    group = _linked([str(i) for i in range(len(folders))], first_level, patient_ids, images)
    if first_level and (patients := len(set(group))) < told_by_id:
        _LOG.warning(
            "The cases carry %d Patient IDs, but count as %d patients: all below one folder at the first level at "
            "which the folders differ, such as '%s', stay in one fold. If such a folder holds several patients, put "
            "the patients directly below the source.",
            told_by_id, patients, next(filter(None, first_level)),
        )  # fmt: skip
    return group


def _linked(*kinds: Sequence[Hashable]) -> list[int]:
    """Group what shares a key of any kind, directly or through others: the index of each one's first; "" is no key."""
    group = list(range(max(map(len, kinds))))
    for keys in kinds:
        members: dict[Hashable, list[int]] = defaultdict(list)
        for i, key in enumerate(keys):
            if key:
                members[key].append(i)
        for same in members.values():
            merged = {group[i] for i in same}
            if len(merged) > 1:
                group = [min(merged) if g in merged else g for g in group]
    return group


def patient_splits(names: Sequence[str], groups: Sequence[int]) -> list[dict[str, list[str]]]:
    """Return cross-validation folds that never divide a group: the content of ``splits_final.json``.

    nnU-Net's own split is applied to the groups, so that without groups of several cases it is nnU-Net's split.

    Parameters
    ----------
    names : sequence of str
        Case names.
    groups : sequence of int
        Group of each case, see :func:`patient_groups`.

    Returns
    -------
    list of dict
        Up to five folds with the keys ``train`` and ``val``; none if there is a single group.
    """
    # Here, because it brings scikit-learn, which the worker processes do not need.
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    members = defaultdict(list)
    for name, group in zip(names, groups, strict=True):
        members[group].append(name)
    cases_of = {min(cases): sorted(cases) for cases in members.values()}
    num_folds = min(MAX_FOLDS, len(cases_of))
    if num_folds < 2:
        return []
    return [
        {part: sorted(case for first in fold[part] for case in cases_of[str(first)]) for part in ("train", "val")}
        for fold in generate_crossval_split(sorted(cases_of), n_splits=num_folds)
    ]
