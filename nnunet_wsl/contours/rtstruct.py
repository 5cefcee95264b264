"""Read and write contours as DICOM RT Structure Sets (DICOM PS3.3, A.19)."""

from __future__ import annotations

import os
import struct
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from nnunet_wsl.contours.contour import Contour, ContourSet
from nnunet_wsl.contours.placement import SLICE_TOLERANCE
from nnunet_wsl.errors import InputError, counted
from nnunet_wsl.files import replacing

_CLOSES = {"CLOSED_PLANAR": True, "CLOSEDPLANAR_XOR": True, "OPEN_PLANAR": False}
"""Geometric types that are contours, and whether they close (DICOM PS3.3, C.8.8.6.1)."""

_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"  # the class by which structure sets name a study
_UNREADABLE = (
    BytesLengthException,
    EOFError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
)
_COLOURS = ((228, 26, 28), (55, 126, 184), (77, 175, 74), (152, 78, 163), (255, 127, 0), (166, 86, 40))
_PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)


@dataclass(frozen=True, eq=False)
class RTStruct:
    """What a structure set says about contours.

    Parameters
    ----------
    contours : ContourSet
        One object per region of interest (ROI), in the file's order, ROIs without contours included.
    problems : mapping of str to tuple of str
        For each faulty ROI, one sentence per fault. Faulty contours are missing from `contours`: use
        `selected`, which refuses faulty ROIs.
    frame_of_reference_uid : str or None
        The coordinate system that the contours are drawn in.
    referenced_series_uids : tuple of str
        Image series that the structure set names.
    referenced_sop_uids : frozenset of str
        Images that the structure set or one of its contours names.
    contour_sop_uids : frozenset of str
        Images that its contours name.
    patient_id : str
        Patient ID, held in memory only, to tell whose images it belongs to.
    """

    contours: ContourSet
    problems: Mapping[str, tuple[str, ...]]
    frame_of_reference_uid: str | None
    referenced_series_uids: tuple[str, ...]
    referenced_sop_uids: frozenset[str]
    contour_sop_uids: frozenset[str] = frozenset()
    patient_id: str = field(default="", repr=False)

    def selected(self, sources: Mapping[str, Iterable[str]]) -> ContourSet:
        """Contours of the ROIs that make up each label, see `ContourSet.selected`.

        Parameters
        ----------
        sources : mapping of str to iterable of str
            For each label, in order, the ROIs that it is the union of.

        Returns
        -------
        ContourSet

        Raises
        ------
        InputError
            Naming every fault of the selected ROIs.
        KeyError
            If a source is not an ROI of this structure set.
        """
        names = {label: tuple(rois) for label, rois in sources.items()}
        faulty = dict.fromkeys(roi for rois in names.values() for roi in rois if roi in self.problems)
        if faulty:
            raise InputError(problem for roi in faulty for problem in self.problems[roi])
        return self.contours.selected(names)


def read_rtstruct(path: str | os.PathLike[str]) -> RTStruct:
    """Read the contours of a structure set.

    Parameters
    ----------
    path : path-like
        A DICOM file of modality RTSTRUCT.

    Returns
    -------
    RTStruct
        Faults within a region of interest are noted in it, because nobody may want that region.

    Raises
    ------
    InputError
        If the file cannot be read, is not a structure set, or its regions cannot be told apart.
    """
    path = Path(path)
    try:
        with disable_value_validation():  # its warnings quote what the file says, UIDs and names too
            return _interpret(pydicom.dcmread(path), path)
    except InputError:
        raise
    except InvalidDicomError as error:
        raise InputError(f"{path}: expected a DICOM file, but it has no DICOM header.") from error
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or "the file is damaged or cut off"
        raise InputError(f"{path}: cannot be read: {reason}.") from error


def _interpret(dataset: Dataset, path: Path) -> RTStruct:
    modality = text_of(dataset, "Modality")
    if modality != "RTSTRUCT":
        raise InputError(f"{path}: expected modality RTSTRUCT, found {modality or 'none'}.")
    rois = dataset.get("StructureSetROISequence") or ()
    if not rois:
        raise InputError(f"{path}: the structure set lists no ROI. Export it with its structures.")
    problems: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for roi in rois:
        number = text_of(roi, "ROINumber")
        if number in names:
            raise InputError(f"{path}: two ROIs have the number '{number}'. Export the structure set again.")
        names[number] = text_of(roi, "ROIName") or f"ROI {number}"
    for name, times in Counter(names.values()).items():
        if times > 1:
            problems[name] = [f"{path}: {times} ROIs are named '{name}'. Rename them or export one of them."]

    frames = {names[text_of(roi, "ROINumber")]: text_of(roi, "ReferencedFrameOfReferenceUID") for roi in rois}
    frame = _frame_of_reference(dataset, frames.values())
    for name, own in frames.items():
        if own and own != frame:
            problems.setdefault(name, []).append(
                f"{path}: ROI '{name}' is drawn in another frame of reference than most ROIs of this structure "
                "set. Export the ROIs of each frame of reference to a file of their own."
            )

    contours: list[Contour] = []
    for roi in dataset.get("ROIContourSequence") or ():
        number = text_of(roi, "ReferencedROINumber")
        if number not in names:
            raise InputError(
                f"{path}: has contours of ROI number '{number}', but lists only the ROI numbers "
                f"{', '.join(names)}. It may be cut off: export the structure set again."
            )
        name = names[number]
        faulty: dict[str, list[int]] = defaultdict(list)
        for position, item in enumerate(roi.get("ContourSequence") or (), start=1):
            try:
                contours.append(_contour(item, name))
            except ValueError as fault:  # noqa: PERF203 - one faulty contour must not hide the next
                faulty[str(fault)].append(position)
        for fault_text, positions in faulty.items():
            others = f" (and {counted(len(positions) - 1, 'other')})" if len(positions) > 1 else ""
            problems.setdefault(name, []).append(
                f"{path}: contour {positions[0]}{others} of ROI '{name}': {fault_text}. Repair the ROI and export it "
                "again, or do not select it."
            )
    of_contours = frozenset(_named(_images_of_contours(dataset), "ReferencedSOPInstanceUID"))
    return RTStruct(
        ContourSet(dict.fromkeys(names.values()), contours),
        {name: tuple(found) for name, found in problems.items()},
        frame,
        _named(_referenced_series(dataset), "SeriesInstanceUID"),
        of_contours.union(_named(_images_of_series(dataset), "ReferencedSOPInstanceUID")),
        of_contours,
        text_of(dataset, "PatientID"),
    )


def _contour(item: Dataset, name: str) -> Contour:
    """One contour of an ROI; ValueError says what is wrong with it."""
    geometric_type = text_of(item, "ContourGeometricType")
    if geometric_type not in _CLOSES:
        raise ValueError(f"expected geometric type {' or '.join(_CLOSES)}, found '{geometric_type}'")
    values = _contour_data(item)
    if len(values) % 3:
        raise ValueError(f"expected three coordinates for every point, found {len(values)} numbers")
    stated = _stated_points(item)
    if stated is not None and stated * 3 != len(values):
        raise ValueError(f"states {stated:g} points, but has {len(values) // 3}")
    return Contour(name, values.reshape(-1, 3), _CLOSES[geometric_type])


def _stated_points(item: Dataset) -> float | None:
    """How many points a contour says that it has, None if nothing; ValueError if that is no number.

    From the bytes, as pydicom refuses 4.0 and what is no number in words of its own.
    """
    element = item.get_item("NumberOfContourPoints")
    text = (element.value or b"").strip(b" \0") if element else b""
    try:
        return float(text) if text else None
    except ValueError as error:
        raise ValueError(f"expected a number of points, found {text.decode('latin-1')!a}") from error


def _contour_data(item: Dataset) -> NDArray[np.float64]:
    """Flat coordinates; ValueError if they are not numbers.

    Decodes the bytes itself: pydicom makes an object of every coordinate, which takes most of the time.
    """
    element = item.get_item("ContourData")
    if element is None or not element.value:
        return np.empty(0)
    try:
        return np.array(element.value.split(b"\\")).astype(np.float64)
    except ValueError as error:
        raise ValueError("expected numbers as coordinates, found other text") from error


def _frame_of_reference(dataset: Dataset, of_rois: Iterable[str]) -> str | None:
    """Frame that most ROIs are drawn in; failing that, the one that the structure set names."""
    counts = Counter(uid for uid in of_rois if uid)
    if counts:
        return counts.most_common(1)[0][0]
    referenced = (text_of(item, "FrameOfReferenceUID") for item in _frames(dataset))
    return next((uid for uid in (*referenced, text_of(dataset, "FrameOfReferenceUID")) if uid), None)


def _frames(dataset: Dataset) -> Iterable[Dataset]:
    return dataset.get("ReferencedFrameOfReferenceSequence") or ()


def _referenced_series(dataset: Dataset) -> Iterator[Dataset]:
    """Items that name an image series (DICOM PS3.3, C.8.8.5)."""
    for frame in _frames(dataset):
        for study in frame.get("RTReferencedStudySequence") or ():
            yield from study.get("RTReferencedSeriesSequence") or ()


def _images_of_series(dataset: Dataset) -> Iterator[Dataset]:
    """Items that name an image for the structure set."""
    for series in _referenced_series(dataset):
        yield from series.get("ContourImageSequence") or ()


def _images_of_contours(dataset: Dataset) -> Iterator[Dataset]:
    """Items that name an image for one contour."""
    for roi in dataset.get("ROIContourSequence") or ():
        for contour in roi.get("ContourSequence") or ():
            yield from contour.get("ContourImageSequence") or ()


def _named(items: Iterable[Dataset], keyword: str) -> tuple[str, ...]:
    """Values that some items have, each once, in order."""
    return tuple(dict.fromkeys(value for item in items if (value := text_of(item, keyword))))


def text_of(dataset: Dataset, keyword: str) -> str:
    """Value of an attribute as text, with accents written in one way; "" if it is missing or empty."""
    value = dataset.get(keyword)
    if isinstance(value, MultiValue):  # a text with backslashes, which part values
        value = "\\".join(map(str, value))
    return "" if value is None else unicodedata.normalize("NFC", str(value).strip())


def write_rtstruct(
    path: str | os.PathLike[str], contour_set: ContourSet, series: Sequence[Dataset], *, label: str = "Contours"
) -> None:
    """Write contours as a structure set that refers to an image series.

    Patient, study and frame of reference are those of the series; every contour refers to the image of its
    slice.

    Parameters
    ----------
    path : path-like
        Where to write; an existing file is replaced.
    contour_set : ContourSet
        Its objects become the regions of interest.
    series : sequence of Dataset
        Headers of the images of one series, in any order.
    label : str, default "Contours"
        Label of the structure set, at most 16 characters.

    Raises
    ------
    ValueError
        If the series is empty, or a contour lies on none of its images.
    """
    if not series:
        raise ValueError("a structure set needs the images of a series")
    first = series[0]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    # Explicit syntaxes cannot hold contours of more than 64 kB, about 1500 points.
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = generate_uid()
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, first[keyword].value)
    if "SpecificCharacterSet" in first:
        dataset.SpecificCharacterSet = first.SpecificCharacterSet
    for keyword in _PATIENT_AND_STUDY:
        setattr(dataset, keyword, first.get(keyword, ""))
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = generate_uid()
    for keyword in ("SeriesNumber", "OperatorsName", "Manufacturer", "PositionReferenceIndicator"):
        setattr(dataset, keyword, "")
    dataset.StructureSetLabel = label
    dataset.StructureSetDate = dataset.StructureSetTime = ""

    dataset.ReferencedFrameOfReferenceSequence = [_frame_item(series)]
    numbers = {name: number for number, name in enumerate(contour_set.objects, start=1)}
    dataset.StructureSetROISequence = [
        _item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
            ROIName=name,
            ROIGenerationAlgorithm="MANUAL",
        )
        for name, number in numbers.items()
    ]
    image_of = _image_finder(series)
    dataset.ROIContourSequence = [
        _roi_contour_item(number, contour_set.of(name), image_of) for name, number in numbers.items()
    ]
    dataset.RTROIObservationsSequence = [
        _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
        for number in numbers.values()
    ]

    with replacing(Path(path)) as partial:
        dataset.save_as(partial, enforce_file_format=True)


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _image_item(image: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)


def _frame_item(series: Sequence[Dataset]) -> Dataset:
    """Say that the structure set belongs to the images of a series."""
    first = series[0]
    images = [_image_item(image) for image in series]
    referenced = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID=_STUDY_MANAGEMENT,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[referenced],
    )
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _roi_contour_item(number: int, contours: Sequence[Contour], image_of: Callable[[Contour], Dataset]) -> Dataset:
    item = _item(ROIDisplayColor=list(_COLOURS[number % len(_COLOURS)]), ReferencedROINumber=number)
    if contours:  # an empty sequence is not allowed
        item.ContourSequence = [_contour_item(contour, image_of(contour)) for contour in contours]
    return item


def _contour_item(contour: Contour, image: Dataset) -> Dataset:
    return _item(
        ContourImageSequence=[_image_item(image)],
        ContourGeometricType="CLOSED_PLANAR" if contour.closed else "OPEN_PLANAR",
        NumberOfContourPoints=len(contour.points_mm),
        ContourData=[format_number_as_ds(float(value)) for value in contour.points_mm.ravel()],
    )


def _image_finder(series: Sequence[Dataset]) -> Callable[[Contour], Dataset]:
    """Make the function that tells the image of a contour's slice."""
    row, column = np.array(series[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    normal = np.cross(row, column)
    heights_mm = np.array([image.ImagePositionPatient for image in series], dtype=np.float64) @ normal
    gaps_mm = np.diff(np.sort(heights_mm))
    thickness_mm = gaps_mm.min() if len(gaps_mm) else float(series[0].SliceThickness)

    def image_of(contour: Contour) -> Dataset:
        height_mm = contour.points_mm @ normal
        nearest = int(np.abs(heights_mm - height_mm.mean()).argmin())
        off_mm = np.abs(height_mm - heights_mm[nearest]).max()
        if off_mm > SLICE_TOLERANCE * thickness_mm:
            raise ValueError(f"a contour of '{contour.object}' lies {off_mm:.2f} mm off the nearest image")
        return series[nearest]

    return image_of
