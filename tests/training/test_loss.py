from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_wsl.training.loss import (
    VOXEL_DIFFERENCES,
    CombinedLoss,
    downsample_relevance,
    relevance_sub_differences,
)

SHAPE = (1, 1, 2, 3)


def logit(p):
    return float(np.log(p / (1 - p)))


def test_sub_difference_by_hand():
    # One voxel on the contour, predicted 0.5; one of relevance 0.5, predicted right; four far away, predicted 0.2.
    relevance = torch.tensor([1.0, 0.5, 0, 0, 0, 0]).reshape(SHAPE)
    logits = torch.tensor([0.0, 0.0] + [logit(0.2)] * 4).reshape(SHAPE)
    # Smooth L1 below 1 is d^2 / 2: 0.125, 0, and four times 0.02.
    plain = (0.125 + 4 * 0.02) / 6
    near = 1.0 * 0.125 / 1.5
    result = relevance_sub_differences(logits, relevance)
    assert result.shape == (1,)
    assert result.item() == pytest.approx((plain + near) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("smooth_l1", 0.5 * 0.3**2), ("squared_error", 0.3**2), ("cross_entropy", -0.5 * np.log(0.8 * 0.2))],
)
def test_voxel_differences_by_hand(name, expected):
    value = VOXEL_DIFFERENCES[name](torch.tensor([logit(0.8)]), torch.tensor([0.5]))
    assert value.item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16))
def test_invalid_voxels_do_not_matter_even_if_not_finite(seed):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, 3, 2, 5, 3), generator=rng)
    relevance = torch.rand((2, 3, 2, 5, 3), generator=rng)
    valid = torch.rand((2, 1, 2, 5, 3), generator=rng) < 0.6
    expected = relevance_sub_differences(logits, relevance, valid)
    other = torch.where(valid, logits, torch.nan)
    torch.testing.assert_close(relevance_sub_differences(other, relevance, valid), expected)
    other = torch.where(valid, relevance, 0.9)
    torch.testing.assert_close(relevance_sub_differences(logits, other, valid), expected)


def test_gradient_is_finite_and_zero_at_invalid_voxels():
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    valid = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    valid[..., :2] = True
    relevance_sub_differences(logits, torch.rand(1, 1, 4, 4), valid).sum().backward()
    assert (logits.grad[..., 2:] == 0).all()
    assert (logits.grad[..., :2] != 0).all()


def test_nothing_valid_is_zero():
    valid = torch.zeros(SHAPE, dtype=torch.bool)
    assert relevance_sub_differences(torch.ones(SHAPE), torch.ones(SHAPE), valid).item() == 0


def test_large_and_small_objects_count_alike():
    # The same relative error on an object of 1 voxel and on one of 4, no error elsewhere.
    relevance = torch.zeros(1, 2, 10, 10)
    relevance[0, 0, 0, 0] = 1
    relevance[0, 1, :2, :2] = 1
    logits = torch.where(relevance > 0, 0.0, -40.0)
    small, large = relevance_sub_differences(logits, relevance)
    near = 0.125 / 2
    assert small.item() == pytest.approx(near, abs=0.125 * 1 / 200 + 1e-6)
    assert large.item() == pytest.approx(near, abs=0.125 * 4 / 200 + 1e-6)


def test_downsampling_averages_the_valid_voxels():
    relevance = torch.tensor([[1.0, 0.0, 0.5, 0.3], [0.6, 0.2, 0.9, 0.9]]).reshape(1, 1, 2, 4)
    valid = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0]]).bool().reshape(1, 1, 2, 4)
    coarse, nothing_to_say = downsample_relevance(relevance, None, (1, 2))
    torch.testing.assert_close(coarse.flatten(), torch.tensor([0.45, 0.65]))
    assert nothing_to_say is None
    coarse, confidence = downsample_relevance(relevance, valid, (1, 2))
    torch.testing.assert_close(coarse.flatten(), torch.tensor([1.6 / 3, 0.3]))
    torch.testing.assert_close(confidence.flatten(), torch.tensor([0.75, 0.25]))
    coarse, confidence = downsample_relevance(relevance, torch.zeros_like(valid), (1, 2))
    assert (coarse == 0).all()
    assert (confidence == 0).all()


def test_downsampling_weighs_by_the_confidence_of_each_object():
    relevance = torch.tensor([[1.0, 0.5], [0.2, 0.6]]).reshape(1, 2, 1, 2)
    confidence = torch.tensor([[0.25, 0.75], [1.0, 0.0]]).reshape(1, 2, 1, 2)
    coarse, of_coarse = downsample_relevance(relevance, confidence, (1, 1))
    torch.testing.assert_close(coarse.flatten(), torch.tensor([0.25 + 0.375, 0.2]))
    torch.testing.assert_close(of_coarse.flatten(), torch.tensor([0.5, 0.5]))


def test_sub_difference_with_confidence_by_hand():
    """Smooth L1 of 0.125 on the contour of confidence 1/2, of 0.02 far away with 1; nothing is known of the third."""
    relevance = torch.tensor([1.0, 0.0, 0.7]).reshape(1, 1, 1, 3)
    logits = torch.tensor([0.0, logit(0.2), 9.0]).reshape(1, 1, 1, 3)
    confidence = torch.tensor([0.5, 1.0, 0.0]).reshape(1, 1, 1, 3)
    plain = (0.5 * 0.125 + 0.02) / 1.5
    near = 0.5 * 0.125 / 1  # less than one voxel's worth of relevance counts as one
    assert relevance_sub_differences(logits, relevance, confidence).item() == pytest.approx((plain + near) / 2)


def test_confidence_maps_replace_the_mask_of_ignored_voxels():
    """Object 1 is known in the left voxel only, object 2 in the right one only; the label map would ignore both."""
    logits, relevance = torch.randn(1, 2, 1, 2), torch.rand(1, 2, 1, 2)
    confidence = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)
    loss = CombinedLoss(SumLoss(), 2, lambda mask: torch.zeros_like(mask, dtype=torch.bool))
    mask = torch.zeros(1, 1, 1, 2)
    loss([torch.zeros(1, 2, 1, 2), logits], [mask, torch.cat([relevance, confidence], 1)])
    first, _, *subs = loss.take_averages()
    difference = VOXEL_DIFFERENCES["smooth_l1"](logits, relevance)[0, :, 0]
    near = (difference * relevance[0, :, 0]).diagonal()
    np.testing.assert_allclose(subs, (difference.diagonal() + near) / 2, rtol=1e-5)
    assert first == pytest.approx(np.mean(subs))
    loss([torch.zeros(1, 2, 1, 2), logits], [mask, relevance])
    assert loss.take_averages()[0] == 0


class SumLoss(nn.Module):
    def forward(self, output, target):
        return (output * target).sum()


def test_combined_loss_is_the_weighted_sum_over_levels():
    torch.manual_seed(0)
    sizes = ((4, 6), (2, 3), (1, 3))
    segmentation = [torch.randn(2, 2, *s) for s in sizes]
    relevance_logits = [torch.randn(2, 3, *s) for s in sizes]
    masks = [torch.randint(0, 2, (2, 1, *s)) for s in sizes]
    relevance = torch.rand(2, 3, 4, 6)
    weights = (0.7, 0.3, 0.0)
    loss = CombinedLoss(
        DeepSupervisionWrapper(SumLoss(), weights), 3, lambda _mask: None, relevance_weight=2.0, mask_weight=0.5
    )
    total = loss(segmentation + relevance_logits, [*masks, relevance])
    second = sum(w * (s * m).sum() for w, s, m in zip(weights, segmentation, masks, strict=True))
    subs = 0.7 * relevance_sub_differences(relevance_logits[0], relevance)
    halved = relevance.reshape(2, 3, 2, 2, 3, 2).mean((3, 5))
    subs = subs + 0.3 * relevance_sub_differences(relevance_logits[1], halved)
    assert total.item() == pytest.approx((0.5 * second + 2.0 * subs.mean()).item(), rel=1e-5)
    np.testing.assert_allclose(loss.take_averages(), [subs.mean(), second, *subs], rtol=1e-5)
    with pytest.raises(RuntimeError, match="No batch"):
        loss.take_averages()


def test_averages_are_over_batches():
    loss = CombinedLoss(SumLoss(), 1, lambda _mask: None)
    relevance = torch.zeros(1, 1, 2, 2)
    for value in (1.0, 3.0):
        loss([torch.full((1, 2, 2, 2), value), torch.zeros(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2), relevance])
    first, second, _ = loss.take_averages()
    assert second == pytest.approx((8 * 1 + 8 * 3) / 2)
    assert first == pytest.approx(0.125 / 2)  # plain average of 0.5^2 / 2; no voxel near a contour


def test_a_level_that_does_not_divide_the_patch_is_refused():
    with pytest.raises(ValueError, match="not a multiple"):
        downsample_relevance(torch.zeros(1, 1, 5, 4), None, (2, 2))


@settings(max_examples=20)
@given(factors=st.lists(st.integers(1, 3), min_size=2, max_size=3), seed=st.integers(0, 99))
def test_downsampling_is_torchs_adaptive_pooling(factors, seed):
    coarse = (2, 3, 1)[: len(factors)]
    fine = [n * f for n, f in zip(coarse, factors, strict=True)]
    relevance = torch.rand((2, 2, *fine), generator=torch.Generator().manual_seed(seed))
    pool = nn.functional.adaptive_avg_pool3d if len(fine) == 3 else nn.functional.adaptive_avg_pool2d
    torch.testing.assert_close(downsample_relevance(relevance, None, coarse)[0], pool(relevance, coarse))


def test_less_than_one_voxels_worth_of_confidence_counts_less():
    """Smooth L1 of 0.125 everywhere; two voxels of confidence 1/4 count as one of 1/2."""
    nothing, confidence = torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 2), 0.25)
    assert relevance_sub_differences(nothing, nothing, confidence).item() == pytest.approx(0.5 * 0.125 / 2)


def test_each_epoch_has_averages_of_its_own():
    loss = CombinedLoss(SumLoss(), 1, lambda _mask: None)
    for values in ((1.0, 3.0), (5.0,)):
        for value in values:
            target = [torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)]
            loss([torch.full((1, 2, 2, 2), value), torch.zeros(1, 1, 2, 2)], target)
        assert loss.take_averages()[1] == pytest.approx(8 * np.mean(values))


def test_voxels_of_which_nothing_is_known_do_not_matter_to_coarser_ones():
    relevance = torch.tensor([0.5, torch.nan, 0.2, 0.4]).reshape(1, 1, 1, 4)
    confidence = torch.tensor([1.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 4)
    coarse, _ = downsample_relevance(relevance, confidence, (1, 2))
    torch.testing.assert_close(coarse.flatten(), torch.tensor([0.5, 0.3]))


@pytest.mark.parametrize("difference", list(VOXEL_DIFFERENCES.values()))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_differences_are_taken_in_single_precision(difference, dtype):
    """Whatever the network computes in."""
    logits, relevance = torch.linspace(-9, 9, 64).reshape(1, 1, 8, 8).to(dtype), torch.rand(1, 1, 8, 8)
    found = relevance_sub_differences(logits, relevance, None, difference)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, relevance_sub_differences(logits.float(), relevance, None, difference), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("smooth_l1", 0.125), ("squared_error", 0.25), ("cross_entropy", math.log(2))]
)
def test_the_first_difference_has_the_form_that_is_asked_for(name, expected):
    """Predicted 0.5 where there is no relevance: the plain average, and nothing near a contour."""
    loss = CombinedLoss(SumLoss(), 1, lambda _mask: None, voxel_difference=VOXEL_DIFFERENCES[name])
    loss([torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)])
    assert loss.take_averages()[0] == pytest.approx(expected / 2)


def test_averages_keep_no_graph():
    loss = CombinedLoss(SumLoss(), 1, lambda _mask: None)
    output = [torch.zeros(1, 2, 2, 2, requires_grad=True), torch.zeros(1, 1, 2, 2, requires_grad=True)]
    assert loss(output, [torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)]).requires_grad
    assert loss.take_averages().shape == (3,)
