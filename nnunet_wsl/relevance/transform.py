"""For every voxel the nearest contour voxel, and how far it is: exact, cut off, one slice at a time.

The squared distance is a sum over the axes, so its minimum is found axis by axis: along x within each row that has
contour voxels, then along y, then along z, where the last two take the minimum over the rows and slices within the
cut-off (Saito and Toriwaki 1994, DOI 10.1016/0031-3203(94)90133-3). Only the slices within the cut-off of the one at
hand are in memory.

All arithmetic is on integers. A *key* holds the squared distance in its upper bits and in its lower bits which contour
voxel it is measured to, the contour voxels being numbered in lexicographic order (z, y, x). The smallest key is thus
the nearest contour voxel and, among equally near ones, the lexicographically smallest, in whatever order keys meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

_LARGEST_DENOMINATOR = 128
_RATIO_TOLERANCE = 1e-7  # spacings come as float32 from some headers

_TOLERANCE = 1e-6  # relative, of squared distances


@dataclass(frozen=True, eq=False)
class ContourVoxels:
    """The contour voxels of one object in an image.

    Parameters
    ----------
    shape_zyx : tuple of int
        Shape of the image; a 2D image has one slice.
    index_zyx : ndarray of int64, shape (N, 3)
        In lexicographic order, each once.
    """

    shape_zyx: tuple[int, int, int]
    index_zyx: NDArray[np.int64]

    @classmethod
    def of(cls, contour_voxels: ArrayLike, shape: Sequence[int] | None = None) -> ContourVoxels:
        """Accept what the public functions accept.

        Parameters
        ----------
        contour_voxels : array_like
            Either bool, of the image's shape (z, y, x) or (y, x), or integer indices, shape (N, 3) or (N, 2), in that
            order of axes.
        shape : sequence of int, optional
            The image's shape; needed for indices.

        Raises
        ------
        ValueError
            If they are something else, or lie outside the image.
        """
        given = np.asarray(contour_voxels)
        is_mask = given.dtype == np.bool_
        if shape is None:
            if not is_mask:
                raise ValueError("contour voxels given as indices need the image's shape")
            shape = given.shape
        shape = tuple(shape)
        if len(shape) not in (2, 3):
            raise ValueError(f"an image has two or three axes, not {len(shape)}")
        if is_mask:
            if given.shape != shape:
                raise ValueError(f"contour voxels of shape {given.shape} do not fit an image of shape {shape}")
            index = np.stack(np.unravel_index(np.flatnonzero(given), shape), axis=1)
        else:
            index = _sorted_indices(given, shape)
        if len(shape) == 3:
            return cls(shape, index)
        return cls((1, *shape), np.concatenate([np.zeros((len(index), 1), dtype=np.int64), index], axis=1))


def _sorted_indices(given: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Check indices of voxels and put them in lexicographic order, each once."""
    if given.size == 0:
        return np.empty((0, len(shape)), dtype=np.int64)
    if given.ndim != 2 or given.shape[1] != len(shape) or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"contour voxels must be bool of shape {shape} or integer indices of shape (N, {len(shape)}), not "
            f"{given.dtype} of shape {given.shape}"
        )
    if (given.min(axis=0) < 0).any() or (given.max(axis=0) >= shape).any():
        raise ValueError(f"contour voxels lie outside the image of shape {shape}")
    index = given.astype(np.int64)
    linear = index[:, 0]
    for axis in range(1, len(shape)):
        linear = linear * shape[axis] + index[:, axis]
    return index if (linear[1:] > linear[:-1]).all() else np.unique(index, axis=0)


@dataclass(frozen=True, eq=False)
class NearestInSlice:
    """Distance to the contour within the part of one slice that is not all beyond the cut-off.

    Parameters
    ----------
    box : tuple
        Slice number and extent in y and x: an index into a (z, y, x) array.
    distance_mm2 : ndarray of float32, shape (y, x)
        Squared distance to the reference voxel, infinite beyond the cut-off.
    keys : ndarray of int32 or int64, shape (y, x)
        Their lower `reference_bits` say which the reference voxel is.
    reference_bits : int
        0 if the reference voxels were not asked for.
    """

    box: tuple[int, slice, slice]
    distance_mm2: NDArray[np.float32]
    keys: NDArray[Any]
    reference_bits: int

    @property
    def reference(self) -> NDArray[np.int64]:
        """Number of the reference voxel, a row of `ContourVoxels.index_zyx`; means nothing beyond the cut-off."""
        numbers: NDArray[np.int64] = self.keys & ((1 << self.reference_bits) - 1)
        return numbers


def nearest_contour(
    contour_voxels: ArrayLike,
    spacing_mm: Sequence[float],
    *,
    cutoff_mm: float = math.inf,
    search: Literal["volume", "slice"] = "volume",
    shape: Sequence[int] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Find the reference voxel of every voxel: the nearest contour voxel of one object.

    Parameters
    ----------
    contour_voxels : array_like
        Bool of the image's shape, (z, y, x) or (y, x), or integer indices, shape (N, 3) or (N, 2), in that order of
        axes.
    spacing_mm : sequence of float
        Distance of neighbouring voxels along each axis, in the order of the array axes.
    cutoff_mm : float, default infinity
        Voxels further from the contour have no reference voxel.
    search : {"volume", "slice"}
        Whether the reference voxel is looked for in the volume or only in the voxel's own slice.
    shape : sequence of int, optional
        The image's shape, needed if `contour_voxels` are indices.

    Returns
    -------
    distance_mm : ndarray of float32, shape (z, y, x) or (y, x)
        Infinite where there is no reference voxel.
    index : ndarray of int32, shape (3, z, y, x) or (2, y, x)
        The reference voxel's index, -1 where there is none.

    Raises
    ------
    ValueError
        If the arguments do not fit together, or a spacing or the cut-off is not positive.

    Notes
    -----
    Among equally near contour voxels the one with the lexicographically smallest (z, y, x) is the reference voxel.
    Distances are equal if they are so for spacings whose ratios are fractions with small denominators, within 1e-7:
    with spacings 2.5 and 0.8 mm, 8 slices are as far as 25 rows.

    Examples
    --------
    >>> distance_mm, index = nearest_contour([[1, 0]], (3.0, 0.5), shape=(2, 4))
    >>> distance_mm
    array([[3.       , 3.0413814, 3.1622777, 3.354102 ],
           [0.       , 0.5      , 1.       , 1.5      ]], dtype=float32)
    """
    voxels = ContourVoxels.of(contour_voxels, shape)
    distance_mm = np.full(voxels.shape_zyx, np.inf, dtype=np.float32)
    index_zyx = np.full((3, *voxels.shape_zyx), -1, dtype=np.int32)
    for nearest in nearest_by_slice(voxels, spacing_mm, cutoff_mm, search, with_reference=True):
        z, y, x = nearest.box
        within = np.isfinite(nearest.distance_mm2)
        distance_mm[nearest.box] = np.sqrt(nearest.distance_mm2)
        index_zyx[:, z, y, x] = np.where(within, voxels.index_zyx.T[:, nearest.reference * within], -1)
    if len(spacing_mm) == 2:
        return distance_mm[0], index_zyx[1:, 0]
    return distance_mm, index_zyx


def nearest_by_slice(
    voxels: ContourVoxels,
    spacing_mm: Sequence[float],
    cutoff_mm: float,
    search: Literal["volume", "slice"],
    *,
    with_reference: bool = False,
) -> Iterator[NearestInSlice]:
    """Measure the distance to the contour slice by slice, where it is within the cut-off.

    Parameters
    ----------
    voxels : ContourVoxels
        Contour voxels of one object.
    spacing_mm : sequence of float
        (z, y, x), or (y, x) for a 2D image.
    cutoff_mm : float
        Largest distance that counts; may be infinite.
    search : {"volume", "slice"}
        Whether the reference voxel is looked for in the volume or only in the voxel's own slice.
    with_reference : bool, default False
        Whether the reference voxels are asked for.

    Yields
    ------
    NearestInSlice
        In ascending order of slices. Its arrays are the caller's until the next one is asked for.

    Raises
    ------
    ValueError
        If a spacing or the cut-off is not positive, or the spacings are not as many as the image's axes.
    """
    low, high, reach, metric = measure(voxels, spacing_mm, cutoff_mm, search, with_reference=with_reference)
    if not len(voxels.index_zyx):
        return
    cost_z, cost_y, cost_x = metric.costs_zyx

    z_vox, y_vox, x_vox = voxels.index_zyx.T
    first = np.concatenate([[0], np.flatnonzero(z_vox[1:] > z_vox[:-1]) + 1])
    drawn = z_vox[first]
    stop = [*first[1:], len(z_vox)]
    numbers = np.arange(len(z_vox)) if with_reference else np.zeros(len(z_vox), dtype=np.int64)
    nothing = metric.nothing

    def transform_slice(i: int, keys: NDArray[Any]) -> None:
        own = slice(first[i], stop[i])
        y, x = y_vox[own] - low[1], x_vox[own] - low[2]
        _nearest_in_slice(y, x, numbers[own], (reach[1], reach[2]), (cost_y, cost_x), nothing, keys)

    distance_mm2 = np.empty(high[1:] - low[1:], dtype=np.float32)
    keys = np.empty(high[1:] - low[1:], dtype=metric.dtype)
    for z in minimum_over_slices(drawn, transform_slice, range(low[0], high[0]), reach[0], cost_z, nothing, keys):
        metric.distance_mm2(keys, distance_mm2)
        box = (z, slice(low[1], high[1]), slice(low[2], high[2]))
        yield NearestInSlice(box, distance_mm2, keys, metric.reference_bits)


def measure(
    voxels: ContourVoxels,
    spacing_mm: Sequence[float],
    cutoff_mm: float,
    search: Literal["volume", "slice"],
    *,
    with_reference: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Metric]:
    """Find out where distances are to be measured and how.

    Parameters
    ----------
    voxels, spacing_mm, cutoff_mm, search, with_reference
        As for `nearest_by_slice`.

    Returns
    -------
    low, high : ndarray of int64, shape (3,)
        Bounding box of the contour and all within the cut-off, cropped to the image: first and stop (z, y, x).
    reach : ndarray of int64, shape (3,)
        Voxels within the cut-off along each axis.
    metric : Metric
        How keys are made.

    Raises
    ------
    ValueError
        As `nearest_by_slice`.
    """
    spacing = spacing_zyx(spacing_mm, voxels.shape_zyx)
    if not cutoff_mm > 0:
        raise ValueError(f"the cut-off must be positive, not {cutoff_mm} mm")
    margin = reach_vox(spacing, cutoff_mm)
    shape = np.array(voxels.shape_zyx)
    low = np.maximum(voxels.index_zyx.min(axis=0, initial=shape.max()) - margin, 0)
    high = np.minimum(voxels.index_zyx.max(axis=0, initial=0) + margin + 1, shape)
    reach = np.maximum(np.minimum(high - low - 1, margin), 0)
    if search == "slice":
        reach[0] = 0
    return low, high, reach, Metric.of(spacing, reach, cutoff_mm, len(voxels.index_zyx) if with_reference else 0)


def minimum_over_slices(
    drawn: NDArray[np.int64],
    transform_slice: Callable[[int, NDArray[Any]], None],
    slices: Iterable[int],
    reach: int,
    cost: float,
    nothing: float,
    keys: NDArray[Any],
) -> Iterator[int]:
    """Find the smallest key over the slices within reach, one slice after the other.

    Parameters
    ----------
    drawn : ndarray of int64, shape (S,)
        Slices with contours, ascending.
    transform_slice : callable
        Takes i and an array, and fills it with the keys within slice ``drawn[i]``.
    slices : iterable of int
        Slices to find, ascending.
    reach : int
        Largest difference of slice numbers that counts.
    cost : float
        What a difference of 1 adds to a key; it grows with the square.
    nothing : int or float
        Key of a voxel that has no contour near it.
    keys : ndarray, shape (y, x)
        Where each slice's result goes.

    Yields
    ------
    int
        Slice number; slices without contours in reach are left out.
    """
    if reach == 0:
        for i, z in enumerate(drawn.tolist()):
            transform_slice(i, keys)
            yield z
        return
    # Slices with contours come and go in ascending order: a ring holds those within reach.
    ring = np.empty((min(2 * reach + 1, len(drawn)), *keys.shape), dtype=keys.dtype)
    flat = ring.reshape(len(ring), -1)
    done = 0
    for z in slices:
        begin, end = np.searchsorted(drawn, (z - reach, z + reach + 1))
        for i in range(done, end):
            transform_slice(i, ring[i % len(ring)])
        done = end
        if begin < end:
            near = drawn[begin:end]
            at = begin % len(ring)
            unwrapped = min(end - begin, len(ring) - at)
            keys.fill(nothing)
            _lower(keys.reshape(-1), flat[at : at + unwrapped], near[:unwrapped], z, cost)
            _lower(keys.reshape(-1), flat[: end - begin - unwrapped], near[unwrapped:], z, cost)
            yield z


def spacing_zyx(spacing_mm: Sequence[float], shape_zyx: Sequence[int]) -> NDArray[np.float64]:
    """Check the spacing, and give the one slice of a 2D image one; ValueError if it is not positive."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape == (2,) and shape_zyx[0] == 1:
        spacing = spacing[[0, 0, 1]]
    if spacing.shape != (3,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(f"expected one positive spacing per axis of the image, not {tuple(spacing_mm)}")
    return spacing


def reach_vox(spacing_mm: NDArray[np.float64], cutoff_mm: float) -> NDArray[np.int64]:
    """Voxels that the cut-off reaches along each axis."""
    voxels = np.minimum(cutoff_mm / spacing_mm * (1 + _RATIO_TOLERANCE), np.iinfo(np.int32).max)
    return voxels.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Metric:
    """How keys are made of squared distances.

    Parameters
    ----------
    dtype : type
        Of keys: int32 or int64.
    weights_zyx : tuple of int
        Squared distance of neighbouring voxels, in units; 0 along an axis on which no distance is measured.
    unit_mm2 : float
        What the squared distance counts.
    stop : int
        Keys from here on lie beyond the cut-off.
    reference_bits : int
        Lower bits of a key that hold the number of the contour voxel; 0 if it is not asked for.
    """

    dtype: type[np.int32 | np.int64]
    weights_zyx: tuple[int, ...]
    unit_mm2: float
    stop: int
    reference_bits: int

    @classmethod
    def of(
        cls, spacing_mm: NDArray[np.float64], reach: NDArray[np.int64], cutoff_mm: float, num_references: int
    ) -> Metric:
        """Choose the narrowest keys that hold the squared distances.

        Parameters
        ----------
        spacing_mm : ndarray of float64, shape (3,)
            (z, y, x).
        reach : ndarray of int64, shape (3,)
            Largest distance along each axis that is measured, in voxels.
        cutoff_mm : float
            May be infinite.
        num_references : int
            Number of contour voxels that keys tell apart; 0 if they need not say which is the nearest.
        """
        # An axis along which nothing is measured must not spoil the others' ratios.
        spacings = tuple(float(s) if n else 0.0 for s, n in zip(spacing_mm, reach, strict=True))
        everything_mm2 = sum((int(n) * s) ** 2 for s, n in zip(spacings, reach, strict=True))
        farthest_mm2 = min(cutoff_mm * cutoff_mm, everything_mm2)
        reference_bits = max(num_references - 1, 0).bit_length()
        for dtype in (np.int32, np.int64):
            unit_mm2, weights = _integer_squares(spacings, farthest_mm2, _bits(dtype, reference_bits))
            if all(abs(w * unit_mm2 - s * s) <= _TOLERANCE * s * s for w, s in zip(weights, spacings, strict=True)):
                break
        stop = _nothing(dtype)
        if farthest_mm2 < everything_mm2:
            stop = int(farthest_mm2 / unit_mm2 * (1 + _TOLERANCE)) + 1 << reference_bits
        return cls(dtype, weights, unit_mm2, stop, reference_bits)

    @property
    def costs_zyx(self) -> tuple[int, int, int]:
        """What a distance of one voxel along each axis adds to a key."""
        z, y, x = (weight << self.reference_bits for weight in self.weights_zyx)
        return z, y, x

    @property
    def nothing(self) -> int:
        """Key of a voxel that has no contour voxel near it."""
        return _nothing(self.dtype)

    def distance_mm2(self, keys: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Write the squared distances, infinite beyond the cut-off."""
        _distance_mm2(keys.reshape(-1), self.stop, self.reference_bits, np.float32(self.unit_mm2), out.reshape(-1))


def _nothing(dtype: type[np.int32 | np.int64]) -> int:
    """Key of a voxel that has no contour voxel near it; twice as much overflows."""
    return int(np.iinfo(dtype).max // 2 + 1)


def _bits(dtype: type[np.int32 | np.int64], reference_bits: int) -> int:
    """Bits for the squared distance such that all keys, and the cost of any distance, stay below `_nothing`."""
    return int(np.iinfo(dtype).bits - 3 - reference_bits)


def _integer_squares(spacings_mm: tuple[float, ...], farthest_mm2: float, bits: int) -> tuple[float, tuple[int, ...]]:
    """Squares of the spacings as integers, after their unit, so that the farthest squared distance fits into some bits.

    Exact if the ratios of the spacings are simple fractions, so that equal distances stay equal; rounded otherwise.
    """
    unit_mm, multiples = _integer_ratios(spacings_mm)
    if multiples and farthest_mm2 < unit_mm**2 * 2**bits:
        return unit_mm**2, tuple(multiple**2 for multiple in multiples)
    unit_mm2 = farthest_mm2 / 2.0**bits
    return unit_mm2, tuple(round(spacing**2 / unit_mm2) for spacing in spacings_mm)


@lru_cache
def _integer_ratios(spacings_mm: tuple[float, ...]) -> tuple[float, tuple[int, ...]]:
    """Find a unit of which the spacings are small multiples, and the multiples; none if there is no such unit."""
    finest_mm = min((spacing for spacing in spacings_mm if spacing), default=1.0)
    ratios = [Fraction(spacing / finest_mm).limit_denominator(_LARGEST_DENOMINATOR) for spacing in spacings_mm]
    if any(abs(ratio * finest_mm - s) > _RATIO_TOLERANCE * s for ratio, s in zip(ratios, spacings_mm, strict=True)):
        return finest_mm, ()
    denominator = math.lcm(*(ratio.denominator for ratio in ratios))
    return finest_mm / denominator, tuple(int(ratio * denominator) for ratio in ratios)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _nearest_in_slice(
    y_vox: NDArray[np.int64],
    x_vox: NDArray[np.int64],
    numbers: NDArray[np.int64],
    reach_yx: tuple[int, int],
    costs_yx: tuple[int, int],
    nothing: int,
    keys: NDArray[Any],
) -> None:
    """Fill the keys of a slice from its own contour voxels, which are in lexicographic order."""
    height, width = keys.shape
    first = np.flatnonzero(np.diff(y_vox)) + 1  # where rows begin, but for the first one
    drawn = np.empty(len(first) + 1, dtype=np.int64)
    rows = np.empty((len(drawn), width), dtype=keys.dtype)
    for i in range(len(drawn)):
        start = first[i - 1] if i > 0 else 0
        stop = first[i] if i < len(first) else len(y_vox)
        drawn[i] = y_vox[start]
        _nearest_in_row(x_vox[start:stop], numbers[start:stop], reach_yx[1], costs_yx[1], nothing, rows[i])
    keys[:] = nothing
    begin = end = 0
    for y in range(height):
        while begin < len(drawn) and drawn[begin] < y - reach_yx[0]:
            begin += 1
        while end < len(drawn) and drawn[end] <= y + reach_yx[0]:
            end += 1
        _lower(keys[y], rows[begin:end], drawn[begin:end], y, costs_yx[0])


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _nearest_in_row(
    x_vox: NDArray[np.int64], numbers: NDArray[np.int64], reach: int, cost: int, nothing: int, row: NDArray[Any]
) -> None:
    """Fill the keys of a row; of two equally near contour voxels the left one counts."""
    row[:] = nothing
    for i in range(len(x_vox)):
        x = x_vox[i]
        begin = max(x - reach, 0 if i == 0 else (x_vox[i - 1] + x) // 2 + 1)
        end = min(x + reach, len(row) - 1 if i == len(x_vox) - 1 else (x + x_vox[i + 1]) // 2)
        _rise(row[begin : end + 1], x - begin, cost, numbers[i])


# Numba widens integers to 64 bits; casting back to the keys' own type halves the work per key. Loops that run from 0
# over the whole of an array that was passed to a function are vectorised, others are not.


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _rise(keys: NDArray[Any], x: int, cost: int, number: int) -> None:
    """Fill keys with what the distance from x costs, plus the number of the contour voxel there."""
    for i in range(len(keys)):
        keys[i] = keys.dtype.type(cost * (i - x) ** 2 + number)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _lower(keys: NDArray[Any], others: NDArray[Any], places: NDArray[np.int64], place: int, cost: float) -> None:
    """Lower the keys of one place to the smallest of those of others, (n, keys), and the way there; four at a time."""
    key = keys.dtype.type
    fours = len(others) // 4 * 4
    for n in range(0, fours, 4):
        four = others[n : n + 4]
        cost_0, cost_1 = key(cost * (places[n] - place) ** 2), key(cost * (places[n + 1] - place) ** 2)
        cost_2, cost_3 = key(cost * (places[n + 2] - place) ** 2), key(cost * (places[n + 3] - place) ** 2)
        for i in range(len(keys)):
            low = min(key(four[0, i] + cost_0), key(four[1, i] + cost_1))
            lower = min(key(four[2, i] + cost_2), key(four[3, i] + cost_3))
            keys[i] = min(keys[i], low, lower)
    for n in range(fours, len(others)):
        other, cost_n = others[n], key(cost * (places[n] - place) ** 2)
        for i in range(len(keys)):
            keys[i] = min(keys[i], key(other[i] + cost_n))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _distance_mm2(
    keys: NDArray[Any], stop: int, reference_bits: int, unit_mm2: np.float32, distance_mm2: NDArray[np.float32]
) -> None:
    for i in range(len(keys)):
        distance = np.float32(keys[i] >> reference_bits) * unit_mm2
        distance_mm2[i] = distance if keys[i] < stop else np.float32(np.inf)
