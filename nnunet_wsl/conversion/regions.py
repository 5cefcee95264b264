"""Label values for objects that overlap: nnU-Net's region-based labels.

Every combination of objects that occurs in the dataset gets a label value, and the region of an object is the list of
values whose combination contains it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_wsl.conversion.cropped import CroppedMask
from nnunet_wsl.errors import InputError

RARE_SHARE = 0.01
"""A combination with a smaller share of the voxels of the smallest of its objects is rare: it comes from rounding where
borders touch, not from how the objects lie."""

MAX_VALUES = 254
"""Labels are one byte: background, these, ignore."""

Combination = tuple[int, ...]
"""Indices of objects, ascending, from 0."""

Status = tuple[Combination, Combination]
"""The objects that a voxel lies inside of, and the others that are not known there."""


@dataclass(frozen=True)
class LabelValues:
    """What the values of a dataset's label maps mean.

    Parameters
    ----------
    objects : tuple of str
        Names of the objects.
    combinations : tuple of tuple of int
        The objects that value 1, 2, ... stands for. The value after the last is ignore.
    order : tuple of int
        The objects from the outermost to the innermost, in which nnU-Net writes predicted regions over each other.
    written : tuple of int
        The value that is written for each object of ``order``.
    rare : frozenset of tuple of int
        The combinations that are not to be expected where an object is unknown, see `RARE_SHARE`.
    """

    objects: tuple[str, ...]
    combinations: tuple[Combination, ...]
    order: tuple[int, ...]
    written: tuple[int, ...]
    rare: frozenset[Combination] = frozenset()

    @classmethod
    def one_per_object(cls, objects: Sequence[str]) -> LabelValues:
        """Return the values of a dataset in which a voxel belongs to one object at most."""
        indices = tuple(range(len(objects)))
        return cls(tuple(objects), tuple((k,) for k in indices), indices, tuple(k + 1 for k in indices))

    @classmethod
    def of_combinations(
        cls,
        objects: Sequence[str],
        counts: Mapping[Status, int],
        volumes_mm3: Sequence[float],
        drawn: Collection[Combination] | None = None,
    ) -> LabelValues:
        """Give a value to every combination that occurs.

        Parameters
        ----------
        objects : sequence of str
            Names of the objects.
        counts : mapping of (combination, combination) to int
            Number of voxels of all cases by the objects that they lie inside of and those not known there, see
            :func:`count_statuses`.
        volumes_mm3 : sequence of float
            Typical volume of each object; the larger is the outer one.
        drawn : collection of combination, optional
            The combinations that occur where nothing is interpolated; others have no value if they are rare, see
            `RARE_SHARE`. By default all are drawn.

        Raises
        ------
        InputError
            If more combinations occur than label values exist, or objects are the same wherever they are known.
        """
        voxels: Counter[Combination] = Counter()
        for (inside, unknown), count in counts.items():
            if not unknown:
                voxels[inside] += count
        rare = _rare(voxels)
        noise = frozenset() if drawn is None else rare.difference(drawn)
        combinations = sorted(
            _occurring([status for status in counts if status[0] not in noise], len(objects)),
            key=lambda c: (len(c), c),
        )
        _check_number(combinations, MAX_VALUES)
        _check_different(objects, combinations)
        order = tuple(sorted(range(len(objects)), key=lambda k: (-volumes_mm3[k], k)))
        written = []
        for place, k in enumerate(order):
            # Of a voxel whose value stays, no object further inside has been predicted.
            inner = set(order[place + 1 :])
            innermost = [c for c in combinations if k in c and not inner.intersection(c)]
            candidates = innermost or [c for c in combinations if k in c]
            written.append(combinations.index(max(candidates, key=lambda c: voxels[c])) + 1)
        return cls(tuple(objects), tuple(combinations), order, tuple(written), rare)

    @property
    def ignore(self) -> int:
        """The value of voxels that the annotation does not determine."""
        return len(self.combinations) + 1

    @property
    def has_regions(self) -> bool:
        """Whether objects overlap."""
        return any(len(combination) > 1 for combination in self.combinations)

    def innermost(self, value: int) -> int:
        """Return the innermost object of a value's combination."""
        return max(self.combinations[value - 1], key=self.order.index)

    def dataset_labels(self, *, has_ignore: bool) -> dict[str, int | list[int]]:
        """Return nnU-Net's ``labels``: values by name, or lists of values where objects overlap."""
        labels: dict[str, int | list[int]] = {"background": 0}
        for k in self.order:
            values = [value for value, combination in enumerate(self.combinations, start=1) if k in combination]
            labels[self.objects[k]] = values if len(values) > 1 else values[0]
        return labels | ({"ignore": self.ignore} if has_ignore else {})

    def determined(self, inside: Combination, unknown: Combination) -> int:
        """Return the value of a voxel: that of the one combination it can have, else ignore.

        Parameters
        ----------
        inside, unknown : tuple of int
            The objects around the voxel, and the others that are not known there.
        """
        possible = _possible(inside, unknown, [(), *self.combinations])
        if len(possible) > 1:
            possible = [c for c in possible if c not in self.rare] or possible
        if len(possible) != 1:
            return self.ignore
        (combination,) = possible
        return self.combinations.index(combination) + 1 if combination else 0

    def label_map(self, codes: npt.NDArray[np.uint16], statuses: Sequence[Status]) -> npt.NDArray[np.uint8]:
        """Make the label map of one case.

        Parameters
        ----------
        codes : ndarray of uint16, shape (z, y, x)
            Index into ``statuses`` of each voxel.
        statuses : sequence of (combination, combination)
            Of this case, see :func:`combine`.

        Returns
        -------
        ndarray of uint8, shape (z, y, x)
        """
        values = np.zeros(len(statuses), np.uint8)
        for code in np.unique(codes):
            values[code] = self.determined(*statuses[code])
        return np.asarray(values[codes])


def combine(
    inside: Sequence[CroppedMask], known: Sequence[CroppedMask]
) -> tuple[npt.NDArray[np.uint16], tuple[Status, ...]]:
    """Tell of every voxel the objects that it lies inside of, and the others that are not known there.

    Parameters
    ----------
    inside : sequence of K CroppedMask
        One per object.
    known : sequence of K CroppedMask
        Where each object is known; of the same windows.

    Returns
    -------
    ndarray of uint16, shape (z, y, x)
        Index into the statuses.
    tuple of (combination, combination)
        The objects around a voxel, and the others that are not known there; not all of them need occur.

    Raises
    ------
    InputError
        If there are more than two bytes can count.
    """
    codes = np.zeros(tuple(inside[0].shape_zyx), np.uint16)
    statuses: list[Status] = [((), ())]
    for k, (of_object, known_there) in enumerate(zip(inside, known, strict=True)):
        for is_inside, there in ((True, of_object), (False, ~(of_object | known_there))):
            window, where = there.where()
            before = codes[window][where]
            present = np.unique(before)
            joined = np.zeros(len(statuses), np.uint16)
            joined[present] = np.arange(len(statuses), len(statuses) + len(present))
            codes[window][where] = joined[before]
            for code in present:
                around, unknown = statuses[code]
                statuses.append(((*around, k), unknown) if is_inside else (around, (*unknown, k)))
            _check_number(statuses, np.iinfo(codes.dtype).max)
    return codes, tuple(statuses)


def count_statuses(codes: npt.NDArray[np.uint16], statuses: Sequence[Status]) -> Counter[Status]:
    """Count the voxels of one case by their status.

    Parameters
    ----------
    codes, statuses
        As for :meth:`LabelValues.label_map`.
    """
    counts = np.bincount(codes.ravel(), minlength=len(statuses)).tolist()
    return Counter({status: count for status, count in zip(statuses, counts, strict=True) if count})


def _check_number(combinations: Sequence[object], most: int) -> None:
    if len(combinations) > most:
        raise InputError(
            f"The objects overlap in {len(combinations)} combinations; expected at most {most}. "
            "Select fewer ROIs, or pass --overlap priority."
        )


def _check_different(objects: Sequence[str], combinations: Sequence[Combination]) -> None:
    """Refuse objects that occur in the same combinations: nnU-Net would take their one value for one object."""
    same: dict[tuple[bool, ...], list[str]] = {}
    for k, name in enumerate(objects):
        same.setdefault(tuple(k in combination for combination in combinations), []).append(name)
    if problems := [
        f"Labels {' and '.join(map(repr, names))} are the same: in all cases, every voxel that is in one of them is in "
        "the other. Leave one of them out, or correct the contours."
        for names in same.values()
        if len(names) > 1
    ]:
        raise InputError(problems)


def _possible(drawn: Combination, unknown: Combination, combinations: Iterable[Combination]) -> list[Combination]:
    """Return the combinations that contain what is drawn, and beyond that only what is not known."""
    most = {*drawn, *unknown}
    return [c for c in combinations if set(drawn) <= set(c) <= most]


def _occurring(counts: Collection[Status], num_objects: int) -> set[Combination]:
    """Return the combinations of voxels at which all objects are known, and what else the drawn objects need."""
    occurring = {drawn for drawn, unknown in counts if drawn and not unknown}
    unexplained = {drawn for drawn, unknown in counts if drawn and not _possible(drawn, unknown, occurring)}
    occurring |= unexplained
    # An object whose contours enclose no voxel centre still needs a value.
    return occurring | {(k,) for k in range(num_objects) if not any(k in c for c in occurring)}


def _rare(voxels: Mapping[Combination, int]) -> frozenset[Combination]:
    """Return the rare ones of the combinations of voxels at which all objects are known."""
    of_object: Counter[int] = Counter()
    for combination, count in voxels.items():
        of_object.update(dict.fromkeys(combination, count))
    return frozenset(c for c in voxels if c and voxels[c] < RARE_SHARE * min(of_object[k] for k in c))
