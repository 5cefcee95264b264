"""Scores of one case: overlap, surfaces and volume of every object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnunet_wsl.evaluation.objects import ScoredLabels
from nnunet_wsl.evaluation.surface import Mask, surface_distances

EMPTY_RULE = (
    "An object that is absent from reference and prediction scores Dice, IoU and NSD 1 and distances 0 mm. An object "
    "that is absent from one of them only scores Dice, IoU and NSD 0 and, as distances, the diagonal of the image."
)

IGNORE_RULE = (
    "Voxels that the reference ignores count nowhere: not in overlap and volume, and a surface element that touches "
    "one is no part of either surface. Surface scores are undefined (null) where an object that is present has no "
    "surface element left; undefined scores are counted, and left out of means."
)


@dataclass(frozen=True)
class SurfaceMetrics:
    """How well two surfaces agree; NaN where undefined.

    Parameters
    ----------
    nsd : float
        Share of both surfaces within the tolerance of the other (surface Dice), 0 to 1.
    hd95_mm : float
        95th percentile of the distances between the surfaces, the larger of both directions.
    assd_mm : float
        Average symmetric surface distance.
    """

    nsd: float
    hd95_mm: float
    assd_mm: float


@dataclass(frozen=True)
class ObjectScores:
    """Scores of one object in one case.

    Parameters
    ----------
    tp, fp, fn, tn : int
        Scored voxels by reference and prediction.
    surface : SurfaceMetrics
        Agreement of the surfaces.
    voxel_mm3 : float
        Volume of a voxel; images of one slice are taken to be 1 mm thick.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    surface: SurfaceMetrics
    voxel_mm3: float

    @property
    def n_pred(self) -> int:
        """Scored voxels of the prediction."""
        return self.tp + self.fp

    @property
    def n_ref(self) -> int:
        """Scored voxels of the reference."""
        return self.tp + self.fn

    @property
    def dice(self) -> float:
        """Dice coefficient; 1 if both are empty."""
        return 2 * self.tp / (self.n_pred + self.n_ref) if self.n_pred or self.n_ref else 1.0

    @property
    def iou(self) -> float:
        """Intersection over union; 1 if both are empty."""
        return self.tp / (self.tp + self.fp + self.fn) if self.n_pred or self.n_ref else 1.0

    @property
    def volume_difference_mm3(self) -> float:
        """Volume of the prediction less that of the reference."""
        return (self.n_pred - self.n_ref) * self.voxel_mm3


def surface_metrics(
    pred: Mask,
    ref: Mask,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    *,
    scored: Mask | None = None,
    worst_mm: float | None = None,
) -> SurfaceMetrics:
    """Compare the surfaces of two masks.

    Parameters
    ----------
    pred, ref : ndarray of bool, shape (z, y, x) or (y, x)
        Prediction and reference; of numbers, all but 0 are inside.
    spacing_mm : sequence of float
        Voxel spacing in the order of the array axes.
    tolerance_mm : float
        Distance that counts as agreement in the NSD.
    scored : ndarray of bool, optional
        Where the reference is known, by default everywhere; ``IGNORE_RULE`` says what becomes of the rest.
    worst_mm : float, optional
        Distance reported if exactly one mask is empty, by default the diagonal of the array.

    Returns
    -------
    SurfaceMetrics
        By ``EMPTY_RULE`` if a mask has no scored voxel.
    """
    known = True if scored is None else np.asarray(scored, bool)
    present = bool((np.asarray(pred, bool) & known).any()), bool((np.asarray(ref, bool) & known).any())
    if not any(present):
        return SurfaceMetrics(1.0, 0.0, 0.0)
    if not all(present):
        worst = diagonal_mm(ref.shape, spacing_mm) if worst_mm is None else worst_mm
        return SurfaceMetrics(0.0, worst, worst)
    distances = surface_distances(pred, ref, spacing_mm, scored)
    defined = len(distances.pred_areas) > 0 and len(distances.ref_areas) > 0
    return SurfaceMetrics(
        distances.nsd(tolerance_mm) if defined else math.nan, distances.hausdorff_mm(95), distances.average_mm()
    )


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Length of the diagonal of an image."""
    return float(np.linalg.norm(np.multiply(shape, spacing_mm)))


def score_label_maps(
    pred: npt.NDArray[np.integer],
    ref: npt.NDArray[np.integer],
    spacing_mm: Sequence[float],
    labels: ScoredLabels,
) -> dict[str, ObjectScores]:
    """Score every object of a case.

    Parameters
    ----------
    pred, ref : ndarray of int, shape (z, y, x)
        Label maps of prediction and reference. With one slice along any axis they are compared in its plane.
    spacing_mm : sequence of float
        Voxel spacing of (z, y, x).
    labels : ScoredLabels
        What the values mean; the maps have no other values.

    Returns
    -------
    dict of str to ObjectScores
        By key of the object.
    """
    if 1 in ref.shape:
        axis = ref.shape.index(1)
        pred, ref = pred.squeeze(axis), ref.squeeze(axis)
        spacing_mm = [spacing for i, spacing in enumerate(spacing_mm) if i != axis]
    scored = None if labels.ignore is None else ref != labels.ignore
    num_scored = ref.size if scored is None else int(scored.sum())
    boxes_ref, boxes_pred = _boxes(ref), _boxes(pred)
    worst_mm = diagonal_mm(ref.shape, spacing_mm)
    scores = {}
    for obj in labels.objects:
        box = _union([boxes[v] for boxes in (boxes_ref, boxes_pred) for v in obj.values if v in boxes], ref.shape)
        predicted, expected = np.isin(pred[box], obj.values), np.isin(ref[box], obj.values)
        known = None if scored is None else scored[box]
        surface = surface_metrics(predicted, expected, spacing_mm, obj.tolerance_mm, scored=known, worst_mm=worst_mm)
        if known is not None:
            predicted, expected = predicted & known, expected & known
        tp = int((predicted & expected).sum())
        fp, fn = int(predicted.sum()) - tp, int(expected.sum()) - tp
        scores[obj.key] = ObjectScores(
            tp=tp, fp=fp, fn=fn, tn=num_scored - tp - fp - fn, surface=surface, voxel_mm3=float(np.prod(spacing_mm))
        )
    return scores


def _boxes(label_map: npt.NDArray[np.integer]) -> dict[int, tuple[slice, ...]]:
    """Bounding box of every value, the background included."""
    found = ndimage.find_objects(label_map.astype(np.int32) + 1)
    return {value: box for value, box in enumerate(found) if box is not None}


def _union(boxes: Sequence[tuple[slice, ...]], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Box around all boxes and one voxel more, where ignored voxels may touch the surface; empty without boxes."""
    if not boxes:
        return tuple(slice(0, 0) for _ in shape)
    return tuple(
        slice(max(0, min(s.start for s in axis) - 1), min(n, max(s.stop for s in axis) + 1))
        for axis, n in zip(zip(*boxes, strict=True), shape, strict=True)
    )
