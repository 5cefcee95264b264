"""Supervision by interpolated contours that fades as the training goes on.

Interpolated contours supervise many voxels, and nearly all of them far from where the contour runs: that teaches a
network fast where an object is, but draws it away from the contours that were drawn, where it must become exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate

from nnunet_wsl.contract import INTERPOLATED_CONFIDENCE

_DRAWN_CONFIDENCE = (1 + INTERPOLATED_CONFIDENCE) / 2
"""Confidence from which on a voxel is drawn, after augmentation has mixed it with its neighbours."""


def ignore_interpolated(
    target: Sequence[torch.Tensor], chosen: torch.Tensor, ignore_label: int | None
) -> list[torch.Tensor]:
    """Ignore in some patches what was interpolated, in mask and relevance.

    A patch that shows nothing that was drawn stays as it is, for all of it would be ignored.

    Parameters
    ----------
    target : sequence of torch.Tensor
        Segmentation target of every level, then R maps of relevance and R maps of the confidence in it, (B, 2 R,
        *spatial), uint8 in steps of 1/255 or float.
    chosen : torch.Tensor
        (B,) bool: patches to change.
    ignore_label : int or None
        Label of ignored voxels; None if the last channel of the segmentation targets says which these are, as with
        regions.

    Returns
    -------
    list of torch.Tensor
        The new target; the given one is not changed.
    """
    *levels, maps = target
    relevance, confidence = maps.tensor_split(2, dim=1)
    least = _DRAWN_CONFIDENCE if maps.is_floating_point() else 255 * _DRAWN_CONFIDENCE
    drawn = (confidence >= least).all(1, keepdim=True)
    changes = chosen & drawn.flatten(1).any(1)
    stays = drawn | ~changes.view(-1, *[1] * (maps.ndim - 1))
    changed = []
    for level in levels:
        # As nnU-Net brings the segmentation to its levels.
        ignored = interpolate(stays.float(), level.shape[2:], mode="nearest-exact") == 0
        if ignore_label is None:
            changed.append(torch.cat([level[:, :-1], level[:, -1:].masked_fill(ignored, 1)], 1))
        else:
            changed.append(level.masked_fill(ignored, ignore_label))
    return [*changed, torch.cat([relevance, confidence.masked_fill(~stays, 0)], 1)]
