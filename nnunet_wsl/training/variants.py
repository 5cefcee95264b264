"""Trainers by name, as nnU-Net does it: lengths of training and forms of the loss."""

# ruff: noqa: N801 - the names follow nnU-Net's own variants, nnUNetTrainer_5epochs and so on

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam1en3

from nnunet_wsl.training.trainer import RelevanceSupervision, WSLTrainer


class WSLTrainer_1epoch(WSLTrainer):
    """``WSLTrainer`` for 1 epoch."""

    epochs = 1


class WSLTrainer_5epochs(WSLTrainer):
    """``WSLTrainer`` for 5 epochs."""

    epochs = 5


class WSLTrainer_10epochs(WSLTrainer):
    """``WSLTrainer`` for 10 epochs."""

    epochs = 10


class WSLTrainer_20epochs(WSLTrainer):
    """``WSLTrainer`` for 20 epochs."""

    epochs = 20


class WSLTrainer_50epochs(WSLTrainer):
    """``WSLTrainer`` for 50 epochs."""

    epochs = 50


class WSLTrainer_100epochs(WSLTrainer):
    """``WSLTrainer`` for 100 epochs."""

    epochs = 100


class WSLTrainer_250epochs(WSLTrainer):
    """``WSLTrainer`` for 250 epochs."""

    epochs = 250


class WSLTrainerRelevanceOnly(WSLTrainer):
    """First difference alone: the segmentation head is not trained.

    For studies of the relevance itself; predicted masks of such a model mean nothing.
    """

    mask_weight = 0.0


class WSLTrainerMaskOnly(WSLTrainer):
    """Second difference alone: nnU-Net's loss, with patches that stay in the image."""

    relevance_weight = 0.0


class WSLTrainerFused(WSLTrainer):
    """One relevance map for all objects, whatever the dataset has."""

    fuse_objects = True


class WSLTrainerDemo(RelevanceSupervision, nnUNetTrainerAdam1en3):  # type: ignore[misc]
    """For ``nnunet_wsl demo``: a few short epochs, with Adam, for nnU-Net's SGD has hardly started by then."""

    epochs = 5

    def initialize(self) -> None:
        """Shorten the epochs, then initialize."""
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 40, 5
        super().initialize()
