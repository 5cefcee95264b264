"""What the annotation of one object says at every voxel: of the mask, and of the relevance.

Contours determine the mask on known slices. Between them an interpolation may stand in for contours that nobody drew,
as far as it is sure. The relevance has a confidence: 1 on known slices, less where the contours that it was measured to
may not be the only ones, 0 where nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nnunet_wsl.contours import Grid, PlacedContour, PlacedContours
from nnunet_wsl.contract import INTERPOLATED_CONFIDENCE
from nnunet_wsl.conversion.annotation import SliceKnowledge
from nnunet_wsl.conversion.between import MARGIN_VOX, Gap, Interpolation, interpolate
from nnunet_wsl.conversion.cropped import CroppedMask, Window, overlap, window_around
from nnunet_wsl.relevance import boundary_voxels, nearest_contour, polyline_distance

Between = Literal["ignore", "gated", "interpolate"]
"""Slices between known ones: nothing is supervised; what the interpolation is sure of; or all of it."""

_AS_NEAR_VOX = 1e-5  # two voxels are as near to a point, but for rounding


@dataclass(frozen=True, eq=False)
class ObjectSupervision:
    """What is supervised of the mask of one object in one case, see `supervise`.

    Parameters
    ----------
    inside : CroppedMask
        Voxels that are known to be inside its contours. Without gaps it may be the mask that was given.
    known : CroppedMask
        Voxels of which it is known whether they are; of the same window. Without gaps it may be read-only.
    uncertain : CroppedMask or None
        Voxels within the annotator's uncertainty of a contour, whatever the others say of them.
    gaps : tuple of Gap
        Between slices that were interpolated.
    """

    inside: CroppedMask
    known: CroppedMask
    uncertain: CroppedMask | None
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, eq=False)
class RelevanceSource:
    """What the relevance of one object in one case is made from, and how far it can be trusted.

    Parameters
    ----------
    contour_voxels : ndarray of int32, shape (N, 3)
        Voxels (z, y, x) that the contours pass through, those of interpolated contours included.
    ends : ndarray of bool, shape (N,)
        Which of them are ends of open contours.
    confidence : ndarray of float32, shape (z, h, w)
        In the relevance, in the window, but for partial slices.
    window : Window
        Where the confidence is not the same in a whole slice.
    elsewhere : ndarray of float32, shape (z,)
        The confidence of each slice outside the window.
    partial_slices : tuple of int
        Slices with contours that may not be all there are.
    """

    contour_voxels: npt.NDArray[np.int32]
    ends: npt.NDArray[np.bool_]
    confidence: npt.NDArray[np.float32]
    window: Window
    elsewhere: npt.NDArray[np.float32]
    partial_slices: tuple[int, ...]

    @classmethod
    def of(
        cls,
        placed: PlacedContours,
        name: str,
        voxels: npt.NDArray[np.int32],
        knowledge: SliceKnowledge,
        interpolation: Interpolation | None,
        window: Window,
    ) -> RelevanceSource:
        """Tell it of one object, with its contour voxels and what `supervise` interpolated in a window."""
        known = knowledge.known.astype(np.float32)
        empty = np.empty((len(known), 0, 0), np.float32)
        nowhere = slice(None), slice(0, 0), slice(0, 0)
        partial_slices = tuple(np.flatnonzero(knowledge.partial).tolist())
        source = cls(voxels, _open_ends(placed, name, voxels), empty, nowhere, known, partial_slices)
        return source.with_interpolation(interpolation, window, knowledge) if interpolation else source

    def with_interpolation(self, found: Interpolation, window: Window, knowledge: SliceKnowledge) -> RelevanceSource:
        """Add interpolated contours, and the confidence that the interpolation has."""
        drawn = np.zeros(len(knowledge.known), np.bool_)
        drawn[self.contour_voxels[:, 0]] = True
        outline = boundary_voxels(found.mask)
        outline[knowledge.known | drawn] = False
        added = np.argwhere(outline).astype(np.int32)
        added[:, 1:] += np.int32(window[1].start), np.int32(window[2].start)
        voxels = np.concatenate([self.contour_voxels, added])
        order = np.lexsort(voxels.T[::-1])
        ends = np.concatenate([self.ends, np.zeros(len(added), np.bool_)])
        # Half sure is not sure at all: where the contour runs, nobody knows on which side of it a voxel lies.
        confidence = np.float32(INTERPOLATED_CONFIDENCE) * np.abs(2 * found.probability - 1)
        confidence[knowledge.known] = 1
        elsewhere = self.elsewhere.copy()
        for gap in found.gaps:
            elsewhere[gap.first + 1 : gap.last] = INTERPOLATED_CONFIDENCE  # surely outside
        return RelevanceSource(voxels[order], ends[order], confidence, window, elsewhere, self.partial_slices)

    def save(self, path: Path) -> None:
        """Write everything to an ``.npz`` file."""
        np.savez_compressed(
            path,
            contour_voxels=self.contour_voxels,
            ends=self.ends,
            confidence=self.confidence.astype(np.float16),
            corner_yx=np.array([axis.start for axis in self.window[1:]], np.int64),
            elsewhere=self.elsewhere,
            partial_slices=np.array(self.partial_slices, np.int64),
        )

    @classmethod
    def load(cls, path: Path) -> RelevanceSource:
        """Read what `save` wrote; the confidence is rounded to half precision."""
        with np.load(path) as stored:
            confidence = stored["confidence"].astype(np.float32)
            (y, x), (height, width) = stored["corner_yx"].tolist(), confidence.shape[1:]
            return cls(
                stored["contour_voxels"],
                stored["ends"],
                confidence,
                (slice(None), slice(y, y + height), slice(x, x + width)),
                stored["elsewhere"],
                tuple(stored["partial_slices"].tolist()),
            )

    def confidence_map(
        self, shape_zyx: Sequence[int], spacing_mm_zyx: Sequence[float], sigma_mm: float
    ) -> npt.NDArray[np.float32]:
        """Return the confidence in the relevance at every voxel.

        Parameters
        ----------
        shape_zyx : sequence of int
            Shape of the image.
        spacing_mm_zyx : sequence of float
            Distance of neighbouring voxels along each axis.
        sigma_mm : float
            Scale of the object's relevance.

        Returns
        -------
        ndarray of float32, shape (z, y, x)
            In [0, 1].

        Notes
        -----
        On a partial slice the confidence is exp(-d^2 / (2 sigma_mm^2)) with d the distance in the slice to the contours
        that are drawn there: the further away, the more likely another part of the contour is nearer. It is 0 where
        the end of an open contour is nearest, beyond which the contour goes on.
        """
        confidence = np.empty(tuple(shape_zyx), np.float32)
        confidence[:] = self.elsewhere[:, None, None]
        confidence[self.window] = self.confidence
        for k in self.partial_slices:
            on_slice = self.contour_voxels[:, 0] == k
            voxels_yx, ends = self.contour_voxels[on_slice, 1:], self.ends[on_slice]
            distance_mm, nearest_yx = nearest_contour(voxels_yx, tuple(spacing_mm_zyx[1:]), shape=shape_zyx[1:])
            is_end = np.zeros(tuple(shape_zyx[1:]), np.bool_)
            is_end[tuple(voxels_yx[ends].T)] = True
            beyond = is_end[tuple(nearest_yx)] & (distance_mm > 0)
            confidence[k] = np.where(beyond, 0, np.exp(-0.5 * (distance_mm / np.float32(sigma_mm)) ** 2))
        return confidence


def supervision_window(placed: PlacedContours, name: str, contour_sigma_mm: float = 0.0) -> Window:
    """Window that `supervise` needs the mask of an object in: beyond it, all voxels of a slice are alike."""
    uncertain_vox = int(np.ceil(contour_sigma_mm / placed.grid.spacing_mm_zyx[1:].min()))
    return window_around(placed, name, max(MARGIN_VOX, uncertain_vox))


def known_on(slices: npt.NDArray[np.bool_], mask: CroppedMask) -> CroppedMask:
    """Return the voxels of whole slices, in the window of a mask; read-only."""
    values = np.broadcast_to(slices[:, None, None], mask.values.shape)
    return CroppedMask(values, mask.window, slices, mask.shape_zyx)


def supervise(
    placed: PlacedContours,
    name: str,
    mask: CroppedMask,
    knowledge: SliceKnowledge,
    image: npt.NDArray[Any],
    *,
    between: Between,
    contour_sigma_mm: float = 0.0,
) -> tuple[ObjectSupervision, Interpolation | None]:
    """Tell what is supervised of the mask of one object.

    Parameters
    ----------
    placed : PlacedContours
        Contours of the case.
    name : str
        The object.
    mask : CroppedMask
        The inside of its contours, in the window of `supervision_window`.
    knowledge : SliceKnowledge
        On which slices it is known.
    image : ndarray, shape (channel, z, y, x)
        The image channels, which tell about the slices between.
    between : {"ignore", "gated", "interpolate"}
        What the slices between known ones become.
    contour_sigma_mm : float
        Uncertainty of the drawn contours' position: voxels this near to one, in its slice, are uncertain.

    Returns
    -------
    ObjectSupervision
        What is supervised.
    Interpolation or None
        Of the slices between, in the window; None if there are none to interpolate.
    """
    inside = mask
    known = known_on(knowledge.known, mask)
    interpolation = None
    if between != "ignore":
        spacing_mm_zyx = tuple(placed.grid.spacing_mm_zyx)
        in_window = image[(slice(None), *mask.window)]
        found = interpolate(mask.values, knowledge.known, spacing_mm_zyx, in_window, knowledge.partial)
        if found.gaps:
            interpolation = found
            inside, known = _with_interpolation(mask, knowledge, found, between)
    uncertain = None
    if contour_sigma_mm:
        uncertain = CroppedMask.of(_near_contours(placed, name, contour_sigma_mm), mask.window)
    return ObjectSupervision(inside, known, uncertain, interpolation.gaps if interpolation else ()), interpolation


def exclude_conflicts(supervised: Sequence[ObjectSupervision], masks: Sequence[CroppedMask]) -> None:
    """Make interpolations that contradict each other unknown, where objects are not to overlap; in place.

    Parameters
    ----------
    supervised : sequence of ObjectSupervision
        All objects of a case.
    masks : sequence of CroppedMask
        The inside of their drawn contours, which always counts.
    """
    if not any(one.gaps for one in supervised):
        return
    conflict = overlap([one.inside for one in supervised])
    for one, mask in zip(supervised, masks, strict=True):
        if one.gaps:
            here = conflict[mask.window] & one.inside.values & ~mask.values
            one.inside.values[here] = False
            one.known.values[here] = False


def _with_interpolation(
    mask: CroppedMask, knowledge: SliceKnowledge, found: Interpolation, between: Between
) -> tuple[CroppedMask, CroppedMask]:
    """Return where the object is, and where that is known, with the slices that were interpolated."""
    between_slices = np.zeros(len(knowledge.known), np.bool_)
    for gap in found.gaps:
        between_slices[gap.first + 1 : gap.last] = True
    sure = found.confident() if between == "gated" else np.ones(mask.values.shape, np.bool_)
    inside = mask.values.copy()
    inside[between_slices] |= (found.mask & sure)[between_slices]
    known = np.zeros(mask.values.shape, np.bool_)
    known[knowledge.known] = True
    known[between_slices] = sure[between_slices]
    # Elsewhere the interpolation is sure that nothing is inside.
    elsewhere = knowledge.known | between_slices
    return mask.with_values(inside), CroppedMask(known, mask.window, elsewhere, mask.shape_zyx)


def _open_ends(placed: PlacedContours, name: str, voxels: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Tell which contour voxels are the ends of open contours: those nearest to their first and last points."""
    ends = np.zeros(len(voxels), np.bool_)
    for k, contours in placed.of(name).items():
        on_slice = np.flatnonzero(voxels[:, 0] == k)
        for contour in contours:
            if len(on_slice) and not contour.closed:
                for point_yx in contour.points_yx_vox[[0, -1]]:
                    apart = np.linalg.norm(voxels[on_slice, 1:] - point_yx, axis=1)
                    ends[on_slice[apart <= apart.min() + _AS_NEAR_VOX]] = True  # two, where it ends between voxels
    return ends


def _near_contours(placed: PlacedContours, name: str, radius_mm: float) -> npt.NDArray[np.bool_]:
    """Voxels at most so far from a contour of the object, within the contour's slice."""
    grid: Grid = placed.grid
    contours: list[PlacedContour] = [contour for contour in placed.contours if contour.object == name]
    distance_mm = polyline_distance(
        contours, grid.shape_zyx, tuple(grid.spacing_mm_zyx), cutoff_mm=radius_mm, search="slice"
    )
    return np.asarray(np.isfinite(distance_mm))
