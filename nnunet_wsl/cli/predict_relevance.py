"""``nnunet_wsl predict-relevance``: the relevance maps of a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments, named as those of nnUNetv2_predict_from_modelfolder."""
    parser = subparsers.add_parser(
        "predict-relevance",
        help="the relevance maps that a trained model predicts, to see where it is unsure",
        description="Predict relevance maps with a model that WSLTrainer trained, and write one NIfTI per case and "
        "object: 1 where the model is sure that a contour runs, blurred where it is not.",
    )
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="images, as for nnUNetv2_predict")
    parser.add_argument(
        "-o", type=Path, required=True, metavar="FOLDER", help="where to write CASE_0000.nii.gz and so on"
    )
    parser.add_argument("-m", type=Path, required=True, metavar="FOLDER", help="model folder, with fold_0 and so on")
    parser.add_argument("-f", nargs="+", default=["0"], metavar="FOLD", help="folds to average (default: 0)")
    parser.add_argument("-chk", default="checkpoint_final.pth", help="checkpoint (default: %(default)s)")
    parser.add_argument("-device", choices=("cpu", "cuda", "mps"), default="cuda", help="default: %(default)s")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--continue_prediction", action="store_true", help="keep the maps that are there already")
    existing.add_argument("--overwrite", action="store_true", help="replace the maps that are there already")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Predict and say where the maps are."""
    import torch

    from nnunet_wsl.errors import InputError
    from nnunet_wsl.training.inference import predict_relevance

    backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
    if args.device != "cpu" and not backends[args.device].is_available():
        raise InputError(f"No {args.device} device found. Add: -device cpu.")
    written = predict_relevance(
        args.i,
        args.o,
        args.m,
        folds=args.f,
        checkpoint=args.chk,
        device=torch.device(args.device),
        continue_prediction=args.continue_prediction,
        overwrite=args.overwrite,
    )
    print(f"{len(written)} relevance maps in {args.o}; relevance.json says which object is which.")
    return 0
