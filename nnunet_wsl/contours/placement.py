"""Bring contours from physical space into the slices of an image, or say why they do not fit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nnunet_wsl.contours.contour import ContourSet
from nnunet_wsl.contours.grid import Grid
from nnunet_wsl.contours.repair import repair, same_lines
from nnunet_wsl.errors import InputError, counted, rounded

SLICE_TOLERANCE = 0.25
"""How far a contour may lie off a slice plane, in slice spacings.

Contours drawn on the image lie within rounding of a plane: at most 0.02 spacings in the 46 contour sets of the
soft-tissue sarcoma data. Half a spacing off, the slice that is meant is a guess; a quarter leaves room both ways.
"""

GRID_TOLERANCE_VOX = 0.5
"""How far a contour may stick out of the image, which ends half a voxel beyond the outer voxel centres."""

_REMEDY_OUTSIDE = "Check that the contours were drawn on this image, or pass --outside clip."
_DECIMALS_VOX = 6  # removes the noise of the change of coordinates, so that ties stay ties


@dataclass(frozen=True, eq=False)
class PlacedContour:
    """A contour within one slice of a grid.

    Parameters
    ----------
    object, source, closed
        As in `Contour`.
    slice_index : int
        The slice, counted from 0 along the grid's z axis.
    points_yx_vox : ndarray of float64, shape (N, 2)
        Continuous voxel index (y, x); points outside the image are kept.
    """

    object: str
    source: str
    closed: bool
    slice_index: int
    points_yx_vox: NDArray[np.float64]


@dataclass(frozen=True)
class Clipping:
    """How much of one source lies outside the image.

    Parameters
    ----------
    source : str
        The region of interest, as in `Contour`.
    contours : int
        Number of its contours that leave the image by more than the tolerance.
    area_mm2 : float
        Area outside the image that these contours enclose, summed; 0 for open contours.
    farthest_mm : float
        Largest distance of a point from the image.
    """

    source: str
    contours: int
    area_mm2: float
    farthest_mm: float

    def __str__(self) -> str:
        """Return one sentence for a log."""
        return (
            f"{counted(self.contours, 'contour')} of ROI '{self.source}' clipped: {rounded(self.area_mm2)} mm2 "
            f"outside the image, up to {rounded(self.farthest_mm)} mm away"
        )


@dataclass(frozen=True)
class Repairs:
    """Contours of one source that had faults, and were repaired as `nnunet_wsl.contours.repair` says.

    Parameters
    ----------
    object, source : str
        As in `Contour`.
    repeated : int
        Contours left out because the source has them already.
    without_extent : int
        Contours left out because they enclose nothing, or are open and have no length.
    crossing : int
        Contours that cross themselves.
    spur : int
        Contours with lines that run out and back.
    keyhole : int
        Contours with several rings joined by channels, which is no mistake.
    """

    object: str
    source: str
    repeated: int = 0
    without_extent: int = 0
    crossing: int = 0
    spur: int = 0
    keyhole: int = 0

    @property
    def notes(self) -> Iterator[str]:
        """One sentence for each kind."""
        for n, kind, done in (
            (self.repeated, "repeated contour", "left out"),
            (self.without_extent, "contour without extent", "left out"),
            (self.crossing, "self-crossing contour", "reduced to the border"),
            (self.spur, "contour with spurs", "freed of them"),
            (self.keyhole, "keyhole contour", "divided into rings"),
        ):
            if n:
                yield f"{n} {kind if n == 1 else kind.replace('contour', 'contours')} of ROI '{self.source}' {done}"


@dataclass(frozen=True, eq=False)
class PlacedContours:
    """The contours of an image, each in its slice.

    Parameters
    ----------
    grid : Grid
        The image.
    objects : tuple of str
        As in `ContourSet`.
    contours : tuple of PlacedContour
        Contours of slices that the image has. Closed ones are rings: one keyhole makes several.
    clippings : tuple of Clipping
        What was cut off at the border of the image, one entry per affected source.
    repairs : tuple of Repairs
        What was repaired, one entry per affected object and source.
    """

    grid: Grid
    objects: tuple[str, ...]
    contours: tuple[PlacedContour, ...]
    clippings: tuple[Clipping, ...]
    repairs: tuple[Repairs, ...]

    def of(self, object_name: str) -> dict[int, tuple[PlacedContour, ...]]:
        """Contours of one object by slice index, ascending; KeyError if there is no such object."""
        if object_name not in self.objects:
            raise KeyError(object_name)
        by_slice: dict[int, list[PlacedContour]] = {}
        for contour in self.contours:
            if contour.object == object_name:
                by_slice.setdefault(contour.slice_index, []).append(contour)
        return {k: tuple(by_slice[k]) for k in sorted(by_slice)}

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for everything that was cut off, repaired or left out."""
        repairs = dict.fromkeys(note for repair in self.repairs for note in repair.notes)
        return (*map(str, self.clippings), *repairs)


def place(
    contour_set: ContourSet, grid: Grid, *, case: str, outside: Literal["error", "clip"] = "error"
) -> PlacedContours:
    """Find the slice and the in-slice voxel coordinates of every contour.

    A contour belongs to a slice if none of its points lies more than `SLICE_TOLERANCE` slice spacings off the
    slice's plane. Faults of contours are repaired as `nnunet_wsl.contours.repair` says. A contour that one source has
    twice is used once: filled by even-odd, the two would erase each other.

    Parameters
    ----------
    contour_set : ContourSet
        Contours in physical space.
    grid : Grid
        The image that they were drawn on.
    case : str
        Name of the case for messages.
    outside : {"error", "clip"}
        Whether a contour that leaves the image by more than `GRID_TOLERANCE_VOX`, or lies on a slice that the
        image lacks, is an error, or is cut at the border and counted in the result's `clippings`.

    Returns
    -------
    PlacedContours

    Raises
    ------
    InputError
        If contours are not drawn in a slice plane, lie between two slices, or leave the image: one problem for
        each source and each of these faults, which names the worst contour and counts the others. Contours are
        numbered from 1 within their source.
    """
    placed: list[PlacedContour] = []
    faults: dict[tuple[str, str], list[tuple[_Fault, int]]] = {}
    cut: dict[str, list[tuple[float, float]]] = {}
    repairs: dict[tuple[str, str], Counter[str]] = {}
    drawn: Counter[tuple[str, str]] = Counter()
    # By the voxel that the lines begin in, for one mask may have thousands of rings.
    seen: dict[tuple[object, ...], list[tuple[NDArray[np.float64], ...]]] = defaultdict(list)
    for contour in contour_set.contours:
        roi = (contour.object, contour.source)
        drawn[roi] += 1
        points_xyz = np.round(grid.to_voxel_xyz(contour.points_mm), _DECIMALS_VOX)
        z = points_xyz[:, 2]
        k = round(float(z.min() + z.max()) / 2)
        missing_slice = not 0 <= k < grid.shape_zyx[0]
        if np.ptp(z) > 2 * SLICE_TOLERANCE:
            fault = _tilted(z, grid)
        elif not missing_slice and np.abs(z - k).max() > SLICE_TOLERANCE:
            fault = _between_slices(z, k, grid)
        else:
            repaired = repair(points_xyz[:, 1::-1], closed=contour.closed)
            lines = repaired.lines_yx_vox
            y, x = np.floor(np.concatenate(lines).min(axis=0)).astype(int).tolist() if lines else (0, 0)
            others = [
                other
                for place_yx in product((y - 1, y, y + 1), (x - 1, x, x + 1))
                for other in seen.get((*roi, contour.closed, k, *place_yx), ())
            ]
            repeated = bool(lines) and any(same_lines(lines, other, closed=contour.closed) for other in others)
            found = ("repeated",) if repeated else repaired.faults
            if found:
                repairs.setdefault(roi, Counter()).update(found)
            if repeated or not lines:
                continue
            seen[(*roi, contour.closed, k, y, x)].append(lines)
            excess_vox = _excess_vox(lines, (z.min() + z.max()) / 2, grid)
            leaves = missing_slice or bool((excess_vox[:, :2] > GRID_TOLERANCE_VOX).any())
            if not leaves or outside == "clip":
                if leaves:
                    farthest_mm = np.linalg.norm(excess_vox * grid.spacing_mm_xyz, axis=1).max()
                    polygon_yx = points_xyz[:, 1::-1] if contour.closed else points_xyz[:0, 1::-1]
                    area_mm2 = _area_outside_mm2(polygon_yx, grid, whole=missing_slice)
                    cut.setdefault(contour.source, []).append((area_mm2, float(farthest_mm)))
                if not missing_slice:
                    placed += [PlacedContour(*roi, contour.closed, k, line) for line in lines]
                continue
            fault = _beyond_slices(z, grid) if missing_slice else _outside(excess_vox, grid)
        faults.setdefault((contour.source, fault.kind), []).append((fault, drawn[roi]))
    if faults:
        raise InputError(_describe(case, source, found) for (source, _), found in faults.items())
    clippings = tuple(
        Clipping(source, len(cuts), sum(area for area, _ in cuts), max(farthest for _, farthest in cuts))
        for source, cuts in cut.items()
    )
    return PlacedContours(
        grid,
        contour_set.objects,
        tuple(placed),
        clippings,
        tuple(Repairs(name, source, **counts) for (name, source), counts in repairs.items()),
    )


def _excess_vox(lines_yx: Sequence[NDArray[np.float64]], z: float, grid: Grid) -> NDArray[np.float64]:
    """How far each point lies beyond the image along x, y and z, shape (N, 3), in voxels."""
    points_xyz = np.insert(np.concatenate(lines_yx)[:, ::-1], 2, z, axis=1)
    below, above = -0.5 - points_xyz, points_xyz - (np.array(grid.shape_zyx[::-1]) - 0.5)
    return np.maximum(np.maximum(below, above), 0)


class _Fault(NamedTuple):
    """Why a contour does not fit, and by how much, to find the worst of a kind."""

    kind: str
    distance_mm: float
    text: str


def _describe(case: str, source: str, found: Sequence[tuple[_Fault, int]]) -> str:
    """Report the worst of an ROI's faults of one kind and count the others, which tend to be many."""
    worst, number = max(found, key=lambda item: item[0].distance_mm)
    count = len({other for _, other in found})
    rank = f", the worst of {count}," if count > 1 else ""
    return f"Case '{case}': contour {number}{rank} of ROI '{source}' {worst.text}"


def _tilted(z: NDArray[np.float64], grid: Grid) -> _Fault:
    spacing_mm = grid.spacing_mm_zyx[0]
    spread_mm = float(np.ptp(z) * spacing_mm)
    return _Fault(
        "tilted",
        spread_mm,
        f"lies across slices instead of in one: its points spread over {spread_mm:.2f} mm (allowed "
        f"{2 * SLICE_TOLERANCE * spacing_mm:.2f} mm). Convert the series that the contours were drawn on, or "
        "redraw them in its slices.",
    )


def _between_slices(z: NDArray[np.float64], k: int, grid: Grid) -> _Fault:
    spacing_mm = grid.spacing_mm_zyx[0]
    off_mm = float(np.abs(z - k).max() * spacing_mm)
    return _Fault(
        "between",
        off_mm,
        f"lies between slice planes: {off_mm:.2f} mm off slice {k} (allowed {SLICE_TOLERANCE * spacing_mm:.2f} "
        f"mm, slices are {spacing_mm:.2f} mm apart). Check that no slice of the series is missing and that the "
        "contours were drawn on this series.",
    )


def _beyond_slices(z: NDArray[np.float64], grid: Grid) -> _Fault:
    last = grid.shape_zyx[0] - 1
    end, distance_vox = ("first", -z.min()) if z.min() < 0 else ("last", z.max() - last)
    distance_mm = float(distance_vox * grid.spacing_mm_zyx[0])
    return _Fault(
        "beyond",
        distance_mm,
        f"lies {distance_mm:.2f} mm beyond the {end} slice of the image, where it has no slice. {_REMEDY_OUTSIDE}",
    )


def _outside(excess_vox: NDArray[np.float64], grid: Grid) -> _Fault:
    axis = int(excess_vox[:, :2].max(axis=0).argmax())
    spacing_mm = grid.spacing_mm_xyz[axis]
    distance_mm = float(excess_vox[:, axis].max() * spacing_mm)
    return _Fault(
        "outside",
        distance_mm,
        f"lies {rounded(distance_mm, 2)} mm outside the image grid (allowed "
        f"{rounded(GRID_TOLERANCE_VOX * spacing_mm, 2)} mm). "
        f"{_REMEDY_OUTSIDE}",
    )


def _area_outside_mm2(polygon_yx: NDArray[np.float64], grid: Grid, *, whole: bool) -> float:
    """Area that a polygon encloses outside the image; `whole` if the image lacks its slice."""
    inside = polygon_yx[:0] if whole else _within(polygon_yx, grid.shape_zyx[1:])
    area_vox = _area(polygon_yx) - _area(inside)
    return area_vox * float(grid.spacing_mm_xyz[0] * grid.spacing_mm_xyz[1])


def _within(polygon_yx: NDArray[np.float64], shape_yx: tuple[int, int]) -> NDArray[np.float64]:
    """Part of a polygon within the image (Sutherland and Hodgman, doi:10.1145/360767.360802)."""
    for axis, sign, limit in ((0, 1, 0.5), (1, 1, 0.5), (0, -1, shape_yx[0] - 0.5), (1, -1, shape_yx[1] - 0.5)):
        margin = sign * polygon_yx[:, axis] + limit
        following, margin_following = np.roll(polygon_yx, -1, axis=0), np.roll(margin, -1)
        crosses = (margin >= 0) != (margin_following >= 0)
        t = np.divide(margin, margin - margin_following, out=np.zeros_like(margin), where=crosses)
        crossing = polygon_yx + t[:, None] * (following - polygon_yx)
        kept = np.stack([margin >= 0, crosses], axis=1)
        polygon_yx = np.stack([polygon_yx, crossing], axis=1)[kept]
    return polygon_yx


def _area(polygon_yx: NDArray[np.float64]) -> float:
    """Area of a polygon by the shoelace formula, 0 if it is empty."""
    if not len(polygon_yx):
        return 0.0
    y, x = (polygon_yx - polygon_yx[0]).T  # near the origin, where products cancel less
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
