"""What of the trainer needs no training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_wsl.errors import InputError
from nnunet_wsl.training.trainer import RelevanceSupervision, WSLTrainer


@pytest.mark.parametrize(
    ("labels", "order", "segmentation", "known"),
    [
        ({"background": 0, "a": 1}, None, [[0, 1]], None),
        ({"background": 0, "a": 1, "ignore": 2}, None, [[0, 2]], [True, False]),
        # Two regions, and behind them what is ignored.
        ({"background": 0, "a": [1, 2], "b": 2, "ignore": 3}, [1, 2], [[1, 0], [0, 0], [0, 1]], [True, False]),
    ],
)
def test_known_voxels(labels, order, segmentation, known):
    trainer = SimpleNamespace(label_manager=LabelManager(labels, order))
    found = RelevanceSupervision._known_voxels(trainer, torch.tensor(segmentation)[None, :, None])
    assert (found if found is None else found.flatten().tolist()) == known


def test_a_form_of_the_first_difference_that_is_none():
    wrong = type("Wrong", (WSLTrainer,), {"voxel_difference": "l2"})
    with pytest.raises(InputError, match=r"Wrong\.voxel_difference is 'l2'; expected 'smooth_l1' or "):
        wrong({}, "2d", 0, {})
