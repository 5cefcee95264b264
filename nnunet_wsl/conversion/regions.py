"""Label values for objects that overlap: nnU-Net's region-based labels, or the first of the objects around a voxel.

With regions every combination of objects that occurs in the dataset gets a label value, and the region of an object is
the list of values whose combination contains it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnunet_wsl.conversion.cropped import CroppedMask
from nnunet_wsl.errors import InputError

RARE_SHARE = 0.01
"""A smaller share of an object's voxels counts as none: it comes from rounding where borders touch, not from how the
objects lie."""

MAX_VALUES = 254
"""Labels are one byte: background, these, ignore."""

Combination = tuple[int, ...]
"""Indices of objects, ascending, from 0."""


class Status(NamedTuple):
    """What is known of a voxel.

    Parameters
    ----------
    inside : tuple of int
        The objects that it is drawn inside of.
    unknown : tuple of int
        The objects that are not known there.
    interpolated : tuple of int
        The objects that it lies inside of by interpolation alone.
    """

    inside: Combination
    unknown: Combination
    interpolated: Combination = ()


@dataclass(frozen=True, eq=False)
class Relations:
    """How objects lie to each other, as far as voxels tell at which both of a pair are known.

    Parameters
    ----------
    disjoint : ndarray of bool, shape (K, K)
        Whether two objects never share a voxel.
    within : ndarray of bool, shape (K, K)
        Whether the first object never leaves the second.
    """

    disjoint: npt.NDArray[np.bool_]
    within: npt.NDArray[np.bool_]

    @classmethod
    def apart(cls, num_objects: int) -> Relations:
        """Return those of objects that never overlap."""
        return cls(~np.eye(num_objects, dtype=np.bool_), np.zeros((num_objects, num_objects), np.bool_))

    @classmethod
    def of(cls, pairs: npt.NDArray[np.int64]) -> Relations:
        """Learn them from the number of voxels of pairs, see :func:`count_pairs`.

        A share below `RARE_SHARE` counts as never. Objects that are nowhere known together may lie to each other in any
        way.
        """
        both, first_only = pairs
        known = both + first_only  # voxels of the first at which the second is known
        disjoint = both < RARE_SHARE * np.minimum(known, known.T)
        return cls(disjoint, first_only < RARE_SHARE * known)

    def allow(self, combination: Combination, unknown: Combination) -> bool:
        """Tell whether a voxel may be in these objects, and in no other one but the unknown."""
        inside = list(combination)
        outside = sorted(set(range(len(self.disjoint))).difference(inside, unknown))
        return not (self.disjoint[np.ix_(inside, inside)].any() or self.within[np.ix_(inside, outside)].any())

    def resolve(self, status: Status) -> tuple[Combination, Combination]:
        """Tell which objects a voxel is in, and which it may be in, with what follows from these relations.

        What is interpolated counts if the relations allow it beside what is drawn; else it is unknown.
        """
        with_interpolated = self._follow({*status.inside, *status.interpolated}, set(status.unknown))
        if not status.interpolated or self.allow(*with_interpolated):
            return with_interpolated
        return self._follow(set(status.inside), {*status.unknown, *status.interpolated})

    def _follow(self, around: set[int], open_: set[int]) -> tuple[Combination, Combination]:
        """Take unknown objects for present or absent where that follows; sets are used up."""
        outside = set(range(len(self.disjoint))) - around - open_
        found = True
        while found:
            found = False
            for k in sorted(open_):
                present = self.within[list(around), k].any()
                absent = self.disjoint[list(around), k].any() or self.within[k, list(outside)].any()
                if present != absent:
                    (around if present else outside).add(k)
                    open_.remove(k)
                    found = True
        return tuple(sorted(around)), tuple(sorted(open_))


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
    relations : Relations
        What is known of one object where another one is drawn or known.
    first_counts : bool
        Whether a voxel gets the value of the first of its objects.
    """

    objects: tuple[str, ...]
    combinations: tuple[Combination, ...]
    order: tuple[int, ...]
    written: tuple[int, ...]
    relations: Relations
    first_counts: bool = False

    @classmethod
    def one_per_object(cls, objects: Sequence[str]) -> LabelValues:
        """Return the values of a dataset in which a voxel belongs to one object at most."""
        indices = tuple(range(len(objects)))
        relations = Relations.apart(len(objects))
        return cls(tuple(objects), tuple((k,) for k in indices), indices, tuple(k + 1 for k in indices), relations)

    @classmethod
    def by_priority(cls, objects: Sequence[str], relations: Relations) -> LabelValues:
        """Give a value to every object; a voxel inside several has that of the first one.

        Parameters
        ----------
        objects, relations
            As for `of_combinations`.
        """
        return replace(cls.one_per_object(objects), relations=relations, first_counts=True)

    @classmethod
    def of_combinations(
        cls,
        objects: Sequence[str],
        relations: Relations,
        counts: Mapping[Status, int],
        volumes_mm3: Sequence[float],
    ) -> LabelValues:
        """Give a value to every combination that occurs.

        Parameters
        ----------
        objects : sequence of str
            Names of the objects.
        relations : Relations
            How they lie to each other.
        counts : mapping of Status to int
            Number of voxels of all cases by status, see :func:`count_statuses`.
        volumes_mm3 : sequence of float
            Typical volume of each object; the larger is the outer one, unless it lies within the smaller.

        Raises
        ------
        InputError
            If more combinations occur than label values exist, or objects are the same wherever they are known.
        """
        voxels: Counter[Combination] = Counter()
        for status, count in counts.items():
            combination, open_ = relations.resolve(status)
            if combination and not open_:
                voxels[combination] += count
        # An object that has no voxel still needs a value.
        without = [(k,) for k in range(len(objects)) if not any(k in combination for combination in voxels)]
        combinations = sorted([*voxels, *without], key=lambda c: (len(c), c))
        _check_number(combinations, MAX_VALUES)
        _check_different(objects, combinations)
        order = _from_outside(relations, volumes_mm3)
        written = []
        for place, k in enumerate(order):
            # Of a voxel whose value stays, no object further inside has been predicted.
            inner = set(order[place + 1 :])
            innermost = [c for c in combinations if k in c and not inner.intersection(c)]
            candidates = innermost or [c for c in combinations if k in c]
            written.append(combinations.index(max(candidates, key=lambda c: voxels[c])) + 1)
        return cls(tuple(objects), tuple(combinations), order, tuple(written), relations)

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

    def determined(self, status: Status) -> int:
        """Return the value of a voxel, ignore if it may have several."""
        combination, open_ = self.relations.resolve(status)
        if self.first_counts and combination:
            first = combination[0]
            combination, open_ = (first,), tuple(k for k in open_ if k < first)
        if open_:
            return self.ignore
        return self.combinations.index(combination) + 1 if combination else 0

    def label_map(self, codes: npt.NDArray[np.uint16], statuses: Sequence[Status]) -> npt.NDArray[np.uint8]:
        """Make the label map of one case.

        Parameters
        ----------
        codes : ndarray of uint16, shape (z, y, x)
            Index into ``statuses`` of each voxel.
        statuses : sequence of Status
            Of this case, see :func:`combine`.

        Returns
        -------
        ndarray of uint8, shape (z, y, x)
        """
        values = np.zeros(len(statuses), np.uint8)
        for code in np.unique(codes):
            values[code] = self.determined(statuses[code])
        return np.asarray(values[codes])


def combine(
    inside: Sequence[CroppedMask], known: Sequence[CroppedMask], drawn: Sequence[CroppedMask] | None = None
) -> tuple[npt.NDArray[np.uint16], tuple[Status, ...]]:
    """Tell the status of every voxel.

    Parameters
    ----------
    inside : sequence of K CroppedMask
        One per object.
    known : sequence of K CroppedMask
        Where each object is known; of the same windows.
    drawn : sequence of K CroppedMask, optional
        Which voxels of `inside` are inside contours, the others being interpolated; of the same windows. All of them by
        default.

    Returns
    -------
    ndarray of uint16, shape (z, y, x)
        Index into the statuses.
    tuple of Status
        Not all of them need occur.

    Raises
    ------
    InputError
        If there are more than two bytes can count.
    """
    codes = np.zeros(tuple(inside[0].shape_zyx), np.uint16)
    statuses = [Status((), ())]
    for k, (of_object, known_there) in enumerate(zip(inside, known, strict=True)):
        parts = {"inside": of_object, "unknown": ~(of_object | known_there)}
        if drawn is not None:
            parts["inside"] = drawn[k]
            parts["interpolated"] = of_object.with_values(of_object.values & ~drawn[k].values)
        for kind, there in parts.items():
            window, where = there.where()
            before = codes[window][where]
            present = np.unique(before)
            joined = np.zeros(len(statuses), np.uint16)
            joined[present] = np.arange(len(statuses), len(statuses) + len(present))
            codes[window][where] = joined[before]
            statuses += [
                statuses[code]._replace(**{kind: (*getattr(statuses[code], kind), k)}) for code in present.tolist()
            ]
            if len(statuses) > np.iinfo(codes.dtype).max:
                raise InputError(
                    f"The objects overlap, or are unknown, in {len(statuses)} combinations; expected at most "
                    f"{np.iinfo(codes.dtype).max}. Select fewer ROIs."
                )
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


def count_pairs(counts: Mapping[Status, int], num_objects: int) -> npt.NDArray[np.int64]:
    """Count the voxels of one case, for each pair of objects, that are inside the first while the second is known.

    Parameters
    ----------
    counts : mapping of Status to int
        Number of voxels by status, see :func:`count_statuses`, none of them interpolated.
    num_objects : int
        K.

    Returns
    -------
    ndarray of int64, shape (2, K, K)
        Those that are inside the second too, and those that are not.
    """
    inside = np.zeros((len(counts), num_objects), np.int64)
    outside = np.ones((len(counts), num_objects), np.int64)
    for row, status in enumerate(counts):
        inside[row, list(status.inside)] = 1
        outside[row, [*status.inside, *status.unknown]] = 0
    weighted = inside.T * np.array(list(counts.values()), np.int64)
    return np.stack([weighted @ inside, weighted @ outside])


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


def _from_outside(relations: Relations, volumes_mm3: Sequence[float]) -> tuple[int, ...]:
    """Return the objects from the outermost to the innermost: those around an object before it, larger ones first."""
    within = relations.within & ~relations.within.T
    left, order = set(range(len(volumes_mm3))), []
    while left:
        outer = [k for k in left if not within[k, list(left)].any()] or list(left)
        order.append(min(outer, key=lambda k: (-volumes_mm3[k], k)))
        left.remove(order[-1])
    return tuple(order)
