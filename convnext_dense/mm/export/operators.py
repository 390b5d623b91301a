"""NMS and RoIAlign as operators whose outputs have fixed sizes, and what they become in ONNX.

``torch.export`` traces a model with symbols for its sizes, so an operator must not return a number of boxes
that depends on the boxes. Here NMS returns which boxes stay, and RoIAlign pools one level for all boxes.
"""

import torch
from onnxscript import FLOAT, INT64
from onnxscript import opset18 as op
from torch import Tensor

from convnext_dense.ops import nms, roi_align

OPSET = 18
"""Version of the ONNX operators: the first in which ``Resize`` and ``RoiAlign`` are what PyTorch computes,
and the one that TensorRT 10, OpenVINO and ONNX Runtime all read."""


@torch.library.custom_op("convnext_dense::kept_by_nms", mutates_args=())
def kept_by_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """Greedy NMS within each list: boxes (B, n, 4), scores (B, n) -> (B, n) bool.

    Boxes whose score is not above ``score_threshold`` neither stay nor suppress.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for row, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        there = (score > score_threshold).nonzero().flatten()
        kept[row, there[nms(box[there], score[there], iou_threshold)]] = True
    return kept


@kept_by_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@torch.library.custom_op("convnext_dense::pooled", mutates_args=())
def pooled(
    features: Tensor, boxes: Tensor, images: Tensor, side: int, scale: float, sampling_ratio: int
) -> Tensor:
    """RoIAlign with ``aligned=True``: features (N, C, H, W), boxes (K, 4) -> (K, C, side, side).

    Args:
        features: one level.
        boxes: in pixels of the network's input.
        images: (K,) int64, the image of each box.
        side: bins along each side.
        scale: cells of the level per pixel.
        sampling_ratio: samples per bin and direction; 0 takes one per cell.
    """
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], 1)
    return roi_align(features, rois, side, scale, sampling_ratio, aligned=True)


@pooled.register_fake
def _(
    features: Tensor, boxes: Tensor, images: Tensor, side: int, scale: float, sampling_ratio: int
) -> Tensor:
    return features.new_empty(boxes.shape[0], features.shape[1], side, side)


def _kept_by_nms_in_onnx(boxes: FLOAT, scores: FLOAT, iou_threshold: float, score_threshold: float) -> FLOAT:
    """``NonMaxSuppression`` lists what stays; the list is written into a mask of fixed size."""
    chosen = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.CastLike(op.Size(scores), op.Constant(value_ints=[0])),  # so many per list: no limit
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )  # rows of (list, class, box)
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(chosen, start=0, end=1))
    empty = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
    return op.Cast(op.ScatterND(empty, places, ones), to=9)  # BOOL


def _pooled_in_onnx(
    features: FLOAT, boxes: FLOAT, images: INT64, side: int, scale: float, sampling_ratio: int
) -> FLOAT:
    return op.RoiAlign(
        features,
        boxes,
        images,
        mode="avg",
        output_height=side,
        output_width=side,
        spatial_scale=scale,
        sampling_ratio=sampling_ratio,
        coordinate_transformation_mode="half_pixel",
    )


def translations() -> dict:
    """The table of `torch.onnx.export` for the operators of this module."""
    return {
        torch.ops.convnext_dense.kept_by_nms.default: _kept_by_nms_in_onnx,
        torch.ops.convnext_dense.pooled.default: _pooled_in_onnx,
    }
