"""What was interpolated between drawn slices, as a prior of the mask that training makes up its mind about.

An interpolation of contours is nearly always right far from them and no better than a guess where they run, which is
where a mask must become exact. As labels its guesses are learned; ignored, it teaches nothing. As a prior it teaches
what it is sure of, and leaves the rest to the network, which sees the image and what was drawn on other slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import logsigmoid

_SUREST = 0.998
"""Confidence in an object that was drawn, beside one that was not, so that the odds are finite: 999 to 1."""


class InterpolationPrior:
    """The marginal likelihood of what was interpolated.

    Of an interpolated voxel the dataset has the likelier label and, for every object, the confidence c in the side of
    its contour, which makes q = (1 + c) / 2 the probability of that side. The voxel's difference is
    -log sum_k prior_k p_k, with p the prediction and a prior that is 1 for the likeliest label: the cross-entropy where
    the prior is sure, 0 where it knows nothing. The gradient is that of the cross-entropy with the posterior,
    prior_k p_k / sum_j prior_j p_j, as label: that of a step of expectation maximisation (Dempster, Laird and Rubin
    1977).

    Parameters
    ----------
    maps : sequence of int
        Which confidence map is that of each label, 1 to K, or of each region.
    ignore_label : int
        The label of voxels that nothing is known of.
    has_regions : bool
        Whether masks are regions, which may overlap, with the ignored voxels as one more, or label maps.
    """

    def __init__(self, maps: Sequence[int], ignore_label: int, *, has_regions: bool) -> None:
        self.maps = list(maps)
        self.ignore_label = ignore_label
        self.has_regions = has_regions

    def __call__(
        self,
        output: Sequence[torch.Tensor],
        masks: Sequence[torch.Tensor],
        confidence: torch.Tensor,
        interpolated: torch.Tensor,
        weights: Sequence[float],
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Part what was drawn from what was interpolated.

        Parameters
        ----------
        output : sequence of torch.Tensor
            Segmentation logits of every level, (B, 1 + K, *shape), or (B, K, *shape) with regions.
        masks : sequence of torch.Tensor
            Segmentation target of every level, (B, 1, *shape), or (B, K + 1, *shape) with regions.
        confidence : torch.Tensor
            (B, R, *spatial) at full resolution.
        interpolated : torch.Tensor
            (B, 1, *spatial) at full resolution, 1 where the label was interpolated, else 0; in between where
            augmentation has mixed both.
        weights : sequence of float
            Of the levels.

        Returns
        -------
        masks : list of torch.Tensor
            The target of every level, where what was interpolated is ignored.
        difference : torch.Tensor
            Float32: the mean difference over the interpolated voxels of the batch, by the weights of the levels.
        """
        undrawn = interpolated > 0.5
        difference = torch.zeros((), device=confidence.device)
        drawn_masks = []
        for weight, logits, mask in zip(weights, output, masks, strict=True):
            shape = logits.shape[2:]
            voxels = at_level(undrawn, shape) & self._known(mask)
            drawn_masks.append(self._ignoring(mask, voxels))
            if weight:
                log_odds = self.inside_log_odds(mask, at_level(confidence, shape))
                likelihood = torch.where(voxels, self.log_likelihood(logits.float(), log_odds), 0)
                difference = difference - weight * likelihood.sum() / voxels.sum().clamp(min=1)
        return drawn_masks, difference

    def _known(self, mask: torch.Tensor) -> torch.Tensor:
        return mask[:, -1:] == 0 if self.has_regions else mask != self.ignore_label

    def _ignoring(self, mask: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
        if self.has_regions:
            return torch.cat([mask[:, :-1], mask[:, -1:].masked_fill(voxels, 1)], 1)
        return mask.masked_fill(voxels, self.ignore_label)

    def inside_log_odds(self, mask: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
        """Return log(q / (1 - q)) of every label or region, (B, K, *shape): positive inside, 0 if nothing is known."""
        if self.has_regions:
            inside = mask[:, :-1] > 0
        else:
            labels = torch.arange(1, 1 + len(self.maps), device=mask.device)
            inside = mask == labels.view(1, -1, *[1] * (mask.ndim - 2))
        odds = 2 * torch.atanh(confidence[:, self.maps].float().clamp(0, _SUREST))
        return torch.where(inside, odds, -odds)

    def log_likelihood(self, logits: torch.Tensor, log_odds: torch.Tensor) -> torch.Tensor:
        """Return log sum_k prior_k p_k, (B, 1, *shape), of logits and the log-odds of every label or region."""
        if self.has_regions:  # each by itself
            inside = logsigmoid(logits) + log_odds.clamp(max=0)
            outside = logsigmoid(-logits) - log_odds.clamp(min=0)
            return torch.logaddexp(inside, outside).sum(1, keepdim=True)
        log_prior = torch.cat([torch.zeros_like(log_odds[:, :1]), log_odds], 1)
        log_prior = log_prior - log_prior.amax(1, keepdim=True)
        return torch.logsumexp(torch.log_softmax(logits, 1) + log_prior, 1, keepdim=True)


def at_level(maps: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the voxels of maps (B, C, *spatial) that nnU-Net takes the segmentation of a coarser level from."""
    factors = [fine // coarse for fine, coarse in zip(maps.shape[2:], shape, strict=True)]
    everything = slice(None)
    return maps[(everything, everything, *[slice(factor // 2, None, factor) for factor in factors])]
