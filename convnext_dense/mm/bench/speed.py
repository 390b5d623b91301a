"""What ``tools/benchmark.py speed`` measures: backbones and their peers, whole detectors and segmentors.

A detector with random weights finds nothing, and is therefore fast. So inference of a whole model has the
fixed load of the paper's counts: backbone, neck, RPN with its NMS, 1000 RoIs through every box head, 100
through every mask head, and 100 masks pasted; RoIAlign included. A segmentor runs to its label map. A
training step is the model's own, on noise with eight objects per image.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from convnext_dense.bench.timing import (
    Conditions,
    Pass,
    Products,
    Size,
    Subject,
    autocast,
    backbone_subject,
    training_step,
)
from convnext_dense.checkpoints.other_libraries import LEVELS
from convnext_dense.errors import CheckpointError, UserError
from convnext_dense.layers.lean_block import MEMORY
from convnext_dense.mm.bench.mmpretrain import mmpretrain_model
from convnext_dense.models.archs import ARCHS
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.results import paper

DETECTION_SHAPE = (800, 1280)
PROPOSALS, MASK_ROIS, OBJECTS = 1000, 100, 8


class Level(NamedTuple):
    """What our backbone keeps for the backward pass: ``memory`` and the stages of ``with_cp``."""

    memory: str
    with_cp: bool | tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Level":
        """Parse ``lean``, ``plain+cp`` (recompute every block) or ``lean+cp01`` (those of stages 0 and 1).

        Raises:
            UserError: anything else.
        """
        memory, plus, stages = text.partition("+cp")
        if memory not in MEMORY or not set(stages) <= set("0123"):
            raise UserError(f"--memory {text}: use {', '.join(MEMORY)}, optionally with +cp or +cp01")
        return cls(memory, (tuple(map(int, stages)) or True) if plus else False)


OURS = ("ConvNeXt", "IsotropicConvNeXt")
PEERS = (*LEVELS, "mmpretrain")
LEAN = Level("lean", False)


# --------------------------------------------------------------------------------------------- backbones


def arch_of(name: str) -> str | None:
    """Size of a row, recipe or arch with a V1 ConvNeXt; ``None`` for other networks."""
    if name in ARCHS:
        return name
    row = paper.ROWS.get(name)
    if isinstance(row, paper.ImageNetRow):
        return row.arch
    backbone = config_of(name).model.backbone
    plain = backbone.type == "ConvNeXt" and isinstance(backbone.get("arch", "tiny"), str)
    return backbone.get("arch", "tiny") if plain and not backbone.get("use_grn") else None


def config_of(name: str) -> Config:
    """Config of a recipe; only whole models and other networks need mmdet and mmseg.

    Raises:
        UserError: no such recipe.
    """
    from convnext_dense.mm.config.load import load_config

    return load_config(name)


def backbone_subjects(
    name: str,
    direction: Pass,
    conditions: Conditions,
    levels: Sequence[Level],
    channels_last: bool,
    bound: bool,
    peers: Collection[str] = PEERS,
) -> Iterator[Subject | str]:
    """Backbone of a row, the same in other libraries, and those of its rivals in the paper's table.

    Args:
        name: row, recipe or arch.
        direction: inference or training.
        conditions: conditions of the measurement.
        levels: memory levels of ours, in training.
        channels_last: also measure the others in this layout.
        bound: in inference, also measure the pointwise products alone.
        peers: members of :data:`PEERS` to measure; all of them stay in memory while one runs.

    Yields:
        subjects, or the reason why one is left out.
    """
    arch = arch_of(name)
    if arch:
        yield from _ours(arch, direction, conditions, levels)
        if bound and direction == "inference":
            eager = conditions._replace(compiled=False)
            for fused, label in ((True, "products alone, as fused"), (False, "products alone, F.linear")):
                entries = dict(bound=True)
                yield backbone_subject(label, Products(arch, fused), direction, eager, entries=entries)
        others = {**LEVELS, "mmpretrain": lambda arch: mmpretrain_model(arch, False, 0)}
        for library in (library for library in others if library in peers):
            for last in (False, True)[: 1 + channels_last]:
                label = f"{library}, channels-last" if last else library
                try:
                    model = others[library](ARCHS[arch])
                except CheckpointError as error:
                    yield f"left out {label}: {error}"
                    break
                yield backbone_subject(label, model, direction, conditions, channels_last=last)
    for row in [*([] if arch else [name]), *rival_rows(name)]:
        model = build_model(row).backbone
        entries = dict(row=row)
        yield backbone_subject(f"backbone of {row}", model, direction, conditions, not arch, entries=entries)


def _ours(arch: str, direction: Pass, conditions: Conditions, levels: Sequence[Level]) -> Iterator[Subject]:
    if direction == "inference":
        yield backbone_subject("convnext_dense", ConvNeXt(arch), direction, conditions, ours=True)
        return
    for level in levels:
        model = ConvNeXt(arch, memory=level.memory, with_cp=level.with_cp)
        stages = "" if level.with_cp in (True, False) else f" {level.with_cp}"
        label = f"convnext_dense, {level.memory}" + (f", with_cp{stages}" if level.with_cp else "")
        entries = dict(memory=level.memory, with_cp=level.with_cp)
        yield backbone_subject(label, model, direction, conditions, ours=True, entries=entries)


def rival_rows(name: str) -> list[str]:
    """Recipes of Swin with the same size, data and task, and of ResNet-50 for the tiny ConvNeXt, if any."""
    from convnext_dense.recipes import list_configs

    task, _, recipe = name.partition("/")
    if not recipe.startswith("convnext_") or task == "imagenet":
        return []
    names = [f"{task}/{recipe.replace('convnext', 'swin', 1)}"]
    if recipe.startswith("convnext_t_"):
        names.append(f"{task}/{recipe.replace('convnext_t', 'resnet50', 1)}")
    known = set(list_configs())
    return [rival for rival in names if rival in known]


def paper_shape(name: str, direction: Pass) -> Size:
    """(height, width) in pixels of the paper's counts: 800x1280, crop x 4 crop, or ImageNet's square.

    Segmentors train on square crops.
    """
    row = paper.ROWS.get(name)
    if isinstance(row, paper.ImageNetRow):
        return row.size, row.size
    if isinstance(row, paper.Ade20kRow):
        return (row.crop, row.crop) if direction == "training" else (row.crop, 4 * row.crop)
    return DETECTION_SHAPE


# ------------------------------------------------------------------------------------------ whole models


def build_model(name: str, memory: str = "lean") -> nn.Module:
    """Detector or segmentor of a recipe with random weights and batch norms for one process."""
    from mmengine.registry import MODELS, init_default_scope

    from convnext_dense.mm.config.edit import set_plain_batch_norm, set_pretrained

    cfg = copy.deepcopy(config_of(name))
    set_pretrained(cfg, "none")
    set_plain_batch_norm(cfg, 1, "cpu")
    if cfg.model.backbone.type == "ConvNeXt":
        cfg.model.backbone.memory = memory
    init_default_scope(cfg.get("default_scope", "mmengine"))
    torch.manual_seed(0)
    return MODELS.build(cfg.model)


def model_subjects(
    name: str, direction: Pass, conditions: Conditions, levels: Sequence[Level]
) -> Iterator[Subject | str]:
    """A row's whole model and those of its rivals in the paper's table."""
    ours = config_of(name).model.backbone.type in OURS
    if ours and direction == "training":
        for level in levels:
            entries = dict(memory=level.memory, with_cp=level.with_cp)
            yield model_subject(name, direction, conditions, True, level, entries)
    else:
        yield model_subject(name, direction, conditions, ours)
    for rival in rival_rows(name):
        yield model_subject(rival, direction, conditions, False)


def model_subject(
    name: str,
    direction: Pass,
    conditions: Conditions,
    ours: bool,
    level: Level = LEAN,
    entries: dict | None = None,
) -> Subject:
    """A whole model, ready to run under autocast; our backbone is fused for inference or compiled."""
    from convnext_dense.layers.fused_block import fuse
    from convnext_dense.models.compile import compile_in_place

    device, dtype = conditions.device, conditions.dtype
    model = build_model(name, level.memory).to(device)
    if level.with_cp is not False and hasattr(model.backbone, "with_cp"):
        model.backbone.with_cp = level.with_cp
    image = conditions.image()
    row = paper.ROWS.get(name)
    entries = dict(entries or {}, row=name, paper_fps=getattr(row, "fps", None))
    label = name + (f", {level.memory}" if "memory" in entries else "")
    label += ", with_cp" if level.with_cp else ""
    if conditions.compiled:
        compile_in_place(model.backbone)
    if direction == "inference":
        model.eval()
        if not conditions.compiled:
            fuse(model)
            entries["fused"] = ours
        forward = detect if hasattr(model, "roi_head") else segment

        def infer() -> None:
            with torch.inference_mode(), autocast(device, dtype):
                forward(model, image)

        if conditions.batch != 1 or conditions.shape != DETECTION_SHAPE or not hasattr(model, "roi_head"):
            entries["paper_fps"] = None  # the paper's are for one image of 1280x800
        return Subject(label, ours, infer, None, model, image, entries)
    entries["paper_fps"] = None
    model.train()
    samples = synthetic_samples(model, conditions)

    def loss() -> Tensor:
        with autocast(device, dtype):
            return model.parse_losses(model(image, samples(), mode="loss"))[0]

    scaled = dtype == "fp16" and device.type == "cuda"
    return Subject(label, ours, training_step(model, loss, scaled), loss, model, image, entries)


def segment(model: nn.Module, image: Tensor) -> Tensor:
    """(N, 3, H, W) -> label maps (N, H, W)."""
    logits = model(image, mode="tensor")
    logits = nn.functional.interpolate(logits, image.shape[2:], mode="bilinear", align_corners=False)
    return logits.argmax(1)


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
    size = torch.tensor([width, height], dtype=torch.float32)
    random = torch.rand(count, 4, generator=generator)
    extent = 16 * (size / 32).pow(random[:, :1]) + random[:, 2:3]  # uniform in the logarithm: most are small
    extent = torch.minimum(extent, size)
    start = random[:, 2:] * (size - extent)
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
