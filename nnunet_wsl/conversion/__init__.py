"""From images and contours to a raw nnU-Net dataset."""

from nnunet_wsl.conversion.cases import ConversionSettings
from nnunet_wsl.conversion.images import convert_images
from nnunet_wsl.conversion.rtstruct import convert_rtstruct

__all__ = ["ConversionSettings", "convert_images", "convert_rtstruct"]
