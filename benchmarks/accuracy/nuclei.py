"""Nuclei in fluorescence microscopy, 2D: contours traced around the union of the nuclei's masks, or around each.

    python benchmarks/accuracy/nuclei.py DATA --work FOLDER [--arms dense-stock dense-wsl] [--seeds 1 2 3]

DATA has a folder for each image of the Data Science Bowl 2018, with ``images`` and one mask per nucleus in ``masks``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from command import FILE_ENDING, POLYGONS, DataSet, main
from PIL import Image

from nnunet_wsl.contours import trace
from nnunet_wsl.contours.polygons import FIRST_PIXEL


def unite_nuclei(data: Path, work: Path) -> Path:
    """Write each image as one slice of its first colour, which all are equal to, and the union of its masks.

    And, as LabelMe does, each image with a polygon around every nucleus.
    """
    folder = work / "dense"
    (folder / POLYGONS).mkdir(parents=True, exist_ok=True)
    for case in sorted(path for path in data.iterdir() if path.is_dir()):
        name = case.name[:12]
        (image,) = (case / "images").iterdir()
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(image))[..., 0]
        masks = [sitk.GetArrayFromImage(sitk.ReadImage(mask)) > 0 for mask in sorted((case / "masks").iterdir())]
        for kind, plane in (("images", pixels), ("labels", np.any(masks, axis=0).astype(np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(plane[None]), folder / kind / f"{name}{FILE_ENDING}")
        polygons = [
            {"label": "nucleus", "shape_type": "polygon", "points": (line[:, ::-1] + FIRST_PIXEL).tolist()}
            for mask in masks
            for line in trace(mask)
        ]
        Image.fromarray(pixels).save(folder / POLYGONS / f"{name}.png")
        annotation = {"imagePath": f"{name}.png", "imageHeight": len(pixels), "imageWidth": len(pixels[0])}
        (folder / POLYGONS / f"{name}.json").write_text(json.dumps({"shapes": polygons, **annotation}))
    return folder


NUCLEI = DataSet(
    name="nuclei",
    title="Nuclei, 2D",
    source="Data Science Bowl 2018 (BBBC038), grey fluorescence images; lengths are in pixels",
    script=Path(__file__).name,
    labels={"nucleus": 1},
    channel="fluorescence",
    prepare=unite_nuclei,
    tolerance_mm=1.0,
    cases=(20, 10, 30),
    features=(8, 16, 32, 64, 128),
    patch_zyx=(128, 128),
    configuration="2d",
)

if __name__ == "__main__":
    main(NUCLEI, __doc__)
