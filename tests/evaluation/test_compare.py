from __future__ import annotations

import csv
import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.evaluation.evaluate_predictions import save_summary_json
from PIL import Image
from scipy.stats import rankdata, wilcoxon

from nnunet_wsl.cli.main import main
from nnunet_wsl.errors import InputError
from nnunet_wsl.evaluation import CaseScores, Run, bootstrap_interval, compare_runs, paired_p_value
from nnunet_wsl.evaluation.output import results_in

NAMES = {"1": "tumour", "(1, 2)": "whole"}


def write_run(folder, dice, *, hd95=None, volume=None, names=NAMES, tolerance_mm=1.0, n_ref=50, cases=None):
    """A run in which all objects have the same scores, one per case."""
    nothing = [0.0] * len(dice)
    run = Run(
        tuple(
            CaseScores(
                case,
                f"ref/{case}.nii.gz",
                f"pred/{case}.nii.gz",
                {
                    key: {"Dice": d, "HD95_mm": h, "volume_difference_mm3": v, "n_pred": 50, "n_ref": n_ref}
                    for key in names
                },
            )
            for case, d, h, v in zip(
                cases or [f"case_{i}" for i in range(len(dice))], dice, hd95 or nothing, volume or nothing, strict=True
            )
        ),
        names,
        dict.fromkeys(names, tolerance_mm),
    )
    with results_in(folder) as building:
        run.write(building)
    return folder


def rows_of(comparison):
    return {(row.object, row.metric.key): row for row in comparison.rows}


def test_differences_wins_and_exact_p_value(tmp_path):
    # Five cases, B better in all by different amounts: 2 of the 2^5 sign patterns are as extreme, p = 2 / 32.
    a = write_run(tmp_path / "a", [0.5, 0.6, 0.7, 0.8, 0.9], hd95=[5, 5, 5, 5, 5])
    b = write_run(tmp_path / "b", [0.51, 0.62, 0.73, 0.84, 0.95], hd95=[4, 5, 6, 5, 5])
    rows = rows_of(compare_runs(a, b))
    dice = rows["tumour", "Dice"]
    assert dice.difference == pytest.approx(0.03)
    assert dice.differences == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert dice.wins == (0, 5)
    assert dice.p_value == pytest.approx(2 / 32)
    assert 0.01 < dice.interval[0] < 0.03 < dice.interval[1] < 0.05
    hd95 = rows["tumour", "HD95_mm"]
    assert hd95.wins == (1, 1)  # lower is better
    assert hd95.p_value == 1
    assert rows["mean of objects", "Dice"].difference == pytest.approx(0.03)


def test_cases_are_paired_by_name_not_by_order(tmp_path):
    a = write_run(tmp_path / "a", [0.1, 0.9], cases=["x", "y"])
    b = write_run(tmp_path / "b", [0.9, 0.1], cases=["y", "x"])
    assert rows_of(compare_runs(a, b))["tumour", "Dice"].differences == pytest.approx([0, 0])


def test_volume_difference_is_compared_by_magnitude(tmp_path):
    a = write_run(tmp_path / "a", [0.5, 0.5], volume=[-10.0, 4.0])
    b = write_run(tmp_path / "b", [0.5, 0.5], volume=[5.0, -6.0])
    row = rows_of(compare_runs(a, b))["whole", "volume_difference_mm3"]
    assert row.differences == pytest.approx([-5, 2])
    assert row.wins == (1, 1)


def test_undefined_pairs_are_left_out_and_counted(tmp_path):
    a = write_run(tmp_path / "a", [0.5, 0.5, 0.5], hd95=[1.0, math.nan, 3.0])
    b = write_run(tmp_path / "b", [0.5, 0.5, 0.5], hd95=[2.0, 2.0, math.nan])
    comparison = compare_runs(a, b)
    row = rows_of(comparison)["tumour", "HD95_mm"]
    assert (row.mean_a, row.mean_b, row.pairs) == (1, 2, 1)
    comparison.write(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    entry = next(r for r in written["rows"] if r["metric"] == "HD95_mm")
    assert (entry["pairs"], entry["undefined_pairs"]) == (1, 2)


def test_table_shows_small_differences_and_no_rounding(tmp_path, capsys):
    rng = np.random.default_rng(1)
    dice = np.round(rng.uniform(0.5, 0.99, 9), 3)
    a = write_run(tmp_path / "a", list(dice), hd95=[0.00075] * 9, names={"1": "tumour"})
    b = write_run(tmp_path / "b", list(np.roll(dice, 1)), hd95=[0.00275] * 9, names={"1": "tumour"})
    assert main(["compare", str(a), str(b)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (dice_line,) = (line.split() for line in lines if line.startswith("tumour  Dice"))
    (hd95_line,) = (line.split() for line in lines if line.startswith("tumour  HD95"))
    assert dice_line[4] == "+0.000"  # the same scores in another order, whatever their sums
    assert hd95_line[3:9] == ["0.00075", "0.00275", "+0.002", "+0.002", "to", "+0.002"]


def test_metric_undefined_everywhere(tmp_path, capsys):
    a = write_run(tmp_path / "a", [0.5, 0.6], hd95=[math.nan, math.nan])
    assert main(["compare", str(a), str(a), "--out", str(tmp_path / "out")]) == 0
    assert "undefined in all cases" in capsys.readouterr().out
    entry = json.loads((tmp_path / "out" / "comparison.json").read_text(), parse_constant=pytest.fail)["rows"][3]
    assert (entry["metric"], entry["mean_a"], entry["p_value"]) == ("HD95_mm", None, None)


def test_runs_that_do_not_fit_together(tmp_path):
    a = write_run(tmp_path / "a", [0.5, 0.5], cases=["x", "y"])
    b = write_run(tmp_path / "b", [0.5, 0.5], cases=["y", "z"], names={"1": "tumour"}, tolerance_mm=2.0, n_ref=51)
    with pytest.raises(InputError) as caught:
        compare_runs(a, b)
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for words in (
        "'x' is missing in",
        "'z' is missing in",
        "(1, 2)",
        "2.0 mm",
        "Case 'y', 'tumour': the reference has",
    ):
        assert words in problems


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no summary.json"),
        ("{", "cannot be read"),
        ("[]", "layout"),
        ('{"metric_per_case": []}', "layout"),
        ('{"metric_per_case": [{"reference_file": "a.nii.gz", "metrics": {"1": {}}}]}', "layout"),
    ],
)
def test_folders_without_a_usable_summary(tmp_path, content, words):
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError, match=words):
        Run.read(tmp_path)


def test_both_folders_without_a_usable_summary(tmp_path):
    with pytest.raises(InputError) as caught:
        compare_runs(tmp_path / "a", tmp_path / "b")
    assert [problem.split("'")[1] for problem in caught.value.problems] == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize("key", list(NAMES))
def test_objects_with_other_metrics_than_each_other(tmp_path, key):
    folder = write_run(tmp_path / "a", [0.5, 0.5])
    for case in (0, 1):
        change(folder, ("metric_per_case", case, "metrics", key, "Dice"))
    with pytest.raises(InputError, match="the objects have not all the same metrics"):
        Run.read(folder)


def test_summary_that_was_written_on_windows(tmp_path):
    folder = write_run(tmp_path / "a", [0.5])
    change(folder, ("metric_per_case", 0, "reference_file"), r"C:\data\ref\case_0.nii.gz")
    assert Run.read(folder).cases[0].case == "case_0"


def test_path_of_the_summary_itself(tmp_path):
    folder = write_run(tmp_path / "a", [0.5, 0.5])
    with pytest.raises(InputError, match=r"summary.json' is no folder. Give the folder"):
        compare_runs(folder, folder / "summary.json")


def change(folder, keys, value=None):
    """Set one value of a summary.json, or remove it."""
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    place = summary
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    path.write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("metric_per_case", 0, "metrics", "1", "Dice"), math.inf, r"'tumour' of case 'case_0' has an infinite Dice"),
        (("metric_per_case", 1, "reference_file"), "ref/case_0.nii.gz", "'case_0' comes 2 times"),
        (("metric_per_case", 1, "reference_file"), 5, "layout"),
        (("wsl",), [1], "layout"),
        (("wsl", "objects"), ["1", "(1, 2)"], "layout"),
        (("wsl", "objects"), {}, "layout"),
        (("wsl", "tolerances_mm"), [1.0, 2.0], "layout"),
        (("wsl", "tolerances_mm"), {"1": "wide"}, "layout"),
        (("wsl", "tolerances_mm", "1"), [2], "layout"),
        (("metric_per_case", 0, "metrics", "1", "Dice"), 10**400, "layout"),
    ],
)
def test_damaged_summaries(tmp_path, keys, value, words):
    folder = write_run(tmp_path / "a", [0.5, 0.5])
    change(folder, keys, value)
    with pytest.raises(InputError, match=words):
        compare_runs(folder, folder)


def test_summary_without_the_size_of_the_references(tmp_path):
    folder = write_run(tmp_path / "a", [0.5], names={"1": "tumour"})
    change(folder, ("metric_per_case", 0, "metrics", "1", "n_ref"))
    with pytest.raises(InputError, match=r"layout .*n_ref"):
        Run.read(folder)


@pytest.mark.parametrize("key", ["objects", "tolerances_mm"])
def test_blocks_that_are_null(tmp_path, key):
    folder = write_run(tmp_path / "a", [0.5, 0.5])
    summary = json.loads((folder / "summary.json").read_text())
    summary["wsl"][key] = None
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="layout"):
        Run.read(folder)


def test_one_key_with_two_names(tmp_path):
    a = write_run(tmp_path / "a", [0.5, 0.5], names={"1": "liver", "2": "heart"})
    b = write_run(tmp_path / "b", [0.5, 0.5], names={"1": "heart", "2": "heart"})
    with pytest.raises(InputError, match=r"Object 1 is 'liver' in '.*a', 'heart' in '.*b'"):
        compare_runs(a, b)
    nameless = write_run(tmp_path / "c", [0.5, 0.5], names={"1": "1", "2": "2"})  # nnU-Net's own has keys only
    assert rows_of(compare_runs(a, nameless))["liver", "Dice"].difference == 0
    assert rows_of(compare_runs(nameless, a))["1", "Dice"].difference == 0


def test_without_nsd_no_tolerance_is_named(tmp_path):
    a, b = (write_run(tmp_path / name, [0.5, 0.6]) for name in "ab")
    assert compare_runs(a, b).tolerances_mm == {}
    for case in range(2):
        for key in NAMES:
            for folder in (a, b):
                change(folder, ("metric_per_case", case, "metrics", key, "NSD"), 0.5)
    assert compare_runs(a, b).tolerances_mm == {"1": 1.0, "(1, 2)": 1.0}


def test_rounding_is_no_win(tmp_path):
    """The same scores of a case, of other objects: as floating-point numbers the means differ in the last digit."""
    dice = [(0.1, 0.2, 0.3), (0.7, 0.8, 0.1), (0.6, 0.2, 0.3)]
    names = {"1": "a", "2": "b", "3": "c"}
    for folder, order in (("a", (0, 1, 2)), ("b", (2, 1, 0))):
        write_run(tmp_path / folder, [0.5] * 3, names=names)
        for case, scores in enumerate(dice):
            for key, place in zip(names, order, strict=True):
                change(tmp_path / folder, ("metric_per_case", case, "metrics", key, "Dice"), scores[place])
    row = rows_of(compare_runs(tmp_path / "a", tmp_path / "b"))["mean of objects", "Dice"]
    assert (row.wins, row.p_value, row.interval) == ((0, 0), 1, (0, 0))
    assert row.differences.tolist() == [0, 0, 0]


@pytest.mark.parametrize("mm3", [1e-15, 1.0, 1e9])
def test_volumes_differ_whatever_their_unit(tmp_path, mm3):
    """Voxels may be small, as of microscopy, or in metres by mistake."""
    a = write_run(tmp_path / "a", [0.5] * 6, volume=[mm3 * n for n in range(1, 7)])
    b = write_run(tmp_path / "b", [0.5] * 6, volume=[2 * mm3 * n for n in range(1, 7)])
    row = rows_of(compare_runs(a, b))["mean of objects", "volume_difference_mm3"]
    assert row.wins == (6, 0)
    assert row.p_value == 2 / 2**6  # all signs of six are alike in two of 64 ways


def test_cases_with_other_objects(tmp_path):
    folder = write_run(tmp_path / "a", [0.5, 0.5])
    summary = json.loads((folder / "summary.json").read_text())
    del summary["metric_per_case"][1]["metrics"]["1"]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="case_1 have other objects or metrics than 'case_0'"):
        Run.read(folder)


def test_summary_of_nnunet_itself(tmp_path):
    for name, dice in (("a", [0.5, float("nan")]), ("b", [0.75, float("nan")])):
        (tmp_path / name).mkdir()
        per_case = [
            {
                "reference_file": f"labelsTr/case.{i}.nii.gz",
                "prediction_file": f"validation/case.{i}.nii.gz",
                "metrics": {(1, 2): {"Dice": d, "IoU": d, "n_ref": 7, "n_pred": 7}},
            }
            for i, d in enumerate(dice)
        ]
        summary = {"metric_per_case": per_case, "mean": {(1, 2): {}}, "foreground_mean": {}}
        save_summary_json(summary, str(tmp_path / name / "summary.json"))
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    assert comparison.cases == ("case.0", "case.1")
    assert [(row.object, row.metric.key, row.pairs, row.difference) for row in comparison.rows] == [
        ("(1, 2)", "Dice", 1, 0.25),
        ("(1, 2)", "IoU", 1, 0.25),
    ]


def test_command_writes_table_and_picture(tmp_path, capsys):
    a = write_run(tmp_path / "a", [0.5, 0.6, 0.7])
    b = write_run(tmp_path / "b", [0.6, 0.7, 0.9])
    assert main(["compare", str(a), str(b), "--out", str(tmp_path / "out")]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("tumour") and "Dice" in line)
    assert line.split()[2:5] == ["0.600", "0.733", "+0.133"]
    with (tmp_path / "out" / "comparison.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 3
    with Image.open(tmp_path / "out" / "comparison.png") as picture:
        assert min(picture.size) > 100
    assert main(["compare", str(a), str(tmp_path)]) == 2


def test_bootstrap_interval_of_normal_values_is_that_of_the_normal_approximation():
    values = np.random.default_rng(5).normal(3, 2, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.05 * 2 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * 2 * half)
    assert bootstrap_interval(values) == (low, high)


def test_bootstrap_of_many_cases_fits_in_memory():
    tracemalloc.start()
    low, high = bootstrap_interval(np.arange(4000.0))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**26  # all resamples at once would take 480 MB
    half = 1.96 * 4000 / math.sqrt(12 * 4000)
    assert (low, high) == pytest.approx((1999.5 - half, 1999.5 + half), abs=0.1 * half)


@pytest.mark.parametrize("spacing_mm", [0.1, 0.3, 0.7, 1.1, 2.31])
def test_p_value_of_distances_on_a_grid_does_not_depend_on_its_spacing(spacing_mm):
    # HD95 and volumes are multiples of a length: pairs that differ by as many are ties, rounded as they may be.
    rng = np.random.default_rng(3)
    for cases in (5, 8, 30, 60):
        a, b = rng.integers(0, 7, cases), rng.integers(0, 7, cases)
        assert paired_p_value(b * spacing_mm - a * spacing_mm) == paired_p_value((b - a).astype(float))
    # Two up, two down, by the same: nothing is more even.
    up, down = 3 * spacing_mm - 2 * spacing_mm, 5 * spacing_mm - 6 * spacing_mm
    assert paired_p_value(np.array([up, down, 1 * spacing_mm, -1 * spacing_mm])) == 1


def test_p_value_with_ties_is_that_of_all_sign_patterns():
    # Ranks 2, 2, 2, 4 with the signs + + + -: |sum| = 2; of 16 patterns only 8 reach it by hand:
    # the sums of +-2 +-2 +-2 +-4 are 10, 6 (3x), 2 (3x), -2, and the same negative: all of magnitude 2 or more.
    assert paired_p_value(np.array([1.0, 1.0, 1.0, -2.0])) == 1
    # Ranks 2, 2, 2, 4, all +: 2 of 16.
    assert paired_p_value(np.array([1.0, 1.0, 1.0, 2.0])) == pytest.approx(2 / 16)
    # Ranks 2, 2, 2, 4 with the signs + + - +: sums of magnitude 6 or more are 6 (3x), 10 and the negative: 8 of 16.
    assert paired_p_value(np.array([1.0, 1.0, -1.0, 2.0])) == pytest.approx(8 / 16)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=12))
def test_p_value_is_the_share_of_sign_patterns_that_are_as_uneven(values):
    differences = np.array(values, float)
    changed = differences[differences != 0]
    if not len(changed):
        return
    ranks = rankdata(np.abs(changed))
    patterns = np.array(list(itertools.product((-1, 1), repeat=len(changed)))) @ ranks
    share = np.mean(np.abs(patterns) >= abs(np.sign(changed) @ ranks) - 1e-9)
    assert paired_p_value(differences) == pytest.approx(share)


def test_p_value_with_ties_is_exact_for_as_many_cases_as_studies_have():
    # SciPy alone takes a normal approximation here: 1.1e-4 for fifteen gains of one size, of which two patterns are
    # as uneven.
    assert paired_p_value(np.full(15, 0.1)) == pytest.approx(2 / 2**15)
    # Without ties: as SciPy, which is exact then.
    rng = np.random.default_rng(0)
    for cases in (14, 31, 50):
        differences = rng.normal(0.3, 1, cases)
        assert paired_p_value(differences) == pytest.approx(wilcoxon(differences, method="exact").pvalue)


def test_intervals_and_tests_of_little():
    assert bootstrap_interval(np.array([0.25])) == (0.25, 0.25)
    assert all(math.isnan(bound) for bound in bootstrap_interval(np.array([])))
    assert paired_p_value(np.zeros(4)) == 1
    assert paired_p_value(np.array([0.1, 0.0])) == 1
    # Six of the same sign, whatever the zeros: 2 / 2^6.
    assert paired_p_value(np.array([1.0, 0, 2, 3, 4, 0, 5, 6])) == pytest.approx(2 / 64)


def test_the_interval_is_that_of_the_signed_differences(tmp_path):
    """Worse by 0.1 to 0.3 in three cases: 2 of 27 resamples, more than 2.5 %, take one of the extremes three times."""
    a = write_run(tmp_path / "a", [0.9, 0.9, 0.9])
    b = write_run(tmp_path / "b", [0.8, 0.7, 0.6])
    row = rows_of(compare_runs(a, b))["tumour", "Dice"]
    assert row.interval == pytest.approx((-0.3, -0.1))
    assert row.wins == (3, 0)
