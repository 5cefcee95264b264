"""DICOM image series: finding them below a folder, their geometry, and their voxel values.

The geometry comes from the headers: Image Position (Patient), Image Orientation (Patient) and Pixel Spacing
(DICOM PS3.3 C.7.6.2). Slices are sorted along the normal of their plane; Slice Thickness and Slice Location are not
used for it, because scanners fill them in differently.
"""

from __future__ import annotations

import itertools
import os
import stat
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK as sitk
from joblib import Parallel, delayed
from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import UID, RTStructureSetStorage
from tqdm import tqdm

from nnunet_wsl.contours import Grid
from nnunet_wsl.contours.rtstruct import text_of
from nnunet_wsl.errors import InputError, counted
from nnunet_wsl.files import is_text

POSITION_TOLERANCE_VOX = 0.1
"""How far a slice may lie from its place in the regular grid, in voxels along each axis.

Headers carry positions rounded to between 0.1 mm and 1e-6 mm; a tenth of a voxel passes those and is well below
what would misplace a contour by a slice or a pixel.
"""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference between direction cosines that counts as rounding in the headers."""

_NOT_AN_IMAGE = {"RTSTRUCT", "RTDOSE", "RTPLAN", "RTIMAGE", "RTRECORD", "SEG", "REG", "SR", "PR", "KO", "FID", "M3D"}
"""Modalities whose objects are never the image that contours were drawn on, even where they have pixels."""

_UNREADABLE = (
    OSError, EOFError, NotImplementedError, TypeError, ValueError, BytesLengthException, struct.error,
)  # fmt: skip
"""What reading a damaged file raises."""

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "PatientID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SliceThickness",
    "SpacingBetweenSlices", "NumberOfFrames", "SamplesPerPixel", "InstanceNumber", "TriggerTime", "ImageType",
    "PhotometricInterpretation",
]  # fmt: skip


@dataclass(frozen=True)
class ImageSlice:
    """Header of one DICOM image file.

    Parameters
    ----------
    path : Path
        The file.
    sop_uid : str
        SOP Instance UID.
    position_mm : tuple of 3 float, optional
        Centre of the first voxel, patient coordinates (LPS); None where the header has none.
    orientation : tuple of 6 float, optional
        Direction cosines of increasing column, then of increasing row.
    pixel_spacing_mm : tuple of 2 float, optional
        Distance between rows (y), then between columns (x).
    shape_yx : tuple of 2 int
        Rows and columns.
    thickness_mm : float, optional
        Spacing Between Slices or Slice Thickness; used only for a series of a single slice.
    frames, samples : int
        Number of frames in the file and of samples per pixel; only 1 and 1 can be converted.
    instance_number : int, optional
        Number of the image within its series.
    trigger_time_ms : float, optional
        Time from the R wave of the heart beat to the image, in cine series.
    patient_id : str
        Patient ID, held in memory only, to tell whose images they are; empty if there is none.
    inverted : bool
        Whether small values are bright (MONOCHROME1).
    auxiliary : bool
        Whether it is a localizer, in colours, or a capture of a screen without a place in space: no slice of a volume.
    """

    path: Path
    sop_uid: str
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None
    shape_yx: tuple[int, int]
    thickness_mm: float | None
    frames: int = 1
    samples: int = 1
    instance_number: int | None = None
    trigger_time_ms: float | None = None
    patient_id: str = field(default="", repr=False)
    inverted: bool = False
    auxiliary: bool = False


@dataclass(frozen=True)
class Series:
    """A DICOM image series, in the order in which its files were found.

    Parameters
    ----------
    uid : str
        Series Instance UID.
    modality : str
        DICOM modality, for example ``"PT"``; empty if the header has none.
    frame_of_reference_uids : frozenset of str
        Frame of Reference UIDs of its slices: none, one, or, in a damaged series, several.
    slices : tuple of ImageSlice
        One per file.
    source : Path
        The folder that was searched; messages name files relative to it.
    """

    uid: str
    modality: str
    frame_of_reference_uids: frozenset[str]
    slices: tuple[ImageSlice, ...]
    source: Path

    @cached_property
    def patient_ids(self) -> frozenset[str]:
        """Patient IDs of its slices: none, one, or, where patients share a UID, several."""
        return frozenset(image_slice.patient_id for image_slice in self.slices) - {""}

    @property
    def patient_id(self) -> str:
        """The Patient ID, to keep series of one patient together; empty if it is not clear."""
        return next(iter(self.patient_ids)) if len(self.patient_ids) == 1 else ""

    @property
    def is_auxiliary(self) -> bool:
        """Whether none of it is a slice of a volume, see `ImageSlice`."""
        return all(image_slice.auxiliary for image_slice in self.slices)

    def __str__(self) -> str:
        """Name the series by its folder, modality, size and first file, never by its UID."""
        first = min(image_slice.path for image_slice in self.slices)
        return (
            f"series in folder '{first.parent.relative_to(self.source)}' "
            f"({self.modality or 'no modality'}, {counted(len(self.slices), 'file')} from '{first.name}' on)"
        )

    def sorted_slices(self) -> list[ImageSlice]:
        """Return the slices sorted along the normal of their plane (by file where there is no geometry)."""
        normal = np.cross(*_cosines(self.slices[0])) if self.slices[0].orientation else np.zeros(3)

        def along_normal(image_slice: ImageSlice) -> tuple[float, Path]:
            position_mm = image_slice.position_mm or (0.0, 0.0, 0.0)
            return float(np.dot(position_mm, normal)), image_slice.path

        return sorted(self.slices, key=along_normal)

    def phases(self) -> tuple[Series, ...]:
        """Split a cine series into its phases, the volumes that follow each other in time.

        The frames of every slice position are put in the order of their Trigger Time where all files have one, else
        in that of their Instance Number, which also decides between equal times. The frames that come n-th make
        phase n. Times themselves are not compared, as they differ from slice to slice with the heart rate.

        Returns
        -------
        tuple of Series
            In the order of time; the series itself if every slice position has a single frame.

        Raises
        ------
        InputError
            If the headers lack geometry or the order of the frames, or the slice positions have different numbers of
            frames.
        """
        if problems := self._header_problems():
            raise InputError(f"The {self}: {problem}" for problem in problems)
        slices = self.sorted_slices()
        positions_mm = np.array([image_slice.position_mm for image_slice in slices])
        # Rounded, so that the noise of a single position does not pass for the distance between two.
        gaps_mm = np.round(np.diff(positions_mm @ _orthonormal(slices[0])[:, 2]), 3)
        apart_mm = POSITION_TOLERANCE_VOX * self._spacing_z_mm(gaps_mm) if len(gaps_mm) else 0.0
        ends: list[int] = (np.flatnonzero(gaps_mm >= apart_mm) + 1).tolist()
        positions = [slices[start:end] for start, end in itertools.pairwise([0, *ends, len(slices)])]
        counts = Counter(map(len, positions))
        usual = max(counts, key=lambda count: (counts[count], count))
        if usual == 1 and len(counts) == 1:
            return (self,)
        if uneven := [position for position in positions if len(position) != usual]:
            raise InputError(
                f"The {self}: {counts[usual]} of {len(positions)} slice positions have {usual} frames, but that of "
                f"'{self._file(uneven[0][0])}' has {len(uneven[0])}; expected one number of frames. "
                "Restore the missing files, or move those away that are not of this volume."
            )
        timed = all(image_slice.trigger_time_ms is not None for image_slice in slices)

        def order(frame: ImageSlice) -> tuple[float, float]:
            time_ms = frame.trigger_time_ms if timed and frame.trigger_time_ms is not None else 0.0
            return time_ms, -1.0 if frame.instance_number is None else frame.instance_number

        ordered = [sorted(position, key=order) for position in positions]
        for before, after in (pair for position in ordered for pair in itertools.pairwise(position)):
            if order(before) == order(after):
                raise InputError(
                    f"The {self}: nothing tells which of '{self._file(before)}' and '{self._file(after)}', at one "
                    "position, comes first: expected different TriggerTime or InstanceNumber. Keep one of them."
                )
        return tuple(replace(self, slices=frames) for frames in zip(*ordered, strict=True))

    def grid(self) -> Grid:
        """Return the geometry of the image that :meth:`read` returns.

        Raises
        ------
        InputError
            If the slices do not make one regular grid; every problem is named.
        """
        if problems := self._header_problems():
            raise InputError(f"The {self}: {problem}" for problem in problems)
        slices = self.sorted_slices()
        first = slices[0]
        direction = _orthonormal(first)
        positions_mm = np.array([image_slice.position_mm for image_slice in slices])
        height_mm = positions_mm @ direction[:, 2]
        gaps_mm = np.diff(height_mm)
        spacing_z_mm = self._spacing_z_mm(gaps_mm)
        row_mm, column_mm = first.pixel_spacing_mm or (0.0, 0.0)
        spacing_mm_xyz = np.array([column_mm, row_mm, spacing_z_mm])

        problems = self._gap_problems(slices, gaps_mm, spacing_z_mm)
        if not problems and len(slices) > 1:
            spacing_mm_xyz[2] = (height_mm[-1] - height_mm[0]) / (len(slices) - 1)
            problems = self._placement_problems(slices, positions_mm, direction, spacing_mm_xyz)
        if problems:
            raise InputError(f"The {self}: {problem}" for problem in problems)
        return Grid(
            origin_mm=positions_mm[0],
            spacing_mm_xyz=spacing_mm_xyz,
            direction=direction,
            shape_zyx=(len(slices), *first.shape_yx),
        )

    def read(self) -> npt.NDArray[np.int16 | np.float32]:
        """Read the voxel values, rescaled slice by slice (Rescale Slope and Intercept, DICOM PS3.3 C.11.1).

        Returns
        -------
        ndarray, shape (z, y, x)
            int16 if all values are whole and fit into it (CT, most MR), else float32 (PET).

        Raises
        ------
        InputError
            If a file cannot be decoded, or has fewer pixels than its header says.
        """
        slices = self.sorted_slices()
        volume = np.empty((len(slices), *slices[0].shape_yx), np.float32)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetOutputPixelType(sitk.sitkFloat32)
        for image_slice, plane in zip(slices, volume, strict=True):
            reader.SetFileName(str(image_slice.path))
            try:
                lacking = _lacking_bytes(image_slice.path)
                plane[:] = sitk.GetArrayFromImage(reader.Execute())[0]
            except (RuntimeError, *_UNREADABLE) as error:
                raise InputError(
                    f"The {self}: the voxel values of '{self._file(image_slice)}' cannot be read. "
                    "Export the series again, uncompressed if possible."
                ) from error
            if lacking:
                raise InputError(
                    f"The {self}: '{self._file(image_slice)}' lacks {counted(lacking, 'byte')} of its pixel data. "
                    "Restore it, or export the series again."
                )
        int16 = np.iinfo(np.int16)
        if volume.min() >= int16.min and volume.max() <= int16.max and np.array_equal(volume, np.rint(volume)):
            return volume.astype(np.int16)
        return volume

    def _file(self, image_slice: ImageSlice) -> Path:
        """Return a file as messages name it."""
        return image_slice.path.relative_to(self.source)

    def _header_problems(self) -> list[str]:
        """Return what keeps the headers from describing one stack of parallel slices of one size."""
        first = self.slices[0]
        for image_slice in self.slices:
            name = self._file(image_slice)
            if image_slice.frames != 1:
                return [f"'{name}' holds {image_slice.frames} frames; expected one slice per file. "
                        "Export it as single-frame DICOM."]  # fmt: skip
            if image_slice.samples != 1:
                return [f"'{name}' is a colour image; expected one value per pixel. Choose another series."]
            if image_slice.inverted:  # which GDCM would turn over, before it applies slope and intercept
                return [f"the greys of '{name}' are inverted (MONOCHROME1); expected MONOCHROME2. Export the series "
                        "again, or move it away."]  # fmt: skip
            missing = [
                keyword
                for keyword, value in (
                    ("ImagePositionPatient", image_slice.position_mm),
                    ("ImageOrientationPatient", image_slice.orientation),
                    ("PixelSpacing", image_slice.pixel_spacing_mm),
                    ("Rows or Columns", min(image_slice.shape_yx) > 0 or None),
                )
                if value is None
            ]
            if missing:
                return [f"'{name}' has no valid {', '.join(missing)}; without it the slice has no place in space. "
                        "Export the series again with its geometry."]  # fmt: skip
        problems = []
        if len(self.patient_ids) > 1:
            problems.append(
                f"its files carry {len(self.patient_ids)} Patient IDs; expected one. Give the series of each patient "
                "a Series Instance UID of its own, or move the files of the others away."
            )
        if len(self.frame_of_reference_uids) > 1:
            problems.append(
                f"its slices are in {len(self.frame_of_reference_uids)} frames of reference; expected one. "
                "Split the series."
            )
        column, row = _cosines(first)
        if abs(column @ row) > ORIENTATION_TOLERANCE or any(
            abs(np.linalg.norm(axis) - 1) > ORIENTATION_TOLERANCE for axis in (column, row)
        ):
            problems.append(
                f"the direction cosines of '{self._file(first)}' are not of length 1 and at right angles. "
                "Export the series again."
            )
        for what, same, remedy in (
            ("orientation", _same_orientation, "A scout image in the series? Move the other files away."),
            ("pixel spacing", _same_pixel_spacing, "Move the files that do not belong to the volume away."),
            ("matrix size", _same_shape, "Move the files that do not belong to the volume away."),
        ):
            other = [image_slice for image_slice in self.slices if not same(image_slice, first)]
            if other:
                problems.append(
                    f"mixed {what}: {counted(len(other), 'file')}, the first '{self._file(other[0])}', differ from "
                    f"'{self._file(first)}'; expected one {what}. {remedy}"
                )
        return problems

    def _spacing_z_mm(self, gaps_mm: npt.NDArray[np.float64]) -> float:
        """Return the usual distance between slices, which one missing or duplicated slice cannot change."""
        if len(gaps_mm) > 0:
            distinct_mm = np.sort(gaps_mm[gaps_mm > 1e-3 * gaps_mm.max()])
            # The lower median: of two gaps, the larger is the one with the missing slice. Where all slices are in
            # one place, any distance shows it.
            return float(distinct_mm[(len(distinct_mm) - 1) // 2]) if len(distinct_mm) else 1.0
        thickness_mm = self.slices[0].thickness_mm
        if not thickness_mm or thickness_mm <= 0:
            raise InputError(
                f"The {self}: a single slice without SpacingBetweenSlices or SliceThickness has no spacing along "
                "its normal. Export it again with its thickness."
            )
        return thickness_mm

    def _gap_problems(self, slices: list[ImageSlice], gaps_mm: npt.NDArray[np.float64], spacing_mm: float) -> list[str]:
        """Name missing slices, and the first of those that are unevenly spaced, and of those that are there twice."""
        pairs = [f"'{self._file(before)}' and '{self._file(after)}'" for before, after in itertools.pairwise(slices)]
        problems, uneven = [], []
        for pair, gap_mm in zip(pairs, gaps_mm, strict=True):
            apart = f"{pair} are {gap_mm:.3f} mm apart, expected {spacing_mm:.3f} mm"
            whole = round(gap_mm / spacing_mm)
            if whole > 1 and abs(gap_mm / spacing_mm - whole) <= POSITION_TOLERANCE_VOX * whole:  # each may be rounded
                problems.append(f"missing slice: {apart}. Restore {whole - 1} missing file(s).")
            elif gap_mm > 1.5 * spacing_mm:
                uneven.append(apart)
        if uneven:
            others = f", and {counted(len(uneven) - 1, 'other pair')} too" if len(uneven) > 1 else ""
            problems.append(
                f"unevenly spaced slices: {uneven[0]}{others}. Resample the series to a regular grid first."
            )
        duplicated = [
            pair for pair, gap_mm in zip(pairs, gaps_mm, strict=True) if gap_mm < POSITION_TOLERANCE_VOX * spacing_mm
        ]
        if duplicated:
            others = f", and {counted(len(duplicated) - 1, 'other pair')} too" if len(duplicated) > 1 else ""
            problems.insert(
                0,
                f"duplicated slice: {duplicated[0]} have the same position{others}. Keep one of them "
                "(several time points or echoes in one series? Split it first).",
            )
        return problems

    def _placement_problems(
        self,
        slices: list[ImageSlice],
        positions_mm: npt.NDArray[np.float64],
        direction: npt.NDArray[np.float64],
        spacing_mm_xyz: npt.NDArray[np.float64],
    ) -> list[str]:
        """Compare every position with its place in the regular grid from the first to the last slice."""
        offset_vox = (positions_mm - positions_mm[0]) @ direction / spacing_mm_xyz
        offset_vox[:, 2] -= np.arange(len(slices))
        worst = int(np.abs(offset_vox).max(axis=1).argmax())
        x, y, z = offset_vox[worst]
        if max(abs(x), abs(y)) > POSITION_TOLERANCE_VOX:
            return [
                f"its slices are not stacked along their normal: '{self._file(slices[worst])}' is shifted by "
                f"{max(abs(x), abs(y)):.2f} pixels within the plane (allowed {POSITION_TOLERANCE_VOX}). "
                "A tilted gantry? Resample the series to a regular grid first."
            ]
        if abs(z) > POSITION_TOLERANCE_VOX:
            return [
                f"unevenly spaced slices: '{self._file(slices[worst])}' lies {abs(z) * spacing_mm_xyz[2]:.3f} mm "
                f"from its place (allowed {POSITION_TOLERANCE_VOX * spacing_mm_xyz[2]:.3f} mm). "
                "Resample the series to a regular grid first."
            ]
        return []


def modalities_of(series: Iterable[Series]) -> str:
    """List the modalities of series for a message."""
    return ", ".join(sorted({one.modality or "none" for one in series})) or "none"


@dataclass(frozen=True)
class DicomSource:
    """What a folder holds.

    Parameters
    ----------
    folder : Path
        The folder that was searched.
    series : tuple of Series
        Image series, sorted by their first file.
    rtstructs : tuple of Path
        RTSTRUCT files, sorted.
    num_other_files : int
        Files that are neither: not DICOM, or DICOM of another kind.
    """

    folder: Path
    series: tuple[Series, ...]
    rtstructs: tuple[Path, ...]
    num_other_files: int


def find_dicom(folder: Path, *, jobs: int = 1) -> DicomSource:
    """Find the DICOM image series and RTSTRUCT files below a folder by their headers.

    Parameters
    ----------
    folder : Path
        Searched recursively; file names do not matter.
    jobs : int
        Number of files read at the same time.

    Raises
    ------
    InputError
        If the folder does not exist, or a file in it cannot be read, or is named as DICOM and is none.
    """
    if not folder.is_dir():
        raise InputError(f"Source '{folder}' is not a folder. Give the folder that holds the DICOM files.")
    paths = files_below(folder)
    # Threads, not processes: reading headers waits for the disk or the network more than it computes.
    headers = Parallel(n_jobs=jobs, prefer="threads", return_as="generator")(delayed(_read_header)(p) for p in paths)
    rtstructs = []
    files_of: dict[str, list[_Header]] = defaultdict(list)
    unreadable = []
    # A setting of the whole process, so not for each thread. The warnings quote what the files say, UIDs and names too.
    with disable_value_validation():
        for path, header in tqdm(zip(paths, headers, strict=True), "Reading headers", len(paths), delay=2, unit="file"):
            if isinstance(header, str):
                unreadable.append(f"File '{path.relative_to(folder)}' cannot be read: {header}. Restore or remove it.")
            elif header is None:
                # Macs put hidden files of such names beside others.
                if path.suffix.lower() == ".dcm" and not path.name.startswith("."):
                    unreadable.append(
                        f"File '{path.relative_to(folder)}' is named as DICOM, but does not begin as DICOM files do "
                        "(128 bytes, then DICM): it is empty, damaged, of an old format or something else. Restore or "
                        "export it again, or rename or remove it."
                    )
            elif header.is_rtstruct:
                rtstructs.append(path)
            elif header.image_slice is not None:
                files_of[header.series_uid].append(header)
    if unreadable:
        raise InputError(unreadable)
    num_other_files = len(paths) - len(rtstructs) - sum(len(files) for files in files_of.values())
    series = tuple(_make_series(files, folder) for files in files_of.values())
    return DicomSource(folder, series, tuple(rtstructs), num_other_files)


def files_below(folder: Path) -> list[Path]:
    """Return all files, sorted; links to folders are followed, but no folder is entered twice.

    Links to nowhere are among them; pipes and other things that are no files are not.

    Raises
    ------
    InputError
        If a folder cannot be read, or a name is no UTF-8.
    """
    paths: list[Path] = []
    closed: list[OSError] = []
    entered = set()
    for root, folders, names in os.walk(folder, onerror=closed.append, followlinks=True):
        real = Path(root).resolve()
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        paths += (path for name in names if _may_be_file(path := Path(root) / name))
    if closed:
        raise InputError(
            f"Folder '{error.filename}' cannot be read: {error.strerror}. Change its permissions, move it away, or "
            "give another source."
            for error in closed
        )
    paths.sort()
    if unreadable := [path for path in paths if not is_text(str(path.relative_to(folder)))]:
        first = ascii(str(unreadable[0].relative_to(folder)))[1:-1]
        raise InputError(
            f"The names of {counted(len(unreadable), 'file')} below '{folder}', or of their folders, are no UTF-8, "
            f"such as '{first}'. Rename them."
        )
    return paths


def _may_be_file(path: Path) -> bool:
    """Return whether a path leads to a file, or to what reading it will report."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


@dataclass(frozen=True)
class _Header:
    """What is needed of one DICOM file; ``image_slice`` is None if it is no image."""

    series_uid: str
    modality: str
    frame_of_reference_uid: str
    is_rtstruct: bool
    image_slice: ImageSlice | None


def _read_header(path: Path) -> _Header | str | None:
    """Return the header, None if the file is not DICOM, or why it cannot be read."""
    try:
        return _interpret(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS)), path)
    except InvalidDicomError:
        return None
    except _UNREADABLE as error:
        return getattr(error, "strerror", None) or "it is damaged or cut off"


def _interpret(header: pydicom.FileDataset, path: Path) -> _Header:
    sop_class = UID(str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""))
    if not sop_class or ("Image Storage" in sop_class.name and "Rows" not in header):
        raise EOFError("the header ends early")
    modality = text_of(header, "Modality")
    is_image = modality not in _NOT_AN_IMAGE and "Rows" in header and "SeriesInstanceUID" in header
    return _Header(
        series_uid=str(header.get("SeriesInstanceUID") or ""),
        modality=modality,
        frame_of_reference_uid=str(header.get("FrameOfReferenceUID") or "").strip(),
        is_rtstruct=modality == "RTSTRUCT" or sop_class == RTStructureSetStorage,
        image_slice=_make_slice(header, sop_class, path) if is_image else None,
    )


def _make_slice(header: pydicom.Dataset, sop_class: UID, path: Path) -> ImageSlice:
    thickness_mm = _numbers(header.get("SpacingBetweenSlices"), 1) or _numbers(header.get("SliceThickness"), 1)
    spacing_mm = _numbers(header.get("PixelSpacing"), 2)
    image_type = header.get("ImageType")
    return ImageSlice(
        path=path,
        sop_uid=str(header.get("SOPInstanceUID") or ""),
        position_mm=_numbers(header.get("ImagePositionPatient"), 3),
        orientation=_numbers(header.get("ImageOrientationPatient"), 6),
        pixel_spacing_mm=spacing_mm if spacing_mm and min(spacing_mm) > 0 else None,
        shape_yx=(int(header.Rows), int(header.get("Columns") or 0)),
        thickness_mm=abs(thickness_mm[0]) if thickness_mm else None,
        frames=int(header.get("NumberOfFrames") or 1),
        samples=int(header.get("SamplesPerPixel") or 1),
        instance_number=int(instance[0]) if (instance := _numbers(header.get("InstanceNumber"), 1)) else None,
        trigger_time_ms=time_ms[0] if (time_ms := _numbers(header.get("TriggerTime"), 1)) else None,
        patient_id=text_of(header, "PatientID"),
        inverted=header.get("PhotometricInterpretation") == "MONOCHROME1",
        auxiliary=(
            "LOCALIZER" in (image_type if isinstance(image_type, MultiValue) else [image_type])
            or int(header.get("SamplesPerPixel") or 1) > 1
            or ("Secondary Capture" in sop_class.name and not header.get("ImagePositionPatient"))
        ),
    )


def _make_series(files: list[_Header], source: Path) -> Series:
    return Series(
        uid=files[0].series_uid,
        modality=next((file.modality for file in files if file.modality), ""),
        frame_of_reference_uids=frozenset(file.frame_of_reference_uid for file in files) - {""},
        slices=tuple(file.image_slice for file in files if file.image_slice is not None),
        source=source,
    )


def _lacking_bytes(path: Path) -> int:
    """Return how many bytes of the pixel data of a file without compression are missing; GDCM makes them up."""
    sizes = ["Rows", "Columns", "BitsAllocated"]
    header = pydicom.dcmread(path, specific_tags=["PixelData", *sizes], defer_size=1024)
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None or UID(syntax).is_compressed or not all(key in header for key in ("PixelData", *sizes)):
        return 0
    pixels = header.get_item("PixelData", keep_deferred=True)
    rows, columns, bits = (int(header[key].value) for key in sizes)
    return max(rows * columns * bits // 8 - int(getattr(pixels, "length", 0)), 0)


def _numbers(value: Any, length: int) -> tuple[float, ...] | None:
    """Return a DICOM value as that many finite numbers, or None."""
    try:
        numbers = tuple(float(number) for number in (value if length > 1 else (value,)))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == length and np.isfinite(numbers).all() else None


def _cosines(image_slice: ImageSlice) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the directions of increasing column and of increasing row."""
    cosines = np.asarray(image_slice.orientation, np.float64)
    return cosines[:3], cosines[3:]


def _orthonormal(image_slice: ImageSlice) -> npt.NDArray[np.float64]:
    """Return the direction matrix, columns x, y, z, with the rounding of the header removed."""
    column, row = _cosines(image_slice)
    left, _, right = np.linalg.svd(np.stack([column, row, np.cross(column, row)], axis=1))
    direction: npt.NDArray[np.float64] = left @ right
    return direction


def _same_orientation(a: ImageSlice, b: ImageSlice) -> bool:
    return bool(np.abs(np.subtract(a.orientation or (), b.orientation or ())).max() <= ORIENTATION_TOLERANCE)


def _same_pixel_spacing(a: ImageSlice, b: ImageSlice) -> bool:
    return bool(np.allclose(a.pixel_spacing_mm or (), b.pixel_spacing_mm or (), rtol=1e-3, atol=0))


def _same_shape(a: ImageSlice, b: ImageSlice) -> bool:
    return a.shape_yx == b.shape_yx
