"""Whole models of a recipe with random weights, and the load that makes their time comparable.

A detector with random weights finds nothing, and is therefore fast. So inference has the fixed load of the
paper's counts: backbone, neck, RPN with its NMS, 1000 RoIs through every box head, 100 through every mask
head, and 100 masks pasted; RoIAlign included. A segmentor runs to its label map. A training step is the
model's own, on noise with eight objects per image.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from convnext_dense.bench.timing import Conditions
from convnext_dense.mm.models.complexity import MASK_ROIS, PROPOSALS
from convnext_dense.mm.type_names import class_of
from convnext_dense.support.nested import mappings

OBJECTS = 8  # per image of a training step


def config_of(name: str) -> Config:
    """Config of a recipe; only whole models and other networks need mmdet and mmseg.

    Raises:
        UserError: no such recipe.
    """
    from convnext_dense.mm.config.load import load_config

    return load_config(name)


def own_backbone(cfg: Config) -> str:
    """Class name of a backbone of this package, else an empty string: mmpretrain has a ConvNeXt, too."""
    from mmengine.registry import MODELS

    kind = class_of(cfg.model.backbone.type, MODELS)
    own = isinstance(kind, type) and kind.__module__.startswith("convnext_dense.")
    return kind.__name__ if own else ""


def build_model(name: str, memory: str = "lean", stock: bool = False) -> nn.Module:
    """Detector or segmentor of a recipe with random weights and batch norms for one process.

    Args:
        name: recipe.
        memory: what our backbone keeps for the backward pass.
        stock: build heads, necks and preprocessing from the classes of mmdet and mmseg, not from our
            subclasses; the weights are the same.
    """
    from mmengine.registry import MODELS, init_default_scope

    from convnext_dense.mm.config.edit import set_plain_batch_norm, set_pretrained

    cfg = copy.deepcopy(config_of(name))
    set_pretrained(cfg, "none")
    set_plain_batch_norm(cfg, 1, "cpu")
    if own_backbone(cfg) == "ConvNeXt":
        cfg.model.backbone.memory = memory
    if "test_cfg" in cfg.model and "mode" in cfg.model.test_cfg:
        cfg.model.test_cfg.mode = "whole"
    if stock:
        for _, part in mappings(cfg.model):
            if isinstance(part.get("type"), str):
                part["type"] = part["type"].removeprefix("convnext_dense.")
    init_default_scope(cfg.get("default_scope") or "mmengine")
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


# ------------------------------------------------------------------------------------------ inference


def segment(model: nn.Module, image: Tensor) -> Tensor:
    """(N, 3, H, W) -> label maps (N, H, W) of whole images, by the model's own prediction."""
    from mmseg.structures import SegDataSample

    samples = model.predict(image, [SegDataSample(metainfo=meta) for meta in _metas(image)])
    return torch.cat([sample.pred_sem_seg.data for sample in samples])


def detect(model: nn.Module, image: Tensor) -> list:
    """(N, 3, H, W) -> pasted masks of each image, with the load described in this module."""
    count = len(image)
    metas = _metas(image)
    features = model.extract_feat(image)
    model.rpn_head.predict(features, _detection_samples(metas), rescale=False)
    boxes = spread_boxes(PROPOSALS, image)
    _box_heads(model.roi_head, features, _rois(boxes, count))
    if not model.roi_head.with_mask:
        return []
    kept = boxes[:MASK_ROIS]
    masks = _mask_heads(model.roi_head, features, _rois(kept, count)).split(len(kept))
    found = [
        InstanceData(bboxes=kept.clone(), labels=kept.new_zeros(len(kept), dtype=torch.long)) for _ in metas
    ]
    head = model.roi_head.mask_head
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    return head.predict_by_feat(masks, found, metas, model.roi_head.test_cfg, rescale=True)


def _box_heads(roi_head: nn.Module, features: Sequence[Tensor], rois: Tensor) -> None:
    if isinstance(roi_head.bbox_head, nn.ModuleList):  # a cascade
        for stage in range(len(roi_head.bbox_head)):
            roi_head._bbox_forward(stage, features, rois)
    else:
        roi_head._bbox_forward(features, rois)


def _mask_heads(roi_head: nn.Module, features: Sequence[Tensor], rois: Tensor) -> Tensor:
    if not isinstance(roi_head.mask_head, nn.ModuleList):
        return roi_head._mask_forward(features, rois)["mask_preds"]
    stages = [
        roi_head._mask_forward(stage, features, rois)["mask_preds"].sigmoid()
        for stage in range(len(roi_head.mask_head))
    ]
    mean = (sum(stages) / len(stages)).clamp(1e-6, 1 - 1e-6)
    return torch.logit(mean)


def spread_boxes(count: int, image: Tensor) -> Tensor:
    """(count, 4) boxes with sides from 16 pixels to half the image, inside it, the same in each call."""
    height, width = image.shape[2:]
    generator = torch.Generator().manual_seed(0)
    wh = torch.tensor([width, height], dtype=torch.float32)
    random = torch.rand(count, 4, generator=generator)
    extent = 16 * (wh / 32).pow(random[:, :1]) + random[:, 2:3]  # uniform in the logarithm: most are small
    extent = torch.minimum(extent, wh)
    start = random[:, 2:] * (wh - extent)
    return torch.cat([start, start + extent], 1).to(image.device)


def _rois(boxes: Tensor, count: int) -> Tensor:
    """Boxes (n, 4) for each of ``count`` images -> RoIs (count n, 5)."""
    return torch.cat([torch.cat([boxes.new_full((len(boxes), 1), i), boxes], 1) for i in range(count)])


def _metas(image: Tensor) -> list[dict]:
    shape = tuple(image.shape[2:])
    shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), shape)
    return [dict(shapes, scale_factor=(1.0, 1.0), flip=False) for _ in image]


def _detection_samples(metas: Sequence[dict]) -> list:
    from mmdet.structures import DetDataSample

    return [DetDataSample(metainfo=meta) for meta in metas]


# ------------------------------------------------------------------------------------------- training


def synthetic_samples(model: nn.Module, conditions: Conditions) -> Callable[[], list]:
    """A function that copies the annotations of a batch at each call, because losses change them."""
    image = torch.empty(conditions.batch, 3, *conditions.shape)
    make = _objects if hasattr(model, "roi_head") else _labels
    samples = [sample.to(conditions.device) for sample in make(model, image)]
    return lambda: copy.deepcopy(samples)


def _objects(model: nn.Module, image: Tensor) -> list:
    from mmdet.structures.mask import BitmapMasks

    height, width = image.shape[2:]
    boxes = spread_boxes(OBJECTS, image)
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top : bottom + 1, left : right + 1] = 1
    samples = _detection_samples(_metas(image))
    for sample in samples:
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.arange(OBJECTS) % 2, masks=BitmapMasks(masks.numpy(), height, width)
        )
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.zeros(0, dtype=torch.long))
    return samples


def _labels(model: nn.Module, image: Tensor) -> list:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = [SegDataSample(metainfo=meta) for meta in _metas(image)]
    for sample in samples:
        labels = torch.randint(model.num_classes, (1, *image.shape[2:]), generator=generator)
        sample.gt_sem_seg = PixelData(data=labels)
    return samples
