"""Exact distance to the contours themselves, between the voxel centres that the contour voxels stand for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from nnunet_wsl.contours import PlacedContour
from nnunet_wsl.relevance.transform import Box, minimum_by_block, spacing_and_margin, with_slices


def polyline_distance(
    contours: Sequence[PlacedContour],
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    cutoff_mm: float = math.inf,
    search: Literal["volume", "slice"] = "volume",
) -> NDArray[np.float32]:
    """Distance of every voxel centre to the nearest point of the contours of one object.

    Parameters
    ----------
    contours : sequence of PlacedContour
        Contours in the slices of the image; closed ones have an edge from the last point to the first.
    shape : sequence of int
        Shape of the image, (z, y, x), or (y, x) for contours that all lie in slice 0.
    spacing_mm : sequence of float
        Distance of neighbouring voxels along each axis, in the order of the array axes.
    cutoff_mm : float, default infinity
        Larger distances do not count. The time grows with it.
    search : {"volume", "slice"}
        Whether the distance is measured in the volume or only in the voxel's own slice.

    Returns
    -------
    ndarray of float32, shape (z, y, x) or (y, x)
        In mm, infinite beyond the cut-off and where there is no contour.

    Raises
    ------
    ValueError
        If a spacing or the cut-off is not positive, the spacings are not as many as the image's axes, there is no such
        search, or a contour lies in a slice that the image does not have.
    """
    distance_mm = np.full(with_slices(shape), np.inf, dtype=np.float32)
    for box, distance_mm2 in distance_by_block(contours, shape, spacing_mm, cutoff_mm, search):
        distance_mm[box] = np.sqrt(distance_mm2)
    return distance_mm.reshape(tuple(shape))


def distance_by_block(
    contours: Sequence[PlacedContour],
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    cutoff_mm: float,
    search: Literal["volume", "slice"],
) -> Iterator[tuple[Box, NDArray[np.float32]]]:
    """Measure the distance to contours block by block, as `nearest_by_block` does to contour voxels.

    Parameters
    ----------
    contours, shape, spacing_mm, cutoff_mm, search
        As for `polyline_distance`.

    Yields
    ------
    box : tuple of slice
        Part of the image: an index into a (z, y, x) array.
    distance_mm2 : ndarray of float32, shape (z, y, x)
        Squared, infinite beyond the cut-off.
    """
    shape_zyx = with_slices(shape)
    spacing_zyx, margin = spacing_and_margin(tuple(spacing_mm), tuple(shape), cutoff_mm, search)
    spacing = np.array(spacing_zyx)
    drawn = np.unique([contour.slice_index for contour in contours]).astype(np.int64)
    if not len(drawn):
        return
    if drawn[0] < 0 or drawn[-1] >= shape_zyx[0]:
        raise ValueError(f"contours in slices {drawn[0]} to {drawn[-1]} of an image of {shape_zyx[0]} slices")
    segments_vox = [np.concatenate([_segments(one) for one in contours if one.slice_index == k]) for k in drawn]
    ends_yx = np.concatenate(segments_vox).reshape(-1, 2)
    low_yx = np.clip(np.floor(ends_yx.min(axis=0)).astype(np.int64) - margin[1:], 0, shape_zyx[1:])
    high_yx = np.clip(np.ceil(ends_yx.max(axis=0)).astype(np.int64) + margin[1:] + 1, 0, shape_zyx[1:])
    if (low_yx >= high_yx).any():
        return
    reach = 0 if search == "slice" else min(margin[0], shape_zyx[0] - 1)
    low = [max(int(drawn[0]) - reach, 0), *low_yx.tolist()]
    high = [min(int(drawn[-1]) + reach + 1, shape_zyx[0]), *high_yx.tolist()]

    def fill(planes: NDArray[Any], begin: int, end: int, y: int) -> None:
        for i in range(begin, end):
            segments_mm = segments_vox[i] * np.tile(spacing[1:], 2)
            low_mm = np.array([y, low[2]]) * spacing[1:]
            _nearest_segments(segments_mm, low_mm, spacing[1:], cutoff_mm, planes[i % len(planes)])

    cost = float(spacing[0] ** 2)
    for box, keys in minimum_by_block(drawn, fill, low, high, reach, cost, np.inf, np.float32):
        yield box, np.where(keys <= cutoff_mm * cutoff_mm, keys, np.float32(np.inf))


def _segments(contour: PlacedContour) -> NDArray[np.float64]:
    """Edges of a contour, in voxels, shape (N, 4): y and x of the start, y and x of the end."""
    points = contour.points_yx_vox
    edges = np.concatenate([points, np.roll(points, -1, axis=0)], axis=1)
    return edges if contour.closed else edges[:-1]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _nearest_segments(
    segments_mm: NDArray[np.float64],
    low_mm: NDArray[np.float64],
    spacing_mm: NDArray[np.float64],
    cutoff_mm: float,
    distance_mm2: NDArray[np.float32],
) -> None:
    """Fill the squared distances to the nearest edge, at least where it is within the cut-off."""
    distance_mm2[:] = np.inf
    height, width = distance_mm2.shape
    for i in range(len(segments_mm)):
        y0, x0, y1, x1 = segments_mm[i]
        top = math.ceil(max((min(y0, y1) - cutoff_mm - low_mm[0]) / spacing_mm[0], 0.0))
        bottom = math.floor(min((max(y0, y1) + cutoff_mm - low_mm[0]) / spacing_mm[0], height - 1.0))
        left = math.ceil(max((min(x0, x1) - cutoff_mm - low_mm[1]) / spacing_mm[1], 0.0))
        right = math.floor(min((max(x0, x1) + cutoff_mm - low_mm[1]) / spacing_mm[1], width - 1.0))
        stop = max(right + 1, left)
        for y in range(top, bottom + 1):
            from_y = low_mm[0] + y * spacing_mm[0] - y0
            from_x = low_mm[1] + left * spacing_mm[1] - x0
            _lower_to_segment(distance_mm2[y, left:stop], from_y, from_x, spacing_mm[1], y1 - y0, x1 - x0)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _lower_to_segment(
    distance_mm2: NDArray[np.float32], from_y: float, from_x: float, step_x: float, along_y: float, along_x: float
) -> None:
    """Lower the squared distances of a row of voxels to that to an edge; all lengths in mm, from the edge's start."""
    length2 = along_y * along_y + along_x * along_x
    scale = 1.0 / length2 if length2 > 0 else 0.0
    for i in range(len(distance_mm2)):
        x = from_x + i * step_x
        t = min(max((from_y * along_y + x * along_x) * scale, 0.0), 1.0)
        y_off, x_off = from_y - t * along_y, x - t * along_x
        distance_mm2[i] = min(distance_mm2[i], np.float32(y_off * y_off + x_off * x_off))
