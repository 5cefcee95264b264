"""bfloat16 on CPUs that multiply it in hardware."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nnunet_wsl.errors import InputError

VARIABLE = "nnUNet_wsl_bfloat16"


def bfloat16_on_cpu() -> bool:
    """Whether training on a CPU runs the network in bfloat16.

    The environment variable ``nnUNet_wsl_bfloat16`` decides (1 or 0). Without it, bfloat16 is used where the CPU
    multiplies it in hardware (AMX or AVX512-BF16), which is several times faster than float32 there.

    Raises
    ------
    InputError
        If the variable has another value.
    """
    choice = (os.environ.get(VARIABLE) or "auto").lower()
    if choice in ("1", "true", "t"):
        return True
    if choice in ("0", "false", "f"):
        return False
    if choice != "auto":
        raise InputError(
            f"The environment variable {VARIABLE} is '{choice}'; expected 0, 1 or auto. Set it to one of these."
        )
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def autocast_forward(network: nn.Module, enabled: Callable[[], bool]) -> None:
    """Run the forward pass of a network under bfloat16 autocast on the CPU; its outputs are float32 for the loss.

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    enabled : callable
        Asked at every forward pass.
    """
    stock_forward = network.forward

    def forward(*args: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled()):
            output = stock_forward(*args)
        return [level.float() for level in output] if isinstance(output, list | tuple) else output.float()

    network.forward = forward
