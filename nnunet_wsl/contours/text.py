"""Contours as text files: one point per line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_wsl.contours.contour import MAX_COORDINATE
from nnunet_wsl.errors import InputError

FIRST_PIXEL = 1.0
"""Coordinate, on both axes, of the centre of the first pixel: they are counted from 1, as in MATLAB."""


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
        If the file cannot be read, a line is not two numbers, or there are fewer than three different points.

    Notes
    -----
    Such files do not say where their coordinates begin; `FIRST_PIXEL` is what the Sunnybrook Cardiac Data, whose
    points lie on multiples of half a pixel, were found to use. Public readers differ: those in Python mostly take 0 for
    the centre of the first pixel, those in MATLAB 1. The images decide: read with each convention, all 76 contours that
    belong to their patient were compared with the steepest edges along their normals, and a displacement (x, y) next to
    a radial one was fitted to each. On average the 58 inner contours are displaced from the edges by (-0.64, -0.48)
    pixels if the first centre is at 0, (-0.32, -0.21) at 0.5, (-0.03, 0.09) at 1 and (0.26, 0.41) at 1.5, with
    standard errors of 0.05, and the same holds for each of the three patients. The 18 outer ones, with weaker edges,
    agree: (-0.31, -0.27), (-0.20, -0.13), (-0.09, 0.03), with standard errors of 0.1. The tests repeat this.
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
        if not (abs(x) <= MAX_COORDINATE and abs(y) <= MAX_COORDINATE):
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
