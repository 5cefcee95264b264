"""Surfaces of masks, their areas, and the distances between them.

The definitions are those of google-deepmind/surface-distance: a surface element sits at every corner between voxels
where the 2 x 2 x 2 voxels around it (2 x 2 in a plane) are neither all inside nor all outside. Its area is that of
the marching-cubes triangles between those voxels, and its distance to another surface is that to the nearest
element's corner. See Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy",
J Med Internet Res 2021, DOI 10.2196/26151.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_ROUNDING_MM = 1e-6
"""Three voxels of 0.1 mm are 0.30000000000000004 mm apart, which is within a tolerance of 0.3 mm."""

_ROUNDING_SHARE = 1e-9

# Which voxels around a corner are inside, and the normals of the triangles between inside and outside, as multiples
# of an eighth of a voxel's face (a quarter of an edge in a plane). Bit b stands for voxel b in C order. One
# representative of each class under the symmetries of the cube and the swap of inside and outside.
_TRIANGLES: dict[int, dict[int, dict[tuple[int, ...], int]]] = {
    2: {
        0b0001: {(1, 1): 2},
        0b0011: {(1, 0): 4},
        0b0110: {(1, 1): 4},
    },
    3: {
        0b00000001: {(1, 1, 1): 1},
        0b00000011: {(1, 1, 0): 4},
        0b00000110: {(1, 1, 1): 2},
        0b00011000: {(1, 1, 1): 2},
        0b00000111: {(1, 0, 0): 4, (1, 1, 1): 3},
        0b00010110: {(1, 1, 1): 3},
        0b00011001: {(0, 1, 1): 4, (1, 1, 1): 1},
        0b00001111: {(1, 0, 0): 8},
        0b00010111: {(1, 1, 1): 6},
        0b00011011: {(1, 1, 1): 4, (0, 1, 1): 2, (1, 0, 1): 2},
        0b00011110: {(1, 0, 0): 4, (1, 1, 1): 4},
        0b00111100: {(1, 1, 0): 8},
        0b01101001: {(1, 1, 1): 4},
    },
}


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between the surfaces of a prediction and a reference.

    Parameters
    ----------
    pred_to_ref_mm, ref_to_pred_mm : ndarray of float64, shape (N,) and (M,)
        Distance from each surface element of the one to the nearest of the other; infinite if the other has none.
    pred_areas, ref_areas : ndarray of float64, shape (N,) and (M,)
        Area of each surface element in mm^2, or length in mm in a plane.
    """

    pred_to_ref_mm: Floats
    ref_to_pred_mm: Floats
    pred_areas: Floats
    ref_areas: Floats

    def nsd(self, tolerance_mm: float) -> float:
        """Share of both surfaces that lies within the tolerance of the other: surface Dice, or NSD.

        NaN if neither has a surface.
        """
        limit_mm = tolerance_mm + _ROUNDING_MM
        within = self.pred_areas[self.pred_to_ref_mm <= limit_mm].sum()
        within += self.ref_areas[self.ref_to_pred_mm <= limit_mm].sum()
        total = self.pred_areas.sum() + self.ref_areas.sum()
        return float(within / total) if total else float("nan")

    def hausdorff_mm(self, percent: float = 95.0) -> float:
        """Larger of the two distances that ``percent`` of the one surface's area keep to the other; NaN without."""
        if not (len(self.pred_areas) and len(self.ref_areas)):
            return float("nan")
        return max(
            _percentile(self.pred_to_ref_mm, self.pred_areas, percent),
            _percentile(self.ref_to_pred_mm, self.ref_areas, percent),
        )

    def average_mm(self) -> float:
        """Average symmetric surface distance: the mean over the area of both surfaces; NaN without one of them."""
        if not (len(self.pred_areas) and len(self.ref_areas)):
            return float("nan")
        weighted = self.pred_to_ref_mm @ self.pred_areas + self.ref_to_pred_mm @ self.ref_areas
        return float(weighted / (self.pred_areas.sum() + self.ref_areas.sum()))


def surface_distances(
    pred: Mask, ref: Mask, spacing_mm: Sequence[float], scored: Mask | None = None
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    Parameters
    ----------
    pred, ref : ndarray of bool, shape (z, y, x) or (y, x)
        Prediction and reference; of numbers, all but 0 are inside. Outside of the image is outside of the object.
    spacing_mm : sequence of float
        Voxel spacing in the order of the array axes.
    scored : ndarray of bool, optional
        Where the reference is known. A surface element that touches a voxel elsewhere is no element of either
        surface, so that the prediction there changes nothing.

    Returns
    -------
    SurfaceDistances

    Raises
    ------
    ValueError
        If the masks have different shapes.

    Notes
    -----
    The distances come from a k-d tree of the surface elements: on large or far-apart objects several times faster
    than distance maps of the volume, and exact as they are.
    """
    shapes = [np.shape(mask) for mask in (pred, ref, scored) if mask is not None]
    if len(set(shapes)) > 1:
        raise ValueError(f"The masks have the shapes {', '.join(map(str, shapes))}; expected one.")
    pred_corners, pred_areas = _surface(pred, spacing_mm, scored)
    ref_corners, ref_areas = _surface(ref, spacing_mm, scored)
    return SurfaceDistances(
        pred_to_ref_mm=_nearest_mm(pred_corners, ref_corners),
        ref_to_pred_mm=_nearest_mm(ref_corners, pred_corners),
        pred_areas=pred_areas,
        ref_areas=ref_areas,
    )


def element_areas(spacing_mm: Sequence[float]) -> Floats:
    """Area of a surface element for every arrangement of the voxels around it.

    Parameters
    ----------
    spacing_mm : sequence of float
        Voxel spacing of the two or three axes.

    Returns
    -------
    ndarray of float64, shape (16,) or (256,)
        Area in mm^2, or length in mm, by the code of the arrangement: bit b is set if voxel b in C order is inside.
    """
    spacing = np.asarray(spacing_mm, np.float64)
    normals, counts = _triangles(len(spacing))
    face_areas = spacing.prod() / spacing  # the area spanned by the other axes
    areas: Floats = counts @ np.linalg.norm(normals * face_areas, axis=1) / 2 ** len(spacing)
    return areas


@functools.cache
def _triangles(ndim: int) -> tuple[Floats, Floats]:
    """Expand the classes to all codes: distinct normals of shape (N, ndim), and counts of shape (codes, N)."""
    normals = sorted(normal for normal in itertools.product((0, 1), repeat=ndim) if any(normal))
    voxels = list(np.ndindex((2,) * ndim))
    counts = np.zeros((2 ** len(voxels), len(normals)))
    for code, triangles in _TRIANGLES[ndim].items():
        inside = [voxel for bit, voxel in enumerate(voxels) if code >> bit & 1]
        for axes in itertools.permutations(range(ndim)):
            row = np.zeros(len(normals))
            for normal, count in triangles.items():
                row[normals.index(tuple(normal[axis] for axis in axes))] = count
            for flips in voxels:
                moved = [tuple(voxel[axis] ^ flip for axis, flip in zip(axes, flips, strict=True)) for voxel in inside]
                moved_code = sum(1 << voxels.index(voxel) for voxel in moved)
                counts[moved_code] = counts[len(counts) - 1 - moved_code] = row
    return np.array(normals, np.float64), counts


def _surface(mask: Mask, spacing_mm: Sequence[float], scored: Mask | None) -> tuple[Floats, Floats]:
    """Positions in mm, shape (N, ndim), and areas, shape (N,), of the surface elements of a mask."""
    code = _corner_codes(mask, outside=False)
    all_inside = 2**2**mask.ndim - 1
    elements = (code != 0) & (code != all_inside)
    if scored is not None:
        elements &= _corner_codes(scored, outside=True) == all_inside
    corners_mm = np.multiply(np.argwhere(elements), spacing_mm, dtype=np.float64)
    return corners_mm, element_areas(spacing_mm)[code[elements]]


def _corner_codes(mask: Mask, *, outside: bool) -> npt.NDArray[np.uint8]:
    """Code of the voxels around every corner; the array is one longer than the mask on each axis."""
    padded = np.pad(np.asarray(mask, bool), 1, constant_values=outside).view(np.uint8)
    shape = tuple(n + 1 for n in mask.shape)
    code = np.zeros(shape, np.uint8)
    for bit, start in enumerate(np.ndindex((2,) * mask.ndim)):
        code |= padded[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))] << bit
    return code


def _nearest_mm(from_mm: Floats, to_mm: Floats) -> Floats:
    if not (len(from_mm) and len(to_mm)):
        return np.full(len(from_mm), np.inf)
    # Points on a grid need no balanced tree, and it would take longer to build than to use.
    distances: Floats = cKDTree(to_mm, balanced_tree=False, compact_nodes=False).query(from_mm)[0]
    return distances


def _percentile(distances_mm: Floats, areas: Floats, percent: float) -> float:
    """Smallest distance that at least ``percent`` of the area keep."""
    order = np.argsort(distances_mm)
    share = np.cumsum(areas[order]) / areas.sum()
    position = int(np.searchsorted(share, percent / 100 - _ROUNDING_SHARE))
    return float(distances_mm[order[min(position, len(order) - 1)]])
