"""Checkpoints on disk, read with one clear error for damaged ones."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from nnunet_wsl.errors import InputError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net's, to the CPU; its tensors stay in the file until they are used.

    Raises
    ------
    InputError
        If it cannot be read, or is no checkpoint of nnU-Net's.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = last_line(error)
        raise InputError(f"Checkpoint '{path}' cannot be read ({reason}). Copy it again, or train again.") from error
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise InputError(f"'{path}' is no checkpoint of nnU-Net's: it has no network_weights. Give another file.")
    return checkpoint


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message: libraries say there what is wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
