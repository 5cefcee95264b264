"""Relevance channels through nnU-Net's augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert3DTo2DTransform

from nnunet_wsl.training.maps import MapsPatch, as_float


class RelevanceTransform(BasicTransform):  # type: ignore[misc]
    """Take the relevance channels off the image, run nnU-Net's transforms, and append relevance to the target.

    The relevance channels, with the confidence channels behind them if there are any, travel as batchgeneratorsv2's
    regression target: spatial transforms move them together with the image, intensity transforms leave them alone.

    A :class:`CompactMapsLoader` leaves the relevance channels on disk and sets `patch` before each sample; from any
    other loader they come as channels of the image. It also sets `compact`: relevance may then come out as uint8 in
    steps of 1/255, which :func:`nnunet_wsl.training.maps.as_float` undoes where the batch is used.

    Parameters
    ----------
    transforms : BasicTransform
        nnU-Net's own transforms for image and segmentation. If they begin with the spatial transform, that one is
        replaced by one that does the same and reads and interpolates compact maps.
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
        self.patch: MapsPatch | None = None
        self.compact = False
        self._reads_compact_maps = _replace_spatial_transform(transforms)

    def apply(self, data_dict: dict[str, Any], **_params: Any) -> dict[str, Any]:
        """Transform one sample.

        Parameters
        ----------
        data_dict : dict
            ``image`` (C + R, *spatial) float, or (C, *spatial) if `patch` is set, and ``segmentation``
            (1 or 2, *spatial) int.
        **_params
            Unused; part of batchgeneratorsv2's interface.

        Returns
        -------
        dict
            ``image`` (C, *spatial) and ``segmentation``: the list of nnU-Net's segmentation targets (one per
            deep supervision level), then one float tensor of relevance in [0, 1], (R, *spatial), or with the confidence
            in it (2 R, *spatial); uint8 if `compact` is set and the maps were read in that form.
        """
        image = data_dict["image"]
        data_dict["image"] = image[: self.num_image_channels]
        if self.patch is None:
            data_dict["regression_target"] = image[self.num_image_channels :]
        elif self._reads_compact_maps:
            data_dict["regression_target"] = self.patch
        else:
            data_dict["regression_target"] = as_float(self.patch.read())
        self.patch = None  # the next sample has another
        data_dict = self.transforms(**data_dict)
        relevance: torch.Tensor = data_dict.pop("regression_target")
        if relevance.is_floating_point():
            relevance = relevance.clamp(0, 1)  # resampling in preprocessing is cubic and can leave [0, 1]
        elif not self.compact:
            relevance = as_float(relevance)
        if self.fuse is not None:
            sample, *confidence = torch.split(relevance, self.fuse)
            relevance = torch.stack([sample.amax(0), *(maps.amin(0) for maps in confidence)])
        segmentation = data_dict["segmentation"]
        levels = segmentation if isinstance(segmentation, list) else [segmentation]
        data_dict["segmentation"] = [*levels, relevance]
        return data_dict


class CompactMapsSpatialTransform(BasicTransform):  # type: ignore[misc]
    """nnU-Net's spatial transform, for a regression target that is a :class:`MapsPatch`.

    Parameters
    ----------
    stages : sequence of BasicTransform
        The spatial transform, alone or between nnU-Net's conversions to pseudo-2D and back.
    """

    def __init__(self, stages: Sequence[BasicTransform]) -> None:
        super().__init__()
        self.stages = list(stages)

    def apply(self, data_dict: dict[str, Any], **_params: Any) -> dict[str, Any]:
        """Transform one sample; the regression target becomes a tensor (T, *spatial) uint8."""
        patch = data_dict.get("regression_target")
        if isinstance(patch, MapsPatch):
            del data_dict["regression_target"]
        for stage in self.stages:
            params = stage.get_parameters(**data_dict)
            data_dict = stage.apply(data_dict, **params)
            if isinstance(patch, MapsPatch) and isinstance(stage, SpatialTransform):
                grid = params["grid"]
                maps = (
                    patch.crop(params["center_location_in_pixels"], stage.patch_size)
                    if grid is None
                    else patch.sample(grid)
                )
        if isinstance(patch, MapsPatch):
            data_dict["regression_target"] = maps
        return data_dict


def _replace_spatial_transform(transforms: BasicTransform) -> bool:
    """Make nnU-Net's transforms read compact maps; return whether they do."""
    if not isinstance(transforms, ComposeTransforms) or not transforms.transforms:
        return False
    stages = transforms.transforms[: 3 if isinstance(transforms.transforms[0], Convert3DTo2DTransform) else 1]
    spatial = stages[len(stages) // 2]
    if not isinstance(spatial, SpatialTransform) or (
        spatial.mode_image,
        spatial.padding_mode_image,
        spatial.align_corners,
    ) != ("bilinear", "zeros", False):
        return False
    transforms.transforms[: len(stages)] = [CompactMapsSpatialTransform(stages)]
    return True
