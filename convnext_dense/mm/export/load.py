"""From a config and a checkpoint to a network that can be traced, and its metadata."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from convnext_dense import __version__
from convnext_dense.errors import UserError
from convnext_dense.export.metadata import Metadata
from convnext_dense.mm.config.edit import set_plain_batch_norm, set_pretrained
from convnext_dense.mm.config.levels import check_levels
from convnext_dense.mm.config.sections import check_needed
from convnext_dense.mm.datasets.declared import colours_of, dataset_meta
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.engine.checkpoints import load_model
from convnext_dense.mm.export.detectors import Detector
from convnext_dense.mm.export.kinds import is_detector, why_not
from convnext_dense.mm.export.operators import OPSET
from convnext_dense.mm.export.prepare import Prepare
from convnext_dense.mm.export.segmentors import Segmentor
from convnext_dense.mm.export.traceable import needs_size, traceable
from convnext_dense.mm.models.small_inputs import smallest_side
from convnext_dense.mm.type_names import type_name

HW = tuple[int, int]
# steps of a test pipeline that the runtime does, or that concern annotations alone
_PASSES = r"(LoadImageFromFile|LoadCheckedImage|Load\w*Annotations?|Pack\w+)"
# what the runtime does alone, of options that change pixels
_PIXELS = {
    "LoadImageFromFile": dict(color_type="color"),
    "Resize": dict(interpolation="bilinear", backend="cv2", scale_factor=None),
}


class Exportable(NamedTuple):
    """A network without data-dependent shapes, and what its file says of it.

    Attributes:
        network: from RGB pixels to the named outputs.
        outputs: their names.
        metadata: for the file.
    """

    network: nn.Module
    outputs: tuple[str, ...]
    metadata: Metadata


def load(
    cfg: Config, checkpoint: str, recipe: str, fixed_hw: HW | None = None, labels: bool = False
) -> Exportable:
    """Build the model of a config with the weights of a checkpoint.

    Args:
        cfg: config of the model, which is changed.
        checkpoint: file that training wrote; it must fit exactly.
        recipe: name for the metadata.
        fixed_hw: the only size of input; ``None`` for any.
        labels: a segmentor returns class numbers in place of logits.

    Raises:
        UserError: a model or a test pipeline that cannot be exported, with the reason.
        CheckpointError: a checkpoint that cannot be read or does not fit.
    """
    check_needed(cfg, "predict")
    check_levels(cfg)
    init_default_scope(cfg.get("default_scope") or "mmengine")
    set_pretrained(cfg, "none")
    set_plain_batch_norm(cfg, 1, "cpu")
    resize_of(cfg)  # before the weights are read
    model: nn.Module = MODELS.build(cfg.model)
    if reason := why_not(model):
        raise UserError(f"{recipe} cannot be exported: {reason}")
    if needs_size(model) and fixed_hw is None:
        size = model.test_cfg.get("crop_size") or (800, 1344)
        raise UserError(f"{recipe} has a Swin, which is exported for one size: --size {size[0]} {size[1]}")
    if labels and is_detector(model):
        raise UserError(f"{recipe} is a detector, whose outputs are boxes; leave out --labels")
    meta = load_model(model, checkpoint).get("dataset_meta") or dataset_meta(cfg)
    return exportable(model, cfg, meta, recipe, fixed_hw, labels)


def exportable(
    model: nn.Module,
    cfg: Config,
    meta: Mapping,
    recipe: str,
    fixed_hw: HW | None = None,
    labels: bool = False,
) -> Exportable:
    """A copy of a model, written for export.

    Args:
        model: a detector or segmentor that `kinds.why_not` has no reason against.
        cfg: its config.
        meta: class names and colours.
        recipe: name for the metadata.
        fixed_hw: the only size of input; ``None`` for any.
        labels: a segmentor returns class numbers in place of logits.

    Raises:
        UserError: a test pipeline that the runtime cannot repeat.
    """
    scale, keep_ratio = resize_of(cfg)
    if slides(model):
        check_windows(model, fixed_hw, labels)
    model = traceable(model).eval().requires_grad_(False)
    prepare = Prepare(model.data_preprocessor, divisor_of(model.data_preprocessor), smallest_side(model))
    detects = is_detector(model)
    network = Detector(model, prepare) if detects else Segmentor(model, prepare, labels)
    classes = tuple(map(str, meta.get("classes") or ()))
    metadata = Metadata(
        package=__version__,
        torch=torch.__version__,
        opset=OPSET,
        recipe=recipe,
        kind="detector" if detects else "segmentor",
        classes=classes,
        palette=colours_of(meta, len(classes)),
        scale=scale,
        keep_ratio=keep_ratio,
        size_divisor=prepare.divisor,
        fixed_hw=fixed_hw,
        **(of_detector(network) if detects else of_segmentor(model, labels)),
    )
    return Exportable(network.eval(), network.outputs, metadata)


def divisor_of(preprocessor: nn.Module) -> int:
    """What the padded sides of an input are multiples of, when a model is tested."""
    if (own := getattr(preprocessor, "pad_size_divisor", None)) is not None:
        return int(own)
    return int((getattr(preprocessor, "test_cfg", None) or {}).get("size_divisor") or 1)


def resize_of(cfg: Config) -> tuple[HW | None, bool]:
    """Scale (width, height) and whether the ratio is kept, from the test pipeline; no scale without a resize.

    Raises:
        UserError: the pipeline does something else to an image.
    """
    scale, keep_ratio = None, True
    for step in datasets_of(cfg, ("test",))[0].pipeline:
        name = type_name(step)
        for option, value in _PIXELS.get(name, {}).items():
            if step.get(option, value) != value:
                raise UserError(
                    f"test_dataloader.dataset.pipeline has {name} with {option}={step[option]!r}; "
                    f"the runtime of an exported file does {option}={value!r}"
                )
        if name == "Resize" and scale is None and isinstance(step.get("scale"), list | tuple):
            scale, keep_ratio = tuple(map(int, step["scale"])), bool(step.get("keep_ratio", False))
        elif not re.fullmatch(_PASSES, name):
            raise UserError(
                f"test_dataloader.dataset.pipeline has {name}, which the runtime of an exported file does "
                "not do; it loads a picture, does one Resize with scale=(width, height), and packs"
            )
    return scale, keep_ratio


def of_detector(network: Detector) -> dict:
    """The entries of `Metadata` that are a detector's."""
    last = network.roi_head or network.dense
    masks = "masks" in network.outputs
    cfg = network.model.test_cfg.get("rcnn") if network.roi_head is not None else None
    threshold = float(cfg.get("mask_thr_binary", 0.5)) if masks else 0.5
    return dict(
        score_thr=max(last.threshold, 0.0),
        iou_threshold=last.iou_threshold,
        max_per_image=last.count,
        masks=masks,
        mask_threshold=threshold,
    )


def slides(model: nn.Module) -> bool:
    """Whether a model is a segmentor that sees windows of a picture."""
    return not is_detector(model) and model.test_cfg.get("mode", "whole") == "slide"


def check_windows(model: nn.Module, fixed_hw: HW | None, labels: bool) -> None:
    """Check the options that do not go with windows.

    Raises:
        UserError: a size below that of a window, or labels, which have no average where windows overlap.
    """
    h, w = map(int, model.test_cfg["crop_size"])
    if fixed_hw and (fixed_hw[0] < h or fixed_hw[1] < w):
        raise UserError(f"--size {fixed_hw[0]} {fixed_hw[1]} does not hold a window; give --size {h} {w}")
    if labels:
        raise UserError(
            "the model slides windows, whose logits are averaged: leave out --labels, or let it see whole "
            "pictures with --cfg-options model.test_cfg.mode=whole"
        )


def of_segmentor(model: nn.Module, labels: bool) -> dict:
    """The entries of `Metadata` that are a segmentor's."""
    slide = slides(model)
    head = model.decode_head[-1] if isinstance(model.decode_head, nn.ModuleList) else model.decode_head
    return dict(
        output="labels" if labels else "logits",
        mode="slide" if slide else "whole",
        crop_hw=tuple(map(int, model.test_cfg["crop_size"])) if slide else None,
        stride_hw=tuple(map(int, model.test_cfg["stride"])) if slide else None,
        align_corners=bool(model.align_corners),
        binary_threshold=float(head.threshold) if model.out_channels == 1 else None,
    )
