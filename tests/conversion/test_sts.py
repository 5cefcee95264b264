"""The soft-tissue sarcoma data against the masks of their publisher."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_wsl.conversion import ConversionSettings, convert_rtstruct

DATA = os.environ.get("NNUNET_WSL_TEST_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="NNUNET_WSL_TEST_DATA is not set")


def test_the_script_of_this_dataset(tmp_path):
    for patient in ("STS_001", "STS_002"):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / patient).symlink_to(Path(str(DATA), "sts", "dicom", patient))
    script = Path(__file__).parents[2] / "dataset_conversion" / "Dataset501_SoftTissueSarcoma.py"
    command = [sys.executable, script, tmp_path / "source", "--modality", "MR", "--jobs", "1"]
    subprocess.run(command, check=True, env=os.environ | {"nnUNet_raw": str(tmp_path / "raw")}, capture_output=True)
    (target,) = (tmp_path / "raw").iterdir()
    assert target.name == "Dataset502_SoftTissueSarcomaMR"
    images = ["STS_001_0000.nii.gz", "STS_001_0001.nii.gz", "STS_002_0000.nii.gz", "STS_002_0001.nii.gz"]
    assert sorted(path.name for path in (target / "imagesTr").iterdir()) == images


@pytest.mark.parametrize(("modality", "kind", "count"), [("PT", "PET", 30), ("MR", "MR_T1", 16)])
def test_masks_equal_the_publishers_in_physical_space(tmp_path, monkeypatch, modality, kind, count):
    sts = Path(str(DATA)) / "sts"
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    target = convert_rtstruct(
        sts / "dicom",
        501,
        kind,
        rois={"tumour": "GTV_Mass.*"},
        modality=modality,
        settings=ConversionSettings(relevance="none"),
    )
    dice = {}
    for path in sorted((target / "labelsTr").iterdir()):
        case = path.name.removesuffix(".nii.gz")
        ours = sitk.ReadImage(str(path))
        theirs = sitk.ReadImage(str(sts / "mask_nifti" / case / f"{kind}_mask.nii.gz"))
        theirs = sitk.Resample(theirs, ours, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        a, b = sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs) > 0
        assert set(np.unique(a)) == {0, 1}
        dice[case] = 2 * np.count_nonzero((a == 1) & b) / (np.count_nonzero(a == 1) + np.count_nonzero(b))
    assert len(dice) == count
    assert {case: value for case, value in dice.items() if value < 0.999} == {}
