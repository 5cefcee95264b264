"""Hippocampus, two objects, contours simulated from dense masks.

    python benchmarks/accuracy/hippocampus.py DATA --work FOLDER [--arms dense-stock dense-wsl] [--seeds 1 2 3]

DATA has the folders ``images`` and ``labels`` of the Medical Segmentation Decathlon's Task04.
"""

from __future__ import annotations

from pathlib import Path

from command import DataSet, main

HIPPOCAMPUS = DataSet(
    name="hippocampus",
    title="Hippocampus, simulated contours",
    source="Medical Segmentation Decathlon, Task04",
    script=Path(__file__).name,
    labels={"anterior": 1, "posterior": 2},
    channel="MRI",
    prepare=lambda data, _: data,
    tolerance_mm=1.0,
    cases=(20, 10, 50),
    features=(8, 16, 32, 64),
    patch_zyx=(32, 48, 32),
)

if __name__ == "__main__":
    main(HIPPOCAMPUS, __doc__)
