"""From 2D images with the polygons of annotation tools to a raw nnU-Net dataset."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from nnunet_wsl.contours import Contour, ContourSet, Grid, place
from nnunet_wsl.contours.polygons import FIRST_PIXEL, AnnotatedImage, read_polygons
from nnunet_wsl.conversion.cases import CaseContent, ConversionSettings, convert_cases
from nnunet_wsl.conversion.dataset import target_folder
from nnunet_wsl.conversion.naming import case_names, patient_splits
from nnunet_wsl.conversion.objects import check_rois, is_match, is_usable_label
from nnunet_wsl.conversion.pictures import (
    CHANNELS_OF_COLOURS,
    PictureHeader,
    channels_of,
    check_spacing,
    is_picture,
    picture_grid,
    read_header,
    read_picture,
)
from nnunet_wsl.conversion.series import files_below
from nnunet_wsl.errors import InputError, counted
from nnunet_wsl.files import wildcard_expression
from nnunet_wsl.parallel import for_all

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolygonCase:
    """A 2D image with its polygons, as a case of a dataset.

    Parameters
    ----------
    name : str
        Name of the case.
    path : Path
        The image.
    header : PictureHeader
        Its size.
    annotated : AnnotatedImage
        What is drawn on it.
    classes : mapping of str to collection of str
        The classes of each label.
    spacing_mm_xy : tuple of float
        Size of a pixel.
    first_pixel : float
        Coordinate of the centre of the first pixel in the annotation.
    """

    name: str
    path: Path
    header: PictureHeader
    annotated: AnnotatedImage
    classes: Mapping[str, frozenset[str]]
    spacing_mm_xy: tuple[float, float]
    first_pixel: float

    def read_geometry(self) -> tuple[Grid, ContourSet]:
        """Return the grid of the image and the contours of the labels.

        Every shape is a source of its own, so that an object is the union of its shapes: where two nuclei overlap is
        no hole, and between two that touch runs a contour.
        """
        grid = picture_grid(self.header.size_xy, self.spacing_mm_xy)
        contours = [
            Contour(
                label,
                grid.to_mm(np.column_stack([shape.points_xy - self.first_pixel, np.zeros(len(shape.points_xy))])),
                shape.closed,
                f"{shape.class_name} {shape.number}",
            )
            for shape in self.annotated.shapes
            for label, classes in self.classes.items()
            if shape.class_name in classes
        ]
        return grid, ContourSet(self.classes, contours)

    def read(self) -> CaseContent:
        """Read the image and the contours of the labels."""
        return CaseContent(read_picture(self.path)[:, None], *self.read_geometry())


@dataclass(frozen=True)
class _Found:
    """An annotated image with its file."""

    path: Path
    annotation_file: PurePath
    annotated: AnnotatedImage


def convert_polygons(
    source: str | os.PathLike[str],
    dataset_id: int,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    channels: Sequence[str] | None = None,
    spacing_mm: Sequence[float] = (1.0,),
    group: str | None = None,
    first_pixel: float = FIRST_PIXEL,
    settings: ConversionSettings | None = None,
    overwrite: bool = False,
    jobs: int = 1,
) -> Path:
    """Convert 2D images with the polygons of LabelMe, or of tools that write COCO's format, to a raw nnU-Net dataset.

    Every annotated image is a case, of one slice.

    Parameters
    ----------
    source : path
        Folder with images (PNG, JPEG, TIFF, BMP) and annotation files (JSON), in any arrangement of folders. Case names
        come from the paths of the images.
    dataset_id, name : int, str
        The dataset becomes ``DatasetXXX_NAME``.
    labels : mapping of str to str, optional
        Label to a regular expression that matches the whole names of its classes in any letter case. The labels get the
        values 1, 2, ... in this order. Without it every class that is drawn is a label, in alphabetical order.
    exclude : sequence of str
        Annotation files to leave out: patterns, with ``*`` and ``?``, of their paths below the source.
    channels : sequence of str, optional
        nnU-Net's names of the image channels; by default ``grey``, or ``R``, ``G``, ``B``.
    spacing_mm : sequence of float
        Size of a pixel along x and y, or one value for both. By default lengths are in pixels.
    group : str, optional
        Regular expression, searched for in the path of each image below the source. Images for which it finds the same
        text, or the same first group of it, stay in one fold: those of one patient, for example.
    first_pixel : float
        Coordinate, on both axes, of the centre of the first pixel, see `nnunet_wsl.contours.polygons.FIRST_PIXEL`.
    settings : ConversionSettings, optional
        How contours become masks and relevance channels.
    overwrite : bool
        Replace a dataset of the same id and name.
    jobs : int
        Number of cases converted at the same time.

    Returns
    -------
    Path
        Folder of the dataset.

    Raises
    ------
    InputError
        If anything is wrong with the input; all problems of a step together.
    """
    target = target_folder(dataset_id, name, overwrite=overwrite)
    settings = settings or ConversionSettings()
    spacing_mm_xy = check_spacing(spacing_mm)
    _check_expressions(labels or {}, group)
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"Source '{folder}' is not a folder. Give the folder that holds images and annotation files.")
    files = files_below(folder)
    found = _find(files, folder, exclude, jobs)
    classes = _classes_of(found, labels)
    groups = _groups([one.path.relative_to(folder) for one in found], group)
    cases = _make_cases(found, folder, classes, spacing_mm_xy, first_pixel, settings, jobs)
    num_channels = channels_of([(case.path.relative_to(folder), case.header) for case in cases])
    names = tuple(channels) if channels else CHANNELS_OF_COLOURS[num_channels]
    if len(names) != num_channels:
        raise InputError(f"--channel names {len(names)} channels; the images have {num_channels}. Name each of them.")
    splits = patient_splits([case.name for case in cases], groups)
    if not splits:
        _LOG.warning(
            "All images are of one group: no splits_final.json is written, and no validation will be independent."
        )
    _LOG.info("Converting %s with the labels %s.", counted(len(cases), "image"), ", ".join(classes))
    convert_cases(
        target,
        cases,
        objects=tuple(classes),
        image_channels=names,
        splits=splits,
        settings=settings,
        recorded={
            "polygons": {
                "labels": None if labels is None else dict(labels),
                "spacing_mm_xy": spacing_mm_xy,
                "first_pixel": first_pixel,
            }
        },
        overwrite=overwrite,
        jobs=jobs,
    )
    _LOG.info("Wrote %s.", target)
    return target


def _check_expressions(labels: Mapping[str, str], group: str | None) -> None:
    check_rois(labels)
    try:
        re.compile(group or "")
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"--group '{group}' is not a regular expression: {error}. Correct it.") from error


def _find(files: Sequence[Path], folder: Path, exclude: Sequence[str], jobs: int) -> list[_Found]:
    """Read all annotation files but the excluded ones, and find their images."""
    annotation_files = [path for path in files if path.suffix.lower() == ".json" and not path.name.startswith(".")]
    excluded = {pattern: _matching(annotation_files, folder, pattern) for pattern in exclude}
    problems = [
        f"--exclude '{pattern}' matches no annotation file. Give the path below '{folder}', with * for any text."
        for pattern, matched in excluded.items()
        if not matched
    ]
    left_out = {path for matched in excluded.values() for path in matched}
    annotation_files = [path for path in annotation_files if path not in left_out]
    if not annotation_files and not problems:
        problems.append(
            f"No annotation file '*.json' below '{folder}' is left to convert. Add LabelMe's or COCO's files."
        )
    read, unreadable = for_all(
        lambda path: (path, read_polygons(path)), annotation_files, jobs, "Reading annotation files"
    )
    if problems := [*problems, *unreadable]:
        raise InputError(problems)
    pictures: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if is_picture(path):
            pictures[path.name].append(path)
    found: dict[Path, _Found] = {}
    for path, images in read:
        file = path.relative_to(folder)
        absent: list[str] = []
        for annotated in images:
            candidates = _image_files(annotated.file, path.parent, folder, pictures)
            if not candidates:
                absent.append(annotated.file)
            elif len(candidates) > 1:
                problems.append(
                    f"Annotation file '{file}': image '{annotated.file}' may be any of {len(candidates)} files, "
                    f"{', '.join(repr(str(one.relative_to(folder))) for one in candidates)}. Put the annotation file "
                    "where the path leads from, or move the others away."
                )
            elif other := found.get(candidates[0]):
                problems.append(
                    f"Annotation file '{file}': image '{candidates[0].relative_to(folder)}' is annotated in "
                    f"'{other.annotation_file}' too; expected one annotation. Leave one of the files out with "
                    "--exclude, or remove one of the entries."
                )
            else:
                found[candidates[0]] = _Found(candidates[0], file, annotated)
        if absent:
            problems.append(
                f"Annotation file '{file}': expected {counted(len(images), 'image')} (PNG, JPEG, TIFF or BMP) below "
                f"'{folder}', found {len(images) - len(absent)}. The first that is not there is '{absent[0]}'. Add "
                "what is missing, correct the names, or leave the file out with --exclude."
            )
    if problems:
        raise InputError(problems)
    if not found:
        raise InputError(f"The annotation files below '{folder}' list no image. Add some.")
    if unused := sorted({path for paths in pictures.values() for path in paths} - set(found)):
        _LOG.warning(
            "%s in the source have no annotation and are left out, such as '%s'.",
            counted(len(unused), "image"), unused[0].relative_to(folder),
        )  # fmt: skip
    return sorted(found.values(), key=lambda one: one.path)


def _matching(paths: Iterable[Path], folder: Path, pattern: str) -> list[Path]:
    """Return the paths whose part below the folder matches a pattern with * and ?, in any letter case."""
    expression = re.compile(wildcard_expression(pattern), re.DOTALL | re.IGNORECASE)
    return [path for path in paths if expression.fullmatch(path.relative_to(folder).as_posix())]


def _image_files(file: str, beside: Path, folder: Path, pictures: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Return the files that an annotation file may mean: the one that the path leads to, or those that end alike."""
    path = PurePosixPath(file)
    led_to = Path(os.path.normpath(beside / file))
    same_name = pictures.get(path.name, [])
    if led_to in same_name:
        return [led_to]
    # Paths of other machines, and of folders that a COCO file is not beside.
    parts = (path.name,) if path.is_absolute() or ":" in path.parts[0] else tuple(p for p in path.parts if p != "..")
    return [one for one in same_name if one.relative_to(folder).parts[-len(parts) :] == parts]


def _classes_of(found: Sequence[_Found], labels: Mapping[str, str] | None) -> dict[str, frozenset[str]]:
    """Return the classes that make each label."""
    counts = Counter(shape.class_name for one in found for shape in one.annotated.shapes)
    listing = ", ".join(f"'{name}' ({count})" for name, count in sorted(counts.items())) or "none"
    if labels is None:
        if not counts:
            raise InputError("Nothing is drawn on any image, so there is no label. Draw the objects.")
        problems = [
            f"Class '{name}' cannot be a label of this name: it is empty or nnU-Net's own. Give it another one with "
            f"--label 'NAME={re.escape(name)}', and name every other class to convert with a --label as well."
            for name in sorted(counts)
            if not is_usable_label(name)
        ]
        problems += [
            f"The classes '{a}' and '{b}' differ in letter case only, so it is not clear whether they are one. Unite "
            f"them with --label '{a}={re.escape(a)}', and name every other class to convert with a --label as well."
            for a, b in combinations(sorted(counts), 2)
            if a.lower() == b.lower()
        ]
        if problems:
            raise InputError(problems)
        return {name: frozenset([name]) for name in sorted(counts)}
    classes = {
        label: frozenset(name for name in counts if is_match(name, expression)) for label, expression in labels.items()
    }
    problems = [
        f"No class matches '{labels[label]}' for label '{label}'. The classes, and how many shapes they have: "
        f"{listing}. Change the expression of --label."
        for label, names in classes.items()
        if not names
    ]
    problems += [
        f"Class '{name}' matches the labels {', '.join(map(repr, several))}; expected one. Make the expressions of "
        "--label narrower."
        for name in sorted(counts)
        if len(several := [label for label, names in classes.items() if name in names]) > 1
    ]
    if problems:
        raise InputError(problems)
    if left_out := sorted(set(counts).difference(*classes.values())):
        _LOG.info("Classes of no label are left out: %s.", ", ".join(map(repr, left_out)))
    return classes


def _groups(files: Sequence[PurePath], group: str | None) -> list[int]:
    """Return a number for each image that those of its group share, see :func:`convert_polygons`."""
    if group is None:
        return list(range(len(files)))
    matches = [re.search(group, file.as_posix()) for file in files]
    texts = [match and match[1 if match.re.groups else 0] for match in matches]
    if lost := [file for file, text in zip(files, texts, strict=True) if not text]:
        raise InputError(
            f"--group '{group}' finds nothing in the paths of {counted(len(lost), 'image')}, such as '{lost[0]}'. "
            "Change it, so that it finds the patient, for example, in each."
        )
    first = {text: texts.index(text) for text in dict.fromkeys(texts)}
    _LOG.info("The images are of %s.", counted(len(first), "group"))
    return [first[text] for text in texts]


def _make_cases(
    found: Sequence[_Found],
    folder: Path,
    classes: Mapping[str, frozenset[str]],
    spacing_mm_xy: tuple[float, float],
    first_pixel: float,
    settings: ConversionSettings,
    jobs: int,
) -> list[PolygonCase]:
    """Make the cases and check everything that needs no pixel values."""
    names = case_names([one.path.relative_to(folder).with_suffix("") for one in found])

    def make(named: tuple[str, _Found]) -> PolygonCase:
        name, one = named
        header, size = read_header(one.path), one.annotated.size_xy
        if size not in (None, header.size_xy):
            raise InputError(
                f"Case '{name}': '{one.annotation_file}' is drawn on an image of {size[0]} x {size[1]} pixels, but "
                f"'{one.path.relative_to(folder)}' has {header.size_xy[0]} x {header.size_xy[1]}. Restore the image "
                "that was drawn on."
            )
        wanted = frozenset().union(*classes.values())
        if faulty := [shape for shape in one.annotated.shapes if shape.fault and shape.class_name in wanted]:
            first = faulty[0]
            raise InputError(
                f"Case '{name}': '{one.annotation_file}' has {counted(len(faulty), 'shape')} without a contour, such "
                f"as shape {first.number}, of class '{first.class_name}', which {first.fault}; expected polygons. Draw "
                "what is missing, remove such shapes, or leave the class out with --label."
            )
        case = PolygonCase(name, one.path, header, one.annotated, classes, spacing_mm_xy, first_pixel)
        grid, contours = case.read_geometry()
        place(contours, grid, case=name, outside=settings.outside)
        return case

    cases, problems = for_all(make, list(zip(names, found, strict=True)), jobs, "Checking polygons")
    if not problems and settings.missing == "error":
        for label, of_label in classes.items():
            lacking = [
                case.name for case in cases if not any(shape.class_name in of_label for shape in case.annotated.shapes)
            ]
            if lacking:
                problems.append(
                    f"Nothing of label '{label}' is drawn on {len(lacking)} of {counted(len(cases), 'image')}, such as "
                    f"case '{lacking[0]}'. Draw it, or say with --missing whether it is absent or unknown there."
                )
    if problems:
        raise InputError(problems)
    return cases
