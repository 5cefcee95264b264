"""From DICOM series without contours to the images that a trained model predicts on."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from nnunet_wsl.conversion.dataset import FILE_ENDING, build_dataset, new_folder, write_volume
from nnunet_wsl.conversion.naming import case_names
from nnunet_wsl.conversion.series import Series, find_dicom, modalities_of
from nnunet_wsl.errors import InputError
from nnunet_wsl.parallel import for_all

_LOG = logging.getLogger(__name__)


def convert_images(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    modality: str | None = None,
    jobs: int = 1,
) -> Path:
    """Convert all DICOM image series below a folder to NIfTI images as ``nnUNetv2_predict`` wants them.

    The images are those that :func:`nnunet_wsl.conversion.convert_rtstruct` would write as image channel.

    Parameters
    ----------
    source : path
        Folder with DICOM series, in any arrangement of folders. Case names come from its folders.
    output : path
        Folder to write ``CASE_0000.nii.gz`` to; it must not exist yet. It appears when all of it is written.
    modality : str, optional
        DICOM modality of the images, for example ``"PT"``; other series are left out.
    jobs : int
        Number of series converted at the same time.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    InputError
        If anything is wrong with the input; all problems together.
    """
    target = new_folder(output)
    dicom = find_dicom(Path(source), jobs=jobs)
    chosen = [series for series in dicom.series if modality in (None, series.modality)]
    wanted = f"of modality {modality} " if modality else ""
    if not chosen:
        hint = " For PNG, JPEG, TIFF or BMP files pass --kind 2d." if not dicom.series else ""
        raise InputError(
            f"No image series {wanted}below '{dicom.folder}'; modalities there: {modalities_of(dicom.series)}.{hint}"
        )
    auxiliary = [series for series in chosen if series.is_auxiliary]
    if auxiliary:
        _LOG.warning(
            "Left out: %d series of localizers, of colour images or of captures of a screen, such as the %s.",
            len(auxiliary), auxiliary[0],
        )  # fmt: skip
    chosen = [series for series in chosen if not series.is_auxiliary]
    if not chosen:
        raise InputError(
            f"All image series {wanted}below '{dicom.folder}' are localizers, in colours or captures of a screen. Add "
            "others."
        )
    if len({series.modality for series in chosen}) > 1:
        raise InputError(
            f"The series below '{dicom.folder}' are of different modalities: {modalities_of(chosen)}. Choose one with "
            "--modality."
        )
    files = [min(s.path for s in series.slices).relative_to(dicom.folder) for series in chosen]
    with build_dataset(target, overwrite=False) as building:

        def write(named: tuple[str, Series]) -> None:
            name, series = named
            grid = series.grid()  # refuses what cannot be read as one volume
            write_volume(building / f"{name}_0000{FILE_ENDING}", series.read(), grid)

        cases = list(zip(case_names([file.parent for file in files], files), chosen, strict=True))
        _, problems = for_all(write, cases, jobs, "Converting images")
        if problems:
            raise InputError(problems)
    _LOG.info("Wrote %d images to %s.", len(chosen), target)
    return target
