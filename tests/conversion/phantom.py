"""Small DICOM series and structure sets: oblique, anisotropic, never square, full of patient data."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from nnunet_wsl.contours import Contour, ContourSet, Grid, write_rtstruct

SHAPE_ZYX = (5, 7, 11)
SPACING_MM_ZYX = (3.0, 0.7, 1.1)
ORIGIN_MM = (12.5, -40.25, 7.75)

# The publicly known Euler angles 0.3, -0.5, 0.2: no axis of the patient is an axis of the image.
_CX, _SX, _CY, _SY, _CZ, _SZ = (f(a) for a in (0.3, -0.5, 0.2) for f in (np.cos, np.sin))
DIRECTION = (
    np.array([[_CZ, -_SZ, 0], [_SZ, _CZ, 0], [0, 0, 1]])
    @ np.array([[_CY, 0, _SY], [0, 1, 0], [-_SY, 0, _CY]])
    @ np.array([[1, 0, 0], [0, _CX, -_SX], [0, _SX, _CX]])
)

PATIENT = {
    "PatientName": "Zyxwvut^Qponmlk",
    "PatientID": "ID8675309",
    "PatientBirthDate": "19010203",
    "StudyDate": "20190817",
    "AccessionNumber": "ACC44556677",
    "InstitutionName": "Hospital Xanadu",
    "ReferringPhysicianName": "Watson^Mycroft",
}

RECTANGLE_YX = np.array([(1.5, 2.5), (1.5, 7.5), (4.5, 7.5), (4.5, 2.5)])
"""Encloses the voxel centres y 2..4, x 3..7: 15 voxels."""
ROWS, COLUMNS = slice(2, 5), slice(3, 8)


def grid(shape_zyx=SHAPE_ZYX, spacing_mm_zyx=SPACING_MM_ZYX, origin_mm=ORIGIN_MM):
    return Grid(origin_mm, spacing_mm_zyx[::-1], DIRECTION, shape_zyx)


def voxels(seed=0, shape_zyx=SHAPE_ZYX):
    """Whole numbers with zeros at the border, as cropped images have."""
    volume = np.random.default_rng(seed).integers(1, 900, shape_zyx)
    volume[:, :1] = volume[:, :, -2:] = 0
    return volume


def write_series(
    folder,
    *,
    volume=None,
    name="slice",
    modality="MR",
    seed=0,
    spacing_mm_zyx=SPACING_MM_ZYX,
    origin_mm=ORIGIN_MM,
    series="series",
    frame="frame",
    slopes=None,
    **fields,
):
    """Write one file per slice, file names against the order of the slices; return the headers in slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = voxels(seed) if volume is None else volume
    geometry = grid(volume.shape, spacing_mm_zyx, origin_mm)
    headers = []
    for k, plane in enumerate(volume):
        header = Dataset()
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.SOPClassUID = MRImageStorage
        header.SOPInstanceUID = generate_uid(entropy_srcs=[str(folder), series, str(k)])
        header.SeriesInstanceUID = generate_uid(entropy_srcs=[series])
        header.StudyInstanceUID = generate_uid(entropy_srcs=["study", series])
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=[frame])
        header.Modality = modality
        header.update(PATIENT | fields)
        header.ImagePositionPatient = [f"{value:.8f}" for value in geometry.to_mm([(0, 0, k)])[0]]
        header.ImageOrientationPatient = [f"{value:.10f}" for value in DIRECTION[:, :2].T.ravel()]
        header.PixelSpacing = list(spacing_mm_zyx[1:])
        header.SliceThickness = 99.0
        header.SliceLocation = -float(k)
        header.Rows, header.Columns = plane.shape
        header.SamplesPerPixel = 1
        header.PhotometricInterpretation = "MONOCHROME2"
        header.BitsAllocated = header.BitsStored = 16
        header.HighBit, header.PixelRepresentation = 15, 0
        if slopes is not None:
            header.RescaleSlope, header.RescaleIntercept = f"{slopes[k]:.10g}", "-3"
        header.PixelData = plane.astype(np.uint16).tobytes()
        header.filename = folder / f"{name}{len(volume) - k:03d}.dcm"
        header.save_as(header.filename, enforce_file_format=True)
        headers.append(header)
    return headers


def write_contours(path, headers, rois, geometry=None):
    """Write a structure set; ``rois`` maps ROI name to slice index to polygons in (y, x) voxel index."""
    geometry = geometry or grid()
    contours = [
        Contour(roi, geometry.to_mm([(x, y, k) for y, x in polygon]))
        for roi, slices in rois.items()
        for k, polygons in slices.items()
        for polygon in polygons
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rtstruct(path, ContourSet(rois, contours), headers)


def write_patient(folder, *, rois=None, **series):
    """Write ``folder/image`` and ``folder/rs/rs.dcm``, by default with one ROI on slices 1 to 3."""
    headers = write_series(folder / "image", series=str(folder), frame=str(folder), **series)
    write_contours(folder / "rs" / "rs.dcm", headers, rois or {"GTV": {key: [RECTANGLE_YX] for key in (1, 2, 3)}})
    return headers


def edit(path, change):
    """Apply a change to a DICOM file."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def forget_references(dataset):
    """Leave the frame of reference, drop series and images: references that resolve to nothing."""
    for frame in dataset.ReferencedFrameOfReferenceSequence:
        frame.RTReferencedStudySequence = []
    for roi in dataset.ROIContourSequence:
        for contour in roi.get("ContourSequence", ()):
            del contour.ContourImageSequence


def forget_frame(dataset):
    """Leave nothing but the geometry to tell the series."""
    forget_references(dataset)
    dataset.ReferencedFrameOfReferenceSequence = []
    if "FrameOfReferenceUID" in dataset:
        del dataset.FrameOfReferenceUID
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = ""
