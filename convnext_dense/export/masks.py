"""Masks of detections: pasted into the image as mmdet does it, and written as COCO's run lengths."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Mask:
    """The mask of one detection; an image of 12 million pixels with 100 of them would not fit in memory.

    Attributes:
        hw: (height, width) of the image.
        top: first row of ``pixels`` in the image.
        left: its first column.
        pixels: (h, w) bool, the part of the image around the box; outside there is nothing.
    """

    hw: tuple[int, int]
    top: int
    left: int
    pixels: np.ndarray

    def full(self) -> np.ndarray:
        """The mask at the size of the image, (H, W) bool."""
        image = np.zeros(self.hw, bool)
        rows, columns = self.pixels.shape
        image[self.top : self.top + rows, self.left : self.left + columns] = self.pixels
        return image

    def area(self) -> int:
        """Pixels of the object."""
        return int(self.pixels.sum())

    def as_rle(self) -> dict:
        """COCO's form: ``size`` [height, width], and ``counts``, the compressed run lengths."""
        strip = np.zeros((self.pixels.shape[1], self.hw[0]), bool)  # whole columns, one after the other
        strip[:, self.top : self.top + self.pixels.shape[0]] = self.pixels.T
        flat = np.concatenate([[False], strip.reshape(-1), [False]])
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + self.left * self.hw[0]
        pixels = self.hw[0] * self.hw[1]
        inner = changes[:-1] if len(changes) and changes[-1] == pixels else changes
        lengths = np.diff(np.concatenate([[0], inner, [pixels]]))
        return {"size": [*self.hw], "counts": compressed(lengths)}


def paste_masks(
    probabilities: np.ndarray, boxes: np.ndarray, hw: tuple[int, int], threshold: float
) -> list[Mask]:
    """Masks at the size of the image, equal to those of mmdet's ``FCNMaskHead``.

    Args:
        probabilities: (N, m, m) float32.
        boxes: (N, 4) float32, x1 y1 x2 y2 in the image.
        hw: (height, width) of the image.
        threshold: from which probability on a pixel belongs to the mask.
    """
    return [paste_mask(part, box, hw, threshold) for part, box in zip(probabilities, boxes, strict=True)]


def paste_mask(probabilities: np.ndarray, box: np.ndarray, hw: tuple[int, int], threshold: float) -> Mask:
    """One mask; see :func:`paste_masks`.

    Bilinear interpolation is separable, so each row of the result is a mean of two rows of probabilities, and
    each pixel a mean of two pixels of such a row.
    """
    x1, y1, x2, y2 = (np.float32(value) for value in box)
    left, right = _span(x1, x2, hw[1])
    top, bottom = _span(y1, y2, hw[0])
    if left >= right or top >= bottom:
        return Mask(hw, 0, 0, np.zeros((0, 0), bool))
    rows = _weights(top, bottom, y1, y2, probabilities.shape[0])
    columns = _weights(left, right, x1, x2, probabilities.shape[1])
    pixels = rows @ probabilities.astype(np.float32, copy=False) @ columns.T
    return Mask(hw, top, left, pixels >= np.float32(threshold))


def _span(start: np.float32, stop: np.float32, size: int) -> tuple[int, int]:
    """Pixels that a box from ``start`` to ``stop`` can touch along one side of the image."""
    return max(int(np.floor(start)) - 1, 0), min(int(np.ceil(stop)) + 1, size)


def _weights(first: int, last: int, start: np.float32, stop: np.float32, cells: int) -> np.ndarray:
    """Weights of a box's cells in each pixel from ``first`` to ``last``: (pixels, cells) float32.

    They are zero outside the box. Computed in float32 in the order of ``F.grid_sample``: it decides ties.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # a box without width: mmdet takes its centre
        place = (np.arange(first, last, dtype=np.float32) + np.float32(0.5) - start) / (stop - start)
    place = place * np.float32(2) - np.float32(1)
    place[np.isinf(place)] = 0
    place = (place + np.float32(1)) * np.float32(cells / 2) - np.float32(0.5)
    below = np.floor(place)
    part = place - below
    weights = np.zeros((last - first, cells), np.float32)
    for cell, weight in ((below, 1 - part), (below + 1, part)):
        inside = (cell >= 0) & (cell < cells)  # false for NaN
        weights[np.flatnonzero(inside), cell[inside].astype(np.int64)] = weight[inside]
    return weights


def compressed(lengths: np.ndarray) -> str:
    """Run lengths in COCO's compressed form; `convnext_dense.data.coco_masks.run_lengths` reads it.

    From the fourth on, each is the difference to the one before the last. Characters have five bits of it,
    the lowest first, and one that says whether more follow; the last has the sign as its highest bit.
    """
    left = lengths.astype(np.int64)
    left[3:] -= lengths[1:-2]
    characters, present = [], []
    more = np.ones(len(left), bool)
    while more.any():
        present.append(more)
        bits = left & 31
        left = left >> 5
        more = more & np.where(bits & 16, left != -1, left != 0)
        characters.append(bits + 48 + 32 * more)
    table = np.stack(characters, 1).astype(np.uint8)
    return table[np.stack(present, 1)].tobytes().decode("ascii")
