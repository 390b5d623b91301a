"""Non-maximum suppression: greedy, per label, and soft.

The portable greedy NMS takes the boxes by falling score, a block at a time: it settles which boxes of the
block survive each other, then lets those suppress all later boxes at once. Python runs once per
block, memory is bounded by block times tile, and the result is that of the textbook loop.

Equal scores: the portable path sorts with ``scores.sort(descending=True)``, as compiled mmcv does, and so
keeps the same boxes in the same order. PyTorch does not call that sort stable, and on CPUs with AVX-512
or AVX2 it is not: which of two equally scored, overlapping boxes wins may differ between machines.
torchvision's CPU kernel sorts stably; there, and only there, ties may resolve differently from mmcv.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from convnext_dense.ops.backend import one_thread, torchvision_ops

SoftNMSMethod = Literal["naive", "linear", "gaussian"]

_BLOCK = 256
_TILE = 16384


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Greedy NMS: indices (M,) of the boxes kept, by falling score.

    A box is dropped when its IoU with a kept box of higher score is above ``iou_threshold``. IoU is computed
    in float32 (float64 for float64 boxes); two boxes without area have no IoU and never suppress each other.

    Args:
        boxes: (N, 4) rows of x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: in [0, 1].
        offset: 0, or 1 for boxes that include their last pixel (width is ``x2 - x1 + 1``).
    """
    _check(boxes, scores, offset)
    ops = torchvision_ops(boxes.device.type)
    if ops is None:
        return _greedy(boxes, scores, None, iou_threshold, offset)
    boxes = _with_offset(boxes, offset)
    return ops.nms(boxes, scores.to(boxes.dtype), iou_threshold)


def batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, offset: int = 0
) -> Tensor:
    """:func:`nms` for each label separately: boxes (N, 4), scores (N,), labels (N,) -> indices (M,)."""
    _check(boxes, scores, offset)
    if labels.shape != scores.shape:
        raise ValueError(f"labels: want {tuple(scores.shape)}, one for each score, got {tuple(labels.shape)}")
    ops = torchvision_ops(boxes.device.type)
    if ops is None:
        return _greedy(boxes, scores, labels, iou_threshold, offset)
    boxes = _with_offset(boxes, offset)
    return ops.batched_nms(boxes, scores.to(boxes.dtype), labels, iou_threshold)


@one_thread()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: SoftNMSMethod = "linear",
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS: overlapped boxes lose score instead of being dropped.

    Each box depends on the one before, so this runs on the CPU for every device (as in mmcv), in
    float32 (float64 for float64 boxes). The first box is returned even if its score is below ``min_score``.

    Args:
        boxes: (N, 4) rows of x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: overlap from which ``naive`` and ``linear`` act.
        sigma: width of the ``gaussian`` decay.
        min_score: a box is removed when its score falls below this.
        method: ``naive`` sets the score to 0, ``linear`` multiplies it by ``1 - IoU``, ``gaussian`` by
            ``exp(-IoU^2 / sigma)``.
        offset: 0, or 1 for boxes that include their last pixel.

    Returns:
        ``(x1, y1, x2, y2, new score)`` rows (M, 5) by falling new score, in the dtype of ``boxes``, and
        their indices (M,).
    """
    _check(boxes, scores, offset)
    if method not in ("naive", "linear", "gaussian"):
        raise ValueError(f"method={method!r}; use one of ('naive', 'linear', 'gaussian')")
    table = _columns(boxes.detach().cpu(), offset)
    table = torch.cat([table, scores.detach().cpu().to(table.dtype)[None]])  # x1, y1, x2, y2, area, score
    kept = torch.arange(len(boxes), device="cpu")
    count = len(boxes)
    for i in range(len(boxes)):
        if i == count:
            break
        best = i + _first_highest(table[5, i:count])
        table[:, [i, best]], kept[[i, best]] = table[:, [best, i]], kept[[best, i]]
        rest = table[:, i + 1 : count]
        rest[5] *= _decay(_iou(table[:, i : i + 1], rest, offset)[0], iou_threshold, sigma, method)
        count = i + 1 + _drop_by_swapping(rest, kept[i + 1 : count], min_score)
    rows = table[[0, 1, 2, 3, 5], :count].T
    return rows.to(boxes), kept[:count].to(boxes.device)


@one_thread()
def _greedy(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, iou_threshold: float, offset: int
) -> Tensor:
    order = scores.sort(descending=True)[1]
    table = _columns(boxes[order], offset)
    if labels is not None:  # numbered from 0, so that float32 holds each exactly
        numbers = labels.unique(return_inverse=True)[1]
        table = torch.cat([table, numbers[order].to(table.dtype)[None]])
    kept = []
    while len(order):
        block = _survivors(_suppresses(table[:, :_BLOCK], table[:, :_BLOCK], iou_threshold, offset))
        kept.append(order[:_BLOCK][block])
        winners, rest = table[:, :_BLOCK][:, block], table[:, _BLOCK:]
        tiles = [~_suppresses(winners, tile, iou_threshold, offset).any(0) for tile in rest.split(_TILE, 1)]
        free = torch.cat(tiles).nonzero().flatten()
        order, table = order[_BLOCK:][free], rest[:, free]
    return torch.cat(kept) if kept else order


def _survivors(suppresses: Tensor) -> Tensor:
    """Greedy NMS within a block: (B, B) "i overlaps j", by falling score -> (B,) kept.

    Solves ``kept[j] = no kept i < j overlaps j`` by iteration. Round t settles at least the first t boxes,
    and in practice all of them after a few rounds: as many as the longest chain of overlaps.
    """
    suppresses = suppresses.triu(1)
    kept = torch.ones_like(suppresses[0])
    while True:
        settled = ~(suppresses & kept[:, None]).any(0)
        if torch.equal(settled, kept):
            return kept
        kept = settled


def _suppresses(winners: Tensor, others: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Two tables of A and B columns -> (A, B) bool."""
    overlap = _iou(winners, others, offset) > iou_threshold
    if len(winners) == 6:  # with labels
        overlap &= winners[5][:, None] == others[5]
    return overlap


def _columns(boxes: Tensor, offset: int) -> Tensor:
    """(N, 4) -> (5, N): x1, y1, x2, y2, area, in the dtype to compute in."""
    x1, y1, x2, y2 = boxes.to(_compute_dtype(boxes)).unbind(1)
    return torch.stack([x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)])


def _iou(a: Tensor, b: Tensor, offset: int) -> Tensor:
    """Tables of A and B columns -> (A, B); NaN between boxes without area.

    In place where possible, and with mmcv's rounding: the sum of areas first, then minus the overlap.
    """
    width = torch.minimum(a[2][:, None], b[2]).sub_(torch.maximum(a[0][:, None], b[0]))
    height = torch.minimum(a[3][:, None], b[3]).sub_(torch.maximum(a[1][:, None], b[1]))
    overlap = width.add_(offset).clamp_(min=0).mul_(height.add_(offset).clamp_(min=0))
    return overlap.div_((a[4][:, None] + b[4]).sub_(overlap))


def _decay(iou: Tensor, iou_threshold: float, sigma: float, method: SoftNMSMethod) -> Tensor:
    """Factor on the score by overlap: (B,) -> (B,)."""
    if method == "gaussian":
        return torch.exp(-(iou * iou) / sigma)
    left = torch.zeros_like(iou) if method == "naive" else 1 - iou
    return torch.where(iou >= iou_threshold, left, 1.0)


def _first_highest(scores: Tensor) -> int:
    """Index of the first of the highest scores. A NaN is highest in first place and lowest elsewhere, as in
    mmcv's loop of ``<`` (Gaussian decay makes NaN scores from boxes without area)."""
    best = int(scores.argmax())
    if scores[best].isnan():
        best = 0 if scores[0].isnan() else int(scores.nan_to_num(nan=float("-inf")).argmax())
    return best


def _drop_by_swapping(table: Tensor, indices: Tensor, min_score: float) -> int:
    """Drop columns whose score is below ``min_score``, in place; return how many stay, now in front.

    Dropping by moving the last column into the gap, gap by gap, is mmcv's order, and decides which of two
    equal scores comes first later on. Done at once: gaps in rising order take survivors in falling order.
    """
    stays = ~(table[5] < min_score)  # a NaN score stays
    count = int(stays.sum())
    if count < len(stays):
        gaps = (~stays[:count]).nonzero().flatten()
        movers = count + stays[count:].nonzero().flatten().flip(0)
        table[:, gaps], indices[gaps] = table[:, movers], indices[movers]
    return count


def _with_offset(boxes: Tensor, offset: int) -> Tensor:
    """Boxes for an NMS without an offset: ``x2 + 1 - x1`` is ``x2 - x1 + 1``, overlaps included."""
    boxes = boxes.to(_compute_dtype(boxes))
    return torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1) if offset else boxes


def _compute_dtype(boxes: Tensor) -> torch.dtype:
    return torch.float64 if boxes.dtype == torch.float64 else torch.float32


def _check(boxes: Tensor, scores: Tensor, offset: int) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes: want (N, 4), got {tuple(boxes.shape)}")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores: want ({len(boxes)},), one for each box, got {tuple(scores.shape)}")
    if offset not in (0, 1):
        raise ValueError(f"offset={offset}; use one of (0, 1)")
