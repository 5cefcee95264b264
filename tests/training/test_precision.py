from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_wsl.errors import InputError
from nnunet_wsl.training.precision import autocast_forward, bfloat16_on_cpu


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False), ("F", False)])
def test_the_variable_decides(monkeypatch, value, expected):
    monkeypatch.setenv("nnUNet_wsl_bfloat16", value)
    assert bfloat16_on_cpu() is expected


def test_an_empty_variable_is_as_if_not_set(monkeypatch):
    monkeypatch.delenv("nnUNet_wsl_bfloat16", raising=False)
    decided = bfloat16_on_cpu()
    monkeypatch.setenv("nnUNet_wsl_bfloat16", "")
    assert bfloat16_on_cpu() == decided


def test_another_value_is_refused(monkeypatch):
    monkeypatch.setenv("nnUNet_wsl_bfloat16", "yes")
    with pytest.raises(InputError, match="'yes'; expected 0, 1 or auto"):
        bfloat16_on_cpu()


def test_the_processor_decides_without_the_variable(monkeypatch):
    monkeypatch.delenv("nnUNet_wsl_bfloat16", raising=False)
    # Both probes are private to torch: they must still be there.
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        assert isinstance(getattr(torch.cpu, probe)(), bool)
        monkeypatch.setattr(torch.cpu, probe, lambda: False)
    assert bfloat16_on_cpu() is False
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert bfloat16_on_cpu() is True


class TwoLevels(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)

    def forward(self, image):
        return [self.layer(image), self.layer(image[..., ::2])]


@pytest.mark.parametrize("network", [nn.Conv2d(1, 2, 3), TwoLevels()])
def test_forward_in_bfloat16_only_while_enabled(network):
    torch.manual_seed(0)
    image = torch.randn(1, 1, 7, 11)
    exact = network(image)
    enabled = True
    autocast_forward(network, lambda: enabled)
    levels = network(image) if isinstance(exact, list) else [network(image)]
    for level, expected in zip(levels, exact if isinstance(exact, list) else [exact], strict=True):
        assert level.dtype == torch.float32  # losses are float32
        assert torch.equal(level, level.bfloat16().float())  # of a bfloat16 product
        torch.testing.assert_close(level, expected, atol=2e-2, rtol=2e-2)
        assert not torch.equal(level, expected)
    assert not torch.is_autocast_enabled("cpu")
    enabled = False
    torch.testing.assert_close(network(image), exact, atol=0, rtol=0)
