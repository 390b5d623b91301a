"""Polygons and run lengths (RLE) in COCO's format: which of them can be decoded."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Size = tuple[int, int]

FAR = 10  # an outline is no outline when it goes that many image sizes astray


def repair_mask(segmentation: Any, size: Size) -> tuple[Any, list[str]]:
    """A mask that can be decoded, or ``None``, and the kinds of its faults; a missing mask has none."""
    if isinstance(segmentation, dict):
        return (segmentation, []) if is_rle(segmentation, size) else (None, ["rle"])
    if not isinstance(segmentation, list) or not segmentation:
        return None, []
    polygons, faults = repair_polygons(segmentation, size)
    return polygons or None, faults


def repair_polygons(polygons: list, size: Size) -> tuple[list, list[str]]:
    """The polygons that have an inside; the list itself if all have."""
    far = FAR * max(size)
    good = [polygon for polygon in polygons if is_polygon(polygon, far)]
    return (polygons, []) if len(good) == len(polygons) else (good, ["polygon"] * (len(polygons) - len(good)))


def is_polygon(polygon: Any, far: float) -> bool:
    """Three points or more ``[x, y, x, y, ...]``, none further from 0 than ``far``.

    Rasterising takes memory along with the length of the edges, so a stray coordinate can end a run.
    """
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    try:
        # a NaN makes the sum one, wherever it hides from min and max
        return math.isfinite(sum(polygon)) and -far <= min(polygon) and max(polygon) <= far
    except TypeError:
        return False


def is_rle(rle: Mapping, size: Size) -> bool:
    """Whether run lengths, compressed or as a list, fill an image of (width, height) exactly.

    Decoders of older versions write beyond their memory when they do not.
    """
    if rle.get("size") != [size[1], size[0]]:
        return False
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = run_lengths(counts)
    if not isinstance(counts, list) or not counts:
        return False
    try:
        runs = np.asarray(counts)
    except ValueError:  # nested lists
        return False
    return runs.ndim == 1 and runs.dtype.kind in "iu" and runs.min() >= 0 and runs.sum() == size[0] * size[1]


def run_lengths(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed form, ``None`` if it is damaged.

    Six bits a character from ``0`` on: five of the number, the lowest first, and whether it goes on; the
    highest bit of the last five is the sign. From the fourth number on it is the difference to the one
    before the last.
    """
    lengths: list[int] = []
    value = shift = 0
    for code in text.encode("ascii", "replace"):
        bits = code - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
            value = shift = 0
    return lengths if not shift else None
