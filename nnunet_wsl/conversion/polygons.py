"""From 2D images with the polygons of annotation tools to a raw nnU-Net dataset."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, takewhile
from operator import eq
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from nnunet_wsl.contours import Contour, ContourSet, Grid, place
from nnunet_wsl.contours.polygons import FIRST_PIXEL, AnnotatedImage, Shape, read_polygons
from nnunet_wsl.conversion.cases import CaseContent, ConversionSettings, convert_cases
from nnunet_wsl.conversion.dataset import target_folder
from nnunet_wsl.conversion.naming import case_names, patient_splits
from nnunet_wsl.conversion.objects import LABEL_RULE, check_rois, is_match, is_usable_label
from nnunet_wsl.conversion.pictures import (
    CHANNELS_OF_COLOURS,
    PictureHeader,
    channels_of,
    check_spacing,
    is_picture,
    picture_grid,
    read_header,
    read_picture,
    visible_files,
)
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
                grid.to_mm(np.column_stack([self._pixels_xy(shape), np.zeros(len(shape.points_xy))])),
                shape.closed,
                f"{shape.class_name} {shape.number}",
            )
            for shape in self.annotated.shapes
            for label, classes in self.classes.items()
            if shape.class_name in classes
        ]
        return grid, ContourSet(self.classes, contours)

    def _pixels_xy(self, shape: Shape) -> NDArray[np.float64]:
        """Return the points of a shape, counted from the centre of the first pixel."""
        return shape.points_xy - (self.first_pixel if shape.first_pixel is None else shape.first_pixel)

    def read(self) -> CaseContent:
        """Read the image and the contours of the labels."""
        pixels = read_picture(self.path)
        if pixels.shape[:0:-1] != self.header.size_xy:
            raise InputError(f"Case '{self.name}': '{self.path}' has changed since it was checked. Convert again.")
        return CaseContent(pixels[:, None], *self.read_geometry())


@dataclass(frozen=True)
class _Annotation:
    """What one annotation file holds; its path is below the source."""

    file: PurePath
    images: tuple[AnnotatedImage, ...]


@dataclass(frozen=True)
class _Found:
    """An annotated image, with the paths of both files below the source."""

    file: PurePath
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
    """Convert 2D images with what was drawn in LabelMe, or in tools that write COCO's format, to a raw nnU-Net dataset.

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
        Coordinate, on both axes, of the centre of the first pixel, see `nnunet_wsl.contours.polygons.FIRST_PIXEL`;
        masks consist of pixels, and need none.
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
    files = visible_files(folder)
    annotations = _read(files, folder, exclude, jobs)
    found = _find(annotations, [path.relative_to(folder) for path in files if is_picture(path)], folder)
    counts = Counter(
        class_name
        for one in found
        for class_name, _number in {(shape.class_name, shape.number) for shape in one.annotated.shapes}
    )
    classes = _every_class(counts) if labels is None else _matching_classes(counts, labels)
    groups = _groups([one.file for one in found], group)
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


def _read(files: Sequence[Path], folder: Path, exclude: Sequence[str], jobs: int) -> list[_Annotation]:
    """Read all annotation files but the excluded ones."""
    paths = [path for path in files if path.suffix.lower() == ".json"]
    excluded = {pattern: _matching(paths, folder, pattern) for pattern in exclude}
    problems = [
        f"--exclude '{pattern}' matches no annotation file. Give the path below '{folder}', with * for any text."
        for pattern, matched in excluded.items()
        if not matched
    ]
    left_out = {path for matched in excluded.values() for path in matched}
    paths = [path for path in paths if path not in left_out]
    if not paths and not problems:
        problems.append(
            f"No annotation file '*.json' below '{folder}' is left to convert. Add LabelMe's or COCO's files."
        )
    annotations, unreadable = for_all(
        lambda path: _Annotation(path.relative_to(folder), tuple(read_polygons(path))),
        paths,
        jobs,
        "Reading annotation files",
    )
    if problems := [*problems, *unreadable]:
        raise InputError(problems)
    return annotations


def _matching(paths: Iterable[Path], folder: Path, pattern: str) -> list[Path]:
    """Return the paths whose part below the folder matches a pattern with * and ?, in any letter case."""
    expression = re.compile(wildcard_expression(pattern), re.DOTALL | re.IGNORECASE)
    return [path for path in paths if expression.fullmatch(path.relative_to(folder).as_posix())]


def _find(annotations: Sequence[_Annotation], pictures: Sequence[PurePath], folder: Path) -> list[_Found]:
    """Find the images of the annotation files, each of which may be annotated once; files are below the folder."""
    by_name: dict[str, dict[PurePath, None]] = defaultdict(dict)
    for picture in pictures:
        by_name[picture.name][picture] = None
    found: dict[PurePath, _Found] = {}
    problems = []
    for annotation in annotations:
        where = f"Annotation file '{annotation.file}'"
        absent, unclear, repeated = [], [], []
        for image in annotation.images:
            candidates = _image_files(image.file, annotation.file.parent, by_name)
            if not candidates:
                absent.append(image.file)
            elif len(candidates) > 1:
                unclear.append((image.file, candidates))
            elif candidates[0] in found:
                repeated.append(found[candidates[0]])
            else:
                found[candidates[0]] = _Found(candidates[0], annotation.file, image)
        if absent:
            name = PurePosixPath(absent[0]).name.lower()
            there = " and ".join(f"'{picture}'" for picture in pictures if picture.name.lower() == name)
            problems.append(
                f"{where}: expected {counted(len(annotation.images), 'image')} (PNG, JPEG, TIFF or BMP) below "
                f"'{folder}', found {len(annotation.images) - len(absent)}. The first that is not there is "
                f"'{absent[0]}'{f'; of that name is {there}' if there else ''}. Add what is missing, correct the "
                "paths, or leave the file out with --exclude."
            )
        if unclear:
            image_file, candidates = unclear[0]
            files = " or ".join(f"'{candidate}'" for candidate in candidates)
            problems.append(
                f"{where}: {counted(len(unclear), 'image')} may be one of several files. The first is '{image_file}': "
                f"{files}. Put the annotation file where the path leads from, or move the others away."
            )
        if repeated:
            problems.append(
                f"{where}: {counted(len(repeated), 'image')} annotated a second time, such as '{repeated[0].file}', "
                f"first in '{repeated[0].annotation_file}'; expected one annotation. Leave one of the files out with "
                "--exclude, or remove entries."
            )
    if problems:
        raise InputError(problems)
    if not found:
        raise InputError(f"The annotation files below '{folder}' list no image. Add some.")
    if empty := [one for one in found.values() if not one.annotated.shapes]:
        _LOG.warning(
            "On %s nothing is drawn, such as '%s'. Remove what nobody has worked on from the annotation files.",
            counted(len(empty), "listed image"), empty[0].file,
        )  # fmt: skip
    if unused := sorted(set(pictures).difference(found)):
        _LOG.warning(
            "Without annotation, and left out: %s in the source, such as '%s'.",
            counted(len(unused), "image"), unused[0],
        )  # fmt: skip
    return [found[file] for file in sorted(found)]


def _image_files(file: str, beside: PurePath, pictures: Mapping[str, Mapping[PurePath, None]]) -> list[PurePath]:
    """Return the images that an annotation file may mean: the one that the path leads to, or those that end so."""
    path = PurePosixPath(file)
    same_name = pictures.get(path.name, {})
    led_to = PurePath(os.path.normpath(beside / file))
    if led_to in same_name or not same_name:
        return [led_to] if same_name else []
    # A COCO file need not be where its paths lead from, and paths of other machines end alike at most in the name.
    parts = tuple(part for part in path.parts if part != "..")
    ending = [picture for picture in same_name if picture.parts[-len(parts) :] == parts]
    if not ending and (path.is_absolute() or ":" in path.parts[0] or ".." in path.parts):
        ending = list(same_name)
    # As much as possible of the path; then, as several exports in one source have their images, beside it or deeper.
    nearness = {
        picture: (
            sum(1 for _ in takewhile(bool, map(eq, picture.parts[::-1], path.parts[::-1]))),
            len(PurePath(os.path.commonpath([beside, picture.parent])).parts),
            picture.parent == beside,
        )
        for picture in ending
    }
    return [picture for picture in ending if nearness[picture] == max(nearness.values())]


def _every_class(counts: Mapping[str, int]) -> dict[str, frozenset[str]]:
    """Make a label of every class that is drawn."""
    if not counts:
        raise InputError("Nothing is drawn on any image, so there is no label. Draw the objects.")
    problems = [
        f"Class {name!r} cannot be a label of this name: expected {LABEL_RULE}. Give it another one with "
        f"--label 'NAME={re.escape(name) or '()'}', and name every other class to convert with a --label as well."
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


def _matching_classes(counts: Mapping[str, int], labels: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return the classes that make each label, by its expression."""
    classes = {
        label: frozenset(name for name in counts if is_match(name, expression)) for label, expression in labels.items()
    }
    listing = ", ".join(f"'{name}' ({count})" for name, count in sorted(counts.items())) or "none"
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
        _LOG.info("Every image may be in another fold. If several are of one patient, say with --group how to tell.")
        return list(range(len(files)))
    matches = [re.search(group, file.as_posix()) for file in files]
    texts = [match and match[1 if match.re.groups else 0] for match in matches]
    if lost := [file for file, text in zip(files, texts, strict=True) if not text]:
        raise InputError(
            f"--group '{group}' finds nothing in the paths of {counted(len(lost), 'image')}, or nothing with its first "
            f"group, such as '{lost[0]}'. Change it, so that it finds the patient, for example, in each."
        )
    first_of: dict[str | None, int] = {}
    groups = [first_of.setdefault(text, i) for i, text in enumerate(texts)]
    _LOG.info("The images are of %s.", counted(len(first_of), "group"))
    return groups


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
    names = case_names([one.file.with_suffix("") for one in found])
    headers, problems = for_all(lambda one: read_header(folder / one.file), found, jobs, "Reading headers")
    if problems:
        raise InputError(problems)
    if problems := [*_other_sizes(found, headers), *_faults(found, frozenset().union(*classes.values()))]:
        raise InputError(problems)

    def make(named: tuple[str, _Found, PictureHeader]) -> PolygonCase:
        name, one, header = named
        case = PolygonCase(name, folder / one.file, header, one.annotated, classes, spacing_mm_xy, first_pixel)
        grid, contours = case.read_geometry()
        place(contours, grid, case=name, outside=settings.outside)
        return case

    cases, problems = for_all(make, list(zip(names, found, headers, strict=True)), jobs, "Checking polygons")
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


def _other_sizes(found: Sequence[_Found], headers: Sequence[PictureHeader]) -> list[str]:
    """Report, for each annotation file, images of another size than they had when they were annotated."""
    others: dict[PurePath, list[tuple[_Found, PictureHeader]]] = defaultdict(list)
    for one, header in zip(found, headers, strict=True):
        if one.annotated.size_xy not in (None, header.size_xy):
            others[one.annotation_file].append((one, header))
    problems = []
    for file, of_file in others.items():
        one, header = of_file[0]
        drawn_on = one.annotated.size_xy or ()
        expected, there = (" x ".join(map(str, size)) for size in (drawn_on, header.size_xy))
        turned = " If its EXIF orientation turns it, and the tool did not, remove that from the image."
        problems.append(
            f"Annotation file '{file}': {counted(len(of_file), 'image')} of another size than was drawn on. The first "
            f"is '{one.file}': expected {expected} pixels, found {there}. Restore the images that were drawn on."
            f"{turned if drawn_on == header.size_xy[::-1] else ''}"
        )
    return problems


def _faults(found: Sequence[_Found], classes: Collection[str]) -> list[str]:
    """Report, for each annotation file, shapes of the classes that are no contours."""
    faulty: dict[PurePath, list[tuple[_Found, Shape]]] = defaultdict(list)
    for one in found:
        faulty[one.annotation_file] += [
            (one, shape) for shape in one.annotated.shapes if shape.fault and shape.class_name in classes
        ]
    problems = []
    for file, of_file in faulty.items():
        if of_file:
            one, shape = of_file[0]
            problems.append(
                f"Annotation file '{file}': {counted(len(of_file), 'shape')} without a contour. The first is number "
                f"{shape.number} of image '{one.file}', of class '{shape.class_name}', which {shape.fault}; expected a "
                "polygon, or a mask with pixels. Draw what is missing, remove such shapes, or leave the class out with "
                "--label."
            )
    return problems
