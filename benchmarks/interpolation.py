"""Interpolation between annotated slices against dense truth: 130 hippocampi, every 3rd, 4th, 5th and 8th slice drawn.

Run: ``python benchmarks/interpolation.py HIPPOCAMPUS --output benchmarks/interpolation.json --plots docs/images``

HIPPOCAMPUS is the folder of the Medical Segmentation Decathlon's Task04 with ``images`` and ``labels``. Both labels are
objects of their own. Of each, every k-th slice that shows it is drawn, from the first one on.

plain         linear interpolation of the signed distance; certain is what is far from the interpolated contour.
shape         `nnunet_wsl.conversion.between.interpolate` without the image.
shape, image  the same with the image.
open ends     the same, and the k - 1 slices before the first and after the last drawn one are unknown instead of
              without the object: there it shrinks to a point.

Voxels count on the undrawn slices between the first and the last drawn one, within the in-plane bounding box of the
object's truth, widened by a margin: the wider, the more voxels are easy. ``all slices`` has the undrawn slices before
and after too, where the object is taken to be absent.

With ``--itk-python`` (a Python that has itk-morphologicalcontourinterpolation and numpy) its result and times are
compared on the same slices. Times are the best of five per object, in one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scipy
import SimpleITK as sitk
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import logit
from tqdm import tqdm

from nnunet_wsl.conversion.between import CERTAINTY, Interpolation, interpolate

STEPS = (3, 4, 5, 8)
AXES = {0: "axial", 1: "coronal", 2: "sagittal"}
METHODS = ("plain", "shape", "shape, image", "open ends")
DEVELOPMENT_CASES = 20
BAR = 0.996
LEAST_SHARE = 0.85
SHARES = np.round(np.arange(0.6, 1.001, 0.02), 2)
MARGIN_VOX = 3
REPEATS = 5

_ITK = """
import sys, time
import itk, numpy as np
drawn = np.load(sys.argv[1])
itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
masks, seconds = {}, []
warm_up = np.zeros((5, 8, 8), np.uint8)
warm_up[[0, 4], 2:5, 3:6] = 1
itk.morphological_contour_interpolator(itk.image_from_array(warm_up), axis=2)
for name in drawn.files:
    mask = drawn[name].astype(np.uint8)
    repeated = []
    for _ in range(int(sys.argv[3])):
        start = time.perf_counter()
        found = itk.array_from_image(itk.morphological_contour_interpolator(itk.image_from_array(mask), axis=2))
        repeated.append(time.perf_counter() - start)
    seconds.append(min(repeated))
    masks[name] = found > 0
np.savez(sys.argv[2], seconds=seconds, version=itk.Version.GetITKVersion(), **masks)
"""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Annotated:
    """One object of one case; the slices are along axis 0."""

    name: str
    truth: Mask
    image: NDArray[Any]
    drawn: NDArray[np.int64]
    spacing_mm_zyx: tuple[float, ...]

    @property
    def known(self) -> Mask:
        """Slices that are known if the object is absent before the first and after the last drawn one."""
        known = np.ones(len(self.truth), dtype=np.bool_)
        known[self.drawn[0] : self.drawn[-1]] = False
        known[self.drawn] = True
        return known

    @property
    def known_with_open_ends(self) -> Mask:
        known = self.known
        step = int(np.diff(self.drawn).min()) if len(self.drawn) > 1 else 1
        known[max(self.drawn[0] - step + 1, 0) : self.drawn[0]] = False
        known[self.drawn[-1] + 1 : self.drawn[-1] + step] = False
        return known

    @property
    def mask(self) -> Mask:
        mask = np.zeros_like(self.truth)
        mask[self.drawn] = self.truth[self.drawn]
        return mask

    def counted(self, domain: str) -> Mask:
        """Voxels that are evaluated."""
        margin = 0 if domain == "all slices" else int(domain.removeprefix("margin "))
        slices = ~self.known
        if domain == "all slices":
            slices = ~np.isin(np.arange(len(self.truth)), self.drawn)
        counted = np.zeros_like(self.truth)
        y, x = (slice(max(axis.min() - margin, 0), axis.max() + margin + 1) for axis in np.nonzero(self.truth)[1:])
        counted[slices, y, x] = True
        return counted


DOMAINS = ("margin 0", "margin 2", "margin 3", "all slices")


def objects(data: Path, label_file: Path, axis: int, step: int) -> Iterator[Annotated]:
    labels = sitk.ReadImage(label_file)
    image = sitk.GetArrayFromImage(sitk.ReadImage(data / "images" / label_file.name))
    array = sitk.GetArrayFromImage(labels)
    spacing_mm = np.array(labels.GetSpacing()[::-1])
    order = [axis, *(other for other in range(3) if other != axis)]
    for label in (1, 2):
        truth = (array == label).transpose(order)
        shown = np.flatnonzero(truth.any(axis=(1, 2)))
        name = f"{label_file.name.removesuffix('.nii.gz')}_{label}"
        drawn = np.arange(shown[0], shown[-1] + 1, step)
        drawn = drawn[truth[drawn].any(axis=(1, 2))]
        yield Annotated(name, truth, image.transpose(order), drawn, tuple(spacing_mm[order].tolist()))


def plain_score(case: Annotated) -> NDArray[np.float64]:
    """Signed distance, interpolated linearly; far outside beyond the drawn slices."""
    score = np.full(case.truth.shape, -1e3)
    for z in case.drawn:
        inside = case.truth[z]
        in_mm, out_mm = (
            ndimage.distance_transform_edt(side, sampling=case.spacing_mm_zyx[1:]) for side in (inside, ~inside)
        )
        score[z] = np.where(inside, in_mm - 0.5, 0.5 - out_mm)
    for first, last in zip(case.drawn[:-1], case.drawn[1:], strict=True):
        for z in range(first + 1, last):
            share = (z - first) / (last - first)
            score[z] = (1 - share) * score[first] + share * score[last]
    return score


def our_score(found: Interpolation) -> NDArray[np.float64]:
    """Log-odds; whatever is settled is at the end of the scale."""
    return np.asarray(logit(np.clip(found.probability.astype(np.float64), 1e-7, 1 - 1e-7)))


def dice(a: Mask, b: Mask) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def evaluate(cases: list[Annotated]) -> tuple[dict[str, Any], list[float]]:
    """Scores of all methods and domains, per object, and the seconds that the interpolation with the image takes."""
    rows: dict[str, Any] = {method: [] for method in METHODS}
    times = []
    for case in cases:
        known, mask, image = case.known, case.mask, case.image[np.newaxis]
        repeated = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            found = interpolate(mask, known, case.spacing_mm_zyx, image)
            repeated.append(time.perf_counter() - start)
        times.append(min(repeated))
        without = interpolate(mask, known, case.spacing_mm_zyx)
        open_ends = interpolate(mask, case.known_with_open_ends, case.spacing_mm_zyx, image)
        all_scores = (plain_score(case), *(our_score(one) for one in (without, found, open_ends)))
        scores = dict(zip(METHODS, all_scores, strict=True))
        for method, score in scores.items():
            right = (score > 0) == case.truth
            parts = {}
            for domain in DOMAINS:
                counted = case.counted(domain)
                parts[domain] = (np.abs(score[counted]).astype(np.float32), right[counted])
            rows[method].append((dice(score > 0, case.truth), parts))
    return rows, times


def summary(rows: list[Any], certainty: float | None, *, with_curve: bool) -> dict[str, Any]:
    """Trade-off between how many voxels are confident and how many of these are right."""
    result: dict[str, Any] = {"dice": float(np.mean([dice for dice, _ in rows])), "objects": len(rows)}
    for domain in DOMAINS:
        score = np.concatenate([parts[domain][0] for _, parts in rows])
        right = np.concatenate([parts[domain][1] for _, parts in rows])
        order = np.argsort(-score, kind="stable")
        cumulated = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
        enough = np.flatnonzero(cumulated >= BAR)
        result[domain] = {
            "voxels": len(order),
            "right_at_least_share": float(cumulated[int(LEAST_SHARE * len(order)) - 1]),
            "share_at_bar": float((enough[-1] + 1) / len(order)) if len(enough) else 0.0,
        }
        if with_curve:
            result[domain]["right_at_shares"] = cumulated[(SHARES * len(order)).astype(int) - 1].round(5).tolist()
        if certainty is not None:
            sure = score >= logit(certainty)
            result[domain] |= {"default_share": float(sure.mean()), "default_right": float(right[sure].mean())}
    return result


def itk_results(python: Path, cases: list[Annotated]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        drawn, found = Path(folder, "drawn.npz"), Path(folder, "found.npz")
        np.savez(drawn, allow_pickle=False, **{case.name: case.mask for case in cases})
        subprocess.run([python, "-c", _ITK, drawn, found, str(REPEATS)], check=True)
        with np.load(found) as results:
            scores = [dice(results[case.name], case.truth) for case in cases]
            return {
                "version": str(results["version"]),
                "dice": scores,
                "seconds": results["seconds"].tolist(),
            }


def plot(results: dict[str, Any], path: Path) -> None:
    figure, panels = plt.subplots(1, len(STEPS), figsize=(13, 3.6), sharey=True, layout="constrained")
    styles = {"plain": ("0.55", "--"), "shape": ("tab:blue", "-."), "shape, image": ("tab:red", "-")}
    for panel, step in zip(panels, STEPS, strict=True):
        for method, (color, line) in styles.items():
            found = results["axial"][str(step)]["other cases"][method][f"margin {MARGIN_VOX}"]
            wrong = 1 - np.array(found["right_at_shares"])
            panel.plot(100 * SHARES, 100 * np.maximum(wrong, 1e-5), line, color=color, label=method)
            if "default_share" in found:
                default = (100 * found["default_share"], 100 * (1 - found["default_right"]))
                panel.plot(*default, "o", color=color, markersize=5)
        panel.axhline(100 * (1 - BAR), color="0.8", linewidth=1, zorder=0)
        panel.axvline(100 * LEAST_SHARE, color="0.8", linewidth=1, zorder=0)
        panel.set(
            title=f"every {step}{'rd' if step == 3 else 'th'} slice drawn", xlabel="confident voxels (%)", yscale="log",
            xlim=(60, 100), ylim=(0.01, 15),
        )  # fmt: skip
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[0].set_ylabel("wrong among them (%)")
    panels[0].legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images and labels")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--plots", type=Path, help="folder for the plot")
    parser.add_argument("--itk-python", type=Path, help="Python that has itk-morphologicalcontourinterpolation")
    args = parser.parse_args()
    files = sorted((args.data / "labels").glob("*.nii.gz"))
    results: dict[str, Any] = {
        "command": "python benchmarks/interpolation.py HIPPOCAMPUS --output benchmarks/interpolation.json "
        "--plots docs/images --itk-python ITK_PYTHON",
        "machine": {"processor": _processor(), "load_before": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "cases": len(files),
        "development_cases": [file.name.removesuffix(".nii.gz") for file in files[:DEVELOPMENT_CASES]],
        "certainty": CERTAINTY,
        "shares": SHARES.tolist(),
        "itk": {},
        "time": {},
    }
    runs = [(axis, step) for axis in AXES for step in STEPS]
    for axis, step in tqdm(runs, "Slice axes and steps", delay=2):
        cases = [case for file in files for case in objects(args.data, file, axis, step)]
        development = 2 * DEVELOPMENT_CASES
        rows, times = evaluate(cases)
        parts = {
            "all cases": slice(None),
            "development cases": slice(development),
            "other cases": slice(development, None),
        }
        results.setdefault(AXES[axis], {})[str(step)] = {
            part: {
                method: summary(
                    rows[method][chosen],
                    None if method == "plain" else CERTAINTY,
                    with_curve=axis == 0 and part != "development cases",
                )
                for method in METHODS
            }
            for part, chosen in parts.items()
        }
        if axis == 0:
            timed = {"ours_median_ms": 1e3 * float(np.median(times)), "ours_total_s": float(np.sum(times))}
            if args.itk_python:
                itk = itk_results(args.itk_python, cases)
                results["versions"]["itk"] = itk["version"]
                results["itk"][str(step)] = {
                    part: float(np.mean(itk["dice"][chosen])) for part, chosen in parts.items()
                }
                timed |= {
                    "itk_median_ms": 1e3 * float(np.median(itk["seconds"])),
                    "itk_total_s": float(np.sum(itk["seconds"])),
                }
            results["time"][str(step)] = timed
    report(results)
    if args.output:
        args.output.write_text(_compact(results) + "\n")
    if args.plots:
        plot(results, args.plots / "interpolation_tradeoff.png")


def report(results: dict[str, Any]) -> None:
    for axis in AXES.values():
        for step, parts in results[axis].items():
            for part, methods in parts.items():
                itk = f", ITK {results['itk'][step][part]:.4f}" if axis == "axial" and step in results["itk"] else ""
                print(f"\n{axis}, every {step}, {part}{itk}")
                for method, row in methods.items():
                    print(f"  {method:<13} Dice {row['dice']:.4f}", end="")
                    for domain in DOMAINS:
                        found = row[domain]
                        default = ""
                        if "default_share" in found:
                            default = f" [{found['default_right']:.4f} @ {found['default_share']:.3f}]"
                        print(
                            f" | {domain}: {found['right_at_least_share']:.4f} @ {LEAST_SHARE},"
                            f" {BAR} @ {found['share_at_bar']:.3f}{default}",
                            end="",
                        )
                    print()
    for step, timed in results["time"].items():
        print(step, {name: round(value, 2) for name, value in timed.items()})


def _compact(results: dict[str, Any]) -> str:
    """JSON with five decimals, one line per method and domain."""
    rounded = json.loads(json.dumps(results), parse_float=lambda number: round(float(number), 5))
    return re.sub(r"[\[{][^{}]*[\]}]", lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(rounded, indent=1))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
