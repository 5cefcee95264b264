"""Contours as annotators draw them, simulated from dense masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

from nnunet_wsl.contours import Contour, ContourSet, Grid, SliceList, trace
from nnunet_wsl.errors import InputError

_HARMONICS = 4
"""Jitter has up to this many waves around a contour."""

MAX_EVERY, MAX_JITTER_MM = 1_000_000, 1e6
"""Beyond any image, and within what its indices and points can hold."""


@dataclass(frozen=True)
class Simulation:
    """How an annotator draws.

    Parameters
    ----------
    every : int
        All objects are drawn on every k-th slice, counted from the middle slice of the objects of a case.
    jitter_mm : float
        Standard deviation, in every direction, of a smooth displacement of each contour.
    drop : float
        Share of the drawn slices, per object, that are forgotten.
    opened : float
        Share of the drawn slices, per object, on which only half the length of each contour is drawn.
    seed : int
        Of the random numbers; results depend on it and on the names of the cases only.

    Raises
    ------
    InputError
        If a number is out of range.
    """

    every: int = 1
    jitter_mm: float = 0.0
    drop: float = 0.0
    opened: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        problems = []
        if not 1 <= self.every <= MAX_EVERY:
            problems.append(f"--every {self.every} is no step. Give a number of slices from 1 to {MAX_EVERY}.")
        if not 0 <= self.jitter_mm <= MAX_JITTER_MM:
            problems.append(
                f"--jitter-mm {self.jitter_mm} is no distance. Give a number of mm from 0 to {MAX_JITTER_MM:g}."
            )
        problems += [
            f"{option} {share} is no share. Give a number from 0 to 1."
            for option, share in (("--drop", self.drop), ("--open", self.opened))
            if not 0 <= share <= 1
        ]
        if self.seed < 0:
            problems.append(f"--seed {self.seed} is negative. Give a number from 0.")
        if problems:
            raise InputError(problems)

    def draw(self, masks: Mapping[str, npt.NDArray[np.bool_]], grid: Grid, case: str) -> ContourSet:
        """Draw the contours of one case.

        Parameters
        ----------
        masks : mapping of str to ndarray of bool, shape (z, y, x)
            The dense mask of each object.
        grid : Grid
            Geometry of the masks.
        case : str
            Name of the case; seeds the random numbers.

        Returns
        -------
        ContourSet
            Open and closed contours. Fully annotated are the slices that the annotator worked on and did not forget,
            and those that lie a step or more before the first or after the last one with the object, where it has no
            part that was missed.
        """
        num_slices = grid.shape_zyx[0]
        contours: list[Contour] = []
        annotated: dict[str, SliceList] = {}
        present = np.flatnonzero(np.any([mask.any(axis=(1, 2)) for mask in masks.values()], axis=0))
        if not len(present):
            return ContourSet(masks, (), dict.fromkeys(masks, "all"))
        middle = int(present[len(present) // 2])
        for k, (name, mask) in enumerate(masks.items()):
            rng = np.random.default_rng([self.seed, crc32(case.encode()), k])
            worked_on = np.arange(middle % self.every, num_slices, self.every)
            shown = worked_on[mask[worked_on].any(axis=(1, 2))]
            forgotten = shown[rng.random(len(shown)) < self.drop]
            known = set(worked_on.tolist())
            extent = np.flatnonzero(mask.any(axis=(1, 2)))
            if len(shown):
                # A part of the object that lies between the slices worked on is not known to be absent there.
                known |= {*range(min(shown[0] - self.every + 1, extent[0]))}
                known |= {*range(max(shown[-1] + self.every, extent[-1] + 1), num_slices)}
            elif not len(extent):
                known = set(range(num_slices))
            annotated[name] = tuple(sorted(known.difference(forgotten.tolist())))
            for slice_index in np.setdiff1d(shown, forgotten).tolist():
                closed = bool(rng.random() >= self.opened)
                for points_yx in trace(mask[slice_index]):
                    drawn = self._jittered(points_yx, grid, rng)
                    drawn = drawn if closed else _half(drawn, rng)
                    points_xyz = np.column_stack([drawn[:, ::-1], np.full(len(drawn), slice_index)])
                    contours.append(Contour(name, grid.to_mm(points_xyz), closed))
        return ContourSet(masks, contours, annotated)

    def _jittered(
        self, points_yx: npt.NDArray[np.float64], grid: Grid, rng: np.random.Generator
    ) -> npt.NDArray[np.float64]:
        """Displace the points of a contour by a random Fourier series around it; within the image."""
        if not self.jitter_mm:
            return points_yx
        angle = np.linspace(0, 2 * np.pi, len(points_yx), endpoint=False)
        waves = [np.ones_like(angle)]
        for harmonic in range(1, _HARMONICS + 1):
            waves += [np.cos(harmonic * angle), np.sin(harmonic * angle)]
        # Cosine and sine of one harmonic have variance 1 together, at every angle.
        amplitudes_mm = rng.normal(scale=self.jitter_mm / np.sqrt(1 + _HARMONICS), size=(len(waves), 2))
        moved = points_yx + np.array(waves).T @ amplitudes_mm / grid.spacing_mm_zyx[1:]
        return np.clip(moved, -0.5, np.array(grid.shape_zyx[1:]) - 0.5)


def _half(points_yx: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return half of the points of a closed contour, at least two, from a random one on."""
    start = int(rng.integers(len(points_yx)))
    return np.roll(points_yx, -start, axis=0)[: max(2, (len(points_yx) + 1) // 2)]
