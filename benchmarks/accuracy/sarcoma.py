"""Soft-tissue sarcoma, PET: contours simulated from the masks of real structure sets.

    python benchmarks/accuracy/sarcoma.py DATA --work FOLDER [--arms dense-stock dense-wsl] [--seeds 1 2 3]

DATA is the folder with the DICOM files of the data set (see dataset_conversion/Dataset501_SoftTissueSarcoma.py).
"""

from __future__ import annotations

from pathlib import Path

from command import FILE_ENDING, DataSet, main

from nnunet_wsl.conversion import ConversionSettings, convert_rtstruct
from nnunet_wsl.cores import usable_cores


def masks_of_structure_sets(data: Path, work: Path, dataset_id: int, name: str, modality: str) -> Path:
    """Convert the structure sets of one modality, which are drawn on every slice, to masks."""
    dense = work / "nnUNet_raw" / f"Dataset{dataset_id}_{name}"
    if not dense.exists():
        convert_rtstruct(
            data, dataset_id, name, rois={"tumour": "GTV_Mass.*"}, modality=modality,
            settings=ConversionSettings(relevance="none"), jobs=usable_cores(),
        )  # fmt: skip
    folder = work / "dense"
    for kind, source in (("images", "imagesTr"), ("labels", "labelsTr")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for file in (dense / source).glob(f"*{FILE_ENDING}"):
            link = folder / kind / f"{file.name.removesuffix(FILE_ENDING).removesuffix('_0000')}{FILE_ENDING}"
            if not link.exists():
                link.symlink_to(file)
    return folder


SARCOMA = DataSet(
    name="sarcoma",
    title="Soft-tissue sarcoma in PET",
    source="TCIA Soft-tissue-Sarcoma (IBSI validation set), PET with the tumour's contours",
    script=Path(__file__).name,
    labels={"tumour": 1},
    channel="PET",
    prepare=lambda data, work: masks_of_structure_sets(data, work, 501, "SoftTissueSarcomaPET", "PT"),
    tolerance_mm=4.0,
    cases=(14, 2, 14),
    features=(8, 16, 32, 64),
    patch_zyx=(),
)

if __name__ == "__main__":
    main(SARCOMA, __doc__)
