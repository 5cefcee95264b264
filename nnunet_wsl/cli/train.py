"""``nnunet_wsl train``: nnUNetv2_train with WSLTrainer."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from nnunet_wsl.cli.env import VARIABLE, trainer_folders
from nnunet_wsl.errors import InputError

_FOLDERS = {
    "nnUNet_preprocessed": "the folder that you planned and preprocessed with",
    "nnUNet_results": "the folder for trained models",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments of ``nnunet_wsl train``: none of its own."""
    parser = subparsers.add_parser(
        "train",
        help="nnUNetv2_train with -tr WSLTrainer: DATASET CONFIG FOLD ...",
        # Every argument, options too, is nnUNetv2_train's: no option prefix that anybody types.
        prefix_chars="\0",
        add_help=False,
    )
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run nnUNetv2_train in this process, with the trainers of this package in reach."""
    arguments: list[str] = args.arguments
    asks_for_help = not {"-h", "--help"}.isdisjoint(arguments)
    if not asks_for_help:
        unset = [variable for variable in _FOLDERS if not os.environ.get(variable)]
        if unset:
            raise InputError(
                f"The environment variable {variable} is not set. Set it to {_FOLDERS[variable]}, for example: "
                f"export {variable}=/data/{variable}"
                for variable in unset
            )
    else:
        print("nnunet_wsl train: nnUNetv2_train with -tr WSLTrainer as default. Its options:\n")
    os.environ[VARIABLE] = trainer_folders()

    import torch
    from nnunetv2.run import run_training as nnunet

    names_device = any(argument.startswith("-d") for argument in arguments)
    if not names_device and not asks_for_help and not torch.cuda.is_available():
        raise InputError("No CUDA device found, and nnU-Net trains on CUDA by default. Add: -device cpu (or mps).")
    # The default comes first: of several -tr, however spelt, the last one counts.
    sys.argv = ["nnUNetv2_train", "-tr", "WSLTrainer", *arguments]
    train = nnunet.run_training
    nnunet.run_training = _checked(train)
    try:
        nnunet.run_training_entry()
    finally:
        nnunet.run_training = train
    return 0


def _checked(train: Callable[..., None]) -> Callable[..., None]:
    """Check the arguments, as nnU-Net has parsed them, before nnU-Net trains."""
    from nnunet_wsl.training.checks import check_training, option_problems

    @wraps(train)
    def check_and_train(*args: Any, **kwargs: Any) -> None:
        bound = signature(train).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        problems = option_problems(
            given["device"],
            given["num_gpus"],
            continue_training=given["continue_training"],
            only_run_validation=given["only_run_validation"],
            pretrained_weights=given["pretrained_weights"],
        )
        try:
            check_training(
                str(given["dataset_name_or_id"]),
                given["configuration"],
                str(given["fold"]),
                given["trainer_class_name"],
                given["plans_identifier"],
                given["pretrained_weights"],
                given["only_run_validation"],
            )
        except InputError as error:
            problems += error.problems
        if problems:
            raise InputError(problems)
        train(*args, **kwargs)

    return check_and_train
