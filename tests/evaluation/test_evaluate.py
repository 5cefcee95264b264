from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, load_summary_json
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image

from nnunet_wsl.cli.evaluate import parse_tolerances
from nnunet_wsl.cli.main import main
from nnunet_wsl.errors import InputError
from nnunet_wsl.evaluation import CaseScores, Run, ScoredObject, compare_runs, evaluate_folders
from nnunet_wsl.evaluation.figures import CaseView
from nnunet_wsl.evaluation.label_maps import LabelMap

SHAPE, SPACING_XYZ = (5, 7, 11), (1.1, 0.7, 3.0)
OBLIQUE = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1)
LABELS = {"background": 0, "tumour": 1, "node": 2, "ignore": 3}
FILES = ["distributions.png", "metrics.csv", "summary.json", "worst_cases.png"]


def write(path, values, *, spacing=SPACING_XYZ, origin=(4.0, -30.0, 11.0), direction=OBLIQUE):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_dataset_json(folder, labels=LABELS, ending=".nii.gz"):
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending}))


def reference(seed):
    rng = np.random.default_rng(seed)
    ref = np.zeros(SHAPE, np.uint8)
    ref[1:4, 1 + seed % 2 : 5, 2:6] = 1
    ref[1:5, 2:5, 7:10] = 2
    ref[rng.random(SHAPE) < 0.05] = 3
    return ref


def prediction(ref, seed):
    rng = np.random.default_rng(seed + 100)
    return np.where((rng.random(SHAPE) < 0.1) | (ref == 3), rng.integers(0, 3, SHAPE), ref).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """Three cases of predictions and references."""
    write_dataset_json(tmp_path / "pred")
    for seed in range(3):
        ref = reference(seed)
        write(tmp_path / "ref" / f"case_{seed}.nii.gz", ref)
        write(tmp_path / "pred" / f"case_{seed}.nii.gz", prediction(ref, seed))
    return tmp_path


def evaluate(folder, **options):
    return evaluate_folders(folder / "pred", folder / "ref", folder / "out", **options)


def problems_of(folder, **options):
    with pytest.raises(InputError) as caught:
        evaluate(folder, **options)
    assert not (folder / "out").exists()
    return caught.value.problems


@pytest.mark.parametrize("labels", [LABELS, {"background": 0, "both": [1, 2], "node": 2, "ignore": 3}])
def test_summary_has_the_layout_and_the_numbers_of_nnunet(folders, labels):
    write_dataset_json(folders / "pred", labels)
    evaluate(folders, jobs=2)
    keys = [(1, 2), 2] if "both" in labels else [1, 2]
    expected = [
        compute_metrics(str(folders / "ref" / name), str(folders / "pred" / name), SimpleITKIO(), keys, 3)
        for name in ("case_0.nii.gz", "case_1.nii.gz", "case_2.nii.gz")
    ]
    summary = load_summary_json(str(folders / "out" / "summary.json"))
    for ours, theirs in zip(summary["metric_per_case"], expected, strict=True):
        assert {ours["reference_file"], ours["prediction_file"]} == {
            theirs["reference_file"],
            theirs["prediction_file"],
        }
        for key in keys:
            assert {name: ours["metrics"][key][name] for name in theirs["metrics"][key]} == theirs["metrics"][key]
    for name in ("Dice", "IoU", "FP", "TP", "FN", "TN", "n_pred", "n_ref"):
        means = [np.mean([case["metrics"][key][name] for case in expected]) for key in keys]
        assert [summary["mean"][key][name] for key in keys] == pytest.approx(means)
        assert summary["foreground_mean"][name] == pytest.approx(np.mean(means))
    for key in keys:
        # Of three cases, 1 in 27 resamples is three times the worst one: beyond the 2.5 % that the interval leaves out.
        values = [case["metrics"][key]["Dice"] for case in expected]
        interval = summary["wsl"]["mean_intervals"][str(key)]["Dice"]
        assert interval == pytest.approx([min(values), max(values)])


def test_files_and_table(folders):
    run = evaluate(folders, tolerances_mm={"node": 2.0})
    assert sorted(path.name for path in (folders / "out").iterdir()) == FILES
    with (folders / "out" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["object"], row["tolerance_mm"]) for row in rows[:2]] == [
        ("case_0", "tumour", "1.0"),
        ("case_0", "node", "2.0"),
    ]
    assert [float(row["NSD"]) for row in rows[1::2]] == pytest.approx(run.values("2", "NSD"))
    for name in ("distributions.png", "worst_cases.png"):
        with Image.open(folders / "out" / name) as picture:
            assert min(picture.size) > 100
    (folders / "out" / "mine.txt").write_text("stays")
    again = evaluate(folders)
    assert sorted(path.name for path in (folders / "out").iterdir()) == sorted([*FILES, "mine.txt"])
    assert again.tolerances_mm == {"1": 1.0, "2": 1.0}


def test_names_are_drawn_as_they_are(folders):
    # To matplotlib what stands between two $ is a formula, and this one is wrong.
    write_dataset_json(folders / "pred", {"background": 0, "tumour $\\frac$": 1, "node": 2, "ignore": 3})
    for folder in ("pred", "ref"):
        path = folders / folder / "case_0.nii.gz"
        path.rename(path.with_name("case $\\x$.nii.gz"))
    evaluate(folders)
    assert sorted(path.name for path in (folders / "out").iterdir()) == FILES
    comparison = compare_runs(folders / "out", folders / "out")
    comparison.write(folders / "comparison")
    assert (folders / "comparison" / "comparison.png").exists()


def test_long_names_are_drawn_whole(folders):
    name = "A_LONG_LABEL_AS_CONVERTERS_WRITE_THEM_" * 3
    write_dataset_json(folders / "pred", {"background": 0, name: 1, "node": 2, "ignore": 3})
    for folder in ("pred", "ref"):
        for path in (folders / folder).glob("*.nii.gz"):
            path.rename(path.with_name("TCGA_CONSORTIUM_PATIENT_00001_TIMEPOINT_02_" * 3 + path.name))
    out = folders / ("THE_FOLDER_OF_A_USER_" * 10)
    evaluate_folders(folders / "pred", folders / "ref", out)
    compare_runs(out, out).write(out)
    summary = json.loads((out / "summary.json").read_text())
    for case in summary["metric_per_case"]:
        for metrics in case["metrics"].values():
            for key in ("NSD", "HD95_mm", "ASSD_mm", "volume_difference_mm3"):
                del metrics[key]
    (out / "nnunet").mkdir()
    (out / "nnunet" / "summary.json").write_text(json.dumps(summary))
    compare_runs(out, out / "nnunet").write(out / "nnunet")  # a narrow picture, of the Dice alone
    pictures = [*out.glob("*.png"), *out.glob("nnunet/*.png")]
    assert len(pictures) == 4
    for path in pictures:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
        border = np.concatenate([pixels[[0, -1]].ravel(), pixels[:, [0, -1]].ravel()])
        assert border.min() == 255, path  # what touches the border is cut off


def test_failure_leaves_no_folder(folders, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Run, "write", fail)
    out = folders / "deep" / "out"
    with pytest.raises(InputError, match=r"--out '.*deep.*' cannot be written to \(No space left on device\)"):
        evaluate_folders(folders / "pred", folders / "ref", out)
    assert not out.parent.exists()


def test_folder_in_the_place_of_a_result(folders):
    evaluate(folders)
    table = folders / "out" / "metrics.csv"
    table.unlink()
    table.mkdir()
    (table / "mine.txt").touch()
    before = {path.name: path.stat().st_mtime_ns for path in (folders / "out").iterdir()}
    with pytest.raises(InputError, match=r"--out '.*' cannot be written to \(Is a directory: metrics.csv\)"):
        evaluate(folders)
    assert {path.name: path.stat().st_mtime_ns for path in (folders / "out").iterdir()} == before


def test_out_that_cannot_be_a_folder_is_found_before_the_work(folders, monkeypatch):
    monkeypatch.setattr("nnunet_wsl.evaluation.evaluate._score", lambda *_, **__: pytest.fail("this may take hours"))
    loop, file = folders / "loop", folders / "metrics.json"
    loop.symlink_to(loop)
    file.touch()
    for out in (loop, file, folders / ("n" * 300)):
        with pytest.raises(InputError, match=r"--out '.*' cannot be written to"):
            evaluate_folders(folders / "pred", folders / "ref", out)


@pytest.mark.parametrize("predicted_only", [False, True])
def test_links_to_nowhere_are_no_missing_cases(folders, predicted_only):
    for place in ("pred", "ref"):
        (folders / place / "case_1.nii.gz").unlink()
        (folders / place / "case_1.nii.gz").symlink_to(folders / "unmounted" / "case_1.nii.gz")
    (folders / "pred" / "case_2.nii.gz").unlink()
    (folders / "pred" / "case_2.nii.gz").mkdir()
    problems = problems_of(folders, predicted_only=predicted_only)
    assert [re.match(r"Case '(\w+)': '.*/(\w+)/.*' cannot be read", p).groups() for p in problems] == [
        ("case_1", "pred"),
        ("case_1", "ref"),
        ("case_2", "pred"),
    ]


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="file names are text there")
def test_file_names_that_are_no_text(folders):
    for place in ("pred", "ref"):
        (folders / place / "case_1.nii.gz").rename(os.fsdecode(os.fsencode(folders / place) + b"/x\xfc.nii.gz"))
    problems = problems_of(folders)
    for place, problem in zip(("pred", "ref"), problems, strict=True):
        assert re.fullmatch(rf"The names of files in --{place} .* are no UTF-8: x.*fc\. Rename them\.", problem)


def test_origin_that_is_not_a_number(folders):
    for place, x in (("pred", np.nan), ("ref", 4.0)):
        affine = np.diag([1.1, 0.7, 3.0, 1.0])
        affine[0, 3] = x
        nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), affine), folders / place / "case_9.nii.gz")
    (problem,) = problems_of(folders)
    assert problem.startswith("Case 'case_9': prediction and reference lie up to nan mm apart")


def test_undefined_and_absent_are_counted_and_never_nan_in_json(folders):
    surrounded = np.full(SHAPE, 3, np.uint8)
    surrounded[2, 2:4, 4:6] = 1
    write(folders / "ref" / "case_1.nii.gz", surrounded)
    write(folders / "pred" / "case_1.nii.gz", np.where(surrounded == 1, 1, 0).astype(np.uint8))
    run = evaluate(folders)
    text = (folders / "out" / "summary.json").read_text()
    summary = json.loads(text, parse_constant=pytest.fail)
    assert summary["metric_per_case"][1]["metrics"]["1"]["NSD"] is None
    assert summary["mean"]["1"]["NSD"] == pytest.approx((run.values("1", "NSD")[0] + run.values("1", "NSD")[2]) / 2)
    assert summary["wsl"]["counts"]["1"]["undefined"] == 1
    assert summary["wsl"]["counts"]["2"]["absent_in_both"] == 1
    assert summary["wsl"]["counts"]["2"]["undefined"] == 0
    np.testing.assert_array_equal(Run.read(folders / "out").values("1", "NSD"), run.values("1", "NSD"))


def test_all_bad_cases_are_reported_together_and_nothing_is_written(folders):
    pred, ref = folders / "pred", folders / "ref"
    wrong = reference(0)
    write(pred / "shape.nii.gz", wrong[:4])
    write(pred / "spacing.nii.gz", wrong, spacing=(1.1, 0.8, 3.0))
    write(pred / "origin.nii.gz", wrong, origin=(4.0, -29.0, 11.0))
    write(pred / "flipped.nii.gz", wrong, direction=(-0.8, -0.6, 0, -0.6, 0.8, 0, 0, 0, -1))
    write(pred / "unknown.nii.gz", np.where(wrong == 3, 7, wrong).astype(np.uint8))
    write(pred / "ignoring.nii.gz", wrong)
    write(pred / "image.nii.gz", wrong.astype(np.float32) / 2)
    (pred / "damaged.nii.gz").write_bytes((pred / "case_0.nii.gz").read_bytes()[:60])
    whole = (pred / "case_1.nii.gz").read_bytes()
    (pred / "cut.nii.gz").write_bytes(whole[: len(whole) * 2 // 3])  # its header is whole
    write(pred / "nothing.nii.gz", np.zeros(SHAPE, np.uint8))
    for name in ("shape", "spacing", "origin", "flipped", "unknown", "ignoring", "image", "damaged", "cut", "nothing"):
        write(ref / f"{name}.nii.gz", np.full(SHAPE, 3, np.uint8) if name == "nothing" else np.minimum(wrong, 2))
    write(pred / "rounded.nii.gz", np.minimum(wrong, 2), origin=(4.001, -30.0, 11.0))
    write(ref / "rounded.nii.gz", wrong)
    for name in ("shape", "spacing", "origin", "flipped"):
        path = pred / f"{name}.nii.gz"
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(sitk.Minimum(image, image * 0 + 2), str(path))
    problems = "\n".join(problems_of(folders))
    for case, words in {
        "shape": r"\(4, 7, 11\), the reference \(5, 7, 11\)",
        "spacing": r"\(3, 0.8, 1.1\) mm, the reference \(3, 0.7, 1.1\) mm",
        "origin": "up to 1 mm apart",
        "flipped": "up to 22 mm apart .* origins, directions or spacings differ",  # the last column: 2 x 10 x 1.1 mm
        "unknown": "values 7; dataset.json knows 0, 1, 2",
        "ignoring": "values 3; dataset.json knows 0, 1, 2",
        "image": "values that are no integers",
        "damaged": "cannot be read",
        "cut": "cannot be read as an image .it is cut off.",
        "nothing": "'ignore' everywhere",
    }.items():
        assert any(line.startswith(f"Case '{case}'") and re.search(words, line) for line in problems.splitlines()), (
            case,
            problems,
        )
    assert len(problems.splitlines()) == 10


def test_cases_missing_on_either_side(folders):
    (folders / "pred" / "case_1.nii.gz").unlink()
    (folders / "ref" / "case_2.nii.gz").unlink()
    problems = problems_of(folders)
    assert [p.split(":")[0] for p in problems] == ["Case 'case_2' has no reference", "Case 'case_1' has no prediction"]
    assert len(problems_of(folders, predicted_only=True)) == 1
    (folders / "pred" / "case_2.nii.gz").unlink()
    assert [case.case for case in evaluate(folders, predicted_only=True).cases] == ["case_0"]


def test_files_that_are_left_out_are_named(folders, caplog):
    evaluate(folders)
    assert "Left out" not in caplog.text
    write(folders / "pred" / "case_9.nii", np.minimum(reference(9), 2))
    for name in ("plans.json", "case_0.npz", "case_0.pkl", ".hidden.nii"):  # what nnU-Net leaves there, and its like
        (folders / "pred" / name).touch()
    (folders / "ref" / "notes.txt").touch()
    evaluate(folders)
    pred, ref = (line for line in caplog.text.splitlines() if "Left out" in line)
    assert pred.endswith("which do not end in '.nii.gz': case_9.nii")
    assert ref.endswith("which do not end in '.nii.gz': notes.txt")


def bars(folder, ending, save):
    """Prediction and reference that overlap in 12 of 18 voxels each, in two cases."""
    write_dataset_json(folder / "pred", {"background": 0, "bar": 1}, ending)
    for place, column in (("ref", 2), ("pred", 3)):
        (folder / place).mkdir(exist_ok=True)
        for case in ("case_0", "case_1"):
            values = np.zeros(SHAPE, np.uint8)
            values[1:4, 2:4, column : column + 3] = 1
            save(folder / place / f"{case}{ending}", values)


@pytest.mark.parametrize(("ending", "compression"), [(".tif", None), (".tif", "zlib"), (".tiff", None)])
def test_volumes_in_tiff_have_the_spacing_of_the_file_beside(tmp_path, ending, compression):
    def save(path, values):
        tifffile.imwrite(path, values, compression=compression)
        path.with_suffix(".json").write_text(json.dumps({"spacing": SPACING_XYZ[::-1]}))

    bars(tmp_path, ending, save)
    run = evaluate(tmp_path)
    assert run.values("1", "Dice") == pytest.approx([2 / 3, 2 / 3])
    assert run.values("1", "HD95_mm") == pytest.approx([1.1, 1.1])
    assert run.values("1", "volume_ref_mm3") == pytest.approx([18 * 2.31] * 2)


def test_axes_that_only_nibabel_reads(tmp_path):
    # SimpleITK refuses axes that are not at right angles; nnU-Net goes on to its next reader, and so the datasets
    # of some scanners train.
    affine = np.array([[1.1, 0.01, 0, 4], [0, 0.7, 0, -30], [0, 0, 3, 11], [0, 0, 0, 1]])
    bars(tmp_path, ".nii.gz", lambda path, values: nibabel.save(nibabel.Nifti1Image(values.T, affine), path))
    assert evaluate(tmp_path).values("1", "Dice") == pytest.approx([2 / 3, 2 / 3])


def test_first_reference_that_is_damaged_does_not_decide_on_the_reader(tmp_path, capfd):
    bars(tmp_path, ".tif", tifffile.imwrite)
    (tmp_path / "ref" / "case_0.tif").write_bytes(b"II*")
    (problem,) = problems_of(tmp_path)
    assert problem.startswith(f"Case 'case_0': '{tmp_path / 'ref' / 'case_0.tif'}' cannot be read as an image")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("spacing", ["{}", "[]", '{"spacing": null}', '{"spacing": ["x", 1, 1]}', "{"])
def test_damaged_file_beside_a_tiff(tmp_path, spacing):
    bars(tmp_path, ".tiff", tifffile.imwrite)
    (tmp_path / "pred" / "case_1.json").write_text(spacing)
    (problem,) = problems_of(tmp_path)
    assert "Case 'case_1'" in problem
    assert "cannot be read as an image" in problem


@pytest.mark.parametrize("size", [0, 20, 400])
def test_damaged_file_that_nibabel_reads(tmp_path, size):
    bars(tmp_path, ".nii", lambda path, values: nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4)), path))
    path = tmp_path / "pred" / "case_0.nii"
    path.write_bytes(path.read_bytes()[:size])
    (problem,) = problems_of(tmp_path)
    assert "Case 'case_0'" in problem
    assert "cannot be read as an image" in problem


def test_series_of_one_volume(tmp_path):
    def save(path, values):
        image = sitk.GetImageFromArray(values[None], isVector=False)
        image.SetSpacing((*SPACING_XYZ, 9.0))
        sitk.WriteImage(image, str(path))

    bars(tmp_path, ".nrrd", save)
    assert evaluate(tmp_path).values("1", "volume_ref_mm3") == pytest.approx([18 * 2.31] * 2)


@pytest.mark.parametrize(("shape", "vector"), [((2, 5, 7, 11), False), ((1, 7, 11, 2), True), ((7, 11, 3), True)])
def test_more_than_one_value_per_voxel(tmp_path, shape, vector):
    bars(tmp_path, ".nrrd", write)
    image = sitk.GetImageFromArray(np.zeros(shape, np.uint8), isVector=vector)
    sitk.WriteImage(image, str(tmp_path / "pred" / "case_0.nrrd"))
    (problem,) = problems_of(tmp_path)
    assert "Case 'case_0'" in problem
    assert "expected one value per voxel" in problem


@pytest.mark.parametrize(
    ("value", "message"), [(2.5, "values that are no integers"), (2**31, "no label values, such as 2147483648")]
)
def test_values_that_are_no_labels(folders, value, message):
    values = prediction(reference(0), 0).astype(np.float64 if value == 2.5 else np.uint32)
    values[1, 2, 3] = value
    write(folders / "pred" / "case_0.nii.gz", values)
    (problem,) = problems_of(folders)
    assert message in problem


def test_the_same_folder_twice(folders, caplog):
    pred = folders / "pred"
    evaluate_folders(pred, pred, folders / "out")
    assert caplog.messages[0] == "--pred and --ref are the same folder: everything will agree."


@pytest.mark.parametrize("reader", [5, None, "Nonsense", ["SimpleITKIO"]])
def test_reader_that_nnunet_does_not_have(folders, tmp_path, reader):
    content = {"labels": LABELS, "file_ending": ".xyz", "overwrite_image_reader_writer": reader}
    (problem,) = problems_of(folders, dataset_json=_json(tmp_path, **content))
    assert "overwrite_image_reader_writer" in problem


def test_wrong_folders_and_dataset_json(folders, tmp_path):
    with pytest.raises(InputError, match="holds label maps"):
        evaluate_folders(folders / "pred", folders / "ref", folders / "ref" / ".." / "pred")
    assert (
        "has no label maps" in problems_of(folders, dataset_json=_json(tmp_path, labels=LABELS, file_ending=".mha"))[0]
    )
    assert "no reader" in problems_of(folders, dataset_json=_json(tmp_path, labels=LABELS, file_ending=".xyz"))[0]
    assert "'file_ending'" in problems_of(folders, dataset_json=_json(tmp_path, labels=LABELS))[0]
    (folders / "pred" / "dataset.json").write_text("{")
    assert "cannot be read as JSON" in problems_of(folders)[0]
    (folders / "pred" / "dataset.json").write_text("[" * 100_000)
    assert "cannot be read as JSON" in problems_of(folders)[0]
    (folders / "pred" / "dataset.json").unlink()
    assert "--dataset-json" in problems_of(folders)[0]
    assert "--dataset-json" in problems_of(folders, dataset_json=tmp_path / ("x" * 300))[0]


@pytest.mark.parametrize("missing", ["pred", "ref"])
def test_folder_that_does_not_exist_is_named(folders, missing):
    (folders / missing).rename(folders / "elsewhere")
    (problem,) = problems_of(folders)
    assert problem.startswith(f"--{missing} '{folders / missing}' is no folder")


def test_place_that_cannot_be_written_to_is_found_before_the_work(folders, monkeypatch):
    monkeypatch.setattr("nnunet_wsl.evaluation.evaluate._score", lambda *_, **__: pytest.fail("this may take hours"))
    (folders / "file").write_text("")
    with pytest.raises(InputError, match=r"--out .* cannot be written to"):
        evaluate_folders(folders / "pred", folders / "ref", folders / "file" / "out")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "a": 1, "b": 2, "c": 1}, "'a' and 'c' have the value 1"),
        ({"background": 0, "a": [1, 2], "b": 2, "c": [1, 2]}, r"'a' and 'c' have the value \(1, 2\)"),
        ({"background": 0, "a": 1, "b": 2, "ignore": 2}, "'ignore' has the value 2 of 'b'"),
        ({"background": 0, "a": [1, 2], "b": 2, "ignore": 2}, "'ignore' has the value 2 of 'a', 'b'"),
        ({"background": 0, "a": 1, "ignore": 0}, "'ignore' has the value 0 of 'background'"),
        ({"background": 0, "a": 1, "ignore": [2, 3]}, r"'ignore' is \[2, 3\]; expected a single value"),
    ],
)
def test_values_with_two_meanings(folders, tmp_path, labels, words):
    (problem,) = problems_of(folders, dataset_json=_json(tmp_path, labels=labels, file_ending=".nii.gz"))
    assert re.search(words, problem), problem


def _json(folder, **content):
    path = folder / "other.json"
    path.write_text(json.dumps(content))
    return path


def test_png_images_are_measured_in_pixels(tmp_path):
    write_dataset_json(tmp_path / "pred", {"background": 0, "nucleus": 1}, ".png")
    (tmp_path / "ref").mkdir()
    for folder, column in (("ref", 4), ("pred", 6)):
        values = np.zeros((7, 11), np.uint8)
        values[3, column] = 1
        Image.fromarray(values).save(tmp_path / folder / "cells.png")
    run = evaluate(tmp_path)
    assert run.values("1", "ASSD_mm") == pytest.approx(1.5)  # corners 1 and 2 pixels from the other
    assert run.values("1", "volume_ref_mm3") == 1


def test_2d_and_one_slice_files_do_not_mix(folders):
    ref = reference(0)
    write(folders / "ref" / "case_0.nii.gz", ref[:1])
    flat = sitk.GetImageFromArray(np.minimum(ref[0], 2))
    flat.SetSpacing(SPACING_XYZ[:2])
    sitk.WriteImage(flat, str(folders / "pred" / "case_0.nii.gz"))
    assert "Case 'case_0': one of prediction and reference is a 2D image" in problems_of(folders)[0]


def test_2d_images_have_the_spacing_of_their_plane(tmp_path):
    # One column apart: every corner is 1.1 mm or less from the other's, those of the far columns exactly 1.1 mm.
    write_dataset_json(tmp_path / "pred", {"background": 0, "nucleus": 1})
    for folder, column in (("ref", 4), ("pred", 5)):
        values = np.zeros((7, 11), np.uint8)
        values[3, column] = 1
        write(
            tmp_path / folder / "cells.nii.gz", values, spacing=SPACING_XYZ[:2], origin=(3, 9), direction=(0, 1, -1, 0)
        )
    run = evaluate(tmp_path)
    assert run.values("1", "ASSD_mm") == pytest.approx(0.55)
    assert run.values("1", "volume_ref_mm3") == pytest.approx(0.77)


def test_command(folders, capsys):
    arguments = ["evaluate", "--pred", folders / "pred", "--ref", folders / "ref", "--out", folders / "out"]
    assert main([str(a) for a in [*arguments, "--tolerance-mm", "2", "node=0.5", "--jobs", "1"]]) == 0
    printed = capsys.readouterr().out
    assert "NSD at 2 mm" in printed.split("node")[0]
    assert "NSD at 0.5 mm" in printed.split("node")[1]
    assert main([str(a) for a in [*arguments, "--tolerance-mm", "x=1"]]) == 2
    assert "the labels are: tumour, node" in capsys.readouterr().err
    next((folders / "pred").glob("*.nii.gz")).unlink()
    assert main(list(map(str, arguments))) == 2
    assert main([*map(str, arguments), "--predicted-only"]) == 0


def test_tolerance_arguments():
    assert parse_tolerances(["a=1", "b=c=2.5", "3"]) == {"a": 1.0, "b=c": 2.5, None: 3.0}
    with pytest.raises(InputError) as caught:
        parse_tolerances(["a=1", "a=2", "b=", "mm", "c=0", "d=nan", "e=-1", "inf"])
    assert [problem.split("'")[1] for problem in caught.value.problems] == [
        "a=2", "b=", "mm", "c=0", "d=nan", "e=-1", "inf"
    ]  # fmt: skip


@pytest.mark.parametrize(("scale", "is_wide"), [(1, False), (1e-3, True)])
def test_a_tolerance_of_many_voxels_is_a_warning(tmp_path, caplog, capsys, scale, is_wide):
    affine = np.diag([1.1 * scale, 0.7 * scale, 3 * scale, 1])
    bars(tmp_path, ".nii.gz", lambda path, values: nibabel.save(nibabel.Nifti1Image(values.T, affine), path))
    arguments = ["--pred", tmp_path / "pred", "--ref", tmp_path / "ref", "--out", tmp_path / "scores", "--jobs", 1]
    assert main(["evaluate", *map(str, arguments)]) == 0
    assert ("hardly tells good from bad" in caplog.text) == is_wide
    assert ("--tolerance-mm 0.003." in caplog.text) == is_wide
    printed = capsys.readouterr().out
    hd95_mm = "0.0011 (0.0011 to 0.0011)" if is_wide else "1.10 (1.10 to 1.10)"
    assert f"HD95 (mm)                  {hd95_mm}" in printed


def test_the_thickness_of_a_single_slice_makes_no_tolerance_narrow(tmp_path, caplog):
    """2D files have a made-up thickness of 999 mm, and a slice that is cut has any."""
    values = np.zeros((1, 30, 40), np.uint8)
    values[0, 5:20, 5:20] = 1
    for folder in ("pred", "ref"):
        (tmp_path / folder).mkdir()
        affine = np.diag([0.01, 0.02, 1, 1])
        nibabel.save(nibabel.Nifti1Image(values.T, affine), tmp_path / folder / "a.nii.gz")
    (tmp_path / "pred" / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "bar": 1}, "file_ending": ".nii.gz"})
    )
    evaluate_folders(tmp_path / "pred", tmp_path / "ref", tmp_path / "out")
    assert "1 mm for 'bar', which is 50.0 voxels" in caplog.text


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_along_any_axis_is_shown_in_its_plane(axis):
    plane = np.zeros((30, 40), np.int32)
    plane[8:20, 10:30] = 1
    moved = np.moveaxis(plane[None], 0, axis)
    spacing_mm_zyx = tuple(np.insert([0.7, 1.1], axis, 3.0))
    label_map = LabelMap(moved, spacing_mm_zyx, np.zeros((8, 3)))
    obj = ScoredObject("1", "bar", (1,), 1.0)
    metrics = {"1": {"Dice": 1.0, "NSD": 1.0, "HD95_mm": 0.00075}}
    view = CaseView.of(CaseScores("a", "", "", metrics), obj, label_map, label_map, None)
    assert view.classes.shape == (24, 28)  # the object, with four voxels around it or 24 in all
    assert view.aspect == pytest.approx(0.7 / 1.1)
    assert view.title == "a: bar\nDice 1.000, NSD 1.000, HD95 0.00075 mm"


def test_absences_are_counted_by_side():
    voxels = [(0, 0), (0, 5), (0, 7), (4, 0), (4, 4)]
    run = Run(
        tuple(
            CaseScores(f"case_{i}", "", "", {"1": {"Dice": 0.0, "n_ref": n_ref, "n_pred": n_pred}})
            for i, (n_ref, n_pred) in enumerate(voxels)
        ),
        {"1": "tumour"},
        {},
    )
    assert run.counts("1") == {
        "cases": 5,
        "absent_in_both": 1,
        "absent_in_reference_only": 2,
        "absent_in_prediction_only": 1,
        "undefined": 0,
    }


def test_the_interval_is_over_the_cases_in_which_the_metric_is_defined():
    dice = (0.25, math.nan, 0.25)
    cases = tuple(
        CaseScores(f"case_{i}", "", "", {"1": {"Dice": d, "n_ref": 4, "n_pred": 4}}) for i, d in enumerate(dice)
    )
    assert Run(cases, {"1": "tumour"}, {}).interval("1", "Dice") == (0.25, 0.25)
