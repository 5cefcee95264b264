"""Label maps on disk: pairing them, reading them as nnU-Net does, and checking that two lie on one grid."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_wsl.errors import InputError, last_line
from nnunet_wsl.evaluation.objects import ScoredLabels
from nnunet_wsl.files import check_complete, is_text

_LOG = logging.getLogger(__name__)

_NNUNETS_OWN = (".json", ".npz", ".pkl")
"""Endings of what nnU-Net writes beside its predictions."""

_MAX_SHIFT_VOX = 0.1
"""Headers round: corners of the image may differ by this share of the smallest spacing."""


@dataclass(frozen=True)
class LabelMap:
    """A label map and where it lies.

    Parameters
    ----------
    values : ndarray of int32, shape (z, y, x)
        A 2D image has one slice.
    spacing_mm_zyx : tuple of float
        Voxel spacing; images without, such as PNG, have 1 in the plane.
    corners_mm : ndarray of float64, shape (8, 3) or (4, 2)
        Physical positions of the first and last voxels; of formats without geometry, of the spacing alone.
    """

    values: npt.NDArray[np.int32]
    spacing_mm_zyx: tuple[float, float, float]
    corners_mm: npt.NDArray[np.float64]


@dataclass(frozen=True)
class CasePair:
    """The files of one case.

    Parameters
    ----------
    name : str
        File name without the ending.
    pred, ref : Path
        Prediction and reference.
    """

    name: str
    pred: Path
    ref: Path


def pair_cases(pred: Path, ref: Path, ending: str, *, predicted_only: bool = False) -> list[CasePair]:
    """Find the prediction of every reference; files with another ending are named in a warning.

    Parameters
    ----------
    pred, ref : Path
        Folders.
    ending : str
        File ending of the label maps.
    predicted_only : bool
        Whether references without prediction are left out.

    Returns
    -------
    list of CasePair
        Sorted by case.

    Raises
    ------
    InputError
        If a folder has no label maps or cases are missing on one side.
    """
    found = {}
    problems = []
    for option, folder in (("--pred", pred), ("--ref", ref)):
        found[folder] = _label_files(folder, ending)
        if not found[folder]:
            problems.append(f"{option} '{folder}' has no label maps: expected files that end in '{ending}'.")
        if unreadable := sorted(ascii(name)[1:-1] for name in found[folder] if not is_text(name)):
            problems.append(
                f"The names of files in {option} '{folder}' are no UTF-8: {_listed(unreadable)}. Rename them."
            )
    if problems:
        raise InputError(problems)
    for option, folder in (("--pred", pred), ("--ref", ref)):
        others = sorted(
            path.name for path in _visible(folder) if path.is_file() and not path.name.endswith((ending, *_NNUNETS_OWN))
        )
        if others:
            _LOG.warning("Left out files of %s, which do not end in '%s': %s", option, ending, _listed(others))
    predicted, references = found[pred], found[ref]
    problems = [
        f"Case '{case}' has no reference: expected '{ref / predicted[case].name}'. "
        "Remove the prediction or add the reference."
        for case in sorted(predicted.keys() - references.keys())
    ]
    if not predicted_only:
        problems += [
            f"Case '{case}' has no prediction: expected '{pred / references[case].name}'. "
            "Predict it, or pass --predicted-only to leave such cases out."
            for case in sorted(references.keys() - predicted.keys())
        ]
    if problems:
        raise InputError(problems)
    return [CasePair(case, predicted[case], references[case]) for case in sorted(predicted)]


def read_pair(pair: CasePair, reader: Any, labels: ScoredLabels) -> tuple[LabelMap, LabelMap]:
    """Read prediction and reference of a case and check that they fit together.

    Parameters
    ----------
    pair : CasePair
        Their files.
    reader : nnunetv2 BaseReaderWriter
        nnU-Net's reader of the format.
    labels : ScoredLabels
        The values that may occur.

    Raises
    ------
    InputError
        If a file cannot be read, has unknown values, the grids differ, or nothing is left to score; all that is
        wrong with the case.
    """
    maps = []
    problems = []
    for role, path, allowed in (
        ("prediction", pair.pred, labels.predictable),
        ("reference", pair.ref, labels.known),
    ):
        try:
            label_map = _read(path, reader)
        except InputError as error:
            problems += [f"Case '{pair.name}': {problem}" for problem in error.problems]
            continue
        known = np.isin(label_map.values, list(allowed))
        if not known.all():
            unknown = np.unique(label_map.values[~known]).tolist()
            problems.append(
                f"Case '{pair.name}': the {role} '{path}' has the values {_listed(unknown)}; dataset.json knows "
                f"{_listed(sorted(allowed))}. Check that both belong to this dataset."
            )
        maps.append(label_map)
    if len(maps) == 2:
        problems += [f"Case '{pair.name}': {difference}" for difference in _grid_differences(*maps)]
        if labels.ignore is not None and (maps[1].values == labels.ignore).all():
            problems.append(f"Case '{pair.name}': the reference is 'ignore' everywhere. Leave it out.")
    if problems:
        raise InputError(problems)
    return maps[0], maps[1]


def _label_files(folder: Path, ending: str) -> dict[str, Path]:
    # Links to nowhere, and even folders, count: they must not go unnoticed, and cannot be read.
    return {path.name.removesuffix(ending): path for path in _visible(folder) if path.name.endswith(ending)}


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _read(path: Path, reader: Any) -> LabelMap:
    try:
        check_complete(path)
        values, properties = reader.read_seg(str(path))
    except Exception as error:  # nnU-Net's readers pass on whatever their libraries raise
        raise InputError(f"'{path}' cannot be read as an image ({last_line(error)}). Write it again.") from error
    if values.shape[0] != 1 or len(properties["spacing"]) != 3:
        raise InputError(
            f"'{path}' has channels or more than three dimensions; expected one value per voxel. Write it again."
        )
    with np.errstate(invalid="ignore"):  # what does not fit is told below
        integers = values[0].astype(np.int32)
    if not np.array_equal(integers, values[0]):
        fit = np.abs(values[0]) < 2**31  # nor is NaN
        what = "no integers" if fit.all() else f"no label values, such as {values[0][~fit][0]}"
        raise InputError(f"'{path}' has values that are {what}; expected label values. Is it a label map?")
    z, y, x = (float(value) for value in properties["spacing"])
    return LabelMap(integers, (z, y, x), _corners_mm(integers.shape, properties))


def _corners_mm(shape_zyx: tuple[int, ...], properties: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    if "nibabel_stuff" in properties:
        geometry = properties["nibabel_stuff"]
        affine = np.asarray(geometry.get("reoriented_affine", geometry["original_affine"]), np.float64)
        axes, origin = affine[:3, :3], affine[:3, 3]
    elif "sitk_stuff" in properties:
        geometry = properties["sitk_stuff"]
        origin, spacing = (np.asarray(geometry[name])[:3] for name in ("origin", "spacing"))  # one volume may have 4
        axes = np.reshape(geometry["direction"], (len(geometry["origin"]), -1))[:3, :3] * spacing
    else:
        axes, origin = np.diag(np.asarray(properties["spacing"], np.float64)[::-1]), np.zeros(3)
    last_xyz = np.asarray(shape_zyx[::-1][: len(origin)]) - 1
    index_xyz = np.array(list(itertools.product((0, 1), repeat=len(origin)))) * last_xyz
    corners: npt.NDArray[np.float64] = index_xyz @ axes.T + origin
    return corners


def _grid_differences(pred: LabelMap, ref: LabelMap) -> list[str]:
    if pred.corners_mm.shape != ref.corners_mm.shape:
        return ["one of prediction and reference is a 2D image, the other a volume. Write both alike."]
    if pred.values.shape != ref.values.shape:
        return [
            f"the prediction has shape {pred.values.shape}, the reference {ref.values.shape} (z, y, x). "
            "Predict on the images that the reference was drawn on."
        ]
    if not np.allclose(pred.spacing_mm_zyx, ref.spacing_mm_zyx, rtol=1e-3):
        return [
            f"the prediction has spacing {_spacing(pred)} mm, the reference {_spacing(ref)} mm (z, y, x). "
            "Predict on the images that the reference was drawn on."
        ]
    shift_mm = np.linalg.norm(pred.corners_mm - ref.corners_mm, axis=1).max()
    allowed_mm = _MAX_SHIFT_VOX * min(ref.spacing_mm_zyx)
    if not shift_mm <= allowed_mm:  # which is also so if it is not a number
        return [
            f"prediction and reference lie up to {shift_mm:.3g} mm apart (allowed {allowed_mm:.2g} mm): their origins, "
            "directions or spacings differ. Predict on the images that the reference was drawn on."
        ]
    return []


def _spacing(label_map: LabelMap) -> str:
    return "(" + ", ".join(f"{value:g}" for value in label_map.spacing_mm_zyx) + ")"


def _listed(values: list[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:10])
    return shown if len(values) <= 10 else f"{shown} and {len(values) - 10} more"
