from __future__ import annotations

import io
from copy import deepcopy

import pytest
import torch
from dynamic_network_architectures.architectures.primus import Primus
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnunet_wsl.training.network import RelevanceHead

S, R = 3, 2


def plain_unet():
    return PlainConvUNet(1, 3, (4, 6, 8), nn.Conv2d, 3, (1, 2, 2), 1, S, 1, conv_bias=True,
                         norm_op=nn.InstanceNorm2d, nonlin=nn.ReLU, deep_supervision=True)  # fmt: skip


def residual_unet():
    return ResidualEncoderUNet(1, 3, (4, 6, 8), nn.Conv3d, 3, (1, 2, 2), 1, S, 1, conv_bias=True,
                               norm_op=nn.InstanceNorm3d, nonlin=nn.ReLU, deep_supervision=True)  # fmt: skip


def primus():
    return Primus(1, 48, (8, 8, 8), S, 1, 4, (16, 8, 24))


CASES = [(plain_unet, (2, 1, 12, 20)), (residual_unet, (2, 1, 4, 12, 20)), (primus, (2, 1, 16, 8, 24))]


@pytest.mark.parametrize(("build", "shape"), CASES)
def test_segmentation_outputs_and_state_stay_those_of_the_stock_network(build, shape):
    torch.manual_seed(1)
    stock = build().eval()
    network = deepcopy(stock)
    head = RelevanceHead(network, R)
    image = torch.randn(shape)
    with torch.no_grad():
        expected = stock(image)
        outputs = network(image)
        with head.disabled():
            disabled = network(image)
    levels = expected if isinstance(expected, list) else [expected]
    assert len(outputs) == 2 * len(levels)
    for level, segmentation, relevance in zip(levels, outputs, outputs[len(levels) :], strict=False):
        torch.testing.assert_close(segmentation, level)
        assert relevance.shape == (level.shape[0], R, *level.shape[2:])
    assert isinstance(disabled, list) == isinstance(expected, list)
    torch.testing.assert_close(disabled, expected)

    state = network.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in stock.state_dict().items()}
    build().load_state_dict(state, strict=True)


def test_the_head_changes_nothing_that_is_drawn_after_it():
    """One seed gives one stock network and one training, with and without relevance."""
    torch.manual_seed(2)
    network = plain_unet()
    state = torch.random.get_rng_state()
    RelevanceHead(network, R)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(("build", "shape"), CASES)
def test_saved_weights_restore_both_heads_bitwise(build, shape):
    network, other = build(), build()
    head, other_head = RelevanceHead(network, R), RelevanceHead(other, R)
    buffer = io.BytesIO()
    torch.save((network.state_dict(), head.state_dict()), buffer)
    buffer.seek(0)
    weights, rows = torch.load(buffer)
    before = other_head.state_dict()
    other.load_state_dict(weights)
    for name, value in other_head.state_dict().items():
        assert torch.equal(value, before[name])  # stock weights leave the relevance rows alone
    other_head.load_state_dict(rows)
    for (name, parameter), (_, restored) in zip(network.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(parameter, restored), name


def test_stock_weights_of_another_number_of_classes_are_refused():
    network = plain_unet()
    RelevanceHead(network, R)
    state = network.state_dict()
    state["decoder.seg_layers.0.weight"] = torch.zeros(S + 1, 6, 1, 1)
    with pytest.raises(RuntimeError, match="size mismatch"):
        network.load_state_dict(state)


def test_rows_of_another_head_are_refused():
    network = plain_unet()
    head = RelevanceHead(network, R)
    other = RelevanceHead(plain_unet(), R + 1)
    with pytest.raises(ValueError, match="expected parameters"):
        head.load_state_dict(other.state_dict())


def test_gradients_reach_the_rows_of_the_differences_that_they_belong_to():
    network = plain_unet()
    head = RelevanceHead(network, R)
    outputs = network(torch.randn(1, 1, 12, 20))
    sum(o.sum() for o in outputs[len(outputs) // 2 :]).backward()
    layer = head.layers["decoder.seg_layers.1"]
    assert (layer.weight.grad[:S] == 0).all()
    assert (layer.weight.grad[S:] != 0).any()


def test_no_gradient_is_padded_to_all_rows():
    """As that of a slice is: more memory and time than the gradient itself, at every level."""
    network = plain_unet()
    RelevanceHead(network, R)
    outputs = network(torch.randn(1, 1, 12, 20))
    assert {type(output.grad_fn).__name__ for output in outputs} == {"SplitWithSizesBackward0"}


def test_a_network_without_known_output_layers_is_refused():
    with pytest.raises(NotImplementedError, match="Sequential"):
        RelevanceHead(nn.Sequential(nn.Conv2d(1, S, 1)), R)


def test_compiled_network_behaves_like_the_plain_one():
    network = plain_unet().eval()
    head = RelevanceHead(network, R)
    compiled = torch.compile(network, backend="eager")
    image = torch.randn(2, 1, 12, 20)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), network(image))
        with head.disabled():
            torch.testing.assert_close(compiled(image), network(image))
        assert len(compiled(image)) == 4
    # nnU-Net saves and loads through the original module.
    assert compiled._orig_mod.state_dict().keys() == plain_unet().state_dict().keys()
    compiled._orig_mod.load_state_dict(plain_unet().state_dict())


def test_states_hold_no_more_than_their_numbers():
    network = plain_unet()
    head = RelevanceHead(network, R)
    for state in (network.state_dict(), head.state_dict()):
        for name, value in state.items():
            assert value.untyped_storage().nbytes() == value.nbytes, name
