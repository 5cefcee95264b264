"""What a training needs, checked before nnU-Net starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_wsl.errors import InputError, counted
from nnunet_wsl.training.checkpoints import read_checkpoint
from nnunet_wsl.training.trainer import RelevanceSupervision

_NUM_FOLDS = 5
"""That nnU-Net makes if there are none."""


def check_training(
    dataset: str,
    configuration: str,
    fold: str,
    trainer: str,
    plans_identifier: str,
    pretrained_weights: str | None,
) -> None:
    """Check what ``nnUNetv2_train`` is to train on and with.

    Parameters
    ----------
    dataset, configuration, fold, trainer, plans_identifier, pretrained_weights : str
        As the command takes them: name or id of the dataset, name of the configuration, number of the fold or
        ``all``, name of the trainer's class, name of the plans, and checkpoint to start from.

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
    except (RuntimeError, AssertionError) as error:  # not found, or no trainer
        problems.append(f"Trainer {trainer!r}: {error}")
        trainer_class = None
    try:
        folder = _planned_folder(dataset)
        dataset_json, data = _check_plans(folder, dataset, configuration, plans_identifier)
        if fold != "all":
            _check_splits(folder / "splits_final.json", data)
    except InputError as error:
        problems += error.problems
    else:
        block = dataset_json.get("wsl") or {}
        targets = {**block.get("relevance_channels", {}), **block.get("confidence_channels", {})}
        if targets and trainer_class is not None and not issubclass(trainer_class, RelevanceSupervision):
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
    dataset_json: dict[str, Any] = _read_json(folder / "dataset.json", remedy)
    path = folder / f"{plans_identifier}.json"
    if not path.is_file():
        there = ", ".join(sorted(plans.stem for plans in folder.glob("*Plans*.json"))) or "none"
        raise InputError(f"Plans {plans_identifier!r} (-p): there is no {path}; there: {there}. {remedy}")
    plans = PlansManager(_read_json(path, remedy))
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
    return dataset_json, data


def _check_splits(path: Path, data: Path) -> None:
    """Check that nnU-Net's folds are folds, or that it can make its own."""
    if not path.exists():
        num_cases = sum(1 for _ in data.glob("*.pkl"))
        if num_cases < _NUM_FOLDS:
            raise InputError(
                f"{data} has {counted(num_cases, 'case')}: too few for nnU-Net's {_NUM_FOLDS} folds. Train fold all, "
                f"or write folds of your own to {path}."
            )
        return
    remedy = "Correct it, or remove it: nnU-Net then makes its own."
    folds = _read_json(path, remedy)
    if not (
        isinstance(folds, list)
        and all(isinstance(fold, dict) for fold in folds)
        and all(isinstance(fold.get(part), list) for fold in folds for part in ("train", "val"))
    ):
        raise InputError(f"{path}: expected a list of folds, each with the lists of cases 'train' and 'val'. {remedy}")


def _read_json(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}. {remedy}") from error
