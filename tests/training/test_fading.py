"""Supervision by interpolated contours that fades."""

from __future__ import annotations

import pytest
import torch

from nnunet_wsl.contract import INTERPOLATED_CONFIDENCE
from nnunet_wsl.training.fading import ignore_interpolated

SHAPE_ZYX = (4, 6, 10)
DRAWN, INTERPOLATED, UNKNOWN = 1.0, INTERPOLATED_CONFIDENCE, 0.0


def target_of(confidences_by_slice, *, compact=False, regions=False):
    """Target of one patch per row, with two objects: slice by slice the confidence in each."""
    confidence = torch.tensor(confidences_by_slice).movedim(-1, 1)  # (B, R, z)
    confidence = confidence[..., None, None].expand(*confidence.shape, *SHAPE_ZYX[1:])
    relevance = torch.linspace(0, 1, confidence.numel()).reshape(confidence.shape)
    maps = torch.cat([relevance, confidence], 1)
    channels = 3 if regions else 1
    levels = [
        torch.arange(len(maps) * channels * z * y * x).reshape(len(maps), channels, z, y, x) % 2
        for z, y, x in (SHAPE_ZYX, (4, 3, 5))
    ]
    return [*levels, (maps * 255).round().to(torch.uint8) if compact else maps]


ONE = [[DRAWN, DRAWN], [INTERPOLATED, INTERPOLATED], [DRAWN, INTERPOLATED], [UNKNOWN, DRAWN]]
"""Only the first slice is drawn of both objects."""
NONE = [[INTERPOLATED, DRAWN], [0.5, 0.3], [UNKNOWN, UNKNOWN], [DRAWN, 0.97]]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("regions", [False, True])
def test_only_what_is_drawn_stays_in_chosen_patches(compact, regions):
    target = target_of([ONE, ONE, NONE], compact=compact, regions=regions)
    before = [part.clone() for part in target]
    changed = ignore_interpolated(target, torch.tensor([True, False, True]), None if regions else 7)
    for part, was, now in zip(target, before, changed, strict=True):
        assert torch.equal(part, was)  # the given target is not changed
        assert torch.equal(now[1:], was[1:])  # not chosen; nothing drawn
        assert now.dtype == was.dtype
        assert torch.equal(now[0, :, 0], was[0, :, 0])
    *levels, maps = changed
    for level, was in zip(levels, before, strict=False):
        if regions:
            assert (level[0, -1, 1:] == 1).all()
            assert torch.equal(level[0, :-1], was[0, :-1])
        else:
            assert (level[0, :, 1:] == 7).all()
    assert torch.equal(maps[0, :2], before[-1][0, :2])
    assert (maps[0, 2:, 1:] == 0).all()


def test_augmentation_mixes_what_is_drawn_with_its_neighbours():
    """Less than half of the way to an interpolated slice a voxel is drawn."""
    target = target_of(
        [[[DRAWN] * 2, [0.6 + 0.4 * INTERPOLATED] * 2, [0.4 + 0.6 * INTERPOLATED] * 2, [INTERPOLATED] * 2]]
    )
    level, *_ = ignore_interpolated(target, torch.tensor([True]), 7)
    assert (level[0, 0] == 7).all(dim=(1, 2)).tolist() == [False, False, True, True]


def test_images_of_two_dimensions():
    target = [part[:, :, 0] for part in target_of([ONE])]
    for now, was in zip(ignore_interpolated(target, torch.tensor([True]), 7), target, strict=True):
        assert torch.equal(now, was)
