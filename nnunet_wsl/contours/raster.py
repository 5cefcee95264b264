"""Which voxels placed contours mean: the region that they enclose and the voxels that they pass through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_wsl.contours.placement import PlacedContour, PlacedContours

_SHORTEST_PIECE = 1e-9  # of a segment: two lines crossed in one corner must not leave a piece of rounding error
_ON_LINE_VOX = 1e-6  # what runs no further from a line between voxels runs along it, but for rounding


def rasterise(placed: PlacedContours, object_name: str) -> NDArray[np.bool_]:
    """Mask of one object.

    Parameters
    ----------
    placed : PlacedContours
        Contours in the slices of an image.
    object_name : str
        One of its objects.

    Returns
    -------
    ndarray of bool, shape (z, y, x)
        True where the voxel's centre is enclosed. False everywhere if the object has no closed contour.

    Raises
    ------
    KeyError
        If there is no such object.

    Notes
    -----
    Even-odd rule over all closed contours of a source in a slice, whatever their order and orientation: a
    contour within a contour is a hole, one within the hole an island, and a keyhole's channel has no area. The
    object is the union of its sources.

    A voxel centre exactly on a contour counts as enclosed where the enclosed side follows in the direction of
    growing x (growing y on an edge along x), so that regions that share an edge share no voxel.
    """
    mask = np.zeros(placed.grid.shape_zyx, dtype=np.bool_)
    for k, contours in placed.of(object_name).items():
        polygons_of: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for contour in contours:
            if contour.closed:
                polygons_of[contour.source].append(contour.points_yx_vox)
        for polygons in polygons_of.values():
            _add_even_odd(mask[k], polygons)
    return mask


def contour_voxels(placed: PlacedContours, object_name: str) -> NDArray[np.int32]:
    """Voxels that the contours of one object pass through.

    Parameters
    ----------
    placed : PlacedContours
        Contours in the slices of an image.
    object_name : str
        One of its objects.

    Returns
    -------
    ndarray of int32, shape (N, 3)
        Voxel indices (z, y, x), each once, in lexicographic order; (0, 3) if there is no contour. Parts of
        contours outside the image are left out.

    Raises
    ------
    KeyError
        If there is no such object.

    Notes
    -----
    A voxel counts if a contour has a piece of positive length in its square, which extends from index - 0.5 to
    index + 0.5 on both axes: a contour along the edge between two voxels marks both, however the axes are
    oriented, and one that passes through a corner marks the two that it leaves and enters. Successive voxels of
    a contour share an edge or a corner. Open contours have no closing edge.
    """
    shape_yx = placed.grid.shape_zyx[1:]
    found = [
        np.insert(_passed(contour, shape_yx), 0, k, axis=1)
        for k, contours in placed.of(object_name).items()
        for contour in contours
    ]
    voxels = np.concatenate([np.empty((0, 3), dtype=np.int64), *found])
    return np.unique(voxels, axis=0).astype(np.int32)


def drawn_slices(placed: PlacedContours, object_name: str) -> NDArray[np.int64]:
    """List the slices that carry a contour of one object: indices, ascending, shape (K,)."""
    return np.array(list(placed.of(object_name)), dtype=np.int64)


def _add_even_odd(mask: NDArray[np.bool_], polygons_yx: Sequence[NDArray[np.float64]]) -> None:
    """Fill polygons in a mask (y, x), in place: every crossing of a row flips the pixels from there on."""
    height, width = mask.shape
    start = np.concatenate([np.empty((0, 2)), *polygons_yx])
    end = np.concatenate([np.empty((0, 2)), *(np.roll(polygon, -1, axis=0) for polygon in polygons_yx)])
    # Both directions of an edge give the same crossings, to the last bit, when it is walked one way.
    downwards = (start[:, 0] <= end[:, 0])[:, None]
    (y0, x0), (y1, x1) = np.where(downwards, start, end).T, np.where(downwards, end, start).T
    first, stop = (np.clip(np.ceil(y), 0, height).astype(np.int64) for y in (y0, y1))
    edge, row = _ranges(first, stop)
    if not len(row):
        return
    x = x0[edge] + (row - y0[edge]) / (y1 - y0)[edge] * (x1 - x0)[edge]
    column = np.clip(np.ceil(x), 0, width).astype(np.int64)
    top, left = row.min(), column.min()
    flips = np.zeros((row.max() - top + 1, column.max() - left + 1), dtype=np.int32)
    np.add.at(flips, (row - top, column - left), 1)
    # The last column holds only the flips that end a run.
    mask[top : row.max() + 1, left : column.max()] |= np.cumsum(flips, axis=1)[:, :-1] % 2 == 1


def _passed(contour: PlacedContour, shape_yx: tuple[int, int]) -> NDArray[np.int64]:
    """Voxels (y, x) of the image that one contour passes through, with repetitions, shape (N, 2).

    Cuts every segment where it crosses the lines between voxels; each piece then lies in one voxel, or along a line.
    """
    points = contour.points_yx_vox
    following = np.roll(points, -1, axis=0)
    start, end = (points, following) if contour.closed else (points[:-1], following[:-1])
    moves = (start != end).any(axis=1)
    start, end = (start[moves], end[moves]) if moves.any() else (start[:1], end[:1])
    segments = np.arange(len(start))
    cuts = [(segments, np.zeros(len(start))), (segments, np.ones(len(start)))]
    for axis, size in enumerate(shape_yx):
        low, high = np.minimum(start[:, axis], end[:, axis]), np.maximum(start[:, axis], end[:, axis])
        # Line number n runs at index n - 0.5; lines beyond the image need no cut.
        first, stop = (np.clip(np.ceil(edge + 0.5), 0, size + 1).astype(np.int64) for edge in (low, high))
        segment, line = _ranges(first, stop)
        cuts.append((segment, (line - 0.5 - start[segment, axis]) / (end - start)[segment, axis]))
    segment, t = (np.concatenate(values) for values in zip(*cuts, strict=True))
    order = np.lexsort((t, segment))
    segment, t = segment[order], t[order]
    piece = (segment[1:] == segment[:-1]) & (t[1:] - t[:-1] > _SHORTEST_PIECE)
    segment, t0, t1 = segment[1:][piece], t[:-1][piece][:, None], t[1:][piece][:, None]
    # In units of lines, whose number n has the voxels n - 1 and n on its sides.
    first_end, last_end = (start[segment] + t * (end - start)[segment] + 0.5 for t in (t0, t1))
    middle = (first_end + last_end) / 2
    line = np.rint(middle)
    on_line = np.maximum(abs(first_end - line), abs(last_end - line)) < _ON_LINE_VOX
    on_line &= ~on_line.all(axis=1, keepdims=True)  # a bit of a contour at a corner, which follows neither line
    after = np.where(on_line, line, np.floor(middle))
    voxels_yx = np.concatenate([after - on_line, after]).astype(np.int64)
    inside_image = ((voxels_yx >= 0) & (voxels_yx < shape_yx)).all(axis=1)
    kept: NDArray[np.int64] = voxels_yx[inside_image]
    return kept


def _ranges(first: NDArray[np.int64], stop: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All integers of many half-open ranges: which range each comes from, and the integer itself."""
    lengths = np.maximum(stop - first, 0)
    owner = np.repeat(np.arange(len(first)), lengths)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return owner, first[owner] + position
