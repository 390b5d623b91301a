"""Choosing, collecting and pooling boxes with sizes that do not depend on the boxes.

What an image does not have is filled up with boxes of no area whose score is ``NOTHING``.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnext_dense.mm.export.operators import kept_by_nms, pooled

NOTHING = -1.0  # a score below every threshold
SMALLEST_SCORE = -0.5  # above NOTHING, and below all probabilities


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest scores of each row of (N, n), filled up with ``NOTHING``, and their places: (N, count).

    The place of a filler is the last of its row.
    """
    length = scores.shape[1]
    filled = F.pad(scores, (0, count), value=NOTHING)
    values, places = filled.topk(count, dim=1)
    return values, places.clamp(max=length - 1)


def take(values: Tensor, places: Tensor) -> Tensor:
    """(N, n, D), (N, k) -> (N, k, D)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))


def clipped(boxes: Tensor, hw: Tensor) -> Tensor:
    """Boxes (N, n, 4) cut off at the borders of their images, hw (N, 2)."""
    limits = hw.flip(1).to(boxes.dtype).repeat(1, 2)[:, None]  # w, h, w, h
    return torch.minimum(boxes.clamp(min=0), limits)


def without_small(scores: Tensor, boxes: Tensor, smallest: float) -> Tensor:
    """Scores (N, n), ``NOTHING`` where a box has a side not above ``smallest``, unless that is below 0."""
    if smallest < 0:
        return scores
    sides = boxes[..., 2:] - boxes[..., :2]
    return torch.where((sides > smallest).all(-1), scores, NOTHING)


def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Scores after NMS within each group, ``NOTHING`` where a box does not stay.

    As mmcv does, boxes of different groups are moved apart and go through one NMS, so that the IoUs have the
    same rounding.

    Args:
        boxes: (N, n, 4).
        scores: (N, n), ``NOTHING`` for fillers.
        groups: (N, n) or (n,), whole numbers: classes or levels.
        iou_threshold: overlap from which the lower score goes.
    """
    there = scores > SMALLEST_SCORE
    largest = torch.where(there[..., None], boxes, 0).flatten(1).amax(1)
    apart = boxes + (groups.to(boxes.dtype) * (largest[:, None] + 1))[..., None]
    return torch.where(kept_by_nms(apart, scores, iou_threshold, SMALLEST_SCORE), scores, NOTHING)


def pool(extractor: nn.Module, levels: Sequence[Tensor], boxes: Tensor, side: int) -> Tensor:
    """What mmdet's ``SingleRoIExtractor`` does: boxes (N, n, 4) -> (N * n, C, side, side).

    Each level pools all boxes, those of other levels as a box without area, which costs nothing. Boxes and
    pooling are in float32; the result has the dtype of the levels.
    """
    n, count = boxes.shape[:2]
    flat = boxes.reshape(-1, 4)
    images = torch.arange(n, device=boxes.device)[:, None].expand(-1, count).reshape(-1)
    dtype = levels[0].dtype
    used = [level.float() for level in levels[: extractor.num_inputs]]
    rois = torch.cat([images[:, None].to(flat.dtype), flat], 1)
    level_of = extractor.map_roi_levels(rois, len(used)) if len(used) > 1 else None
    total = None
    for index, (layer, level) in enumerate(zip(extractor.roi_layers, used, strict=True)):
        scale, ratio = float(layer.spatial_scale), int(layer.sampling_ratio)
        if level_of is None:
            return pooled(level, flat, images, side, scale, ratio).to(dtype)
        here = level_of == index
        part = pooled(level, torch.where(here[:, None], flat, 0), images, side, scale, ratio)
        part = torch.where(here[:, None, None, None], part, 0)
        total = part if total is None else total + part
    return total.to(dtype)
