"""Time and memory of the relevance against scipy's distance transform, in pairs, in one process.

Run on one core: ``taskset -c 0 python benchmarks/relevance.py --output benchmarks/relevance.json``

Three pairs per scene:

transform   the nearest contour voxel of every voxel within the cut-off. Baseline: `scipy.ndimage`'s feature transform
            of the bounding box plus cut-off, indices only. Ours: the same, block by block, not kept.
distance    relevance maps of mode "distance", one full-size map per object on both sides; the baseline goes on from
            the indices with numpy.
both        the same for mode "both".

The floor is the time to copy as many bytes as the voxels within the boxes have in the maps. "Fresh" is the time to get
memory for the maps from the operating system and to write a constant into the boxes: both sides of the maps' pairs
spend that as well. Printed are the median and the spread of the pairs' ratios, and the fastest run of either side,
which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from nnunet_wsl.relevance import RelevanceSettings, boundary_voxels, relevance_maps
from nnunet_wsl.relevance.transform import ContourVoxels, nearest_by_block

CUTOFF_MM = 20.0
SIGMA_MM = CUTOFF_MM / 3

Indices = NDArray[np.int64]

_FIRST_CALL = """
import time
start = time.perf_counter()
import numpy as np
from nnunet_wsl.relevance import RelevanceSettings, relevance_maps
imported = time.perf_counter()
image, contour = np.zeros((1, 3, 4, 5)), [[[0, 0, 0], [2, 3, 4]]]
for mode in ("distance", "both"):
    settings = RelevanceSettings(mode=mode, sigma_mm=(1.0,), intensity_scale=(1.0,), cutoff_mm=(3.0,))
    relevance_maps(image, contour, (2.0, 1.0, 1.0), settings)
print(imported - start, time.perf_counter() - imported)
"""


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects in an image; contour voxels as indices in the order of the array axes."""

    name: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    objects: list[Indices]
    image: NDArray[np.float32]

    def settings(self, mode: Any) -> RelevanceSettings:
        number = len(self.objects)
        return RelevanceSettings(
            mode=mode, sigma_mm=(SIGMA_MM,) * number, cutoff_mm=(CUTOFF_MM,) * number, intensity_scale=(50.0,)
        )

    def crops(self) -> Iterator[tuple[Indices, tuple[slice, ...], NDArray[np.bool_]]]:
        """Origin, box and background of every object: its bounding box plus the cut-off."""
        margin = np.floor(CUTOFF_MM / np.array(self.spacing_mm)).astype(int)
        for voxels in self.objects:
            low = np.maximum(voxels.min(axis=0) - margin, 0)
            high = np.minimum(voxels.max(axis=0) + margin + 1, self.shape)
            background = np.ones(high - low, dtype=np.bool_)
            background[tuple((voxels - low).T)] = False
            yield low, tuple(slice(a, b) for a, b in zip(low, high, strict=True)), background


def scenes() -> Iterator[Scene]:
    """Ellipsoids with semi-axes of organs, and cells in a large 2D image."""
    shape, spacing_mm = (120, 512, 512), (2.5, 0.8, 0.8)
    image = np.random.default_rng(0).normal(100, 30, shape).astype(np.float32)[np.newaxis]
    for number in (1, 4, 15):
        for step in (1, 5):
            rng = np.random.default_rng(1)
            objects = [_ellipsoid(rng, shape, spacing_mm, (15.0, 55.0)) for _ in range(number)]
            drawn = [voxels[voxels[:, 0] % step == 0] for voxels in objects]
            name = f"volume, {number} objects, " + ("dense" if step == 1 else f"every {step}th slice")
            yield Scene(name, shape, spacing_mm, drawn, image)
    rng = np.random.default_rng(2)
    flat = (2048, 2048)
    image = rng.normal(100, 30, flat).astype(np.float32)[np.newaxis]
    for semi_axes_mm in ((15.0, 60.0), (50.0, 100.0)):
        objects = [_ellipsoid(rng, flat, (1.0, 1.0), semi_axes_mm) for _ in range(100)]
        name = "image, 100 objects, radii {:.0f}-{:.0f}".format(*semi_axes_mm)
        yield Scene(name, flat, (1.0, 1.0), objects, image)


def _ellipsoid(
    rng: np.random.Generator, shape: tuple[int, ...], spacing_mm: tuple[float, ...], semi_axes_mm: tuple[float, float]
) -> Indices:
    spacing = np.array(spacing_mm)
    radii = rng.uniform(*semi_axes_mm, len(shape))
    centre = rng.uniform(radii, np.array(shape) * spacing - radii)
    squares = [
        ((index * s - c) / r) ** 2
        for index, s, c, r in zip(np.ogrid[tuple(slice(n) for n in shape)], spacing, centre, radii, strict=True)
    ]
    return np.argwhere(boundary_voxels(np.asarray(sum(squares) <= 1)))


def scipy_transform(scene: Scene) -> None:
    for _, _, background in scene.crops():
        _scipy_indices(background, scene)


def _scipy_indices(background: NDArray[np.bool_], scene: Scene) -> NDArray[np.int32]:
    indices: NDArray[np.int32] = ndimage.distance_transform_edt(
        background, sampling=scene.spacing_mm, return_distances=False, return_indices=True
    )
    return indices


def scipy_maps(scene: Scene, *, intensity: bool) -> NDArray[np.float32]:
    maps = np.zeros((len(scene.objects), *scene.shape), dtype=np.float32)
    for relevance, (_, box, background) in zip(maps, scene.crops(), strict=True):
        indices = _scipy_indices(background, scene)
        squared = np.zeros(background.shape, dtype=np.float32)
        for axis, (index, spacing) in enumerate(zip(indices, scene.spacing_mm, strict=True)):
            own = np.arange(background.shape[axis]).reshape([-1 if a == axis else 1 for a in range(index.ndim)])
            squared += ((index - own) * np.float32(spacing)) ** 2
        values = np.exp(squared * np.float32(-0.5 / SIGMA_MM**2))
        if intensity:
            image = scene.image[0][box]
            values *= np.exp(-0.5 * ((image - image[tuple(indices)]) / np.float32(50.0)) ** 2)
        values[squared > CUTOFF_MM**2 * (1 + 1e-6)] = 0
        relevance[box] = values
    return maps


def our_transform(scene: Scene) -> None:
    for voxels in scene.objects:
        contour = ContourVoxels.of(voxels, scene.shape)
        for nearest in nearest_by_block(contour, scene.spacing_mm, CUTOFF_MM, "volume", with_reference=True):
            nearest.reference()


def our_maps(scene: Scene, mode: str) -> NDArray[np.float32]:
    return relevance_maps(scene.image, scene.objects, scene.spacing_mm, scene.settings(mode))


def fresh_maps(scene: Scene) -> None:
    maps = np.zeros((len(scene.objects), *scene.shape), dtype=np.float32)
    for relevance, (_, box, _) in zip(maps, scene.crops(), strict=True):
        relevance[box] = 1


def copy(scene: Scene) -> Callable[[], None]:
    source = np.ones(sum(background.size for _, _, background in scene.crops()), dtype=np.float32)
    target = source.copy()
    return lambda: np.copyto(target, source)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_mib(function: Callable[[], object]) -> float:
    """Largest memory that Python and numpy held at a time, in MiB."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def measure(scene: Scene, repeats: int) -> dict[str, Any]:
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "transform": (lambda: scipy_transform(scene), lambda: our_transform(scene)),
        "distance": (lambda: scipy_maps(scene, intensity=False), lambda: our_maps(scene, "distance")),
        "both": (lambda: scipy_maps(scene, intensity=True), lambda: our_maps(scene, "both")),
    }
    np.testing.assert_allclose(our_maps(scene, "distance"), scipy_maps(scene, intensity=False), atol=1e-5)
    floor = copy(scene)
    floor_s = min(seconds(floor) for _ in range(5 * repeats))
    fresh_s = min(seconds(lambda: fresh_maps(scene)) for _ in range(repeats))
    result: dict[str, Any] = {"scene": scene.name, "floor_ms": 1e3 * floor_s, "fresh_ms": 1e3 * fresh_s, "pairs": {}}
    for pair, (baseline, ours) in pairs.items():
        ours()
        times = [(seconds(baseline), seconds(ours)) for _ in range(repeats)]
        ratios = [a / b for a, b in times]
        # Both sides return maps of the same size (none in "transform"): extra is what comes on top.
        returned_mib = 0 if pair == "transform" else 4 * len(scene.objects) * np.prod(scene.shape) / 2**20
        result["pairs"][pair] = {
            "scipy_ms": 1e3 * statistics.median(a for a, _ in times),
            "ours_ms": 1e3 * statistics.median(b for _, b in times),
            "scipy_fastest_ms": 1e3 * min(a for a, _ in times),
            "ours_fastest_ms": 1e3 * min(b for _, b in times),
            "ratio": statistics.median(ratios),
            "ratio_lowest": min(ratios),
            "ratio_highest": max(ratios),
            "ours_to_floor": min(b for _, b in times) / floor_s,
            "scipy_extra_mib": peak_mib(baseline) - returned_mib,
            "ours_extra_mib": peak_mib(ours) - returned_mib,
        }
    return result


def first_call() -> dict[str, float]:
    """Seconds of the first call in a new process, without and with the compiled kernels on disk."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("compiling", "cached"):
            done = subprocess.run(
                [sys.executable, "-c", _FIRST_CALL],
                env=os.environ | {"NUMBA_CACHE_DIR": cache}, capture_output=True, text=True, check=True,
            )  # fmt: skip
            import_s, call_s = map(float, done.stdout.split())
            found |= {f"import_s_{state}": import_s, f"first_call_s_{state}": call_s}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="pairs per scene (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    results: dict[str, Any] = {
        "command": "taskset -c 0 python benchmarks/relevance.py --output benchmarks/relevance.json",
        "machine": {"processor": _processor(), "load_before": os.getloadavg()[0]},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "numba": numba.__version__,
        },
        "repeats": args.repeats,
        "first_call": first_call(),
        "scenes": [measure(scene, args.repeats) for scene in tqdm(scenes(), "Scenes", 8, delay=2)],
    }
    print("first call", {name: round(value, 2) for name, value in results["first_call"].items()})
    print(
        f"{'scene':<38}{'pair':<11}{'median ratio (spread)':^32}"
        f"{'scipy ms':>10}{'ours ms':>9}{'ratio':>7}{'x floor':>9}{'fresh ms':>10}{'extra MiB':>15}"
    )
    for result in results["scenes"]:
        for pair, row in result["pairs"].items():
            spread = f"({row['ratio_lowest']:.1f}-{row['ratio_highest']:.1f})"
            memory = f"{row['scipy_extra_mib']:.1f} : {row['ours_extra_mib']:.1f}"
            fresh = "" if pair == "transform" else f"{result['fresh_ms']:.1f}"
            scipy_ms, ours_ms = row["scipy_fastest_ms"], row["ours_fastest_ms"]
            print(
                f"{result['scene']:<38}{pair:<11}{row['ratio']:>14.1f}{spread:^18}{scipy_ms:>10.1f}{ours_ms:>9.1f}"
                f"{scipy_ms / ours_ms:>7.1f}{row['ours_to_floor']:>9.1f}{fresh:>10}{memory:>15}"
            )
    if args.output:
        args.output.write_text(json.dumps(results, indent=2) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
