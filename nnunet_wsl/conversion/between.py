"""Where an object probably is on the slices between those that were annotated.

The signed distance to the contour is interpolated between the known slices; how much the contour moves and changes
from one to the next tells how uncertain that is; the image says on which side of the contour a voxel rather belongs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline
from scipy.special import expit

CERTAINTY = 0.95
"""Probability from which on a voxel is confidently inside, or outside."""

# Uncertainty of the interpolated signed distance, and weight of the image: the logistic regression of inside against
# outside on 20 hippocampi, each with every 3rd, 4th and 5th slice drawn.
_UNCERTAINTY_PER_VOXEL = 0.13
_UNCERTAINTY_PER_CHANGE = 0.045
_UNCERTAINTY_PER_CHANGE_AT_ENDS = 0.13  # on the same, and every 8th slice, all drawn from any slice of the image on
_UNCERTAINTY_PER_SHIFT = 0.035
_UNCERTAINTY_PER_BULGE = 0.5  # not fitted: objects that end abruptly do not narrow towards their end
_IMAGE_WEIGHT = 0.66

_LARGEST_BULGE_VOX = 4.0
"""How far the end of an object beyond two slices may widen it between them: half of the margin around it."""

_DEPTHS_TO_ABSENCE = np.float32(1.5)
"""How much lower a slice without the object is than the one beside it, in depths of that one: 1 would let the object
end at that slice, 2 half way. On the same hippocampi and on ellipsoids the volume is right in between."""

_LARGEST_EVIDENCE = 3.0
"""Of the image, in log-odds before weighting: far from both distributions the ratio of their tails says little."""

_WINDOW_VOX = 2.0
"""Standard deviation of the window in which intensities inside and outside are compared."""

_BAND_VOX = 4.0
"""Voxels this near to a contour tell the intensities on either side of it."""

MARGIN_VOX = 8
"""Around the contours; beyond, everything is outside."""

_VARIANCE_FLOOR = 0.05
"""Of intensities in a window, as a part of their variance around all contours: a window holds few voxels."""

_LEAST_SAMPLES = 1e-3
"""Share of a window that must be inside, or outside, for the image to count."""

_SETTLED = 8.0
"""Log-odds beyond which the image could not change anything that matters."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Gap:
    """Neighbouring known slices with unknown ones between them, of which at least one shows the object.

    Parameters
    ----------
    first, last : int
        The known slices.
    distance_mm : float
        Between the two.
    shift_mm : float
        How far the object moves within the plane from one to the other.
    change_mm : float
        How far apart the two contours are when the shift is undone; mean along the interpolated contour. One to one and
        a half times the depth of the one, if the other slice does not show the object.
    uncertainty_mm : float
        Of the interpolated contour's position: the scale of a logistic distribution; mean along the contour.
    """

    first: int
    last: int
    distance_mm: float
    shift_mm: float
    change_mm: float
    uncertainty_mm: float

    def gate_mm(self, certainty: float = CERTAINTY) -> float:
        """Half the width of the band around the interpolated contour in which less than `certainty` is reached.

        The image may shift the band, by up to two thirds of this width at the default certainty.
        """
        return self.uncertainty_mm * math.log(certainty / (1 - certainty))


@dataclass(frozen=True, eq=False)
class Interpolation:
    """What the known slices of an object say about the others.

    Parameters
    ----------
    probability : ndarray of float32, shape (z, y, x)
        Of being inside: 0 or 1 on known slices, 0.5 on unknown slices that lie in no gap.
    gaps : tuple of Gap
        In ascending order.
    """

    probability: Float32
    gaps: tuple[Gap, ...]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Voxels that are rather inside than outside, shape (z, y, x)."""
        return np.asarray(self.probability > 0.5)

    def confident(self, certainty: float = CERTAINTY) -> NDArray[np.bool_]:
        """Voxels that are inside, or outside, with at least this probability, shape (z, y, x).

        Raises
        ------
        ValueError
            If the certainty is not above 0.5 and below 1.
        """
        if not 0.5 < certainty < 1:
            raise ValueError(f"the certainty must be above 0.5 and below 1, not {certainty}")
        return np.asarray((self.probability >= certainty) | (self.probability <= 1 - certainty))


def interpolate(
    mask: ArrayLike,
    known: ArrayLike,
    spacing_mm_zyx: Sequence[float],
    image: ArrayLike | None = None,
    partial: ArrayLike | None = None,
) -> Interpolation:
    """Estimate on unknown slices which voxels an object covers.

    Parameters
    ----------
    mask : array_like of bool, shape (z, y, x)
        The inside of the drawn contours. A voxel in it is inside also where the slice is not known.
    known : array_like of bool, shape (z,)
        Slices on which the mask is complete, those included on which the object is known to be absent.
    spacing_mm_zyx : sequence of float
        Distance of neighbouring voxels along each axis.
    image : array_like of real numbers, shape (C, z, y, x), optional
        Image channels. Voxels that are not finite tell nothing, nor do channels without contrast.
    partial : array_like of bool, shape (z,), optional
        Unknown slices that show a part of the object: what lies around them is not interpolated, for the known slices
        may be far from what is there.

    Returns
    -------
    Interpolation

    Raises
    ------
    ValueError
        If shapes do not fit together or a spacing is not positive.

    Notes
    -----
    Shape. On every known slice S is the signed distance to the contour, positive inside. Between two of them, S comes
    from a natural cubic spline through up to two known slices on either side [1]_, each moved along the path of the
    centroids; where moving would make neighbouring masks overlap less, as when one of two parts ends, they stay. S
    is cut off below at minus the depth of the deeper of the two slices: a part that the other slice does not have ends
    about half way, however far away that slice's other parts are.

    Ends. A slice without the object counts as the one beside it, less one and a half times the depth of each part: it
    ends about two thirds of the way. So between the last two slices that show the object it is wider than without that,
    by a few voxels at most, as objects with rounded ends are. That is left out if the slice without the object is
    nearer to them than they are to each other. Between two slices without the object nothing is said.

    Uncertainty. Along the path from slice to slice the contour's position is sure to a part of a voxel, plus a part of
    how far the two slices differ at this voxel, a larger one where the object ends, plus a part of the shift, plus half
    of how much wider a slice without the object beyond the two makes it, for it may end abruptly; the distance of the
    slices adds nothing to these. S over this uncertainty is the logarithm of the odds of being inside.

    Image. Intensities within a few voxels of the contours on the two known slices, in a Gaussian window around the
    voxel, give a normal distribution for inside and one for outside. The logarithm of their ratio at the voxel's own
    intensity, the mean over the channels, limited and weighted, is added to the log-odds.

    References
    ----------
    .. [1] G. T. Herman, J. Zheng, C. A. Bucholtz, "Shape-based interpolation", IEEE Computer Graphics and
       Applications 12(3), 1992, doi:10.1109/38.135915.

    Examples
    --------
    >>> disc = np.hypot(*np.ogrid[-9:10, -9:10]) < 6
    >>> mask = np.stack([disc, disc & False, disc])
    >>> found = interpolate(mask, [True, False, True], (3.0, 1.0, 1.0))
    >>> bool((found.mask[1] == disc).all()), [gap.change_mm for gap in found.gaps]
    (True, [0.0])
    """
    drawn = np.asarray(mask, dtype=np.bool_)
    is_known = np.asarray(known, dtype=np.bool_)
    spacing = np.asarray(spacing_mm_zyx, dtype=np.float64)
    channels = None if image is None else np.asarray(image)
    is_partial = np.zeros(is_known.shape, np.bool_) if partial is None else np.asarray(partial, dtype=np.bool_)
    if drawn.ndim != 3 or is_known.shape != drawn.shape[:1]:
        raise ValueError(f"expected a mask (z, y, x) and one value per slice, not {drawn.shape} and {is_known.shape}")
    if is_partial.shape != is_known.shape:
        raise ValueError(f"expected one value per slice that tells whether it is partial, not {is_partial.shape}")
    if spacing.shape != (3,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ValueError(f"expected three positive spacings, not {tuple(spacing_mm_zyx)}")
    if channels is not None and (channels.ndim != 4 or channels.shape[1:] != drawn.shape):
        raise ValueError(f"expected an image (C, {', '.join(map(str, drawn.shape))}), not {channels.shape}")

    slices = np.flatnonzero(is_known)
    shows = np.asarray(drawn[slices].any(axis=(1, 2)))
    probability = np.full(drawn.shape, 0.5, dtype=np.float32)
    probability[is_known] = drawn[is_known]
    pairs = []
    for i, (first, last) in enumerate(pairwise(slices.tolist())):
        # Between two slices without the object nothing is known: a part of it may lie there wholly.
        if last - first > 1 and (shows[i] or shows[i + 1]) and not is_partial[first:last].any():
            probability[first + 1 : last] = 0
            pairs.append(i)
    gaps = []
    if pairs:
        y, x = _crop(drawn[slices[shows]])
        shapes = _Shapes.of(drawn[:, y, x], slices[shows], spacing)
        contrast = _Contrast.of(None if channels is None else channels[:, :, y, x], shapes)
        moments = lru_cache(maxsize=2)(contrast.moments)  # a slice is the end of one gap and the begin of the next
        for i in pairs:
            odds, gap = _odds_between(_Knots.of(slices, shows, i), shapes, contrast.image, moments)
            probability[gap.first + 1 : gap.last, y, x] = expit(odds)
            gaps.append(gap)
    probability[drawn] = 1
    return Interpolation(probability, tuple(gaps))


@dataclass(frozen=True, eq=False)
class _Shapes:
    """The slices that show the object.

    Parameters
    ----------
    slices : ndarray of int, shape (S,)
        Ascending.
    distance_mm : ndarray of float32, shape (S, y, x)
        To the contour within the slice, positive inside.
    position_vox : ndarray of float64, shape (S, 2)
        (y, x) of the object on its path.
    spacing_mm : ndarray of float64, shape (3,)
        (z, y, x).
    """

    slices: NDArray[np.int64]
    distance_mm: Float32
    position_vox: Float64
    spacing_mm: Float64

    @classmethod
    def of(cls, mask: NDArray[np.bool_], slices: NDArray[np.int64], spacing_mm: Float64) -> _Shapes:
        shapes = mask[slices]
        distance_mm = _signed_distance_mm(shapes, spacing_mm[1], spacing_mm[2])
        shifts = [_shift_vox(*pair) for pair in pairwise(shapes)]
        return cls(slices, distance_mm, np.cumsum([np.zeros(2), *shifts], axis=0), spacing_mm)

    @property
    def voxel_mm(self) -> float:
        """Size of a voxel within the slice."""
        return math.sqrt(self.spacing_mm[1] * self.spacing_mm[2])


@dataclass(frozen=True, eq=False)
class _Contrast:
    """Intensities near the contours.

    Parameters
    ----------
    image : ndarray of float32, shape (C, z, y, x)
        Standardised near the contours; not a number where the image tells nothing.
    shapes : _Shapes
        Of the object.
    """

    image: Float32
    shapes: _Shapes

    @classmethod
    def of(cls, image: NDArray[Any] | None, shapes: _Shapes) -> _Contrast:
        if image is None:
            return cls(np.empty((0, 0, 0, 0), dtype=np.float32), shapes)
        near = np.abs(shapes.distance_mm) < _BAND_VOX * shapes.voxel_mm
        channels = []
        for channel in image:
            values = channel[shapes.slices][near].astype(np.float64)
            values = values[np.isfinite(values)]
            spread = values.std() if len(values) else 0.0
            if spread > 0:
                with np.errstate(over="ignore"):  # what is too large becomes infinite, and tells nothing
                    standardised = ((channel - values.mean()) / spread).astype(np.float32)
                standardised[~np.isfinite(standardised)] = np.nan
                channels.append(standardised)
        return cls(np.stack(channels) if channels else np.empty((0, *image.shape[1:]), dtype=np.float32), shapes)

    def moments(self, shape: int) -> Float32:
        """Windowed number, sum and sum of squares of the intensities inside, then outside, shape (C, 6, y, x)."""
        distance_mm, voxel_mm = self.shapes.distance_mm[shape], self.shapes.voxel_mm
        band_mm = _BAND_VOX * voxel_mm
        moments = np.empty((len(self.image), 6, *distance_mm.shape), dtype=np.float32)
        for channel, of_channel in zip(self.image[:, self.shapes.slices[shape]], moments, strict=True):
            finite = np.isfinite(channel)
            values = np.where(finite, channel, 0)
            for side, inside in enumerate((distance_mm > 0, distance_mm <= 0)):
                count = (inside & finite & (np.abs(distance_mm) < band_mm)).astype(np.float32)
                of_channel[3 * side : 3 * side + 3] = count, count * values, count * values * values
        for axis, spacing_mm in ((-2, self.shapes.spacing_mm[1]), (-1, self.shapes.spacing_mm[2])):
            sigma_vox = _WINDOW_VOX * voxel_mm / spacing_mm
            ndimage.gaussian_filter1d(moments, sigma_vox, axis, output=moments, mode="constant", truncate=3)
        return moments


def _crop(shapes: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Box of all shapes with a margin, within the slice."""
    y, x = (np.flatnonzero(shapes.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    low_y, low_x = max(y[0] - MARGIN_VOX, 0), max(x[0] - MARGIN_VOX, 0)
    return slice(low_y, y[-1] + MARGIN_VOX + 1), slice(low_x, x[-1] + MARGIN_VOX + 1)


def _shift_vox(shape: NDArray[np.bool_], next_shape: NDArray[np.bool_]) -> Float64:
    """Difference (y, x) of the centroids of two shapes, or none if that made them overlap less."""
    shift = np.mean(np.nonzero(next_shape), axis=1) - np.mean(np.nonzero(shape), axis=1)
    here, there = [], []
    for step in np.rint(shift).astype(int).tolist():
        here.append(slice(max(-step, 0), -step if step > 0 else None))
        there.append(slice(max(step, 0), step if step < 0 else None))
    moved = np.count_nonzero(shape[tuple(here)] & next_shape[tuple(there)])
    return np.asarray(shift if moved >= np.count_nonzero(shape & next_shape) else np.zeros(2))


@dataclass(frozen=True)
class _Knots:
    """Known slices that the interpolation of one gap goes through.

    Parameters
    ----------
    slices : ndarray of int, shape (K,)
        Ascending. One without the object, beyond those that bound the gap, is at least as far off as the gap is long.
    shapes : ndarray of int, shape (K,)
        Which of the slices that show the object; for a slice without the object, the one next to it.
    shows : ndarray of bool, shape (K,)
        Which knots show the object; at least one of those that bound the gap, and all that have others on both sides.
    before : int
        Which knot begins the gap; the next one ends it.
    """

    slices: NDArray[np.int64]
    shapes: NDArray[np.int64]
    shows: NDArray[np.bool_]
    before: int

    def weights(self, some: slice | NDArray[np.int64], first: int, last: int) -> Float32:
        """Weights (n, K) of some knots on the slices between two."""
        return _spline_weights(tuple((self.slices[some] - first).tolist()), last - first)

    @classmethod
    def of(cls, slices: NDArray[np.int64], shows: NDArray[np.bool_], i: int) -> _Knots:
        """Choose the knots of the gap after the known slice number i."""
        knots, length = [i, i + 1], slices[i + 1] - slices[i]
        # Where an object is absent right behind a slice it ends abruptly: that says little about its course before.
        if shows[i] and i > 0 and (shows[i - 1] or slices[i] - slices[i - 1] >= length):
            knots.insert(0, i - 1)
        if shows[i + 1] and i + 2 < len(slices) and (shows[i + 2] or slices[i + 2] - slices[i + 1] >= length):
            knots.append(i + 2)
        shapes = np.cumsum(shows)[knots] - 1
        if not shows[knots[0]]:
            shapes[0] = shapes[1]
        return cls(slices[knots], shapes, shows[knots], knots.index(i))


def _odds_between(
    knots: _Knots, shapes: _Shapes, image: Float32, moments: Callable[[int], Float32]
) -> tuple[Float32, Gap]:
    """Log-odds of being inside on the slices of a gap, shape (n, y, x); moments are those of the image at a shape."""
    ends = [knots.before, knots.before + 1]
    first, last = knots.slices[ends].tolist()
    distance_mm = shapes.distance_mm[knots.shapes]
    least_mm = np.full(len(distance_mm), -distance_mm[ends].max())
    for absent in np.flatnonzero(~knots.shows).tolist():
        distance_mm[absent] = _absent_mm(distance_mm[absent], shapes.spacing_mm[1], shapes.spacing_mm[2])
        if absent not in ends:
            least_mm[absent] *= 2
    np.maximum(distance_mm, least_mm[:, np.newaxis, np.newaxis], out=distance_mm)

    # Between two slices that show the object, what lies beyond its ends changes its shape and not its path.
    shown = np.flatnonzero(knots.shows) if knots.shows[ends].all() else np.arange(len(knots.slices))
    weights, shown_weights = (knots.weights(some, first, last) for some in (slice(None), shown))
    position_vox = shapes.position_vox[knots.shapes]
    shifts_vox = position_vox - (shown_weights @ position_vox[shown])[:, np.newaxis]
    moved_mm = _moved(distance_mm, shifts_vox)
    estimate_mm = np.einsum("nk,nkyx->nyx", weights, moved_mm)
    change_mm = np.abs(moved_mm[:, ends[0]] - moved_mm[:, ends[1]])
    shift_mm = float(np.hypot(*(np.diff(position_vox[ends], axis=0)[0] * shapes.spacing_mm[1:])))
    sure_mm = _UNCERTAINTY_PER_VOXEL * shapes.voxel_mm + _UNCERTAINTY_PER_SHIFT * shift_mm
    per_change = _UNCERTAINTY_PER_CHANGE if knots.shows[ends].all() else _UNCERTAINTY_PER_CHANGE_AT_ENDS
    uncertainty_mm = np.float32(sure_mm) + np.float32(per_change) * change_mm
    if len(shown) < len(knots.slices):
        without_mm = np.einsum("nk,nkyx->nyx", shown_weights, moved_mm[:, shown])
        np.minimum(estimate_mm, without_mm + np.float32(_LARGEST_BULGE_VOX * shapes.voxel_mm), out=estimate_mm)
        uncertainty_mm += np.float32(_UNCERTAINTY_PER_BULGE) * np.abs(estimate_mm - without_mm)

    odds = estimate_mm / uncertainty_mm
    if len(image):
        first_moments, last_moments = (moments(shape) for shape in knots.shapes[ends].tolist())
        share = np.arange(1, last - first) / (last - first)
        _add_evidence(image[:, first + 1 : last], first_moments, last_moments, shifts_vox[:, ends], share, odds)

    nearness_mm = np.abs(estimate_mm)
    near = nearness_mm <= max(shapes.voxel_mm, nearness_mm.min())
    gap = Gap(
        first,
        last,
        float((last - first) * shapes.spacing_mm[0]),
        shift_mm,
        float(change_mm[near].mean()),
        float(uncertainty_mm[near].mean()),
    )
    return odds, gap


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _signed_distance_mm(shapes: NDArray[np.bool_], y_mm: float, x_mm: float) -> Float32:
    """Distance (S, y, x) within each slice to the contour, half way between voxels inside and outside.

    Outside the image is outside. Spacings are along y and x.
    """
    num_shapes, height, width = shapes.shape
    half_voxel_mm = 0.5 * math.sqrt(y_mm * x_mm)
    signed_mm = np.empty(shapes.shape, dtype=np.float32)
    column_mm2 = np.empty((2, height, width))  # to the nearest voxel outside, and inside, in the same column
    for s in range(num_shapes):
        shape = shapes[s]
        column_mm2[:] = np.inf
        for x in range(width):
            for first, last, step in ((0, height, 1), (height - 1, -1, -1)):
                to_outside, to_inside = 0.0, np.inf
                for y in range(first, last, step):
                    to_outside = to_outside + y_mm if shape[y, x] else 0.0
                    to_inside = 0.0 if shape[y, x] else to_inside + y_mm
                    column_mm2[0, y, x] = min(column_mm2[0, y, x], to_outside**2)
                    column_mm2[1, y, x] = min(column_mm2[1, y, x], to_inside**2)
        for y in range(height):
            for x in range(width):
                inside = shape[y, x]
                row_mm2 = column_mm2[0 if inside else 1, y]
                nearest_mm2 = row_mm2[x]
                for step in range(1, width + 1):
                    step_mm2 = (step * x_mm) ** 2
                    if step_mm2 >= nearest_mm2:
                        break
                    for other in (x - step, x + step):
                        if 0 <= other < width:
                            nearest_mm2 = min(nearest_mm2, row_mm2[other] + step_mm2)
                        elif inside:
                            nearest_mm2 = min(nearest_mm2, step_mm2)
                distance_mm = math.sqrt(nearest_mm2) - half_voxel_mm
                signed_mm[s, y, x] = distance_mm if inside else -distance_mm
    return signed_mm


@lru_cache
def _spline_weights(knots: tuple[int, ...], stop: int) -> Float32:
    """Weights (n, K) of the values at the knots in the natural cubic spline at 1 to stop - 1."""
    spline = CubicSpline(knots, np.eye(len(knots)), bc_type="natural")
    return np.asarray(spline(np.arange(1, stop)), dtype=np.float32)


def _absent_mm(distance_mm: Float32, y_mm: float, x_mm: float) -> Float32:
    """Signed distance (y, x) of a slice without the object, from that of the slice beside it: each part is lowered."""
    parts, number = ndimage.label(distance_mm > 0)
    of_parts = distance_mm[np.newaxis]
    if number > 1:
        of_parts = _signed_distance_mm(np.stack([parts == part + 1 for part in range(number)]), y_mm, x_mm)
    lowered = of_parts - _DEPTHS_TO_ABSENCE * of_parts.max(axis=(1, 2), keepdims=True)
    return np.asarray(lowered.max(axis=0), dtype=np.float32)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _moved(maps: Float32, shifts_vox: Float64) -> Float32:
    """Sample maps (K, y, x) at every voxel plus shifts (n, K, 2); shape (n, K, y, x)."""
    num_shifts, num_maps, _ = shifts_vox.shape
    _, height, width = maps.shape
    moved = np.empty((num_shifts, num_maps, height, width), dtype=np.float32)
    for n in range(num_shifts):
        for k in range(num_maps):
            for y in range(height):
                for x in range(width):
                    moved[n, k, y, x] = _sample(maps[k], y + shifts_vox[n, k, 0], x + shifts_vox[n, k, 1])
    return moved


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _add_evidence(
    image: Float32,
    first_moments: Float32,
    last_moments: Float32,
    shifts_vox: Float64,
    share: Float64,
    odds: Float32,
) -> None:
    """Add to the log-odds (n, y, x) what the image (C, n, y, x) says.

    Moments (C, 6, y, x) are those of the known slices on either side, shifts (n, 2, 2) lead to them, and the share
    (n,) is that of the last one.
    """
    num_channels, num_slices, height, width = image.shape
    moments = np.empty(6, dtype=np.float32)
    for n in range(num_slices):
        for y in range(height):
            for x in range(width):
                if abs(odds[n, y, x]) > _SETTLED:
                    continue
                y_first, x_first = y + shifts_vox[n, 0, 0], x + shifts_vox[n, 0, 1]
                y_last, x_last = y + shifts_vox[n, 1, 0], x + shifts_vox[n, 1, 1]
                total = 0.0
                for c in range(num_channels):
                    value = image[c, n, y, x]
                    if np.isnan(value):
                        continue
                    for m in range(6):
                        moments[m] = (1 - share[n]) * _sample(first_moments[c, m], y_first, x_first) + share[
                            n
                        ] * _sample(last_moments[c, m], y_last, x_last)
                    if min(moments[0], moments[3]) < _LEAST_SAMPLES:
                        continue
                    evidence = _log_density(value, moments[:3]) - _log_density(value, moments[3:])
                    total += min(max(evidence, -_LARGEST_EVIDENCE), _LARGEST_EVIDENCE)
                odds[n, y, x] += _IMAGE_WEIGHT * total / num_channels


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _log_density(value: float, moments: Float32) -> float:
    """Of the normal distribution with these moments (number, sum, sum of squares), but for a constant."""
    mean = moments[1] / moments[0]
    variance = max(moments[2] / moments[0] - mean * mean, 0.0) + _VARIANCE_FLOOR
    return float(-0.5 * ((value - mean) ** 2 / variance + math.log(variance)))


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _sample(values: Float32, y: float, x: float) -> float:
    """Interpolate linearly in a map (y, x); beyond its border it goes on as it is there."""
    height, width = values.shape
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y_low, x_low = int(y), int(x)
    y_high, x_high = min(y_low + 1, height - 1), min(x_low + 1, width - 1)
    y_part, x_part = y - y_low, x - x_low
    low = (1 - x_part) * values[y_low, x_low] + x_part * values[y_low, x_high]
    high = (1 - x_part) * values[y_high, x_low] + x_part * values[y_high, x_high]
    return float((1 - y_part) * low + y_part * high)
