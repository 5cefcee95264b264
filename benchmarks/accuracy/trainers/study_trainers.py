"""The arms of the accuracy studies: same budget, same precision, same seeds.

nnU-Net finds them through ``nnUNet_extTrainer``; ``study.py`` sets the budget in the environment.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam

from nnunet_wsl.training.precision import autocast_forward, bfloat16_on_cpu
from nnunet_wsl.training.trainer import WSLTrainer


class Study(nnUNetTrainer):  # type: ignore[misc]
    """Budget and seed from the environment."""

    def initialize(self) -> None:
        self.num_epochs = int(os.environ["STUDY_EPOCHS"])
        self.num_iterations_per_epoch = int(os.environ["STUDY_ITERATIONS_PER_EPOCH"])
        self.num_val_iterations_per_epoch = max(1, self.num_iterations_per_epoch // 10)
        self.save_every = 1
        seed = int(os.environ["STUDY_SEED"])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loader draws from it
        torch.manual_seed(seed)
        if "OMP_NUM_THREADS" in os.environ:  # nnU-Net takes all cores of the machine
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        super().initialize()
        if self.device.type == "cpu" and len(self.configuration_manager.patch_size) == 3:
            # The same network, but convolutions of few channels take a third less time this way.
            self.network.to(memory_format=torch.channels_last_3d)

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Return nnU-Net's optimiser, or that of its ``nnUNetTrainerAdam1en3``."""
        if os.environ["STUDY_OPTIMISER"] == "adam":
            self.initial_lr = 1e-3
            return nnUNetTrainerAdam.configure_optimizers(self)  # type: ignore[no-any-return]
        return super().configure_optimizers()  # type: ignore[no-any-return]

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing: the study scores other cases."""


class StudyStock(Study, nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's own trainer and loss; relevance channels must be absent from its dataset."""

    def initialize(self) -> None:
        super().initialize()
        if self.device.type == "cpu" and bfloat16_on_cpu():
            autocast_forward(self.network, lambda: True)


class StudyWSL(Study, WSLTrainer):
    """The package's default trainer."""


class StudyWSLWeight03(StudyWSL):
    """Less weight on the relevance."""

    relevance_weight = 0.3


class StudyWSLWeight3(StudyWSL):
    """More weight on the relevance."""

    relevance_weight = 3.0


class StudyWSLSquaredError(StudyWSL):
    """Another form of the first difference."""

    voxel_difference = "squared_error"


class StudyWSLCrossEntropy(StudyWSL):
    """Another form of the first difference."""

    voxel_difference = "cross_entropy"


class StudyWSLFused(StudyWSL):
    """One relevance map for all objects."""

    fuse_objects = True


class StudyWSLCrossEntropyDecay(StudyWSLCrossEntropy):
    """Another form of the first difference, whose weight falls to 0 at half-time."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.loss.relevance_weight = self.relevance_weight * max(0.0, 1 - 2 * self.current_epoch / self.num_epochs)
