"""Contours as text files: one point per line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_wsl.errors import InputError

FIRST_PIXEL = 0.5
"""Coordinate, on both axes, of the centre of the first pixel: 0 is the corner of the image."""


def read_text_contour(path: Path) -> NDArray[np.float64]:
    """Read the points of one closed contour.

    Parameters
    ----------
    path : Path
        Text with two numbers per line, x (column) and y (row) in pixels, separated by white space or a comma.

    Returns
    -------
    ndarray of float64, shape (N, 2)
        The points (x, y) as the file has them. A first point that is repeated at the end is dropped.

    Raises
    ------
    InputError
        If the file cannot be read, a line is not two finite numbers, or there are fewer than three different points.

    Notes
    -----
    Such files do not say where their coordinates begin; `FIRST_PIXEL` is the convention of the Sunnybrook Cardiac
    Data, whose points lie on multiples of half a pixel. Nothing published states it, and public readers differ: those
    in Python mostly take 0 for the centre of the first pixel, those in MATLAB 1. The images decide for the value
    between them. The translation that brings the contours onto the steepest edges of the image, next to a radial
    displacement, was fitted to each of the 58 inner contours and the 18 outer ones that belong to their patient: edges
    lie 0.5 to 0.7 pixels (inner) and 0.3 pixels (outer) towards the first pixel, depending on how far from the contour
    edges are looked for, so that both 0 and 1 are off by more than 0.5 is. What remains is a quarter of a pixel, within
    the half-pixel steps of the points. ``tests/conversion/test_convert_text.py`` repeats the fit.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise InputError(f"Contour file '{path}' cannot be read: {why}. Restore or remove it.") from error
    points = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            x, y = (float(word) for word in re.split(r"\s*,\s*|\s+", line.strip()))
        except ValueError:
            x = y = np.nan
        if not np.isfinite([x, y]).all():
            raise InputError(
                f"Contour file '{path}', line {number}: found '{line.strip()[:40]}', expected two numbers, x and y in "
                "pixels. Correct the line, or leave the file out."
            )
        points.append((x, y))
    if len(points) > 1 and points[0] == points[-1]:
        points.pop()
    if len(set(points)) < 3:
        raise InputError(
            f"Contour file '{path}' has {len(set(points))} different points; a closed contour needs 3. Draw it "
            "again, or leave the file out."
        )
    return np.array(points, dtype=np.float64)
