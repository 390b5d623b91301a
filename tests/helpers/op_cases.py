"""Slow, plain versions of RoIAlign and NMS, and the test cases for them and for compiled mmcv."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def loop_roi_align(features, rois, output_size, spatial_scale, sampling_ratio, aligned) -> Tensor:
    """RoIAlign from its definition, one sample at a time, in Python floats. (N, C, H, W) -> (K, C, P, Q)."""
    p, q = output_size
    output = torch.zeros(len(rois), features.shape[1], p, q, dtype=torch.float64)
    for k, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (v * spatial_scale - (0.5 if aligned else 0.0) for v in corners)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        rows = sampling_ratio if sampling_ratio > 0 else math.ceil(height / p)
        columns = sampling_ratio if sampling_ratio > 0 else math.ceil(width / q)
        for c, plane in enumerate(features[int(image)].tolist()):
            for i in range(p):
                for j in range(q):
                    total = 0.0
                    for r in range(rows):
                        y = y1 + i * (height / p) + (r + 0.5) * (height / p) / rows
                        for s in range(columns):
                            x = x1 + j * (width / q) + (s + 0.5) * (width / q) / columns
                            total += _sample(plane, y, x)
                    output[k, c, i, j] = total / max(rows * columns, 1)
    return output


def _sample(plane: list[list[float]], y: float, x: float) -> float:
    height, width = len(plane), len(plane[0])
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    upper = plane[top][left] * (1 - u) + plane[top][right] * u
    lower = plane[bottom][left] * (1 - u) + plane[bottom][right] * u
    return upper * (1 - v) + lower * v


def loop_iou(a: list[float], b: list[float], offset: int) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    overlap = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    union = sum(areas) - overlap
    return overlap / union if union else math.nan


def loop_nms(boxes: Tensor, order: list[int], iou_threshold: float, offset: int = 0) -> list[int]:
    """Greedy NMS over boxes taken in ``order``."""
    rows, kept = boxes.tolist(), []
    for j in order:
        if not any(loop_iou(rows[i], rows[j], offset) > iou_threshold for i in kept):
            kept.append(j)
    return kept


def loop_soft_nms(boxes, scores, iou_threshold, sigma, min_score, method, offset):
    """Soft-NMS: repeatedly take the best box and decay the others. Returns [(index, score)]."""
    rows, left, taken = boxes.tolist(), dict(enumerate(scores.tolist())), []
    while left:
        best = max(left, key=lambda i: left[i])
        taken.append((best, left.pop(best)))
        for j in list(left):
            iou = loop_iou(rows[best], rows[j], offset)
            if method == "gaussian":
                left[j] *= math.exp(-iou * iou / sigma)
            elif iou >= iou_threshold:
                left[j] *= 0.0 if method == "naive" else 1 - iou
            if left[j] < min_score:
                del left[j]
    return taken


def random_rois(count: int, batch: int, height: float, width: float, seed: int = 0) -> Tensor:
    """(count, 5): corners anywhere in an image of that size and up to a fifth beyond it."""
    g = torch.Generator().manual_seed(seed)
    corners = (torch.rand(count, 2, 2, generator=g) * 1.4 - 0.2) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    return torch.cat([torch.randint(0, batch, (count, 1), generator=g).float(), boxes], 1)


def _rois(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).view(-1, 5)


# name -> (shape of the features, rois, spatial scale)
ROI_CASES: dict[str, tuple[tuple[int, int, int, int], Tensor, float]] = {
    "random": ((3, 2, 9, 13), random_rois(5, 3, 36, 52), 0.25),
    "no boxes": ((2, 2, 4, 5), _rois(), 0.5),
    "outside": (
        (1, 2, 6, 7),
        _rois((0, -40, -40, -20, -20), (0, 90, 3, 99, 9), (0, -9, -9, 60, 60), (0, -3, 10, 4, 40)),
        0.5,
    ),
    "no area": ((1, 2, 6, 7), _rois((0, 5, 5, 5, 5), (0, 2, 3, 9, 3), (0, 4, 1, 4, 8), (0, 0, 0, 0, 0)), 0.5),
    "one pixel": ((2, 1, 1, 1), _rois((1, 0, 0, 8, 8), (0, -2, -2, 2, 2), (1, 3, 3, 3.5, 3.5)), 0.125),
    "one row": ((1, 2, 1, 9), _rois((0, 1, 0, 8, 1), (0, 0, -1, 9, 3)), 1.0),
    # Samples at exactly -1, 0, H - 1 and H: the last cell beyond the border still counts.
    "on the border": (
        (1, 1, 4, 4),
        _rois((0, -1.5, -1.5, 0.5, 0.5), (0, 3.5, 3.5, 5.5, 5.5), (0, -1, -1, 4, 4)),
        1.0,
    ),
    "far larger than the map": ((1, 1, 5, 6), _rois((0, -300, -200, 300, 250), (0, 1, 1, 4, 4)), 1.0),
}


def features_like(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_boxes(count: int, size: float = 100.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Crowded boxes (N, 4) with distinct scores (N,)."""
    g = torch.Generator().manual_seed(seed)
    start = torch.rand(count, 2, generator=g) * size
    extent = 5 + torch.rand(count, 2, generator=g) * size / 3
    return torch.cat([start, start + extent], 1), torch.randperm(count, generator=g).float().add(1) / count
