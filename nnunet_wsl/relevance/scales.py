"""Scales of the relevance by rule: from a fingerprint of every case to one set of scales for all.

As in nnU-Net, what is measured (the fingerprint of a case) is apart from what is decided (the plan), and the plan
takes medians over the cases, so that a few odd ones do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_wsl.errors import InputError
from nnunet_wsl.relevance.transform import ContourVoxels, nearest_by_block, spacing_zyx

SIGMA_PER_RADIUS = 0.2
"""sigma_mm of an object as a part of its radius: at its centre, the Gaussian relevance has fallen to nothing."""

CUTOFF_PER_SIGMA = 3.0
"""Where the relevance ends, in sigmas: the Gaussian has fallen to 0.011 there."""

BAND_VOX = 3
"""Half width of the band around the contours in which differences across them are measured, in voxels."""

_NORMAL_IQR = 1.349  # interquartile range of a normal distribution, in standard deviations


@dataclass(frozen=True)
class ObjectFingerprint:
    """What the scales of one object depend on, in one case.

    Parameters
    ----------
    radius_mm : float
        Twice the enclosed area over the length of its border: the radius of a disc, about the thickness of a ring. 0
        if the contours enclose nothing.
    along : tuple of float
        Per image channel, spread of the intensities on the contour voxels: interquartile range / 1.349, the standard
        deviation if they were normally distributed.
    across : tuple of float
        Per image channel, median absolute difference between a voxel near a contour and its reference voxel.
    """

    radius_mm: float
    along: tuple[float, ...]
    across: tuple[float, ...]


@dataclass(frozen=True)
class CaseFingerprint:
    """What the scales of the relevance depend on, in one case.

    Parameters
    ----------
    spacing_mm : tuple of float
        In the order of the array axes.
    objects : tuple of ObjectFingerprint or None
        One per object; None if the object has no contour in this case.
    num_channels : int
        Image channels of which the intensities were measured.
    """

    spacing_mm: tuple[float, ...]
    objects: tuple[ObjectFingerprint | None, ...]
    num_channels: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fingerprint as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CaseFingerprint:
        """Return the fingerprint of which `to_dict` gave the values."""
        return cls(
            tuple(values["spacing_mm"]),
            tuple(
                one and ObjectFingerprint(one["radius_mm"], tuple(one["along"]), tuple(one["across"]))
                for one in values["objects"]
            ),
            values["num_channels"],
        )


def case_fingerprint(
    image: ArrayLike | None,
    masks: Sequence[ArrayLike] | None,
    contour_voxels: Sequence[ArrayLike],
    spacing_mm: Sequence[float],
) -> CaseFingerprint:
    """Measure in one case what the scales of the relevance depend on.

    Parameters
    ----------
    image : array_like of real numbers, shape (C, z, y, x) or (C, y, x), or None
        Image channels; without, the fingerprint says nothing about intensities.
    masks : sequence of array_like of bool, shape (z, y, x) or (y, x), or None
        What the contours of each object enclose; None if they enclose nothing.
    contour_voxels : sequence of array_like
        As for `relevance_maps`.
    spacing_mm : sequence of float
        In the order of the array axes.

    Returns
    -------
    CaseFingerprint

    Raises
    ------
    ValueError
        If shapes do not fit together, or the spacings are not one positive number per axis of the image.

    Notes
    -----
    Differences across the contours are measured within `BAND_VOX` voxels of them and within their slices: thick
    slices would bring in other anatomy. Voxels that are not finite numbers do not count.
    """
    channels = None if image is None else np.asarray(image)
    shape = None if channels is None else channels.shape[1:]
    objects = []
    for k, given in enumerate(contour_voxels):
        mask = None if masks is None else np.asarray(masks[k], dtype=np.bool_)
        if mask is not None and shape is not None and mask.shape != shape:
            raise ValueError(f"mask {k} has shape {mask.shape}, but the image channels {shape}; expected the same")
        voxels = ContourVoxels.of(given, shape if mask is None else mask.shape)
        spacing_zyx(spacing_mm, voxels.shape)
        objects.append(_object_fingerprint(channels, mask, voxels, spacing_mm) if len(voxels.index_zyx) else None)
    num_channels = 0 if channels is None else len(channels)
    return CaseFingerprint(tuple(float(spacing) for spacing in spacing_mm), tuple(objects), num_channels)


def plan_scales(
    fingerprints: Sequence[CaseFingerprint],
    names: Sequence[str] | None = None,
    *,
    sigma_mm: Sequence[float] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Choose the scales of the relevance for all cases.

    Parameters
    ----------
    fingerprints : sequence of CaseFingerprint
        Of the training cases, all with the same objects and image channels.
    names : sequence of str, optional
        Of the objects, for messages.
    sigma_mm : sequence of float, optional
        Chosen scales, one per object, in place of planned ones. Then an object may have no contour.

    Returns
    -------
    sigma_mm : tuple of float
        One per object: a fifth of the median radius over the cases, but at least the median voxel spacing (the
        larger one within the slice), so that a voxel's neighbours are relevant too.
    intensity_scale : tuple of float
        One per image channel: the median over cases and objects of sqrt(along * across). Differences along the
        contours, of one tissue, stay below it where differences across them, to another, lie above. Objects whose
        intensities do not vary do not count; if none does, or no object has a contour, the scale is 1.
    cutoff_mm : tuple of float
        One per object: three times sigma_mm.

    Raises
    ------
    InputError
        If there is no case, or a scale is to be planned for an object that has no contour in any case.
    """
    present = [[one for one in case if one] for case in zip(*(f.objects for f in fingerprints), strict=True)]
    missing = [
        repr(names[k]) if names else f"object {k + 1}"
        for k, cases in enumerate(present)
        if not cases and sigma_mm is None
    ]
    if not fingerprints or missing:
        raise InputError(
            "The scales of the relevance are planned from contours, but "
            + (f"{', '.join(missing)} has none in any case." if fingerprints else "there is no case.")
            + " Give sigma_mm yourself, or leave the object out."
        )
    if sigma_mm is None:
        spacing_mm = float(np.median([max(fingerprint.spacing_mm[-2:]) for fingerprint in fingerprints]))
        radii_mm = [float(np.median([one.radius_mm for one in cases])) for cases in present]
        sigma_mm = [max(SIGMA_PER_RADIUS * radius_mm, spacing_mm) for radius_mm in radii_mm]
    measured = [one for cases in present for one in cases]
    # The shape holds without any contour too.
    along, across = (
        np.array([getattr(one, name) for one in measured]).reshape(len(measured), fingerprints[0].num_channels)
        for name in ("along", "across")
    )
    typical = np.sqrt(along * across).T
    intensity_scale = tuple(float(np.median(scales[scales > 0])) if scales.any() else 1.0 for scales in typical)
    return tuple(sigma_mm), intensity_scale, tuple(CUTOFF_PER_SIGMA * sigma for sigma in sigma_mm)


def _object_fingerprint(
    channels: NDArray[Any] | None, mask: NDArray[np.bool_] | None, voxels: ContourVoxels, spacing_mm: Sequence[float]
) -> ObjectFingerprint:
    pixel_mm = np.asarray(spacing_mm[-2:], dtype=np.float64)
    radius_mm = 0.0
    if mask is not None:
        radius_mm = _radius_mm(mask.reshape(voxels.shape_zyx), voxels, pixel_mm)
    if channels is None:
        return ObjectFingerprint(radius_mm, (), ())
    channels = channels.reshape(len(channels), *voxels.shape_zyx)
    on_contour = channels[(slice(None), *voxels.index_zyx.T)].astype(np.float64)
    differences: list[list[NDArray[np.float64]]] = [[] for _ in channels]
    cutoff_mm = BAND_VOX * float(pixel_mm.max())
    for nearest in nearest_by_block(voxels, spacing_mm, cutoff_mm, "slice", with_reference=True):
        distance_mm2, reference = nearest.distance_mm2(), nearest.reference()
        band = np.isfinite(distance_mm2) & (distance_mm2 > 0)
        for found, channel, values in zip(differences, channels, on_contour, strict=True):
            with np.errstate(invalid="ignore"):  # infinite against infinite does not count either
                found.append(np.abs(channel[nearest.box] - values[reference])[band])
    return ObjectFingerprint(
        radius_mm,
        tuple(_spread(values) for values in on_contour),
        tuple(_median(np.concatenate(found)) for found in differences),
    )


def _radius_mm(mask: NDArray[np.bool_], voxels: ContourVoxels, pixel_mm: NDArray[np.float64]) -> float:
    """Twice the area over the length of the border, in the slices that are drawn.

    The length of the border is pi / 4 of that of the faces between inside and outside (Cauchy-Crofton formula with two
    directions): right for round objects, whatever the pixels, and 21 % too short for a rectangle along the axes. The
    number of contour voxels would depend on the pixels, and on how these voxels were found.
    """
    low, high = voxels.index_zyx[:, 1:].min(0), voxels.index_zyx[:, 1:].max(0) + 1
    drawn = np.unique(voxels.index_zyx[:, 0])
    inside = np.pad(mask[drawn, low[0] : high[0], low[1] : high[1]], ((0, 0), (1, 1), (1, 1)))
    faces_y, faces_x = (np.count_nonzero(np.diff(inside, axis=axis)) for axis in (1, 2))
    length_mm = np.pi / 4 * (faces_y * pixel_mm[1] + faces_x * pixel_mm[0])
    return float(2 * np.count_nonzero(inside) * pixel_mm.prod() / length_mm) if length_mm else 0.0


def _spread(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0
    low, high = np.percentile(finite, (25, 75))
    return float(high - low) / _NORMAL_IQR


def _median(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else 0.0
