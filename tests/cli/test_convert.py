"""Every option of ``nnunet_wsl convert`` reaches the conversion; what it does there is tested with the conversion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_wsl import conversion
from nnunet_wsl.cli.main import main
from nnunet_wsl.conversion import ConversionSettings, Simulation

DATASET = ["--dataset", "7", "--name", "Test"]
SHARED = [
    "--relevance", "fused", "--relevance-mode", "both", "--sigma-mm", "2", "3", "--intensity-scale", "40",
    "--annotated", "all", "--annotated-margin", "2", "--between", "interpolate", "--contour-sigma-mm", "0.5",
    "--missing", "absent", "--overlap", "regions", "--overwrite", "--jobs", "3",
]  # fmt: skip
SETTINGS = ConversionSettings(
    relevance="fused",
    relevance_mode="both",
    sigma_mm=(2.0, 3.0),
    intensity_scale=(40.0,),
    annotated="all",
    annotated_margin=2,
    between="interpolate",
    contour_sigma_mm=0.5,
    missing="absent",
    overlap="regions",
)
CLIPPED = replace(SETTINGS, outside="clip")
RUN = {"overwrite": True, "jobs": 3}


@pytest.fixture
def calls(monkeypatch):
    """What was called instead of a conversion: its name, and what it was called with."""
    calls = []

    def record(name):
        return lambda *args, **kwargs: calls.append((name, args, kwargs))

    for name in ("rtstruct", "text", "polygons", "masks", "images", "pictures"):
        monkeypatch.setattr(conversion, f"convert_{name}", record(name))
    return calls


def test_rtstruct(calls):
    options = ["--roi", "tumour=GTV.*", "--roi", "heart=Heart", "--modality", "PT", "--outside", "clip"]
    assert main(["convert", "rtstruct", "source", *DATASET, *SHARED, *options]) == 0
    rois = {"tumour": "GTV.*", "heart": "Heart"}
    assert calls == [
        ("rtstruct", ("source", 7, "Test"), {"rois": rois, "modality": "PT", "settings": CLIPPED, **RUN}),
    ]


def test_text(calls):
    options = ["--contour", "a=a{instance}", "--exclude", "x", "--exclude", "y", "--modality", "MR"]
    assert main(
        ["convert", "text", "source", *DATASET, *SHARED, *options, "--first-pixel", "0.5", "--outside", "clip"]
    ) == 0  # fmt: skip
    expected = {
        "contours": {"a": "a{instance}"},
        "exclude": ["x", "y"],
        "modality": "MR",
        "first_pixel": 0.5,
        "settings": CLIPPED,
    }
    assert calls == [("text", ("source", 7, "Test"), {**expected, **RUN})]


def test_polygons(calls):
    options = [
        "--label", "cell=c.*", "--exclude", "x", "--channel", "R", "--channel", "G", "--channel", "B",
        "--spacing-mm", "0.7", "1.3", "--group", "p[0-9]", "--first-pixel", "1", "--outside", "clip",
    ]  # fmt: skip
    assert main(["convert", "polygons", "source", *DATASET, *SHARED, *options]) == 0
    expected = {
        "labels": {"cell": "c.*"},
        "exclude": ["x"],
        "channels": ["R", "G", "B"],
        "spacing_mm": [0.7, 1.3],
        "group": "p[0-9]",
        "first_pixel": 1.0,
        "settings": CLIPPED,
    }
    assert calls == [("polygons", ("source", 7, "Test"), {**expected, **RUN})]


def test_masks(calls):
    options = [
        "--images", "images", "--labels", "labels", "--label", "tumour=2", "--channel", "CT", "--plane", "coronal",
        "--every", "4", "--jitter-mm", "0.5", "--drop", "0.25", "--open", "0.75", "--seed", "9", "--spacing-mm", "2",
    ]  # fmt: skip
    assert main(["convert", "masks", *DATASET, *SHARED, *options]) == 0
    expected = {
        "label_values": {"tumour": 2},
        "channels": ["CT"],
        "simulation": Simulation(every=4, jitter_mm=0.5, drop=0.25, opened=0.75, seed=9),
        "plane": "coronal",
        "spacing_mm": [2.0],
        "settings": SETTINGS,
    }
    assert calls == [("masks", ("images", "labels", 7, "Test"), {**expected, **RUN})]


def test_images(calls):
    assert main(["convert", "images", "source", "-o", "out", "--modality", "CT", "--jobs", "3"]) == 0
    assert main(["convert", "images", "source", "-o", "out", "--kind", "2d", "--spacing-mm", "2", "--jobs", "3"]) == 0
    assert calls == [
        ("images", ("source", "out"), {"modality": "CT", "jobs": 3}),
        ("pictures", ("source", "out"), {"spacing_mm": [2.0], "jobs": 3}),
    ]


def test_defaults(calls):
    """What is not drawn is an error, but in text files of cine series, where labels are often drawn on some phases."""
    for kind in ("rtstruct", "text", "polygons"):
        assert main(["convert", kind, "source", *DATASET]) == 0
    rtstruct, text, polygons = (kwargs for _, _, kwargs in calls)
    assert rtstruct["settings"] == polygons["settings"] == ConversionSettings()
    assert text["settings"] == ConversionSettings(missing="unknown")
    assert (text["first_pixel"], polygons["first_pixel"], polygons["spacing_mm"]) == (1.0, 0.5, (1.0,))
    assert rtstruct["rois"] is text["contours"] is polygons["labels"] is None
    assert not any(of_kind["overwrite"] for of_kind in (rtstruct, text, polygons))


def test_a_file_of_annotated_slices(calls):
    assert main(["convert", "rtstruct", "source", *DATASET, "--annotated", "slices.csv"]) == 0
    ((_, _, kwargs),) = calls
    assert kwargs["settings"] == ConversionSettings(annotated_file=Path("slices.csv"))
