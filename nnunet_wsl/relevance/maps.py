"""Relevance maps of objects, and their fusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeGuard

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_wsl.contours import PlacedContour
from nnunet_wsl.errors import InputError
from nnunet_wsl.relevance.polyline import distance_by_block
from nnunet_wsl.relevance.settings import RelevanceSettings
from nnunet_wsl.relevance.transform import ContourVoxels, NearestInBlock, nearest_by_block, spacing_zyx, with_slices

Float32 = NDArray[np.float32]


def _gaussian(squared: Float32) -> Float32:
    squared *= -0.5
    return np.exp(squared, out=squared)


def _exponential(squared: Float32) -> Float32:
    np.sqrt(squared, out=squared)
    return np.exp(np.negative(squared, out=squared), out=squared)


def _linear(squared: Float32) -> Float32:
    np.subtract(1, np.sqrt(squared, out=squared), out=squared)
    return np.maximum(squared, 0, out=squared)


KERNELS: dict[str, Callable[[Float32], Float32]] = {
    "gaussian": _gaussian,
    "exponential": _exponential,
    "linear": _linear,
}
"""How relevance falls off with the square of distance / scale; each works in place and gives 0 at infinity."""


def relevance_maps(
    image: ArrayLike | None,
    contours: Sequence[ArrayLike | Sequence[PlacedContour]],
    spacing_mm: Sequence[float],
    settings: RelevanceSettings,
    *,
    shape: Sequence[int] | None = None,
) -> Float32:
    """Relevance of every voxel to the contours of each object.

    Parameters
    ----------
    image : array_like of real numbers, shape (C, z, y, x) or (C, y, x), or None
        Image channels. None will do in mode "distance".
    contours : sequence
        For each object its contour voxels, either as a bool array of the image's spatial shape or as integer indices,
        shape (N, 3) or (N, 2), in the order of the array axes; or its `PlacedContour` s, which in mode "distance" give
        the exact distance to the polylines instead of that to the contour voxels. An object may have no contour.
    spacing_mm : sequence of float
        Distance of neighbouring voxels along each spatial axis, in the order of the array axes.
    settings : RelevanceSettings
        What the relevance falls off with, and how fast.
    shape : sequence of int, optional
        The image's spatial shape, needed only if `image` is None and the contours do not have it.

    Returns
    -------
    ndarray of float32, shape (K, z, y, x) or (K, y, x)
        One map per object, in [0, 1]: 1 on contour voxels (on polylines), 0 beyond the cut-off and for objects without
        contour.

    Raises
    ------
    InputError
        If intensities are needed and missing, not finite within the cut-off of an object's contours, or of another
        number of channels than the settings have scales for, if polylines are given in another mode than "distance",
        or if the settings are for another number of objects.
    ValueError
        If shapes do not fit together, or the spacings are not one positive number per axis of the image.

    Notes
    -----
    The relevance of a voxel p is measured to its reference voxel q, the nearest contour voxel of the object, see
    `nearest_contour`. Its distance is d = ``|p - q|`` in mm. Its difference over the image channels c with intensity
    scales s_c is u = sqrt(mean_c(((I_c(p) - I_c(q)) / s_c)^2)). With kernel f, mode "distance" gives f(d / sigma_mm),
    "intensity" f(u), and "both" the product.

    Memory beyond the result grows with the cut-off and an object's width, not with the number of rows and slices.

    Examples
    --------
    >>> settings = RelevanceSettings(kernel="linear", sigma_mm=(2.0,), cutoff_mm=(10.0,))
    >>> relevance_maps(None, [[[0, 1]]], (1.0, 0.5), settings, shape=(2, 4))
    array([[[0.75      , 1.        , 0.75      , 0.5       ],
            [0.440983  , 0.5       , 0.440983  , 0.29289323]]], dtype=float32)
    """
    shape = checked_shape(image, contours, spacing_mm, settings, shape)
    channels = None if settings.mode == "distance" else checked_channels(image, settings)
    maps = np.zeros((len(contours), *with_slices(shape)), dtype=np.float32)
    not_finite = np.zeros((0 if channels is None else len(channels), len(contours)), dtype=np.int64)
    for k, (relevance, given) in enumerate(zip(maps, contours, strict=True)):
        sigma_mm, cutoff_mm = settings.sigma_mm[k], settings.cutoff_mm[k]
        if _are_polylines(given):
            if channels is not None:
                raise InputError(
                    f"Relevance mode '{settings.mode}' compares intensities of voxels, but object {k + 1} is given as "
                    "polylines. Give its contour voxels, or use mode 'distance'."
                )
            for box, distance_mm2 in distance_by_block(given, shape, spacing_mm, cutoff_mm, settings.search):
                relevance[box] = _of_distance(distance_mm2, sigma_mm, settings)
            continue
        voxels = ContourVoxels.of(np.asarray(given), shape)
        on_contour = None if channels is None else _on_contour(channels, voxels)
        for nearest in nearest_by_block(
            voxels, spacing_mm, cutoff_mm, settings.search, with_reference=channels is not None
        ):
            if channels is None or on_contour is None:
                relevance[nearest.box] = _of_distance(nearest.distance_mm2(), sigma_mm, settings)
                continue
            values = _of_difference(nearest, channels, on_contour, settings, not_finite[:, k])
            if settings.mode == "both":
                values *= _of_distance(nearest.distance_mm2(), sigma_mm, settings)
            relevance[nearest.box] = values
    check_finite(not_finite, settings)
    return maps.reshape(len(contours), *shape)


def fuse(maps: ArrayLike, method: Literal["max", "mean", "noisy_or"] = "max") -> Float32:
    """Fuse the sub-relevances of several objects into one relevance.

    Parameters
    ----------
    maps : array_like of float, shape (K, ...)
        One map per object, in [0, 1].
    method : {"max", "mean", "noisy_or"}
        The largest sub-relevance; their mean; or 1 - prod_k(1 - r_k), the probability that at least one of several
        independent events of probability r_k happens.

    Returns
    -------
    ndarray of float32, shape (...)

    Raises
    ------
    ValueError
        If there is no map, or no such method.
    """
    stacked = np.asarray(maps, dtype=np.float32)
    if not len(stacked):
        raise ValueError("there is no relevance map to fuse")
    if method == "max":
        return np.asarray(stacked.max(axis=0))
    if method == "mean":
        return np.asarray(stacked.mean(axis=0))
    if method == "noisy_or":
        return np.asarray(1 - (1 - stacked).prod(axis=0))
    raise ValueError(f"no such fusion: {method!r}; choose max, mean or noisy_or")


def checked_shape(
    image: ArrayLike | None,
    contours: Sequence[Any],
    spacing_mm: Sequence[float],
    settings: RelevanceSettings,
    shape: Sequence[int] | None,
) -> Sequence[int]:
    """Return the spatial shape of the maps, if the spacing fits it and the settings are for as many objects."""
    if len(contours) != len(settings.sigma_mm):
        raise InputError(
            f"The relevance settings have scales for {len(settings.sigma_mm)} objects, but contours of "
            f"{len(contours)} objects are given."
        )
    if image is not None:
        shape = np.shape(image)[1:]
    elif shape is None:
        masks = [given.shape for given in contours if isinstance(given, np.ndarray) and given.dtype == np.bool_]
        if not masks:
            raise ValueError("without an image, contours that are not bool arrays need the image's shape")
        shape = masks[0]
    spacing_zyx(spacing_mm, shape)
    return shape


def checked_channels(image: ArrayLike | None, settings: RelevanceSettings) -> NDArray[Any]:
    """Return the image channels, shape (C, z, y, x), if they are fit for intensity differences."""
    if image is None:
        raise InputError(f"Relevance mode '{settings.mode}' needs the image, but there is none. Use mode 'distance'.")
    channels = np.asarray(image)
    if len(channels) != len(settings.intensity_scale):
        raise InputError(
            f"Relevance mode '{settings.mode}' needs one intensity_scale per image channel, but there are "
            f"{len(settings.intensity_scale)} for {len(channels)} channels."
        )
    return channels if channels.ndim == 4 else channels[:, np.newaxis]


def check_finite(not_finite: NDArray[np.int64], settings: RelevanceSettings) -> None:
    """Raise InputError if any intensity that counts was not a finite number; their numbers are (channels, objects)."""
    several = not_finite.shape[1] > 1
    if not_finite.any():
        raise InputError(
            f"Image channel {c} has {not_finite[c, k]} voxels within {settings.cutoff_mm[k]:g} mm of the contours"
            f"{f' of object {k + 1}' if several else ''} that are not finite numbers, but relevance mode "
            f"'{settings.mode}' compares intensities. Correct the image, or use mode 'distance'."
            for c, k in np.argwhere(not_finite).tolist()
        )


def _are_polylines(given: ArrayLike | Sequence[PlacedContour]) -> TypeGuard[Sequence[PlacedContour]]:
    return isinstance(given, Sequence) and bool(given) and all(isinstance(one, PlacedContour) for one in given)


def _on_contour(channels: NDArray[Any], voxels: ContourVoxels) -> NDArray[Any]:
    """Intensities of the contour voxels, shape (C, N)."""
    # At least float32: differences of unsigned integers would wrap around.
    wide = np.result_type(channels.dtype, np.float32)
    return channels[(slice(None), *voxels.index_zyx.T)].astype(wide)


def _of_distance(distance_mm2: Float32, sigma_mm: float, settings: RelevanceSettings) -> Float32:
    """Relevance by distance, in place."""
    distance_mm2 *= np.float32(1 / sigma_mm**2)
    return KERNELS[settings.kernel](distance_mm2)


def _of_difference(
    nearest: NearestInBlock,
    channels: NDArray[Any],
    on_contour: NDArray[Any],
    settings: RelevanceSettings,
    not_finite: NDArray[np.int64],
) -> Float32:
    """Relevance by difference within a block; counts intensities that are not finite by channel."""
    squared = np.zeros(nearest.keys.shape, dtype=np.float32)
    mask, stop = nearest.metric.reference_mask, nearest.metric.stop
    for c, (channel, references, scale) in enumerate(zip(channels, on_contour, settings.intensity_scale, strict=True)):
        values = np.ascontiguousarray(channel[nearest.box], dtype=references.dtype)
        weight = references.dtype.type(1 / (scale * math.sqrt(len(channels))))
        not_finite[c] += _add_squared_difference(
            values.reshape(-1), references, weight, nearest.keys.reshape(-1), mask, stop, squared.reshape(-1)
        )
    return KERNELS[settings.kernel](squared)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _add_squared_difference(
    values: NDArray[Any],
    references: NDArray[Any],
    weight: np.floating[Any],
    keys: NDArray[Any],
    reference_mask: int,
    stop: int,
    squared: Float32,
) -> int:
    """Add the squared difference of values to their references; return how many within the cut-off are not finite."""
    not_finite = 0
    for i in range(len(values)):
        value = values[i]
        # An unsigned index, or numba would take negative ones into account.
        difference = (value - references[np.uintp(keys[i] & reference_mask)]) * weight
        within = keys[i] < stop
        squared[i] = squared[i] + np.float32(difference * difference) if within else np.float32(np.inf)
        not_finite += within & (not np.isfinite(value))
    return not_finite
