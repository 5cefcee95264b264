"""What a training needs, checked before nnU-Net starts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.training.dataloading.nnunet_dataset import file_ending_dataset_mapping
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.file_path_utilities import get_output_folder
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_wsl.contract import RelevanceChannels, target_channels
from nnunet_wsl.errors import InputError, counted
from nnunet_wsl.files import read_json
from nnunet_wsl.training.checkpoints import read_checkpoint
from nnunet_wsl.training.trainer import RelevanceSupervision

_LOG = logging.getLogger(__name__)

_NUM_FOLDS = 5
"""That nnU-Net makes if there are none."""


def option_problems(
    device: torch.device,
    num_gpus: int,
    *,
    continue_training: bool,
    only_run_validation: bool,
    pretrained_weights: str | None,
) -> list[str]:
    """Return what is wrong with options of ``nnUNetv2_train`` that does not depend on the dataset.

    Parameters
    ----------
    device, num_gpus, continue_training, only_run_validation, pretrained_weights
        ``-device``, ``-num_gpus``, ``--c``, ``--val`` and ``-pretrained_weights``.
    """
    problems = []
    if continue_training and only_run_validation:
        problems.append("--c and --val exclude each other. --c goes on training, --val validates what is trained.")
    if continue_training and pretrained_weights is not None:
        problems.append("--c and -pretrained_weights exclude each other: weights are for the start of a training.")
    present = torch.cuda.device_count()
    if device.type == "mps" and not torch.backends.mps.is_available():
        problems.append("-device mps: there is none. Choose -device cpu or cuda.")
    elif device.type == "cuda" and not present:
        problems.append("-device cuda: no CUDA device found. Choose -device cpu (or mps).")
    elif num_gpus > 1 and (device.type != "cuda" or num_gpus > present):
        problems.append(
            f"-num_gpus {num_gpus}: expected as many CUDA devices, found "
            f"{present if device.type == 'cuda' else device}. Give a lower number."
        )
    return problems


def check_training(
    dataset: str,
    configuration: str,
    fold: str,
    trainer: str,
    plans_identifier: str,
    pretrained_weights: str | None,
    only_run_validation: bool = False,
) -> None:
    """Check what ``nnUNetv2_train`` is to train on and with.

    Parameters
    ----------
    dataset, configuration, fold, trainer, plans_identifier, pretrained_weights : str
        As the command takes them: name or id of the dataset, name of the configuration, number of the fold or
        ``all``, name of the trainer's class, name of the plans, and checkpoint to start from.
    only_run_validation : bool
        Whether it is to validate what is trained already.

    Raises
    ------
    InputError
        If nnU-Net would not find one of them, if the fold is no number, or if a trainer of nnU-Net's own would take
        relevance channels for images.
    """
    problems = []
    if fold != "all" and not fold.isdecimal():
        problems.append(f"Fold {fold!r}: expected a number, usually 0 to 4, or 'all'.")
    if pretrained_weights is not None:
        problems += _weights_problems(pretrained_weights)
    try:
        trainer_class = recursive_find_trainer_class_by_name(trainer)
    except (RuntimeError, AssertionError, ImportError, SyntaxError) as error:  # not found, no trainer, or not to import
        problems.append(f"Trainer {trainer!r}: {error}")
        trainer_class = None
    try:
        folder = _planned_folder(dataset)
        dataset_json, data = _check_plans(folder, dataset, configuration, plans_identifier)
        if fold != "all":
            _check_splits(folder / "splits_final.json", data, fold)
        if only_run_validation:
            _check_trained(folder.name, trainer, plans_identifier, configuration, fold)
    except InputError as error:
        problems += error.problems
    else:
        targets = target_channels(dataset_json)
        if trainer_class is not None and issubclass(trainer_class, RelevanceSupervision):
            try:
                RelevanceChannels.from_dataset_json(dataset_json, folder.name)
            except InputError as error:
                problems += error.problems
        elif targets and trainer_class is not None:
            problems.append(
                f"Trainer {trainer!r} would take the {len(targets)} relevance and confidence channels of dataset "
                f"{dataset} for images, and new images do not have them. Train WSLTrainer; for {trainer} convert the "
                "contours again with --relevance none, under an id of its own."
            )
    if problems:
        raise InputError(problems)


def _weights_problems(path: str) -> tuple[str, ...]:
    if not Path(path).is_file():
        return (f"-pretrained_weights {path}: there is no such file. Give a checkpoint's path.",)
    try:
        read_checkpoint(path)
    except InputError as error:
        return error.problems
    return ()


def _planned_folder(dataset: str) -> Path:
    """Folder of a dataset in nnUNet_preprocessed."""
    root = Path(nnUNet_preprocessed)
    there = sorted(path.name for path in root.glob("Dataset[0-9][0-9][0-9]_*"))
    try:
        folder = root / str(maybe_convert_to_dataset_name(dataset))
    except (RuntimeError, ValueError) as error:  # no such id, two names with it, or neither id nor name
        raise InputError(
            f"Dataset {dataset!r}: expected the id or the name of exactly one dataset. In nnUNet_preprocessed "
            f"({root}) there {'is' if len(there) == 1 else 'are'} {', '.join(there) or 'none'}."
        ) from error
    if not folder.is_dir():
        raise InputError(
            f"Dataset {folder.name} is not in nnUNet_preprocessed ({root}); there "
            f"{'is' if len(there) == 1 else 'are'} {', '.join(there) or 'none'}. Run: nnUNetv2_plan_and_preprocess -d "
            f"{dataset}"
        )
    return folder


def _check_plans(folder: Path, dataset: str, configuration: str, plans_identifier: str) -> tuple[dict[str, Any], Path]:
    """Return the content of a dataset's ``dataset.json`` and the folder of its cases, if it was preprocessed."""
    remedy = f"Run: nnUNetv2_plan_and_preprocess -d {dataset}"
    dataset_json = read_json(folder / "dataset.json", remedy)
    if not isinstance(dataset_json, dict):
        raise InputError(f"{folder / 'dataset.json'}: expected a JSON object. {remedy}")
    path = folder / f"{plans_identifier}.json"
    if not path.is_file():
        there = ", ".join(sorted(plans.stem for plans in folder.glob("*Plans*.json"))) or "none"
        raise InputError(f"Plans {plans_identifier!r} (-p): there is no {path}; there: {there}. {remedy}")
    content = read_json(path, remedy)
    if not isinstance(content, dict) or not isinstance(content.get("configurations"), dict):
        raise InputError(f"{path}: expected nnU-Net's plans, with 'configurations'. {remedy}")
    plans = PlansManager(content)
    if configuration not in plans.available_configurations:
        raise InputError(
            f"Configuration {configuration!r} is not in {path}; there: {', '.join(plans.available_configurations)}."
        )
    data = folder / plans.get_configuration(configuration).data_identifier
    if not data.is_dir():
        raise InputError(
            f"Dataset {folder.name} was planned, but not preprocessed for {configuration}: there is no {data}. Run: "
            f"nnUNetv2_preprocess -d {dataset} -plans_name {plans_identifier} -c {configuration}"
        )
    _check_cases(data)
    return dataset_json, data


def _check_cases(data: Path) -> None:
    """Check that a folder holds preprocessed cases of one format, and nothing that nnU-Net would take for another."""
    files = [path.name for path in sorted(data.iterdir()) if path.is_file() and path.suffix not in (".pkl", ".npy")]
    formats = {name.rpartition(".")[2] for name in files}
    if not files:
        raise InputError(f"{data} has no preprocessed case. Preprocess again.")
    if strange := [name for name in files if name.rpartition(".")[2] not in file_ending_dataset_mapping]:
        raise InputError(
            f"{data} has {counted(len(strange), 'file')} that nnU-Net did not write, such as '{strange[0]}'. Move "
            "them away: nnU-Net tells by the files' endings what it reads."
        )
    if len(formats) > 1:
        raise InputError(
            f"{data} has cases of several formats ({', '.join(sorted(formats))}). Remove it and preprocess again."
        )


def _check_trained(dataset: str, trainer: str, plans_identifier: str, configuration: str, fold: str) -> None:
    path = Path(get_output_folder(dataset, trainer, plans_identifier, configuration, fold)) / "checkpoint_final.pth"
    if not path.is_file():
        raise InputError(f"--val: expected a finished training, but there is no {path}. Train to its end first.")


def _check_splits(path: Path, data: Path, fold: str) -> None:
    """Check that nnU-Net's folds are folds, or that it can make its own; warn of cases that are in none."""
    cases = {file.stem for file in data.glob("*.pkl")}
    if not path.exists():
        if len(cases) < _NUM_FOLDS:
            raise InputError(
                f"{data} has {counted(len(cases), 'case')}: too few for nnU-Net's {_NUM_FOLDS} folds. Train fold all, "
                f"or write folds of your own to {path}."
            )
        return
    remedy = "Correct it, or remove it: nnU-Net then makes its own."
    folds = read_json(path, remedy)
    if not (
        isinstance(folds, list)
        and all(isinstance(fold, dict) for fold in folds)
        and all(isinstance(fold.get(part), list) for fold in folds for part in ("train", "val"))
        and all(isinstance(case, str) for fold in folds for part in ("train", "val") for case in fold[part])
    ):
        raise InputError(f"{path}: expected a list of folds, each with the lists of cases 'train' and 'val'. {remedy}")
    parts = folds[int(fold)] if fold.isdecimal() and int(fold) < len(folds) else {}
    if empty := [part for part in parts if part in ("train", "val") and not parts[part]]:
        raise InputError(
            f"{path}, fold {fold}: expected cases to train and cases to validate on, found none under "
            f"{' and '.join(map(repr, empty))}. Add some, or train fold all, which uses every case for both."
        )
    if left_out := sorted(cases.difference(*(fold[part] for fold in folds for part in ("train", "val")))):
        _LOG.warning(
            "No fold of %s has %s of %s, such as '%s': it neither trains nor validates. If it shall, remove that file, "
            "and nnU-Net makes new folds.",
            path, counted(len(left_out), "case"), data.name, left_out[0],
        )  # fmt: skip
