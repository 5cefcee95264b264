"""What annotation tools draw on 2D images, as contours: LabelMe's files, one per image, and COCO's, one for many."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nnunet_wsl.contours.contour import MAX_COORDINATE
from nnunet_wsl.contours.trace import trace
from nnunet_wsl.errors import InputError, counted, last_line
from nnunet_wsl.files import is_text

FIRST_PIXEL = 0.5
"""Coordinate of the centre of the first pixel, on both axes: both formats count from the corner of the image."""

_CIRCLE_POINTS = 64
_FEWEST_POINTS = {
    "polygon": 3, "linestrip": 2, "line": 2, "rectangle": 2, "circle": 2,
    # Boxes of any orientation: LabelMe's and X-AnyLabeling's.
    "oriented_rectangle": 4, "rotation": 4, "quadrilateral": 4,
}  # fmt: skip
_OPEN = ("linestrip", "line")

_MOST_PIXELS = 2**28
"""Of an image with masks: more than Pillow reads."""


@dataclass(frozen=True, eq=False)
class Shape:
    """What is drawn on an image at one go.

    Parameters
    ----------
    class_name : str
        What it is drawn around.
    number : int
        Which of the image's shapes it is, in the order of the file. The rings around a mask, and around its holes, are
        shapes of one number.
    points_xy : ndarray of float64, shape (N, 2)
        Points in pixels; none if it has a fault.
    closed : bool
        Whether the last point connects to the first.
    fault : str
        Why it is no contour, such as ``is a point``; empty if it is one.
    first_pixel : float, optional
        Coordinate of the centre of the first pixel, of masks, where it is known; else see `FIRST_PIXEL`.
    """

    class_name: str
    number: int
    points_xy: NDArray[np.float64]
    closed: bool = True
    fault: str = ""
    first_pixel: float | None = None


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """The shapes of one image.

    Parameters
    ----------
    file : str
        The image's file as the annotation names it, with ``/`` between folders.
    size_xy : tuple of int, optional
        Width and height that the annotation gives, in pixels.
    shapes : tuple of Shape
        In the order of the file.
    """

    file: str
    size_xy: tuple[int, int] | None
    shapes: tuple[Shape, ...]


def read_polygons(path: Path) -> list[AnnotatedImage]:
    """Read an annotation file of LabelMe or in COCO's format for object detection.

    LabelMe's polygons, rectangles (oriented ones too) and circles become closed contours, its lines and line strips
    open ones. The polygons of a COCO annotation are parts of one object. Contours are traced around masks, LabelMe's
    and COCO's run-length encoded ones. What else there is, such as points and boxes, becomes a shape with a fault.

    Parameters
    ----------
    path : Path
        The JSON file.

    Returns
    -------
    list of AnnotatedImage
        One for LabelMe; all images of a COCO file, those without shapes too.

    Raises
    ------
    InputError
        If the file cannot be read, is of another format, or contradicts itself; all problems together.

    Notes
    -----
    The centre of the first pixel lies at 0.5 in both: LabelMe draws on an image whose corner is the origin, and COCO's
    own rasterisation takes half a pixel off its coordinates (``rleFrPoly`` in its mask API).
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or last_line(error)
        raise InputError(f"Annotation file '{path}' cannot be read: {why}. Restore or remove it.") from error
    if isinstance(content, dict):
        if isinstance(content.get("shapes"), list) and isinstance(content.get("imagePath"), str):
            return [_read_labelme(content)]
        if all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
            return _read_coco(content, path)
    raise InputError(
        f"'{path}' is no annotation file: expected LabelMe's 'shapes' and 'imagePath', or COCO's 'images', "
        "'annotations' and 'categories'. Remove it, or leave it out with --exclude."
    )


def _read_labelme(content: Mapping[str, Any]) -> AnnotatedImage:
    shapes = [
        of_entry
        for number, shape in enumerate(content["shapes"], start=1)
        for of_entry in _labelme_shapes(shape if isinstance(shape, dict) else {}, number)
    ]
    return AnnotatedImage(
        _with_slashes(content["imagePath"]), _size(content, "imageWidth", "imageHeight"), tuple(shapes)
    )


def _labelme_shapes(shape: Mapping[str, Any], number: int) -> list[Shape]:
    class_name = shape.get("label")
    if isinstance(class_name, str) and is_text(class_name) and shape.get("shape_type") == "mask":
        return _around_mask(_labelme_mask(shape), class_name, number)
    return [_labelme_shape(shape, number)]


def _labelme_shape(shape: Mapping[str, Any], number: int) -> Shape:
    class_name, kind = shape.get("label"), shape.get("shape_type") or "polygon"  # old files have no type
    points = _points(shape.get("points"))
    if not isinstance(class_name, str) or not is_text(class_name):
        return _faulty("", number, "has no class")
    if not isinstance(kind, str) or kind not in _FEWEST_POINTS:
        return _faulty(class_name, number, f"is a {kind}")
    if points is None:
        return _faulty(class_name, number, "has points that are no pairs of numbers")
    if len(points) < _FEWEST_POINTS[kind]:
        return _faulty(class_name, number, f"is a {kind} of {len(points)} points")
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    elif kind == "circle":
        centre, on_circle = points[:2]
        angles = np.linspace(0, 2 * np.pi, _CIRCLE_POINTS, endpoint=False)
        radius = np.linalg.norm(on_circle - centre)
        points = centre + radius * np.column_stack([np.cos(angles), np.sin(angles)])
    return Shape(class_name, number, points, kind not in _OPEN)


def _read_coco(content: Mapping[str, Any], path: Path) -> list[AnnotatedImage]:
    problems: list[str] = []
    categories = dict(_by_id(content["categories"], "name", path, "categories", problems))
    images = dict(_by_id(content["images"], "file_name", path, "images", problems))
    shapes: dict[Hashable, list[Shape]] = {image_id: [] for image_id in images}
    sizes = {image_id: _size(image, "width", "height") for image_id, image in images.items()}
    lost: list[tuple[str, Any]] = []
    for annotation in content["annotations"]:
        annotation = annotation if isinstance(annotation, dict) else {}  # noqa: PLW2901
        image_id, category_id = _hashable(annotation.get("image_id")), _hashable(annotation.get("category_id"))
        if image_id not in images or category_id not in categories:
            lost.append(("image" if image_id not in images else "category", annotation.get("id")))
            continue
        of_image, segmentation = shapes[image_id], annotation.get("segmentation")
        if sizes[image_id] is None and isinstance(segmentation, dict):
            sizes[image_id] = _mask_size(segmentation)
        number = of_image[-1].number + 1 if of_image else 1
        of_image += _coco_shapes(segmentation, str(categories[category_id]["name"]), number, sizes[image_id])
    for kind in dict.fromkeys(kind for kind, _ in lost):
        numbers = [number for of, number in lost if of == kind]
        problems.append(
            f"'{path}': {counted(len(numbers), 'annotation')} with the id of no {kind}, such as annotation "
            f"{numbers[0]}. Correct or remove what names it."
        )
    if problems:
        raise InputError(problems)
    return [
        AnnotatedImage(_with_slashes(str(image["file_name"])), sizes[image_id], tuple(shapes[image_id]))
        for image_id, image in images.items()
    ]


def _by_id(
    entries: Sequence[Any], needed: str, path: Path, section: str, problems: list[str]
) -> Iterator[tuple[Hashable, Mapping[str, Any]]]:
    """Yield the entries of a section of a COCO file with their ids; report those without, and ids that come twice."""
    seen: set[Hashable] = set()
    for number, entry in enumerate(entries, start=1):
        if (
            not isinstance(entry, dict)
            or _hashable(entry.get("id")) is None
            or not entry.get(needed)
            or not is_text(str(entry[needed]))
        ):
            problems.append(f"'{path}', entry {number} of '{section}': expected 'id' and '{needed}'. Correct it.")
        elif (entry_id := _hashable(entry["id"])) in seen:
            problems.append(f"'{path}': the id {entry_id} comes twice in '{section}'. Correct it.")
        else:
            seen.add(entry_id)
            yield entry_id, entry


def _coco_shapes(segmentation: Any, class_name: str, number: int, size_xy: tuple[int, int] | None) -> list[Shape]:
    """Make shapes of one annotation, each polygon of it one."""
    if isinstance(segmentation, dict):
        return _around_mask(_coco_mask(segmentation, size_xy), class_name, number)
    if not isinstance(segmentation, list) or not segmentation:
        return [_faulty(class_name, number, "has no polygon, but a box at most")]
    shapes = []
    for i, flat in enumerate(segmentation, start=number):
        points = _points(list(zip(flat[::2], flat[1::2], strict=False))) if _is_even(flat) else None
        if points is None:
            shapes.append(_faulty(class_name, i, "has points that are no pairs of numbers"))
        elif len(points) < _FEWEST_POINTS["polygon"]:
            shapes.append(_faulty(class_name, i, f"is a polygon of {len(points)} points"))
        else:
            shapes.append(Shape(class_name, i, points))
    return shapes


@dataclass(frozen=True, eq=False)
class _Mask:
    """A part of an image, (y, x), whose first pixel is at the corner."""

    pixels: NDArray[np.bool_]
    corner_xy: tuple[int, int]


def _around_mask(mask: _Mask | str, class_name: str, number: int) -> list[Shape]:
    """Trace contours around a mask, and around its holes; instead of a mask there may be what is wrong with it."""
    if isinstance(mask, str):
        return [_faulty(class_name, number, mask)]
    rows = np.flatnonzero(mask.pixels.any(axis=1))
    if not len(rows):
        return [_faulty(class_name, number, "is a mask without a pixel")]
    left, top = mask.corner_xy
    rings = trace(mask.pixels[rows[0] : rows[-1] + 1])
    return [Shape(class_name, number, ring[:, ::-1] + (left, top + rows[0]), first_pixel=0.0) for ring in rings]


def _labelme_mask(shape: Mapping[str, Any]) -> _Mask | str:
    """Decode a mask of LabelMe: a PNG in base64, from the first corner of the shape to the second, both included."""
    corners = _points(shape.get("points"))
    try:
        encoded = "".join(shape["mask"].split())
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as image:
            pixels = np.asarray(image) != 0  # of a palette its indices, as LabelMe takes them
    except (AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError):
        return "is a mask that cannot be decoded"
    if pixels.ndim != 2:
        return "is a mask in colours"
    if corners is None or len(corners) != 2:
        return "is a mask without two corners"
    (left, top), (right, bottom) = np.rint(corners).astype(int)
    if pixels.shape != (bottom - top + 1, right - left + 1):
        return "is a mask of another size than its corners say"
    return _Mask(pixels, (int(left), int(top)))


def _coco_mask(segmentation: Mapping[str, Any], size_xy: tuple[int, int] | None) -> _Mask | str:
    """Decode a mask of COCO: the lengths of its runs, column by column, of pixels outside and inside in turn."""
    own_size_xy, counts = _mask_size(segmentation), segmentation.get("counts")
    if own_size_xy is None:
        return "is a mask without a possible size"
    if own_size_xy != size_xy:
        return "is a mask of another size than its image"
    width, height = own_size_xy
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and 0 <= run <= height * width for run in runs):
        return "is a mask that cannot be decoded"
    if sum(runs) != height * width:
        return f"is a mask whose runs do not add up to {height} x {width} pixels"
    ends = np.cumsum(runs)
    inside = [(start, end) for start, end in zip(ends[:-1:2], ends[1::2], strict=False) if start < end]
    if not inside:
        return "is a mask without a pixel"
    # Of large images, the columns of the object only.
    left, right = inside[0][0] // height, (inside[-1][1] - 1) // height + 1
    pixels = np.zeros((right - left) * height, bool)
    for start, end in inside:
        pixels[start - left * height : end - left * height] = True
    return _Mask(pixels.reshape(-1, height).T, (int(left), 0))


def _mask_size(segmentation: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return width and height of a mask of COCO, which has them the other way round; None if none are possible."""
    size = segmentation.get("size")
    lengths = [_whole(length) for length in size] if isinstance(size, list) else []
    if len(lengths) != 2 or not all(isinstance(length, int) and 0 < length <= _MOST_PIXELS for length in lengths):
        return None
    height, width = lengths
    return (width, height) if height * width <= _MOST_PIXELS else None


def _runs(text: str) -> list[int] | None:
    """Decode COCO's compressed runs (``rleFrString`` of its mask API); None if they are none.

    Groups of five bits, the lowest first, a character each: 32 more says that another follows, and 16 in the last that
    the number is negative. From the fourth on, each is the difference to the one before the last.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > _MOST_PIXELS.bit_length():
            return None
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    return runs if shift == 0 else None


def _is_even(flat: Any) -> bool:
    return isinstance(flat, list) and len(flat) % 2 == 0


def _faulty(class_name: str, number: int, fault: str) -> Shape:
    return Shape(class_name, number, np.empty((0, 2)), fault=fault)


def _points(pairs: Any) -> NDArray[np.float64] | None:
    """Return points of shape (N, 2); None if any is no pair of numbers of a possible size."""
    try:
        if not all(type(value) in (int, float) for pair in pairs for value in pair):
            return None
        points = np.array(pairs, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if points.size == 0:
        return np.empty((0, 2))
    return points if points.ndim == 2 and points.shape[1] == 2 and (np.abs(points) <= MAX_COORDINATE).all() else None


def _size(content: Mapping[str, Any], width: str, height: str) -> tuple[int, int] | None:
    size = _whole(content.get(width)), _whole(content.get(height))
    return (size[0], size[1]) if isinstance(size[0], int) and isinstance(size[1], int) else None


def _whole(value: Any) -> Any:
    """Return a number or text as an int if it is whole."""
    try:
        return int(value) if not isinstance(value, bool) and float(value) == int(float(value)) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _hashable(value: Any) -> int | str | None:
    return value if isinstance(value, (int, str)) else _whole(value)


def _with_slashes(file: str) -> str:
    """Return a path of any system with slashes."""
    return PureWindowsPath(file).as_posix()
