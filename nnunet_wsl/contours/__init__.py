"""Contours: what they are, where they are read from, and which voxels of an image they mean."""

from nnunet_wsl.contours.contour import Contour, ContourSet, SliceList
from nnunet_wsl.contours.grid import Grid
from nnunet_wsl.contours.placement import Clipping, PlacedContour, PlacedContours, Repairs, place
from nnunet_wsl.contours.raster import contour_voxels, drawn_slices, rasterise
from nnunet_wsl.contours.rtstruct import RTStruct, read_rtstruct, write_rtstruct
from nnunet_wsl.contours.trace import trace

__all__ = [
    "Clipping",
    "Contour",
    "ContourSet",
    "Grid",
    "PlacedContour",
    "PlacedContours",
    "RTStruct",
    "Repairs",
    "SliceList",
    "contour_voxels",
    "drawn_slices",
    "place",
    "rasterise",
    "read_rtstruct",
    "trace",
    "write_rtstruct",
]
