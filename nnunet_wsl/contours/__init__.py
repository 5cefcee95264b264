"""Contours: what they are, where they are read from, and which voxels of an image they mean."""

from nnunet_wsl.contours.contour import Contour, ContourSet
from nnunet_wsl.contours.grid import Grid

__all__ = ["Contour", "ContourSet", "Grid"]
