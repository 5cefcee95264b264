"""What is scored: the labels or regions of a dataset, and the tolerance of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnunet_wsl.errors import InputError

DEFAULT_TOLERANCE_MM = 1.0


@dataclass(frozen=True)
class ScoredObject:
    """A label, or a region made of several.

    Parameters
    ----------
    key : str
        Its key in nnU-Net's ``summary.json``: the value, or the tuple of values of a region.
    name : str
        Its name in ``dataset.json``.
    values : tuple of int
        Values of the label map that make it.
    tolerance_mm : float
        Tolerance of the surface Dice.
    """

    key: str
    name: str
    values: tuple[int, ...]
    tolerance_mm: float = DEFAULT_TOLERANCE_MM


@dataclass(frozen=True)
class ScoredLabels:
    """The meaning of the values of a dataset's label maps.

    Parameters
    ----------
    objects : tuple of ScoredObject
        What is scored; not the background.
    ignore : int or None
        Value of reference voxels of which nothing is known.
    """

    objects: tuple[ScoredObject, ...]
    ignore: int | None

    @property
    def predictable(self) -> frozenset[int]:
        """Values that a prediction may have."""
        return frozenset({0}.union(*(obj.values for obj in self.objects)))

    @property
    def known(self) -> frozenset[int]:
        """Values that a reference may have."""
        return self.predictable if self.ignore is None else self.predictable | {self.ignore}

    @classmethod
    def from_dataset_json(cls, dataset_json: Mapping[str, Any], source: object) -> ScoredLabels:
        """Read the labels as nnU-Net does: regions if any label is made of several values, else plain labels.

        Parameters
        ----------
        dataset_json : mapping
            Content of ``dataset.json``.
        source : object
            Where it comes from, for messages.

        Raises
        ------
        InputError
            If there is nothing to score, a label is not made of values, or values have two meanings.
        """
        labels = dataset_json.get("labels")
        if not isinstance(labels, Mapping):
            raise InputError(f"'{source}' has no 'labels', a mapping of names to values. Give nnU-Net's dataset.json.")
        values: dict[str, tuple[int, ...]] = {}
        for name, value in labels.items():
            values[name] = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
            if not values[name] or not all(type(v) is int and v >= 0 for v in values[name]):
                raise InputError(
                    f"'{source}': label '{name}' is {value!r}; expected a value from 0 or a list of values. "
                    "nnU-Net v2 maps names to values."
                )
        if "ignore" in values and not isinstance(labels["ignore"], int):
            raise InputError(f"'{source}': label 'ignore' is {labels['ignore']!r}; expected a single value.")
        ignore = values.pop("ignore", (None,))[0]
        also = [f"'{name}'" for name, v in values.items() if ignore in v]
        if also:
            raise InputError(
                f"'{source}': 'ignore' has the value {ignore} of {', '.join(also)}. Give it a value of its own."
            )
        foreground = {name: v for name, v in values.items() if set(v) != {0}}
        if not foreground:
            raise InputError(f"'{source}' has no label other than the background: nothing to score.")
        regions = any(len(v) > 1 for v in foreground.values())
        named: dict[str, list[str]] = {}
        for name, v in foreground.items():
            named.setdefault(str(v if regions and isinstance(labels[name], Sequence) else v[0]), []).append(name)
        problems = [
            f"'{source}': {' and '.join(map(repr, names))} have the value {key}. Keep one name."
            for key, names in named.items()
            if len(names) > 1
        ]
        if problems:
            raise InputError(problems)
        return cls(tuple(ScoredObject(key, name, foreground[name]) for key, (name,) in named.items()), ignore)

    def with_tolerances(self, tolerances_mm: Mapping[str | None, float]) -> ScoredLabels:
        """Set the tolerances of objects by name; that under None is for all others.

        Raises
        ------
        InputError
            If a tolerance is not positive, or there is no object of that name.
        """
        names = [obj.name for obj in self.objects]
        problems = []
        for name, tolerance_mm in tolerances_mm.items():
            if name is not None and name not in names:
                problems.append(f"--tolerance-mm names label '{name}'; the labels are: {', '.join(names)}.")
            if not (tolerance_mm > 0 and math.isfinite(tolerance_mm)):
                problems.append(
                    f"--tolerance-mm of {f'label {name!r}' if name else 'all labels'} is {tolerance_mm:g}; "
                    "expected a positive distance in mm."
                )
        if problems:
            raise InputError(problems)
        default = tolerances_mm.get(None, DEFAULT_TOLERANCE_MM)
        return replace(
            self, objects=tuple(replace(o, tolerance_mm=tolerances_mm.get(o.name, default)) for o in self.objects)
        )
