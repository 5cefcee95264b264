"""2D images of common formats, as images of one slice, and as what a trained model predicts on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from nnunet_wsl.contours import Grid
from nnunet_wsl.conversion.dataset import COLOUR_CHANNELS, FILE_ENDING, build_dataset, new_folder, write_volume
from nnunet_wsl.conversion.naming import case_names
from nnunet_wsl.conversion.series import files_below
from nnunet_wsl.errors import InputError, counted, last_line
from nnunet_wsl.parallel import for_all

_LOG = logging.getLogger(__name__)

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

CHANNELS_OF_COLOURS = {1: ("grey",), 3: COLOUR_CHANNELS}
"""nnU-Net's names of the channels of grey images and of colour ones."""

_GREY = ("L", "I", "F", "I;16", "I;16L", "I;16B")
_CONVERTED = {"1": "L", "P": "RGBA", "PA": "RGBA", "La": "LA", "RGBa": "RGBA"}
"""Modes of Pillow that others say as well."""

_QUARTER_TURNS = (5, 6, 7, 8)
"""Orientations, in TIFF and EXIF, that exchange width and height."""

_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _SAMPLE_FORMAT = 258, 262, 274, 277, 339
"""Tags of TIFF 6.0."""

_DEEP_GREY = ((16, 1), (16, 2), (32, 2), (32, 3))
"""Bits and sample format (1 unsigned, 2 signed, 3 floats) of grey TIFF that is read as it is."""

_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 0


@dataclass(frozen=True)
class PictureHeader:
    """What is known of a 2D image before its pixels are read.

    Parameters
    ----------
    size_xy : tuple of int
        Width and height, turned as the file asks for.
    num_channels : int
        1 or 3.
    """

    size_xy: tuple[int, int]
    num_channels: int


def is_picture(file: PurePath) -> bool:
    """Return whether a file is a 2D image by its name."""
    return file.suffix.lower() in PICTURE_ENDINGS


def visible_files(folder: Path) -> list[Path]:
    """Return all files below a folder but hidden ones, and those in hidden folders, which tools and systems add."""
    return [
        path for path in files_below(folder) if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def read_header(path: Path) -> PictureHeader:
    """Read the size of a 2D image.

    Raises
    ------
    InputError
        If the file cannot be read, has several pages, or colours other than grey and RGB.
    """
    with _opened(path) as image:
        num_channels = 1 if _mode(image, path) in (*_GREY, "LA") else 3
        turned = image.getexif().get(ExifTags.Base.Orientation) in _QUARTER_TURNS
        return PictureHeader(image.size[::-1] if turned else image.size, num_channels)


def read_picture(path: Path, *, as_stored: bool = False) -> npt.NDArray[Any]:
    """Read the pixels of a 2D image, turned as the file asks for, as annotation tools show it.

    Parameters
    ----------
    path : Path
        PNG, JPEG, TIFF or BMP; grey, RGB or with a palette; an opaque alpha channel is dropped.
    as_stored : bool
        Refuse a file that asks for being turned: a label map beside it, read as it is stored, would not fit.

    Returns
    -------
    ndarray, shape (channel, y, x)
        One grey channel, or red, green and blue, in the file's own numbers.

    Raises
    ------
    InputError
        If the file cannot be read, has several pages or other colours, or is transparent in parts.
    """
    with _opened(path) as image:
        if as_stored and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            raise InputError(
                f"Image '{path}' is stored turned by its orientation. Save it, and its label map, upright."
            )
        turned = ImageOps.exif_transpose(image)
        mode = _mode(turned, path)
        pixels = np.asarray(turned if mode == turned.mode else turned.convert(mode))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if mode in ("LA", "RGBA"):
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
        if alpha.min() < alpha.max():
            raise InputError(
                f"Image '{path}' is transparent in parts, so it is not clear what its pixels are. Save it without "
                "alpha channel."
            )
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0), pixels.dtype.newbyteorder("="))


def picture_grid(size_xy: tuple[int, int], spacing_mm_xy: tuple[float, float]) -> Grid:
    """Return the geometry of a 2D image: one slice, as thick as the longer side of a pixel.

    nnU-Net takes the axis of the largest spacing for the one that slices are stacked along: it must not be another one.
    """
    width, height = size_xy
    return Grid((0.0, 0.0, 0.0), (*spacing_mm_xy, max(spacing_mm_xy)), np.eye(3), (1, height, width))


def check_spacing(spacing_mm: Sequence[float]) -> tuple[float, float]:
    """Return the spacing along x and y, from one value for both or one for each.

    Raises
    ------
    InputError
        If there are more values, or any is no positive number up to 1000 mm.
    """
    if len(spacing_mm) not in (1, 2) or not all(0 < value <= 1000 for value in spacing_mm):
        raise InputError(
            f"--spacing-mm {' '.join(f'{value:g}' for value in spacing_mm)}: expected one positive number, or two, "
            "along x and along y, of at most 1000 mm."
        )
    return spacing_mm[0], spacing_mm[-1]


def channels_of(headers: Sequence[tuple[PurePath, PictureHeader]]) -> int:
    """Return the number of channels that all images have.

    Raises
    ------
    InputError
        If grey and colour images are mixed.
    """
    first = {header.num_channels: file for file, header in reversed(headers)}
    if len(first) > 1:
        grey = sum(header.num_channels == 1 for _, header in headers)
        raise InputError(
            f"Expected images of one kind, found {grey} in grey, such as '{first[1]}', and {len(headers) - grey} with "
            f"colours, such as '{first[3]}'. Save all with colours, or all in grey."
        )
    (num_channels,) = first
    return num_channels


def convert_pictures(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    spacing_mm: Sequence[float] = (1.0,),
    jobs: int = 1,
) -> Path:
    """Convert all 2D images below a folder to NIfTI images of one slice, as ``nnUNetv2_predict`` wants them.

    They are those that :func:`nnunet_wsl.conversion.convert_polygons` would write as image channels.

    Parameters
    ----------
    source : path
        Folder with PNG, JPEG, TIFF or BMP files, in any arrangement of folders. Case names come from their paths.
    output : path
        Folder to write ``CASE_0000.nii.gz``, and ``_0001`` and ``_0002`` for colours, to; it must not exist yet. It
        appears when all of it is written.
    spacing_mm : sequence of float
        Size of a pixel along x and y, or one value for both.
    jobs : int
        Number of images converted at the same time.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    InputError
        If anything is wrong with the input; all problems together.
    """
    spacing_mm_xy = check_spacing(spacing_mm)
    folder, target = Path(source), new_folder(output)
    if not folder.is_dir():
        raise InputError(f"Source '{folder}' is not a folder. Give the folder that holds the images.")
    paths = [path for path in visible_files(folder) if is_picture(path)]
    if not paths:
        raise InputError(
            f"No 2D image ({', '.join(PICTURE_ENDINGS)}) below '{folder}'. Give the folder that holds them."
        )
    headers, problems = for_all(read_header, paths, jobs, "Reading headers")
    if problems:
        raise InputError(problems)
    files = [path.relative_to(folder) for path in paths]
    num_channels = channels_of(list(zip(files, headers, strict=True)))
    with build_dataset(target, overwrite=False) as building:

        def write(named: tuple[str, Path]) -> None:
            name, path = named
            pixels = read_picture(path)
            for channel, plane in enumerate(pixels):
                grid = picture_grid((plane.shape[1], plane.shape[0]), spacing_mm_xy)
                write_volume(building / f"{name}_{channel:04d}{FILE_ENDING}", plane[None], grid)

        names = case_names([file.with_suffix("") for file in files])
        _, problems = for_all(write, list(zip(names, paths, strict=True)), jobs, "Converting images")
        if problems:
            raise InputError(problems)
    _LOG.info("Wrote %s with %s to %s.", counted(len(paths), "image"), counted(num_channels, "channel"), target)
    return target


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image of one page; what Pillow raises while it is read becomes an InputError."""
    try:
        with Image.open(path) as image:
            _check_pages(image, path)
            _check_numbers(image, path)
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"Image '{path}' has more than {2 * _MOST_PIXELS} pixels. Cut it into tiles.") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"Image '{path}' cannot be read: it is damaged, or of a kind that is not supported. Restore it, or save it "
            "as PNG."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(
            f"Image '{path}' cannot be read: {last_line(error).rstrip('.')}. Restore or remove it."
        ) from error


def _check_pages(image: Image.Image, path: Path) -> None:
    # Cameras add previews to a photograph, which are no pages.
    if (pages := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
        raise InputError(f"Image '{path}' has {pages} pages; expected one. Save each as a file of its own.")


def _check_numbers(image: Image.Image, path: Path) -> None:
    """Refuse what Pillow would cut to 8 bits per colour, or read as others than those of the file."""
    cut = image.mode not in _GREY and ";16" in str(getattr(image, "tile", ""))
    if tags := getattr(image, "tag_v2", None):
        samples, bits = tags.get(_SAMPLES, 1), max(tags.get(_BITS, (1,)))
        kind, inverted = tags.get(_SAMPLE_FORMAT, (1,))[0], tags.get(_PHOTOMETRIC) == 0
        plain = bits <= 8 and kind == 1 and samples <= 4
        cut = not plain and not (samples == 1 and not inverted and (bits, kind) in _DEEP_GREY)
        if tags.get(_ORIENTATION) in _QUARTER_TURNS:  # Pillow 13 mixes up the pixels of uncompressed ones
            raise InputError(f"Image '{path}' is a TIFF that is stored turned by its orientation. Save it upright.")
    if cut:
        raise InputError(
            f"Image '{path}' has numbers that would not be read as they are: expected 8 bits per colour, or grey of 16 "
            "bits or floats of 32. Convert it."
        )


def _mode(image: Image.Image, path: Path) -> str:
    """Return Pillow's mode that an image is read in."""
    mode = _CONVERTED.get(image.mode, image.mode)
    if mode not in (*_GREY, "LA", "RGB", "RGBA"):
        raise InputError(f"Image '{path}' has colours of mode {image.mode}; expected grey or RGB. Convert it.")
    return mode
