"""What a relevance map was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from nnunet_wsl.errors import InputError

Mode = Literal["distance", "intensity", "both"]
Kernel = Literal["gaussian", "exponential", "linear"]
Search = Literal["volume", "slice"]

RANGES: Mapping[str, tuple[float, float]] = {"sigma_mm": (1e-6, 1e6), "intensity_scale": (1e-30, 1e300)}
"""Smallest and largest scales: the maps are computed in single precision, in which others would not be finite."""


@dataclass(frozen=True, kw_only=True)
class RelevanceSettings:
    """Everything needed to repeat a relevance map.

    Parameters
    ----------
    mode : {"distance", "intensity", "both"}
        What the relevance falls off with: the distance to the reference voxel, the difference of intensity to it,
        or both (the product).
    kernel : {"gaussian", "exponential", "linear"}
        How it falls off with u = distance / sigma_mm, or u = difference / intensity_scale:
        exp(-u^2 / 2), exp(-u), or max(0, 1 - u).
    search : {"volume", "slice"}
        Where the reference voxel is looked for: in the volume, or only in the voxel's own slice.
    sigma_mm : tuple of float
        Scale of the distance, one per object, in the order of the objects. Unused in mode "intensity".
    intensity_scale : tuple of float
        Scale of the difference, one per image channel, in the units of the channel. Unused in mode "distance".
    cutoff_mm : tuple of float
        Distance beyond which the relevance is 0, one per object, in every mode; may be infinite.

    Raises
    ------
    InputError
        If a name is unknown, or a scale is not a positive number within `RANGES`.
    """

    mode: Mode = "distance"
    kernel: Kernel = "gaussian"
    search: Search = "volume"
    sigma_mm: tuple[float, ...]
    intensity_scale: tuple[float, ...] = ()
    cutoff_mm: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the values."""
        problems = [
            f"The relevance's {name} must be one of {', '.join(get_args(choices))}, not {getattr(self, name)!r}."
            for name, choices in (("mode", Mode), ("kernel", Kernel), ("search", Search))
            if getattr(self, name) not in get_args(choices)
        ]
        for name in ("sigma_mm", "intensity_scale", "cutoff_mm"):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            problems += [
                f"The relevance's {name} must be positive, but value {position} is {value}."
                for position, value in enumerate(values, start=1)
                if not value > 0 or (name != "cutoff_mm" and not np.isfinite(value))
            ]
        problems += [
            f"The relevance's {name} must be from {low:g} to {high:g}, but value {position} is {value:g}."
            for name, (low, high) in RANGES.items()
            for position, value in enumerate(getattr(self, name), start=1)
            if 0 < value < low or high < value < np.inf
        ]
        if len(self.sigma_mm) != len(self.cutoff_mm):
            problems.append(
                f"The relevance needs one sigma_mm and one cutoff_mm per object, but {len(self.sigma_mm)} and "
                f"{len(self.cutoff_mm)} are given."
            )
        if problems:
            raise InputError(problems)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RelevanceSettings:
        """Return the settings of which `to_dict` gave the values.

        Raises
        ------
        InputError
            If a setting is unknown or missing, or its value is not allowed.
        """
        names = {field.name for field in fields(cls)}
        unknown, missing = sorted(set(values) - names), sorted({"sigma_mm", "cutoff_mm"} - set(values))
        if unknown or missing:
            raise InputError(
                f"Expected relevance settings {', '.join(sorted(names))}; unknown: {', '.join(unknown) or 'none'}, "
                f"missing: {', '.join(missing) or 'none'}."
            )
        return cls(**values)
