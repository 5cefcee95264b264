from __future__ import annotations

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_wsl.training.transforms import RelevanceTransform

PATCH = (6, 14, 10)


def training_transforms(dummy_2d):
    return nnUNetTrainer.get_training_transforms(
        np.array(PATCH), (-0.4, 0.4), [[1, 1, 1], [1, 0.5, 0.5]], (0, 1, 2), dummy_2d, use_mask_for_norm=[False]
    )


class KeepSpatial(BasicTransform):
    """nnU-Net's transforms without those that change intensities only."""

    def __init__(self, transforms):
        self.transforms = transforms

    def __call__(self, **data):
        for transform in self.transforms.transforms:
            if "RandomTransform" not in type(transform).__name__:
                data = transform(**data)
        return data


@pytest.mark.parametrize("dummy_2d", [False, True])
def test_relevance_moves_with_the_image(dummy_2d):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - what batchgeneratorsv2 draws from
    transform = RelevanceTransform(KeepSpatial(training_transforms(dummy_2d)), num_image_channels=2)
    for _ in range(8):
        image = torch.rand(2, 6 if dummy_2d else 9, 19, 15)
        sample = transform(image=torch.cat([image, image.flip(0)]), segmentation=torch.zeros(1, *image.shape[1:]))
        assert sample["image"].shape == (2, *PATCH)
        *levels, relevance = sample["segmentation"]
        assert [tuple(level.shape) for level in levels] == [(1, 6, 14, 10), (1, 6, 7, 5)]
        torch.testing.assert_close(relevance, sample["image"].flip(0))


def test_intensity_transforms_leave_relevance_alone():
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002
    transform = RelevanceTransform(training_transforms(dummy_2d=False), num_image_channels=1)
    changed = 0
    for _ in range(25):
        image = torch.cat([torch.rand(1, 20, 40, 36), torch.full((2, 20, 40, 36), 0.25)])
        sample = transform(image=image, segmentation=torch.zeros(1, 20, 40, 36))
        relevance = sample["segmentation"][-1]
        assert relevance.shape == (2, *PATCH)
        torch.testing.assert_close(relevance, torch.full((2, *PATCH), 0.25))
        changed += bool((sample["image"] > 1.001).any() or (sample["image"] < -0.001).any())
    assert changed  # the intensity transforms did run


def test_overshoot_of_resampling_is_clipped():
    class Nothing(BasicTransform):
        def __call__(self, **data):
            return data

    sample = RelevanceTransform(Nothing(), 1)(
        image=torch.tensor([0.0, -0.1, 0.4, 1.2]).reshape(4, 1, 1), segmentation=torch.zeros(1, 1, 1)
    )
    mask, relevance = sample["segmentation"]
    assert mask.shape == (1, 1, 1)
    torch.testing.assert_close(relevance.flatten(), torch.tensor([0.0, 0.4, 1.0]))


def test_fused_relevance_is_the_maximum_and_its_confidence_the_minimum():
    class Nothing(BasicTransform):
        def __call__(self, **data):
            return data

    image = torch.tensor([0.5, 0.2, 0.7, 1.0, 0.4]).reshape(5, 1, 1)
    segmentation = torch.zeros(1, 1, 1)
    with_confidence = RelevanceTransform(Nothing(), 1, fuse=2)(image=image, segmentation=segmentation)
    assert with_confidence["segmentation"][-1].flatten().tolist() == pytest.approx([0.7, 0.4])
    without = RelevanceTransform(Nothing(), 1, fuse=2)(image=image[:3], segmentation=segmentation)
    assert without["segmentation"][-1].flatten().tolist() == pytest.approx([0.7])
