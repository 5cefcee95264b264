"""The trainers for nnU-Net's ``-tr``: the environment variable ``nnUNet_extTrainer`` names this folder.

nnU-Net forgets every module that it imported from that folder, so the classes themselves live in the package.
"""

from nnunet_wsl.training.trainer import WSLTrainer
from nnunet_wsl.training.variants import (
    WSLTrainer_1epoch,
    WSLTrainer_5epochs,
    WSLTrainer_10epochs,
    WSLTrainer_20epochs,
    WSLTrainer_50epochs,
    WSLTrainer_100epochs,
    WSLTrainer_250epochs,
    WSLTrainerDemo,
    WSLTrainerFused,
    WSLTrainerMaskOnly,
    WSLTrainerRelevanceOnly,
)

__all__ = [
    "WSLTrainer",
    "WSLTrainerDemo",
    "WSLTrainerFused",
    "WSLTrainerMaskOnly",
    "WSLTrainerRelevanceOnly",
    "WSLTrainer_1epoch",
    "WSLTrainer_5epochs",
    "WSLTrainer_10epochs",
    "WSLTrainer_20epochs",
    "WSLTrainer_50epochs",
    "WSLTrainer_100epochs",
    "WSLTrainer_250epochs",
]
