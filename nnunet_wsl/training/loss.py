"""The two differences that training minimises.

The *first difference* compares predicted and sample relevance: one sub-difference per object, fused by their mean.
The *second difference* compares predicted and sample mask; it is nnU-Net's own loss, usually called the
segmentation loss (Dice and cross-entropy).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    smooth_l1_loss,
)

VoxelDifference = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def smooth_l1(logits: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    """Smooth L1 between the sigmoid of the logits and the sample relevance, per voxel."""
    return smooth_l1_loss(torch.sigmoid(logits), relevance, reduction="none")


def squared_error(logits: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    """Squared difference between the sigmoid of the logits and the sample relevance, per voxel."""
    return (torch.sigmoid(logits) - relevance) ** 2


def cross_entropy(logits: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy with the sample relevance as soft label, per voxel."""
    return binary_cross_entropy_with_logits(logits, relevance, reduction="none")


VOXEL_DIFFERENCES: dict[str, VoxelDifference] = {
    "smooth_l1": smooth_l1,
    "squared_error": squared_error,
    "cross_entropy": cross_entropy,
}
"""The forms of the first difference, by name."""


def relevance_sub_differences(
    logits: torch.Tensor,
    relevance: torch.Tensor,
    valid: torch.Tensor | None = None,
    voxel_difference: VoxelDifference = smooth_l1,
) -> torch.Tensor:
    """Sub-difference of each object: how far predicted and sample relevance are apart.

    The sub-difference is the mean of two averages over the valid voxels of the batch: the plain one, and the one
    weighted by the sample relevance. The second keeps the few voxels near the contour from drowning in the many
    zeros far from it; both are averages, so that large objects do not outweigh small ones. A batch that holds less
    than one voxel's worth of relevance of an object counts less in the second.

    Parameters
    ----------
    logits : torch.Tensor
        Predicted relevance before the sigmoid, (B, R, *spatial).
    relevance : torch.Tensor
        Sample relevance in [0, 1], same shape.
    valid : torch.Tensor, optional
        (B, 1, *spatial) bool, False where the annotation says nothing. Every voxel by default.
    voxel_difference : callable
        Difference per voxel of logits and relevance.

    Returns
    -------
    torch.Tensor
        (R,) float32; zero for an object without a valid voxel.
    """
    difference = voxel_difference(logits.float(), relevance.float())
    weight = relevance.float()
    if valid is None:
        valid = torch.ones_like(relevance[:, :1], dtype=torch.bool)
    axes = [0, *range(2, logits.ndim)]
    # where, not a product: an invalid voxel must not contribute even if its value is not finite.
    plain = torch.where(valid, difference, 0).sum(axes) / valid.sum().clamp(min=1)
    near = torch.where(valid, weight * difference, 0).sum(axes)
    near = near / torch.where(valid, weight, 0).sum(axes).clamp(min=1)
    return (plain + near) / 2


def downsample_relevance(relevance: torch.Tensor, valid: torch.Tensor | None, shape: Sequence[int]) -> torch.Tensor:
    """Average the sample relevance over the valid voxels of each coarser voxel.

    Parameters
    ----------
    relevance : torch.Tensor
        (B, R, *spatial).
    valid : torch.Tensor or None
        (B, 1, *spatial) bool; None if every voxel is valid.
    shape : sequence of int
        Spatial shape of the result.

    Returns
    -------
    torch.Tensor
        (B, R, *shape); zero where no fine voxel is valid.
    """
    if tuple(relevance.shape[2:]) == tuple(shape):
        return relevance
    relevance = relevance.float()
    if valid is None:
        return _block_average(relevance, shape)
    known = _block_average(valid.float(), shape)
    return _block_average(torch.where(valid, relevance, 0), shape) / known.clamp(min=1e-6)


def _block_average(maps: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    # Adaptive average pooling would do, but MPS has none in 3D.
    factors = [fine // coarse for fine, coarse in zip(maps.shape[2:], shape, strict=True)]
    if [n * f for n, f in zip(shape, factors, strict=True)] != list(maps.shape[2:]):
        raise ValueError(f"spatial shape {tuple(maps.shape[2:])} is not a multiple of the level's {tuple(shape)}")
    blocks = maps.reshape(*maps.shape[:2], *(n for pair in zip(shape, factors, strict=True) for n in pair))
    return blocks.mean(dim=[3 + 2 * axis for axis in range(len(factors))])


class CombinedLoss(nn.Module):
    """Second difference plus weighted first difference, over all deep supervision levels.

    Parameters
    ----------
    second_difference : nn.Module
        nnU-Net's loss; with deep supervision, in nnU-Net's ``DeepSupervisionWrapper``, whose level weights the first
        difference shares.
    num_relevance : int
        R, the number of relevance maps.
    valid_voxels : callable
        Gives the bool mask (B, 1, *spatial) of a level's segmentation target, or None if all is known.
    relevance_weight : float
        Lambda, the weight of the first difference.
    mask_weight : float
        Weight of the second difference.
    voxel_difference : callable
        Difference per voxel of the first difference.
    """

    def __init__(
        self,
        second_difference: nn.Module,
        num_relevance: int,
        valid_voxels: Callable[[torch.Tensor], torch.Tensor | None],
        relevance_weight: float = 1.0,
        mask_weight: float = 1.0,
        voxel_difference: VoxelDifference = smooth_l1,
    ) -> None:
        super().__init__()
        self.second_difference = second_difference
        self.num_relevance = num_relevance
        self.valid_voxels = valid_voxels
        self.relevance_weight = relevance_weight
        self.mask_weight = mask_weight
        self.voxel_difference = voxel_difference
        self._sums: torch.Tensor | None = None
        self._batches = 0

    def forward(self, output: list[torch.Tensor], target: list[torch.Tensor]) -> torch.Tensor:
        """Return the loss of one batch.

        Parameters
        ----------
        output : list of torch.Tensor
            Segmentation logits of every level, then relevance logits of every level.
        target : list of torch.Tensor
            Segmentation target of every level, then the sample relevance at full resolution.
        """
        levels = len(output) // 2
        masks, relevance = target[:levels], target[levels]
        if isinstance(self.second_difference, DeepSupervisionWrapper):
            weights = self.second_difference.weight_factors
            second = self.second_difference(output[:levels], masks)
        else:
            weights = (1.0,)
            second = self.second_difference(output[0], masks[0])
        valid = self.valid_voxels(masks[0])
        subs = torch.zeros(self.num_relevance, device=relevance.device)
        for weight, logits, mask in zip(weights, output[levels:], masks, strict=True):
            if weight:
                sample = downsample_relevance(relevance, valid, logits.shape[2:])
                level_valid = self.valid_voxels(mask)
                subs = subs + weight * relevance_sub_differences(logits, sample, level_valid, self.voxel_difference)
        first = subs.mean()
        batch = torch.cat([first[None], second.reshape(1), subs]).detach()
        self._sums = batch if self._sums is None else self._sums + batch
        self._batches += 1
        loss: torch.Tensor = self.mask_weight * second + self.relevance_weight * first
        return loss

    def take_averages(self) -> np.ndarray:
        """Return the averages since the last call, and start anew.

        Returns
        -------
        np.ndarray
            (2 + R,): first difference, second difference, sub-difference of each object.
        """
        if self._sums is None:
            raise RuntimeError("No batch since the last call.")
        averages: np.ndarray = self._sums.cpu().numpy() / self._batches
        self._sums, self._batches = None, 0
        return averages
