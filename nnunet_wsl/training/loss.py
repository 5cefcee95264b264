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
    confidence: torch.Tensor | None = None,
    voxel_difference: VoxelDifference = smooth_l1,
) -> torch.Tensor:
    """Sub-difference of each object: how far predicted and sample relevance are apart.

    The sub-difference is the mean of two averages over the voxels of the batch, weighted by the confidence: the plain
    one, and the one weighted by the sample relevance too. The second keeps the few voxels near the contour from
    drowning in the many zeros far from it; both are averages, so that large objects do not outweigh small ones. A batch
    that holds less than one voxel's worth of an average counts less in it.

    Parameters
    ----------
    logits : torch.Tensor
        Predicted relevance before the sigmoid, (B, R, *spatial).
    relevance : torch.Tensor
        Sample relevance in [0, 1], same shape.
    confidence : torch.Tensor, optional
        (B, R, *spatial) or (B, 1, *spatial) in [0, 1], 0 where the annotation says nothing. 1 by default.
    voxel_difference : callable
        Difference per voxel of logits and relevance.

    Returns
    -------
    torch.Tensor
        (R,) float32; zero for an object of which nothing is known.
    """
    difference = voxel_difference(logits.float(), relevance.float())
    axes = [0, *range(2, logits.ndim)]
    if confidence is None:
        confidence = torch.ones_like(relevance[:, :1])
    weight = confidence.float()
    # where, not a product: a voxel of which nothing is known must not contribute even if its value is not finite.
    known = weight > 0
    near = torch.where(known, weight * relevance, 0)
    difference = torch.where(known, difference, 0)
    return (
        (weight * difference).sum(axes) / weight.sum(axes).clamp(min=1)
        + (near * difference).sum(axes) / near.sum(axes).clamp(min=1)
    ) / 2


def downsample_relevance(
    relevance: torch.Tensor, confidence: torch.Tensor | None, shape: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Average the sample relevance over the voxels of each coarser voxel, weighted by their confidence.

    Parameters
    ----------
    relevance : torch.Tensor
        (B, R, *spatial).
    confidence : torch.Tensor or None
        (B, R, *spatial) or (B, 1, *spatial); None if it is 1 everywhere.
    shape : sequence of int
        Spatial shape of the result.

    Returns
    -------
    relevance : torch.Tensor
        (B, R, *shape); zero where nothing is known of any fine voxel.
    confidence : torch.Tensor or None
        The average of the fine voxels'.
    """
    if tuple(relevance.shape[2:]) == tuple(shape):
        return relevance, confidence
    relevance = relevance.float()
    if confidence is None:
        return _block_average(relevance, shape), None
    weight = confidence.float()
    coarse = _block_average(weight, shape)
    known = _block_average(torch.where(weight > 0, weight * relevance, 0), shape)
    return known / coarse.clamp(min=1e-6), coarse


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
    known_voxels : callable
        Gives the bool mask (B, 1, *spatial) of a segmentation target, or None if all is known. It stands in for the
        confidence in the relevance where the target has none.
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
        known_voxels: Callable[[torch.Tensor], torch.Tensor | None],
        relevance_weight: float = 1.0,
        mask_weight: float = 1.0,
        voxel_difference: VoxelDifference = smooth_l1,
    ) -> None:
        super().__init__()
        self.second_difference = second_difference
        self.num_relevance = num_relevance
        self.known_voxels = known_voxels
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
            Segmentation target of every level, then at full resolution the R maps of the sample relevance, and behind
            them the R maps of the confidence in it, if there are any.
        """
        levels = len(output) // 2
        masks = target[:levels]
        relevance, confidence = self._sample(target[levels], masks[0])
        if isinstance(self.second_difference, DeepSupervisionWrapper):
            weights = self.second_difference.weight_factors
            second = self.second_difference(output[:levels], masks)
        else:
            weights = (1.0,)
            second = self.second_difference(output[0], masks[0])
        subs = torch.zeros(self.num_relevance, device=relevance.device)
        for weight, logits in zip(weights, output[levels:], strict=True):
            if weight:
                sample = downsample_relevance(relevance, confidence, logits.shape[2:])
                subs = subs + weight * relevance_sub_differences(logits, *sample, self.voxel_difference)
        first = subs.mean()
        batch = torch.cat([first[None], second.reshape(1), subs]).detach()
        self._sums = batch if self._sums is None else self._sums + batch
        self._batches += 1
        loss: torch.Tensor = self.mask_weight * second + self.relevance_weight * first
        return loss

    def _sample(self, maps: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the sample relevance and the confidence in it."""
        if maps.shape[1] == 2 * self.num_relevance:
            return maps[:, : self.num_relevance], maps[:, self.num_relevance :]
        return maps, self.known_voxels(mask)

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
