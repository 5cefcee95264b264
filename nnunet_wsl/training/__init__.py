"""Relevance supervision for nnU-Net's trainers."""

from nnunet_wsl.training.trainer import RelevanceSupervision, WSLTrainer

__all__ = ["RelevanceSupervision", "WSLTrainer"]
