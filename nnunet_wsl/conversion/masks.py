"""From images with dense label maps to a raw nnU-Net dataset of simulated contours."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnunet_wsl.contours import Grid
from nnunet_wsl.contract import target_channels
from nnunet_wsl.conversion.cases import CaseContent, ConversionSettings, convert_cases
from nnunet_wsl.conversion.dataset import FILE_ENDING, target_folder
from nnunet_wsl.conversion.objects import LABEL_RULE, is_usable_label
from nnunet_wsl.conversion.pictures import check_spacing, is_picture, picture_grid, read_picture
from nnunet_wsl.conversion.simulation import Simulation
from nnunet_wsl.errors import InputError, counted, last_line
from nnunet_wsl.files import check_complete, name_problems, read_json

_LOG = logging.getLogger(__name__)

Plane = Literal["sagittal", "coronal", "axial"]
"""The slices that contours are drawn on, named in the order of the patient axes x, y, z that they are normal to."""

PLANES: tuple[Plane, ...] = get_args(Plane)

GEOMETRY_TOLERANCE_MM = 1e-3
"""How far the same corner of image and label map may lie apart: headers round to single precision."""


@dataclass(frozen=True)
class MaskCase:
    """An image with a dense label map, as a case of a dataset.

    Parameters
    ----------
    name : str
        Name of the case.
    images : tuple of Path
        The files of the channels, one for each; of 2D images one may hold red, green and blue.
    labels : Path
        The label map.
    values : mapping of str to tuple of int
        The label values of each object.
    others_allowed : bool
        Whether label values that are of no object are background, instead of an error.
    simulation : Simulation
        How its contours are drawn.
    plane : {"axial", "coronal", "sagittal"}, optional
        The slices that they are drawn on; those along the last axis of the file by default.
    num_channels : int
        Number of image channels.
    spacing_mm_xy : tuple of float
        Size of a pixel of 2D images, whose files do not tell it.
    ignored : int, optional
        Value of what was not annotated.
    may_ignore : bool
        Whether nothing is taken to be known but the slices with contours.
    """

    name: str
    images: tuple[Path, ...]
    labels: Path
    values: Mapping[str, tuple[int, ...]]
    others_allowed: bool
    simulation: Simulation
    plane: Plane | None
    num_channels: int
    spacing_mm_xy: tuple[float, float]
    ignored: int | None
    may_ignore: bool

    def read(self) -> CaseContent:
        """Read the image and draw contours around the objects."""
        label_map, grid = self._read_labels()
        channels: list[npt.NDArray[Any]] = []
        files: list[Path] = []
        for path in self.images:
            found, channel_grid = self._read(path)
            _check_geometry(self.name, path, channel_grid, self.labels, grid)
            channels += list(found)
            files += [path] * len(found)
        if len(channels) != self.num_channels:
            raise InputError(
                f"Case '{self.name}': {counted(len(channels), 'channel')} in '{self.images[0]}'"
                f"{' and on' if len(self.images) > 1 else ''}; expected {self.num_channels}, as many as have names. "
                "Give all images the same channels, red, green and blue or grey, or correct the names in dataset.json "
                "or those of --channel."
            )
        if not np.array_equal(label_map, np.rint(label_map)):
            raise InputError(f"Case '{self.name}': '{self.labels}' holds fractions; expected whole label values.")
        known = {0, *(value for values in self.values.values() for value in values)}
        if not self.others_allowed and (unknown := sorted(set(np.unique(label_map).tolist()) - known)):
            raise InputError(
                f"Case '{self.name}': '{self.labels}' has the values {', '.join(f'{v:g}' for v in unknown)}, which are "
                "no labels. Correct it or dataset.json, or name the labels to draw with --label NAME=VALUE."
            )
        image = np.stack(channels)
        if self.plane is not None:
            order_xyz = slices_last(grid, self.plane)
            image = np.stack([permuted(channel, order_xyz) for channel in image])
            label_map = permuted(label_map, order_xyz)
            grid = permuted_grid(grid, order_xyz)
        self._check_ignored(label_map)
        contours = self.simulation.draw(_Masks(label_map, self.values), grid, self.name)
        return CaseContent(image, grid, contours, tuple(files))

    def _check_ignored(self, label_map: npt.NDArray[Any]) -> None:
        if self.ignored is None:
            return
        ignored = (label_map == self.ignored).any(axis=(1, 2))
        if ignored.any() and not self.may_ignore:
            raise InputError(
                f"Case '{self.name}': '{self.labels}' has voxels of the label 'ignore' (value {self.ignored}), which "
                "would count as background. Pass --annotated contoured, and not --missing absent, or correct "
                "dataset.json."
            )
        drawn = np.isin(label_map, [value for values in self.values.values() for value in values])
        both = ignored & drawn.any(axis=(1, 2))
        if both.any():
            raise InputError(
                f"Case '{self.name}': slice {np.flatnonzero(both)[0]} of '{self.labels}' has objects and ignored "
                "voxels; contours make whole slices known. Complete it, or remove its objects."
            )

    def _read_labels(self) -> tuple[npt.NDArray[Any], Grid]:
        channels, grid = self._read(self.labels)
        if len(channels) != 1:
            raise InputError(
                f"Case '{self.name}': '{self.labels}' has colours; expected label values, in grey. Save it so."
            )
        return channels[0], grid

    def _read(self, path: Path) -> tuple[npt.NDArray[Any], Grid]:
        """Return the channels of a file, (channel, z, y, x), and its geometry."""
        if not is_picture(path):
            volume, grid = _read(path)
            return volume[None], grid
        pixels = read_picture(path, as_stored=True)
        return pixels[:, None], picture_grid((pixels.shape[2], pixels.shape[1]), self.spacing_mm_xy)


@dataclass(frozen=True, eq=False)
class _Masks(Mapping[str, npt.NDArray[np.bool_]]):
    """The mask of each object, made when it is asked for: all at once would fill the memory."""

    label_map: npt.NDArray[Any]
    values_of: Mapping[str, tuple[int, ...]]

    def __getitem__(self, name: str) -> npt.NDArray[np.bool_]:
        first, *others = self.values_of[name]
        mask = np.asarray(self.label_map == first)
        for value in others:
            mask |= self.label_map == value
        return mask

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)


def convert_masks(
    images: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    dataset_id: int,
    name: str,
    *,
    label_values: Mapping[str, int] | None = None,
    channels: Sequence[str] | None = None,
    simulation: Simulation | None = None,
    plane: Plane | None = None,
    spacing_mm: Sequence[float] | None = None,
    settings: ConversionSettings | None = None,
    overwrite: bool = False,
    jobs: int = 1,
) -> Path:
    """Simulate contours on images with dense label maps, and convert them to a raw nnU-Net dataset.

    Parameters
    ----------
    images : path
        Folder with ``CASE_0000.nii.gz`` and so on, or ``CASE.nii.gz`` where there is one channel. Where
        ``dataset.json`` has the file ending of a 2D image, such as ``.png``, one file may have three channels.
    labels : path
        Folder with the label maps, ``CASE.nii.gz``. What ``dataset.json``, there or in the folder above, says of
        labels and channels is used unless given here; that of nnU-Net v1, with names by value and ``modality``, too.
    dataset_id, name : int, str
        The dataset becomes ``DatasetXXX_NAME``.
    label_values : mapping of str to int, optional
        The objects to draw and their values; other values are background then.
    channels : sequence of str, optional
        nnU-Net's names of the image channels, for example ``("CT",)``.
    simulation : Simulation, optional
        How contours are drawn; by default exactly, on every slice.
    plane : {"axial", "coronal", "sagittal"}, optional
        The slices that contours are drawn on. The axes of images and label maps are permuted so that these slices are
        along the first array axis; every voxel keeps its place in the patient.
    spacing_mm : sequence of float, optional
        Size of a pixel of 2D images along x and y, or one value for both; 1 mm by default.
    settings : ConversionSettings, optional
        How contours become masks and relevance channels. The rule ``auto`` for annotated slices means what the
        simulation knows.
    overwrite : bool
        Replace a dataset of the same id and name.
    jobs : int
        Number of cases converted at the same time.

    Returns
    -------
    Path
        Folder of the dataset.

    Raises
    ------
    InputError
        If anything is wrong with the input; all problems of a step together.
    """
    target = target_folder(dataset_id, name, overwrite=overwrite)
    simulation = simulation or Simulation()
    image_folder, label_folder = Path(images), Path(labels)
    if problems := [f"'{f}' is not a folder." for f in (image_folder, label_folder) if not f.is_dir()]:
        raise InputError(problems)
    described = _dataset_json(label_folder)
    values = {label: (value,) for label, value in label_values.items()} if label_values else _values(described)
    settings = settings or ConversionSettings()
    if label_values:
        _check_values(label_values)
    image_names = _channels(described) if not channels or target_channels(described) else None
    if channels and image_names and len(channels) > len(image_names):
        raise InputError(
            f"--channel names {len(channels)} image channels; the dataset has {len(image_names)}, and after them its "
            "relevance, which must not become an image. Name the image channels only."
        )
    channels = tuple(channels or image_names or ())
    ending = described.get("file_ending", FILE_ENDING)
    if not (isinstance(ending, str) and ending.startswith(".")):
        raise InputError(
            f"dataset.json has the file_ending {json.dumps(ending)}; expected one such as '{FILE_ENDING}'. Correct it."
        )
    are_pictures = is_picture(Path(f"CASE{ending}"))
    if are_pictures and plane:
        raise InputError(f"--plane {plane}: the images are 2D ('*{ending}') and have one plane. Leave it out.")
    if spacing_mm and not are_pictures:
        raise InputError(f"--spacing-mm is for 2D images; those in '*{ending}' tell their spacing. Leave it out.")
    spacing_mm_xy = check_spacing(spacing_mm or (1.0,))
    found = _find_images(image_folder, label_folder, ending, len(channels))
    only_contoured = settings.annotated == "contoured" and settings.annotated_file is None
    may_ignore = only_contoured and settings.missing != "absent"
    cases = [
        MaskCase(
            case, paths, labels_path, values, bool(label_values), simulation, plane, len(channels), spacing_mm_xy,
            _ignored(described, values), may_ignore,
        )
        for case, (paths, labels_path) in found.items()
    ]  # fmt: skip
    _LOG.info("Drawing contours in %s with the labels %s.", counted(len(cases), "case"), ", ".join(values))
    convert_cases(
        target,
        cases,
        objects=tuple(values),
        image_channels=channels,
        splits=(),
        settings=settings,
        recorded={"simulation": asdict(simulation) | {"plane": plane}},
        overwrite=overwrite,
        jobs=jobs,
    )
    _LOG.info("Wrote %s.", target)
    return target


def slices_last(grid: Grid, plane: Plane) -> tuple[int, int, int]:
    """Return the order of a grid's axes (x, y, z) in which the axis most nearly normal to a plane comes last."""
    normal = int(np.abs(grid.direction[PLANES.index(plane)]).argmax())
    first, second = (axis for axis in range(3) if axis != normal)
    return first, second, normal


def permuted(volume: npt.NDArray[Any], order_xyz: tuple[int, int, int]) -> npt.NDArray[Any]:
    """Permute the axes of a volume of shape (z, y, x); ``order_xyz`` names the present axes in their new order."""
    return np.ascontiguousarray(volume.transpose([2 - axis for axis in order_xyz[::-1]]))


def permuted_grid(grid: Grid, order_xyz: tuple[int, int, int]) -> Grid:
    """Return the geometry of a permuted volume: every voxel keeps its physical place."""
    order = list(order_xyz)
    shape_xyz = [grid.shape_zyx[2 - axis] for axis in order]
    return Grid(
        grid.origin_mm,
        grid.spacing_mm_xyz[order],
        grid.direction[:, order],
        (shape_xyz[2], shape_xyz[1], shape_xyz[0]),
    )


def _dataset_json(label_folder: Path) -> dict[str, Any]:
    for path in (label_folder / "dataset.json", label_folder.absolute().parent / "dataset.json"):
        if os.path.lexists(path):  # a link to nowhere must not give way to the other
            content = read_json(path, "Correct or remove it.")
            if isinstance(content, dict):
                return content
            raise InputError(f"'{path}' is not nnU-Net's dataset.json: expected a JSON object. Correct or remove it.")
    return {}


def _values(described: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the label values that dataset.json describes, those of regions included."""
    labels = described.get("labels")
    if not labels:
        raise InputError(
            "The labels are not known: there is no dataset.json with labels beside the label maps. "
            "Give --label NAME=VALUE once per label."
        )
    if not isinstance(labels, dict):
        raise InputError(
            "The labels in dataset.json are no JSON object; expected a value for every name. Correct it, or name the "
            "labels to draw with --label NAME=VALUE."
        )
    if all(number.isdecimal() and isinstance(name, str) for number, name in labels.items()):
        # That of nnU-Net v1 and the Medical Segmentation Decathlon has a name for every value.
        labels = {name: [number for number in labels if labels[number] == name] for name in labels.values()}
    if "ignore" in labels:
        raise InputError(
            "The label maps have the label 'ignore'; contours can be drawn around dense masks only. Take others, or, "
            "if whole slices are ignored, name the labels to draw with --label NAME=VALUE, and pass --annotated "
            "contoured."
        )
    values = {name: _whole_numbers(value) for name, value in labels.items() if name != "background"}
    if problems := [
        f"dataset.json has the label {name!r} with the value {json.dumps(labels[name])}; expected {LABEL_RULE}, and "
        "whole values from 1. Correct it, or name the labels to draw with --label NAME=VALUE."
        for name, of_label in values.items()
        if not is_usable_label(name) or min(of_label, default=0) < 1
    ]:
        raise InputError(problems)
    return values


def _ignored(described: Mapping[str, Any], values: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the value of the label 'ignore' in dataset.json, unless it is one of the objects'."""
    labels = described.get("labels")
    found = _whole_numbers(labels.get("ignore")) if isinstance(labels, dict) else ()
    drawn = {value for of_label in values.values() for value in of_label}
    return found[0] if len(found) == 1 and found[0] not in drawn else None


def _whole_numbers(value: Any) -> tuple[int, ...]:
    """Return the label values that dataset.json means, numbers or texts of digits; none if any is neither."""
    numbers = [
        int(v) if isinstance(v, str) and re.fullmatch("[0-9]{1,9}", v) else v
        for v in (value if isinstance(value, list) else [value])
    ]
    return tuple(numbers) if all(isinstance(v, int) and not isinstance(v, bool) for v in numbers) else ()


def _channels(described: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the image channels that dataset.json describes, in the order of their numbers."""
    names = described.get("channel_names", described.get("modality"))  # what nnU-Net v1 called it
    if not names:
        raise InputError(
            "The names of the image channels are not known, and nnU-Net normalises by them. Give --channel once per "
            "channel, for example --channel CT."
        )
    numbers = [str(number) for number in range(len(names))] if isinstance(names, dict) else []
    if not numbers or set(numbers) != set(names) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(
            f"The image channels in dataset.json are {json.dumps(names)}; expected a name for every number from 0, as "
            'in {"0": "CT"}. Correct it, or give --channel once per channel.'
        )
    if targets := target_channels(described):
        _LOG.info(
            "The dataset has relevance channels (%s) already: they are left out, and made anew.", ", ".join(targets)
        )
    return tuple(names[number] for number in numbers if number not in targets)


def _check_values(label_values: Mapping[str, int]) -> None:
    if problems := [
        f"--label {f'{name}={value}'!r} cannot be used: expected {LABEL_RULE}, and a value from 1. Correct it."
        for name, value in label_values.items()
        if not is_usable_label(name) or value < 1
    ]:
        raise InputError(problems)


_OR_ITS_LABEL_MAP = "; or, if it is an image itself, add its label map"


def _find_images(
    image_folder: Path, label_folder: Path, ending: str, num_channels: int
) -> dict[str, tuple[tuple[Path, ...], Path]]:
    """Return the image files and the label map of every case."""
    label_maps = sorted(_visible(label_folder, ending))
    one_folder = image_folder.samefile(label_folder)
    if one_folder:
        names = {path.name.removesuffix(ending) for path in label_maps}
        label_maps = [path for path in label_maps if not _is_image(path.name.removesuffix(ending), names)]
    if not label_maps:
        raise InputError(
            f"No label map '*{ending}' in '{label_folder}'. Give the folder of the label maps; other files than "
            f"{FILE_ENDING} need a dataset.json that has their file_ending."
        )
    found = {}
    problems = []
    used: set[str] = {path.name for path in label_maps} if one_folder else set()
    for path in label_maps:
        case = path.name.removesuffix(ending)
        images = tuple(image_folder / f"{case}_{channel:04d}{ending}" for channel in range(num_channels))
        if is_picture(path):  # one may have three channels
            images = tuple(takewhile(os.path.lexists, images)) or images[:1]
        plain = image_folder / path.name
        if len(images) == 1 and not os.path.lexists(images[0]) and plain.is_file() and not one_folder:
            images = (plain,)
        problems += [
            f"Case '{case}': there is no image '{image.name}' in '{image_folder}'. Add it, or remove the label map"
            f"{_OR_ITS_LABEL_MAP if one_folder else ''}."
            for image in images
            if not image.is_file()
        ]
        used.update(image.name for image in images)
        found[case] = (images, path)
    if problems:
        raise InputError(problems)
    if unused := [path for path in _visible(image_folder, ending) if path.name not in used]:
        _LOG.warning(
            "%d images in '%s' have no label map, or channels beyond the named ones, such as '%s'.",
            len(unused),
            image_folder,
            min(unused).name,
        )
    return found


def _is_image(name: str, names: Container[str]) -> bool:
    """Return whether CASE_0001 is an image of CASE, and no case itself, which has an image of its own."""
    match = re.fullmatch(r"(.+)_[0-9]{4}", name)
    return match is not None and match[1] in names and f"{name}_0000" not in names


def _visible(folder: Path, ending: str) -> list[Path]:
    """Return the files of a format as a shell's * does: archives made on a Mac are full of hidden ones."""
    paths = [path for path in folder.iterdir() if path.name.endswith(ending) and not path.name.startswith(".")]
    if problems := name_problems(paths):
        raise InputError(problems)
    return paths


def _read(path: Path) -> tuple[npt.NDArray[Any], Grid]:
    try:
        check_complete(path)
        image = sitk.ReadImage(str(path))
    except OSError as error:
        raise InputError(f"'{path}' cannot be read as an image ({error}). Restore or remove it.") from error
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise InputError(_no_grid(path)) from error
        raise InputError(f"'{path}' cannot be read as an image ({last_line(error)}). Restore or remove it.") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"'{path}' has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} values per "
            "voxel; expected 3 and 1. Split it."
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"'{path}' has complex numbers; expected real ones. Convert them, for example to magnitudes.")
    width, height, depth = image.GetSize()
    direction = np.array(image.GetDirection()).reshape(3, 3)
    try:
        grid = Grid(image.GetOrigin(), image.GetSpacing(), direction, (depth, height, width))
    except ValueError as error:
        raise InputError(_no_grid(path)) from error
    return sitk.GetArrayFromImage(image), grid


def _no_grid(path: Path) -> str:
    return (
        f"'{path}' is no grid of voxels: expected axes at right angles, positive spacings and a finite origin. Correct "
        "its header, or resample it."
    )


def _check_geometry(case: str, path: Path, grid: Grid, label_path: Path, label_grid: Grid) -> None:
    if grid.shape_zyx != label_grid.shape_zyx:
        raise InputError(
            f"Case '{case}': '{path}' has the shape (z, y, x) {grid.shape_zyx}, its label map '{label_path}' "
            f"{label_grid.shape_zyx}. Resample one to the other."
        )
    corners_xyz = np.array(list(np.ndindex(2, 2, 2))) * (np.array(grid.shape_zyx[::-1]) - 1)
    apart_mm = float(np.linalg.norm(grid.to_mm(corners_xyz) - label_grid.to_mm(corners_xyz), axis=1).max())
    if apart_mm > GEOMETRY_TOLERANCE_MM:
        raise InputError(
            f"Case '{case}': '{path}' and its label map '{label_path}' lie {apart_mm:.3f} mm apart (allowed "
            f"{GEOMETRY_TOLERANCE_MM} mm). Resample one to the other."
        )
