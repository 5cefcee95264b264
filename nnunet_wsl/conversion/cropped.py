"""Masks of which only the part around an object is held: objects are small, images are large, and there are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnunet_wsl.contours import PlacedContours

Window = tuple[slice, slice, slice]
"""Part of an image: all slices, and the rows and columns from a first to behind a last one."""


def window_around(placed: PlacedContours, name: str, margin_vox: int) -> Window:
    """Window with all contours of an object.

    Parameters
    ----------
    placed : PlacedContours
        Contours of the case.
    name : str
        The object.
    margin_vox : int
        Rows and columns around the contours.

    Returns
    -------
    tuple of slice
        Of the axes z, y and x, within the image; empty if the object has no contour.
    """
    contours = [contour.points_yx_vox for contours in placed.of(name).values() for contour in contours]
    if not contours:
        return slice(None), slice(0, 0), slice(0, 0)
    points = np.concatenate(contours)
    shape = placed.grid.shape_zyx[1:]
    low = np.clip(np.floor(points.min(axis=0)) - margin_vox, 0, shape)
    high = np.clip(np.ceil(points.max(axis=0)) + margin_vox + 1, 0, shape)
    return slice(None), slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


@dataclass(frozen=True, eq=False)
class CroppedMask:
    """A mask of an image, as an array with ``np.asarray``, of which a window is held.

    Parameters
    ----------
    values : ndarray of bool, shape (z, h, w)
        In the window.
    window : Window
        Where it lies.
    elsewhere : ndarray of bool, shape (z,)
        The one value that each slice has outside the window.
    shape_zyx : sequence of int
        Shape of the image.
    """

    values: npt.NDArray[np.bool_]
    window: Window
    elsewhere: npt.NDArray[np.bool_]
    shape_zyx: Sequence[int]

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_], window: Window | None = None) -> CroppedMask:
        """Crop a mask that is False outside a window, by default the smallest one.

        Raises
        ------
        ValueError
            If it is True somewhere outside the window.
        """
        if window is None:
            y, x = (np.flatnonzero(mask.any(axis=axes)) for axes in ((0, 2), (0, 1)))
            rows, columns = ((int(i[0]), int(i[-1]) + 1) if len(i) else (0, 0) for i in (y, x))
            window = slice(None), slice(*rows), slice(*columns)
        values = mask[window].copy()
        if np.count_nonzero(values) != np.count_nonzero(mask):
            raise ValueError(f"the mask leaves its window, rows and columns {window[1:]}")
        return cls(values, window, np.zeros(len(mask), np.bool_), mask.shape)

    def with_values(self, values: npt.NDArray[np.bool_]) -> CroppedMask:
        """Return a mask with other values in the window."""
        return CroppedMask(values, self.window, self.elsewhere, self.shape_zyx)

    def where(self) -> tuple[Window, npt.NDArray[np.bool_]]:
        """Return an index of a part of the image that has all voxels that are True, and the mask of this part."""
        if self.elsewhere.any():
            return (slice(None), slice(None), slice(None)), np.asarray(self)
        return self.window, self.values

    def __invert__(self) -> CroppedMask:
        """Return the voxels that are not in the mask."""
        return CroppedMask(~self.values, self.window, ~self.elsewhere, self.shape_zyx)

    def __or__(self, other: CroppedMask) -> CroppedMask:
        """Return the voxels in this mask or another one of the same window."""
        if self.window != other.window:
            raise ValueError(f"expected masks of one window, not of {self.window[1:]} and {other.window[1:]}")
        return CroppedMask(self.values | other.values, self.window, self.elsewhere | other.elsewhere, self.shape_zyx)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.bool_]:
        """Return the whole mask, shape (z, y, x)."""
        if copy is False:
            raise ValueError("a cropped mask becomes a whole one by copying")
        mask = np.zeros(tuple(self.shape_zyx), np.bool_)
        mask[self.elsewhere] = True
        mask[self.window] = self.values
        return mask if dtype is None else mask.astype(dtype, copy=False)


def overlap(masks: Sequence[CroppedMask]) -> npt.NDArray[np.bool_]:
    """Voxels that are in several masks, shape (z, y, x); of at most 255 masks."""
    count = np.zeros(tuple(masks[0].shape_zyx), np.uint8)
    for mask in masks:
        window, values = mask.where()
        count[window] += values
    return np.asarray(count > 1)
