"""Relevance channels through nnU-Net's augmentation."""

from __future__ import annotations

from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform


class RelevanceTransform(BasicTransform):  # type: ignore[misc]
    """Take the relevance channels off the image, run nnU-Net's transforms, and append relevance to the target.

    The relevance channels, with the confidence channels behind them if there are any, travel as batchgeneratorsv2's
    regression target: spatial transforms move them together with the image, intensity transforms leave them alone.

    Parameters
    ----------
    transforms : BasicTransform
        nnU-Net's own transforms for image and segmentation.
    num_image_channels : int
        Channels of the incoming image that are image; the rest is relevance and confidence.
    fuse : int, optional
        Fuse the relevance of so many objects into one map, their maximum; the confidence in it is their minimum.
    """

    def __init__(self, transforms: BasicTransform, num_image_channels: int, fuse: int | None = None) -> None:
        super().__init__()
        self.transforms = transforms
        self.num_image_channels = num_image_channels
        self.fuse = fuse

    def apply(self, data_dict: dict[str, Any], **_params: Any) -> dict[str, Any]:
        """Transform one sample.

        Parameters
        ----------
        data_dict : dict
            ``image`` (C + R, *spatial) float and ``segmentation`` (1 or 2, *spatial) int.
        **_params
            Unused; part of batchgeneratorsv2's interface.

        Returns
        -------
        dict
            ``image`` (C, *spatial) and ``segmentation``: the list of nnU-Net's segmentation targets (one per
            deep supervision level), then one float tensor of relevance in [0, 1], (R, *spatial), or with the confidence
            in it (2 R, *spatial).
        """
        image = data_dict["image"]
        data_dict["image"] = image[: self.num_image_channels]
        data_dict["regression_target"] = image[self.num_image_channels :]
        data_dict = self.transforms(**data_dict)
        # Resampling in preprocessing is cubic and can leave [0, 1].
        relevance: torch.Tensor = data_dict.pop("regression_target").clamp(0, 1)
        if self.fuse is not None:
            sample, *confidence = torch.split(relevance, self.fuse)
            relevance = torch.stack([sample.amax(0), *(maps.amin(0) for maps in confidence)])
        segmentation = data_dict["segmentation"]
        levels = segmentation if isinstance(segmentation, list) else [segmentation]
        data_dict["segmentation"] = [*levels, relevance]
        return data_dict
