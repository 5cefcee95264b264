from __future__ import annotations

import numpy as np
import pytest

from nnunet_wsl.contours import Contour, Grid

SHAPE_ZYX = (5, 7, 11)
SPACING_XYZ = (1.1, 0.7, 3.0)


def rotation(x, y, z):
    """Rotations about the three axes, in degrees, one after the other."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians([x, y, z])), np.sin(np.radians([x, y, z]))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@pytest.fixture(scope="session")
def grid():
    """Oblique, anisotropic, and different along every axis."""
    return Grid((-31.7, 12.3, -39.5047), SPACING_XYZ, rotation(20, -35, 110), SHAPE_ZYX)


@pytest.fixture(scope="session")
def draw():
    """Contour from in-slice voxel coordinates."""

    def contour(grid, z, points_yx_vox, name="GTV", closed=True, source=""):
        points_yx = np.asarray(points_yx_vox, dtype=float)
        index_xyz = np.column_stack([points_yx[:, ::-1], np.broadcast_to(z, len(points_yx))])
        return Contour(name, grid.to_mm(index_xyz), closed, source)

    return contour
