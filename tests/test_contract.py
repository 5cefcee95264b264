from __future__ import annotations

import pickle

import pytest

from nnunet_wsl.contract import FORMAT_VERSION, RelevanceChannels, target_channels
from nnunet_wsl.errors import InputError

FOUR = ("T1", "T2", "noNorm", "noNorm")


def dataset_json(channels=FOUR, relevance=None, version=FORMAT_VERSION, confidence=None):
    relevance = {"2": "GTV", "3": "lung"} if relevance is None else relevance
    block = {"format_version": version, "package_version": "9.9", "relevance_channels": relevance}
    if confidence is not None:
        block["confidence_channels"] = confidence
    return {"channel_names": {str(i): c for i, c in enumerate(channels)}, "wsl": block}


def test_reads_and_removes_the_relevance_channels():
    content = dataset_json()
    channels = RelevanceChannels.from_dataset_json(content, "Dataset001_X")
    assert channels == RelevanceChannels(2, ("GTV", "lung"))
    assert channels.image_dataset_json(content)["channel_names"] == {"0": "T1", "1": "T2"}
    plans = {
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(4)},
        "configurations": {
            "2d": {"normalization_schemes": list("abcd"), "use_mask_for_norm": [True] * 4},
            "3d_lowres": {"inherits_from": "3d_fullres"},
        },
    }
    images = channels.image_plans(plans)
    assert list(images["foreground_intensity_properties_per_channel"]) == ["0", "1"]
    assert images["configurations"]["2d"] == {"normalization_schemes": ["a", "b"], "use_mask_for_norm": [True] * 2}
    assert len(plans["configurations"]["2d"]["use_mask_for_norm"]) == 4  # the original stays


def test_reads_and_removes_the_confidence_channels():
    content = dataset_json((*FOUR, "noNorm", "noNorm"), confidence={"4": "GTV", "5": "lung"})
    channels = RelevanceChannels.from_dataset_json(content, "Dataset001_X")
    assert channels == RelevanceChannels(2, ("GTV", "lung"), has_confidence=True)
    assert channels.image_dataset_json(content)["channel_names"] == {"0": "T1", "1": "T2"}


def test_reads_datasets_of_the_version_without_confidence():
    channels = RelevanceChannels.from_dataset_json(dataset_json(version=1), "Dataset001_X")
    assert channels == RelevanceChannels(2, ("GTV", "lung"), has_confidence=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"channel_names": {"0": "CT"}}, "no block 'wsl'.*nnunet_wsl convert"),
        (dataset_json(relevance={}), "--relevance none.*nnunet_wsl convert"),
        (dataset_json(version=FORMAT_VERSION + 1), "written by nnunet_wsl 9.9.*Install a newer nnunet_wsl"),
        (dataset_json(version=None), "format version null"),
        (dataset_json(relevance={"1": "GTV"}), r"relevance channels \[1\] and confidence channels \[\] among 4"),
        (dataset_json(channels=("noNorm",), relevance={"0": "GTV"}), "image channels first"),
        (dataset_json(confidence={"1": "lung"}), r"confidence channels \[1\] among 4"),
        (dataset_json((*FOUR, "noNorm"), confidence={"4": "GTV"}), "relevance of GTV, lung, but confidence of GTV;"),
    ],
)
def test_says_what_is_wrong_and_what_to_run(content, message):
    with pytest.raises(InputError, match=message) as caught:
        RelevanceChannels.from_dataset_json(content, "Dataset007_Y")
    assert "Dataset007_Y" in str(caught.value)


def test_input_errors_cross_process_borders():
    error = InputError(["one", "two"])
    assert pickle.loads(pickle.dumps(error)).problems == ("one", "two")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(wsl=[1]), "the block 'wsl' of its dataset.json is no JSON object"),
        (lambda d: d["wsl"].update(relevance_channels=["2", "3"]), 'has the relevance_channels ["2", "3"]'),
        (lambda d: d["wsl"].update(relevance_channels={"x": "GTV"}), 'has the relevance_channels {"x": "GTV"}'),
        (lambda d: d["wsl"].update(relevance_channels={"2": "GTV", "3": "GTV"}), "expected another object's name"),
        (lambda d: d["wsl"].update(relevance_channels={"2": None, "3": "lung"}), "expected another object's name"),
        (lambda d: d["wsl"].update(confidence_channels=None), "has the confidence_channels null"),
        (lambda d: d["wsl"].update(format_version="2"), 'has format version "2"'),
        (lambda d: d["wsl"].update(format_version=True), "has format version true"),
        (lambda d: d["wsl"].update(format_version=0), "has format version 0"),
        (lambda d: d.pop("channel_names"), "has the channel_names null; expected a name for every number from 0"),
        (
            lambda d: d.update(channel_names={"0": "a", "1": "b", "2": "c", "4": "d"}),
            "expected a name for every number",
        ),
    ],
)
def test_says_what_of_it_no_conversion_writes(change, message):
    content = dataset_json()
    change(content)
    with pytest.raises(InputError) as caught:
        RelevanceChannels.from_dataset_json(content, "Dataset001_X")
    (problem,) = caught.value.problems
    assert problem.startswith("Dataset001_X")
    assert message in problem


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (dataset_json(confidence={"4": "GTV"}), ("2", "3", "4")),
        ({"channel_names": {"0": "CT"}}, ()),
        ({"wsl": [1]}, ()),
        ({"wsl": {"relevance_channels": [1]}}, ()),
    ],
)
def test_channels_that_are_no_images(content, expected):
    assert target_channels(content) == expected
