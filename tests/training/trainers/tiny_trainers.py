"""Trainers of the tests, found by nnU-Net as users' own are: one epoch of two iterations."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_Primus_S_Trainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
    nnUNetTrainerNoMirroring,
)
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)

from nnunet_wsl.training.trainer import RelevanceSupervision, WSLTrainer
from nnunet_wsl.training.variants import WSLTrainerFused, WSLTrainerMaskOnly


class Tiny:
    def initialize(self):
        self.num_epochs = 1
        self.num_iterations_per_epoch = 2
        self.num_val_iterations_per_epoch = 1
        super().initialize()


class TinyWSL(Tiny, WSLTrainer):
    pass


class TinyWSLTwoEpochs(TinyWSL):
    def initialize(self):
        super().initialize()
        self.num_epochs = 2


class TinyWSLFused(Tiny, WSLTrainerFused):
    pass


class TinyWSLMaskOnly(Tiny, WSLTrainerMaskOnly):
    pass


class TinyStock(Tiny, nnUNetTrainer):
    pass


class TinyWSLDA5(Tiny, RelevanceSupervision, nnUNetTrainerDA5):
    pass


class TinyWSLNoMirroring(Tiny, RelevanceSupervision, nnUNetTrainerNoMirroring):
    pass


class TinyWSLNoDeepSupervision(Tiny, RelevanceSupervision, nnUNetTrainerNoDeepSupervision):
    pass


class TinyWSLPrimus(Tiny, RelevanceSupervision, nnUNet_Primus_S_Trainer):
    pass


class MadeUpBatches(nnUNetTrainer):
    """As nnU-Net's benchmarks without data loading, which want a GPU."""

    def get_dataloaders(self):
        return None, None


class TinyWSLMadeUpBatches(Tiny, RelevanceSupervision, MadeUpBatches):
    pass
