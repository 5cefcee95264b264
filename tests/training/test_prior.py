from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import nn
from torch.nn.functional import cross_entropy

from nnunet_wsl.contract import INTERPOLATED_CONFIDENCE
from nnunet_wsl.training.loss import CombinedLoss
from nnunet_wsl.training.prior import InterpolationPrior, at_level

IGNORE = 3
LABELS = InterpolationPrior([0, 1], IGNORE, has_regions=False)
REGIONS = InterpolationPrior([1, 0], IGNORE, has_regions=True)


def voxels(values, dtype=None):
    """Channels by voxels as (1, C, 1, 1, N)."""
    return torch.tensor(values, dtype=dtype)[None, :, None, None]


def difference(prior, logits, mask, confidence, interpolated=None):
    interpolated = torch.ones_like(confidence[:, :1]) if interpolated is None else interpolated
    return prior([logits], [mask], confidence, interpolated, [1.0])[1]


def test_two_labels_by_hand():
    # The first object probably there (0.8), the second probably not (0.1): background 0.2 * 0.9, first 0.8 * 0.9,
    # second 0.2 * 0.1, of what one voxel can be.
    # Its likeliest label counts as 1.
    expected = np.array([0.18, 0.72, 0.02]) / 0.72
    predicted = np.array([0.5, 0.2, 0.3])
    logits, mask = voxels(np.log(predicted)[:, None].tolist()), voxels([[1]])
    result = difference(LABELS, logits, mask, voxels([[0.6], [0.8]]))
    assert result.item() == pytest.approx(-np.log(expected @ predicted), rel=1e-5)


def test_regions_by_hand():
    # The inner object, whose confidence comes first, is rather not there (0.3), the outer one is (0.9). The likelier
    # side counts as 1.
    p_outer, p_inner = 0.6, 0.2
    logits = torch.logit(voxels([[p_outer], [p_inner]]))
    mask = voxels([[1], [0], [0]])
    result = difference(REGIONS, logits, mask, voxels([[0.4], [0.8]]))
    expected = np.log(0.9 * p_outer + 0.1 * (1 - p_outer)) + np.log(0.3 * p_inner + 0.7 * (1 - p_inner))
    assert result.item() == pytest.approx(np.log(0.9) + np.log(0.7) - expected, rel=1e-5)


@settings(max_examples=50)
@given(st.data())
def test_any_number_of_labels_by_enumeration(data):
    # Each object is there or not, independently; a voxel has at most one.
    number = data.draw(st.integers(1, 4))
    sure = [data.draw(st.floats(0, 0.98)) for _ in range(number)]
    label = data.draw(st.integers(0, number))
    logits = torch.tensor(data.draw(st.lists(st.floats(-4, 4), min_size=number + 1, max_size=number + 1)))
    inside = [(1 + (c if k == label else -c)) / 2 for k, c in enumerate(sure, start=1)]
    weights = np.zeros(number + 1)
    for there in itertools.product((0, 1), repeat=number):
        if sum(there) < 2:
            what = 1 + there.index(1) if any(there) else 0
            weights[what] = np.prod([q if here else 1 - q for q, here in zip(inside, there, strict=True)])
    expected = -np.log(weights / weights.max() @ torch.softmax(logits, 0).numpy())
    prior = InterpolationPrior(range(number), number + 1, has_regions=False)
    confidence = voxels([[c] for c in sure], torch.float32)
    result = difference(prior, logits[None, :, None, None, None], voxels([[label]]), confidence)
    assert result.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_gradient_is_that_of_the_posterior_as_label():
    logits = torch.randn(2, 3, 2, 5, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    mask = torch.randint(0, 3, (2, 1, 2, 5, 3), generator=torch.Generator().manual_seed(2))
    confidence = 0.98 * torch.rand(2, 2, 2, 5, 3, generator=torch.Generator().manual_seed(3))
    (found,) = torch.autograd.grad(difference(LABELS, logits, mask, confidence), logits)
    odds = LABELS.inside_log_odds(mask, confidence)
    posterior = torch.softmax(logits + torch.cat([torch.zeros_like(odds[:, :1]), odds], 1), 1).detach()
    (expected,) = torch.autograd.grad(cross_entropy(logits, posterior), logits)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("prior", [LABELS, REGIONS])
def test_what_nothing_is_known_of_teaches_nothing(prior):
    logits = torch.randn(1, 3 - prior.has_regions, 2, 5, 3, requires_grad=True)
    mask = torch.randint(0, 3, (1, 1, 2, 5, 3))
    if prior.has_regions:
        mask = torch.cat([mask >= 1, mask >= 2, mask > 2], 1)
    loss = difference(prior, logits, mask, torch.zeros(1, 2, 2, 5, 3))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-8, rtol=0)


def test_what_is_sure_teaches_as_a_label():
    logits = torch.randn(1, 3, 2, 5, 3)
    mask = torch.randint(0, 3, (1, 1, 2, 5, 3))
    sure = torch.full((1, 2, 2, 5, 3), INTERPOLATED_CONFIDENCE)
    result = difference(LABELS, logits, mask, sure)
    assert result.item() == pytest.approx(cross_entropy(logits, mask[:, 0]).item(), rel=0.03)


@pytest.mark.parametrize("prior", [LABELS, REGIONS])
def test_drawn_and_ignored_voxels_are_left_to_nnunets_loss(prior):
    shape, generator = (2, 1, 2, 5, 3), torch.Generator().manual_seed(1)
    logits = torch.randn((2, 3 - prior.has_regions, *shape[2:]), generator=generator, requires_grad=True)
    label = torch.randint(0, 3, shape, generator=generator)
    ignored = torch.rand(shape, generator=generator) < 0.2
    confidence = torch.rand((2, 2, *shape[2:]), generator=generator) * 0.98
    drawn = torch.rand(shape, generator=generator) < 0.4
    confidence[drawn.expand_as(confidence)] = 0  # whatever it is of voxels that were not interpolated
    regions = torch.cat([label >= 1, label >= 2, ignored], 1)
    mask = regions if prior.has_regions else torch.where(ignored, IGNORE, label)
    (drawn_mask,), loss = prior([logits], [mask], confidence, (~drawn).float(), [1.0])
    (gradient,) = torch.autograd.grad(loss, logits)
    untouched = drawn | ignored
    assert (gradient[untouched.expand_as(gradient)] == 0).all()
    assert (gradient[~untouched.expand_as(gradient)] != 0).all()
    if prior.has_regions:
        assert torch.equal(drawn_mask[:, :-1], mask[:, :-1])
        assert torch.equal(drawn_mask[:, -1:], ignored | ~drawn)
    else:
        assert torch.equal(drawn_mask, torch.where(drawn, mask, IGNORE))


@pytest.mark.parametrize("sure", [0.0, 0.5, INTERPOLATED_CONFIDENCE])
def test_one_object_drawn_where_another_is_not(sure):
    """A drawn object decides, whatever the confidence in the other one."""
    mask, confidence = voxels([[1]]), voxels([[1.0], [sure]])
    for logits in ([0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 2.0]):
        predicted = voxels([[value] for value in logits])
        expected = cross_entropy(predicted, mask[:, 0])
        assert difference(LABELS, predicted, mask, confidence).item() == pytest.approx(expected.item(), abs=0.01)


def test_mixed_voxels_are_what_they_are_nearest_to():
    """Augmentation interpolates between slices; labels are those of the nearest one."""
    interpolated = voxels([[0.0, 0.49, 0.51, 1.0]])
    mask = voxels([[1, 1, 2, 2]])
    confidence = voxels([[0.3] * 4, [0.6] * 4])
    (drawn,), _ = LABELS([torch.zeros(1, 3, 1, 1, 4)], [mask], confidence, interpolated, [1.0])
    assert drawn.flatten().tolist() == [1, 1, IGNORE, IGNORE]


def test_confidence_in_a_fused_map_is_that_of_every_object():
    fused = InterpolationPrior([0, 0], IGNORE, has_regions=False)
    logits, mask = torch.randn(1, 3, 2, 5, 3), torch.randint(0, 3, (1, 1, 2, 5, 3))
    confidence = 0.98 * torch.rand(1, 1, 2, 5, 3)
    expected = difference(LABELS, logits, mask, confidence.expand(-1, 2, -1, -1, -1))
    torch.testing.assert_close(difference(fused, logits, mask, confidence), expected)


@pytest.mark.parametrize("factors", [(1, 2, 2), (1, 4, 2), (4, 8, 8), (1, 1, 1)])
def test_levels_are_those_of_nnunets_segmentations(factors):
    maps = torch.arange(2 * 8 * 16 * 24).reshape(2, 8, 16, 24)
    stock = DownsampleSegForDSTransform([[1 / factor for factor in factors]])(segmentation=maps)["segmentation"][0]
    assert torch.equal(at_level(maps[None], stock.shape[1:])[0], stock)


def random_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 8, 12), (4, 4, 6)]
    output = [torch.randn(2, channels, *shape, generator=generator) for channels in (3, 2) for shape in shapes]
    full = torch.randint(0, 4, (2, 1, *shapes[0]), generator=generator)
    masks = [full, at_level(full, shapes[1])]
    maps = torch.rand(2, 5, *shapes[0], generator=generator)
    maps[:, 4:] = (maps[:, 4:] > 0.4).float()
    return output, masks, maps


class StockLoss:
    """What nnU-Net's trainer makes its loss of."""

    label_manager = LabelManager({"background": 0, "a": 1, "b": 2, "ignore": IGNORE}, None)
    configuration_manager = type("", (), {"batch_dice": True})
    is_ddp = enable_deep_supervision = False
    _do_i_compile = staticmethod(lambda: False)


@settings(max_examples=20)
@given(st.integers(0, 2**16))
def test_loss_of_drawn_voxels_is_nnunets(seed):
    output, masks, maps = random_batch(seed)
    maps[:, 4:] = 0
    stock = DeepSupervisionWrapper(nnUNetTrainer._build_loss(StockLoss()), (2 / 3, 1 / 3))
    losses = [CombinedLoss(stock, 2, lambda _: None, prior=prior)(output, [*masks, maps]) for prior in (None, LABELS)]
    torch.testing.assert_close(*losses)


@settings(max_examples=20)
@given(st.integers(0, 2**16))
def test_nothing_drawn_in_a_batch(seed):
    output, masks, maps = random_batch(seed)
    maps[:, 4:] = 1
    output = [logits.requires_grad_() for logits in output]
    stock = DeepSupervisionWrapper(nnUNetTrainer._build_loss(StockLoss()), (2 / 3, 1 / 3))
    loss = CombinedLoss(stock, 2, lambda _: None, prior=LABELS)
    loss(output, [*masks, maps]).backward()
    for logits in output:
        assert torch.isfinite(logits.grad).all()
        assert logits.grad.any()
    _, second, *_ = loss.take_averages()
    marginal = LABELS(output[:2], masks, maps[:, 2:4], maps[:, 4:], (2 / 3, 1 / 3))[1].item()
    # Dice of nothing is 1, its loss -1; there is no cross-entropy.
    assert second == pytest.approx(marginal - 1, abs=1e-4)


def test_coarser_levels_count_by_their_weight():
    output, masks, maps = random_batch(3)
    parts = [
        LABELS(output[:2], masks, maps[:, 2:4], maps[:, 4:], weights)[1].item()
        for weights in ((1, 0), (0, 1), (0.7, 0.3))
    ]
    assert parts[2] == pytest.approx(0.7 * parts[0] + 0.3 * parts[1], rel=1e-5)
    assert parts[0] == pytest.approx(
        difference(LABELS, output[0], masks[0], maps[:, 2:4], maps[:, 4:]).item(), rel=1e-6
    )


def test_without_deep_supervision():
    output, masks, maps = random_batch(4)
    stock = nnUNetTrainer._build_loss(StockLoss())
    output, masks = [output[0], output[2]], masks[:1]
    loss = CombinedLoss(stock, 2, lambda _: None, relevance_weight=0, prior=LABELS)
    drawn, marginal = LABELS(output[:1], masks, maps[:, 2:4], maps[:, 4:], (1.0,))
    assert isinstance(stock, nn.Module)
    expected = stock(output[0], drawn[0]) + marginal
    torch.testing.assert_close(loss(output, [*masks, maps]), expected)
