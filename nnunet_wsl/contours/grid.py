"""The geometry of an image: where its voxels lie in the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ORTHONORMAL_TOLERANCE = 1e-3  # image headers round direction cosines to a few decimals


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid of an image in the DICOM and ITK convention (LPS, mm).

    Parameters
    ----------
    origin_mm : array_like of float, shape (3,)
        Physical point (x, y, z) of the centre of the first voxel.
    spacing_mm_xyz : array_like of float, shape (3,)
        Distance between neighbouring voxel centres along the x, y and z axis of the grid.
    direction : array_like of float, shape (3, 3)
        Columns are the unit vectors of the grid's x, y and z axis: ITK's direction matrix.
        Columns may form a left-handed system.
    shape_zyx : tuple of int
        Number of voxels; a 2D image has one slice.

    Raises
    ------
    ValueError
        If the arguments do not describe a grid of at least one voxel with orthogonal axes.

    Notes
    -----
    A voxel index names the voxel's centre, so the image extends from index -0.5 to n - 0.5 on each axis.
    """

    origin_mm: NDArray[np.float64]
    spacing_mm_xyz: NDArray[np.float64]
    direction: NDArray[np.float64]
    shape_zyx: tuple[int, int, int]

    def __init__(
        self,
        origin_mm: ArrayLike,
        spacing_mm_xyz: ArrayLike,
        direction: ArrayLike,
        shape_zyx: tuple[int, int, int],
    ) -> None:
        origin, spacing = _constant(origin_mm), _constant(spacing_mm_xyz)
        axes = _constant(direction)
        if origin.shape != (3,) or not np.isfinite(origin).all():
            raise ValueError(f"origin_mm must be three finite numbers, not {origin_mm!r}")
        if spacing.shape != (3,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
            raise ValueError(f"spacing_mm_xyz must be three positive numbers, not {spacing_mm_xyz!r}")
        if axes.shape != (3, 3) or not np.allclose(axes.T @ axes, np.eye(3), atol=_ORTHONORMAL_TOLERANCE):
            raise ValueError(f"direction must be a 3x3 matrix of orthogonal unit vectors, not {direction!r}")
        shape = tuple(int(n) for n in shape_zyx)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape_zyx must be three positive integers, not {shape_zyx!r}")
        for name, value in (
            ("origin_mm", origin),
            ("spacing_mm_xyz", spacing),
            ("direction", axes),
            ("shape_zyx", shape),
        ):
            object.__setattr__(self, name, value)

    @property
    def spacing_mm_zyx(self) -> NDArray[np.float64]:
        """Voxel spacing in the order of the array axes, shape (3,), mm."""
        return self.spacing_mm_xyz[::-1]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector from one slice to the next, shape (3,), LPS."""
        return self.direction[:, 2]

    def to_voxel_xyz(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Continuous voxel index (x, y, z) of physical points.

        Parameters
        ----------
        points_mm : array_like of float, shape (N, 3)
            LPS coordinates.

        Returns
        -------
        ndarray of float64, shape (N, 3)
        """
        offsets_mm = np.asarray(points_mm, dtype=np.float64) - self.origin_mm
        index_xyz = np.linalg.solve(self.direction * self.spacing_mm_xyz, offsets_mm.T).T
        return np.asarray(index_xyz, dtype=np.float64)

    def to_mm(self, index_xyz: ArrayLike) -> NDArray[np.float64]:
        """Physical points of continuous voxel indices.

        Parameters
        ----------
        index_xyz : array_like of float, shape (N, 3)
            Voxel index (x, y, z).

        Returns
        -------
        ndarray of float64, shape (N, 3)
            LPS coordinates.
        """
        index = np.asarray(index_xyz, dtype=np.float64)
        points_mm: NDArray[np.float64] = index @ (self.direction * self.spacing_mm_xyz).T + self.origin_mm
        return points_mm


def _constant(values: ArrayLike) -> NDArray[np.float64]:
    """Copy to a float64 array that nobody can write to."""
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array
