"""Check which polygons and run lengths (RLE) in COCO's format can be decoded."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

WH = tuple[int, int]
"""(width, height) in pixels."""

FAR = 10  # an outline that reaches this many image sizes away is invalid


def repair_mask(segmentation: Any, wh: WH) -> tuple[Any, list[str]]:
    """A mask that can be decoded, or ``None``, and the kinds of its faults; a missing mask has no faults."""
    if isinstance(segmentation, dict):
        return (segmentation, []) if is_rle(segmentation, wh) else (None, ["rle"])
    if not isinstance(segmentation, list) or not segmentation:
        return None, []
    polygons, faults = repair_polygons(segmentation, wh)
    return polygons or None, faults


def repair_polygons(polygons: list, wh: WH) -> tuple[list, list[str]]:
    """The polygons that have an area; the list itself if all have."""
    far = FAR * max(wh)
    good = [polygon for polygon in polygons if is_polygon(polygon, far)]
    return (polygons, []) if len(good) == len(polygons) else (good, ["polygon"] * (len(polygons) - len(good)))


def is_polygon(polygon: Any, far: float) -> bool:
    """Whether these are three points or more ``[x, y, x, y, ...]``, none further from 0 than ``far``.

    Rasterising needs memory in proportion to the length of the edges, so one wrong coordinate can end a run.
    """
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    try:
        # a NaN makes the sum NaN, even where min and max miss it
        return math.isfinite(sum(polygon)) and -far <= min(polygon) and max(polygon) <= far
    except TypeError:
        return False


def is_rle(rle: Mapping, wh: WH) -> bool:
    """Whether run lengths, compressed or as a list, fill an image of (width, height) exactly.

    Older decoders write beyond their memory if they do not.
    """
    if rle.get("size") != [wh[1], wh[0]]:
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
    return runs.ndim == 1 and runs.dtype.kind in "iu" and runs.min() >= 0 and runs.sum() == wh[0] * wh[1]


def run_lengths(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed form, ``None`` if it is damaged.

    Six bits per character from ``0`` on: five of the number, the lowest first, and whether more follow; the
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
