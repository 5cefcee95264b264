from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from relevance.strategies import masks_with_spacing

from nnunet_wsl.errors import InputError
from nnunet_wsl.relevance import RelevanceSettings, relevance_maps, relevance_maps_on_device

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=80)
@given(
    mask_spacing=masks_with_spacing(),
    mode=st.sampled_from(["distance", "intensity", "both"]),
    kernel=st.sampled_from(["gaussian", "exponential", "linear"]),
    search=st.sampled_from(["volume", "slice"]),
    sigma_mm=st.floats(0.05, 20.0),
    cutoff_mm=st.one_of(st.just(math.inf), st.floats(0.1, 40.0)),
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.float32, np.float64]),
)
def test_maps_are_those_of_the_processor(device, mask_spacing, mode, kernel, search, sigma_mm, cutoff_mm, dtype):
    mask, spacing_mm = mask_spacing
    image = np.random.default_rng(0).integers(0, 255, (2, *mask.shape)).astype(dtype)
    wanted = RelevanceSettings(
        mode=mode,
        kernel=kernel,
        search=search,
        sigma_mm=(sigma_mm, 1.0),
        cutoff_mm=(cutoff_mm, 3.0),
        intensity_scale=(20.0, 70.0),
    )
    contours = [mask, np.empty((0, mask.ndim), dtype=int)]
    found = relevance_maps_on_device(image, contours, spacing_mm, wanted, device=device)
    assert found.dtype == torch.float32
    assert found.device.type == device
    np.testing.assert_allclose(found.cpu().numpy(), relevance_maps(image, contours, spacing_mm, wanted), atol=1e-5)


def test_bad_input_is_refused_as_on_the_processor():
    wanted = RelevanceSettings(mode="both", sigma_mm=(1.0,), cutoff_mm=(3.0,), intensity_scale=(1.0,))
    with pytest.raises(InputError, match="not finite"):
        relevance_maps_on_device(np.full((1, 2, 3), np.nan), [[[0, 0]]], (1.0, 1.0), wanted, device="cpu")
    with pytest.raises(InputError, match="contours of 2 objects"):
        relevance_maps_on_device(np.zeros((1, 2, 3)), [[[0, 0]]] * 2, (1.0, 1.0), wanted, device="cpu")


def test_the_relevance_does_not_import_torch():
    code = "import sys, nnunet_wsl.relevance; sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_each_object_has_its_own_scales():
    """Voxels 0 to 4 mm from the contour of both objects."""
    wanted = RelevanceSettings(kernel="linear", sigma_mm=(2.0, 8.0), cutoff_mm=(1.5, 3.5))
    found = relevance_maps_on_device(None, [[[0, 0]]] * 2, (1.0, 1.0), wanted, device="cpu", shape=(1, 5))
    assert found[:, 0].tolist() == [[1, 0.5, 0, 0, 0], [1, 0.875, 0.75, 0.625, 0]]
