"""``nnunet_wsl convert``: contours and images to a raw nnU-Net dataset."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nnunet_wsl.cli.jobs import add_jobs
from nnunet_wsl.errors import InputError

if TYPE_CHECKING:
    from nnunet_wsl.conversion import ConversionSettings


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``convert`` and the kinds of contours that it reads."""
    parser = subparsers.add_parser("convert", help="make a raw nnU-Net dataset from images and contours")
    sources = parser.add_subparsers(required=True, metavar="SOURCE_KIND")
    _add_rtstruct(sources)
    _add_text(sources)
    _add_polygons(sources)
    _add_masks(sources)
    _add_images(sources)


def _add_rtstruct(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sources.add_parser(
        "rtstruct",
        help="DICOM image series with RTSTRUCT files",
        description="Convert every RTSTRUCT below SOURCE, with the image series that it was drawn on, to a case of a "
        "raw nnU-Net dataset in the folder nnUNet_raw. Cases are named after their folders: give the folders names "
        "that may be passed on.",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder that holds the DICOM files, in any arrangement")
    parser.add_argument(
        "--roi", action="append", metavar="LABEL=REGEX",
        help="a label and the ROIs that make it: REGEX must match the whole ROI name, in any letter case; repeat it "
        "per label. Without it every ROI is a label, if all cases have the same ROIs",
    )  # fmt: skip
    _add_modality(parser)
    _add_outside(parser)
    add_conversion_arguments(parser)
    parser.set_defaults(func=_run_rtstruct)


def _add_text(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sources.add_parser(
        "text",
        help="DICOM image series, also cine series, with text files of contours",
        description="Convert the contour files below SOURCE, each with the points of one closed contour, 'x y' in "
        "pixels per line, and the image series that they were drawn on. A case is a patient and a phase. Cases are "
        "named after the folders of the images: give them names that may be passed on.",
    )
    parser.add_argument(
        "source", metavar="SOURCE",
        help="folder with images, contour files, and link.csv: its columns patient_id and original_id name the folder "
        "of a patient's images and that of the contours",
    )  # fmt: skip
    parser.add_argument(
        "--contour", action="append", metavar="LABEL=PATTERN",
        help="a label and the names of its files: {instance} stands for the Instance Number of the image, * for any "
        "text; repeat it per label (default: inner=*-{instance}-icontour-*.txt and outer=*-{instance}-ocontour-*.txt)",
    )  # fmt: skip
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN",
        help="contour files to leave out, by their path below SOURCE in any letter case, * for any text, ? for a "
        "character; repeat it as needed",
    )  # fmt: skip
    parser.add_argument(
        "--first-pixel", type=float, choices=(0.0, 0.5, 1.0), default=1.0,
        help="coordinate of the centre of the first pixel: 1 as in MATLAB, 0, or 0.5, where 0 is the corner of the "
        "image (default: %(default)s, which fits the Sunnybrook data)",
    )  # fmt: skip
    _add_modality(parser)
    _add_outside(parser)
    add_conversion_arguments(parser)
    parser.set_defaults(func=_run_text, missing="unknown")


def _add_polygons(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sources.add_parser(
        "polygons",
        help="2D images (PNG, JPEG, TIFF, BMP) with polygons or masks of LabelMe or in COCO's format",
        description="Convert every 2D image below SOURCE that an annotation file lists to a case of one slice, for "
        "nnU-Net's configuration 2d. Annotation files are JSON: LabelMe's, one per image, or COCO's, one for many, "
        "which most annotation tools export. Cases are named after the images' paths: give them names that may be "
        "passed on.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="folder with the images and annotation files, in any arrangement"
    )
    parser.add_argument(
        "--label", action="append", metavar="LABEL=REGEX",
        help="a label and the classes that make it: REGEX must match the whole class name, in any letter case; repeat "
        "it per label. Without it every class is a label",
    )  # fmt: skip
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN",
        help="annotation files to leave out, by their path below SOURCE in any letter case, * for any text, ? for a "
        "character; repeat it as needed",
    )  # fmt: skip
    parser.add_argument(
        "--group", metavar="REGEX",
        help="searched for in each image's path below SOURCE: images for which it finds the same text, or the same "
        "first group in parentheses, stay in one fold, for example all of a patient (default: every image on its own)",
    )  # fmt: skip
    parser.add_argument(
        "--channel", action="append", metavar="NAME",
        help="nnU-Net's name of an image channel, once per channel (default: grey, or R, G and B)",
    )  # fmt: skip
    _add_spacing(parser)
    parser.add_argument(
        "--first-pixel", type=float, choices=(0.0, 0.5, 1.0), default=0.5,
        help="coordinate of the centre of the first pixel: 0.5 where 0 is the corner of the image, as in LabelMe and "
        "COCO, 0, or 1 (default: %(default)s)",
    )  # fmt: skip
    _add_outside(parser)
    add_conversion_arguments(parser)
    parser.set_defaults(func=_run_polygons)


def _add_masks(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sources.add_parser(
        "masks",
        help="simulated contours, from images with dense label maps",
        description="Draw contours around dense masks as annotators do, on some slices, inexactly or incompletely, and "
        "convert them as if they were drawn by hand: to find out, before anybody draws, how much has to be drawn.",
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="folder with CASE_0000.nii.gz or CASE.nii.gz")
    parser.add_argument("--labels", required=True, metavar="DIR", help="folder with the label maps, CASE.nii.gz")
    parser.add_argument(
        "--label", action="append", metavar="NAME=VALUE",
        help="a label to draw and its value, once per label; other values are background then (default: the labels of "
        "dataset.json beside the label maps or one folder above)",
    )  # fmt: skip
    parser.add_argument(
        "--channel", action="append", metavar="NAME",
        help="nnU-Net's name of an image channel, for example CT, once per channel (default: those of dataset.json)",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=int, default=1, metavar="K", help="draw on every K-th slice (default: %(default)s)"
    )
    parser.add_argument(
        "--plane", choices=("axial", "coronal", "sagittal"),
        help="the slices to draw on; the axes of the images are permuted to match (default: the last axis of the file)",
    )  # fmt: skip
    parser.add_argument(
        "--jitter-mm", type=float, default=0.0, metavar="S",
        help="standard deviation of a smooth displacement of each contour (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--drop", type=float, default=0.0, metavar="P",
        help="share of each object's drawn slices that are forgotten (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--open", type=float, default=0.0, metavar="F", dest="opened",
        help="share of each object's drawn slices with half of each contour only (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers (default: %(default)s)")
    _add_spacing(parser)
    add_conversion_arguments(parser)
    parser.set_defaults(func=_run_masks)


def _add_images(sources: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = sources.add_parser(
        "images",
        help="images alone, for nnUNetv2_predict",
        description="Convert every DICOM image series, or every 2D image, below SOURCE to a NIfTI image in OUTPUT, "
        "named as nnUNetv2_predict wants it. Cases are named after their folders, those of 2D images after their "
        "paths: give them names that may be passed on.",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder that holds the images, in any arrangement")
    parser.add_argument(
        "--kind", choices=("dicom", "2d"), default="dicom",
        help="DICOM series, or PNG, JPEG, TIFF and BMP files (default: %(default)s)",
    )  # fmt: skip
    _add_spacing(parser)
    parser.add_argument("-o", "--output", required=True, metavar="OUTPUT", help="folder to write to; must not exist")
    _add_modality(parser)
    add_jobs(parser, "converted")
    parser.set_defaults(func=_run_images)


def add_conversion_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that every kind of contours shares."""
    parser.add_argument("--dataset", type=int, required=True, metavar="ID", help="dataset id, 1 to 999")
    parser.add_argument("--name", required=True, help="dataset name: the dataset becomes DatasetID_NAME")
    parser.add_argument(
        "--relevance", choices=("per-object", "fused", "none"), default="per-object",
        help="relevance channels: one per object, one for all, or none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--relevance-mode", choices=("distance", "intensity", "both"), default="distance",
        help="what the relevance falls off with (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--sigma-mm", type=float, nargs="+", metavar="MM",
        help="reach of the relevance, one value per label or one for all (default: planned from the data)",
    )  # fmt: skip
    parser.add_argument(
        "--intensity-scale", type=float, nargs="+", metavar="VALUE",
        help="intensity difference at which the relevance has fallen off, one value per image channel or one for all "
        "(default: planned from the data)",
    )  # fmt: skip
    parser.add_argument(
        "--annotated", default="auto", metavar="{auto,all,contoured,FILE}",
        help="undrawn slices: 'auto' tells by the usual step between drawn ones, 'all' takes the object to be absent, "
        "'contoured' takes nothing to be known; a JSON or CSV file lists the slices that are fully annotated "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--annotated-margin", type=int, metavar="N",
        help="slices before the first and after the last drawn one that are unknown (default: those nearer than a "
        "step if 'auto' finds that slices were left out, else none)",
    )  # fmt: skip
    parser.add_argument(
        "--between", choices=("ignore", "gated", "interpolate"), default="gated",
        help="unknown slices between known ones: ignored; supervised where the interpolation of the contours is sure, "
        "the rest ignored; or supervised everywhere (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--contour-sigma-mm", type=float, default=0.0, metavar="S",
        help="uncertainty of the drawn contours' position: nearer mask voxels are ignored, and the relevance reaches "
        "further (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--missing", choices=("error", "absent", "unknown"), default="error",
        help="a case without any contour of a label: an error, the object is not there, or nothing is known about it "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--overlap", choices=("error", "priority", "regions"), default="error",
        help="voxels inside two objects: an error, the label that is named first, or nnU-Net's region-based labels, "
        "which keep both (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of the same id and name")
    add_jobs(parser, "converted")


def _add_modality(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--modality", help="DICOM modality of the images, for example CT, MR or PT")


def _add_spacing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spacing-mm", type=float, nargs="+", metavar="MM",
        help="size of a pixel of a 2D image, one value or two, along x and along y; what files say of it does not "
        "count (default: 1, so that every mm is a pixel)",
    )  # fmt: skip


def _add_outside(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--outside", choices=("error", "clip"), default="error",
        help="contours that leave the image by more than half a voxel (default: %(default)s)",
    )  # fmt: skip


def _run_images(args: argparse.Namespace) -> int:
    from nnunet_wsl.conversion import convert_images, convert_pictures

    without_effect = {"dicom": "--spacing-mm", "2d": "--modality"}[args.kind]
    if {"dicom": args.spacing_mm, "2d": args.modality}[args.kind] is not None:
        raise InputError(f"{without_effect} has no effect with --kind {args.kind}. Leave one of them out.")
    if args.kind == "2d":
        convert_pictures(args.source, args.output, spacing_mm=args.spacing_mm or (1.0,), jobs=args.jobs)
    else:
        convert_images(args.source, args.output, modality=args.modality, jobs=args.jobs)
    return 0


def _run_rtstruct(args: argparse.Namespace) -> int:
    from nnunet_wsl.conversion import convert_rtstruct

    convert_rtstruct(
        args.source,
        args.dataset,
        args.name,
        rois=None if args.roi is None else parse_pairs("--roi", args.roi, "LABEL=REGEX", "'tumour=GTV.*|CTV'"),
        modality=args.modality,
        settings=conversion_settings(args, outside=args.outside),
        overwrite=args.overwrite,
        jobs=args.jobs,
    )
    return 0


def _run_text(args: argparse.Namespace) -> int:
    from nnunet_wsl.conversion import convert_text

    convert_text(
        args.source,
        args.dataset,
        args.name,
        contours=None
        if args.contour is None
        else parse_pairs("--contour", args.contour, "LABEL=PATTERN", "'inner=*-{instance}-icontour-*.txt'"),
        exclude=args.exclude,
        modality=args.modality,
        first_pixel=args.first_pixel,
        settings=conversion_settings(args, outside=args.outside),
        overwrite=args.overwrite,
        jobs=args.jobs,
    )
    return 0


def _run_polygons(args: argparse.Namespace) -> int:
    from nnunet_wsl.conversion import convert_polygons

    convert_polygons(
        args.source,
        args.dataset,
        args.name,
        labels=None if args.label is None else parse_pairs("--label", args.label, "LABEL=REGEX", "'nucleus=nuc.*'"),
        exclude=args.exclude,
        channels=args.channel,
        spacing_mm=args.spacing_mm or (1.0,),
        group=args.group,
        first_pixel=args.first_pixel,
        settings=conversion_settings(args, outside=args.outside),
        overwrite=args.overwrite,
        jobs=args.jobs,
    )
    return 0


def _is_value(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _run_masks(args: argparse.Namespace) -> int:
    from nnunet_wsl.conversion import Simulation, convert_masks

    labels = None if args.label is None else parse_pairs("--label", args.label, "NAME=VALUE", "tumour=1", _is_value)
    convert_masks(
        args.images,
        args.labels,
        args.dataset,
        args.name,
        label_values=None if labels is None else {name: int(value) for name, value in labels.items()},
        channels=args.channel,
        simulation=Simulation(args.every, args.jitter_mm, args.drop, args.opened, args.seed),
        plane=args.plane,
        spacing_mm=args.spacing_mm,
        settings=conversion_settings(args, outside="error"),
        overwrite=args.overwrite,
        jobs=args.jobs,
    )
    return 0


def conversion_settings(args: argparse.Namespace, outside: Literal["error", "clip"]) -> ConversionSettings:
    """Return the settings that :func:`add_conversion_arguments` declared."""
    from nnunet_wsl.conversion import ConversionSettings
    from nnunet_wsl.conversion.annotation import ANNOTATION_RULES

    is_rule = args.annotated in ANNOTATION_RULES
    return ConversionSettings(
        relevance=args.relevance,
        relevance_mode=args.relevance_mode,
        sigma_mm=args.sigma_mm and tuple(args.sigma_mm),
        intensity_scale=args.intensity_scale and tuple(args.intensity_scale),
        annotated=args.annotated if is_rule else "auto",
        annotated_file=None if is_rule else Path(args.annotated),
        annotated_margin=args.annotated_margin,
        between=args.between,
        contour_sigma_mm=args.contour_sigma_mm,
        missing=args.missing,
        overlap=args.overlap,
        outside=outside,
    )


def parse_pairs(
    option: str, arguments: list[str], form: str, example: str, accepts: Callable[[str], bool] = bool
) -> dict[str, str]:
    """Split arguments such as ``LABEL=REGEX``, one per label.

    Parameters
    ----------
    option : str
        The option that they were given with, for messages.
    arguments : list of str
        What the user wrote.
    form, example : str
        What is expected, and an example of it.
    accepts : callable
        Whether the part behind ``=`` may be such; by default if there is any.

    Raises
    ------
    InputError
        If an argument has another form, or a label comes twice; all problems together.
    """
    pairs: dict[str, str] = {}
    problems = []
    for argument in arguments:
        label, _, value = argument.partition("=")
        if not accepts(value):
            problems.append(f"{option} '{argument}' is not {form}. Write, for example, {option} {example}.")
        elif label in pairs:
            problems.append(f"{option} names '{label}' twice. Give each label one, {option} {form}.")
        pairs[label] = value
    if problems:
        raise InputError(problems)
    return pairs
