"""Checkpoints on disk, read with one clear error for damaged ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnunet_wsl.errors import InputError, described


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of nnU-Net's to the CPU; if its format allows it, tensors stay in the file until they are used.

    Raises
    ------
    InputError
        If it cannot be read, or is no checkpoint of nnU-Net's.
    """
    try:
        checkpoint = _load(path)
    except Exception as error:  # unpickling raises whatever it meets in a damaged file
        raise InputError(
            f"Checkpoint '{path}' cannot be read ({described(error)}). If it is damaged, copy it again or train again; "
            "if it needs a package, install that."
        ) from error
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise InputError(f"'{path}' is no checkpoint of nnU-Net's: it has no network_weights. Give another file.")
    return checkpoint


def _load(path: str | Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    except RuntimeError:  # files in torch's former format cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=False)


def relevance_head_of(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Any] | None:
    """Return what a checkpoint holds of its relevance head: its ``objects`` and its ``weights``; None if it has none.

    Raises
    ------
    InputError
        If it holds something else under this name.
    """
    head = checkpoint.get("relevance_head")
    if head is None:
        return None
    if (
        isinstance(head, dict)
        and isinstance(head.get("objects"), list | tuple)
        and isinstance(head.get("weights"), dict)
        and all(isinstance(rows, torch.Tensor) for rows in head["weights"].values())
    ):
        return head
    raise InputError(f"Checkpoint '{path}' has a relevance head of another form than WSLTrainer's. Copy it again.")
