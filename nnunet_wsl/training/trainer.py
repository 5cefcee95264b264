"""Relevance supervision as a mixin for nnU-Net's trainers, and ``WSLTrainer``."""

from __future__ import annotations

from glob import escape
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist
from torch import nn

from nnunet_wsl.contract import FUSED, RelevanceChannels
from nnunet_wsl.errors import InputError, described
from nnunet_wsl.training.checkpoints import read_checkpoint, relevance_head_of
from nnunet_wsl.training.loader import CompactMapsLoader, PatchesInImageLoader, can_keep_maps, loading_with
from nnunet_wsl.training.loss import VOXEL_DIFFERENCES, CombinedLoss
from nnunet_wsl.training.maps import as_float
from nnunet_wsl.training.network import RelevanceHead
from nnunet_wsl.training.precision import autocast_forward, bfloat16_on_cpu
from nnunet_wsl.training.progress import append_differences_plot
from nnunet_wsl.training.transforms import RelevanceTransform

_SPLITS = ("train", "val")


class RelevanceSupervision(nnUNetTrainer):  # type: ignore[misc]
    """Mixin: train with the first difference (relevance) beside the trainer's own loss (second difference).

    Put it before any trainer of nnU-Net's: ``class MyTrainer(RelevanceSupervision, nnUNetTrainerDA5): ...``. The
    dataset must have relevance channels, as ``nnunet_wsl convert`` writes them. Checkpoints are those of the
    trainer that it is mixed into: stock nnU-Net predicts with them.
    """

    dataset_class: Any
    enable_deep_supervision: bool

    epochs: ClassVar[int | None] = None
    """Number of epochs, if other than the trainer's own."""
    relevance_weight: ClassVar[float] = 1.0
    """Lambda, the weight of the first difference."""
    mask_weight: ClassVar[float] = 1.0
    """Weight of the second difference."""
    voxel_difference: ClassVar[str] = "smooth_l1"
    """Form of the first difference, a key of :data:`nnunet_wsl.training.loss.VOXEL_DIFFERENCES`."""
    fuse_objects: ClassVar[bool] = False
    """Whether to train with one relevance map, the maximum over the objects, instead of one per object."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature, which it inspects
    ) -> None:
        """Set up as nnU-Net does, for the image channels only.

        The parameters are nnU-Net's and must keep their names.

        Raises
        ------
        InputError
            If the dataset has no relevance channels, or `voxel_difference` is none of the known ones.
        """
        if self.voxel_difference not in VOXEL_DIFFERENCES:
            raise InputError(
                f"{type(self).__name__}.voxel_difference is {self.voxel_difference!r}; expected "
                f"{' or '.join(map(repr, VOXEL_DIFFERENCES))}. Correct it."
            )
        self.relevance_channels = RelevanceChannels.from_dataset_json(dataset_json, plans["dataset_name"])
        super().__init__(
            self.relevance_channels.image_plans(plans),
            configuration,
            fold,
            self.relevance_channels.image_dataset_json(dataset_json),
            device,
        )
        if self.epochs is not None:
            self.num_epochs = self.epochs
        self.relevance_objects = (FUSED,) if self.fuse_objects else self.relevance_channels.objects
        self.relevance_head: RelevanceHead | None = None
        for key in ("first_difference", "second_difference", "sub_differences"):
            for split in _SPLITS:
                self.logger.local_logger.my_fantastic_logging[f"{split}_{key}"] = []

    def initialize(self) -> None:
        """Initialize as nnU-Net does, with a relevance head on the network."""
        # Shadowed on the instance only: nnU-Net calls the class's static method to build networks for inference.
        self.build_network_architecture = self._build_with_relevance_head
        super().initialize()

    def _build_with_relevance_head(
        self,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        stock: Any = type(self)
        network: nn.Module = stock.build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        head = self.relevance_head = RelevanceHead(network, len(self.relevance_objects))
        if self.device.type == "cpu" and bfloat16_on_cpu():
            self.print_to_log_file("Training with bfloat16 autocast on this CPU.")
            # The final validation, with the head disabled, predicts in float32 as nnUNetv2_predict does.
            autocast_forward(network, lambda: head.enabled)
        return network

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders, whose patches stay in the image, and which read the relevance in compact form."""
        compact = can_keep_maps(Path(self.preprocessed_dataset_folder))
        if not compact:
            self.print_to_log_file(
                f"The folder of compact maps beside '{self.preprocessed_dataset_folder}' cannot be written: the "
                "relevance channels are loaded with the image, which is slower."
            )
        with loading_with(CompactMapsLoader if compact else PatchesInImageLoader):
            loaders: tuple[Any, Any] = super().get_dataloaders()
        if loaders[0] is None:
            raise NotImplementedError(
                f"{type(self).__name__} trains on made-up batches, which have no relevance. Mix RelevanceSupervision "
                "into a trainer that loads the dataset, such as nnUNetTrainerBenchmark_5epochs."
            )
        return loaders

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return nnU-Net's datasets, whose cases must have the channels that ``dataset.json`` lists."""
        datasets: tuple[Any, Any] = super().get_tr_and_val_datasets()
        cases = {case: dataset for dataset in datasets for case in dataset.identifiers}
        if problems := [
            problem for case, dataset in sorted(cases.items()) if (problem := self._problem_of(dataset, case))
        ]:
            raise InputError(problems)
        return datasets

    def _problem_of(self, dataset: Any, case: str) -> str | None:
        """Say what keeps a preprocessed case from being trained on."""
        channels = self.relevance_channels
        images, maps = channels.num_image_channels, len(channels.objects)
        confidences = maps if channels.has_confidence else 0
        try:
            count = len(_open_case(dataset, case)[0])
        except InputError as error:
            return str(error)
        if count != images + maps + confidences:
            return (
                f"Case '{case}': preprocessed, it has {count} channels; its dataset.json lists {images} of the image, "
                f"{maps} of relevance and {confidences} of confidence. It was converted anew: plan and preprocess "
                "again."
            )
        return None

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> RelevanceTransform:
        """Return nnU-Net's training transforms, with relevance moved along."""
        return self._with_relevance(super().get_training_transforms(*args, **kwargs))

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> RelevanceTransform:
        """Return nnU-Net's validation transforms, with relevance moved along."""
        return self._with_relevance(super().get_validation_transforms(*args, **kwargs))

    def _with_relevance(self, transforms: BasicTransform) -> RelevanceTransform:
        channels = self.relevance_channels
        return RelevanceTransform(
            transforms, channels.num_image_channels, len(channels.objects) if self.fuse_objects else None
        )

    def _build_loss(self) -> CombinedLoss:
        return CombinedLoss(
            super()._build_loss(),
            len(self.relevance_objects),
            self._known_voxels,
            relevance_weight=self.relevance_weight,
            mask_weight=self.mask_weight,
            voxel_difference=VOXEL_DIFFERENCES[self.voxel_difference],
        )

    def _known_voxels(self, segmentation: torch.Tensor) -> torch.Tensor | None:
        """Bool mask (B, 1, *spatial) of the voxels that the annotation determines; None if all are."""
        if not self.label_manager.has_ignore_label:
            return None
        if self.label_manager.has_regions:
            # nnU-Net appends the ignored voxels as the last region.
            return torch.eq(segmentation[:, -1:], 0)
        return torch.ne(segmentation[:, :1], self.label_manager.ignore_label)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on one batch as nnU-Net does."""
        result: dict[str, Any] = super().train_step(self._with_float_maps(batch))
        return result

    def _with_float_maps(self, batch: dict[str, Any]) -> dict[str, Any]:
        *levels, maps = batch["target"]
        if maps.dtype == torch.uint8:  # a quarter of the memory and of the way to the device
            maps = as_float(maps.to(self.device, non_blocking=True))
        return {**batch, "target": [*levels, maps]}

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Evaluate one batch as nnU-Net does, on the segmentation logits.

        nnU-Net takes the first of the outputs and targets if deep supervision is on; with a relevance head there
        are always several of both.
        """
        deep_supervision = self.enable_deep_supervision
        self.enable_deep_supervision = True
        try:
            result: dict[str, Any] = super().validation_step(self._with_float_maps(batch))
        finally:
            self.enable_deep_supervision = deep_supervision
        return result

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the loss, as nnU-Net does, and both differences."""
        super().on_train_epoch_end(train_outputs)
        self._log_differences("train")

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log loss and pseudo Dice, as nnU-Net does, and both differences."""
        super().on_validation_epoch_end(val_outputs)
        self._log_differences("val")

    def _log_differences(self, split: str) -> None:
        averages = self.loss.take_averages()
        if self.is_ddp:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, averages)
            averages = np.mean(gathered, 0)
        first, second, *subs = (float(value) for value in averages)
        self.logger.log(f"{split}_first_difference", first, self.current_epoch)
        self.logger.log(f"{split}_second_difference", second, self.current_epoch)
        self.logger.log(f"{split}_sub_differences", subs, self.current_epoch)
        per_object = ", ".join(f"{o} {s:.4f}" for o, s in zip(self.relevance_objects, subs, strict=True))
        self.print_to_log_file(f"{split}: first difference {first:.4f} ({per_object}), second difference {second:.4f}")

    def on_epoch_end(self) -> None:
        """Finish the epoch as nnU-Net does, and add both differences to ``progress.png``."""
        super().on_epoch_end()
        if self.local_rank == 0:
            logged = self.logger.local_logger.my_fantastic_logging
            append_differences_plot(
                Path(self.output_folder) / "progress.png",
                {
                    split: {
                        "first": logged[f"{split}_first_difference"],
                        "second": logged[f"{split}_second_difference"],
                    }
                    for split in _SPLITS
                },
            )

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate as nnU-Net does: image channels in, segmentation logits out."""
        num_image_channels = self.relevance_channels.num_image_channels
        stock_dataset_class = self.dataset_class

        class ImageChannelsDataset(stock_dataset_class):  # type: ignore[misc,valid-type]
            def load_case(self, identifier: str) -> tuple[Any, ...]:
                data, *rest = super().load_case(identifier)
                return (data[:num_image_channels], *rest)

        assert self.relevance_head is not None
        self.dataset_class = ImageChannelsDataset
        try:
            with self.relevance_head.disabled():
                super().perform_actual_validation(save_probabilities)
        finally:
            self.dataset_class = stock_dataset_class

    def save_checkpoint(self, filename: str) -> None:
        """Save a checkpoint that stock nnU-Net reads; the relevance rows are in it under a key of their own."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        assert self.relevance_head is not None
        # nnU-Net writes a checkpoint, it does not return one: let it write to memory, and complete that.
        with BytesIO() as written:
            super().save_checkpoint(written)
            written.seek(0)
            checkpoint = torch.load(written, map_location="cpu", weights_only=False)
        checkpoint["trainer_name"] = self._stock_trainer_name()
        checkpoint["relevance_head"] = {
            "objects": self.relevance_objects,
            # As all else in it: nnU-Net's -pretrained_weights loads a checkpoint to where it was saved from.
            "weights": {name: rows.cpu() for name, rows in self.relevance_head.state_dict().items()},
        }
        # Moved into place in one step. Its name is always the same, so that the next one replaces what a kill leaves.
        partial = Path(f"{filename}.partial")
        try:
            # Without numpy's numbers torch loads it as weights only, which some of nnU-Net's trainers ask of it.
            torch.save(_plain(checkpoint), partial)
            partial.replace(filename)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def _stock_trainer_name(cls) -> str:
        """Name of the trainer that this mixin was mixed into; nnU-Net builds the network for inference with it."""
        return next(
            c.__name__ for c in cls.__mro__ if issubclass(c, nnUNetTrainer) and not issubclass(c, RelevanceSupervision)
        )

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint of this trainer, relevance rows included."""
        checkpoint = filename_or_checkpoint
        if isinstance(checkpoint, str):
            checkpoint = read_checkpoint(checkpoint)  # nnU-Net loads it a second time, to the device
        head = relevance_head_of(checkpoint, str(filename_or_checkpoint))
        if head is None:
            raise InputError(
                f"Checkpoint {filename_or_checkpoint} has no relevance head: it was not written by "
                f"{type(self).__name__}. Start from its weights with -pretrained_weights instead of --c."
            )
        if tuple(head["objects"]) != self.relevance_objects:
            raise InputError(
                f"Checkpoint {filename_or_checkpoint} has relevance maps of {', '.join(head['objects'])}; this "
                f"training has {', '.join(self.relevance_objects)}. If the dataset was converted anew, train from the "
                "start, without --c; else go on with the trainer that wrote the checkpoint."
            )
        super().load_checkpoint(filename_or_checkpoint)
        assert self.relevance_head is not None
        self.relevance_head.load_state_dict(head["weights"])


def _open_case(dataset: Any, case: str) -> tuple[Any, ...]:
    try:
        opened: tuple[Any, ...] = dataset.load_case(case)
    except Exception as error:  # nnU-Net's datasets pass on whatever their libraries raise
        stage = dataset.folder_with_segs_from_previous_stage
        if stage is not None and not any(Path(stage).glob(f"{escape(case)}.*")):
            raise InputError(
                f"Case '{case}' has no segmentation of the previous stage in '{stage}'. Train the other folds of that "
                "stage first: each predicts the cases that it validates on."
            ) from error
        raise InputError(
            f"Case '{case}' cannot be read from '{dataset.source_folder}' ({described(error)}). Preprocess again, or "
            "take it out of splits_final.json."
        ) from error
    return opened


def _plain(value: Any) -> Any:
    """Replace numpy's numbers by Python's, in nested dicts and lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    return value


class WSLTrainer(RelevanceSupervision, nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's trainer with relevance supervision."""
