"""Contours of objects in physical space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

SliceList = tuple[int, ...] | Literal["all"]
"""Slice indices, counted from 0, ascending; or all slices of the image."""


MAX_COORDINATE = 1e9
"""Largest coordinate of a point, in mm or pixels: far beyond any image, and exact to a thousandth."""


@dataclass(frozen=True, eq=False)
class Contour:
    """One polyline of one object, drawn in one plane.

    Parameters
    ----------
    object : str
        The object that the contour belongs to.
    points_mm : array_like of float, shape (N, 3)
        Physical points (x, y, z), LPS. A closed contour needs three or more, an open one two or more.
    closed : bool, default True
        Whether the last point connects to the first.
    source : str, optional
        The region of interest that the contour was drawn for, the object itself by default. Several sources
        may form one object: holes are cut within a source, and the object is the union of its sources.

    Raises
    ------
    ValueError
        If the points have another shape, are too few, or are no numbers up to `MAX_COORDINATE`.
    """

    object: str
    points_mm: NDArray[np.float64]
    closed: bool
    source: str

    def __init__(self, object: str, points_mm: ArrayLike, closed: bool = True, source: str = "") -> None:  # noqa: A002
        points = np.array(points_mm, dtype=np.float64)
        minimum = 3 if closed else 2
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"contour points must have the shape (N, 3), not {points.shape}")
        if len(points) < minimum:
            kind = "a closed" if closed else "an open"
            raise ValueError(f"{kind} contour needs {minimum} points or more, and has {len(points)}")
        if not (np.abs(points) <= MAX_COORDINATE).all():
            raise ValueError(f"contour points must be numbers of at most {MAX_COORDINATE:g} mm")
        points.setflags(write=False)
        for name, value in (
            ("object", object),
            ("points_mm", points),
            ("closed", closed),
            ("source", source or object),
        ):
            super().__setattr__(name, value)


@dataclass(frozen=True, eq=False)
class ContourSet:
    """The contours of one image, and what they say about the slices without contours.

    Parameters
    ----------
    objects : iterable of str
        Names of the objects, ordered, each once; an object may have no contour.
    contours : iterable of Contour
        All of them belong to one of the objects.
    annotated : mapping of str to slices, optional
        For the objects of which the source says so, the slices that are fully annotated, counted along the image's z
        axis. On these an object is drawn or known to be absent; on its other slices nothing is known but the contours.

    Raises
    ------
    ValueError
        If an object is named twice, or a contour, or annotated slices, belong to an object that is not listed.
    """

    objects: tuple[str, ...]
    contours: tuple[Contour, ...]
    annotated: Mapping[str, SliceList]

    def __init__(
        self,
        objects: Iterable[str],
        contours: Iterable[Contour],
        annotated: Mapping[str, SliceList] | None = None,
    ) -> None:
        super().__setattr__("objects", tuple(objects))
        super().__setattr__("contours", tuple(contours))
        super().__setattr__("annotated", dict(annotated or {}))
        if len(set(self.objects)) < len(self.objects):
            raise ValueError(f"objects must differ: {', '.join(self.objects)}")
        unlisted = {contour.object for contour in self.contours}.union(self.annotated) - set(self.objects)
        if unlisted:
            raise ValueError(f"contours or slices of objects that are not listed: {', '.join(sorted(unlisted))}")

    def of(self, object_name: str) -> tuple[Contour, ...]:
        """Contours of one object, in the order in which they were drawn."""
        return tuple(contour for contour in self.contours if contour.object == object_name)

    def selected(self, sources: Mapping[str, Iterable[str]]) -> ContourSet:
        """Contours under new names, objects that are not named left out.

        Parameters
        ----------
        sources : mapping of str to iterable of str
            For each new object, in order, the present objects that it is the union of. A present object may
            serve several new ones.

        Returns
        -------
        ContourSet
            A new object is annotated where all that it unites are, if that is said of all.

        Raises
        ------
        KeyError
            If a source is not an object of this set.
        """
        present = {name: self.of(name) for name in self.objects}
        united = {label: tuple(names) for label, names in sources.items()}
        return ContourSet(
            united,
            [
                replace(contour, object=label)
                for label, names in united.items()
                for name in names
                for contour in present[name]
            ],
            {
                label: _common(self.annotated[name] for name in names)
                for label, names in united.items()
                if names and all(name in self.annotated for name in names)
            },
        )


def _common(lists: Iterable[SliceList]) -> SliceList:
    """Slices that are in all lists."""
    listed = [set(slices) for slices in lists if slices != "all"]
    return tuple(sorted(set.intersection(*listed))) if listed else "all"
