"""Soft-tissue sarcoma, T1-weighted MR: contours simulated from the masks of real structure sets.

    python benchmarks/accuracy/sarcoma_mr.py DATA --work FOLDER [--arms dense-stock dense-wsl] [--seeds 1 2 3]

DATA is the folder with the DICOM files of the data set (see dataset_conversion/Dataset501_SoftTissueSarcoma.py).
"""

from __future__ import annotations

from pathlib import Path

from command import DataSet, main
from sarcoma import masks_of_structure_sets

SARCOMA_MR = DataSet(
    name="sarcoma_mr",
    title="Soft-tissue sarcoma in T1-weighted MR",
    source="TCIA Soft-tissue-Sarcoma (IBSI validation set), T1-weighted MR with the tumour's contours",
    script=Path(__file__).name,
    labels={"tumour": 1},
    channel="MR",
    prepare=lambda data, work: masks_of_structure_sets(data, work, 502, "SoftTissueSarcomaMR", "MR"),
    tolerance_mm=3.0,
    cases=(8, 1, 7),
    features=(8, 16, 32, 64),
    patch_zyx=(48, 48, 48),
    spacing_mm_zyx=(3.27, 2.0, 2.0),  # a small patch then shows most of an image, which is cut around the tumour
)

if __name__ == "__main__":
    main(SARCOMA_MR, __doc__)
