"""nnU-Net's loader: patches that stay in the image, and target maps that are read in compact form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import file_ending_dataset_mapping, nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_trainer

from nnunet_wsl.errors import InputError, last_line, reason_of
from nnunet_wsl.training.maps import MapsPatch, is_whole, open_maps, write_maps

MAPS_FOLDER_SUFFIX = "_target_maps"
"""The compact maps of the cases in a preprocessed folder ``X`` are in the folder ``X_target_maps`` beside it.

Not in ``X`` itself, where nnU-Net takes every file for a case.
"""


@lru_cache(maxsize=128)
def _open_maps(path: Path, _modified_ns: int) -> Any:
    """Open a file of compact maps, or return it as it was opened before; its time tells it from an earlier one."""
    return open_maps(path)


def can_keep_maps(preprocessed: Path) -> bool:
    """Whether compact maps can be written beside a preprocessed folder; makes their folder."""
    folder = _maps_folder(preprocessed)
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@contextmanager
def loading_with(loader: type[nnUNetDataLoader]) -> Iterator[None]:
    """Let nnU-Net's trainers make their loaders of this class."""
    # There is no hook for it: they take the class from the module of nnUNetTrainer. A trainer that takes it from
    # elsewhere gets stock patches, and the relevance channels with the image, which is slower.
    stock = nnunet_trainer.nnUNetDataLoader
    nnunet_trainer.nnUNetDataLoader = loader
    try:
        yield
    finally:
        nnunet_trainer.nnUNetDataLoader = stock


def _maps_folder(preprocessed: Path) -> Path:
    return preprocessed.with_name(f"{preprocessed.name}{MAPS_FOLDER_SUFFIX}")


class ImageChannels:
    """The first channels of a preprocessed case, read when they are sliced.

    Parameters
    ----------
    data : array-like with shape and slicing
        (C + T, z, y, x).
    count : int
        C.
    """

    def __init__(self, data: Any, count: int) -> None:
        self.data = data
        self.shape = (count, *data.shape[1:])

    def __getitem__(self, index: tuple[slice, ...]) -> Any:
        """Return image channels: the index begins with one for the channels, as nnU-Net's does."""
        channels, *spatial = index
        return self.data[(slice(*channels.indices(self.shape[0])), *spatial)]


class CompactMapsDataset:
    """A dataset of nnU-Net's that gives the image channels, and the maps of the case apart.

    The file with a case's compact maps is written when a process first loads the case, unless there is one that carries
    the time of the preprocessed case. Processes that do so at the same time write the same, each in one step.

    Parameters
    ----------
    stock : nnUNetBaseDataset
        Gives the preprocessed cases, image channels first.
    num_image_channels : int
        C; the channels after them are the maps.
    """

    def __init__(self, stock: nnUNetBaseDataset, num_image_channels: int) -> None:
        self.stock = stock
        self.identifiers = stock.identifiers
        self.num_image_channels = num_image_channels
        self.maps: Any = None
        """Compact maps (T, z, y, x) of the case that was loaded last."""
        self._files: dict[str, tuple[Path, int]] = {}

    def load_case(self, identifier: str) -> tuple[Any, ...]:
        """Load a case as nnU-Net does, without its maps; these are in `maps` then."""
        data, *rest = self.stock.load_case(identifier)
        if identifier not in self._files:
            self._files[identifier] = self._prepare(identifier, data)
        self.maps = _open_maps(*self._files[identifier])
        return (ImageChannels(data, self.num_image_channels), *rest)

    def _prepare(self, identifier: str, data: Any) -> tuple[Path, int]:
        """Return the case's file of compact maps, after writing it where need be, and its time."""
        folder = Path(self.stock.source_folder)
        sources = [folder / f"{identifier}.{ending}" for ending in file_ending_dataset_mapping]
        modified = next(path.stat().st_mtime_ns for path in sources if path.is_file())
        path = _maps_folder(folder) / f"{identifier}.b2nd"
        shape = (data.shape[0] - self.num_image_channels, *data.shape[1:])
        if not (path.is_file() and path.stat().st_mtime_ns == modified and is_whole(path, shape)):
            path.parent.mkdir(exist_ok=True)  # it may have been deleted between trainings
            try:
                write_maps(data, self.num_image_channels, path, modified)
            except (OSError, RuntimeError) as error:  # blosc2 raises the latter where the disk is full
                reason = reason_of(error) if isinstance(error, OSError) else last_line(error)
                raise InputError(
                    f"Case '{identifier}': its maps cannot be written to {path.parent} ({reason}). Free some space "
                    "there, or make that folder read-only: the maps are then read with the image, more slowly."
                ) from error
            except ValueError as error:
                raise InputError(f"Case '{identifier}', preprocessed: {error} Convert and preprocess again.") from error
        return path, modified


class PatchesInImageLoader(nnUNetDataLoader):  # type: ignore[misc]
    """nnU-Net's loader, whose patches stay in the image.

    nnU-Net draws patches at random in the image, and the margin around it that augmentation needs. Those that are to
    show a certain label, and with an ignore label all others too, it centres on a voxel instead, and clips them at one
    side of the image only: many then consist of padding to a large part and show little of the objects (nnU-Net's pull
    request 3033 reports it). Here such a patch is moved, as little as that takes, to where nnU-Net could have drawn it
    at random; it still shows the voxel.
    """

    def get_bbox(self, data_shape: Any, *args: Any, **kwargs: Any) -> tuple[list[int], list[int]]:
        """Draw the patch as nnU-Net does, then move it into the image."""
        lower, _ = super().get_bbox(data_shape, *args, **kwargs)
        # nnU-Net's bounds, which are local to its method: half of the padding, rounded up, is on either side.
        shape, patch = np.array(data_shape), np.array(self.patch_size)
        padding = np.maximum(self.need_to_pad, patch - shape)
        last = shape + padding // 2 + padding % 2 - patch
        start = np.minimum(lower, last)
        return start.tolist(), (start + patch).tolist()


class CompactMapsLoader(PatchesInImageLoader):
    """nnU-Net's loader for a :class:`RelevanceTransform`, which it tells where in the case each patch lies.

    The parameters are nnU-Net's.
    """

    def __init__(self, data: nnUNetBaseDataset, *args: Any, transforms: Any, **kwargs: Any) -> None:
        dataset = CompactMapsDataset(data, transforms.num_image_channels)
        super().__init__(dataset, *args, transforms=transforms, **kwargs)
        transforms.compact = True

    def get_bbox(self, data_shape: Any, *args: Any, **kwargs: Any) -> tuple[list[int], list[int]]:
        """Draw the patch, and tell where it lies."""
        lower, upper = super().get_bbox(data_shape, *args, **kwargs)
        self.transforms.patch = MapsPatch(self._data.maps, lower, self.patch_size, self.patch_size_was_2d)
        return lower, upper
