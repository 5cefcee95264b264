"""Contours around the voxels of a mask."""

from __future__ import annotations

import contourpy
import numpy as np
from numpy.typing import ArrayLike, NDArray

_INSET_VOX = 1e-4
"""How far contours run inside the line between two voxels: along it, they would pass through both."""


def trace(mask_yx: ArrayLike) -> list[NDArray[np.float64]]:
    """Draw closed contours around the voxels of one slice.

    Parameters
    ----------
    mask_yx : array_like of bool, shape (y, x)
        One slice of a mask.

    Returns
    -------
    list of ndarray of float64, shape (N, 2)
        Continuous voxel index (y, x) of the points of each contour, the first not repeated at the end. Holes have
        contours of their own. Empty if the mask is.

    Notes
    -----
    Marching squares (doi:10.1145/37402.37422 in three dimensions): every point lies half-way between a voxel inside
    and a neighbour outside, but for 0.0001 voxels inwards. So a contour never touches a voxel centre and `rasterise`
    gives back the mask; `contour_voxels` gives its outermost voxels, and those outside whose corner a concave corner
    of the mask cuts off. Outside the image there is nothing: at its border contours run half a voxel beyond the outer
    voxel centres.

    Examples
    --------
    >>> trace([[False, True]])[0].round(3).tolist()
    [[0.0, 0.5], [0.5, 1.0], [0.0, 1.5], [-0.5, 1.0]]
    """
    padded = np.pad(np.asarray(mask_yx, dtype=np.float64), 1)
    lines = contourpy.contour_generator(z=padded).lines(0.5 + _INSET_VOX)
    return [np.asarray(line, dtype=np.float64)[:-1, ::-1] - 1 for line in lines]
