"""Repair the faults of drawn contours: spurs, channels, self-crossings, contours without area, repeats.

One rule covers the faults of a closed contour. Its border is found in three steps:

1. The contour is cut wherever it meets itself.
2. Lines that run as often back as forth cancel. Parts that do not touch without them are contours of their own.
3. A part encloses what it winds around at least once, in either direction. Lines with such places on both sides
   are no border, and are dropped.

What is left are rings that meet in points at most. By even-odd, parts within parts are holes and islands.

=============  ==========================================  ======================================================
fault          what it is                                  what becomes of it
=============  ==========================================  ======================================================
spur           the pen goes out and comes back along the   step 2 removes it
               same line
keyhole        a hole, or an island, joined by a channel   step 2 removes the channel; a hole stays a hole,
               without width (DICOM PS3.3, C.8.8.6.3)      whichever way round it is drawn
self-crossing  a bow-tie, a small loop, an end that runs   step 3 takes all lobes for inside, those wound around
               on over the start                           twice too; lines amid the inside are dropped
no extent      all points on one line, or in one place     nothing is left
repeat         a contour drawn again, with any start,      `same_lines` recognises it
               direction and additional points on it
=============  ==========================================  ======================================================

A contour that touches itself without crossing is not changed. A closing point that repeats the first one, and other
points that repeat their predecessor, are no faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

TOLERANCE_VOX = 1e-5
"""How near to a line a point is on it: more than the rounding of placed contours, less than anything drawn.

In the 2162 contours of the structure sets at hand, every value from 1e-6 to 0.03 finds the same faults.
"""

REPEAT_VOX = 0.25
"""How far apart repeats of a contour may lie.

Copies are rounded, often to 0.1 mm, or resampled. What two such lines have between them is thinner than a voxel, so
nobody has drawn a ring there; filled by even-odd, it is all that would be left of both.
"""

_DECIMALS_VOX = 6
_MAX_ROUNDS = 50
_MAX_PLACES = 40_000

Fault = Literal["without_extent", "crossing", "spur", "keyhole"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Repaired:
    """What remains of one contour.

    Parameters
    ----------
    lines_yx_vox : tuple of ndarray of float64, shape (N, 2)
        Rings of a closed contour, or the one line of an open contour. Without faults, it is the contour, its points
        as they were given but for those that repeat their predecessor. Empty if the contour has no extent.
    faults : tuple of {"without_extent", "crossing", "spur", "keyhole"}
        The faults that the contour had.
    """

    lines_yx_vox: tuple[Floats, ...]
    faults: tuple[Fault, ...] = ()


def repair(points_yx_vox: Floats, *, closed: bool, tolerance_vox: float = TOLERANCE_VOX) -> Repaired:
    """Repair one contour by the rule of this module; of an open one, only repeated points are dropped.

    Parameters
    ----------
    points_yx_vox : ndarray of float64, shape (N, 2)
        Continuous voxel index (y, x), at least one point.
    closed : bool
        Whether the last point connects to the first.
    tolerance_vox : float
        How near to a line a point is on it.

    Returns
    -------
    Repaired

    Raises
    ------
    RuntimeError
        If the contour cannot be cut so that its lines meet in points only, which is not known to happen.
    """
    moves = (points_yx_vox != np.roll(points_yx_vox, 1, axis=0)).any(axis=1)
    moves[0] |= not closed
    points = points_yx_vox if moves.all() else points_yx_vox[moves]
    if len(points) < (3 if closed else 2):
        return Repaired((), ("without_extent",))
    unchanged = Repaired((points,))
    if not closed or _meets_only_neighbours(points, tolerance_vox):
        return unchanged
    index = np.arange(len(points))
    contour = _Lines(points, index, np.roll(index, -1), np.ones_like(index), np.ones_like(index), index)
    if not _meetings(contour, tolerance_vox).any:
        return unchanged

    cut = _cut_where_they_meet(contour, tolerance_vox)
    left = cut.rows(cut.net != 0)
    num_parts, part = left.parts()
    ahead, behind = _winding_numbers(left, part)
    highest, lowest = (extreme(0, extreme(ahead, behind)) for extreme in (np.maximum, np.minimum))
    crossing = any(highest[part == p].max() - lowest[part == p].min() > 1 for p in range(num_parts))
    cancelled = bool((cut.drawn != np.abs(cut.net)).any())
    if not cancelled and not crossing:
        return unchanged
    rings = _rings(left, ahead, behind)
    if not rings:
        return Repaired((), ("without_extent",))
    found: dict[Fault, bool] = {
        "crossing": crossing,
        "spur": cancelled and (num_parts == 1 or _has_loose_end(cut)),
        "keyhole": num_parts > 1,
    }
    return Repaired(rings, tuple(fault for fault, is_there in found.items() if is_there))


def same_lines(a: Sequence[Floats], b: Sequence[Floats], *, closed: bool, tolerance_vox: float = REPEAT_VOX) -> bool:
    """Tell whether no place on either of two contours lies farther than the tolerance from the other contour.

    Parameters
    ----------
    a, b : sequence of ndarray of float64, shape (N, 2)
        The rings, or the one open line, of each contour, continuous voxel index (y, x).
    closed : bool
        Whether the last points connect to the first.
    tolerance_vox : float
        The greatest distance.

    Returns
    -------
    bool

    Notes
    -----
    Distances are taken between places half the tolerance apart along the lines, and so about 3 % of it too large.
    """
    points_a, points_b = np.concatenate(a), np.concatenate(b)
    for extreme in (np.min, np.max):
        if (np.abs(extreme(points_a, axis=0) - extreme(points_b, axis=0)) > tolerance_vox).any():
            return False
    places_a, places_b = (
        np.concatenate([_places(line, closed, tolerance_vox / 2) for line in lines]) for lines in (a, b)
    )
    return _all_near(places_a, places_b, tolerance_vox) and _all_near(places_b, places_a, tolerance_vox)


def _places(line: Floats, closed: bool, step_vox: float) -> Floats:
    """Places along a line, its points among them, that are no farther apart than a step."""
    start, end = (line, np.roll(line, -1, axis=0)) if closed else (line[:-1], line[1:])
    # The limit is for damaged files, whose points may be anywhere; lines that need it are not within an image.
    count = np.clip(np.ceil(np.hypot(*(end - start).T) / step_vox), 1, _MAX_PLACES).astype(np.int64)
    segment = np.repeat(np.arange(len(start)), count)
    t = (np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)) / count[segment]
    return np.concatenate([start[segment] + t[:, None] * (end - start)[segment], line[-1:]])


def _all_near(places: Floats, others: Floats, tolerance_vox: float) -> bool:
    distance, _ = cKDTree(others).query(places, distance_upper_bound=tolerance_vox * (1 + 1e-9))
    return bool(np.isfinite(distance).all())


def _meets_only_neighbours(points: Floats, tolerance_vox: float) -> bool:
    """Tell at little cost that a contour has no fault; most contours have none. False if that is not sure."""
    along = np.roll(points, -1, axis=0) - points
    turns_back = (along * np.roll(along, -1, axis=0)).sum(axis=1) < 0
    if turns_back.any() or ((along**2).sum(axis=1) <= tolerance_vox**2).any():
        return False
    end = points + along
    i, j = _overlapping_boxes(np.minimum(points, end), np.maximum(points, end), tolerance_vox)
    steps = np.abs(i - j)
    return bool(((steps == 1) | (steps == len(points) - 1)).all())


@dataclass(frozen=True, eq=False)
class _Lines:
    """Straight lines between nodes.

    Parameters
    ----------
    nodes : ndarray of float64, shape (K, 2)
        Positions (y, x).
    a, b : ndarray of int64, shape (N,)
        The nodes at both ends.
    net, drawn : ndarray of int64, shape (N,)
        How often more the pen went from a to b than back, and how often in all.
    segment : ndarray of int64, shape (N,)
        The line of the contour that it is a piece of; the first, if it is one of several.
    """

    nodes: Floats
    a: Ints
    b: Ints
    net: Ints
    drawn: Ints
    segment: Ints

    def rows(self, chosen: NDArray[np.bool_]) -> _Lines:
        """Choose some of the lines."""
        columns = (self.a, self.b, self.net, self.drawn, self.segment)
        return _Lines(self.nodes, *(column[chosen] for column in columns))

    def united(self) -> _Lines:
        """Make one line, from the lower node to the higher, of all between the same nodes; drop those of length 0."""
        forth = np.where(self.a < self.b, 1, -1)
        low, high = np.minimum(self.a, self.b), np.maximum(self.a, self.b)
        order = np.lexsort((self.segment, high, low))
        order = order[low[order] != high[order]]
        low, high = low[order], high[order]
        if not len(order):
            return _Lines(self.nodes, low, high, low, low, low)
        first = np.flatnonzero(np.r_[True, (low[1:] != low[:-1]) | (high[1:] != high[:-1])])
        net, drawn = (np.add.reduceat(values[order], first) for values in (self.net * forth, self.drawn))
        return _Lines(self.nodes, low[first], high[first], net, drawn, self.segment[order][first])

    def parts(self) -> tuple[int, Ints]:
        """Count the parts that do not touch, and tell of each line which part it is in."""
        graph = coo_matrix((np.ones(len(self.a)), (self.a, self.b)), shape=(len(self.nodes),) * 2)
        _, of_node = connected_components(graph, directed=False)
        found, of_line = np.unique(of_node[self.a], return_inverse=True)
        return len(found), of_line.reshape(-1)


@dataclass(frozen=True, eq=False)
class _Meetings:
    """Where lines meet other than in the node that they share.

    Parameters
    ----------
    line, node : ndarray of int64, shape (N,)
        Lines and the nodes that lie on them.
    i, j : ndarray of int64, shape (M,)
        Lines that cross.
    """

    line: Ints
    node: Ints
    i: Ints
    j: Ints

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(len(self.line) or len(self.i))


def _meetings(lines: _Lines, tolerance_vox: float) -> _Meetings:
    """Find where lines meet; two that cross within the tolerance of one of their nodes meet in that node."""
    start, end = lines.nodes[lines.a], lines.nodes[lines.b]
    i, j = _overlapping_boxes(np.minimum(start, end), np.maximum(start, end), tolerance_vox)
    line = np.concatenate([i, i, j, j])
    node = np.concatenate([lines.a[j], lines.b[j], lines.a[i], lines.b[i]])
    foreign = (node != lines.a[line]) & (node != lines.b[line])
    on_line = foreign.copy()
    on_line[foreign] = _distance(lines.nodes[node[foreign]], start[line[foreign]], end[line[foreign]]) <= tolerance_vox
    apart = foreign.reshape(4, -1).all(axis=0) & ~on_line.reshape(4, -1).any(axis=0)
    i, j = i[apart], j[apart]
    crosses = np.ones(len(i), dtype=np.bool_)
    for p, q in ((i, j), (j, i)):
        along = end[p] - start[p]
        crosses &= _cross(along, start[q] - start[p]) * _cross(along, end[q] - start[p]) < 0
    return _Meetings(line[on_line], node[on_line], i[crosses], j[crosses])


def _overlapping_boxes(low: Floats, high: Floats, tolerance_vox: float) -> tuple[Ints, Ints]:
    """Pairs of boxes, from their corners, shape (N, 2), that are no farther apart than the tolerance."""
    long = int(np.ptp(low, axis=0).argmax()) if len(low) else 0
    i, j = _overlapping(low[:, long], high[:, long] + tolerance_vox)
    low, high = low[:, 1 - long], high[:, 1 - long] + tolerance_vox
    near = (low[i] <= high[j]) & (low[j] <= high[i])
    return i[near], j[near]


def _overlapping(low: Floats, high: Floats) -> tuple[Ints, Ints]:
    """Pairs of closed intervals with a place in common; each pair once."""
    order = np.argsort(low)
    first = low[order]
    count = np.searchsorted(first, high[order], side="right") - np.arange(1, len(order) + 1)
    i = np.repeat(np.arange(len(order)), count)
    j = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + i + 1
    return order[i], order[j]


def _between_kinds(i: Ints, j: Ints, num_first: int) -> tuple[Ints, Ints]:
    """Of pairs, those of one of the first kind and one of the second, which is counted from 0."""
    first, second = np.minimum(i, j), np.maximum(i, j) - num_first
    mixed = (first < num_first) & (second >= 0)
    return first[mixed], second[mixed]


def _cut_where_they_meet(lines: _Lines, tolerance_vox: float) -> _Lines:
    """Cut lines so that they meet in nodes only."""
    lines = lines.united()
    for _ in range(_MAX_ROUNDS):
        met = _meetings(lines, tolerance_vox)
        if not met.any:
            return lines
        nodes, a, b = lines.nodes, lines.a, lines.b
        position = nodes[met.node]
        # Nodes within twice the tolerance become one: then every piece of a line that is cut is shorter than the line.
        near = [np.hypot(*(position - nodes[ends[met.line]]).T) <= 2 * tolerance_vox for ends in (a, b)]
        if (near[0] | near[1]).any():
            same = [ends[met.line[n]] for ends, n in zip((a, b), near, strict=True)]
            lines = _merged(lines, np.concatenate([met.node[n] for n in near]), np.concatenate(same))
        elif len(met.line):
            lines = _split(lines, met.line, met.node)
        else:
            along_i, along_j = nodes[b[met.i]] - nodes[a[met.i]], nodes[b[met.j]] - nodes[a[met.j]]
            t = _cross(nodes[a[met.j]] - nodes[a[met.i]], along_j) / _cross(along_i, along_j)
            crossings = np.round(nodes[a[met.i]] + t[:, None] * along_i, _DECIMALS_VOX)
            new = len(nodes) + np.arange(len(crossings))
            lines = _Lines(np.concatenate([nodes, crossings]), a, b, lines.net, lines.drawn, lines.segment)
            lines = _split(lines, np.concatenate([met.i, met.j]), np.concatenate([new, new]))
    raise RuntimeError(f"a contour of {len(lines.a)} lines meets itself again after {_MAX_ROUNDS} rounds of cuts")


def _merged(lines: _Lines, p: Ints, q: Ints) -> _Lines:
    """Move nodes that are the same to the first of them."""
    graph = coo_matrix((np.ones(len(p)), (p, q)), shape=(len(lines.nodes),) * 2)
    _, group = connected_components(graph, directed=False)
    first = np.full(len(lines.nodes), len(lines.nodes))
    np.minimum.at(first, group, np.arange(len(lines.nodes)))
    same = first[group]
    return _Lines(lines.nodes, same[lines.a], same[lines.b], lines.net, lines.drawn, lines.segment).united()


def _split(lines: _Lines, line: Ints, node: Ints) -> _Lines:
    """Cut each line at nodes, in the order in which they lie along it."""
    index = np.arange(len(lines.a))
    line, node = np.concatenate([index, line, index]), np.concatenate([lines.a, node, lines.b])
    start, along = lines.nodes[lines.a[line]], (lines.nodes[lines.b] - lines.nodes[lines.a])[line]
    t = ((lines.nodes[node] - start) * along).sum(axis=1)
    t[: len(index)], t[-len(index) :] = -np.inf, np.inf
    order = np.lexsort((t, line))
    line, node = line[order], node[order]
    piece = np.flatnonzero(line[1:] == line[:-1])
    whole = line[piece]
    return _Lines(
        lines.nodes, node[piece], node[piece + 1], lines.net[whole], lines.drawn[whole], lines.segment[whole]
    ).united()


def _winding_numbers(lines: _Lines, part: Ints) -> tuple[Ints, Ints]:
    """How often a line's part winds around the places on its two sides, ahead of it and behind.

    Ahead is towards growing x, or towards growing y for a line that runs more along x than along y. From the
    middle of each line a ray goes there, and crosses the other lines of the part.
    """
    start, end = lines.nodes[lines.a], lines.nodes[lines.b]
    along, middle = end - start, (start + end) / 2
    steep = np.abs(along[:, 0]) >= np.abs(along[:, 1])
    ahead, own = np.zeros((2, len(lines.a)), dtype=np.int64)
    for ray, sign, chosen in ((1, 1, np.flatnonzero(steep)), (0, -1, np.flatnonzero(~steep))):
        across = 1 - ray
        turns = sign * np.sign(along[:, across]).astype(np.int64) * lines.net
        own[chosen] = turns[chosen]
        position = middle[chosen, across]
        i, j = _overlapping(
            np.concatenate([np.minimum(start, end)[:, across], position]),
            np.concatenate([np.maximum(start, end)[:, across], position]),
        )
        line, of = _between_kinds(i, j, len(start))
        hit = (start[line, across] <= position[of]) != (end[line, across] <= position[of])
        line, of = line[hit], chosen[of[hit]]
        t = (middle[of, across] - start[line, across]) / along[line, across]
        hit = (start[line, ray] + t * along[line, ray] > middle[of, ray]) & (line != of) & (part[line] == part[of])
        np.add.at(ahead, of[hit], turns[line[hit]])
    return ahead, ahead + own


def _has_loose_end(lines: _Lines) -> bool:
    """Whether a cancelled line ends where no other line goes on."""
    uses = np.bincount(np.concatenate([lines.a, lines.b]), minlength=len(lines.nodes))
    cancelled = lines.net == 0
    return bool((uses[np.concatenate([lines.a[cancelled], lines.b[cancelled]])] == 1).any())


def _rings(lines: _Lines, ahead: Ints, behind: Ints) -> tuple[Floats, ...]:
    """Join the lines between inside and outside to simple rings, with the inside always on the same hand."""
    border = (ahead != 0) != (behind != 0)
    lines, inside_ahead = lines.rows(border), ahead[border] != 0
    along = lines.nodes[lines.b] - lines.nodes[lines.a]
    steep = np.abs(along[:, 0]) >= np.abs(along[:, 1])
    # With the inside behind, up along y; a quarter turn of both: with the inside ahead, up along x.
    up = np.where(steep, along[:, 0] > 0, along[:, 1] > 0)
    forth = up == (steep ^ inside_ahead)
    if (np.where(forth, 1, -1) * np.sign(lines.net)).sum() < 0:
        forth = ~forth  # mostly as drawn
    leaving: dict[int, list[tuple[int, int]]] = {}
    for a, b, segment in zip(
        np.where(forth, lines.a, lines.b).tolist(),
        np.where(forth, lines.b, lines.a).tolist(),
        lines.segment.tolist(),
        strict=True,
    ):
        leaving.setdefault(a, []).append((b, segment))
    rings: list[Floats] = []
    for origin in list(leaving):
        while leaving[origin]:
            path, segments, place = [origin], [], {origin: 0}
            while leaving[path[-1]]:
                node, segment = leaving[path[-1]].pop()
                segments.append(segment)
                if node not in place:
                    place[node] = len(path)
                    path.append(node)
                    continue
                begin = place[node]
                rings.append(_corners(lines.nodes, path[begin:], segments[begin:]))
                for passed in path[begin + 1 :]:
                    del place[passed]
                del path[begin + 1 :], segments[begin:]
    return tuple(ring for ring in rings if len(ring) >= 3)


def _corners(nodes: Floats, ring: Sequence[int], segments: Sequence[int]) -> Floats:
    """Positions of a ring's nodes, without those amid one straight line of the contour."""
    turns = [segments[k - 1] != segment for k, segment in enumerate(segments)]
    return nodes[[node for node, turn in zip(ring, turns, strict=True) if turn]]


def _distance(point: Floats, start: Floats, end: Floats) -> Floats:
    """Distances of points from line segments, all of shape (N, 2)."""
    along = end - start
    length2 = np.maximum((along**2).sum(axis=-1), np.finfo(np.float64).tiny)
    t = np.clip(((point - start) * along).sum(axis=-1) / length2, 0, 1)
    gap = point - start - t[..., None] * along
    return np.asarray(np.hypot(gap[..., 0], gap[..., 1]))


def _cross(p: Floats, q: Floats) -> Floats:
    return np.asarray(p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0])
