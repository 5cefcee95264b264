"""How relevant each voxel is to the contours of an object."""

from nnunet_wsl.relevance.boundary import boundary_voxels
from nnunet_wsl.relevance.maps import fuse, relevance_maps
from nnunet_wsl.relevance.on_device import relevance_maps_on_device
from nnunet_wsl.relevance.polyline import polyline_distance
from nnunet_wsl.relevance.scales import CaseFingerprint, case_fingerprint, plan_scales
from nnunet_wsl.relevance.settings import RelevanceSettings
from nnunet_wsl.relevance.transform import nearest_contour

__all__ = [
    "CaseFingerprint",
    "RelevanceSettings",
    "boundary_voxels",
    "case_fingerprint",
    "fuse",
    "nearest_contour",
    "plan_scales",
    "polyline_distance",
    "relevance_maps",
    "relevance_maps_on_device",
]
