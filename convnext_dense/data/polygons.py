"""Exact polygons of pixel masks, in COCO's form."""

from __future__ import annotations

import numpy as np


def mask_polygons(mask: np.ndarray) -> list[list[int]]:
    """Polygons along the pixel edges of a mask: (H, W) bool -> ``[[x0, y0, x1, y1, ...], ...]``.

    Their union is exactly the mask, also when COCO's tools rasterise it. COCO's polygons have no holes,
    so a mask with a hole is cut in two through it.
    """
    if not mask.any():
        return []
    loops = _trace(mask)
    hole = next((loop for loop in loops if _signed_area(loop) < 0), None)
    if hole is None:
        return [np.array(loop).ravel().tolist() for loop in loops]
    cut = min(x for x, _ in hole) + 1  # within the hole, or along its right edge when one pixel wide
    left, right = mask.copy(), mask.copy()
    left[:, cut:] = False
    right[:, :cut] = False
    return mask_polygons(left) + mask_polygons(right)


def _trace(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Corners of the closed walks along a mask's pixel edges, with the mask on the right hand.

    Outer walks have a positive area, walks around holes a negative one. Pixels that touch only at a corner
    are walked around separately.
    """
    edges = _edges(mask)
    loops = []
    while edges:
        first = edge = next(iter(edges))
        loop = []
        while True:
            x, y, dx, dy = edge
            at = (x + dx, y + dy)
            # Right before left: where two pixels share this corner, stay with the pixel of this walk.
            turns = ((-dy, dx), (dx, dy), (dy, -dx))
            step = next(turn for turn in turns if (*at, *turn) in edges)
            if step != (dx, dy):
                loop.append(at)
            edge = (*at, *step)
            del edges[edge]
            if edge == first:
                break
        loops.append(loop)
    return loops


def _edges(mask: np.ndarray) -> dict[tuple[int, int, int, int], None]:
    """An ordered set of the boundary's unit edges (x, y, dx, dy), clockwise around the mask."""
    inside = np.pad(mask.astype(bool), 1)
    core = inside[1:-1, 1:-1]
    sides = (  # the neighbour across the edge, the edge's start from the pixel's corner, its step
        (inside[:-2, 1:-1], (0, 0), (1, 0)),  # above
        (inside[1:-1, 2:], (1, 0), (0, 1)),  # right
        (inside[2:, 1:-1], (1, 1), (-1, 0)),  # below
        (inside[1:-1, :-2], (0, 1), (0, -1)),  # left
    )
    edges: dict[tuple[int, int, int, int], None] = {}
    for neighbour, (left, top), step in sides:
        rows, columns = np.nonzero(core & ~neighbour)
        for x, y in zip((columns + left).tolist(), (rows + top).tolist(), strict=True):
            edges[(x, y, *step)] = None
    return edges


def _signed_area(loop: list[tuple[int, int]]) -> float:
    x, y = np.array(loop).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
