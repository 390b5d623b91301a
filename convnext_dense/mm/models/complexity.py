"""Complexity of detectors and segmentors by the protocol of the paper's tables.

A detector at 1280x800: backbone, neck and RPN once, 1000 proposals through every
box head, 100 RoIs through every mask head (the dummy forward pass of the
published counts). A segmentor at crop x 4 crop: backbone, neck and decode head.
RoIAlign does no multiplications that are counted, so the heads get inputs of the
right shape instead of its output.
"""

import torch
from mmengine.config import Config
from torch import Tensor, nn

from convnext_dense.bench.complexity import Complexity, count_macs, count_params
from convnext_dense.errors import ArgumentError
from convnext_dense.layers.resized_conv import ConvOverResized
from convnext_dense.mm.models.meta_device import build_on_meta

DETECTION_SHAPE = (800, 1280)
PROPOSALS = 1000
MASK_ROIS = 100


def config_complexity(cfg: Config, shape: tuple[int, int] | None = None) -> Complexity:
    """Parameters and MACs of a config's model, counted on the ``meta`` device.

    Args:
        cfg: config of a detector or segmentor of OpenMMLab.
        shape: (height, width) in pixels; by default that of the protocol.

    Raises:
        ValueError: no shape was given and the protocol has none.
    """
    model = build_on_meta(cfg)
    shape = shape or protocol_shape(model)
    image = torch.empty(1, 3, *shape, device="meta")

    def forward() -> object:
        two_stages = getattr(model, "with_roi_head", False)
        return two_stage_forward(model, image) if two_stages else model(image, mode="tensor")

    computed = count_macs(forward)
    joined = [module for module in model.modules() if isinstance(module, ConvOverResized)]
    if not joined:
        return Complexity(count_params(model), computed, shape)
    for module in joined:
        module.resize_first = True  # as the published counts
    return Complexity(count_params(model), count_macs(forward), shape, computed)


def protocol_shape(model: nn.Module) -> tuple[int, int]:
    """(height, width) in pixels at which the paper's table counts a model of this kind.

    Raises:
        ValueError: a segmentor without a crop size.
    """
    if not hasattr(model, "decode_head"):
        return DETECTION_SHAPE
    hw = getattr(model.data_preprocessor, "size", None)
    if not hw:
        raise ArgumentError("data_preprocessor.size, the crop of the segmentor, is not set; give a shape")
    return hw[0], 4 * hw[0]


def two_stage_forward(model: nn.Module, image: Tensor) -> list[Tensor]:
    """Run the counted parts of a two-stage detector on ``image`` (1, 3, H, W); outputs of RPN and heads."""
    features = model.extract_feat(image)
    class_scores, box_deltas = model.rpn_head(features)
    roi_head = model.roi_head
    outputs = [
        *class_scores,
        *box_deltas,
        *_run_heads(roi_head.bbox_head, roi_head.bbox_roi_extractor, PROPOSALS),
    ]
    if roi_head.with_mask:
        outputs += _run_heads(roi_head.mask_head, roi_head.mask_roi_extractor, MASK_ROIS)
    return outputs


def _run_heads(heads: nn.Module, extractors: nn.Module, count: int) -> list[Tensor]:
    """Run ``count`` RoIs through each head; a cascade has lists of heads and extractors."""
    heads, extractors = (
        list(part) if isinstance(part, nn.ModuleList) else [part] for part in (heads, extractors)
    )
    outputs = []
    for head, extractor in zip(heads, extractors, strict=True):
        height, width = extractor.roi_layers[0].output_size
        output = head(torch.empty(count, extractor.out_channels, height, width, device="meta"))
        outputs += [output] if isinstance(output, Tensor) else output
    return outputs
