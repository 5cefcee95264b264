"""Interpolation where objects end: 130 hippocampi, every k-th slice of the image known, from each of the first k on.

Run: ``python benchmarks/interpolation_ends.py HIPPOCAMPUS --output benchmarks/interpolation_ends.json``

HIPPOCAMPUS is the folder of the Medical Segmentation Decathlon's Task04 with ``images`` and ``labels``. Both labels are
objects of their own. The slices on which the annotator found nothing are known too, as ``nnunet_wsl convert`` takes
them to be. Voxels count on three kinds of undrawn slices:

middle     between two that show the object, with others that do on both sides.
next to the end  between the outermost two that show it.
end        between one that shows the object and one that does not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_wsl.conversion.between import CERTAINTY, interpolate

STEPS = (3, 4, 5, 8)
DEVELOPMENT_CASES = 20
KINDS = ("middle", "next to the end", "end")
COUNTS = ("truth", "found", "both", "sure of truth", "surely missed", "surely inside", "surely too much")
MARGIN_VOX = 8

Mask = NDArray[np.bool_]


def kinds(shows: Mask, known: Mask) -> NDArray[np.int64]:
    """Kind of every undrawn slice; -1 for all others."""
    result = np.full(len(known), -1)
    slices = np.flatnonzero(known)
    shown = shows[slices]
    for i in range(len(slices) - 1):
        between = slice(slices[i] + 1, slices[i + 1])
        if shown[i] and shown[i + 1]:
            is_inner = i > 0 and i + 2 < len(slices) and shown[i - 1] and shown[i + 2]
            result[between] = KINDS.index("middle" if is_inner else "next to the end")
        elif shown[i] or shown[i + 1]:
            result[between] = KINDS.index("end")
    return result


def counts(truth: Mask, image: NDArray[Any], spacing_mm_zyx: tuple[float, ...], step: int) -> NDArray[np.int64]:
    """Voxels of each kind, shape (kinds, counts), summed over the slices to begin with."""
    result = np.zeros((len(KINDS), len(COUNTS)), dtype=np.int64)
    shows = np.asarray(truth.any(axis=(1, 2)))
    for start in range(step):
        known = np.zeros(len(truth), dtype=np.bool_)
        known[start::step] = True
        if not (known & shows).any():
            continue
        interpolation = interpolate(truth & known[:, np.newaxis, np.newaxis], known, spacing_mm_zyx, image[np.newaxis])
        found, sure = interpolation.mask, interpolation.confident()
        slice_kinds = kinds(shows, known)
        voxels = (truth, found, truth & found, sure & truth, sure & truth & ~found, sure & found, sure & found & ~truth)
        for kind in range(len(KINDS)):
            result[kind] += [np.count_nonzero(one[slice_kinds == kind]) for one in voxels]
    return result


def summary(count: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    rows = {}
    for kind, row in zip(KINDS, count.tolist(), strict=True):
        number = dict(zip(COUNTS, row, strict=True))
        truth = number["truth"]
        if truth:
            rows[kind] = {
                "voxels": truth,
                "dice": 2 * number["both"] / (truth + number["found"]),
                "volume_ratio": number["found"] / truth,
                "sure_share": number["sure of truth"] / truth,
                "missed_share": number["surely missed"] / truth,
                "too_much_share": number["surely too much"] / max(number["surely inside"], 1),
            }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images and labels")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    files = sorted((args.data / "labels").glob("*.nii.gz"))
    totals = {(step, part): np.zeros((len(KINDS), len(COUNTS)), np.int64) for step in STEPS for part in (0, 1)}
    for number, file in enumerate(tqdm(files, "Cases", delay=2)):
        labels = sitk.ReadImage(file)
        image = sitk.GetArrayFromImage(sitk.ReadImage(args.data / "images" / file.name))
        label_map = sitk.GetArrayFromImage(labels)
        for label in (1, 2):
            truth = label_map == label
            y, x = (
                slice(max(axis.min() - MARGIN_VOX, 0), axis.max() + MARGIN_VOX + 1) for axis in np.nonzero(truth)[1:]
            )
            for step in STEPS:
                totals[step, int(number >= DEVELOPMENT_CASES)] += counts(
                    truth[:, y, x], image[:, y, x], labels.GetSpacing()[::-1], step
                )
    results: dict[str, Any] = {
        "command": "python benchmarks/interpolation_ends.py HIPPOCAMPUS --output benchmarks/interpolation_ends.json",
        "cases": len(files),
        "development_cases": DEVELOPMENT_CASES,
        "certainty": CERTAINTY,
        "steps": {
            str(step): {
                "all cases": summary(totals[step, 0] + totals[step, 1]),
                "other cases": summary(totals[step, 1]),
            }
            for step in STEPS
        },
    }
    for step, parts in results["steps"].items():
        for kind, row in parts["other cases"].items():
            print(f"every {step}, {kind}: {', '.join(f'{name} {value:.4g}' for name, value in row.items())}")
    if args.output:
        rounded = json.loads(json.dumps(results), parse_float=lambda number: round(float(number), 4))
        args.output.write_text(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
