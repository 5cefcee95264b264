"""From DICOM series, also cine series, and text files of contours to a raw nnU-Net dataset."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from nnunet_wsl.contours import Contour, ContourSet, Grid, place
from nnunet_wsl.contours.text import FIRST_PIXEL, read_text_contour
from nnunet_wsl.conversion.cases import CaseContent, ConversionSettings, convert_cases
from nnunet_wsl.conversion.dataset import target_folder
from nnunet_wsl.conversion.matching import common_modality
from nnunet_wsl.conversion.naming import case_names, patient_groups, patient_splits
from nnunet_wsl.conversion.objects import check_rois
from nnunet_wsl.conversion.series import Series, files_below, find_dicom, modalities_of
from nnunet_wsl.errors import InputError, counted
from nnunet_wsl.files import wildcard_expression
from nnunet_wsl.parallel import for_all

_LOG = logging.getLogger(__name__)

LINK_FILE = "link.csv"

IMAGES_COLUMN, CONTOURS_COLUMN = "patient_id", "original_id"
"""Columns of the link file: the folder of a patient's images, and that of the contours."""

INSTANCE = "{instance}"
"""Where in a file name the Instance Number of the image stands."""

SUNNYBROOK = {"inner": "*-{instance}-icontour-*.txt", "outer": "*-{instance}-ocontour-*.txt"}
"""File names of the Sunnybrook Cardiac Data: endocardium and epicardium of the left ventricle."""


@dataclass(frozen=True, eq=False)
class TextContour:
    """One contour file.

    Parameters
    ----------
    file : PurePath
        Its path below the source.
    label : str
        The label that it is drawn for.
    instance_number : int
        DICOM Instance Number of the image that it is drawn on.
    points_xy : ndarray of float64, shape (N, 2)
        Its points as the file has them.
    matched : tuple of str
        What the Instance Number and every ``*`` of the pattern are in its name, in small letters.
    """

    file: PurePath
    label: str
    instance_number: int
    points_xy: npt.NDArray[np.float64]
    matched: tuple[str, ...]


@dataclass(frozen=True)
class TextCase:
    """One phase of one patient, as a case of a dataset.

    Parameters
    ----------
    name : str
        Name of the case.
    series : Series
        The images of the phase.
    objects : tuple of str
        The labels.
    contours : tuple of TextContour
        All of them are drawn on images of the phase.
    first_pixel : float
        Coordinate of the centre of the first pixel in the contour files.
    """

    name: str
    series: Series
    objects: tuple[str, ...]
    contours: tuple[TextContour, ...]
    first_pixel: float

    def read_geometry(self) -> tuple[Grid, ContourSet]:
        """Return the grid of the image and the contours of the labels."""
        grid = self.series.grid()
        slice_of = {image.instance_number: k for k, image in enumerate(self.series.sorted_slices())}
        contours = []
        for contour in self.contours:
            z = np.full(len(contour.points_xy), slice_of[contour.instance_number])
            points_mm = grid.to_mm(np.column_stack([contour.points_xy - self.first_pixel, z]))
            contours.append(Contour(contour.label, points_mm, source=str(contour.file)))
        return grid, ContourSet(self.objects, contours)

    def read(self) -> CaseContent:
        """Read the image, of one channel, and the contours of the labels."""
        return CaseContent(self.series.read()[None], *self.read_geometry())


@dataclass(frozen=True)
class _Patient:
    """One line of the link file, with what was found for it."""

    folder: PurePath
    contour_folder: PurePath
    series: tuple[Series, ...]
    contours: tuple[TextContour, ...]


def convert_text(
    source: str | os.PathLike[str],
    dataset_id: int,
    name: str,
    *,
    contours: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    modality: str | None = None,
    first_pixel: float = FIRST_PIXEL,
    settings: ConversionSettings | None = None,
    overwrite: bool = False,
    jobs: int = 1,
) -> Path:
    """Convert text files of contours, with the DICOM series that they are drawn on, to a raw nnU-Net dataset.

    A case is a patient and a phase of the series, see :meth:`nnunet_wsl.conversion.series.Series.phases`; phases
    without any contour are no cases. All phases of a patient stay in one fold.

    Parameters
    ----------
    source : path
        Folder with images, contour files and ``link.csv``, whose columns ``patient_id`` and ``original_id`` name the
        folder of a patient's images and that of the contours, wherever they are below the source. Case names come
        from the folders of the images, never from DICOM fields.
    dataset_id, name : int, str
        The dataset becomes ``DatasetXXX_NAME``.
    contours : mapping of str to str, optional
        Label to the name of its files, in any letter case: ``{instance}`` stands for the digits of the Instance Number
        of the image, ``*`` and ``?`` for any text and any character. The labels get the values 1, 2, ... in this
        order. By default those of the Sunnybrook Cardiac Data, inner and outer. Several files of one label and image
        are united if they lie in one folder and differ in nothing but what ``?`` stands for.
    exclude : sequence of str
        Contour files to leave out: patterns, with ``*`` and ``?``, of their paths below the source.
    modality : str, optional
        DICOM modality of the images, where a patient has several series with the same numbers.
    first_pixel : float
        Coordinate, on both axes, of the centre of the first pixel, see `FIRST_PIXEL`.
    settings : ConversionSettings, optional
        How contours become masks and relevance channels; by default a label that is not drawn in a case is unknown
        there, because in cine series labels are often drawn on some phases only.
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
    settings = settings or ConversionSettings(missing="unknown")
    patterns = _compile(contours or SUNNYBROOK)
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"Source '{folder}' is not a folder. Give the folder that holds '{LINK_FILE}'.")
    links = _read_link(folder / LINK_FILE)
    drawn, excluded = _find_contours(folder, contours or SUNNYBROOK, patterns, exclude)
    dicom = find_dicom(folder, jobs=jobs)
    _LOG.info("Found %d image series and %d contour files.", len(dicom.series), len(drawn))
    patients = _find_patients(links, dicom.series, drawn, excluded, folder)
    problems = [*_mixtures(patients), *_repeats(patients, contours or SUNNYBROOK)]
    cases, groups, problems_of_patients = _make_cases(patients, tuple(patterns), modality, first_pixel, settings)
    if problems or problems_of_patients:
        raise InputError([*problems, *problems_of_patients])
    image_channel = common_modality(case.series for case in cases)
    splits = patient_splits([case.name for case in cases], groups)
    if not splits:
        _LOG.warning(
            "All cases are of one patient: no splits_final.json is written, and no validation will be independent."
        )
    _LOG.info("Converting %s with the labels %s.", counted(len(cases), "case"), ", ".join(patterns))
    convert_cases(
        target,
        cases,
        objects=tuple(patterns),
        image_channels=[image_channel],
        splits=splits,
        settings=settings,
        recorded={"text_contours": {"first_pixel": first_pixel, "excluded_files": len(excluded)}},
        overwrite=overwrite,
        jobs=jobs,
    )
    _LOG.info("Wrote %s.", target)
    return target


def _compile(contours: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    """Make regular expressions of the file names of the labels.

    The group ``instance`` is the Instance Number; the others are what every ``*`` stands for.
    """
    if problems := [
        f"--contour '{label}={pattern}': expected one {INSTANCE} where the Instance Number of the image stands, found "
        f"{pattern.count(INSTANCE)}. Write, for example, --contour 'inner={SUNNYBROOK['inner']}'."
        for label, pattern in contours.items()
        if pattern.count(INSTANCE) != 1
    ]:
        raise InputError(problems)
    expressions = {
        label: wildcard_expression(pattern).replace(re.escape(INSTANCE), r"(?P<instance>\d+)")
        for label, pattern in contours.items()
    }
    check_rois(expressions)
    return {label: re.compile(expression, re.IGNORECASE) for label, expression in expressions.items()}


def _read_link(path: Path) -> list[tuple[str, str]]:
    """Return the folder of the images and that of the contours of every patient."""
    columns = f"{IMAGES_COLUMN},{CONTOURS_COLUMN}"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            rows, found = list(table), table.fieldnames or ()
    except FileNotFoundError as error:
        raise InputError(
            f"There is no '{path}'. Write it, with a line '{columns}' and then, per patient, the folder of the images "
            "and that of the contours."
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"'{path}' cannot be read as CSV: {error}. Correct it.") from error
    if not {IMAGES_COLUMN, CONTOURS_COLUMN} <= set(found):
        raise InputError(f"'{path}' has the columns {', '.join(found) or 'of an empty file'}; expected {columns}.")
    links = [(str(row[IMAGES_COLUMN] or "").strip(), str(row[CONTOURS_COLUMN] or "").strip()) for row in rows]
    problems = [
        f"'{path}', patient {number}: expected a folder in each of the columns {columns}. Fill in both."
        for number, link in enumerate(links, start=1)
        if not all(link)
    ]
    for column, names in zip((IMAGES_COLUMN, CONTOURS_COLUMN), zip(*links, strict=True), strict=False):
        problems += [
            f"'{path}' names '{name}' {count} times in the column {column}; expected every folder once. Correct it."
            for name, count in Counter(names).items()
            if name and count > 1
        ]
    if not links:
        problems.append(f"'{path}' lists no patient. Add a line per patient.")
    if problems:
        raise InputError(problems)
    return links


def _find_contours(
    folder: Path, contours: Mapping[str, str], patterns: Mapping[str, re.Pattern[str]], exclude: Sequence[str]
) -> tuple[list[TextContour], list[PurePath]]:
    """Read all contour files but the excluded ones; also return the paths of those."""
    found: list[TextContour] = []
    problems = []
    used: set[str] = set()
    excluded: list[PurePath] = []
    exclusions = {pattern: re.compile(wildcard_expression(pattern), re.DOTALL | re.IGNORECASE) for pattern in exclude}
    for path in files_below(folder):
        if path.name.startswith("."):  # as a shell's * does; archives made on a Mac are full of them
            continue
        matches = {label: match for label, pattern in patterns.items() if (match := pattern.fullmatch(path.name))}
        if not matches:
            continue
        file = path.relative_to(folder)
        if excluding := [pattern for pattern, one in exclusions.items() if one.fullmatch(file.as_posix())]:
            used.update(excluding)
            excluded.append(file)
            continue
        if len(matches) > 1:
            problems.append(
                f"Contour file '{file}' matches the labels {', '.join(map(repr, matches))}; expected one. "
                "Make the patterns of --contour narrower."
            )
            continue
        ((label, match),) = matches.items()
        try:
            points_xy = read_text_contour(path)
        except InputError as error:
            problems += error.problems
            continue
        matched = tuple(text.lower() for text in match.groups())
        found.append(TextContour(file, label, int(match["instance"]), points_xy, matched))
    problems += [
        f"--exclude '{pattern}' matches no contour file. Give the path below '{folder}', with * for any text."
        for pattern in exclude
        if pattern not in used
    ]
    if not found and not problems:
        problems.append(
            f"No contour file below '{folder}' is left to convert: {len(excluded)} are excluded, and no other matches "
            f"{' or '.join(repr(pattern) for pattern in contours.values())}. Say with --contour how they are named."
        )
    if problems:
        raise InputError(problems)
    if excluded:
        _LOG.info("Excluded: %s.", counted(len(excluded), "contour file"))
    return found, excluded


def _find_patients(
    links: Sequence[tuple[str, str]],
    series: Sequence[Series],
    contours: Sequence[TextContour],
    excluded: Sequence[PurePath],
    source: Path,
) -> list[_Patient]:
    """Find the folders of every patient and what lies in them."""
    image_files = [image.path.relative_to(source) for one in series for image in one.slices]
    contour_files = [*(contour.file for contour in contours), *excluded]
    problems: list[str] = []
    patients = []
    for images_name, contours_name in links:
        try:
            folder = _folder(images_name, image_files, "DICOM images", IMAGES_COLUMN)
            contour_folder = _folder(contours_name, contour_files, "contour files", CONTOURS_COLUMN)
        except InputError as error:
            problems += error.problems
            continue
        patients.append(
            _Patient(
                folder,
                contour_folder,
                tuple(_within(series, source / folder)),
                tuple(contour for contour in contours if contour_folder in contour.file.parents),
            )
        )
    for column, folders in (
        (IMAGES_COLUMN, [patient.folder for patient in patients]),
        (CONTOURS_COLUMN, [patient.contour_folder for patient in patients]),
    ):
        counts = Counter(folders)
        shared = [(folder, folder) for folder, count in counts.items() if count > 1]
        shared += [(parent, folder) for folder in counts for parent in folder.parents if parent in counts]
        problems += [
            f"'{LINK_FILE}' names, in the column {column}, for two patients '{first}' and '{second}', which have files "
            "in common; expected a folder for every patient. Correct it."
            for first, second in shared
        ]
    claimed = {contour.file for patient in patients for contour in patient.contours}
    if not problems and (unlisted := Counter(c.file.parent for c in contours if c.file not in claimed)):
        problems += [
            f"'{folder}' has {count} contour files, but '{LINK_FILE}' does not list the folder. Add a line with the "
            f"folder of its images, or leave it out with --exclude '{folder.as_posix()}/*'."
            for folder, count in unlisted.items()
        ]
    if problems:
        raise InputError(problems)
    if unlisted_series := len(series) - len({one.uid for patient in patients for one in patient.series}):
        _LOG.warning("%d image series belong to no patient of '%s'.", unlisted_series, LINK_FILE)
    return patients


def _folder(name: str, files: Iterable[PurePath], content: str, column: str) -> PurePath:
    """Find the one folder of a name, or of the last components of a path, that holds files."""
    parts = PurePath(name).parts
    found = sorted({parent for file in files for parent in file.parents if parent.parts[-len(parts) :] == parts})
    if not found:
        raise InputError(
            f"'{LINK_FILE}' names the folder '{name}' in the column {column}, but no folder of that name has "
            f"{content}. Add them, correct the name, or remove the line."
        )
    if len(found) > 1:
        raise InputError(
            f"'{LINK_FILE}' names the folder '{name}' in the column {column}, and there are {len(found)}: "
            f"{', '.join(repr(str(folder)) for folder in found)}. Write more of its path."
        )
    return found[0]


def _within(series: Iterable[Series], folder: Path) -> Iterable[Series]:
    """Return the series, or parts of them, that lie in a folder."""
    for one in series:
        if slices := tuple(image for image in one.slices if folder in image.path.parents):
            yield replace(one, slices=slices)


def _mixtures(patients: Iterable[_Patient]) -> list[str]:
    """Report files of one label and image that may be of two annotators: uniting their contours would be wrong.

    Several contours of one annotator are told from that by ``?``, which stands for their number or letter.
    """
    problems = []
    for patient in patients:
        first_of: dict[tuple[str, int], TextContour] = {}
        mixed: dict[str, list[tuple[TextContour, TextContour]]] = defaultdict(list)
        for contour in patient.contours:
            first = first_of.setdefault((contour.label, contour.instance_number), contour)
            if (first.file.parent, first.matched) != (contour.file.parent, contour.matched):
                mixed[contour.label].append((first, contour))
        for label, pairs in mixed.items():
            first, second = pairs[0]
            problems.append(
                f"'{patient.contour_folder}' has {len(pairs)} contour files too many of label '{label}': an image has "
                f"another one already. The first are '{first.file}' and '{second.file}', for Instance Number "
                f"{first.instance_number}; expected files of one annotator, in one folder and with one text for each "
                "* of the pattern. Write that text instead of * in --contour, or leave the other files out with "
                "--exclude. If they are several contours of one annotator, write ? for what tells the files apart."
            )
    return problems


def _repeats(patients: Sequence[_Patient], contours: Mapping[str, str]) -> list[str]:
    """Report contours that two patients share point by point: they cannot be right for both."""
    same: dict[bytes, list[tuple[_Patient, TextContour]]] = defaultdict(list)
    for patient in patients:
        for contour in patient.contours:
            same[contour.points_xy.tobytes()].append((patient, contour))
    pairs: dict[tuple[PurePath, PurePath, str], list[tuple[TextContour, TextContour]]] = defaultdict(list)
    for found in same.values():
        for (one, first), (other, second) in combinations(found, 2):
            if one is not other and first.label == second.label:
                pairs[one.contour_folder, other.contour_folder, first.label].append((first, second))
    problems = []
    for (one_folder, other_folder, label), repeated in pairs.items():
        first, second = min(repeated, key=lambda pair: pair[0].instance_number != pair[1].instance_number)
        options = " or ".join(
            f"--exclude '{(file.parent / contours[label].replace(INSTANCE, '*')).as_posix()}'"
            for file in (second.file, first.file)
        )
        problems.append(
            f"{len({second.file for _, second in repeated})} contours '{label}' of '{other_folder.name}' are, point by "
            f"point, those of '{one_folder.name}'; expected those of two patients to differ. The first are "
            f"'{second.file}' and '{first.file}'. "
            f"See whose images they fit, and leave the others out with {options}."
        )
    return problems


def _make_cases(
    patients: Sequence[_Patient],
    objects: tuple[str, ...],
    modality: str | None,
    first_pixel: float,
    settings: ConversionSettings,
) -> tuple[list[TextCase], list[int], list[str]]:
    """Make the cases and check everything that needs no voxel values.

    Returns
    -------
    list of TextCase
        The good cases.
    list of int
        The group of each of them: one per patient.
    list of str
        The problems of the others.
    """
    names = case_names([PurePath(patient.folder.name) for patient in patients])

    def cases_of(named: tuple[str, _Patient]) -> list[TextCase]:
        name, patient = named
        if not patient.contours:
            _LOG.info("Patient '%s': all contour files are excluded.", name)
            return []
        phases = _find_series(name, patient, modality).phases()
        cases = []
        for phase, series in enumerate(phases):
            instances = {image.instance_number for image in series.slices}
            if drawn := tuple(contour for contour in patient.contours if contour.instance_number in instances):
                cases.append(TextCase(f"{name}_phase{phase:02d}", series, objects, drawn, first_pixel))
        _LOG.info("Patient '%s': contours on %d of %d phases.", name, len(cases), len(phases))
        _, problems = for_all(lambda case: _check(case, settings), cases, 1, f"Checking {name}")
        if problems:
            raise InputError(problems)
        return cases

    found, problems = for_all(cases_of, list(zip(names, patients, strict=True)), 1, "Checking contours")
    cases = [case for of_patient in found for case in of_patient]
    patient_ids = [patient.series[0].patient_id for patient in patients]
    group_of = dict(zip(names, patient_groups([PurePath(name) for name in names], patient_ids), strict=True))
    return cases, [group_of[case.name.rpartition("_phase")[0]] for case in cases], problems


def _check(case: TextCase, settings: ConversionSettings) -> None:
    grid, contours = case.read_geometry()
    place(contours, grid, case=case.name, outside=settings.outside)
    drawn = {contour.label for contour in case.contours}
    if settings.missing == "error" and (missing := [label for label in case.objects if label not in drawn]):
        raise InputError(
            f"Case '{case.name}': no file has a contour of label '{label}'. Draw it, or say with --missing whether "
            "it is absent or unknown."
            for label in missing
        )


def _find_series(name: str, patient: _Patient, modality: str | None) -> Series:
    """Find the series whose images have the numbers of all contour files of a patient."""
    series = [one for one in patient.series if modality in (None, one.modality)]
    if not series:
        raise InputError(
            f"Patient '{name}': no image series of modality {modality} in '{patient.folder}'; those there are "
            f"{modalities_of(patient.series)}. Change --modality."
        )

    def without_image(one: Series) -> list[TextContour]:
        instances = {image.instance_number for image in one.slices}
        return [contour for contour in patient.contours if contour.instance_number not in instances]

    fitting = [one for one in series if not without_image(one)]
    if not fitting:
        best = min(series, key=lambda one: len(without_image(one)))
        left = without_image(best)
        raise InputError(
            f"Patient '{name}': {len(left)} of {len(patient.contours)} contour files have the number of no image. The "
            f"first is '{left[0].file}': expected an image with Instance Number {left[0].instance_number} in the "
            f"{best}. Restore the images, or leave the files out with --exclude."
        )
    if len(fitting) > 1:
        raise InputError(
            f"Patient '{name}': {len(fitting)} series have the Instance Numbers of all its contour files: "
            f"{'; '.join(f'the {one}' for one in fitting)}. Choose one with --modality, or move the others away."
        )
    chosen = fitting[0]
    counts = Counter(image.instance_number for image in chosen.slices)
    if twice := sorted({c.instance_number for c in patient.contours if counts[c.instance_number] > 1}):
        raise InputError(
            f"Patient '{name}': {counts[twice[0]]} images of the {chosen} have the Instance Number {twice[0]}, so it "
            "is not clear which the contours are drawn on. Move those away that do not belong to the series."
        )
    if len(chosen.frame_of_reference_uids) >= len(chosen.slices) > 1:
        # Left by some anonymisation. Whether the positions belong together, the checks of the geometry show.
        _LOG.warning("Patient '%s': every image of the %s has a frame of reference of its own; ignored.", name, chosen)
        return replace(chosen, frame_of_reference_uids=frozenset())
    return chosen
