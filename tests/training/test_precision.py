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


def test_forward_in_bfloat16_only_while_enabled():
    network, image = nn.Conv2d(1, 2, 3), torch.randn(1, 1, 7, 5)
    enabled = True
    autocast_forward(network, lambda: enabled)
    assert network(image).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cpu")
    enabled = False
    assert network(image).dtype == torch.float32
