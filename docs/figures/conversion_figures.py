"""Draw the picture of docs/conversion.md: ``python docs/figures/conversion_figures.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from nnunet_wsl.contours import Contour, ContourSet, Grid, contour_voxels, drawn_slices, place, rasterise
from nnunet_wsl.conversion.annotation import label_map, slice_knowledge
from nnunet_wsl.conversion.cropped import CroppedMask
from nnunet_wsl.conversion.supervision import RelevanceSource, supervise, supervision_window
from nnunet_wsl.relevance import RelevanceSettings, relevance_maps

IMAGES = Path(__file__).parents[1] / "images"
SHAPE_ZYX, SPACING_MM_ZYX = (5, 76, 96), (4.0, 1.0, 1.0)
CLOSED, OPEN = (0, 3), 4
"""Slices with a closed contour, and one with half a contour."""
SIGMA_MM = 4.0
LABEL_COLOURS = mpl.colors.ListedColormap([(0, 0, 0, 0), (0.9, 0.2, 0.2, 0.5), (0.55, 0.55, 0.58, 0.85)])


def outline(z: float) -> np.ndarray:
    """Points (y, x) of the organ on a slice, which moves and grows from slice to slice."""
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    radius = 15 + 2.2 * z + (2 + 0.5 * z) * np.sin(3 * angle + 0.3 * z)
    return np.column_stack([36 + 1.2 * z + 0.8 * radius * np.sin(angle), 40 + 3 * z + radius * np.cos(angle)])


def main() -> None:
    """Draw five slices of an organ that is drawn on two of them, and half on a third."""
    grid = Grid((0, 0, 0), SPACING_MM_ZYX[::-1], np.eye(3), SHAPE_ZYX)
    drawn = [(k, outline(k), True) for k in CLOSED] + [(OPEN, outline(OPEN)[10:55], False)]
    contours = [
        Contour("organ", grid.to_mm(np.column_stack([points[:, ::-1], np.full(len(points), k)])), closed)
        for k, points, closed in drawn
    ]
    placed = place(ContourSet(["organ"], contours), grid, case="picture")
    whole = [Contour("organ", grid.to_mm(np.column_stack([outline(k)[:, ::-1], np.full(90, k)]))) for k in range(5)]
    truth = rasterise(place(ContourSet(["organ"], whole), grid, case="picture"), "organ")
    image = np.where(truth, 120, 70) + np.random.default_rng(0).normal(0, 14, SHAPE_ZYX)
    knowledge = slice_knowledge(drawn_slices(placed, "organ"), SHAPE_ZYX[0], "auto", [OPEN], listed=CLOSED)
    window = supervision_window(placed, "organ")
    mask = CroppedMask.of(rasterise(placed, "organ"), window)
    supervision, interpolation = supervise(placed, "organ", mask, knowledge, image[None], between="gated")
    source = RelevanceSource.of(placed, "organ", contour_voxels(placed, "organ"), knowledge, interpolation, window)
    labels = label_map([supervision.inside], [supervision.known])
    settings = RelevanceSettings(sigma_mm=(SIGMA_MM,), cutoff_mm=(3 * SIGMA_MM,))
    (relevance,) = relevance_maps(None, [source.contour_voxels], SPACING_MM_ZYX, settings, shape=SHAPE_ZYX)
    confidence = source.confidence_map(SHAPE_ZYX, SPACING_MM_ZYX, SIGMA_MM)

    figure, axes = plt.subplots(4, 5, figsize=(12, 8.2), layout="constrained")
    titles = ["drawn", "between", "between", "drawn", "half drawn"]
    rows = ["image and contours", "mask (red), ignored (grey)", "relevance", "confidence in it"]
    for k, column in enumerate(axes.T):
        for axis in column[:2]:
            axis.imshow(image[k], cmap="gray", vmin=20, vmax=180)
        column[1].imshow(labels[k], cmap=LABEL_COLOURS, vmin=0, vmax=2, interpolation="nearest")
        column[2].imshow(relevance[k], cmap="magma", vmin=0, vmax=1)
        column[3].imshow(confidence[k], cmap="viridis", vmin=0, vmax=1)
        for contour in placed.contours:
            if contour.slice_index == k:
                points = contour.points_yx_vox[[*range(len(contour.points_yx_vox)), *([0] if contour.closed else [])]]
                column[0].plot(points[:, 1], points[:, 0], color="#ff3b30")
        column[0].set_title(f"slice {k}: {titles[k]}", fontsize=10)
        for axis in column:
            axis.set(xticks=[], yticks=[])
    for axis, row in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(row, fontsize=9)
    figure.savefig(IMAGES / "conversion_between.png", dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main()
