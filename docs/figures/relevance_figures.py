"""Draw the pictures of docs/relevance.md: ``python docs/figures/relevance_figures.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_wsl.relevance import (
    RelevanceSettings,
    boundary_voxels,
    case_fingerprint,
    fuse,
    nearest_contour,
    plan_scales,
    relevance_maps,
)

IMAGES = Path(__file__).parents[1] / "images"
SHAPE, SPACING_MM = (120, 150), (1.0, 1.0)
OBJECT_COLOURS = ("tab:orange", "deepskyblue")
KERNELS = {
    "gaussian": lambda u: np.exp(-(u**2) / 2),
    "exponential": lambda u: np.exp(-u),
    "linear": lambda u: np.maximum(0, 1 - u),
}

Array = NDArray[Any]


def phantom() -> tuple[Array, list[Array]]:
    """Return an image (y, x) of a large bright organ with a dark lesion beside it, and the masks of both."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    angle = np.arctan2(y - 62, x - 58)
    organ = np.hypot(y - 62, (x - 58) * 0.9) < 36 + 4 * np.sin(3 * angle) + 3 * np.cos(5 * angle)
    lesion = (np.hypot((y - 52) * 1.2, x - 106) < 17) & ~organ
    vessel = np.abs(y - 62 - 8 * np.sin(x / 15)) < 2.5
    image = np.full(SHAPE, 60.0)
    image[organ] = 140
    image[lesion] = 25
    image[vessel & organ] = 200
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    return ndimage.gaussian_filter(image, 1.0) + ndimage.gaussian_filter(noise, 0.7), [organ, lesion]


def planned(image: Array, masks: list[Array]) -> tuple[list[Array], RelevanceSettings]:
    """Return the contour voxels and the settings planned from them."""
    contours = [boundary_voxels(mask) for mask in masks]
    sigma_mm, intensity_scale, cutoff_mm = plan_scales([case_fingerprint(image[None], masks, contours, SPACING_MM)])
    return contours, RelevanceSettings(sigma_mm=sigma_mm, intensity_scale=intensity_scale, cutoff_mm=cutoff_mm)


def panel(axis: plt.Axes, values: Array, title: str, masks: list[Array], *, relevance: bool = True) -> Any:
    """Show an image or a relevance map with the objects' contours."""
    shown = axis.imshow(values, cmap="magma" if relevance else "gray", vmin=0 if relevance else None,
                        vmax=1 if relevance else None)  # fmt: skip
    for mask, colour in zip(masks, OBJECT_COLOURS, strict=False):
        axis.contour(mask, [0.5], colors=[colour], linewidths=1)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()
    return shown


def draw_modes() -> None:
    """Draw the relevance to one object in the three modes."""
    image, masks = phantom()
    contours, settings = planned(image, masks)
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.1), layout="constrained")
    panel(axes[0], image, "image and contours", masks, relevance=False)
    for axis, mode in zip(axes[1:], ("distance", "intensity", "both"), strict=True):
        maps = relevance_maps(image[None], contours, SPACING_MM, replace(settings, mode=mode))
        shown = panel(axis, maps[0], f'mode "{mode}"', masks[:1])
    figure.colorbar(shown, ax=axes[1:], label="relevance to the orange object", shrink=0.9)
    save(figure, "relevance_modes.png")


def draw_fusion() -> None:
    """Draw one map per object, and the three fusions."""
    image, masks = phantom()
    contours, settings = planned(image, masks)
    # A wide scale, so that the relevances to both objects overlap.
    settings = replace(settings, sigma_mm=(9.0, 9.0), cutoff_mm=(27.0, 27.0))
    maps = relevance_maps(image[None], contours, SPACING_MM, settings)
    figure, axes = plt.subplots(1, 5, figsize=(15, 3), layout="constrained")
    for k, name in enumerate(("orange", "blue")):
        panel(axes[k], maps[k], f"sub-relevance to the {name} object", masks)
    for axis, (method, title) in zip(
        axes[2:],
        (("max", 'fused, "max"'), ("mean", 'fused, "mean"'), ("noisy_or", 'fused, "noisy_or"')),
        strict=True,
    ):
        shown = panel(axis, fuse(maps, method), title, masks)
    figure.colorbar(shown, ax=axes, label="relevance", shrink=0.9)
    save(figure, "relevance_fusion.png")


def draw_scales() -> None:
    """Show what sigma_mm, cutoff_mm and intensity_scale mean, on the phantom."""
    image, masks = phantom()
    contours, settings = planned(image, masks)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")

    sigma_mm, cutoff_mm = settings.sigma_mm[0], settings.cutoff_mm[0]
    distance_mm = np.linspace(0, 1.15 * cutoff_mm, 400)
    for name, kernel in KERNELS.items():
        left.plot(distance_mm, np.where(distance_mm <= cutoff_mm, kernel(distance_mm / sigma_mm), 0), label=name)
    for value, text in ((sigma_mm, "sigma_mm"), (cutoff_mm, "cutoff_mm")):
        left.axvline(value, color="grey", linestyle="--", linewidth=1)
        left.text(value + 0.4, 1.03, text, color="grey")
    left.set(
        xlabel="distance to the reference voxel [mm]", ylabel="relevance", ylim=(0, 1.1), xlim=(0, 1.25 * cutoff_mm)
    )
    left.legend()

    shown = panel(
        middle, relevance_maps(None, contours[:1], SPACING_MM, one(settings))[0], "relevance to the object", masks[:1]
    )
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    gap_mm, _ = nearest_contour(contours[0], SPACING_MM)
    for value, style in ((sigma_mm, "--"), (cutoff_mm, ":")):
        middle.contour(x, y, gap_mm, [value], colors=["white"], linestyles=[style], linewidths=1)
    middle.text(2, SHAPE[0] - 4, "dashed: sigma_mm    dotted: cutoff_mm", color="white")
    figure.colorbar(shown, ax=middle, shrink=0.9)

    on_contour = image[contours[0]]
    near_mm, index = nearest_contour(contours[0], SPACING_MM, cutoff_mm=3.0)
    band = np.isfinite(near_mm) & (near_mm > 0)
    across = np.abs(image[band] - image[tuple(index[:, band])])
    along = np.abs(on_contour - np.median(on_contour))
    bins = np.linspace(0, 100, 41)
    right.hist(along, bins, density=True, alpha=0.6, label="along the contour: |I(q) - median|")
    right.hist(across, bins, density=True, alpha=0.6, label="across it: |I(p) - I(q)|, p within 3 voxels")
    scale = settings.intensity_scale[0]
    right.axvline(scale, color="black", linestyle="--", linewidth=1)
    right.text(scale + 1, right.get_ylim()[1] * 0.6, f"intensity_scale\n{scale:.1f}")
    right.set(xlabel="intensity difference", ylabel="density")
    right.legend(fontsize=9)
    save(figure, "relevance_scales.png")


def one(settings: RelevanceSettings) -> RelevanceSettings:
    """Return the settings of the first object alone."""
    return replace(settings, sigma_mm=settings.sigma_mm[:1], cutoff_mm=settings.cutoff_mm[:1])


def save(figure: plt.Figure, name: str) -> None:
    """Write a picture into the docs."""
    figure.savefig(IMAGES / name, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    mpl.use("Agg")
    draw_modes()
    draw_fusion()
    draw_scales()
