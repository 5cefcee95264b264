"""From cases, each an image with its contours, to a raw nnU-Net dataset.

The cases are gone through twice: the first pass writes images and label maps and measures what the scales of the
relevance are planned from; the second writes the relevance channels.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from tqdm import tqdm

from nnunet_wsl.contours import ContourSet, Grid, PlacedContours, contour_voxels, drawn_slices, place, rasterise
from nnunet_wsl.contract import FUSED
from nnunet_wsl.conversion.annotated import SliceList, read_annotated, slices_within
from nnunet_wsl.conversion.annotation import AnnotationRule, SliceKnowledge, label_map, slice_knowledge
from nnunet_wsl.conversion.dataset import (
    MAX_OBJECTS,
    build_dataset,
    image_path,
    label_path,
    read_volume,
    write_dataset_json,
    write_json,
    write_volume,
)
from nnunet_wsl.conversion.objects import Missing
from nnunet_wsl.conversion.regions import Combination, LabelValues, combine, count_combinations
from nnunet_wsl.conversion.report import CaseSketch, ObjectReport, draw_overview, log_reports, write_reports
from nnunet_wsl.errors import InputError
from nnunet_wsl.relevance import (
    CaseFingerprint,
    RelevanceSettings,
    case_fingerprint,
    fuse,
    plan_scales,
    relevance_maps,
)

_LOG = logging.getLogger(__name__)

Input = TypeVar("Input")
Result = TypeVar("Result")


ANNOTATED_FILE = "wsl_annotated.json"
"""Copy, in the dataset, of the list of annotated slices that it was converted with."""


@dataclass(frozen=True)
class ConversionSettings:
    """How contours become masks and relevance channels.

    Parameters
    ----------
    relevance : {"per-object", "fused", "none"}
        One relevance channel per object, one for all (the maximum), or none.
    relevance_mode : {"distance", "intensity", "both"}
        What the relevance falls off with.
    sigma_mm : tuple of float, optional
        How far the relevance reaches: one value per object or one for all. Planned from the data by default.
    intensity_scale : tuple of float, optional
        Intensity difference at which the relevance has fallen off: one value per image channel or one for all, in
        the channel's units. Planned from the data by default.
    annotated : {"auto", "all", "contoured"}
        What an undrawn slice means, see :func:`nnunet_wsl.conversion.annotation.slice_knowledge`.
    annotated_file : Path, optional
        Lists slices that are fully annotated, see :func:`nnunet_wsl.conversion.annotated.read_annotated`. What it
        does not list follows ``annotated``.
    annotated_margin : int
        Slices before the first and after the last drawn one of an object that are unknown.
    missing : {"error", "absent", "unknown"}
        What it means that a case has no contour of an object: an error; the object is not there; or nobody has drawn
        it, so that nothing is known about it.
    overlap : {"error", "priority", "regions"}
        What a voxel inside two objects becomes: an error; the object that is named first (as in the priority lists
        of radiotherapy, the first is the highest: name the GTV before the PTV); or a label value of its own, in
        nnU-Net's region-based labels.
    outside : {"error", "clip"}
        What happens to contours that leave the image by more than half a voxel.
    """

    relevance: Literal["per-object", "fused", "none"] = "per-object"
    relevance_mode: Literal["distance", "intensity", "both"] = "distance"
    sigma_mm: tuple[float, ...] | None = None
    intensity_scale: tuple[float, ...] | None = None
    annotated: AnnotationRule = "auto"
    annotated_file: Path | None = None
    annotated_margin: int = 0
    missing: Missing = "error"
    overlap: Literal["error", "priority", "regions"] = "error"
    outside: Literal["error", "clip"] = "error"


@dataclass(frozen=True)
class CaseContent:
    """What a case consists of.

    Parameters
    ----------
    image : ndarray, shape (channel, z, y, x)
        The image channels.
    grid : Grid
        Geometry of the image.
    contours : ContourSet
        Contours of the dataset's objects.
    annotated : mapping of str to slices
        By object, the slices that are fully annotated, where the source itself says it.
    """

    image: npt.NDArray[Any]
    grid: Grid
    contours: ContourSet
    annotated: Mapping[str, SliceList] = field(default_factory=dict)


class Case(Protocol):
    """One case of a dataset, read when its turn comes."""

    @property
    def name(self) -> str:
        """Name of the case, unique in the dataset."""

    def read(self) -> CaseContent:
        """Read the images and contours."""


@dataclass(frozen=True)
class _PreparedCase:
    """What the first pass learns about a case; its image, labels and contour voxels are on disk.

    With ``--overlap regions`` the label map on disk holds indices into ``combinations`` until all cases are read.
    """

    name: str
    grid: Grid
    reports: tuple[ObjectReport, ...]
    sketch: CaseSketch
    known: npt.NDArray[np.bool_]
    combinations: tuple[Combination, ...]
    voxel_counts: Counter[tuple[Combination, Combination]]
    has_ignore: bool
    fingerprint: CaseFingerprint


def convert_cases(
    target: Path,
    cases: Sequence[Case],
    *,
    objects: Sequence[str],
    image_channels: Sequence[str],
    splits: Sequence[dict[str, list[str]]],
    settings: ConversionSettings,
    recorded: Mapping[str, Any] | None = None,
    jobs: int = 1,
) -> None:
    """Write the dataset of some cases; it appears whole or not at all.

    Parameters
    ----------
    target : Path
        Folder of the dataset, see :func:`nnunet_wsl.conversion.dataset.target_folder`; replaced if it exists.
    cases : sequence of Case
        At least one.
    objects : sequence of str
        The labels, values 1..K: the objects of every case's contours, in this order.
    image_channels : sequence of str
        nnU-Net's channel names of the images.
    splits : sequence of dict
        Content of ``splits_final.json``; not written if empty.
    settings : ConversionSettings
        How to convert.
    recorded : mapping, optional
        What else goes into the block ``"wsl"`` of ``dataset.json``.
    jobs : int
        Number of cases converted at the same time.

    Raises
    ------
    InputError
        With the problems of all cases together.
    """
    if len(objects) > MAX_OBJECTS:
        raise InputError(f"{len(objects)} labels are too many; expected at most {MAX_OBJECTS}. Select fewer ROIs.")
    _check_settings(settings, len(objects), len(image_channels))
    listed = _read_annotated(settings, [case.name for case in cases], objects)
    relevance_channels = {"per-object": tuple(objects), "fused": (FUSED,), "none": ()}[settings.relevance]
    with build_dataset(target) as building:
        for folder in (image_path(building, "", 0).parent, label_path(building, "").parent, _voxels_folder(building)):
            folder.mkdir()
        prepared, problems = for_all(
            lambda case: _prepare(case, building, settings, listed.get(case.name, {})), cases, jobs, "Reading cases"
        )
        problems += [
            f"No case has a contour of label '{name}'. Draw it in one, or leave the label out."
            for k, name in enumerate(objects)
            if not problems and not any(case.reports[k].drawn_slices for case in prepared)
        ]
        if problems:
            raise InputError(problems)
        values = LabelValues.one_per_object(objects)
        has_ignore = any(case.has_ignore for case in prepared)
        if settings.overlap == "regions":
            values = _plan_values(objects, prepared)
            ignored, problems = for_all(
                lambda case: _write_labels(case, building, values), prepared, jobs, "Writing labels"
            )
            has_ignore = any(ignored)
            if problems:
                raise InputError(problems)
        planned = None
        if settings.relevance != "none":
            planned = _plan(settings, [case.fingerprint for case in prepared])
            _, problems = for_all(
                lambda case: _write_relevance(case, building, planned, len(image_channels), settings),
                prepared,
                jobs,
                "Writing relevance",
            )
            if problems:
                raise InputError(problems)
        shutil.rmtree(_voxels_folder(building))
        write_dataset_json(
            building,
            name=target.name,
            image_channels=image_channels,
            values=values,
            has_ignore=has_ignore,
            num_cases=len(cases),
            relevance_channels=relevance_channels,
            settings={
                "objects": list(objects),
                "relevance_settings": planned.to_dict() if planned else None,
                "fusion": "max" if settings.relevance == "fused" else None,
                "annotated": settings.annotated,
                "annotated_file": ANNOTATED_FILE if listed else None,
                "annotated_margin": settings.annotated_margin,
                "missing": settings.missing,
                "overlap": settings.overlap,
                "outside": settings.outside,
                **(recorded or {}),
            },
        )
        if splits:
            write_json(building / "splits_final.json", splits)
        if listed:
            write_json(building / ANNOTATED_FILE, listed)
        reports = [report for case in prepared for report in case.reports]
        write_reports(building, reports)
        draw_overview(
            building,
            [case.sketch for case in prepared],
            objects=objects,
            shown=[values.innermost(value) for value in range(1, values.ignore)],
            image_channels=len(image_channels),
            channels=len(image_channels) + len(relevance_channels),
        )
    log_reports(reports)


def for_all(
    function: Callable[[Input], Result], items: Sequence[Input], jobs: int, description: str
) -> tuple[list[Result], list[str]]:
    """Apply a function to all items, in parallel processes and with a progress bar.

    Parameters
    ----------
    function : callable
        Raises InputError for a bad item.
    items : sequence
        Its arguments.
    jobs : int
        Number of processes; 1 stays in this one.
    description : str
        Text of the progress bar.

    Returns
    -------
    list
        The results of the good items.
    list of str
        The problems of all bad items.
    """

    def attempt(item: Input) -> Result | InputError:
        try:
            return function(item)
        except InputError as error:
            return error

    outcomes = Parallel(n_jobs=jobs, return_as="generator")(delayed(attempt)(item) for item in items)
    outcomes = list(tqdm(outcomes, description, len(items), delay=2, unit="case"))
    return (
        [outcome for outcome in outcomes if not isinstance(outcome, InputError)],
        [problem for outcome in outcomes if isinstance(outcome, InputError) for problem in outcome.problems],
    )


def _read_annotated(
    settings: ConversionSettings, cases: Sequence[str], objects: Sequence[str]
) -> dict[str, dict[str, SliceList]]:
    if settings.annotated_file is None:
        return {}
    listed = read_annotated(settings.annotated_file, cases, objects)
    _LOG.info(
        "%d of %d cases are listed as annotated; what is not listed follows --annotated %s.",
        len(listed), len(cases), settings.annotated,
    )  # fmt: skip
    return listed


def _check_settings(settings: ConversionSettings, num_objects: int, num_channels: int) -> None:
    problems = [
        f"{option} has {len(values)} values; expected 1, or {expected}, one per {each}."
        for option, values, expected, each in (
            ("--sigma-mm", settings.sigma_mm, num_objects, "label"),
            ("--intensity-scale", settings.intensity_scale, num_channels, "image channel"),
        )
        if values is not None and len(values) not in (1, expected)
    ]
    problems += [
        f"{option} {value} is not a positive number."
        for option, values in (("--sigma-mm", settings.sigma_mm), ("--intensity-scale", settings.intensity_scale))
        for value in values or ()
        if not (np.isfinite(value) and value > 0)
    ]
    if settings.annotated_margin < 0:
        problems.append(f"--annotated-margin {settings.annotated_margin} is negative. Give a number of slices from 0.")
    if problems:
        raise InputError(problems)


def _prepare(
    case: Case, building: Path, settings: ConversionSettings, listed: Mapping[str, SliceList]
) -> _PreparedCase:
    """Write image, label map and contour voxels of a case; return what the second pass needs."""
    content = case.read()
    image, grid = content.image, content.grid
    placed = place(content.contours, grid, case=case.name, outside=settings.outside)
    masks = [rasterise(placed, name) for name in placed.objects]
    if settings.overlap == "error":
        _check_overlap(case.name, placed.objects, masks, grid)
    drawn = [drawn_slices(placed, name) for name in placed.objects]
    if settings.annotated == "auto":
        listed = {**content.annotated, **listed}
    knowledge = [_knowledge(case.name, name, content.contours, placed, settings, listed) for name in placed.objects]
    known = np.array([one.known for one in knowledge])
    if not content.contours.contours and not known.all(axis=0).any():
        raise InputError(
            f"Case '{case.name}': it has no contour, and on no slice are all objects known to be absent, so there is "
            "nothing to learn from it. Remove it, or pass --missing absent if the objects are not there."
        )
    labels: npt.NDArray[np.uint8 | np.uint16]
    if settings.overlap == "regions":
        labels, combinations = combine(masks)
        voxel_counts = count_combinations(labels, combinations, known)
    else:
        labels, combinations, voxel_counts = label_map(masks, known), (), Counter()
    voxels = [contour_voxels(placed, name) for name in placed.objects]
    for channel, volume in enumerate(image):
        write_volume(image_path(building, case.name, channel), volume, grid)
    write_volume(label_path(building, case.name), labels, grid)
    np.savez(_voxels_folder(building) / f"{case.name}.npz", *voxels)
    voxel_mm3 = float(np.prod(grid.spacing_mm_xyz))
    return _PreparedCase(
        case.name,
        grid,
        tuple(
            ObjectReport.of(case.name, name, placed, slices, one, float(mask.sum()) * voxel_mm3)
            for name, slices, one, mask in zip(placed.objects, drawn, knowledge, masks, strict=True)
        ),
        CaseSketch.of(case.name, placed),
        known,
        combinations,
        voxel_counts,
        settings.overlap != "regions" and bool((labels == len(masks) + 1).any()),
        case_fingerprint(image, masks, voxels, tuple(grid.spacing_mm_zyx)),
    )


def _knowledge(
    case: str,
    name: str,
    contours: ContourSet,
    placed: PlacedContours,
    settings: ConversionSettings,
    listed: Mapping[str, SliceList],
) -> SliceKnowledge:
    """Tell on which slices an object is known: by list, by its absence, or by rule."""
    num_slices = placed.grid.shape_zyx[0]
    slices: list[int] | None = None
    if name in listed:
        slices = slices_within(listed[name], num_slices, case=case, object_name=name)
    elif not contours.of(name):
        slices = [] if settings.missing == "unknown" else list(range(num_slices))
    return slice_knowledge(
        drawn_slices(placed, name),
        num_slices,
        settings.annotated,
        _open_slices(placed, name),
        listed=slices,
        margin=settings.annotated_margin,
    )


def _open_slices(placed: PlacedContours, name: str) -> list[int]:
    return [k for k, contours in placed.of(name).items() if not all(contour.closed for contour in contours)]


def _check_overlap(case: str, objects: Sequence[str], masks: Sequence[npt.NDArray[np.bool_]], grid: Grid) -> None:
    voxel_mm3 = float(np.prod(grid.spacing_mm_xyz))
    problems = []
    for (a, mask_a), (b, mask_b) in itertools.combinations(zip(objects, masks, strict=True), 2):
        if num_voxels := np.count_nonzero(mask_a & mask_b):
            problems.append(
                f"Case '{case}': the objects '{a}' and '{b}' overlap in {num_voxels * voxel_mm3:.1f} mm3 "
                f"({num_voxels} voxels), but a voxel can have one label only. Pass --overlap regions to "
                "learn both, --overlap priority to give such voxels to the label that is named first, or correct the "
                "contours."
            )
    if problems:
        raise InputError(problems)


def _plan_values(objects: Sequence[str], cases: Sequence[_PreparedCase]) -> LabelValues:
    """Choose the label values for the overlaps of all cases."""
    counts = sum((case.voxel_counts for case in cases), Counter[tuple[Combination, Combination]]())
    volumes_mm3 = [
        [case.reports[k].volume_mm3 for case in cases if case.reports[k].volume_mm3] or [0.0]
        for k in range(len(objects))
    ]
    return LabelValues.of_combinations(objects, counts, [float(np.median(of_cases)) for of_cases in volumes_mm3])


def _write_labels(case: _PreparedCase, building: Path, values: LabelValues) -> bool:
    """Put the dataset's values into the label map of a case; return whether any voxel is ignored."""
    path = label_path(building, case.name)
    labels = values.label_map(read_volume(path), case.combinations, case.known)
    write_volume(path, labels, case.grid)
    return bool((labels == values.ignore).any())


def _plan(settings: ConversionSettings, fingerprints: Sequence[CaseFingerprint]) -> RelevanceSettings:
    """Plan the scales of the relevance from all cases, and put the user's in their place."""
    sigma_mm, intensity_scale, cutoff_mm = plan_scales(fingerprints)
    if settings.sigma_mm is not None:
        chosen_mm = _one_each(settings.sigma_mm, len(sigma_mm))
        cutoff_mm = tuple(c / s * own for c, s, own in zip(cutoff_mm, sigma_mm, chosen_mm, strict=True))
        sigma_mm = chosen_mm
    if settings.intensity_scale is not None:
        intensity_scale = _one_each(settings.intensity_scale, len(intensity_scale))
    return RelevanceSettings(
        mode=settings.relevance_mode, sigma_mm=sigma_mm, intensity_scale=intensity_scale, cutoff_mm=cutoff_mm
    )


def _one_each(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return values * count if len(values) == 1 else values


def _write_relevance(
    case: _PreparedCase, building: Path, planned: RelevanceSettings, num_channels: int, settings: ConversionSettings
) -> None:
    """Write the relevance channels of a case behind its image channels."""
    image = np.stack([read_volume(image_path(building, case.name, channel)) for channel in range(num_channels)])
    # nnU-Net crops to where any channel is not zero: the relevance must not widen that.
    empty = ~(image != 0).any(axis=0)
    with np.load(_voxels_folder(building) / f"{case.name}.npz") as stored:
        voxels = [stored[name] for name in stored.files]
    fused = np.zeros(empty.shape, np.float32)
    # One object at a time: the maps of all objects of a large image would not fit into memory.
    for k, (one, sigma_mm, cutoff_mm) in enumerate(zip(voxels, planned.sigma_mm, planned.cutoff_mm, strict=True)):
        of_one = replace(planned, sigma_mm=(sigma_mm,), cutoff_mm=(cutoff_mm,))
        (relevance,) = relevance_maps(image, [one], tuple(case.grid.spacing_mm_zyx), of_one)
        relevance[empty] = 0
        if settings.relevance == "per-object":
            write_volume(image_path(building, case.name, num_channels + k), relevance, case.grid)
        else:
            fused = fuse((fused, relevance), "max")
    if settings.relevance == "fused":
        write_volume(image_path(building, case.name, num_channels), fused, case.grid)


def _voxels_folder(building: Path) -> Path:
    return building / "contour_voxels"
