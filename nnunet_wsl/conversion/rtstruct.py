"""From DICOM series and their RTSTRUCT files to a raw nnU-Net dataset."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from nnunet_wsl.contours import ContourSet, Grid, RTStruct, place, read_rtstruct
from nnunet_wsl.conversion.cases import CaseContent, ConversionSettings, convert_cases
from nnunet_wsl.conversion.dataset import target_folder
from nnunet_wsl.conversion.matching import common_modality, match_series
from nnunet_wsl.conversion.naming import case_names, patient_groups, patient_splits
from nnunet_wsl.conversion.objects import check_rois, match_rois, matching_names, rois_of_all
from nnunet_wsl.conversion.series import DicomSource, Series, find_dicom, modalities_of
from nnunet_wsl.errors import InputError, counted
from nnunet_wsl.parallel import for_all

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Summary:
    """What an RTSTRUCT says, without its contours."""

    path: Path
    rtstruct: RTStruct
    num_contours: dict[str, int]


@dataclass(frozen=True)
class _StructureSet:
    """An RTSTRUCT, its ROIs, and the series that it was drawn on."""

    path: Path
    num_contours: dict[str, int]
    series: Series
    named: int
    """Images that it names, for itself or for a contour."""
    missing: int
    """Those that are not in the source; 0 if none of its series is, as in data with new UIDs."""
    other_patient: bool
    """Whether it carries another Patient ID than its series."""
    other_images: bool
    """Whether its header names its series, and its contours other images of the source only."""
    patient_id: str = field(repr=False)
    """Patient ID of its series, or its own where that is empty; held in memory only."""


@dataclass(frozen=True)
class RTStructCase:
    """A structure set with its series, as a case of a dataset.

    Parameters
    ----------
    name : str
        Name of the case.
    path : Path
        The RTSTRUCT file.
    series : Series
        The images that it was drawn on.
    sources : mapping of str to sequence of str
        Label to the ROIs that it unites.
    patient_id : str
        Patient ID of the images, or where they have none of the structure set, held in memory only, to keep the cases
        of one patient together; empty if it is not clear.
    """

    name: str
    path: Path
    series: Series
    sources: Mapping[str, Sequence[str]]
    patient_id: str = field(default="", repr=False)

    def read_geometry(self) -> tuple[Grid, ContourSet]:
        """Return the grid of the image and the contours of the labels."""
        return self.series.grid(), read_rtstruct(self.path).selected(self.sources)

    def read(self) -> CaseContent:
        """Read the image, of one channel, and the contours of the labels."""
        return CaseContent(self.series.read()[None], *self.read_geometry())


def convert_rtstruct(
    source: str | os.PathLike[str],
    dataset_id: int,
    name: str,
    *,
    rois: Mapping[str, str] | None = None,
    modality: str | None = None,
    settings: ConversionSettings | None = None,
    overwrite: bool = False,
    jobs: int = 1,
) -> Path:
    """Convert all RTSTRUCT files below a folder, with their image series, to a raw nnU-Net dataset.

    Every RTSTRUCT is a case. The dataset appears in ``nnUNet_raw`` when all of it is written; if anything fails,
    nothing appears.

    Parameters
    ----------
    source : path
        Folder with DICOM series and RTSTRUCT files, in any arrangement of folders. Case names come from its
        folders, never from DICOM fields.
    dataset_id, name : int, str
        The dataset becomes ``DatasetXXX_NAME``.
    rois : mapping of str to str, optional
        Label to a regular expression that matches whole ROI names in any letter case. The labels get the values 1,
        2, ... in this order; several ROIs of one label are united. Without it every ROI is a label, if all cases
        have the same ROIs.
    modality : str, optional
        DICOM modality of the images, for example ``"PT"``; structure sets of other images are left out.
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
    check_rois(rois or {})
    dicom = find_dicom(Path(source), jobs=jobs)
    _LOG.info(
        "Found %d image series and %d structure sets (and %d other files).",
        len(dicom.series), len(dicom.rtstructs), dicom.num_other_files,
    )  # fmt: skip
    settings = settings or ConversionSettings()
    structure_sets, problems = _find_structure_sets(dicom, rois, modality, settings, jobs)
    try:
        image_channel = common_modality(structure_set.series for structure_set in structure_sets)
    except InputError as error:
        raise InputError([*problems, *error.problems]) from error
    cases = _make_cases(structure_sets, dicom.folder, rois, settings, problems, jobs)
    _tell_left_out_and_repeated(cases, dicom, image_channel)
    folders = [case.path.parent.relative_to(dicom.folder) for case in cases]
    groups = patient_groups(folders, [case.patient_id for case in cases], [case.series.uid for case in cases])
    splits = patient_splits([case.name for case in cases], groups)
    if not splits:
        _LOG.warning(
            "All cases are of one patient: no splits_final.json is written, and no validation will be independent."
        )
    labels = tuple(cases[0].sources)
    _LOG.info("Converting %s with the labels %s.", counted(len(cases), "case"), ", ".join(labels))
    convert_cases(
        target,
        cases,
        objects=labels,
        image_channels=[image_channel],
        splits=splits,
        settings=settings,
        recorded={"rois": None if rois is None else dict(rois), "modality": modality},
        overwrite=overwrite,
        jobs=jobs,
    )
    _LOG.info("Wrote %s.", target)
    return target


def _find_structure_sets(
    dicom: DicomSource, rois: Mapping[str, str] | None, modality: str | None, settings: ConversionSettings, jobs: int
) -> tuple[list[_StructureSet], list[str]]:
    """Read every RTSTRUCT and find its series; leave out those of other modalities."""
    there = {image_slice.sop_uid for series in dicom.series for image_slice in series.slices}

    def match(summary: _Summary) -> _StructureSet | None:
        names = list(summary.num_contours)
        wanted = names if rois is None else matching_names(names, rois)
        contours = partial(_read_contours, summary.path, wanted)
        try:
            series = match_series(summary.rtstruct, contours, dicom.series, modality, settings.outside)
        except InputError as error:
            file = summary.path.relative_to(dicom.folder)
            raise InputError(f"RTSTRUCT '{file}': {problem}" for problem in error.problems) from error
        if series is None:
            return None
        named, drawn_on = summary.rtstruct.referenced_sop_uids, summary.rtstruct.contour_sop_uids
        own_images = {image_slice.sop_uid for image_slice in series.slices}
        known = not named.isdisjoint(own_images)
        missing = len(named - there) if known else 0
        own = summary.rtstruct.patient_id
        other_patient = bool(own and series.patient_ids) and own not in series.patient_ids
        is_named = series.uid in summary.rtstruct.referenced_series_uids
        other_images = is_named and drawn_on.isdisjoint(own_images) and not drawn_on.isdisjoint(there)
        patient_id = series.patient_id if series.patient_ids else own
        return _StructureSet(
            summary.path, summary.num_contours, series, len(named), missing, other_patient, other_images, patient_id
        )

    if not dicom.rtstructs:
        raise InputError(f"No RTSTRUCT file below '{dicom.folder}'. Give the folder that holds images and RTSTRUCTs.")
    # Only summaries come back from the other processes, and the series, of many slices, do not go there.
    summaries, unreadable = for_all(_summarise, dicom.rtstructs, jobs, "Reading structure sets")
    matched, unmatched = for_all(match, summaries, 1, "Matching series")
    structure_sets = [structure_set for structure_set in matched if structure_set is not None]
    problems = [*unreadable, *unmatched]
    if len(structure_sets) < len(matched):
        _LOG.info("%d structure sets belong to images of another modality.", len(matched) - len(structure_sets))
    if not structure_sets and not problems:
        problems.append(
            f"None of the {len(matched)} structure sets below '{dicom.folder}' belongs to a series of modality "
            f"{modality}; the series are {modalities_of(dicom.series)}. Change --modality."
        )
    if not structure_sets:
        raise InputError(problems)
    if others := [structure_set for structure_set in structure_sets if structure_set.other_patient]:
        _LOG.warning(
            "The Patient ID in %s is another than in the images, such as '%s'. Check that they belong together.",
            counted(len(others), "structure set"),
            others[0].path.relative_to(dicom.folder),
        )
    if others := [structure_set for structure_set in structure_sets if structure_set.other_images]:
        _LOG.warning(
            "The contours of %s, such as '%s', name images of another series of the source than its header, which "
            "counts. If they were drawn on that one, move the series that the header names away.",
            counted(len(others), "structure set"),
            others[0].path.relative_to(dicom.folder),
        )
    if incomplete := [structure_set for structure_set in structure_sets if structure_set.missing]:
        first = incomplete[0]
        _LOG.warning(
            "The source lacks images that are named by %s, such as '%s' (%d of %d). Where slices are missing at its "
            "end, an image ends early: restore them, unless they were left out on purpose.",
            counted(len(incomplete), "structure set"), first.path.relative_to(dicom.folder), first.missing, first.named,
        )  # fmt: skip
    return structure_sets, problems


def _tell_left_out_and_repeated(cases: Sequence[RTStructCase], dicom: DicomSource, modality: str) -> None:
    """Log which series have no structure set, and which have several."""
    cases_of: dict[str, list[str]] = {series.uid: [] for series in dicom.series if series.modality == modality}
    for case in cases:
        cases_of[case.series.uid].append(case.name)
    if left_out := [series for series in dicom.series if not cases_of.get(series.uid, [""])]:
        _LOG.warning(
            "%d image series of modality %s have no structure set and are left out, such as the %s.",
            len(left_out), modality, left_out[0],
        )  # fmt: skip
    for names in cases_of.values():
        if len(names) > 1:
            _LOG.warning(
                "The cases %s have the same image, for it has so many structure sets. They are not merged: leave one "
                "of them in the source, unless each shall count.",
                " and ".join(f"'{name}'" for name in names),
            )


def _summarise(path: Path) -> _Summary:
    rtstruct = read_rtstruct(path)
    contours, problems = rtstruct.contours, rtstruct.problems
    # A faulty contour is none of the contours, but it is drawn.
    num_contours = {name: len(contours.of(name)) + len(problems.get(name, ())) for name in contours.objects}
    return _Summary(path, replace(rtstruct, contours=ContourSet(contours.objects, ())), num_contours)


def _read_contours(path: Path, names: Sequence[str]) -> ContourSet:
    """Return the contours of these ROIs, or, where none of these has any, of all without faults, which tell as well."""
    rtstruct = read_rtstruct(path)
    contours = rtstruct.contours
    drawn = [name for name in names if contours.of(name)]
    drawn = drawn or [name for name in contours.objects if name not in rtstruct.problems]
    return contours.selected({name: [name] for name in drawn})


def _make_cases(
    structure_sets: Sequence[_StructureSet],
    source: Path,
    rois: Mapping[str, str] | None,
    settings: ConversionSettings,
    problems: list[str],
    jobs: int,
) -> list[RTStructCase]:
    """Name the cases, assign labels to their ROIs and check everything that needs no voxel values.

    Problems are reported together with those found before.
    """
    files = [structure_set.path.relative_to(source) for structure_set in structure_sets]
    names = case_names([file.parent for file in files], files)
    named = dict(zip(names, structure_sets, strict=True))
    if rois is None:
        try:
            rois = rois_of_all({name: tuple(structure_set.num_contours) for name, structure_set in named.items()})
        except InputError as error:
            raise InputError([*problems, *error.problems]) from error

    def make(named: tuple[str, _StructureSet]) -> RTStructCase:
        name, structure_set = named
        sources = match_rois(name, structure_set.num_contours, rois, settings.missing)
        case = RTStructCase(name, structure_set.path, structure_set.series, sources, structure_set.patient_id)
        grid, contours = case.read_geometry()
        place(contours, grid, case=name, outside=settings.outside)
        return case

    cases, problems_of_cases = for_all(make, list(named.items()), jobs, "Checking contours")
    if problems or problems_of_cases:
        # Cases of one series share its problems.
        raise InputError(dict.fromkeys([*problems, *problems_of_cases]))
    for case in cases:
        for label, united in case.sources.items():
            if len(united) > 1:
                _LOG.info("Case '%s': label '%s' unites the ROIs %s.", case.name, label, ", ".join(map(repr, united)))
    return cases
