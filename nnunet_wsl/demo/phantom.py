"""Abdomen-like phantoms as CT series with structure sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.ndimage import gaussian_filter

from nnunet_wsl.contours import Contour, ContourSet, Grid, place, rasterise, write_rtstruct

OBJECTS = ("Kidney", "Spine", "Tumour")
"""Labels 1, 2, 3 of the phantoms."""

ANNOTATED_STEP = 3
"""Contours are drawn on every third slice; objects begin and end there."""

_SHAPE_ZYX = (22, 64, 80)
_SPACING_MM_XYZ = (2.5, 2.5, 5.0)
_ROLL_DEG = 6.0
_POINTS = 72
_HU = {"Kidney": 150, "Spine": 320, "Tumour": 110}

_Outline = Callable[[int], list[NDArray[np.float64]]]


@dataclass(frozen=True)
class Phantom:
    """One patient: voxels, geometry and the complete contours.

    Parameters
    ----------
    image : ndarray of int16, shape (z, y, x)
        CT numbers in Hounsfield units.
    grid : Grid
        Geometry of the image.
    contours : ContourSet
        Contours of every object on every slice that it meets.
    """

    image: NDArray[np.int16]
    grid: Grid
    contours: ContourSet

    @classmethod
    def random(cls, seed: int) -> Phantom:
        """Make a patient whose anatomy and noise depend on the seed alone."""
        rng = np.random.default_rng(seed)
        grid = _grid(rng)
        contours = ContourSet(
            OBJECTS,
            [
                Contour(name, _to_mm(grid, polygon, k))
                for name, outline in _anatomy(rng).items()
                for k in range(_SHAPE_ZYX[0])
                for polygon in outline(k)
            ],
        )
        placed = place(contours, grid, case="phantom")
        masks = {name: rasterise(placed, name) for name in OBJECTS}
        return cls(_image(rng, masks), grid, contours)

    def label_map(self) -> NDArray[np.uint8]:
        """Return the true label map, shape (z, y, x)."""
        placed = place(self.contours, self.grid, case="phantom")
        labels = np.zeros(_SHAPE_ZYX, np.uint8)
        for value, name in enumerate(OBJECTS, start=1):
            labels[rasterise(placed, name)] = value
        return labels

    def annotated_contours(self) -> ContourSet:
        """Return the contours that an annotator draws who skips slices."""
        slices = [int(np.rint(self.grid.to_voxel_xyz(c.points_mm)[0, 2])) for c in self.contours.contours]
        drawn = zip(slices, self.contours.contours, strict=True)
        return ContourSet(OBJECTS, [contour for k, contour in drawn if k % ANNOTATED_STEP == 0])

    def write_dicom(self, folder: Path, *, with_contours: bool) -> None:
        """Write the image as a CT series, and the annotated contours as a structure set beside it.

        Parameters
        ----------
        folder : Path
            Gets the files ``ct_001.dcm`` ... and ``rtstruct.dcm``.
        with_contours : bool
            Whether to write the structure set.
        """
        folder.mkdir(parents=True, exist_ok=True)
        uids = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
        headers = [self._slice(k, uids) for k in range(_SHAPE_ZYX[0])]
        for k, header in enumerate(headers, start=1):
            header.save_as(folder / f"ct_{k:03d}.dcm", enforce_file_format=True)
        if with_contours:
            write_rtstruct(folder / "rtstruct.dcm", self.annotated_contours(), headers)

    def _slice(self, k: int, uids: Mapping[str, str]) -> Dataset:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = generate_uid()
        for keyword, uid in uids.items():
            setattr(dataset, keyword, uid)
        dataset.PatientName, dataset.PatientID = "Phantom", ""
        dataset.Modality, dataset.SeriesDescription = "CT", "Phantom"
        dataset.InstanceNumber = k + 1
        dataset.ImagePositionPatient = [round(float(v), 6) for v in self.grid.to_mm([[0, 0, k]])[0]]
        dataset.ImageOrientationPatient = [round(float(v), 6) for v in self.grid.direction[:, :2].T.ravel()]
        dataset.PixelSpacing = [_SPACING_MM_XYZ[1], _SPACING_MM_XYZ[0]]
        dataset.SliceThickness = _SPACING_MM_XYZ[2]
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, -1024, "HU"
        dataset.Rows, dataset.Columns = _SHAPE_ZYX[1:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PixelData = (self.image[k] + 1024).astype("<u2").tobytes()
        return dataset


def _grid(rng: np.random.Generator) -> Grid:
    roll = np.deg2rad(_ROLL_DEG)
    direction = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    origin = rng.uniform(-30, 30, 3).round(2) - direction @ (np.array(_SPACING_MM_XYZ) * _SHAPE_ZYX[::-1]) / 2
    return Grid(origin, _SPACING_MM_XYZ, direction, _SHAPE_ZYX)


def _to_mm(grid: Grid, polygon_xy_mm: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Physical points of a polygon that is given relative to the centre of slice k."""
    centre = (np.array(_SHAPE_ZYX[:0:-1]) - 1) / 2
    in_plane = polygon_xy_mm / _SPACING_MM_XYZ[:2] + centre
    return grid.to_mm(np.column_stack([in_plane, np.full(len(in_plane), float(k))])).round(3)


def _anatomy(rng: np.random.Generator) -> dict[str, _Outline]:
    """For each object, the function from the index of a slice to its polygons (x, y) there, in mm."""
    angle = np.linspace(0, 2 * np.pi, _POINTS, endpoint=False)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    size = rng.uniform(0.88, 1.12, 3)
    shift = rng.uniform(-6, 6, (3, 2))
    phase = rng.uniform(0, 2 * np.pi, 2)
    lean = rng.uniform(-0.4, 0.4, 2)
    kidney_slices = ANNOTATED_STEP * rng.integers((0, 5), (2, 7))
    tumour_slices = ANNOTATED_STEP * rng.integers((2, 5), (4, 7))

    def narrowing(k: int, first_last: NDArray[np.int64]) -> float:
        """Radius relative to that in the middle slice of an ellipsoid, 0 beyond its first and last slice."""
        first, last = first_last
        share = 1 - ((k - (first + last) / 2) / ((last - first) / 2 + 0.7)) ** 2
        return float(np.sqrt(share)) if first <= k <= last else 0.0

    def kidney(k: int) -> list[NDArray[np.float64]]:
        scale = size[0] * narrowing(k, kidney_slices)
        hilum = 1 - 0.45 * np.exp(-((np.angle(np.exp(1j * angle)) / 0.55) ** 2))
        polygon = circle * [16, 23] * hilum[:, None] * scale
        return [polygon + [-48, 8] + shift[0] + lean * k] if scale else []

    def spine(k: int) -> list[NDArray[np.float64]]:
        centre = np.array([0, 36]) + shift[1] / 2 + lean / 2 * k
        waist = 1 + 0.1 * np.cos(k)
        return [circle * [20, 17] * waist * size[1] + centre, circle * [7, 6] * size[1] + centre + [0, 4]]

    def tumour(k: int) -> list[NDArray[np.float64]]:
        scale = size[2] * narrowing(k, tumour_slices)
        lobes = 1 + 0.18 * np.cos(3 * angle + phase[0]) + 0.1 * np.cos(5 * angle + phase[1])
        return [circle * 17 * lobes[:, None] * scale + [38, -14] + shift[2]] if scale else []

    return {"Kidney": kidney, "Spine": spine, "Tumour": tumour}


def _image(rng: np.random.Generator, masks: dict[str, NDArray[np.bool_]]) -> NDArray[np.int16]:
    z, y, x = (
        (index - (n - 1) / 2) * spacing
        for index, n, spacing in zip(np.indices(_SHAPE_ZYX), _SHAPE_ZYX, _SPACING_MM_XYZ[::-1], strict=True)
    )
    body = (x / 94) ** 2 + (y / 72) ** 2 < 1
    image = np.where(body, 40.0, -1000.0)
    for _ in range(9):  # bowel: the same intensities as the objects, and nobody's label
        centre, radius = rng.uniform((-50, -50, -55), (50, 70, 0)), rng.uniform(6, 13)
        blob = (z - centre[0]) ** 2 + (x - centre[1]) ** 2 + (y - centre[2]) ** 2 < radius**2
        image[blob & body] = rng.uniform(-60, 160)
    for name in OBJECTS:
        image[masks[name]] = _HU[name] + rng.normal(0, 8)
    image = gaussian_filter(image, (0.3, 0.6, 0.6)) + gaussian_filter(rng.normal(0, 45, _SHAPE_ZYX), (0, 0.6, 0.6))
    rounded: NDArray[np.int16] = np.clip(image, -1000, 1500).round().astype(np.int16)
    return rounded
