"""Sheets of predictions beside their ground truth: plain arrays in, one image file out.

Nothing is shown on the screen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from convnext_dense.errors import ArgumentError
from convnext_dense.reports.style import COLOURS, save_figure

BACKGROUND = "#DDDDDD"
PAIRS_A_ROW = 4


@dataclass(frozen=True)
class Instance:
    """One object in one image.

    ``label`` is the class index, ``mask`` (H, W) bool, ``box`` x, y, width, height in pixels, ``score`` in
    [0, 1] or None for ground truth.
    """

    label: int
    mask: np.ndarray
    box: tuple[float, float, float, float]
    score: float | None = None


def detection_sheet(
    path: str | Path,
    images: Sequence[np.ndarray],
    truths: Sequence[Sequence[Instance]],
    predictions: Sequence[Sequence[Instance]],
    classes: Sequence[str],
) -> None:
    """Draw masks, boxes and scores of each image beside its ground truth.

    Args:
        path: file to write.
        images: (H, W, 3) uint8 RGB each.
        truths, predictions: instances of each image.
        classes: names by label.

    Raises:
        ValueError: no images, or not one truth and one prediction for each.
    """
    sheet = _Sheet(len(images), len(truths), len(predictions))
    for axes, image, instances in sheet.cells(images, truths, predictions):
        axes.imshow(image)
        for instance in instances:
            _draw_instance(axes, instance, classes)
    names = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(classes)}
    sheet.finish(path, names)


def segmentation_sheet(
    path: str | Path,
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    classes: Sequence[str],
) -> None:
    """Draw the label maps of each image over it, beside the ground truth.

    Args:
        path: file to write.
        images: (H, W, 3) uint8 RGB each.
        truths, predictions: (H, W) class indices; class 0 is the background and stays clear, values beyond
            ``classes`` (ignored pixels) are grey.
        classes: names by index.

    Raises:
        ValueError: no images, or not one truth and one prediction for each.
    """
    sheet = _Sheet(len(images), len(truths), len(predictions))
    for axes, image, labels in sheet.cells(images, truths, predictions):
        axes.imshow(image)
        for index in np.unique(labels[labels > 0]).tolist():
            known = index < len(classes)
            _overlay(axes, labels == index, COLOURS[(index - 1) % len(COLOURS)] if known else BACKGROUND, 0.8)
    names = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(classes[1:])}
    sheet.finish(path, names)


class _Sheet:
    """A grid of pairs: truth on the left, prediction on the right."""

    def __init__(self, images: int, truths: int, predictions: int) -> None:
        if not images or not images == truths == predictions:
            raise ArgumentError(
                f"as many of each: {images} images, {truths} truths, {predictions} predictions"
            )
        self.across = min(PAIRS_A_ROW, images)
        rows = -(-images // self.across)
        height = 1.85 * rows + 0.7  # inches, 0.7 of them for the titles and the legend
        self.figure = Figure(figsize=(3.7 * self.across, height), dpi=130)
        widths = ([1, 1, 0.12] * self.across)[:-1]  # truth, prediction, and a gap between pairs
        self.grid = self.figure.add_gridspec(
            rows, len(widths), width_ratios=widths, wspace=0.04, hspace=0.06,
            left=0.01, right=0.99, bottom=0.4 / height, top=1 - 0.3 / height,
        )  # fmt: skip

    def cells(
        self, images: Sequence[np.ndarray], truths: Sequence, predictions: Sequence
    ) -> Iterator[tuple[Axes, np.ndarray, Any]]:
        """Yield the axes, the image and what to draw there, for every truth and prediction."""
        for i, (image, *columns) in enumerate(zip(images, truths, predictions, strict=True)):
            row, pair = divmod(i, self.across)
            for j, (title, content) in enumerate(zip(("truth", "prediction"), columns, strict=True)):
                axes = self.figure.add_subplot(self.grid[row, 3 * pair + j])
                axes.set_axis_off()
                if row == 0:
                    axes.set_title(title, fontsize=10)
                yield axes, image, content

    def finish(self, path: str | Path, names: Mapping[str, str]) -> None:
        """Add the legend of class name -> colour and write the file."""
        patches = [Patch(color=colour, label=name) for name, colour in names.items()]
        self.figure.legend(
            handles=patches, loc="lower center", ncols=min(len(patches), 10), frameon=False, fontsize=10
        )
        save_figure(self.figure, path)


def _overlay(axes: Axes, mask: np.ndarray, colour: str, alpha: float) -> None:
    """Tint the pixels of (H, W) bool ``mask``."""
    tint = np.zeros((*mask.shape, 4))
    tint[mask] = (*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)), alpha)
    axes.imshow(tint, interpolation="nearest")


def _draw_instance(axes: Axes, instance: Instance, classes: Sequence[str]) -> None:
    colour = COLOURS[instance.label % len(COLOURS)]
    _overlay(axes, instance.mask, colour, 0.55)
    x, y, width, height = instance.box
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), width, height, fill=False, edgecolor=colour, lw=1.4))
    name = classes[instance.label]
    text = name if instance.score is None else f"{name} {instance.score:.2f}"
    above = y >= 0.08 * instance.mask.shape[0]  # else the label would leave the picture
    axes.text(
        max(x, 0), y - 1 if above else y + 1, text, fontsize=6, color="white",
        va="bottom" if above else "top", clip_on=True,
        bbox=dict(facecolor=colour, edgecolor="none", pad=0.8, alpha=0.9),
    )  # fmt: skip
