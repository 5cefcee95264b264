"""For every voxel the nearest contour voxel, and how far it is: exact, cut off, one block of the image at a time.

The squared distance is a sum over the axes, so its minimum is found axis by axis: along x within each row that has
contour voxels, then along y, then along z, where the last two take the minimum over the rows and slices within the
cut-off (Saito and Toriwaki 1994, DOI 10.1016/0031-3203(94)90133-3). Only the rows and slices within the cut-off of the
block at hand are in memory.

All arithmetic is on integers. A *key* holds the squared distance in its upper bits and in its lower bits which contour
voxel it is measured to, the contour voxels being numbered in lexicographic order (z, y, x). The smallest key is thus
the nearest contour voxel and, among equally near ones, the lexicographically smallest, in whatever order keys meet.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, get_args

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_wsl.relevance.settings import Search

Box = tuple[slice, slice, slice]

_LARGEST_DENOMINATOR = 128
_RATIO_TOLERANCE = 1e-7  # spacings come as float32 from some headers

_TOLERANCE = 1e-6  # relative, of squared distances

_BLOCK_SLICES = 16  # blocks are small enough for the processor's cache, and large enough to be worth a Python call
_BLOCK_ROWS = 32


@dataclass(frozen=True, eq=False)
class ContourVoxels:
    """The contour voxels of one object in an image.

    Parameters
    ----------
    shape : tuple of int
        Shape of the image, (z, y, x) or (y, x).
    index_zyx : ndarray of int64, shape (N, 3)
        In lexicographic order, each once.
    """

    shape: tuple[int, ...]
    index_zyx: NDArray[np.int64]

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Shape of the image; a 2D image has one slice."""
        return with_slices(self.shape)

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
        shape_zyx = with_slices(shape)
        if is_mask:
            if given.shape != shape:
                raise ValueError(f"contour voxels of shape {given.shape} do not fit an image of shape {shape}")
            return cls(shape, np.stack(np.unravel_index(np.flatnonzero(given), shape_zyx), axis=1))
        if given.size == 0:
            return cls(shape, np.empty((0, 3), dtype=np.int64))
        if given.ndim != 2 or given.shape[1] != len(shape) or given.dtype.kind not in "iu":
            raise ValueError(
                f"contour voxels must be bool of shape {shape} or integer indices of shape (N, {len(shape)}), not "
                f"{given.dtype} of shape {given.shape}"
            )
        index = np.zeros((len(given), 3), dtype=np.int64)
        index[:, 3 - len(shape) :] = given
        inside, in_order = _examine(index, shape_zyx)
        if not inside:
            raise ValueError(f"contour voxels lie outside the image of shape {shape}")
        return cls(shape, index if in_order else np.unique(index, axis=0))


@dataclass(frozen=True, eq=False)
class NearestInBlock:
    """Distance to the contour in a part of the image.

    Parameters
    ----------
    box : tuple of slice
        Which part: an index into a (z, y, x) array.
    keys : ndarray of int32 or int64, shape (z, y, x)
        Squared distances and reference voxels, as `metric` says.
    metric : Metric
    """

    box: Box
    keys: NDArray[Any]
    metric: Metric

    def distance_mm2(self) -> NDArray[np.float32]:
        """Return the squared distance to the reference voxel, infinite beyond the cut-off."""
        distance_mm2 = np.empty(self.keys.shape, dtype=np.float32)
        metric = self.metric
        unit_mm2 = np.float32(metric.unit_mm2)
        _distance_mm2(self.keys.reshape(-1), metric.stop, metric.reference_bits, unit_mm2, distance_mm2.reshape(-1))
        return distance_mm2

    def reference(self) -> NDArray[Any]:
        """Return numbers of reference voxels, rows of `ContourVoxels.index_zyx`; those beyond the cut-off are void."""
        numbers: NDArray[Any] = self.keys & self.metric.reference_mask
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
        If the arguments do not fit together, a spacing or the cut-off is not positive, or there is no such search.

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
    for nearest in nearest_by_block(voxels, spacing_mm, cutoff_mm, search, with_reference=True):
        distance = np.sqrt(nearest.distance_mm2())
        distance_mm[nearest.box] = distance
        index_zyx[(slice(None), *nearest.box)] = np.where(
            np.isfinite(distance), voxels.index_zyx.T[:, nearest.reference()], -1
        )
    if len(voxels.shape) == 2:
        return distance_mm[0], index_zyx[1:, 0]
    return distance_mm, index_zyx


def nearest_by_block(
    voxels: ContourVoxels,
    spacing_mm: Sequence[float],
    cutoff_mm: float,
    search: Literal["volume", "slice"],
    *,
    with_reference: bool = False,
) -> Iterator[NearestInBlock]:
    """Measure the distance to the contour block by block, where it is within the cut-off.

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
    NearestInBlock
        Disjoint blocks with everything that is within the cut-off. Keys are overwritten when the next one is asked for.

    Raises
    ------
    ValueError
        If a spacing or the cut-off is not positive, the spacings are not as many as the image's axes, or there is no
        such search.
    """
    low, high, reach, metric = measure(voxels, spacing_mm, cutoff_mm, search, with_reference=with_reference)
    index = voxels.index_zyx
    if not len(index):
        return
    # Rows are worked through eight keys at a time; what is left over would take longer than full eights.
    high[2] = min(low[2] + math.ceil((high[2] - low[2]) / 8) * 8, voxels.shape_zyx[2])
    drawn, starts = _drawn_slices(index)
    reach_yx, costs_yx = (reach[1], reach[2]), metric.costs_zyx[1:]
    rows = np.empty((min(_BLOCK_ROWS + 2 * reach[1], high[1] - low[1]), high[2] - low[2]), dtype=metric.dtype)

    def fill(planes: NDArray[Any], begin: int, end: int, y: int) -> None:
        _fill_planes(
            planes, index, starts, begin, end, y, low[2], reach_yx, costs_yx, metric.nothing, with_reference, rows
        )

    cost = metric.costs_zyx[0]
    for box, keys in minimum_by_block(drawn, fill, low, high, reach[0], cost, metric.nothing, metric.dtype):
        yield NearestInBlock(box, keys, metric)


def measure(
    voxels: ContourVoxels,
    spacing_mm: Sequence[float],
    cutoff_mm: float,
    search: Literal["volume", "slice"],
    *,
    with_reference: bool,
) -> tuple[list[int], list[int], list[int], Metric]:
    """Find out where distances are to be measured and how.

    Parameters
    ----------
    voxels, spacing_mm, cutoff_mm, search, with_reference
        As for `nearest_by_block`.

    Returns
    -------
    low, high : list of int
        Bounding box of the contour and all within the cut-off, cropped to the image: first and stop (z, y, x).
    reach : list of int
        Voxels within the cut-off along each axis (z, y, x).
    metric : Metric
        How keys are made.

    Raises
    ------
    ValueError
        As `nearest_by_block`.
    """
    spacing, margin = spacing_and_margin(tuple(spacing_mm), voxels.shape, cutoff_mm, search)
    first, last = _bounding_box(voxels.index_zyx)
    low = [max(a - n, 0) for a, n in zip(first, margin, strict=True)]
    high = [min(b + n + 1, size) for b, n, size in zip(last, margin, voxels.shape_zyx, strict=True)]
    reach = [max(min(b - a - 1, n), 0) for a, b, n in zip(low, high, margin, strict=True)]
    if search == "slice":
        reach[0] = 0
    num_references = len(voxels.index_zyx) if with_reference else 0
    return low, high, reach, Metric.of(spacing, tuple(reach), cutoff_mm, max(num_references - 1, 0).bit_length())


def minimum_by_block(
    drawn: NDArray[np.int64],
    fill: Callable[[NDArray[Any], int, int, int], None],
    low: Sequence[int],
    high: Sequence[int],
    reach: int,
    cost: float,
    nothing: float,
    dtype: type[np.generic],
) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Find the smallest key over the slices within reach, block by block.

    Parameters
    ----------
    drawn : ndarray of int64, shape (S,)
        Slices with contours, ascending.
    fill : callable
        Takes planes, shape (n, y, x), two numbers begin and end, and a row of the image; for i from begin to end it
        fills plane ``i % n`` with the keys within slice ``drawn[i]``, from that row on.
    low, high : sequence of int
        Where to find it: first and stop (z, y, x).
    reach : int
        Largest difference of slice numbers that counts.
    cost : float
        What a difference of 1 adds to a key; it grows with the square.
    nothing : int or float
        Key of a voxel that has no contour near it.
    dtype : type
        Of keys.

    Yields
    ------
    box : tuple of slice
        Part of the image; parts without contours in reach are left out.
    keys : ndarray of `dtype`, shape (z, y, x)
        Overwritten when the next one is asked for.
    """
    # Slices with contours come and go in ascending order: a ring of planes holds those within reach of a block.
    depth = min(_BLOCK_SLICES, high[0] - low[0]) if reach else 1
    height, width = min(_BLOCK_ROWS, high[1] - low[1]), high[2] - low[2]
    num_planes = min(2 * reach + depth, len(drawn)) if reach else 0
    of_planes, of_keys = np.empty(num_planes * height * width, dtype), np.empty(depth * height * width, dtype)
    slices = drawn.tolist()
    for y in range(low[1], high[1], height):
        y_stop = min(y + height, high[1])
        area = (y_stop - y) * width
        planes = of_planes[: num_planes * area].reshape(num_planes, y_stop - y, width)
        done = 0
        for z in range(low[0], high[0], depth):
            z_stop = min(z + depth, high[0])
            begin, end = bisect_left(slices, z - reach), bisect_left(slices, z_stop + reach)
            if begin < end:
                keys = of_keys[: (z_stop - z) * area].reshape(z_stop - z, y_stop - y, width)
                if reach:
                    fill(planes, max(begin, done), end, y)
                    _minimum_over_planes(planes, drawn, begin, end, z, reach, cost, nothing, keys)
                    done = end
                else:
                    fill(keys, begin, end, y)
                yield (slice(z, z_stop), slice(y, y_stop), slice(low[2], high[2])), keys


def with_slices(shape: Sequence[int]) -> tuple[int, int, int]:
    """Shape (z, y, x) of an image, one slice for a 2D image; ValueError if it has other than two or three axes."""
    if len(shape) not in (2, 3):
        raise ValueError(f"an image has two or three axes, not {len(shape)}")
    return (shape[0] if len(shape) == 3 else 1, shape[-2], shape[-1])


def spacing_zyx(spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[float, ...]:
    """Check the spacing of an image, and give the one slice of a 2D image one; ValueError if it does not fit."""
    spacing = tuple(map(float, spacing_mm))
    if len(spacing) != len(shape) or not all(0 < one < math.inf for one in spacing):
        raise ValueError(
            f"expected one positive spacing per axis of an image of {len(shape)} axes, found {len(spacing)}: {spacing}"
        )
    return spacing if len(spacing) == 3 else (spacing[0], *spacing)


@lru_cache
def spacing_and_margin(
    spacing_mm: tuple[float, ...], shape: tuple[int, ...], cutoff_mm: float, search: Literal["volume", "slice"]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Check what the objects of an image share; the spacing and how many voxels the cut-off reaches, both (z, y, x)."""
    spacing = spacing_zyx(spacing_mm, shape)
    if not cutoff_mm > 0:
        raise ValueError(f"the cut-off must be positive, not {cutoff_mm} mm")
    if search not in get_args(Search):
        raise ValueError(f"the search must be one of {', '.join(get_args(Search))}, not {search!r}")
    return spacing, tuple(int(min(cutoff_mm / one * (1 + _RATIO_TOLERANCE), 2**31)) for one in spacing)


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
    nothing : int
        Key of a voxel that has no contour voxel near it; twice as much overflows.
    reference_bits : int
        Lower bits of a key that hold the number of the contour voxel; 0 if it is not asked for.
    """

    dtype: type[np.int32 | np.int64]
    weights_zyx: tuple[int, ...]
    unit_mm2: float
    stop: int
    nothing: int
    reference_bits: int

    @classmethod
    @lru_cache
    def of(cls, spacing_mm: tuple[float, ...], reach: tuple[int, ...], cutoff_mm: float, reference_bits: int) -> Metric:
        """Choose the narrowest keys that hold the squared distances.

        Parameters
        ----------
        spacing_mm : tuple of float
            (z, y, x).
        reach : tuple of int
            Largest distance along each axis that is measured, in voxels.
        cutoff_mm : float
            May be infinite.
        reference_bits : int
            Bits to tell the contour voxels apart; 0 if keys need not say which is the nearest.
        """
        # An axis along which nothing is measured must not spoil the others' ratios.
        spacings = tuple(s if n else 0.0 for s, n in zip(spacing_mm, reach, strict=True))
        everything_mm2 = sum((n * s) ** 2 for s, n in zip(spacings, reach, strict=True))
        farthest_mm2 = min(cutoff_mm * cutoff_mm, everything_mm2)
        for dtype in (np.int32, np.int64):
            unit_mm2, weights = _integer_squares(spacings, farthest_mm2, _bits(dtype, reference_bits))
            if all(abs(w * unit_mm2 - s * s) <= _TOLERANCE * s * s for w, s in zip(weights, spacings, strict=True)):
                break
        stop = nothing = int(np.iinfo(dtype).max // 2 + 1)
        if farthest_mm2 < everything_mm2:
            stop = int(farthest_mm2 / unit_mm2 * (1 + _TOLERANCE)) + 1 << reference_bits
        return cls(dtype, weights, unit_mm2, stop, nothing, reference_bits)

    @property
    def costs_zyx(self) -> tuple[int, int, int]:
        """What a distance of one voxel along each axis adds to a key."""
        z, y, x = (weight << self.reference_bits for weight in self.weights_zyx)
        return z, y, x

    @property
    def reference_mask(self) -> int:
        """Bits of a key that hold the number of the contour voxel."""
        return (1 << self.reference_bits) - 1


def _bits(dtype: type[np.int32 | np.int64], reference_bits: int) -> int:
    """Bits for the squared distance such that all keys, and the cost of any distance, stay below `Metric.nothing`."""
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
def _examine(index: NDArray[np.int64], shape: tuple[int, int, int]) -> tuple[bool, bool]:
    """Whether all voxels are in the image, and whether they are in lexicographic order, each once."""
    inside = in_order = True
    previous = -1
    for i in range(len(index)):
        z, y, x = index[i]
        inside &= 0 <= z < shape[0] and 0 <= y < shape[1] and 0 <= x < shape[2]
        linear = (z * shape[1] + y) * shape[2] + x
        in_order &= linear > previous
        previous = linear
    return inside, in_order


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _drawn_slices(index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Slices that have voxels, ascending, and where their voxels begin, with the end of all."""
    starts = np.empty(index[-1, 0] - index[0, 0] + 2, dtype=np.int64)
    count = 0
    for i in range(len(index)):
        if i == 0 or index[i, 0] != index[i - 1, 0]:
            starts[count] = i
            count += 1
    starts[count] = len(index)
    return index[starts[:count], 0], starts[: count + 1]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _bounding_box(index: NDArray[np.int64]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First and last index along the three axes; last before first if there are no voxels."""
    if not len(index):
        return (0, 0, 0), (-1, -1, -1)
    y_low = y_high = index[0, 1]
    x_low = x_high = index[0, 2]
    for i in range(len(index)):
        y_low, y_high = min(y_low, index[i, 1]), max(y_high, index[i, 1])
        x_low, x_high = min(x_low, index[i, 2]), max(x_high, index[i, 2])
    return (index[0, 0], y_low, x_low), (index[-1, 0], y_high, x_high)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _fill_planes(
    planes: NDArray[Any],
    index: NDArray[np.int64],
    starts: NDArray[np.int64],
    begin: int,
    end: int,
    y_low: int,
    x_low: int,
    reach_yx: tuple[int, int],
    costs_yx: tuple[int, int],
    nothing: int,
    numbered: bool,
    rows: NDArray[Any],
) -> None:
    """Fill planes with the keys within slices, as `minimum_by_block` asks; `rows` is for intermediate results."""
    reach, cost = reach_yx[0], costs_yx[0]
    drawn = np.empty(len(rows), dtype=np.int64)
    for i in range(begin, end):
        count = 0
        stop = starts[i]
        while stop < starts[i + 1]:
            start = stop
            while stop < starts[i + 1] and index[stop, 1] == index[start, 1]:
                stop += 1
            y = index[start, 1] - y_low
            if -reach <= y < planes.shape[1] + reach:
                number = start if numbered else 0
                _nearest_in_row(
                    index[start:stop, 2], x_low, number, numbered, reach_yx[1], costs_yx[1], nothing, rows[count]
                )
                drawn[count] = y
                count += 1
        _minimum_over_rows(rows[:count], drawn[:count], reach, cost, nothing, planes[i % len(planes)])


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _nearest_in_row(
    x_vox: NDArray[np.int64],
    x_low: int,
    number: int,
    numbered: bool,
    reach: int,
    cost: int,
    nothing: int,
    row: NDArray[Any],
) -> None:
    """Fill the keys of a row; of two equally near contour voxels the left one counts."""
    row[:] = nothing
    for i in range(len(x_vox)):
        x = x_vox[i] - x_low
        begin = max(x - reach, 0 if i == 0 else (x_vox[i - 1] + x_vox[i]) // 2 + 1 - x_low)
        end = min(x + reach, len(row) - 1 if i == len(x_vox) - 1 else (x_vox[i] + x_vox[i + 1]) // 2 - x_low)
        _rise(row[begin : end + 1], x - begin, cost, number + i * numbered)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _minimum_over_rows(
    rows: NDArray[Any], drawn: NDArray[np.int64], reach: int, cost: int, nothing: int, plane: NDArray[Any]
) -> None:
    """Find the smallest keys over the rows within reach of each row of a plane."""
    begin = end = 0
    for y in range(len(plane)):
        while begin < len(drawn) and drawn[begin] < y - reach:
            begin += 1
        while end < len(drawn) and drawn[end] <= y + reach:
            end += 1
        plane[y] = nothing
        _lower(plane[y], rows[begin:end], drawn[begin:end], y, cost)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _minimum_over_planes(
    planes: NDArray[Any],
    drawn: NDArray[np.int64],
    begin: int,
    end: int,
    z_low: int,
    reach: int,
    cost: float,
    nothing: float,
    keys: NDArray[Any],
) -> None:
    """Find the smallest keys over the planes within reach of each slice."""
    flat = planes.reshape(len(planes), -1)
    stop = begin
    for k in range(len(keys)):
        z = z_low + k
        while begin < end and drawn[begin] < z - reach:
            begin += 1
        while stop < end and drawn[stop] <= z + reach:
            stop += 1
        keys[k] = nothing
        at = begin % len(planes)
        unwrapped = min(stop - begin, len(planes) - at)
        _lower(keys[k].reshape(-1), flat[at : at + unwrapped], drawn[begin : begin + unwrapped], z, cost)
        _lower(keys[k].reshape(-1), flat[: stop - begin - unwrapped], drawn[begin + unwrapped : stop], z, cost)


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
