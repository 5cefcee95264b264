"""What a conversion found: a table of all cases and objects, and a picture of some cases to look at."""

from __future__ import annotations

import csv
import itertools
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_wsl.contours import PlacedContours
from nnunet_wsl.conversion.annotation import SliceKnowledge
from nnunet_wsl.conversion.between import Gap
from nnunet_wsl.conversion.dataset import FILE_ENDING, image_path, label_path, read_slice
from nnunet_wsl.errors import counted, rounded

_LOG = logging.getLogger(__name__)

_LARGEST_SHOWN = 1000
"""Pixels of a side that the picture shows at most."""

_MOST_NAMED = 5
"""Cases that are named one by one; more are one line."""

REPORT_FILE = "wsl_report.csv"
OVERVIEW_FILE = "wsl_overview.png"

_COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ffcc00", "#bf5af2", "#64d2ff", "#ff9f0a", "#ac8e68")
_IGNORE_COLOUR = "#8e8e93"


@dataclass(frozen=True)
class ObjectReport:
    """One line of the table: one object of one case.

    Parameters
    ----------
    case, object : str
        Of which case and label.
    drawn_slices, first_slice, last_slice : int
        Number of slices with a contour, and their range, counted from 0; -1 if there is none.
    known_slices, slices : int
        Number of slices on which the object is drawn or known to be absent, and of all slices.
    step : int
        Usual distance between neighbouring drawn slices; 1 is a dense annotation, 0 if nothing tells it.
    gaps : str
        Neighbouring drawn slices that are further apart, as ``12-15``.
    interpolated_slices : int
        Slices between known ones on which the object was interpolated.
    gate_mm : float
        Half the width of the band around the interpolated contours in which the interpolation is not sure; mean over
        the gaps between known slices, 0 if there is none.
    volume_mm3 : float
        Volume inside the contours; on slices that nobody drew there is none.
    clipped_contours : int
        Contours that were cut at the border of the image.
    clipped_area_mm2, clipped_farthest_mm : float
        The area cut off, and how far it reached.
    repeated_contours : int
        Contours drawn twice, which were used once.
    extentless_contours : int
        Contours left out because they enclose nothing, or are open and have no length.
    crossing_contours, spur_contours, keyhole_contours : int
        Contours repaired because they cross themselves, have spurs, or consist of rings joined by channels.
    """

    case: str
    object: str
    drawn_slices: int
    first_slice: int
    last_slice: int
    known_slices: int
    slices: int
    step: int
    gaps: str
    interpolated_slices: int
    gate_mm: float
    volume_mm3: float
    clipped_contours: int
    clipped_area_mm2: float
    clipped_farthest_mm: float
    repeated_contours: int
    extentless_contours: int
    crossing_contours: int
    spur_contours: int
    keyhole_contours: int

    @classmethod
    def of(
        cls,
        case: str,
        object_name: str,
        placed: PlacedContours,
        sources: Collection[str],
        drawn: npt.NDArray[np.integer],
        knowledge: SliceKnowledge,
        volume_mm3: float,
        interpolated: Sequence[Gap] = (),
    ) -> ObjectReport:
        """Summarise the contours of one object, which come from these sources."""
        repairs = [repair for repair in placed.repairs if repair.object == object_name]
        clippings = [clipping for clipping in placed.clippings if clipping.source in sources]
        return cls(
            case=case,
            object=object_name,
            drawn_slices=len(drawn),
            first_slice=int(drawn[0]) if len(drawn) else -1,
            last_slice=int(drawn[-1]) if len(drawn) else -1,
            known_slices=int(knowledge.known.sum()),
            slices=len(knowledge.known),
            step=knowledge.step,
            gaps=" ".join(f"{before}-{after}" for before, after in knowledge.gaps),
            interpolated_slices=sum(gap.last - gap.first - 1 for gap in interpolated),
            gate_mm=round(float(np.mean([gap.gate_mm() for gap in interpolated])), 2) if interpolated else 0.0,
            volume_mm3=float(f"{volume_mm3:.6g}"),
            clipped_contours=sum(clipping.contours for clipping in clippings),
            clipped_area_mm2=float(f"{sum(clipping.area_mm2 for clipping in clippings):.4g}"),
            clipped_farthest_mm=float(f"{max((clipping.farthest_mm for clipping in clippings), default=0.0):.4g}"),
            repeated_contours=sum(repair.repeated for repair in repairs),
            extentless_contours=sum(repair.without_extent for repair in repairs),
            crossing_contours=sum(repair.crossing for repair in repairs),
            spur_contours=sum(repair.spur for repair in repairs),
            keyhole_contours=sum(repair.keyhole for repair in repairs),
        )


@dataclass(frozen=True)
class CaseSketch:
    """The contours of one slice, to be drawn over the image.

    Parameters
    ----------
    case : str
        Name of the case.
    slice_index : int
        The slice.
    polylines : tuple of (int, ndarray)
        Label value and the points of each contour on that slice, continuous voxel index (y, x).
    size_mm_yx, spacing_mm_yx : tuple of 2 float
        Size of the slice, and in-plane voxel spacing.
    """

    case: str
    slice_index: int
    polylines: tuple[tuple[int, npt.NDArray[np.float64]], ...]
    size_mm_yx: tuple[float, float]
    spacing_mm_yx: tuple[float, float]

    @classmethod
    def of(cls, case: str, placed: PlacedContours, slice_index: int | None = None) -> CaseSketch:
        """Sketch a slice of a case; without one, of the slices with contours of the most objects, the middle one."""
        objects_on: dict[int, set[str]] = {}
        for contour in placed.contours:
            objects_on.setdefault(contour.slice_index, set()).add(contour.object)
        most = max(map(len, objects_on.values()), default=0)
        fullest = sorted(k for k, objects in objects_on.items() if len(objects) == most)
        middle = fullest[len(fullest) // 2] if fullest else 0
        shown = middle if slice_index is None else slice_index
        (_, height, width), (_, spacing_y_mm, spacing_x_mm) = placed.grid.shape_zyx, placed.grid.spacing_mm_zyx
        return cls(
            case=case,
            slice_index=shown,
            polylines=tuple(
                (
                    placed.objects.index(contour.object) + 1,
                    contour.points_yx_vox[[*range(len(contour.points_yx_vox)), *([0] if contour.closed else [])]],
                )
                for contour in placed.contours
                if contour.slice_index == shown
            ),
            size_mm_yx=(float(height * spacing_y_mm), float(width * spacing_x_mm)),
            spacing_mm_yx=(float(spacing_y_mm), float(spacing_x_mm)),
        )


def write_reports(dataset: Path, reports: Sequence[ObjectReport]) -> None:
    """Write the table as ``wsl_report.csv``."""
    with (dataset / REPORT_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(ObjectReport)])
        writer.writeheader()
        writer.writerows(asdict(report) for report in reports)


def log_reports(reports: Sequence[ObjectReport]) -> None:
    """Log a summary per object, and whatever a user should look at."""
    for name in dict.fromkeys(report.object for report in reports):
        of_object = [report for report in reports if report.object == name and report.drawn_slices]
        volumes_ml = [report.volume_mm3 / 1000 for report in of_object]
        steps = sorted({report.step for report in of_object if report.step})
        if all(report.slices == 1 for report in of_object):
            _LOG.info("Label '%s': drawn in %s of one slice.", name, counted(len(of_object), "case"))
            continue
        middle, smallest, largest = (rounded(float(f(volumes_ml))) for f in (np.median, min, max))
        _LOG.info(
            "Label '%s': drawn in %s, %s (step %s), volume %s ml (%s to %s).",
            name, counted(len(of_object), "case"), counted(sum(report.drawn_slices for report in of_object), "slice"),
            ", ".join(map(str, steps)) or "unknown", middle, smallest, largest,
        )  # fmt: skip
    if unclear := list(dict.fromkeys(report.case for report in reports if report.step == 0)):
        _LOG.warning(
            "In %s an object is drawn on one slice only, and no object tells how far apart slices were "
            "annotated: of this object only that slice counts as known. Pass --annotated all if it is absent on the "
            "others, or --annotated FILE with a list of the annotated slices. The cases: %s.",
            counted(len(unclear), "case"), ", ".join(unclear),
        )  # fmt: skip
    for (label, kind), found in _notes(reports).items():
        level = logging.INFO if kind.startswith("keyhole") else logging.WARNING
        if len(found) > _MOST_NAMED:
            _LOG.log(
                level, "Label '%s': %s in %s, such as '%s'; %s lists all.",
                label, kind, counted(len(found), "case"), found[0][0], REPORT_FILE,
            )  # fmt: skip
            continue
        for case, text in found:
            _LOG.log(level, "Case '%s', label '%s': %s.", case, label, text)


def _notes(reports: Sequence[ObjectReport]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return what a user should look at: for each label and kind of note, cases and what is to say of them."""
    notes: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for report in reports:
        contours = partial(counted, noun="contour")
        enclosing_none = "the contours enclose no voxel centre, or are open, and the mask is empty"
        usual = f"gaps wider than the usual {counted(report.step, 'slice')}"
        for kind, is_so, text in (
            ("gaps wider than usual", report.gaps, f"{usual}: {report.gaps}"),
            (
                "no contours", not report.drawn_slices,
                f"no contours; the object is known to be absent on {report.known_slices} of "
                f"{counted(report.slices, 'slice')}",
            ),
            (enclosing_none, report.drawn_slices and not report.volume_mm3, enclosing_none),
            (
                "contours clipped at the border of the image", report.clipped_contours,
                f"{contours(report.clipped_contours)} clipped at the border of the image, "
                f"{rounded(report.clipped_area_mm2)} mm2 in all, up to {rounded(report.clipped_farthest_mm)} mm "
                "outside",
            ),
            *(
                (f"contours {fault}", number, f"{contours(number)} {fault}")
                for number, fault in (
                    (report.repeated_contours, "drawn twice, used once"),
                    (report.extentless_contours, "without extent, left out"),
                    (report.crossing_contours, "with self-crossings, reduced to the border of what is enclosed"),
                    (report.spur_contours, "with spurs, which were removed"),
                )
            ),
            (
                "keyhole contours divided into rings", report.keyhole_contours,
                f"{counted(report.keyhole_contours, 'keyhole contour')} divided into rings",
            ),
        ):  # fmt: skip
            if is_so:
                notes[report.object, kind].append((report.case, text))
    return notes


@rc_context({"text.parse_math": False})  # a name with two $ is no formula
def draw_overview(
    dataset: Path,
    sketches: Sequence[CaseSketch],
    *,
    objects: Sequence[str],
    image_channels: int,
    channels: int,
    shown: Sequence[int] | None = None,
    in_colour: bool = False,
    predictions: Path | None = None,
    output: Path | None = None,
) -> None:
    """Draw slices of cases, one row each: image with contours, label map, relevance, and prediction.

    Parameters
    ----------
    dataset : Path
        Folder of the dataset, with images and labels.
    sketches : sequence of CaseSketch
        At least one; all are drawn.
    objects : sequence of str
        Names of the objects.
    image_channels, channels : int
        Number of image channels, and of all channels with those of the relevance behind.
    shown : sequence of int, optional
        Index of the object in whose colour each label value 1, 2, ... is shown; the value after the last is ignore.
        By default value 1 is the first object, and so on.
    in_colour : bool
        Whether the first three channels are red, green and blue, to be shown together; else the first one is shown.
    predictions : Path, optional
        Folder with a predicted label map of every case, for a column of its own.
    output : Path, optional
        The PNG; ``wsl_overview.png`` in the dataset by default.
    """
    has_relevance = channels > image_channels
    titles = ["image and contours", "label map"]
    titles += ["relevance"] if has_relevance else []
    titles += ["prediction"] if predictions else []
    colours = [*itertools.islice(itertools.cycle(_COLOURS), len(objects)), _IGNORE_COLOUR]
    shown = range(len(objects)) if shown is None else shown
    # Ignored voxels nearly hide the image: grey on grey would not be seen.
    values = [*(to_rgba(colours[k], alpha=0.5) for k in shown), to_rgba(colours[-1], alpha=0.85)]
    overlay = np.array([(0, 0, 0, 0), *values])
    heights = [float(np.clip(3.4 * s.size_mm_yx[0] / s.size_mm_yx[1], 1, 5)) for s in sketches]
    figure = Figure(figsize=(3.4 * len(titles), sum(heights) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(sketches), len(titles), squeeze=False, height_ratios=heights)
    shows_ignore = False
    for row, sketch in zip(axes, sketches, strict=True):
        k = sketch.slice_index
        colours_of = [read_slice(image_path(dataset, sketch.case, c), k) for c in range(3 if in_colour else 1)]
        height, width = colours_of[0].shape
        # As much as can be seen: pictures of whole slides would take minutes, and gigabytes of memory.
        step = -(-max(height, width) // _LARGEST_SHOWN)
        image = np.stack([plane[::step, ::step] for plane in colours_of], axis=-1).astype(np.float32)
        show = {"interpolation": "nearest", "extent": (-0.5, width - 0.5, height - 0.5, -0.5)}
        low, high = np.percentile(image, (1, 99.5))
        image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
        panels = dict(zip(titles, row, strict=True))
        for title, axis in panels.items():
            if title != "relevance":
                axis.imshow(image if in_colour else image[..., 0], cmap="gray", vmin=0, vmax=1, **show)
        labels = read_slice(label_path(dataset, sketch.case), k)[::step, ::step]
        shows_ignore |= bool((labels > len(shown)).any())
        panels["label map"].imshow(overlay[labels], **show)
        if has_relevance:
            maps = [read_slice(image_path(dataset, sketch.case, c), k) for c in range(image_channels, channels)]
            # The largest of every step x step pixels: lines would have gaps.
            relevance = np.maximum.reduceat(np.max(maps, axis=0), np.arange(0, height, step), axis=0)
            relevance = np.maximum.reduceat(relevance, np.arange(0, width, step), axis=1)
            panels["relevance"].imshow(relevance, cmap="magma", vmin=0, vmax=1, **show)
        if predictions:
            predicted = read_slice(predictions / f"{sketch.case}{FILE_ENDING}", k)[::step, ::step]
            panels["prediction"].imshow(overlay[predicted], **show)
        for label, points_yx in sketch.polylines:
            for title in ("image and contours", "prediction"):
                if title in panels:
                    panels[title].plot(points_yx[:, 1], points_yx[:, 0], color=colours[label - 1], linewidth=1.2)
        for axis in row:
            axis.set_aspect(sketch.spacing_mm_yx[0] / sketch.spacing_mm_yx[1])
            axis.set_xlim(-0.5, width - 0.5)
            axis.set_ylim(height - 0.5, -0.5)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(f"{sketch.case}, slice {k}", fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    names = [*objects, *(["ignore"] if shows_ignore else [])]
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=False)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=8)
    figure.savefig(output or dataset / OVERVIEW_FILE, dpi=110, metadata={"Software": None})
