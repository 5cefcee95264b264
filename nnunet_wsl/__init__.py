"""Learn segmentation from contours with nnU-Net v2."""

from importlib.metadata import version

__version__ = version("nnunet_wsl")
