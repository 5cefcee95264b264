"""Relevance maps from a trained model: what it thinks of where contours run, and how sure it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from nnunet_wsl.errors import InputError
from nnunet_wsl.training.network import RelevanceHead


class _RelevanceOutput(nn.Module):
    """A network with a relevance head that returns its relevance logits only, at full resolution."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        _segmentation, relevance = self.network(image)
        return relevance  # type: ignore[no-any-return]


class RelevancePredictor:
    """Predict relevance maps with the models of one or more folds; their logits are averaged.

    Parameters
    ----------
    model : Path
        Folder of a trained model, with ``plans.json``, ``dataset.json`` and ``fold_X``.
    folds : sequence of int or str
        Folds to use, or ``("all",)``.
    checkpoint : str
        Name of the checkpoint in each fold.
    device : torch.device
        Where to predict.

    Raises
    ------
    InputError
        If a checkpoint is missing or has no relevance head.
    NotImplementedError
        For the second stage of a cascade.
    """

    def __init__(self, model: Path, folds: Sequence[int | str], checkpoint: str, device: torch.device) -> None:
        paths = [model / f"fold_{fold}" / checkpoint for fold in folds]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise InputError(
                f"Checkpoint '{path}' does not exist. Choose folds and -chk of a training." for path in missing
            )
        heads = [
            torch.load(path, map_location="cpu", weights_only=False, mmap=True).get("relevance_head") for path in paths
        ]
        without = [path for path, head in zip(paths, heads, strict=True) if head is None]
        if without:
            raise InputError(
                f"Checkpoint '{path}' has no relevance head: it was not trained with WSLTrainer." for path in without
            )
        if len({tuple(head["objects"]) for head in heads}) > 1:
            raise InputError(
                f"The folds {', '.join(map(str, folds))} in '{model}' have relevance maps of different objects: they "
                "were trained on different conversions. Choose folds of the same one with -f."
            )
        self.objects: tuple[str, ...] = tuple(heads[0]["objects"])
        self._weights_of_heads = [head["weights"] for head in heads]
        self._predictor = nnUNetPredictor(device=device, allow_tqdm=False)
        self._predictor.initialize_from_trained_model_folder(str(model), tuple(map(str, folds)), checkpoint)
        if self._predictor.configuration_manager.previous_stage_name is not None:
            raise NotImplementedError(
                "Relevance maps of a cascade's second stage are not supported. Predict with its 3d_lowres stage, or "
                "train 3d_fullres alone."
            )
        # nnU-Net compiles the network if nnUNet_compile says so.
        network = getattr(self._predictor.network, "_orig_mod", self._predictor.network)
        self._head = RelevanceHead(network, len(self.objects))
        self._predictor.network = _RelevanceOutput(network)
        # nnU-Net sizes its arrays by the number of labels and squashes regions with a sigmoid: one region per map.
        count = len(self.objects)
        regions = {str(k): [k, count + 1] for k in range(1, count + 1)}
        self._predictor.label_manager = LabelManager({"background": 0, **regions}, list(range(1, count + 1)))

    @property
    def file_ending(self) -> str:
        """Ending of the image files that the model was trained on."""
        return str(self._predictor.dataset_json["file_ending"])

    @property
    def num_image_channels(self) -> int:
        """Number of image channels that the model wants."""
        return len(self._predictor.dataset_json["channel_names"])

    def predict(self, images: Sequence[Path]) -> NDArray[np.float32]:
        """Predict the relevance maps of one case.

        Parameters
        ----------
        images : sequence of Path
            One file per image channel.

        Returns
        -------
        ndarray of float32, shape (R, z, y, x)
            Relevance in [0, 1] on the grid of the images, in the order of `objects`.
        """
        predictor = self._predictor
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case(
            [str(path) for path in images],
            None,
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.dataset_json,
        )
        total = torch.zeros(())
        for weights, rows in zip(predictor.list_of_parameters, self._weights_of_heads, strict=True):
            predictor.network.network.load_state_dict(weights)
            self._head.load_state_dict(rows)
            total = total + predictor.predict_sliding_window_return_logits(torch.from_numpy(data)).float().cpu()
        _, maps = convert_predicted_logits_to_segmentation_with_correct_shape(
            total / len(self._weights_of_heads),
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.label_manager,
            properties,
            return_probabilities=True,
            num_threads_torch=torch.get_num_threads(),
        )
        return np.asarray(maps, dtype=np.float32)


def predict_relevance(
    images: Path,
    output: Path,
    model: Path,
    *,
    folds: Sequence[int | str] = (0,),
    checkpoint: str = "checkpoint_final.pth",
    device: torch.device | None = None,
    continue_prediction: bool = False,
) -> list[Path]:
    """Predict the relevance maps of all cases in a folder and write one NIfTI per case and object.

    The files are named as nnU-Net names channels, ``CASE_0000.nii.gz`` and so on; ``relevance.json`` says which object
    each channel is.

    Parameters
    ----------
    images : Path
        Folder with ``CASE_0000`` ... as for ``nnUNetv2_predict``.
    output : Path
        Folder to write to.
    model, folds, checkpoint, device
        As for :class:`RelevancePredictor`.
    continue_prediction : bool
        Keep the maps that are there already instead of predicting them again.

    Returns
    -------
    list of Path
        The files of all cases.

    Raises
    ------
    InputError
        If there is no case or the checkpoint is not fit.
    """
    predictor = RelevancePredictor(model, folds, checkpoint, device or torch.device("cpu"))
    ending = predictor.file_ending
    found = get_identifiers_from_splitted_dataset_folder(str(images), ending) if images.is_dir() else ()
    cases = [str(case) for case in found]
    if not cases:
        raise InputError(f"No images CASE_0000{ending} in '{images}'. Give the folder that nnUNetv2_predict reads.")
    files = {case: sorted(images.glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}")) for case in cases}
    wrong = {case: len(found) for case, found in files.items() if len(found) != predictor.num_image_channels}
    if wrong:
        raise InputError(
            f"Case '{case}' has {count} channels in '{images}'; the model wants {predictor.num_image_channels}. Give "
            "images as nnUNetv2_predict reads them, without relevance channels."
            for case, count in wrong.items()
        )
    output.mkdir(parents=True, exist_ok=True)
    channels = {str(channel): name for channel, name in enumerate(predictor.objects)}
    (output / "relevance.json").write_text(json.dumps({"channel_names": channels}, indent=1) + "\n")
    written = []
    for case in tqdm(cases, "Predicting relevance", delay=2, unit="case"):
        paths = [output / f"{case}_{channel:04d}.nii.gz" for channel in range(len(predictor.objects))]
        written += paths
        if continue_prediction and all(path.exists() for path in paths):
            continue
        reference = sitk.ReadImage(str(files[case][0]))
        for path, values in zip(paths, predictor.predict(files[case]), strict=True):
            volume = sitk.GetImageFromArray(values if reference.GetDimension() == 3 else values[0])
            volume.CopyInformation(reference)
            partial = path.with_name(f".{path.name}")
            try:
                sitk.WriteImage(volume, str(partial), useCompression=True)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    return written
