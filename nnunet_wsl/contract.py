"""The contract between conversion and training: the block ``"wsl"`` of ``dataset.json``.

A converted dataset lists its image channels first, then its relevance channels, then, if there are any, the confidence
channels of these. The block says which channels are which and of which object; whatever else conversion records there
(scales, rules) is for the reader of the dataset and for whoever repeats the conversion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from nnunet_wsl.errors import InputError

FORMAT_VERSION = 2
"""Version of the converted dataset's format; a reader refuses newer ones. Version 1 had no confidence channels."""

FUSED = "fused"
"""Name of the one relevance channel of a dataset whose sub-relevances were fused."""

INTERPOLATED_CONFIDENCE = 251 / 256
"""The largest confidence of what was interpolated between drawn slices; that of what was drawn is 1.

Half precision holds it exactly, and it is 250 steps of 1/255.
"""

_CONVERT = "Convert the contours with 'nnunet_wsl convert', then plan with 'nnUNetv2_plan_and_preprocess'"


def target_channels(dataset_json: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the numbers, as ``dataset.json`` has them, of the channels of relevance and of confidence."""
    block = dataset_json.get("wsl")
    parts = [block.get(key) for key in ("relevance_channels", "confidence_channels")] if isinstance(block, dict) else []
    return tuple(number for part in parts if isinstance(part, dict) for number in part)


@dataclass(frozen=True)
class RelevanceChannels:
    """The relevance channels of a converted dataset.

    Parameters
    ----------
    num_image_channels : int
        Number of image channels; they come first.
    objects : tuple of str
        The object of each relevance channel, in channel order, or (``FUSED``,).
    has_confidence : bool
        Whether a confidence channel for each relevance channel follows, in the same order: in [0, 1], how much the
        relevance counts at each voxel. Without, it counts where the label map is not ``ignore``.
    """

    num_image_channels: int
    objects: tuple[str, ...]
    has_confidence: bool = False

    @classmethod
    def from_dataset_json(cls, dataset_json: dict[str, Any], name: str) -> RelevanceChannels:
        """Read the relevance channels from the content of ``dataset.json``.

        Parameters
        ----------
        dataset_json : dict
            Content of nnU-Net's ``dataset.json``.
        name : str
            Name of the dataset, for messages.

        Raises
        ------
        InputError
            If the dataset has no relevance channels, was written by a newer version, or lists channels that do not
            come last; or if what it says of them is nothing that a conversion writes.
        """
        block = dataset_json.get("wsl")
        if block is None:
            raise InputError(
                f"{name} has no relevance channels: its dataset.json has no block 'wsl'. "
                f"{_CONVERT}, or train it with nnU-Net's own nnUNetTrainer."
            )
        if not isinstance(block, dict):
            raise InputError(f"{name}: the block 'wsl' of its dataset.json is no JSON object. {_CONVERT}.")
        version = block.get("format_version")
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise InputError(
                f"{name} has format version {json.dumps(version)} (written by nnunet_wsl "
                f"{block.get('package_version', 'of unknown version')}); this nnunet_wsl reads versions 1 to "
                f"{FORMAT_VERSION}. Install a newer nnunet_wsl, or convert the contours again."
            )
        relevance = _objects_of(block, "relevance_channels", name)
        if not relevance:
            raise InputError(
                f"{name} was converted without relevance channels (--relevance none). "
                f"{_CONVERT} and --relevance per-object or fused, or train it with nnU-Net's own nnUNetTrainer."
            )
        confidence = _objects_of(block, "confidence_channels", name)
        names = dataset_json.get("channel_names")
        num_channels = len(names) if isinstance(names, dict) else 0
        if not isinstance(names, dict) or set(names) != {str(channel) for channel in range(num_channels)}:
            raise InputError(
                f"{name}: its dataset.json has the channel_names {json.dumps(names)}; expected a name for every number "
                f"from 0. {_CONVERT}."
            )
        num_image_channels = num_channels - len(relevance) - len(confidence)
        targets = [*sorted(relevance), *sorted(confidence)]
        if num_image_channels < 1 or targets != list(range(num_image_channels, num_channels)):
            raise InputError(
                f"{name}: its dataset.json lists relevance channels {sorted(relevance)} and confidence channels "
                f"{sorted(confidence)} among {num_channels} channels; expected image channels first, then relevance, "
                f"then confidence. {_CONVERT}."
            )
        objects = tuple(relevance[c] for c in sorted(relevance))
        if confidence and objects != tuple(confidence[c] for c in sorted(confidence)):
            raise InputError(
                f"{name}: its dataset.json has relevance of {', '.join(objects)}, but confidence of "
                f"{', '.join(confidence[c] for c in sorted(confidence))}; expected the same. {_CONVERT}."
            )
        return cls(num_image_channels, objects, bool(confidence))

    def image_dataset_json(self, dataset_json: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of ``dataset.json`` that lists the image channels only; the block ``"wsl"`` stays."""
        images = deepcopy(dataset_json)
        images["channel_names"] = {
            channel: name for channel, name in images["channel_names"].items() if int(channel) < self.num_image_channels
        }
        return images

    def image_plans(self, plans: dict[str, Any]) -> dict[str, Any]:
        """Return a copy of nnU-Net's plans whose per-channel entries cover the image channels only."""
        images = deepcopy(plans)
        properties = "foreground_intensity_properties_per_channel"
        if properties in images:
            images[properties] = {
                channel: value
                for channel, value in images[properties].items()
                if int(channel) < self.num_image_channels
            }
        for configuration in images["configurations"].values():
            for key in ("normalization_schemes", "use_mask_for_norm"):
                if key in configuration:
                    configuration[key] = configuration[key][: self.num_image_channels]
        return images


def _objects_of(block: Mapping[str, Any], key: str, name: str) -> dict[int, str]:
    """Return the object of every channel that a part of the block lists."""
    listed = block.get(key, {})
    if not (
        isinstance(listed, dict)
        and all(number.isdecimal() and isinstance(listed[number], str) for number in listed)
        and len(set(listed.values())) == len(listed)
    ):
        raise InputError(
            f"{name}: its dataset.json has the {key} {json.dumps(listed)}; expected another object's name for every "
            f"number of a channel. {_CONVERT}."
        )
    return {int(number): obj for number, obj in listed.items()}
