"""``nnunet_wsl relevance``: relevance maps of one image, without a dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnunet_wsl.cli.output import replace_what_cannot_be_shown
from nnunet_wsl.errors import InputError, last_line
from nnunet_wsl.files import check_complete, replacing

if TYPE_CHECKING:
    import numpy as np
    import SimpleITK as sitk
    from numpy.typing import NDArray

    from nnunet_wsl.contours import Grid, PlacedContours
    from nnunet_wsl.relevance import RelevanceSettings

_GEOMETRY_TOLERANCE = 1e-3  # in voxels; headers of image files round positions to float32

_TIFF = (".tif", ".tiff")
_ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd", *_TIFF)
"""Formats of one file, which can be renamed when it is whole, and that hold float values."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the arguments of ``nnunet_wsl relevance``."""
    parser = subparsers.add_parser(
        "relevance",
        help="compute the relevance maps of one image",
        description="Compute for every voxel of IMAGE how relevant it is to the contours of each object. Without "
        "options the relevance is a Gaussian of the distance to the contour whose scale is planned from the objects.",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="image file, or folder of one DICOM series")
    parser.add_argument(
        "contours", type=Path, metavar="MASK_OR_CONTOURS",
        help="label map on the image's grid, whose objects are contoured slice by slice, or RTSTRUCT file",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="for example maps.nii.gz")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--object", action="append", dest="objects", metavar="NAME",
        help="label value or ROI name; repeat it per object (default: all that are there)",
    )  # fmt: skip
    parser.add_argument("--mode", choices=("distance", "intensity", "both"), default="distance", help=_DEFAULT)
    parser.add_argument("--kernel", choices=("gaussian", "exponential", "linear"), default="gaussian", help=_DEFAULT)
    parser.add_argument(
        "--search", choices=("volume", "slice"), default="volume",
        help="where the nearest contour voxel is looked for (default: %(default)s)",
    )  # fmt: skip
    for option, metavar, what, each in (
        ("--sigma-mm", "MM", "scale of the distance, not for mode intensity", "object"),
        ("--cutoff-mm", "MM", "where the relevance ends", "object"),
        ("--intensity-scale", "VALUE", "scale of the difference, not for mode distance", "image channel"),
    ):
        parser.add_argument(
            option, type=float, nargs="+", metavar=metavar,
            help=f"{what}: one value per {each}, or one for all (default: planned from the image)",
        )  # fmt: skip
    parser.add_argument(
        "--fuse", choices=("max", "mean", "noisy_or"),
        help="write one map for all objects (default: one per object, the last axis of OUT)",
    )  # fmt: skip
    parser.add_argument(
        "--exact", action="store_true",
        help="distance to the RTSTRUCT's polylines instead of the voxels that they pass through",
    )  # fmt: skip
    parser.add_argument(
        "--outside", choices=("error", "clip"),
        help="contours of the RTSTRUCT that leave the image by more than half a voxel (default: error)",
    )  # fmt: skip
    parser.set_defaults(func=run)


_DEFAULT = "default: %(default)s"


@dataclass(frozen=True, eq=False)
class _Image:
    """Channels (C, z, y, x) or (C, y, x), and an empty image that has the geometry."""

    channels: NDArray[Any]
    geometry: sitk.Image

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        spacing: tuple[float, ...] = self.geometry.GetSpacing()[::-1]
        return spacing


@dataclass(frozen=True, eq=False)
class _Objects:
    """Contours of each object; `placed` only if they come from an RTSTRUCT."""

    names: list[str]
    masks: list[NDArray[np.bool_]]
    voxels: list[NDArray[Any]]
    placed: PlacedContours | None


def run(args: argparse.Namespace) -> int:
    """Compute the maps, write them, and print what they were made with."""
    from nnunet_wsl.relevance import fuse, relevance_maps

    _check_scales(args)
    _check_output(args.output, args.overwrite, (args.image, args.contours))
    outside: Literal["error", "clip"] = args.outside or "error"
    image = _read_image(args.image, args.contours, outside)
    objects = _read_objects(args.contours, image, args.objects, outside)
    if objects.placed is None:
        problems = [
            f"{option} needs polylines, but a label map has voxels only. Leave it out, or give an RTSTRUCT."
            for option, given in (("--exact", args.exact), ("--outside", args.outside is not None))
            if given
        ]
        if problems:
            raise InputError(problems)
    if args.output.suffix in _TIFF and image.geometry.GetDimension() == 3 and len(objects.names) > 1 and not args.fuse:
        raise InputError(
            f"{args.output}: TIFF holds one map of a volume, and there are {len(objects.names)}. Choose another "
            "ending, pass --fuse, or name one --object."
        )
    settings = _settings(args, image, objects)
    contours: list[Any] = objects.voxels
    if args.exact and objects.placed is not None:
        placed = objects.placed
        contours = [[one for one in placed.contours if one.object == name] for name in objects.names]
    maps = relevance_maps(image.channels, contours, image.spacing_mm, settings)
    fused = fuse(maps, args.fuse)[None] if args.fuse else maps
    _write(args.output, fused, image.geometry)

    replace_what_cannot_be_shown()
    print(f"{args.output}: relevance by {settings.mode}, {settings.kernel} kernel, nearest in the {settings.search}")
    for name, sigma_mm, cutoff_mm in zip(objects.names, settings.sigma_mm, settings.cutoff_mm, strict=True):
        sigma = "" if settings.mode == "intensity" else f"sigma {sigma_mm:.4g} mm, "
        print(f"  {name}: {sigma}cut-off {cutoff_mm:.4g} mm")
    if settings.mode != "distance":
        print(f"  intensity scale: {', '.join(f'{scale:.4g}' for scale in settings.intensity_scale)}")
    for note in objects.placed.notes if objects.placed else ():
        print(f"  {note}")
    return 0


def _check_scales(args: argparse.Namespace) -> None:
    """Refuse scales that the mode would ignore."""
    if args.mode == "distance" and args.intensity_scale is not None:
        raise InputError(
            "--intensity-scale has no effect in mode 'distance'. Leave it out, or choose --mode intensity or both."
        )
    if args.mode == "intensity" and args.sigma_mm is not None:
        raise InputError(
            "--sigma-mm has no effect in mode 'intensity'. Give --cutoff-mm to say where the relevance ends, or choose "
            "--mode distance or both."
        )


def _check_output(path: Path, overwrite: bool, inputs: Sequence[Path]) -> None:
    if not path.name.endswith(_ENDINGS):
        raise InputError(
            f"{path}: maps cannot be written in this format. Give --output one of these endings: {', '.join(_ENDINGS)}."
        )
    if path.exists() and any(path.samefile(one) for one in inputs if one.exists()):
        raise InputError(f"{path} is an input, too. Choose another --output.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists. Pass --overwrite to replace it, or choose another --output.")
    if not path.parent.is_dir():
        raise InputError(f"The folder of {path} does not exist. Create it, or choose another --output.")


def _read_image(path: Path, contours: Path, outside: Literal["error", "clip"]) -> _Image:
    import numpy as np
    import SimpleITK as sitk

    if path.is_dir():
        return _read_series(path, contours, outside)
    image = _read(path)
    if image.GetDimension() not in (2, 3):
        raise InputError(f"{path}: expected an image with two or three axes, found {image.GetDimension()}.")
    is_placed = bool(np.isfinite([*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection()]).all())
    if image.GetDimension() == 3:
        try:
            _grid(image)
        except ValueError:
            is_placed = False
    if not is_placed:
        raise InputError(
            f"{path}: its header has no geometry to measure distances in. Expected positive spacings, axes at right "
            "angles and a finite origin: resample the image."
        )
    voxels = sitk.GetArrayFromImage(image)
    channels = voxels[None] if image.GetNumberOfComponentsPerPixel() == 1 else np.moveaxis(voxels, -1, 0)
    return _Image(channels, _geometry(image))


def _read_series(folder: Path, contours: Path, outside: Literal["error", "clip"]) -> _Image:
    import numpy as np
    import SimpleITK as sitk

    from nnunet_wsl.contours import read_rtstruct
    from nnunet_wsl.conversion.matching import match_series
    from nnunet_wsl.conversion.series import find_dicom

    found = find_dicom(folder).series
    if _is_dicom(contours):
        rtstruct = read_rtstruct(contours)
        series = match_series(rtstruct, lambda: rtstruct.contours, found, outside=outside)
    elif len(found) == 1:
        series = found[0]
    else:
        raise InputError(f"{folder}: expected one DICOM image series, found {len(found)}. Give a folder with one.")
    if series is None:
        raise InputError(f"{folder}: none of its series belongs to {contours}.")
    grid = series.grid()
    geometry = sitk.Image([int(n) for n in grid.shape_zyx[::-1]], sitk.sitkUInt8)
    geometry.SetOrigin([float(value) for value in grid.origin_mm])
    geometry.SetSpacing([float(value) for value in grid.spacing_mm_xyz])
    geometry.SetDirection(np.asarray(grid.direction, dtype=np.float64).ravel().tolist())
    return _Image(series.read()[None], geometry)


def _read_objects(path: Path, image: _Image, names: list[str] | None, outside: Literal["error", "clip"]) -> _Objects:
    return _read_rtstruct(path, image, names, outside) if _is_dicom(path) else _read_labels(path, image, names)


def _read_labels(path: Path, image: _Image, names: list[str] | None) -> _Objects:
    import numpy as np
    import SimpleITK as sitk

    from nnunet_wsl.relevance import boundary_voxels

    label_map = _read(path)
    _check_geometry(label_map, image, path)
    labels = sitk.GetArrayFromImage(label_map)
    if not (np.isfinite(labels).all() and np.array_equal(labels, np.rint(labels))):
        raise InputError(f"{path}: expected a label map, found values that are not whole numbers.")
    values = {str(int(value)): value for value in np.unique(labels) if value != 0}
    chosen = _chosen(names, list(values), path, "label")
    masks = [labels == values[name] for name in chosen]
    return _Objects(chosen, masks, [boundary_voxels(mask) for mask in masks], None)


def _read_rtstruct(path: Path, image: _Image, names: list[str] | None, outside: Literal["error", "clip"]) -> _Objects:
    from nnunet_wsl.contours import contour_voxels, place, rasterise, read_rtstruct

    if image.channels.ndim != 4:
        raise InputError(f"{path}: an RTSTRUCT needs an image with three axes.")
    rtstruct = read_rtstruct(path)
    drawn = [name for name in rtstruct.contours.objects if rtstruct.contours.of(name) or name in rtstruct.problems]
    chosen = _chosen(names, drawn, path, "ROI with contours")
    selected = rtstruct.selected({name: [name] for name in chosen})
    placed = place(selected, _grid(image.geometry), case=path.name, outside=outside)
    voxels = [contour_voxels(placed, name) for name in chosen]
    problems = [
        f"{path}: no contour of ROI {name!r} passes through the image. Choose the others with --object."
        for name, of_object in zip(chosen, voxels, strict=True)
        if not len(of_object)
    ]
    if problems:
        raise InputError(problems)
    return _Objects(chosen, [rasterise(placed, name) for name in chosen], voxels, placed)


def _chosen(names: list[str] | None, present: Sequence[str], path: Path, what: str) -> list[str]:
    missing = [name for name in names or () if name not in present]
    if missing or not present:
        raise InputError(
            f"{path}: no {what} {' and no '.join(map(repr, missing)) or 'at all'}; there "
            f"{'is' if len(present) == 1 else 'are'} {', '.join(map(repr, present)) or 'none'}."
        )
    return list(dict.fromkeys(names)) if names else list(present)


def _settings(args: argparse.Namespace, image: _Image, objects: _Objects) -> RelevanceSettings:
    from nnunet_wsl.relevance import RelevanceSettings, case_fingerprint, plan_scales
    from nnunet_wsl.relevance.scales import CUTOFF_PER_SIGMA

    def given(option: str, number: int, each: str) -> tuple[float, ...] | None:
        values = getattr(args, option)
        if values is None or len(values) == number:
            return values and tuple(values)
        if len(values) != 1:
            raise InputError(
                f"--{option.replace('_', '-')} has {len(values)} values; expected 1, or {number}, one per {each}."
            )
        return tuple(values) * number

    number, num_channels = len(objects.names), len(image.channels)
    sigma_mm, cutoff_mm = given("sigma_mm", number, "object"), given("cutoff_mm", number, "object")
    intensity_scale = given("intensity_scale", num_channels, "image channel")
    needs_intensity = args.mode != "distance"
    channels = image.channels if needs_intensity and intensity_scale is None else None
    fingerprint = case_fingerprint(channels, objects.masks, objects.voxels, image.spacing_mm)
    planned = plan_scales([fingerprint], objects.names, sigma_mm=sigma_mm)
    sigma_mm = planned[0]
    return RelevanceSettings(
        mode=args.mode,
        kernel=args.kernel,
        search=args.search,
        sigma_mm=sigma_mm,
        intensity_scale=(intensity_scale or planned[1]) if needs_intensity else (),
        cutoff_mm=cutoff_mm or tuple(CUTOFF_PER_SIGMA * sigma for sigma in sigma_mm),
    )


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from error


def _read(path: Path) -> sitk.Image:
    import SimpleITK as sitk

    try:
        check_complete(path)
        image = sitk.ReadImage(str(path))
    except (OSError, RuntimeError) as error:
        if not path.is_file():
            reason = "there is no such file"
        elif isinstance(error, OSError):
            reason = str(error)
        elif "orthonormal" in str(error):
            reason = "its axes are not at right angles; resample it"
        else:
            reason = "it is no image of a known format, or damaged"
        raise InputError(f"{path}: cannot be read: {reason}.") from error
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(
            f"{path}: its voxels are complex numbers; expected real ones. Convert them, for example to their magnitude."
        )
    return image


def _grid(image: sitk.Image) -> Grid:
    import numpy as np

    from nnunet_wsl.contours import Grid

    return Grid(image.GetOrigin(), image.GetSpacing(), np.reshape(image.GetDirection(), (3, 3)), image.GetSize()[::-1])


def _geometry(image: sitk.Image) -> sitk.Image:
    import SimpleITK as sitk

    empty = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    empty.CopyInformation(image)
    return empty


def _check_geometry(label_map: sitk.Image, image: _Image, path: Path) -> None:
    import numpy as np

    reference = image.geometry
    if label_map.GetNumberOfComponentsPerPixel() != 1 or label_map.GetSize() != reference.GetSize():
        raise InputError(
            f"{path}: expected one label per voxel on the image's grid of size {reference.GetSize()}, found size "
            f"{label_map.GetSize()} with {label_map.GetNumberOfComponentsPerPixel()} values. Resample it to the image."
        )
    ends = np.diag([int(n) - 1 for n in reference.GetSize()]).tolist()
    for corner in ([0] * len(ends), *ends):
        apart_mm = np.subtract(
            label_map.TransformIndexToPhysicalPoint(corner), reference.TransformIndexToPhysicalPoint(corner)
        )
        allowed_mm = _GEOMETRY_TOLERANCE * max(reference.GetSpacing())
        if not np.linalg.norm(apart_mm) <= allowed_mm:  # which is also so if it is not a number
            raise InputError(
                f"{path}: its voxel {tuple(corner)} lies {np.linalg.norm(apart_mm):.4g} mm from that of the image. "
                "Resample it to the image."
            )


def _write(path: Path, maps: NDArray[np.float32], geometry: sitk.Image) -> None:
    import SimpleITK as sitk

    volumes = []
    for values in maps:
        volume = sitk.GetImageFromArray(values)
        volume.CopyInformation(geometry)
        volumes.append(volume)
    try:
        with replacing(path) as partial:
            sitk.WriteImage(volumes[0] if len(volumes) == 1 else sitk.JoinSeries(volumes), str(partial), True)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{path}: cannot be written ({last_line(error)}). Check the permissions and the space of its folder."
        ) from error
