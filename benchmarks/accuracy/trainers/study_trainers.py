"""The arms of the accuracy studies: same budget, same precision, same seeds.

nnU-Net finds them through ``nnUNet_extTrainer``; ``study.py`` sets the budget in the environment.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib import rcParams
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam
from scipy import ndimage
from torch import nn
from torch.nn.functional import conv3d, cross_entropy, interpolate, pad

from nnunet_wsl.contract import INTERPOLATED_CONFIDENCE
from nnunet_wsl.training.loader import CompactMapsLoader, PatchesInImageLoader, loading_with
from nnunet_wsl.training.loss import CombinedLoss
from nnunet_wsl.training.network import RelevanceHead
from nnunet_wsl.training.precision import autocast_forward, bfloat16_on_cpu
from nnunet_wsl.training.trainer import WSLTrainer


class Study(nnUNetTrainer):  # type: ignore[misc]
    """Budget and seed from the environment."""

    length: ClassVar[float] = 1
    """Multiple of the budget's epochs."""

    def initialize(self) -> None:
        self.num_epochs = round(self.length * int(os.environ["STUDY_EPOCHS"]))
        self.num_iterations_per_epoch = int(os.environ["STUDY_ITERATIONS_PER_EPOCH"])
        self.num_val_iterations_per_epoch = max(1, self.num_iterations_per_epoch // 10)
        # Short epochs would be spent on saving: a tenth of the training is lost at most, and nothing reads the best.
        self.save_every = max(1, self.num_epochs // 10)
        self._best_ema = float("inf")
        rcParams["figure.dpi"] = 10  # the curves are drawn after every epoch, in full size for two seconds
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


class StudyStockInImage(StudyStock):
    """Stock, but for the patches: they stay in the image as those of `WSLTrainer` do."""

    def get_dataloaders(self) -> tuple[Any, Any]:
        with loading_with(PatchesInImageLoader):
            return super().get_dataloaders()  # type: ignore[no-any-return]


class StudyWSL(Study, WSLTrainer):
    """The package's default trainer."""


class StudyWSLStockPatches(StudyWSL):
    """The package's default trainer, but for the patches: they are nnU-Net's own."""

    def get_dataloaders(self) -> tuple[Any, Any]:
        return nnUNetTrainer.get_dataloaders(self)  # type: ignore[no-any-return]


_DRAWN_CONFIDENCE = (1 + INTERPOLATED_CONFIDENCE) / 2
"""Confidence from which on a voxel is drawn, after augmentation has mixed it with its neighbours."""


def ignore_interpolated(target: list[torch.Tensor], chosen: torch.Tensor, ignore_label: int) -> list[torch.Tensor]:
    """Ignore in some patches what was interpolated; a patch that shows nothing that was drawn stays as it is.

    Parameters
    ----------
    target : list of torch.Tensor
        Segmentation target of every level, (B, 1, *spatial), then R maps of relevance and R maps of the confidence in
        it, (B, 2 R, *spatial), uint8 in steps of 1/255 or float.
    chosen : torch.Tensor
        (B,) bool.
    ignore_label : int
        Label of ignored voxels.
    """
    *levels, maps = target
    relevance, confidence = maps.tensor_split(2, dim=1)
    least = _DRAWN_CONFIDENCE if maps.is_floating_point() else 255 * _DRAWN_CONFIDENCE
    drawn = (confidence >= least).all(1, keepdim=True)
    changes = chosen & drawn.flatten(1).any(1)
    stays = drawn | ~changes.view(-1, *[1] * (maps.ndim - 1))
    changed = [  # as nnU-Net brings the segmentation to its levels
        level.masked_fill(interpolate(stays.float(), level.shape[2:], mode="nearest-exact") == 0, ignore_label)
        for level in levels
    ]
    return [*changed, torch.cat([relevance, confidence.masked_fill(~stays, 0)], 1)]


class StudyWSLFade(StudyWSL):
    """What was interpolated is ignored in ever more patches: in none of the first epoch, in nearly all of the last.

    Interpolated contours supervise many voxels, and most of them far from where the contour runs: that may teach a
    network fast where an object is, and draw it away from the contours that were drawn, where it must become exact.
    """

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on one batch, some of whose patches show what was drawn alone."""
        chosen = torch.rand(len(batch["data"])) < self.current_epoch / self.num_epochs
        target = ignore_interpolated(batch["target"], chosen, self.label_manager.ignore_label)
        return super().train_step({**batch, "target": target})


class ObjectPatches(PatchesInImageLoader):
    """Every patch of the training shows an object; in validation a part of them do, as ever."""

    share: ClassVar[float] = 1.0
    """Probability that a patch does that need not."""

    def get_bbox(
        self, data_shape: Any, force_fg: bool, class_locations: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[int], list[int]]:
        """Draw the patch as nnU-Net does if it is to show an object."""
        if self._is_training:
            force_fg = force_fg or random.random() < self.share
        return super().get_bbox(data_shape, force_fg, class_locations, *args, **kwargs)

    @property
    def _is_training(self) -> bool:
        """Augmentation, which needs a margin, tells the patches of the training from those of the validation."""
        return tuple(self.patch_size) != tuple(self.final_patch_size)


class ObjectPatchesLoader(ObjectPatches, CompactMapsLoader):
    """Patches that show an object, and the relevance in compact form."""


class MostlyObjectPatchesLoader(ObjectPatchesLoader):
    """Most patches of the training show an object: of batches of 2, five in six instead of one in two."""

    share = 2 / 3


class RelevantPatchesLoader(ObjectPatchesLoader):
    """Every patch of the training is centred on a voxel that is drawn with its relevance, times its confidence."""

    num_relevance: ClassVar[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._relevant: dict[str, np.ndarray] = {}

    def get_bbox(
        self, data_shape: Any, force_fg: bool, class_locations: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[int], list[int]]:
        """Draw the patch as nnU-Net does if it is to show an object, but around a relevant voxel."""
        if self._is_training:
            class_locations = {1: self._relevant_voxels()}
        return super().get_bbox(data_shape, force_fg, class_locations, *args, **kwargs)

    def _relevant_voxels(self) -> np.ndarray:
        """Voxels of the case that was loaded last, as nnU-Net keeps those of a class."""
        compact = self._data.maps
        case = compact.schunk.urlpath
        if case not in self._relevant:
            relevance, confidence = np.split(compact[:].astype(np.float64), [self.num_relevance])
            weight = np.cumsum((relevance * confidence if len(confidence) else relevance).max(axis=0))
            chosen = np.searchsorted(weight, np.random.default_rng(0).uniform(0, weight[-1], 10_000), side="right")
            voxels = np.unravel_index(np.minimum(chosen, weight.size - 1), compact.shape[1:])
            self._relevant[case] = np.stack([np.zeros_like(chosen), *voxels], axis=1)
        return self._relevant[case]


class StudyWSLObjectPatches(StudyWSL):
    """Every patch of the training shows an object, instead of a third or, in batches of 2, half of them."""

    loader: ClassVar[type[ObjectPatchesLoader]] = ObjectPatchesLoader

    def get_dataloaders(self) -> tuple[Any, Any]:
        with loading_with(self.loader):
            return nnUNetTrainer.get_dataloaders(self)  # type: ignore[no-any-return]


class StudyStockObjectPatches(StudyStock):
    """Stock, but for the patches: they stay in the image, and every patch of the training shows an object."""

    def get_dataloaders(self) -> tuple[Any, Any]:
        with loading_with(ObjectPatches):
            return super().get_dataloaders()  # type: ignore[no-any-return]


class StudyWSLMostlyObjectPatches(StudyWSLObjectPatches):
    """Five in six patches of the training show an object."""

    loader = MostlyObjectPatchesLoader


class StudyWSLRelevantPatches(StudyWSL):
    """Every patch of the training is centred where the relevance is high."""

    def get_dataloaders(self) -> tuple[Any, Any]:
        class Loader(RelevantPatchesLoader):
            num_relevance = len(self.relevance_channels.objects)

        with loading_with(Loader):
            return nnUNetTrainer.get_dataloaders(self)  # type: ignore[no-any-return]


class CompletedDataset:
    """nnU-Net's dataset with other segmentations.

    Parameters
    ----------
    stock : nnUNetBaseDataset
        Gives the rest of the preprocessed cases.
    segmentations : dict of str to ndarray
        (1, z, y, x) by case.
    """

    def __init__(self, stock: Any, segmentations: dict[str, np.ndarray]) -> None:
        self.stock = stock
        self.identifiers = stock.identifiers
        self.source_folder = stock.source_folder
        self.segmentations = segmentations

    def load_case(self, identifier: str) -> tuple[Any, ...]:
        """Load a case as nnU-Net does, but for its segmentation."""
        data, _, *rest = self.stock.load_case(identifier)
        return (data, self.segmentations[identifier], *rest)


class StudyWSLTaught(StudyWSL):
    """Self-training: what nobody drew is completed by a first model and the interpolation, and a second model trained.

    The first model is `StudyWSL` on the same slices, ignored between, with the same seed, which must be trained. The
    label of a voxel that was not drawn is the likeliest under the product of the first model's probabilities, with
    mirroring, and the interpolation's. For datasets converted with ``--between interpolate`` as `PriorLoss` has them.
    """

    certainty: ClassVar[float] = 0.0
    """Voxels whose likeliest label is less probable are ignored."""

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return nnU-Net's datasets; the training cases are completed."""
        training, validation = super().get_tr_and_val_datasets()
        teacher = self._teacher()
        segmentations = {case: self._complete(teacher, *training.load_case(case)[:2]) for case in training.identifiers}
        return CompletedDataset(training, segmentations), validation

    def _teacher(self) -> nnUNetPredictor:
        fold = Path(self.output_folder)
        model, dataset = fold.parent, fold.parents[1]
        title = dataset.name.split("_", 1)[1].replace("Interpolate", "Ignore")
        (dataset,) = dataset.parent.glob(f"Dataset*_{title}")
        predictor = nnUNetPredictor(device=self.device, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(
            str(dataset / model.name.replace(type(self).__name__, StudyWSL.__name__)), (self.fold,)
        )
        return predictor

    def _complete(self, teacher: nnUNetPredictor, data: Any, segmentation: Any) -> np.ndarray:
        channels = self.relevance_channels
        images, maps = channels.num_image_channels, len(channels.objects)
        drawn_labels = np.asarray(segmentation[:])
        confidence = torch.from_numpy(np.clip(data[images + maps :], 0, 1))
        logits = teacher.predict_sliding_window_return_logits(torch.from_numpy(data[:images])).float().cpu()
        label = torch.from_numpy(drawn_labels.astype(np.int16))
        odds = torch.log_softmax(logits, 0) + log_prior(label[None], confidence[None])[0]
        likeliest, completed = torch.softmax(odds, 0).max(0, keepdim=True)
        completed[likeliest < self.certainty] = self.label_manager.ignore_label
        stays = (confidence >= _DRAWN_CONFIDENCE).all(0, keepdim=True) | (label < 0)
        return torch.where(stays, label, completed).numpy().astype(drawn_labels.dtype)


class StudyWSLTaughtGated(StudyWSLTaught):
    """Self-training with those labels alone that are sure."""

    certainty = 0.95


class StudyWSLTwice(StudyWSL):
    """Twice the iterations, which is what self-training takes with its first model."""

    length = 2


class StudyWSLHalf(StudyWSL):
    """Half of the iterations."""

    length = 0.5


class StudyStockInImageHalf(StudyStockInImage):
    """Half of the iterations, on the same patches."""

    length = 0.5


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


class DeepRelevanceHead:
    """A relevance head with one more layer: its rows read features of its own instead of the segmentation's.

    Before the rows of every level comes a convolution of 3 voxels a side with normalisation and activation. What
    nnU-Net reads of the network is as without them.

    Parameters
    ----------
    network : nn.Module
        A U-Net of nnU-Net's for volumes, whose output layers are widened.
    rows : RelevanceHead
        The head that widened them.
    """

    def __init__(self, network: nn.Module, rows: RelevanceHead) -> None:
        self.rows = rows
        self.disabled = rows.disabled
        with torch.random.fork_rng(devices=[]):
            self.hidden = nn.ModuleList(self._layer(layer) for layer in rows.layers.values())
        network.add_module("relevance_hidden", self.hidden)  # for the optimiser
        # torch marks the hook, which a method would not let it.
        network.register_state_dict_post_hook(partial(self._forget))  # type: ignore[no-untyped-call]
        network.register_load_state_dict_pre_hook(self._remember)  # type: ignore[no-untyped-call]
        for hidden, layer in zip(self.hidden, rows.layers.values(), strict=True):
            layer.register_forward_hook(partial(self._deepen, hidden))

    @staticmethod
    def _layer(row: Any) -> nn.Module:
        channels = row.in_channels
        layer = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1), nn.InstanceNorm3d(channels, affine=True), nn.LeakyReLU()
        )
        return layer.to(row.weight.device)

    def _deepen(self, hidden: nn.Module, layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        first = self.rows.num_segmentation
        bias = None if layer.bias is None else layer.bias[first:]
        return torch.cat([output[:, :first], conv3d(hidden(inputs[0]), layer.weight[first:], bias)], 1)

    def _forget(self, _network: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
        for name in self.hidden.state_dict(prefix=f"{prefix}relevance_hidden."):
            del state[name]

    def _remember(self, _network: nn.Module, state: dict[str, Any], prefix: str, *_unused: Any) -> None:
        state.update(self.hidden.state_dict(prefix=f"{prefix}relevance_hidden."))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return rows and hidden layers."""
        return self.rows.state_dict() | self.hidden.state_dict(prefix="hidden.")

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load what `state_dict` returned."""
        own = {name.removeprefix("hidden."): value for name, value in state.items() if name.startswith("hidden.")}
        self.hidden.load_state_dict(own)
        self.rows.load_state_dict({name: value for name, value in state.items() if not name.startswith("hidden.")})


class StudyWSLDeepHead(StudyWSL):
    """A relevance head with one more layer."""

    def _build_with_relevance_head(  # nnU-Net looks at the signature
        self,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        network = super()._build_with_relevance_head(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        assert isinstance(self.relevance_head, RelevanceHead)
        self.relevance_head = DeepRelevanceHead(network, self.relevance_head)  # type: ignore[assignment]
        return network


class StudyWSLCrossEntropyDecay(StudyWSLCrossEntropy):
    """Another form of the first difference, whose weight falls to 0 at half-time."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.loss.relevance_weight = self.relevance_weight * max(0.0, 1 - 2 * self.current_epoch / self.num_epochs)


def _rebuilt(kind: type[CombinedLoss], loss: CombinedLoss) -> CombinedLoss:
    return kind(
        loss.second_difference,
        loss.num_relevance,
        loss.known_voxels,
        loss.relevance_weight,
        loss.mask_weight,
        loss.voxel_difference,
    )


class FinestLevelOnly(CombinedLoss):
    """Relevance without deep supervision: its coarser levels are computed, but teach nothing."""

    def forward(self, output: list[torch.Tensor], target: list[torch.Tensor]) -> torch.Tensor:
        finest = len(output) // 2
        coarser = [logits.detach() for logits in output[finest + 1 :]]
        return super().forward([*output[: finest + 1], *coarser], target)


class StudyWSLFinest(StudyWSL):
    """Relevance without deep supervision."""

    def _build_loss(self) -> CombinedLoss:
        return _rebuilt(FinestLevelOnly, super()._build_loss())


class PriorLoss(CombinedLoss):
    """The interpolation as a prior: with one more term, the marginal likelihood of what it says about undrawn voxels.

    The mask loss is that of the drawn voxels alone. To it comes the mean over the undrawn ones of
    -log sum_k prior_k p_k: a constant where the prior knows nothing, cross-entropy where it is sure, and in between
    the network makes up its mind. For labels 1 to R without regions, converted with ``--between interpolate``, of which
    some are ignored.

    What was drawn is told by its confidence of 1. It is less where augmentation has mixed a drawn slice with its
    neighbours, where the image is zero, outside of it, and where one object is known and another is not: there too the
    prior counts, not the label.
    """

    ignore_label: int

    def forward(self, output: list[torch.Tensor], target: list[torch.Tensor]) -> torch.Tensor:
        levels = len(output) // 2
        masks, maps = target[:levels], target[levels]
        confidence = maps[:, self.num_relevance :]
        drawn = (confidence >= _DRAWN_CONFIDENCE).all(1, keepdim=True)
        marginal = output[0].new_zeros((), dtype=torch.float32)
        drawn_masks = []
        weights: tuple[float, ...] = self.second_difference.weight_factors  # type: ignore[assignment]
        for weight, logits, mask in zip(weights, output, masks, strict=False):
            is_drawn = interpolate(drawn.float(), mask.shape[2:], mode="nearest-exact") > 0
            drawn_masks.append(mask.masked_fill(~is_drawn, self.ignore_label))
            if weight:
                sure = interpolate(confidence, mask.shape[2:], mode="nearest-exact")
                undrawn = ~is_drawn & (mask != self.ignore_label)
                likelihood = torch.logsumexp(torch.log_softmax(logits.float(), 1) + log_prior(mask, sure), 1)
                marginal = marginal - weight * (likelihood * undrawn[:, 0]).sum() / undrawn.sum().clamp(min=1)
        return super().forward(output, [*drawn_masks, maps]) + marginal


def log_prior(mask: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """Logarithm of the probability of background and of each object, (B, 1 + R, *spatial).

    Parameters
    ----------
    mask : torch.Tensor
        (B, 1, *spatial), 0 for the background and 1 to R: the likelier side of every object's contour.
    confidence : torch.Tensor
        (B, R, *spatial): twice the probability of that side, minus 1.
    """
    labels = torch.arange(1, 1 + confidence.shape[1], device=mask.device).view(1, -1, *[1] * (mask.ndim - 2))
    inside = (1 + torch.where(mask == labels, confidence, -confidence)) / 2
    inside = inside.clamp(1e-3, 1 - 1e-3)
    odds = torch.log(inside) - torch.log1p(-inside)
    return torch.log_softmax(torch.cat([torch.zeros_like(odds[:, :1]), odds], 1), 1)


class StudyWSLPrior(StudyWSL):
    """The interpolation as a prior of undrawn voxels, instead of their label."""

    def _build_loss(self) -> CombinedLoss:
        loss = _rebuilt(PriorLoss, super()._build_loss())
        loss.ignore_label = self.label_manager.ignore_label
        return loss


def implied_relevance(inside: torch.Tensor, spacing_mm_zyx: Sequence[float], sigma_mm: Sequence[float]) -> torch.Tensor:
    """Return the relevance by distance that probabilities of being inside imply, in [0, 1], differentiable.

    A voxel belongs to the contour as much as it is more surely inside than the least sure of its four neighbours in the
    slice; its relevance elsewhere falls off as a Gaussian, and the largest counts. Distances up to `_REACH_VOX` voxels
    along each axis do.

    Parameters
    ----------
    inside : torch.Tensor
        (B, R, z, y, x).
    spacing_mm_zyx : sequence of float
        Of the voxels.
    sigma_mm : sequence of float
        Scale of each object.
    """
    padded = pad(inside, (1, 1, 1, 1, 0, 0))
    neighbours = (padded[..., :-2, 1:-1], padded[..., 2:, 1:-1], padded[..., 1:-1, :-2], padded[..., 1:-1, 2:])
    relevance = inside - torch.stack((inside, *neighbours)).amin(0)
    sigma = torch.tensor(sigma_mm, device=inside.device).view(1, -1, 1, 1, 1)
    for axis, spacing_mm in zip((2, 3, 4), spacing_mm_zyx, strict=True):
        length = relevance.shape[axis]
        sides = [0, 0] * (4 - axis) + [_REACH_VOX] * 2
        padded = pad(relevance, sides)
        # A Gaussian of the distance is the product of those along the axes, so the largest is found axis by axis.
        relevance = torch.stack(
            [
                padded.narrow(axis, _REACH_VOX + step, length) * torch.exp(-((step * spacing_mm / sigma) ** 2) / 2)
                for step in range(-_REACH_VOX, _REACH_VOX + 1)
            ]
        ).amax(0)
    return relevance


_REACH_VOX = 3


class ConsistentLoss(CombinedLoss):
    """With one more term: the difference between the predicted relevance and that which the predicted mask implies.

    It is the mean absolute difference over all voxels, drawn or not, plus that over those of high relevance, weighted
    by it; its own weight rises with the training. For labels 1 to R, in three dimensions.
    """

    settings: tuple[list[float], list[float]]
    """Spacing in mm (z, y, x), and sigma in mm of each object."""
    consistency_weight = 0.0

    def forward(self, output: list[torch.Tensor], target: list[torch.Tensor]) -> torch.Tensor:
        loss = super().forward(output, target)
        inside = torch.softmax(output[0].float(), 1)[:, 1:]
        implied = implied_relevance(inside, *self.settings)
        predicted = torch.sigmoid(output[len(output) // 2].float())
        difference = (predicted - implied).abs()
        near = torch.maximum(predicted, implied).detach()
        term = difference.mean() + (near * difference).sum() / near.sum().clamp(min=1)
        return loss + self.consistency_weight * term / 2


class StudyWSLConsistent(StudyWSL):
    """Predicted mask and predicted relevance shall agree, between the drawn slices too."""

    def _build_loss(self) -> CombinedLoss:
        loss = _rebuilt(ConsistentLoss, super()._build_loss())
        assert isinstance(loss, ConsistentLoss)
        loss.settings = self.configuration_manager.spacing, self.dataset_json["wsl"]["relevance_settings"]["sigma_mm"]
        return loss

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.loss.consistency_weight = self.current_epoch / self.num_epochs


class FocusedLoss(CombinedLoss):
    """With one more term: the cross-entropy of the mask, averaged over known voxels with the relevance as weight."""

    def forward(self, output: list[torch.Tensor], target: list[torch.Tensor]) -> torch.Tensor:
        loss = super().forward(output, target)
        mask = target[0][:, :1]
        known = self.known_voxels(mask)
        near = target[len(output) // 2][:, : self.num_relevance].amax(1, keepdim=True)
        if known is not None:
            near, mask = near * known, mask * known
        difference = cross_entropy(output[0].float(), mask[:, 0].long(), reduction="none")
        return loss + (near[:, 0] * difference).sum() / near.sum().clamp(min=1)


class StudyWSLFocused(StudyWSL):
    """Relevance as a target, and as the weight of the mask's cross-entropy."""

    def _build_loss(self) -> CombinedLoss:
        return _rebuilt(FocusedLoss, super()._build_loss())


class StudyFocused(StudyWSLFocused):
    """Relevance as the weight of the mask's cross-entropy only."""

    relevance_weight = 0.0


class StudySignedDistance(StudyWSL):
    """A head for truncated signed distances, as peers have it, in the place of the relevance head.

    Its target is 0.5 on the contour and rises to 1 inside, falls to 0 outside, as the relevance falls. For labels
    1 to R and contours that are known everywhere.
    """

    def _with_float_maps(self, batch: dict[str, Any]) -> dict[str, Any]:
        *levels, maps = super()._with_float_maps(batch)["target"]
        inside = [levels[0][:, :1] == label for label in range(1, maps.shape[1] + 1)]
        sign = 2 * torch.cat(inside, 1).to(maps) - 1
        return {**batch, "target": [*levels, (1 + sign * (1 - maps)) / 2]}


class BoundaryLoss(nn.Module):
    """nnU-Net's loss plus the boundary loss of Kervadec et al. (2019), whose weight rises with the training.

    The boundary loss of an object is the mean over the voxels of its predicted probability times the signed distance
    to its boundary in voxels, negative inside; those of the objects are averaged. For labels 1 to R, without ignored
    voxels.
    """

    def __init__(self, second_difference: nn.Module) -> None:
        super().__init__()
        self.second_difference = second_difference
        self.weight = 0.0

    def forward(self, output: list[torch.Tensor], target: list[torch.Tensor]) -> torch.Tensor:
        probability = torch.softmax(output[0].float(), 1)[:, 1:]
        mask = target[0][:, 0].cpu().numpy()
        distances = [
            [_signed_distance_vox(case == label) for label in range(1, probability.shape[1] + 1)] for case in mask
        ]
        boundary = (probability * torch.from_numpy(np.array(distances)).to(probability)).mean()
        loss: torch.Tensor = self.second_difference(output, target) + self.weight * boundary
        return loss


def _signed_distance_vox(mask: np.ndarray) -> np.ndarray:
    """Distance to the boundary, negative inside; 0 everywhere without the object, as in the authors' code."""
    if not mask.any():
        return np.zeros(mask.shape)
    outside: np.ndarray = ndimage.distance_transform_edt(~mask)
    inside: np.ndarray = ndimage.distance_transform_edt(mask)
    return np.where(mask, 1 - inside, outside)


class StudyBoundary(StudyStock):
    """Boundary loss, without relevance. Its weight rises from 0 to 1."""

    def _build_loss(self) -> BoundaryLoss:
        return BoundaryLoss(super()._build_loss())

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.loss.weight = self.current_epoch / self.num_epochs
