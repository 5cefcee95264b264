"""Relevance maps of objects, and their fusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_wsl.contours import PlacedContour
from nnunet_wsl.errors import InputError
from nnunet_wsl.relevance.polyline import distance_by_slice
from nnunet_wsl.relevance.settings import RelevanceSettings
from nnunet_wsl.relevance.transform import ContourVoxels, NearestInSlice, nearest_by_slice

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
        If intensities are needed and missing, not finite, or of another number of channels than the settings have
        scales for, if polylines are given in another mode than "distance", or if the settings are for another number
        of objects.
    ValueError
        If shapes do not fit together.

    Notes
    -----
    The relevance of a voxel p is measured to its reference voxel q, the nearest contour voxel of the object, see
    `nearest_contour`. Its distance is d = ``|p - q|`` in mm. Its difference over the image channels c with intensity
    scales s_c is u = sqrt(mean_c(((I_c(p) - I_c(q)) / s_c)^2)). With kernel f, mode "distance" gives f(d / sigma_mm),
    "intensity" f(u), and "both" the product.

    Memory beyond the result is a few slices of the part of the image within the cut-off.

    Examples
    --------
    >>> settings = RelevanceSettings(kernel="linear", sigma_mm=(2.0,), cutoff_mm=(10.0,))
    >>> relevance_maps(None, [[[0, 1]]], (1.0, 0.5), settings, shape=(2, 4))
    array([[[0.75      , 1.        , 0.75      , 0.5       ],
            [0.440983  , 0.5       , 0.440983  , 0.29289323]]], dtype=float32)
    """
    shape = checked_shape(image, contours, settings, shape)
    channels = None if settings.mode == "distance" else checked_channels(image, settings)
    shape_zyx = tuple(shape) if len(shape) == 3 else (1, *shape)
    maps = np.zeros((len(contours), *shape_zyx), dtype=np.float32)
    for k, (relevance, given) in enumerate(zip(maps, contours, strict=True)):
        cutoff_mm = settings.cutoff_mm[k]
        on_contour = None
        if _are_polylines(given):
            if channels is not None:
                raise InputError(
                    f"Relevance mode '{settings.mode}' compares intensities of voxels, but object {k + 1} is given as "
                    "polylines. Give its contour voxels, or use mode 'distance'."
                )
            slices = distance_by_slice(given, shape_zyx, spacing_mm, cutoff_mm, settings.search)
        else:
            voxels = ContourVoxels.of(np.asarray(given), shape)
            with_reference = channels is not None
            slices = nearest_by_slice(voxels, spacing_mm, cutoff_mm, settings.search, with_reference=with_reference)
            if channels is not None:
                # At least float32: differences of unsigned integers would wrap around.
                wide = np.result_type(channels.dtype, np.float32)
                on_contour = channels[(slice(None), *voxels.index_zyx.T)].astype(wide)
        for nearest in slices:
            relevance[nearest.box] = _relevance(nearest, channels, on_contour, settings.sigma_mm[k], settings)
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
    image: ArrayLike | None, contours: Sequence[Any], settings: RelevanceSettings, shape: Sequence[int] | None
) -> Sequence[int]:
    """Return the spatial shape of the maps, if the settings are for as many objects as there are."""
    if len(contours) != len(settings.sigma_mm):
        raise InputError(
            f"The relevance settings have scales for {len(settings.sigma_mm)} objects, but contours of "
            f"{len(contours)} objects are given."
        )
    if image is not None:
        return np.shape(image)[1:]
    masks = [given.shape for given in contours if isinstance(given, np.ndarray) and given.dtype == np.bool_]
    if shape is None and not masks:
        raise ValueError("without an image, contours that are not bool arrays need the image's shape")
    return shape or masks[0]


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
    # One slice at a time: a mask of the whole image would be memory beyond the result.
    odd = [sum(np.count_nonzero(~np.isfinite(part)) for part in channel) for channel in channels]
    if any(odd):
        raise InputError(
            f"Image channel {c} has {n} voxels that are not finite numbers, but relevance mode '{settings.mode}' "
            "compares intensities. Correct the image, or use mode 'distance'."
            for c, n in enumerate(odd)
            if n
        )
    return channels if channels.ndim == 4 else channels[:, np.newaxis]


def _are_polylines(given: ArrayLike | Sequence[PlacedContour]) -> TypeGuard[Sequence[PlacedContour]]:
    return isinstance(given, Sequence) and bool(given) and all(isinstance(one, PlacedContour) for one in given)


def _relevance(
    nearest: NearestInSlice,
    channels: NDArray[Any] | None,
    on_contour: NDArray[Any] | None,
    sigma_mm: float,
    settings: RelevanceSettings,
) -> Float32:
    """Relevance of the voxels of one slice; overwrites the distances."""
    kernel = KERNELS[settings.kernel]
    if channels is None or on_contour is None:
        return kernel(_squared_distance(nearest, sigma_mm))
    relevance = kernel(_squared_difference(nearest, channels, on_contour, settings.intensity_scale))
    if settings.mode == "both":
        relevance *= kernel(_squared_distance(nearest, sigma_mm))
    else:
        relevance *= np.isfinite(nearest.distance_mm2)
    return relevance


def _squared_distance(nearest: NearestInSlice, sigma_mm: float) -> Float32:
    return np.multiply(nearest.distance_mm2, np.float32(1 / sigma_mm**2), out=nearest.distance_mm2)


def _squared_difference(
    nearest: NearestInSlice, channels: NDArray[Any], on_contour: NDArray[Any], scales: Sequence[float]
) -> Float32:
    """Mean over the channels of the squared difference to the reference voxel, in units of the scales."""
    total = np.zeros(nearest.distance_mm2.shape, dtype=np.float32)
    with np.errstate(over="ignore"):  # infinitely different is fine
        for channel, references, scale in zip(channels, on_contour, scales, strict=True):
            difference = channel[nearest.box] - references[nearest.reference]
            difference /= scale
            difference *= difference
            total += difference
    total /= len(channels)
    return total
