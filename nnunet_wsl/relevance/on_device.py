"""Relevance maps computed by PyTorch, for maps that are wanted on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nnunet_wsl.relevance.maps import check_finite, checked_channels, checked_shape
from nnunet_wsl.relevance.settings import RelevanceSettings
from nnunet_wsl.relevance.transform import ContourVoxels, measure, with_slices

if TYPE_CHECKING:
    import torch


def relevance_maps_on_device(
    image: ArrayLike | None,
    contour_voxels: Sequence[ArrayLike],
    spacing_mm: Sequence[float],
    settings: RelevanceSettings,
    *,
    device: str,
    shape: Sequence[int] | None = None,
) -> torch.Tensor:
    """Compute relevance maps with PyTorch and leave them on its device.

    Parameters
    ----------
    image, contour_voxels, spacing_mm, settings, shape
        As for `relevance_maps`; contours as voxels, not as polylines.
    device : str
        PyTorch device, for example ``"cuda"``. One without float64, as ``"mps"``, takes images of float32 or of
        integers with up to 16 bits.

    Returns
    -------
    torch.Tensor of float32, shape (K, z, y, x) or (K, y, x)
        The same values as `relevance_maps` returns, within 1e-5.

    Raises
    ------
    InputError, ValueError
        As `relevance_maps`.

    Notes
    -----
    The reference voxels are those of `nearest_contour`, as the keys are the same. Memory is some copies of an object's
    bounding box plus cut-off, 8 bytes per voxel each. For maps that are wanted in files, `relevance_maps` is the
    better choice: to copy them from the GPU takes about as long as to compute them.
    """
    import torch

    shape = checked_shape(image, contour_voxels, spacing_mm, settings, shape)
    channels = None
    if settings.mode != "distance":
        checked = checked_channels(image, settings)
        channels = torch.from_numpy(np.asarray(checked, dtype=np.result_type(checked.dtype, np.float32))).to(device)
    maps = torch.zeros((len(contour_voxels), *with_slices(shape)), device=device)
    not_finite = np.zeros((0 if channels is None else len(channels), len(contour_voxels)), dtype=np.int64)
    for k, given in enumerate(contour_voxels):
        voxels = ContourVoxels.of(given, shape)
        if len(voxels.index_zyx):
            not_finite[:, k] = _fill(maps[k], channels, voxels, spacing_mm, k, settings)
    check_finite(not_finite, settings)
    return maps.reshape(len(contour_voxels), *shape)


def _fill(
    relevance: torch.Tensor,
    channels: torch.Tensor | None,
    voxels: ContourVoxels,
    spacing_mm: Sequence[float],
    k: int,
    settings: RelevanceSettings,
) -> list[int]:
    """Write the relevance to object k, (z, y, x), where it is not 0; count by channel intensities not finite there."""
    import torch

    low, high, reach, metric = measure(voxels, spacing_mm, settings.cutoff_mm[k], settings.search, with_reference=True)
    index = torch.from_numpy(voxels.index_zyx).to(relevance.device)
    size = [b - a for a, b in zip(low, high, strict=True)]
    keys = torch.full(size, metric.nothing, dtype=torch.int64, device=relevance.device)
    keys[tuple((index - torch.tensor(low).to(index.device)).T)] = torch.arange(len(index), device=index.device)
    for axis in (2, 1, 0):
        keys = _lowered(keys, axis, reach[axis], metric.costs_zyx[axis])

    within = keys < metric.stop
    values = within.to(torch.float32)
    if settings.mode != "intensity":
        squared_mm2 = (keys >> metric.reference_bits) * metric.unit_mm2
        values *= _kernel(squared_mm2.to(torch.float32) / settings.sigma_mm[k] ** 2, settings)
    box = tuple(map(slice, low, high))
    not_finite = []
    if channels is not None:
        reference = keys & metric.reference_mask
        squared = torch.zeros_like(values)
        for channel, scale in zip(channels, settings.intensity_scale, strict=True):
            not_finite.append(int((within & ~channel[box].isfinite()).sum()))
            difference = (channel[box] - channel[tuple(index.T)][reference]) / scale
            squared += (difference**2 / len(channels)).to(torch.float32)
        values *= torch.where(within, _kernel(squared, settings), 0)
    relevance[box] = values
    return not_finite


def _lowered(keys: torch.Tensor, axis: int, reach: int, cost: int) -> torch.Tensor:
    """Smallest key along one axis within reach, each with what its distance costs."""
    lowered = keys.clone()
    for step in range(1, reach + 1):
        rest = keys.shape[axis] - step
        for at, other in ((0, step), (step, 0)):
            target = lowered.narrow(axis, at, rest)
            target.copy_((keys.narrow(axis, other, rest) + cost * step**2).minimum(target))
    return lowered


def _kernel(squared: torch.Tensor, settings: RelevanceSettings) -> torch.Tensor:
    if settings.kernel == "gaussian":
        return (-0.5 * squared).exp()
    if settings.kernel == "exponential":
        return (-squared.sqrt()).exp()
    return (1 - squared.sqrt()).clamp(min=0)
