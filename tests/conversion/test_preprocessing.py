"""What nnU-Net makes of a converted dataset, with and without relevance channels."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import blosc2
import numpy as np
import pytest
from conversion.phantom import RECTANGLE_YX, grid, voxels, write_contours, write_series

from nnunet_wsl.conversion import ConversionSettings, convert_rtstruct

pytestmark = pytest.mark.slow

SHAPE_ZYX = (9, 34, 45)


def write_patients(source):
    """Three patients with a wide zero border, which nnU-Net crops, and contours that reach into it."""
    for seed, name in enumerate(["ann", "bob", "cid"]):
        volume = voxels(seed, SHAPE_ZYX)
        volume[:2] = volume[:, :9] = volume[:, :, -14:] = 0
        headers = write_series(source / name / "image", volume=volume, series=name, frame=name)
        wide = RECTANGLE_YX * np.array([4, 4]) + np.array([0, 4 + seed])  # y 6..18, x 14..38
        write_contours(
            source / name / "rs" / "rs.dcm", headers, {"GTV": {k: [wide] for k in range(1, 7)}}, grid(SHAPE_ZYX)
        )


def test_relevance_channels_change_neither_images_nor_plans(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    write_patients(tmp_path / "source")
    convert_rtstruct(tmp_path / "source", 501, "With", settings=ConversionSettings(sigma_mm=(9.0,)))
    convert_rtstruct(tmp_path / "source", 502, "Without", settings=ConversionSettings(relevance="none"))
    command = "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as e"
    arguments = ["-d", "501", "502", "-c", "3d_fullres", "-npfp", "1", "-np", "1"]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{command}; e()", *arguments],
        check=True,
        env=os.environ.copy(),
        capture_output=True,
    )
    folders = [tmp_path / "nnUNet_preprocessed" / name for name in ("Dataset501_With", "Dataset502_Without")]
    with_plans, without_plans = (json.loads((folder / "nnUNetPlans.json").read_text()) for folder in folders)
    for configuration, theirs in without_plans["configurations"].items():
        ours = with_plans["configurations"][configuration]
        assert {key for key in theirs if ours[key] != theirs[key]} <= {"normalization_schemes", "use_mask_for_norm"}
        if "normalization_schemes" in theirs:
            assert ours["normalization_schemes"] == [*theirs["normalization_schemes"], "NoNormalization"]
            assert ours["use_mask_for_norm"] == [*theirs["use_mask_for_norm"], False]
    with_data, without_data = (folder / "nnUNetPlans_3d_fullres" for folder in folders)
    for name in ("ann", "bob", "cid"):
        ours, theirs = (blosc2.open(str(folder / f"{name}.b2nd"))[:] for folder in (with_data, without_data))
        assert ours.shape == (2, *theirs.shape[1:])
        assert theirs.shape[1:] == (7, 25, 31)  # cropped to where the image is not zero
        assert ours[0].tobytes() == theirs[0].tobytes()
        assert (ours[1] > 0.5).any()
        ours, theirs = (blosc2.open(str(folder / f"{name}_seg.b2nd"))[:] for folder in (with_data, without_data))
        assert ours.tobytes() == theirs.tobytes()
    assert (folders[0] / "splits_final.json").read_bytes() == (folders[1] / "splits_final.json").read_bytes()
