"""Contour voxels of an object that is given as a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def boundary_voxels(mask: ArrayLike) -> NDArray[np.bool_]:
    """Find the voxels of a mask that a contour around it, drawn slice by slice, passes through.

    Parameters
    ----------
    mask : array_like of bool, shape (z, y, x) or (y, x)
        The object.

    Returns
    -------
    ndarray of bool, same shape
        Voxels of the mask of which one of the four neighbours in the slice is not in the mask; outside the image
        nothing is.

    Raises
    ------
    ValueError
        If the mask has other than two or three axes.
    """
    given = np.asarray(mask, dtype=np.bool_)
    if given.ndim not in (2, 3):
        raise ValueError(f"a mask has two or three axes, not {given.ndim}")
    around = np.pad(given, [(0, 0)] * (given.ndim - 2) + [(1, 1)] * 2)
    inner = around[..., 1:-1, 1:-1]
    enclosed = around[..., :-2, 1:-1] & around[..., 2:, 1:-1] & around[..., 1:-1, :-2] & around[..., 1:-1, 2:]
    return np.asarray(inner & ~enclosed)
