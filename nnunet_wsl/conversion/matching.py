"""Which image series the contours of an RTSTRUCT were drawn on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from nnunet_wsl.contours import ContourSet, RTStruct, contour_voxels, place, rasterise
from nnunet_wsl.conversion.series import Series
from nnunet_wsl.errors import InputError, counted


def match_series(
    rtstruct: RTStruct,
    contours: Callable[[], ContourSet],
    series: Sequence[Series],
    modality: str | None = None,
    outside: Literal["error", "clip"] = "error",
) -> Series | None:
    """Find the series that an RTSTRUCT belongs to.

    First by its references to a series or to slices; if none of those is there, by the frame of reference; where
    either side has no frame of reference, by geometry: all contours lie within the image and on its planes, or, if they
    may be clipped and no image holds them whole, a part of them does. Geometry also decides between several series that
    were found by reference or by frame of reference; where it cannot, the images that the contours name do. What is not
    found by reference must not be of another patient, unless all in the frame of reference is of one.

    Parameters
    ----------
    rtstruct : RTStruct
        The structure set; its contours are not used.
    contours : callable
        Returns the contours whose geometry decides if it has to.
    series : sequence of Series
        All series of the source.
    modality : str, optional
        DICOM modality of the images to convert.
    outside : {"error", "clip"}
        What happens to contours that leave the image, see :func:`nnunet_wsl.contours.place`.

    Returns
    -------
    Series or None
        None if the structure set belongs to series of other modalities: then it is no case of this run.

    Raises
    ------
    InputError
        If no series matches, two match equally well, or the referenced series is in another frame of reference.
    """
    frame = rtstruct.frame_of_reference_uid
    of_patient = _of_patient(rtstruct, series)
    unframed = [s for s in of_patient if not frame or not s.frame_of_reference_uids]
    framed = [s for s in series if frame in s.frame_of_reference_uids]
    # Some ways to anonymise give the images of all patients one frame of reference.
    is_shared = len(frozenset[str]().union(*(s.patient_ids for s in framed))) > 1
    if found := _referenced(rtstruct, series):
        how = "are referenced by it"
    elif found := _of_patient(rtstruct, framed) or ([] if is_shared else framed):
        how = "share its frame of reference"
        found = _best_fitting(contours, found, outside)
    else:
        how = "contain its contours"
        found = _fitting(contours, unframed, outside)
    if not found:
        raise InputError(_no_match(rtstruct, contours(), series, of_patient, unframed))
    candidates = _best_fitting(contours, [s for s in found if modality in (None, s.modality)], outside)
    if len(candidates) > 1:
        candidates = _with_images(rtstruct.contour_sop_uids, candidates) or candidates
    if len(candidates) > 1:
        and_what = "fit its contours equally well" if contours().contours else "it has no contours to tell them apart"
        raise InputError(
            f"{len(candidates)} series {how} and {and_what}: "
            f"{'; '.join(f'the {s}' for s in candidates)}. Choose one with --modality, or move the others away."
        )
    if not candidates:
        return None
    chosen = candidates[0]
    if frame and chosen.frame_of_reference_uids and frame not in chosen.frame_of_reference_uids:
        raise InputError(
            f"the {chosen}, which it references, is in another frame of reference than its contours, so their "
            "coordinates cannot be compared. Export the RTSTRUCT again for this series, or register them first."
        )
    return chosen


def common_modality(series_of_cases: Iterable[Series]) -> str:
    """Return the modality of the images of all cases.

    Raises
    ------
    InputError
        If they have different ones, or none.
    """
    series = list(series_of_cases)
    if unnamed := {s.uid: s for s in series if not s.modality}:  # several cases may have one series
        raise InputError(
            f"The {s}: its files have no Modality, by which nnU-Net names the channel and chooses how to normalise it. "
            "Restore the attribute, or export the series again."
            for s in unnamed.values()
        )
    counts = Counter(s.modality for s in series)
    if len(counts) > 1:
        found = ", ".join(f"{modality} ({counted(count, 'case')})" for modality, count in counts.most_common())
        raise InputError(f"The cases have images of different modalities: {found}. Choose one with --modality.")
    return next(iter(counts))


def _referenced(rtstruct: RTStruct, series: Sequence[Series]) -> list[Series]:
    return [s for s in series if s.uid in rtstruct.referenced_series_uids] or _with_images(
        rtstruct.referenced_sop_uids, series
    )


def _with_images(sop_uids: frozenset[str], series: Iterable[Series]) -> list[Series]:
    return [s for s in series if any(image.sop_uid in sop_uids for image in s.slices)]


def _of_patient(rtstruct: RTStruct, series: Iterable[Series]) -> list[Series]:
    """Leave out the series of other patients, as far as the Patient IDs tell."""
    return [s for s in series if not (rtstruct.patient_id and s.patient_ids) or rtstruct.patient_id in s.patient_ids]


def _best_fitting(
    contours: Callable[[], ContourSet], series: list[Series], outside: Literal["error", "clip"]
) -> list[Series]:
    """Return the series that the contours fit, or all of them if they fit none."""
    return _fitting(contours, series, outside) or series if len(series) > 1 else series


def _fitting(
    contours: Callable[[], ContourSet], series: Sequence[Series], outside: Literal["error", "clip"]
) -> list[Series]:
    """Return the series on whose planes and within whose grid all contours lie; with "clip", else a part of them."""
    contour_set = contours()
    if not contour_set.contours:
        return []
    whole = [s for s in series if _fits(contour_set, s, "error")]
    return whole if whole or outside == "error" else [s for s in series if _fits(contour_set, s, "clip")]


def _fits(contours: ContourSet, series: Series, outside: Literal["error", "clip"]) -> bool:
    try:
        placed = place(contours, series.grid(), case="", outside=outside)
    except InputError:
        return False
    # Contours that lie beside the image can be clipped, too: then nothing of them is left.
    return outside == "error" or any(
        len(contour_voxels(placed, name)) or rasterise(placed, name).any() for name in placed.objects
    )


def _no_match(
    rtstruct: RTStruct,
    contours: ContourSet,
    series: Sequence[Series],
    of_patient: Sequence[Series],
    compared: Sequence[Series],
) -> str:
    num_others = len(series) - len(of_patient)
    others = f", {num_others} of them with another Patient ID" if num_others else ""
    found = f"found none among {len(series)} series{others}."
    if not contours.contours:
        faults = "".join(f" Not considered: {problem}" for of_roi in rtstruct.problems.values() for problem in of_roi)
        return (
            "no image series matches it: expected the series that it references, or one in its frame of reference, as "
            f"it has no contours whose place could tell; {found} Export it with references to its images, or draw an "
            f"ROI, such as the body.{faults}"
        )
    irregular = "".join(f" Not considered: {problem}" for s in compared for problem in _grid_problems(s))
    return (
        "no image series matches it: expected the series that it references, one in its frame of reference, or one "
        f"on whose planes its contours lie; {found} Add its images to the source.{irregular}"
    )


def _grid_problems(series: Series) -> tuple[str, ...]:
    try:
        series.grid()
    except InputError as error:
        return error.problems
    return ()
