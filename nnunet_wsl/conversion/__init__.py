"""From images and contours to a raw nnU-Net dataset."""

from nnunet_wsl.conversion.cases import ConversionSettings
from nnunet_wsl.conversion.images import convert_images
from nnunet_wsl.conversion.masks import convert_masks
from nnunet_wsl.conversion.pictures import convert_pictures
from nnunet_wsl.conversion.polygons import convert_polygons
from nnunet_wsl.conversion.rtstruct import convert_rtstruct
from nnunet_wsl.conversion.simulation import Simulation
from nnunet_wsl.conversion.text import convert_text

__all__ = [
    "ConversionSettings",
    "Simulation",
    "convert_images",
    "convert_masks",
    "convert_pictures",
    "convert_polygons",
    "convert_rtstruct",
    "convert_text",
]
