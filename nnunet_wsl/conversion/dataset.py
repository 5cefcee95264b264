"""The raw nnU-Net dataset on disk: where it goes, what its files are, and that it appears whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnunet_wsl import __version__
from nnunet_wsl.contours import Grid
from nnunet_wsl.contract import FORMAT_VERSION
from nnunet_wsl.conversion.regions import LabelValues
from nnunet_wsl.errors import InputError, last_line, reason_of
from nnunet_wsl.files import is_text

_LOG = logging.getLogger(__name__)

FILE_ENDING = ".nii.gz"

_NIFTI_HEADER_BYTES = 352

RELEVANCE_CHANNEL_NAME = "noNorm"
"""Channel name that keeps nnU-Net from normalising the relevance; several channels may share it."""

COLOUR_CHANNELS = ("R", "G", "B")
"""Names of the channels of colour images; their order is that of the channels."""

MAX_OBJECTS = 253
"""Labels are one byte: background, objects, ignore."""


def target_folder(dataset_id: int, name: str, *, overwrite: bool = False) -> Path:
    """Return the folder of a new raw dataset, after checking that it can be made.

    Parameters
    ----------
    dataset_id : int
        1 to 999.
    name : str
        Name of the dataset, without the prefix ``DatasetXXX_``.
    overwrite : bool
        Whether a raw dataset of the same id and name may be replaced.

    Raises
    ------
    InputError
        If ``nnUNet_raw`` is unset or cannot be written to, the id or name is not one of nnU-Net's, the id is taken,
        or the dataset to replace is a link.
    """
    problems = []
    if not 1 <= dataset_id <= 999:
        problems.append(f"Dataset id {dataset_id} is not between 1 and 999. Choose another --dataset.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        problems.append(f"Dataset name '{name}' may have letters, digits, '_' and '-' only. Choose another --name.")
    raw = os.environ.get("nnUNet_raw")
    if not raw:
        problems.append(
            "The environment variable nnUNet_raw is not set, so nnU-Net's raw datasets have no folder. "
            "Set it, for example: export nnUNet_raw=$HOME/nnUNet_raw"
        )
    elif not is_text(str(Path(raw).absolute())):
        problems.append(f"nnUNet_raw is '{ascii(raw)[1:-1]}', whose path is no UTF-8. Set another folder.")
    if problems or not raw:
        raise InputError(problems)
    folder = Path(raw).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"nnUNet_raw is '{folder}', which cannot be created ({error.strerror}). Set it to a folder of yours."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"nnUNet_raw is '{folder}', which you may not write to. Change its permissions or set another folder."
        )
    target = folder / f"Dataset{dataset_id:03d}_{name}"
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        parent = os.environ.get(variable)
        for taken in sorted(Path(parent).glob(f"Dataset{dataset_id:03d}*")) if parent else ():
            if taken.name != target.name:
                problems.append(
                    f"Dataset id {dataset_id} is already taken by {taken.name} in {variable}. "
                    "Choose another --dataset, or remove that folder."
                )
            elif variable == "nnUNet_raw" and not overwrite:
                problems.append(
                    f"Dataset id {dataset_id} is already taken by {taken.name} in {variable}. "
                    "Pass --overwrite to replace it, or choose another --dataset."
                )
            elif variable == "nnUNet_raw" and taken.is_symlink():
                problems.append(
                    f"'{taken}' is a link to '{taken.readlink()}'. --overwrite replaces folders, not links. Remove the "
                    "link, and what it points to if you need it no more, or choose another --dataset."
                )
    if overwrite and target.exists() and not os.access(target, os.W_OK | os.X_OK):
        problems.append(f"'{target}' may not be replaced by you. Change its permissions or choose another --dataset.")
    if problems:
        raise InputError(problems)
    former = Path(os.environ.get("nnUNet_preprocessed", "")) / target.name
    if overwrite and "nnUNet_preprocessed" in os.environ and former.exists():
        _LOG.warning(
            "nnUNet_preprocessed still has %s of a former conversion. Remove it before planning: nnU-Net keeps its "
            "splits and reuses its files.",
            target.name,
        )
    return target


def new_folder(output: str | os.PathLike[str]) -> Path:
    """Return the folder that an output leads to, after checking that there is none yet.

    Raises
    ------
    InputError
        If there is something.
    """
    # Rather where it leads to than what it says: with ".." it may be a folder that nobody sees in it.
    target = Path(os.path.realpath(output))
    if os.access(target, os.F_OK):
        raise InputError(f"Output '{target}' exists already. Remove it or choose another folder.")
    return target


@contextmanager
def build_dataset(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Build a dataset beside its place and move it there when all is done.

    The folder in which it grows has a hidden name that nnU-Net does not take for a dataset, and is this run's own. It
    is removed if anything fails. Those of other runs, which may be at work or were killed, are named in a warning.

    Parameters
    ----------
    target : Path
        Folder of the dataset; the folders above it are made if needed when all is done.
    overwrite : bool
        Whether the target is replaced if it exists.

    Yields
    ------
    Path
        The folder to build in.

    Raises
    ------
    InputError
        If nothing can be written where the target shall be, or another run has made the target in the meantime.
    """
    hidden = f".{target.name}.building-"
    beside = next(folder for folder in target.absolute().parents if os.access(folder, os.F_OK))
    with ExitStack() as stack:
        try:
            for other in sorted(path for path in beside.iterdir() if path.name.startswith(hidden)):
                _LOG.warning("'%s' belongs to another run. If none is at work, remove it: a killed run left it.", other)
            room = TemporaryDirectory(prefix=hidden, dir=beside, ignore_cleanup_errors=True)
            # A folder within, for that of TemporaryDirectory may be read by its owner only.
            building, replaced = (Path(stack.enter_context(room)) / name for name in ("new", "replaced"))
            building.mkdir()
        except OSError as error:
            raise InputError(
                f"'{target}' cannot be written ({error.strerror}). Check the permissions and the space of '{beside}'."
            ) from error
        try:
            yield building
        except OSError as error:
            raise InputError(
                f"'{target}' cannot be made: {reason_of(error)}. Check the place, its space and its permissions."
            ) from error
        try:
            if overwrite and target.exists():
                target.rename(replaced)
            target.parent.mkdir(parents=True, exist_ok=True)
            building.rename(target)
        except BaseException as error:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            if not isinstance(error, OSError):
                raise
            if target.exists() and not overwrite:
                raise InputError(
                    f"'{target}' was made by another run while this one was at work, whose result is dropped. Keep "
                    "it, or remove it and convert again."
                ) from error
            raise InputError(
                f"'{target}' cannot be moved to its place: {reason_of(error)}. Check the permissions there."
            ) from error


def image_path(dataset: Path, case: str, channel: int) -> Path:
    """Return the file of one channel of a training case."""
    return dataset / "imagesTr" / f"{case}_{channel:04d}{FILE_ENDING}"


def label_path(dataset: Path, case: str) -> Path:
    """Return the file of the label map of a training case."""
    return dataset / "labelsTr" / f"{case}{FILE_ENDING}"


def write_volume(path: Path, volume: npt.NDArray[Any], grid: Grid) -> None:
    """Write a volume of shape (z, y, x) with the geometry of a grid; nothing else goes into the header.

    Raises
    ------
    InputError
        If the file is not whole, for want of space.
    """
    image = sitk.GetImageFromArray(volume)
    image.SetOrigin([float(value) for value in grid.origin_mm])
    image.SetSpacing([float(value) for value in grid.spacing_mm_xyz])
    image.SetDirection(np.asarray(grid.direction, np.float64).ravel().tolist())
    try:
        # Level 1 is several times faster than the default and the files are hardly larger.
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
        _check_written(path, volume.nbytes)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"'{path}' could not be written whole ({last_line(error)}). Free space on the disk, or check the quota."
        ) from error


def _check_written(path: Path, voxel_bytes: int) -> None:
    """Check by its end that a compressed NIfTI file is whole: SimpleITK does not say that the disk is full."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)  # gzip's length of what was compressed (RFC 1952); zlib ends at its first error
        length = int.from_bytes(file.read(), "little")
    if length != (_NIFTI_HEADER_BYTES + voxel_bytes) % 2**32:
        raise OSError("it is cut off")


def read_volume(path: Path) -> npt.NDArray[Any]:
    """Read back a volume of shape (z, y, x)."""
    volume: npt.NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return volume


def read_slice(path: Path, k: int) -> npt.NDArray[Any]:
    """Read back one slice of shape (y, x) of a volume."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    width, height, _ = reader.GetSize()
    reader.SetExtractIndex((0, 0, k))
    reader.SetExtractSize((width, height, 1))
    plane: npt.NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())[0]
    return plane


def write_dataset_json(
    dataset: Path,
    *,
    name: str,
    image_channels: Sequence[str],
    values: LabelValues,
    has_ignore: bool,
    num_cases: int,
    relevance_channels: Sequence[str],
    has_confidence: bool,
    settings: dict[str, Any],
) -> None:
    """Write ``dataset.json``: nnU-Net's keys and the block ``"wsl"``.

    Parameters
    ----------
    dataset : Path
        Folder in which the dataset is built.
    name : str
        Full name of the dataset, ``DatasetXXX_NAME``.
    image_channels : sequence of str
        Names of the image channels; nnU-Net chooses the normalisation by them (``CT`` or z-score).
    values : LabelValues
        The meaning of the label values.
    has_ignore : bool
        Whether any label map uses the value of ignore.
    num_cases : int
        Number of training cases.
    relevance_channels : sequence of str
        The object of each relevance channel, or ``contract.FUSED``; they follow the image channels.
    has_confidence : bool
        Whether a confidence channel of each relevance channel follows.
    settings : dict
        What else repeats the conversion; goes into the block ``"wsl"``.
    """
    confidence_channels = relevance_channels if has_confidence else ()
    targets = [*relevance_channels, *confidence_channels]
    channel_names = [*image_channels, *[RELEVANCE_CHANNEL_NAME] * len(targets)]
    numbered = {str(channel): text for channel, text in enumerate(targets, start=len(image_channels))}
    num_relevance = len(relevance_channels)
    content = {
        "channel_names": {str(channel): text for channel, text in enumerate(channel_names)},
        "labels": values.dataset_labels(has_ignore=has_ignore),
        **({"regions_class_order": list(values.written)} if values.has_regions else {}),
        "numTraining": num_cases,
        "file_ending": FILE_ENDING,
        "name": name,
        "converted_by": f"nnunet_wsl {__version__}",
        "wsl": {
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "relevance_channels": dict(list(numbered.items())[:num_relevance]),
            "confidence_channels": dict(list(numbered.items())[num_relevance:]),
            **settings,
        },
    }
    write_json(dataset / "dataset.json", content)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as nnU-Net writes its own: indented, keys in the given order."""
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
