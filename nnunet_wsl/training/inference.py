"""Relevance maps from a trained model: what it thinks of where contours run, and how sure it is."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn
from tqdm import tqdm

from nnunet_wsl.errors import InputError, counted, described, last_line
from nnunet_wsl.files import check_complete, is_text, name_problems, read_json, replacing
from nnunet_wsl.training.checkpoints import read_checkpoint, relevance_head_of
from nnunet_wsl.training.network import RelevanceHead

_LOG = logging.getLogger(__name__)

# nnU-Net's readers whose arrays can be laid back on the grid of the file.
_READERS = ("SimpleITKIO", "NibabelIO", "NibabelIOWithReorient", "NaturalImage2DIO", "Tiff3DIO")

_NEEDED = {
    "dataset.json": ("channel_names", "file_ending", "labels"),
    "plans.json": (
        "configurations", "dataset_name", "image_reader_writer", "transpose_backward", "transpose_forward",
    ),
}  # fmt: skip
"""What of a model's descriptions nnU-Net reads of every model, some of it only when it predicts."""


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

    Attributes
    ----------
    objects : tuple of str
        The object of each map.
    record : dict
        What makes the maps, without a path of this machine: for ``relevance.json``.

    Raises
    ------
    InputError
        If a file of the model is missing or damaged, or a checkpoint has no relevance head.
    NotImplementedError
        For the second stage of a cascade, or a reader of images other than those known to be laid back right.
    """

    def __init__(self, model: Path, folds: Sequence[int | str], checkpoint: str, device: torch.device) -> None:
        names = sorted({str(fold) for fold in folds})
        paths = [model / f"fold_{fold}" / checkpoint for fold in names]
        missing = [path for path in (model / "dataset.json", model / "plans.json", *paths) if not path.is_file()]
        if missing:
            raise InputError(
                f"'{path}' does not exist. Give the folder of a trained model with -m, and its folds and checkpoint "
                "with -f and -chk."
                for path in missing
            )
        loaded = [_load_head(path) for path in paths]
        problems = [head for head in loaded if isinstance(head, str)]
        for name, keys in _NEEDED.items():
            problems += _description_problems(model / name, keys)
        if problems:
            raise InputError(problems)
        heads = [head for head in loaded if not isinstance(head, str)]
        if len({tuple(head["objects"]) for head in heads}) > 1:
            raise InputError(
                f"The folds {', '.join(names)} in '{model}' have relevance maps of different objects: they "
                "were trained on different conversions. Choose folds of the same one with -f."
            )
        self.objects: tuple[str, ...] = tuple(heads[0]["objects"])
        self._weights_of_heads = [head["weights"] for head in heads]
        self._predictor = nnUNetPredictor(device=device, allow_tqdm=False)
        try:
            self._predictor.initialize_from_trained_model_folder(str(model), tuple(names), checkpoint)
        except Exception as error:  # nnU-Net raises whatever it meets
            raise InputError(
                f"nnU-Net cannot load the model '{model}' ({described(error)}). If its files are damaged or of "
                "different trainings, copy it again; if it needs a trainer or a package, install that."
            ) from error
        plans = self._predictor.plans_manager
        reader = plans.plans["image_reader_writer"]
        if reader not in _READERS:
            raise NotImplementedError(
                f"The model '{model}' reads images with {reader}; relevance maps can be predicted with "
                f"{', '.join(_READERS)}. Train with one of them as overwrite_image_reader_writer in dataset.json."
            )
        if self._predictor.configuration_manager.previous_stage_name is not None:
            raise NotImplementedError(
                "Relevance maps of a cascade's second stage are not supported. Predict with its 3d_lowres stage, or "
                "train 3d_fullres alone."
            )
        digest = hashlib.sha256()
        for weights in self._weights_of_heads:
            for rows in weights.values():
                digest.update(rows.cpu().numpy().tobytes())
        self.record: dict[str, Any] = {
            "channel_names": {str(channel): name for channel, name in enumerate(self.objects)},
            "dataset": plans.dataset_name,
            "model": model.resolve().name,  # trainer, plans and configuration
            "folds": names,
            "checkpoint": checkpoint,
            "weights_sha256": digest.hexdigest(),  # of the relevance rows: another training has others
        }
        # nnU-Net compiles the network if nnUNet_compile says so.
        network = getattr(self._predictor.network, "_orig_mod", self._predictor.network)
        self._head = RelevanceHead(network, len(self.objects))
        try:
            for weights in self._weights_of_heads:
                self._head.load_state_dict(weights)
        except ValueError as error:
            raise InputError(f"The relevance head does not fit the model '{model}': {error} Copy it again.") from error
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

    def read(self, images: Sequence[Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Read the images of one case as nnU-Net does, after checking that they are whole, and what they hold.

        Parameters
        ----------
        images : sequence of Path
            One file per image channel.

        Returns
        -------
        ndarray of float32, shape (C, z, y, x)
            In the orientation of the model's reader.
        dict
            What its reader says of the geometry.

        Raises
        ------
        InputError
            If the images cannot be read, or do not fit together or the model.
        """
        names = ", ".join(f"'{path}'" for path in images)
        try:
            for path in images:
                check_complete(path)
            reader = self._predictor.plans_manager.image_reader_writer_class()
            image, properties = reader.read_images(list(map(str, images)))
        except Exception as error:  # nnU-Net's readers pass on whatever their libraries raise
            raise InputError(
                f"{names} cannot be read as the channels of one image ({described(error)}). Check that they are whole, "
                "and of one shape and spacing."
            ) from error
        if problems := self._image_problems(image, properties):
            raise InputError(f"{names}: {problem}" for problem in problems)
        return image, properties

    def _image_problems(self, image: NDArray[Any], properties: dict[str, Any]) -> list[str]:
        """Say what nnU-Net would end in an error on, or in maps that mean nothing."""
        if len(image) != self.num_image_channels:
            return [
                f"has {counted(len(image), 'channel')}; the model wants {self.num_image_channels}. Give images as "
                "it was trained on."
            ]
        problems = []
        if num_voxels := image.size - int(np.count_nonzero(np.isfinite(image))):
            problems.append(
                f"has {counted(num_voxels, 'voxel')} that {'is' if num_voxels == 1 else 'are'} no finite number; "
                "normalised, the whole image would be none. Replace them."
            )
        plans, configuration = self._predictor.plans_manager, self._predictor.configuration_manager
        order = plans.transpose_forward
        # nnU-Net crops to what is not zero first.
        box = next(iter(ndimage.find_objects((image != 0).any(axis=0).view(np.uint8))), None)
        lengths = [part.stop - part.start for part in box] if box else image.shape[1:]
        shape, spacing_mm = ([values[axis] for axis in order] for values in (lengths, properties["spacing"]))
        planned_mm = [*spacing_mm[: len(shape) - len(configuration.spacing)], *configuration.spacing]
        resampled = compute_new_shape(shape, spacing_mm, planned_mm)
        if 0 in resampled:
            problems.append(
                f"of {_joined(shape)} voxels of {_joined(spacing_mm)} mm, without the zeros around them, nothing is "
                f"left at the {_joined(planned_mm)} mm of the model. Give images as large as those that it was trained "
                "on."
            )
        return problems

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

        Raises
        ------
        InputError
            If the images cannot be read, or do not fit together or the model, or its predictions are no numbers.
        """
        predictor = self._predictor
        image, properties = self.read(images)
        data, _, properties = predictor.configuration_manager.preprocessor_class(verbose=False).run_case_npy(
            image,
            None,
            properties,
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.dataset_json,
        )
        total = torch.zeros(())
        for weights, rows in zip(predictor.list_of_parameters, self._weights_of_heads, strict=True):
            predictor.network.network.load_state_dict(weights)
            self._head.load_state_dict(rows)
            total = total + predictor.predict_sliding_window_return_logits(torch.from_numpy(data)).float().cpu()
        if not torch.isfinite(total).all():
            raise InputError(
                f"The model predicts no finite numbers for '{images[0]}': its weights are none, as after a training "
                "that diverged. Choose another checkpoint with -chk, or train again."
            )
        _, maps = convert_predicted_logits_to_segmentation_with_correct_shape(
            total / len(self._weights_of_heads),
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.label_manager,
            properties,
            return_probabilities=True,
            num_threads_torch=torch.get_num_threads(),
        )
        affines = properties.get("nibabel_stuff", {})
        if "reoriented_affine" in affines:
            # The reader turned the image to RAS; back to the axes of the file, as when it writes a segmentation.
            back = ornt_transform(axcodes2ornt("RAS"), io_orientation(affines["original_affine"]))
            maps = np.stack([apply_orientation(values.T, back).T for values in maps])
        return np.asarray(maps, dtype=np.float32)


def _joined(values: Iterable[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _description_problems(path: Path, keys: Iterable[str]) -> list[str]:
    try:
        content = read_json(path, "Copy it again.")
    except InputError as error:
        return [*error.problems]
    if missing := [key for key in keys if not isinstance(content, dict) or key not in content]:
        return [f"'{path}' has no {', '.join(missing)}: the model needs it. Copy it again."]
    return []


def _load_head(path: Path) -> dict[str, Any] | str:
    """Return what a checkpoint holds of its relevance head, or what is wrong with it."""
    try:
        head = relevance_head_of(read_checkpoint(path), path)
    except InputError as error:
        return str(error)
    return head or f"Checkpoint '{path}' has no relevance head: it was not trained with WSLTrainer."


def predict_relevance(
    images: Path,
    output: Path,
    model: Path,
    *,
    folds: Sequence[int | str] = (0,),
    checkpoint: str = "checkpoint_final.pth",
    device: torch.device | None = None,
    continue_prediction: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """Predict the relevance maps of all cases in a folder and write one NIfTI per case and object.

    The files are named as nnU-Net names channels, ``CASE_0000.nii.gz`` and so on; ``relevance.json`` says which object
    each channel is and which model made them.

    Parameters
    ----------
    images : Path
        Folder with ``CASE_0000`` ... as for ``nnUNetv2_predict``.
    output : Path
        Folder to write to, not that of the images.
    model, folds, checkpoint, device
        As for :class:`RelevancePredictor`.
    continue_prediction : bool
        Keep the maps of this model that are there already instead of predicting them again.
    overwrite : bool
        Remove the maps of these cases that are there already and predict them again.

    Returns
    -------
    list of Path
        The files of all cases.

    Raises
    ------
    InputError
        If images or model are not fit, the output is the folder of the images, or it has maps already and neither
        `continue_prediction` nor `overwrite` is set, or another model made maps that stay.
    """
    if output.resolve() == images.resolve():
        raise InputError(
            f"-o '{output}' is the folder of the images: maps are named like images and would overwrite them. Choose "
            "another folder."
        )
    predictor = RelevancePredictor(model, folds, checkpoint, device or torch.device("cpu"))
    cases = _find_cases(images, predictor.file_ending, predictor.num_image_channels)
    maps = {
        case: [output / f"{case}_{channel:04d}.nii.gz" for channel in range(len(predictor.objects))] for case in cases
    }
    written = [path for paths in maps.values() for path in paths]
    waiting = [case for case, paths in maps.items() if overwrite or not all(path.exists() for path in paths)]
    record = output / "relevance.json"
    former = written
    if overwrite:  # of a model with more objects, too
        of_cases = re.compile(f"({'|'.join(map(re.escape, cases))})_[0-9]{{4}}\\.nii\\.gz")
        former = [path for path in sorted(output.glob("*.nii.gz")) if of_cases.fullmatch(path.name)]
    existing = [path for path in (record, *former) if path.exists()]
    if existing and not (continue_prediction or overwrite):
        raise InputError(
            f"-o '{output}' has {counted(len(existing), 'file')} of these names already, for example "
            f"'{existing[-1].name}'. Pass --continue_prediction to keep them, --overwrite to replace them, or choose "
            "another folder."
        )
    staying = set(output.glob("[!.]*_[0-9][0-9][0-9][0-9].nii.gz")).difference(former if overwrite else ())
    if staying or (existing and not overwrite):
        _check_same_model(record, predictor.record)
    with _complete_plans(model):
        _check_images(predictor, [cases[case] for case in waiting])
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"-o '{output}' cannot be made ({error.strerror}). Choose another folder.") from error

    def predict(images: Sequence[Path]) -> NDArray[np.float32]:
        with _complete_plans(model):
            return predictor.predict(images)

    predicting = map(predict, [cases[case] for case in waiting])
    predictions = iter(tqdm(predicting, "Predicting relevance", len(waiting), delay=2, unit="case"))
    for case in waiting:
        predicted = next(predictions)
        if case == waiting[0]:  # not before: it may show that the model does not work
            _replace_record(record, predictor.record, existing if overwrite else ())
        reference = sitk.ReadImage(str(cases[case][0]))
        for path, values in zip(maps[case], predicted, strict=True):
            volume = sitk.GetImageFromArray(values if reference.GetDimension() == 3 else values[0])
            volume.CopyInformation(reference)
            try:
                with replacing(path) as partial:
                    sitk.WriteImage(volume, str(partial), useCompression=True)
            except (OSError, RuntimeError) as error:
                raise InputError(
                    f"'{path}' could not be written whole ({last_line(error)}). Free space on the disk, or check the "
                    "quota; then go on with --continue_prediction."
                ) from error
    return written


@contextmanager
def _complete_plans(model: Path) -> Iterator[None]:
    """Tell what a model's plans lack: nnU-Net reads them as it goes."""
    try:
        yield
    except KeyError as error:
        raise InputError(
            f"'{model / 'plans.json'}' has no {error.args[0]}: the model needs it. Copy it again."
        ) from error


def _replace_record(path: Path, record: Mapping[str, Any], former: Iterable[Path]) -> None:
    """Remove former maps, then say which model makes those to come: a run that goes on must not mix two models'."""
    try:
        for one in former:
            one.unlink()
        with replacing(path) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"'{path.parent}' cannot be written to ({error.strerror}). Choose another -o.") from error


def _find_cases(images: Path, ending: str, num_channels: int) -> dict[str, list[Path]]:
    """Return the files of each case, one per image channel, whose headers can be read."""
    visible = _visible(images)
    files = [path for path in visible if path.name.endswith(ending)]
    if not files:
        raise InputError(f"No images CASE_0000{ending} in '{images}'. Give the folder that nnUNetv2_predict reads.")
    problems = name_problems(files)
    cases: dict[str, list[Path]] = {}
    for path in filter(lambda path: is_text(path.name), files):
        match = re.fullmatch(r"(.+)_[0-9]{4}", path.name.removesuffix(ending))
        if match:
            cases.setdefault(match[1], []).append(path)
        else:
            problems.append(
                f"'{path}' is not named CASE_dddd{ending}, where dddd is the image channel. Rename it, for example to "
                f"{path.name.removesuffix(ending)}_0000{ending}, or move it away."
            )
    for case, found in cases.items():
        expected = [images / f"{case}_{channel:04d}{ending}" for channel in range(num_channels)]
        missing = [path.name for path in expected if path not in found]
        if missing:
            problems += [
                f"Case '{case}': '{name}' is missing in '{images}'; the model wants {num_channels} channels. Add it."
                for name in missing
            ]
        elif found != expected:
            problems.append(
                f"Case '{case}' has {len(found)} channels in '{images}'; the model wants {num_channels}. Give images "
                "as nnUNetv2_predict reads them, without relevance channels."
            )
    problems += [problem for found in cases.values() for problem in map(_header_problem, found) if problem]
    if problems:
        raise InputError(problems)
    names = {path.name for path in files}
    channels = (re.fullmatch(r"(.+_[0-9]{4})\..+", path.name) for path in visible)
    # What is beside an image of the same name belongs to it, such as the voxels of a header.
    if others := [match[0] for match in channels if match and f"{match[1]}{ending}" not in names]:
        _LOG.warning(
            "%s in '%s' %s not end in '%s', as the model's images do, and %s left out, such as '%s'.",
            counted(len(others), "file"), images, "does" if len(others) == 1 else "do", ending,
            "is" if len(others) == 1 else "are", others[0],
        )  # fmt: skip
    return cases


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _check_images(predictor: RelevancePredictor, cases: Sequence[Sequence[Path]]) -> None:
    """Check that the images of all cases can be read, before anything is removed or predicted."""

    def problems(images: Sequence[Path]) -> tuple[str, ...]:
        try:
            predictor.read(images)
        except InputError as error:
            return error.problems
        return ()

    found = map(problems, tqdm(cases, "Checking images", delay=2, unit="case"))
    if all_problems := list(chain.from_iterable(found)):
        raise InputError(all_problems)


def _header_problem(path: Path) -> str | None:
    """Say what is wrong with the header of an image."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        return f"'{path}' cannot be read as an image ({described(error)}). Write it again."
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        return f"'{path}' has complex numbers; expected real ones. Convert them, for example to magnitudes."
    values = reader.GetNumberOfComponents()
    if values > 1 and path.suffix not in {".png", ".bmp"}:  # whose greys may come from a palette
        return f"'{path}' has {values} values per voxel; expected one, and a file per channel. Split it."
    if reader.GetDimension() not in {2, 3}:
        return f"'{path}' has {reader.GetDimension()} dimensions; expected 2 or 3. Write one image per file."
    if not np.isfinite([*reader.GetOrigin(), *reader.GetSpacing(), *reader.GetDirection()]).all():
        return f"'{path}' lies nowhere: its header's geometry is no finite numbers. Correct it."
    return None


def _check_same_model(path: Path, record: Mapping[str, Any]) -> None:
    """Check that the maps beside ``relevance.json`` are of the same model."""
    remedy = "Choose another folder with -o, or remove these maps; --overwrite removes those of the cases in -i."
    try:
        former = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"'{path}' cannot be read ({error}): nothing says which model made the maps beside it. {remedy}"
        ) from error
    differences = [
        f"{key} {json.dumps(former.get(key))}, now {json.dumps(record.get(key))}"
        for key in {**record, **former}
        if key != "model" and former.get(key) != record.get(key)  # its folder may have been renamed
    ]
    if differences:
        raise InputError(f"'{path}' tells of maps that were made otherwise: {'; '.join(differences)}. {remedy}")
