"""From cases, each an image with its contours, to a raw nnU-Net dataset.

The cases are gone through twice: the first pass writes images and label maps and measures what the scales of the
relevance are planned from; the second writes the relevance channels.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from nnunet_wsl.contours import (
    ContourSet,
    Grid,
    PlacedContours,
    SliceList,
    contour_voxels,
    drawn_slices,
    place,
    rasterise,
)
from nnunet_wsl.contract import FUSED
from nnunet_wsl.conversion.annotated import read_annotated, slices_within
from nnunet_wsl.conversion.annotation import AnnotationRule, SliceKnowledge, label_map, slice_knowledge, usual_step
from nnunet_wsl.conversion.between import Gap
from nnunet_wsl.conversion.cropped import CroppedMask, overlap
from nnunet_wsl.conversion.dataset import (
    COLOUR_CHANNELS,
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
from nnunet_wsl.conversion.regions import (
    LabelValues,
    Relations,
    Status,
    combine,
    count_pairs,
    count_statuses,
)
from nnunet_wsl.conversion.report import (
    CaseSketch,
    ObjectReport,
    draw_overview,
    log_reports,
    write_reports,
)
from nnunet_wsl.conversion.supervision import (
    Between,
    ObjectSupervision,
    RelevanceSource,
    exclude_conflicts,
    known_on,
    supervise,
    supervision_window,
)
from nnunet_wsl.errors import InputError, rounded
from nnunet_wsl.parallel import for_all
from nnunet_wsl.relevance import (
    CaseFingerprint,
    RelevanceSettings,
    case_fingerprint,
    plan_scales,
    relevance_maps,
)
from nnunet_wsl.relevance.settings import RANGES, Search

_LOG = logging.getLogger(__name__)


ANNOTATED_FILE = "wsl_annotated.json"
"""Copy, in the dataset, of the list of annotated slices that it was converted with."""

_OVERVIEW_ROWS = 6
"""Slices in the picture of the dataset."""

_MOST_PAIRS = 5
"""Pairs of labels that a warning names."""


@dataclass(frozen=True)
class ConversionSettings:
    """How contours become masks and relevance channels.

    Parameters
    ----------
    relevance : {"per-object", "fused", "none"}
        One relevance channel per object, one for all (the maximum), or none.
    relevance_mode : {"distance", "intensity", "both"}
        What the relevance falls off with.
    relevance_search : {"volume", "slice"}
        Where the nearest contour voxel is searched: in the image, or in the voxel's own slice.
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
    annotated_margin : int, optional
        Slices before the first and after the last drawn one of an object that are unknown. By default those nearer than
        a step if ``auto`` finds that slices were left out, and none otherwise.
    between : {"ignore", "gated", "interpolate"}
        What unknown slices between known ones become: ignored; what the interpolation of the contours is sure of is
        supervised and the rest ignored; or all of it is supervised.
    contour_sigma_mm : float
        Uncertainty of the drawn contours' position. Voxels this near to a contour, in its slice, are ignored in the
        mask, and the scale of the relevance becomes sqrt(sigma_mm^2 + contour_sigma_mm^2).
    missing : {"error", "absent", "unknown"}
        What it means that a case has no contour of an object: an error; the object is not there; or nobody has drawn
        it, so that nothing is known about it.
    overlap : {"error", "priority", "regions"}
        What a voxel inside two objects becomes: an error; the object that is named first (as in the priority lists
        of radiotherapy, the first is the highest: name the GTV before the PTV); or a label value of its own, in
        nnU-Net's region-based labels.
    outside : {"error", "clip"}
        What happens to contours that leave the image by more than half a voxel.

    Raises
    ------
    InputError
        If a name is unknown. Numbers are checked when it is known what they are for, by :func:`convert_cases`.
    """

    relevance: Literal["per-object", "fused", "none"] = "per-object"
    relevance_mode: Literal["distance", "intensity", "both"] = "distance"
    relevance_search: Search = "volume"
    sigma_mm: tuple[float, ...] | None = None
    intensity_scale: tuple[float, ...] | None = None
    annotated: AnnotationRule = "auto"
    annotated_file: Path | None = None
    annotated_margin: int | None = None
    between: Between = "gated"
    contour_sigma_mm: float = 0.0
    missing: Missing = "error"
    overlap: Literal["error", "priority", "regions"] = "error"
    outside: Literal["error", "clip"] = "error"

    def __post_init__(self) -> None:
        """Check the names."""
        problems = [
            f"The conversion's {name} must be one of {', '.join(get_args(choices))}, not {getattr(self, name)!r}."
            for name, choices in get_type_hints(ConversionSettings).items()
            if get_origin(choices) is Literal and getattr(self, name) not in get_args(choices)
        ]
        if problems:
            raise InputError(problems)


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
    files : tuple of Path
        The file of every image channel, for messages; empty if a channel has several.
    """

    image: npt.NDArray[Any]
    grid: Grid
    contours: ContourSet
    files: tuple[Path, ...] = ()


class Case(Protocol):
    """One case of a dataset, read when its turn comes."""

    @property
    def name(self) -> str:
        """Name of the case, unique in the dataset."""

    def read(self) -> CaseContent:
        """Read the images and contours."""


@dataclass(frozen=True, eq=False)
class _PreparedCase:
    """What the first pass learns about a case; its image, labels and sources of the relevance are on disk.

    Where objects may overlap, the label map on disk holds indices into ``statuses`` until all cases are read. Otherwise
    ``labels`` are the values in it. ``pair_counts`` are of what is drawn, not interpolated.
    ``known_where_drawn`` tells, of two objects, whether the second is known on a slice on which the first is drawn.
    """

    name: str
    grid: Grid
    reports: tuple[ObjectReport, ...]
    sketches: tuple[CaseSketch, ...]
    statuses: tuple[Status, ...]
    voxel_counts: Counter[Status]
    pair_counts: npt.NDArray[np.int64]
    labels: frozenset[int]
    known_where_drawn: npt.NDArray[np.bool_]
    needs_confidence: bool
    fingerprint: CaseFingerprint | None


def convert_cases(
    target: Path,
    cases: Sequence[Case],
    *,
    objects: Sequence[str],
    image_channels: Sequence[str],
    splits: Sequence[dict[str, list[str]]],
    settings: ConversionSettings,
    recorded: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    jobs: int = 1,
) -> None:
    """Write the dataset of some cases; it appears whole or not at all.

    Parameters
    ----------
    target : Path
        Folder of the dataset, see :func:`nnunet_wsl.conversion.dataset.target_folder`.
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
    overwrite : bool
        Whether the dataset is replaced if it exists.
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
    with build_dataset(target, overwrite=overwrite) as building:
        for folder in (image_path(building, "", 0).parent, label_path(building, "").parent, _sources_folder(building)):
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
        values, labels = LabelValues.one_per_object(objects), [case.labels for case in prepared]
        if settings.overlap != "error":
            values = _plan_values(objects, prepared, settings)
            labels, problems = for_all(
                lambda case: _write_labels(case, building, values), prepared, jobs, "Writing labels"
            )
            if problems:
                raise InputError(problems)
        occurring = frozenset[int]().union(*labels)
        _check_supervised(objects, prepared, values, occurring, settings)
        planned = None
        has_confidence = settings.relevance != "none" and any(case.needs_confidence for case in prepared)
        if settings.relevance != "none":
            fingerprints = [case.fingerprint for case in prepared if case.fingerprint]
            planned = _plan(settings, objects, fingerprints, len(image_channels))
            _, problems = for_all(
                lambda case: _write_relevance(
                    case, building, planned, len(image_channels), settings.relevance, has_confidence=has_confidence
                ),
                prepared,
                jobs,
                "Writing relevance",
            )
            if problems:
                raise InputError(problems)
        shutil.rmtree(_sources_folder(building))
        write_dataset_json(
            building,
            name=target.name,
            image_channels=image_channels,
            values=values,
            has_ignore=values.ignore in occurring,
            num_cases=len(cases),
            relevance_channels=relevance_channels,
            has_confidence=has_confidence,
            settings={
                "objects": list(objects),
                "relevance_settings": planned.to_dict() if planned else None,
                "fusion": "max" if settings.relevance == "fused" else None,
                "annotated": settings.annotated,
                "annotated_file": ANNOTATED_FILE if listed else None,
                "annotated_margin": settings.annotated_margin,
                "between": settings.between,
                "contour_sigma_mm": settings.contour_sigma_mm,
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
            _shown(prepared),
            objects=objects,
            shown=[values.innermost(value) for value in range(1, values.ignore)],
            image_channels=len(image_channels),
            channels=len(image_channels) + len(relevance_channels),
            in_colour=tuple(image_channels) == COLOUR_CHANNELS,
        )
    log_reports(reports)
    _log_never_together(objects, prepared, settings)
    if relevance_channels:
        _LOG.info(
            "Relevance is in the channels after the %d of the image. Train with 'nnunet_wsl train': a stock trainer "
            "would take them for images, which new images do not have.",
            len(image_channels),
        )
    if interpolated := sum(report.interpolated_slices for report in reports):
        _LOG.info(
            "On %d slices between drawn ones an object is supervised %s. --between ignore ignores them.",
            interpolated,
            "where an interpolation of its contours is sure" if settings.between == "gated" else "by interpolation",
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
        f"{option} {value} is not a positive number from {low:g} to {high:g}."
        for option, values, (low, high) in (
            ("--sigma-mm", settings.sigma_mm, RANGES["sigma_mm"]),
            ("--intensity-scale", settings.intensity_scale, RANGES["intensity_scale"]),
        )
        for value in values or ()
        if not low <= value <= high
    ]
    if settings.relevance == "none":
        problems += [
            f"{option} has no effect with --relevance none. Leave one of them out."
            for option, given in (("--sigma-mm", settings.sigma_mm), ("--intensity-scale", settings.intensity_scale))
            if given is not None
        ]
    elif settings.relevance_mode == "distance" and settings.intensity_scale is not None:
        problems.append(
            "--intensity-scale has no effect in --relevance-mode distance. Leave it out, or choose --relevance-mode "
            "intensity or both."
        )
    if settings.annotated_margin is not None and settings.annotated_margin < 0:
        problems.append(f"--annotated-margin {settings.annotated_margin} is negative. Give a number of slices from 0.")
    largest_mm = RANGES["sigma_mm"][1] / 10  # the scale of the relevance becomes larger than this
    if not 0 <= settings.contour_sigma_mm <= largest_mm:
        problems.append(
            f"--contour-sigma-mm {settings.contour_sigma_mm} is no distance. Give a number of mm from 0 to "
            f"{largest_mm:g}."
        )
    if problems:
        raise InputError(problems)


def _prepare(
    case: Case, building: Path, settings: ConversionSettings, listed: Mapping[str, SliceList]
) -> _PreparedCase:
    """Write image, label map and sources of the relevance of a case; return what the second pass needs."""
    content = case.read()
    image, grid = content.image, content.grid
    if settings.relevance != "none" and settings.relevance_mode != "distance":
        _check_finite(case.name, content, settings)
    placed = place(content.contours, grid, case=case.name, outside=settings.outside)
    voxels = [contour_voxels(placed, name) for name in placed.objects]
    windows = [supervision_window(placed, name, settings.contour_sigma_mm) for name in placed.objects]
    masks = [
        CroppedMask.of(rasterise(placed, name), window) for name, window in zip(placed.objects, windows, strict=True)
    ]
    placed = _within_image(placed, voxels, masks)
    if settings.missing == "error":
        _check_left(case.name, content.contours, placed, settings)
    if settings.overlap == "error":
        _check_overlap(case.name, placed.objects, masks, grid)
    drawn = [drawn_slices(placed, name) for name in placed.objects]
    step = usual_step(drawn)
    knowledge = [
        _knowledge(case.name, name, content.contours, placed, settings, listed, step) for name in placed.objects
    ]
    known_slices = np.array([one.known for one in knowledge])
    if not placed.contours and not known_slices.all(axis=0).any():
        raise InputError(
            f"Case '{case.name}': it has no contour, and on no slice are all objects known to be absent, so there is "
            "nothing to learn from it. Remove it, or pass --missing absent if the objects are not there."
        )
    supervised = []
    for k, (name, mask, one) in enumerate(zip(placed.objects, masks, knowledge, strict=True)):
        supervision, interpolation = supervise(
            placed, name, mask, one, image, between=settings.between, contour_sigma_mm=settings.contour_sigma_mm
        )
        supervised.append(supervision)
        if settings.relevance != "none":
            source = RelevanceSource.of(placed, name, voxels[k], one, interpolation, mask.window)
            # The sources of all objects of a large image would not fit into memory.
            source.save(_source_path(building, case.name, k))
    labels, statuses = _label_codes(supervised, masks, settings)
    gaps = [gap for one in supervised for gap in one.gaps]
    biased = _biased(drawn, known_slices)
    pair_counts = _count_drawn_pairs(labels, statuses, supervised, masks, knowledge) * ~biased
    voxel_counts = count_statuses(labels, statuses) if statuses else Counter[Status]()
    if settings.contour_sigma_mm:
        # How objects lie to each other is told by the contours as they are; only then what is near to one is ignored.
        if statuses:
            statuses = (*statuses, Status((), tuple(range(len(supervised)))))
        _ignore_uncertain(labels, supervised, len(statuses) - 1 if statuses else len(supervised) + 1)
    for channel, volume in enumerate(image):
        write_volume(image_path(building, case.name, channel), volume, grid)
    write_volume(label_path(building, case.name), labels, grid)
    voxel_mm3 = float(np.prod(grid.spacing_mm_xyz))
    return _PreparedCase(
        name=case.name,
        grid=grid,
        reports=tuple(
            ObjectReport.of(
                case.name,
                name,
                placed,
                {contour.source for contour in content.contours.of(name)},
                slices,
                one,
                float(mask.values.sum()) * voxel_mm3,
                there.gaps,
            )
            for name, slices, one, mask, there in zip(placed.objects, drawn, knowledge, masks, supervised, strict=True)
        ),
        sketches=_sketches(case.name, placed, gaps),
        statuses=statuses,
        voxel_counts=voxel_counts,
        labels=frozenset() if statuses else frozenset(np.unique(labels).tolist()),
        pair_counts=pair_counts,
        known_where_drawn=np.array([known_slices[:, slices].any(axis=1) for slices in drawn]) & ~biased,
        # Otherwise the label map tells: all objects are known where it is not ignore, and none where it is.
        needs_confidence=bool(
            (known_slices != known_slices[0]).any()
            or settings.contour_sigma_mm
            or gaps
            or any(one.partial.any() for one in knowledge)
        ),
        fingerprint=_fingerprint(image, masks, voxels, grid, settings),
    )


def _fingerprint(
    image: npt.NDArray[Any],
    masks: Sequence[CroppedMask],
    voxels: Sequence[npt.NDArray[np.int32]],
    grid: Grid,
    settings: ConversionSettings,
) -> CaseFingerprint | None:
    """Measure what the scales of the relevance are planned from, and no intensities if their scale is not planned."""
    if settings.relevance == "none":
        return None
    plans_intensity = settings.relevance_mode != "distance" and settings.intensity_scale is None
    return case_fingerprint(image if plans_intensity else None, masks, voxels, tuple(grid.spacing_mm_zyx))


def _check_finite(case: str, content: CaseContent, settings: ConversionSettings) -> None:
    """Refuse intensities that tell nothing; in the files of the dataset they would be read as 0."""
    problems = []
    for channel, volume in enumerate(content.image):
        if num_voxels := volume.size - np.count_nonzero(np.isfinite(volume)):
            where = f"'{content.files[channel]}'" if content.files else f"image channel {channel}"
            problems.append(
                f"Case '{case}': {where} has {num_voxels} voxels that are not finite numbers, but --relevance-mode "
                f"{settings.relevance_mode} needs intensities. Replace them in the image, or pass --relevance-mode "
                "distance."
            )
    if problems:
        raise InputError(problems)


def _label_codes(
    supervised: Sequence[ObjectSupervision], masks: Sequence[CroppedMask], settings: ConversionSettings
) -> tuple[npt.NDArray[Any], tuple[Status, ...]]:
    """Make the label map of a case; where objects may overlap, the status of every voxel until values are planned."""
    if settings.overlap == "error":
        exclude_conflicts(supervised, masks)
    inside, known = [one.inside for one in supervised], [one.known for one in supervised]
    return (label_map(inside, known), ()) if settings.overlap == "error" else combine(inside, known, masks)


def _ignore_uncertain(labels: npt.NDArray[Any], supervised: Sequence[ObjectSupervision], ignored: int) -> None:
    """Ignore, in place, what is uncertain of any object."""
    for one in supervised:
        if one.uncertain is not None:
            window, uncertain = one.uncertain.where()
            labels[window][uncertain] = ignored


def _biased(drawn: Sequence[npt.NDArray[np.integer]], known_slices: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Tell, of two objects, whether both are on some slices, but are known together on others only.

    That one is not where the other one is says nothing then of how they lie to each other.
    """
    extents = np.zeros(known_slices.shape, np.int64)
    for extent, slices in zip(extents, drawn, strict=True):
        if len(slices):
            extent[slices[0] : slices[-1] + 1] = 1
    known = extents * known_slices
    return np.asarray((extents @ extents.T > 0) & (known @ known.T == 0))


def _count_drawn_pairs(
    codes: npt.NDArray[Any],
    statuses: Sequence[Status],
    supervised: Sequence[ObjectSupervision],
    masks: Sequence[CroppedMask],
    knowledge: Sequence[SliceKnowledge],
) -> npt.NDArray[np.int64]:
    """Count the voxels of pairs of objects, as :func:`count_pairs` does, without what is interpolated."""
    if not statuses:
        return np.zeros((2, len(masks), len(masks)), np.int64)
    if any(one.gaps for one in supervised):
        codes, statuses = combine(
            masks, [known_on(one.known, mask) for one, mask in zip(knowledge, masks, strict=True)]
        )
    return count_pairs(count_statuses(codes, statuses), len(masks))


def _sketches(case: str, placed: PlacedContours, gaps: Sequence[Gap]) -> tuple[CaseSketch, ...]:
    """Sketch a drawn slice, and one from the middle of the widest gap that was interpolated."""
    drawn = CaseSketch.of(case, placed)
    if not gaps:
        return (drawn,)
    widest = max(gaps, key=lambda gap: (gap.last - gap.first, -abs(gap.first - drawn.slice_index)))
    return drawn, CaseSketch.of(case, placed, (widest.first + widest.last) // 2)


def _shown(cases: Sequence[_PreparedCase]) -> list[CaseSketch]:
    """Choose the sketches of the overview: all of as many cases as fit, spread evenly."""
    count = min(_OVERVIEW_ROWS // max(len(case.sketches) for case in cases), len(cases))
    return [sketch for i in np.linspace(0, len(cases) - 1, count).round().astype(int) for sketch in cases[i].sketches]


def _knowledge(
    case: str,
    name: str,
    contours: ContourSet,
    placed: PlacedContours,
    settings: ConversionSettings,
    listed: Mapping[str, SliceList],
    case_step: int | None,
) -> SliceKnowledge:
    """Tell on which slices an object is known: by the user's list, by the source, by its absence, or by rule."""
    num_slices = placed.grid.shape_zyx[0]
    drawn = drawn_slices(placed, name)
    slices: list[int] | None = None
    margin = settings.annotated_margin
    if name in listed:
        slices = slices_within(listed[name], num_slices, case=case, object_name=name)
        margin = 0  # the user has looked at the very slices
    elif settings.annotated == "auto" and name in contours.annotated:
        slices = slices_within(contours.annotated[name], num_slices, case=case, object_name=name)
    elif not len(drawn):
        slices = [] if settings.missing == "unknown" else list(range(num_slices))
    return slice_knowledge(
        drawn,
        num_slices,
        settings.annotated,
        _open_slices(placed, name),
        case_step=case_step,
        listed=slices,
        margin=margin,
    )


def _within_image(
    placed: PlacedContours, voxels: Sequence[npt.NDArray[np.int32]], masks: Sequence[CroppedMask]
) -> PlacedContours:
    """Leave out the contours of objects that lie wholly outside the image."""
    seen = {
        name
        for name, passed, mask in zip(placed.objects, voxels, masks, strict=True)
        if len(passed) or mask.values.any()
    }
    return replace(placed, contours=tuple(contour for contour in placed.contours if contour.object in seen))


def _check_left(case: str, contours: ContourSet, placed: PlacedContours, settings: ConversionSettings) -> None:
    remedy = "Draw it, say with --missing whether it is absent or unknown, or remove the case."
    if problems := [
        f"Case '{case}': none of the {len(contours.of(name))} contours of label '{name}' is left: they have no extent, "
        f"or lie outside the image. {remedy}"
        if contours.of(name)
        else f"Case '{case}' has no contour of label '{name}'. {remedy}"
        for name in contours.objects
        # A source that knows where an object is drawn knows whether it is there.
        if not placed.of(name) and not (settings.annotated == "auto" and name in contours.annotated)
    ]:
        raise InputError(problems)


def _open_slices(placed: PlacedContours, name: str) -> list[int]:
    return [k for k, contours in placed.of(name).items() if not all(contour.closed for contour in contours)]


def _check_overlap(case: str, objects: Sequence[str], masks: Sequence[CroppedMask], grid: Grid) -> None:
    shared = overlap(masks)
    if not shared.any():
        return
    # Few objects overlap, and where: only there they are compared with each other.
    there = [
        (name, inside) for name, mask in zip(objects, masks, strict=True) if (inside := np.asarray(mask)[shared]).any()
    ]
    voxel_mm3 = float(np.prod(grid.spacing_mm_xyz))
    if problems := [
        f"Case '{case}': the objects '{a}' and '{b}' overlap in {rounded(num_voxels * voxel_mm3)} mm3 ({num_voxels} "
        "voxels), but a voxel can have one label only. Pass --overlap regions to learn both, --overlap priority to "
        "give such voxels to the label that is named first, or correct the contours."
        for (a, inside_a), (b, inside_b) in itertools.combinations(there, 2)
        if (num_voxels := np.count_nonzero(inside_a & inside_b))
    ]:
        raise InputError(problems)


def _log_never_together(objects: Sequence[str], cases: Sequence[_PreparedCase], settings: ConversionSettings) -> None:
    """Warn of pairs of objects of which nothing tells whether they overlap."""
    known = np.any([case.known_where_drawn for case in cases], axis=0)
    pairs = [f"'{objects[a]}' and '{objects[b]}'" for a, b in np.argwhere(np.triu(~(known & known.T), 1))]
    if pairs:
        _LOG.warning(
            "Nothing tells whether these labels overlap: where one is drawn, the other one is not known. %s. %s Draw "
            "both in a case, or say with --annotated FILE where each is absent.",
            ", ".join(pairs[:_MOST_PAIRS]) + (f" and {len(pairs) - _MOST_PAIRS} more" * (len(pairs) > _MOST_PAIRS)),
            {
                "error": "--overlap error takes them not to.",
                "priority": "Inside one of them voxels may be ignored, unless it is named first.",
                "regions": "Inside one of them voxels may be ignored.",
            }[settings.overlap],
        )


def _plan_values(objects: Sequence[str], cases: Sequence[_PreparedCase], settings: ConversionSettings) -> LabelValues:
    """Choose the label values for the overlaps of all cases."""
    relations = Relations.of(np.sum([case.pair_counts for case in cases], axis=0))
    if settings.overlap == "priority":
        return LabelValues.by_priority(objects, relations)
    counts = sum((case.voxel_counts for case in cases), Counter[Status]())
    volumes_mm3 = [
        # As if all slices from the first to the last were drawn: objects may be drawn on every slice or on few.
        [
            report.volume_mm3 * (report.last_slice - report.first_slice + 1) / report.drawn_slices
            for report in (case.reports[k] for case in cases)
            if report.volume_mm3
        ]
        or [0.0]
        for k in range(len(objects))
    ]
    return LabelValues.of_combinations(
        objects, relations, counts, [float(np.median(of_cases)) for of_cases in volumes_mm3]
    )


def _write_labels(case: _PreparedCase, building: Path, values: LabelValues) -> frozenset[int]:
    """Put the dataset's values into the label map of a case; return those that occur."""
    path = label_path(building, case.name)
    labels = values.label_map(read_volume(path), case.statuses)
    write_volume(path, labels, case.grid)
    return frozenset(np.unique(labels).tolist())


def _check_supervised(
    objects: Sequence[str],
    cases: Sequence[_PreparedCase],
    values: LabelValues,
    occurring: frozenset[int],
    settings: ConversionSettings,
) -> None:
    """Refuse objects that no label map shows, though their contours enclose something."""
    shown = {k for value in occurring & {*range(1, values.ignore)} for k in values.combinations[value - 1]}
    remedies = {
        "priority": "Labels that are named before it cover it, or are not known where it is drawn. Name it first, or "
        "pass --overlap regions; if they are never known together, draw both in a case.",
        "regions": "Whether other labels are there too is nowhere known: draw them in the same cases, or say with "
        "--annotated FILE where each is absent.",
    }
    remedy = remedies.get(settings.overlap, "")
    if settings.contour_sigma_mm:
        remedy = f"{remedy}{' Or pass' if remedy else 'Pass'} a smaller --contour-sigma-mm."
    if problems := [
        f"Label '{name}': in all cases its contours enclose {volume_mm3 / 1000:.3g} ml, but no label map has a voxel "
        f"of it. {remedy}"
        for k, name in enumerate(objects)
        if k not in shown and (volume_mm3 := sum(case.reports[k].volume_mm3 for case in cases))
    ]:
        raise InputError(problems)


def _plan(
    settings: ConversionSettings, objects: Sequence[str], fingerprints: Sequence[CaseFingerprint], num_channels: int
) -> RelevanceSettings:
    """Plan the scales of the relevance that the user has not given from all cases."""
    chosen_mm = settings.sigma_mm and _one_each(settings.sigma_mm, len(objects))
    sigma_mm, intensity_scale, cutoff_mm = plan_scales(fingerprints, objects, sigma_mm=chosen_mm)
    if settings.contour_sigma_mm:
        # The contour that was meant lies about so far from the drawn one: one Gaussian blurred by another.
        blurred_mm = tuple(float(np.hypot(own, settings.contour_sigma_mm)) for own in sigma_mm)
        cutoff_mm = tuple(c / s * own for c, s, own in zip(cutoff_mm, sigma_mm, blurred_mm, strict=True))
        sigma_mm = blurred_mm
    if settings.intensity_scale is not None:
        intensity_scale = _one_each(settings.intensity_scale, num_channels)
    return RelevanceSettings(
        mode=settings.relevance_mode,
        search=settings.relevance_search,
        sigma_mm=sigma_mm,
        intensity_scale=intensity_scale,
        cutoff_mm=cutoff_mm,
    )


def _one_each(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    return values * count if len(values) == 1 else values


def _write_relevance(
    case: _PreparedCase,
    building: Path,
    planned: RelevanceSettings,
    num_channels: int,
    relevance: Literal["per-object", "fused", "none"],
    *,
    has_confidence: bool,
) -> None:
    """Write the relevance channels of a case behind its image channels, and their confidence channels behind these."""
    image = np.stack([read_volume(image_path(building, case.name, channel)) for channel in range(num_channels)])
    maps: Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = (
        _object_maps(case, building, replace(planned, sigma_mm=(sigma_mm,), cutoff_mm=(cutoff_mm,)), image, k)
        for k, (sigma_mm, cutoff_mm) in enumerate(zip(planned.sigma_mm, planned.cutoff_mm, strict=True))
    )
    num_maps = len(planned.sigma_mm)
    if relevance == "fused":
        maps, num_maps = iter([_fused(maps)]), 1
    # nnU-Net crops to where any channel is not zero: the relevance must not widen that.
    empty = ~(image != 0).any(axis=0)
    # One object at a time: the maps of all objects of a large image would not fit into memory.
    for k, of_object in enumerate(maps):
        for first, values in zip((num_channels, num_channels + num_maps), of_object, strict=True):
            if first == num_channels or has_confidence:
                values[empty] = 0
                write_volume(image_path(building, case.name, first + k), values, case.grid)


def _object_maps(
    case: _PreparedCase, building: Path, of_one: RelevanceSettings, image: npt.NDArray[Any], k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the relevance of one object in one case, and the confidence in it."""
    spacing_mm = tuple(case.grid.spacing_mm_zyx)
    source = RelevanceSource.load(_source_path(building, case.name, k))
    (relevance,) = relevance_maps(image, [source.contour_voxels], spacing_mm, of_one)
    return relevance, source.confidence_map(image.shape[1:], spacing_mm, of_one.sigma_mm[0])


def _fused(
    maps: Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the largest relevance of several objects, which is known where all of them are."""
    relevance, confidence = next(maps)
    for of_object in maps:
        np.maximum(relevance, of_object[0], out=relevance)
        np.minimum(confidence, of_object[1], out=confidence)
        del of_object  # before the next one is made
    return relevance, confidence


def _sources_folder(building: Path) -> Path:
    return building / "relevance_sources"


def _source_path(building: Path, case: str, k: int) -> Path:
    return _sources_folder(building) / f"{case}.{k}.npz"
