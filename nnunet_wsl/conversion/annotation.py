"""What the drawn contours say about the slices between and around them.

Per object and slice there are three states: a contour is drawn; the object is known to be absent; or nothing is
known. A slice is known for an object in the first two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nnunet_wsl.conversion.cropped import CroppedMask

AnnotationRule = Literal["auto", "all", "contoured"]
"""``auto``: the usual step between drawn slices tells. ``all``: undrawn means absent. ``contoured``: only drawn
slices are known."""

ANNOTATION_RULES: tuple[AnnotationRule, ...] = get_args(AnnotationRule)


@dataclass(frozen=True)
class SliceKnowledge:
    """What is known where, of one object of one case.

    Parameters
    ----------
    known : ndarray of bool, shape (z,)
        Slices on which the object is drawn or known to be absent.
    partial : ndarray of bool, shape (z,)
        Slices with contours that may not be all there are: known are only these contours.
    step : int
        The usual distance between neighbouring drawn slices, in slices; 1 means dense, 0 that nothing tells it, so that
        only the one drawn slice is known.
    gaps : tuple of (int, int)
        Neighbouring drawn slices that are further apart than the step.
    """

    known: npt.NDArray[np.bool_]
    partial: npt.NDArray[np.bool_]
    step: int
    gaps: tuple[tuple[int, int], ...]


def usual_step(drawn_slices: Iterable[npt.NDArray[np.integer]]) -> int | None:
    """Return the most common distance between neighbouring drawn slices, the smaller one of a tie.

    Parameters
    ----------
    drawn_slices : iterable of ndarray of int, shape (n,)
        Of each object: sorted, unique indices of the slices that carry a contour of it.

    Returns
    -------
    int or None
        In slices; None if no object has two drawn slices.
    """
    counts = Counter(distance for of_object in drawn_slices for distance in np.diff(of_object).tolist())
    return min(counts, key=lambda distance: (-counts[distance], distance)) if counts else None


def slice_knowledge(
    drawn_slices: npt.NDArray[np.integer],
    num_slices: int,
    rule: AnnotationRule = "auto",
    open_slices: Sequence[int] = (),
    *,
    case_step: int | None = None,
    listed: Sequence[int] | None = None,
    margin: int | None = None,
) -> SliceKnowledge:
    """Tell on which slices an object is known.

    Parameters
    ----------
    drawn_slices : ndarray of int, shape (n,)
        Sorted, unique indices of the slices that carry a contour of the object.
    num_slices : int
        Number of slices of the image.
    rule : {"auto", "all", "contoured"}
        With ``auto`` the step tells, see `usual_step`. A step of 1 is a dense annotation: on undrawn slices the object
        is absent. A larger step means that the slices between the first and the last drawn one are unknown unless
        drawn. Outside that range the object is absent from a step away on: it may end anywhere before the next slice
        that would have been drawn. If nothing tells the step, only the single drawn slice is known, unless the image
        has no other. With ``all`` an undrawn slice means absent, with ``contoured`` it is unknown.
    open_slices : sequence of int
        Slices with a contour that does not close. It does not tell what is inside: the slice counts as drawn, but
        is not known.
    case_step : int, optional
        The step of all objects of the case, for one with fewer than two drawn slices.
    listed : sequence of int, optional
        Slices that are fully annotated: if given, the known ones are these, whatever the rule.
    margin : int, optional
        Slices before the first and after the last drawn one that are unknown, also if they are listed. By default those
        nearer than a step if ``auto`` finds one above 1, and none otherwise.

    Returns
    -------
    SliceKnowledge
    """
    single = rule == "auto" and listed is None and len(drawn_slices) == 1 and num_slices > 1
    step = usual_step([drawn_slices]) or case_step or (0 if single else 1)
    distances = np.diff(drawn_slices)
    gaps = tuple((int(drawn_slices[i]), int(drawn_slices[i + 1])) for i in np.flatnonzero(distances > step).tolist())
    is_sparse = rule == "auto" and listed is None and step > 1 and len(drawn_slices) > 0
    if margin is None:
        margin = step - 1 if is_sparse else 0
    known = np.ones(num_slices, np.bool_)
    if listed is not None:
        known[:] = False
        known[list(listed)] = True
    elif rule == "contoured" or step == 0:
        known[:] = False
    elif is_sparse:
        known[drawn_slices[0] : drawn_slices[-1]] = False
    if len(drawn_slices):
        first, last = int(drawn_slices[0]), int(drawn_slices[-1])
        known[max(first - margin, 0) : first] = False
        known[last + 1 : last + 1 + margin] = False
    if listed is None:
        known[drawn_slices] = True
    known[list(open_slices)] = False
    partial = np.zeros(num_slices, np.bool_)
    partial[drawn_slices] = True
    return SliceKnowledge(known, partial & ~known, step, gaps)


def label_map(inside: Sequence[CroppedMask], known: Sequence[CroppedMask]) -> npt.NDArray[np.uint8]:
    """Make the label map of one case, whose objects are not to overlap.

    A voxel inside an object is known, even where another object is unknown; inside several objects it takes the label
    of the first one. A voxel outside all objects is background if every object is known there, else ignored.

    Parameters
    ----------
    inside : sequence of K CroppedMask
        The inside of each object.
    known : sequence of K CroppedMask
        Where each object is known.

    Returns
    -------
    ndarray of uint8, shape (z, y, x)
        0 background, 1..K the objects, K + 1 ignore.
    """
    labels = np.zeros(tuple(inside[0].shape_zyx), np.uint8)
    for known_there in known:
        window, unknown = (~known_there).where()
        labels[window][unknown] = len(inside) + 1
    for label in range(len(inside), 0, -1):
        window, of_object = inside[label - 1].where()
        labels[window][of_object] = label
    return labels
