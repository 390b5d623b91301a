"""What ``tools/benchmark.py speed`` measures: backbones and their peers, whole detectors and segmentors.

:mod:`convnext_dense.mm.bench.models` has the whole models and their load.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convnext_dense.bench.timing import (
    HW,
    Conditions,
    Pass,
    Products,
    Subject,
    autocast,
    backbone_subject,
    training_step,
)
from convnext_dense.checkpoints.other_libraries import LEVELS
from convnext_dense.errors import CheckpointError, UserError
from convnext_dense.layers.lean_block import MEMORY
from convnext_dense.mm.bench.engines import ENGINES, engine_subject
from convnext_dense.mm.bench.mmpretrain import mmpretrain_model
from convnext_dense.mm.bench.models import (
    build_model,
    config_of,
    detect,
    own_backbone,
    segment,
    synthetic_samples,
)
from convnext_dense.mm.models.complexity import DETECTION_SHAPE
from convnext_dense.models.archs import ARCHS
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.results import paper


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
PEERS = (*LEVELS, "mmpretrain", "stock", *ENGINES, "rivals")
"""The backbone in other libraries; whole models of mmdet's and mmseg's own classes, and in the engines of
exported files; rivals in the paper."""
LEAN, PLAIN = Level("lean", False), Level("plain", False)


# --------------------------------------------------------------------------------------------- backbones


def arch_of(name: str) -> str | None:
    """Size of a row, recipe or arch with a V1 ConvNeXt; ``None`` for other networks."""
    if name in ARCHS:
        return name
    row = paper.ROWS.get(name)
    if isinstance(row, paper.ImageNetRow):
        return row.arch
    cfg = config_of(name)
    backbone = cfg.model.backbone
    plain = own_backbone(cfg) == "ConvNeXt" and isinstance(backbone.get("arch", "tiny"), str)
    return backbone.get("arch", "tiny") if plain and not backbone.get("use_grn") else None


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
    for row in [*([] if arch else [name]), *(rival_rows(name) if "rivals" in peers else ())]:
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


def paper_shape(name: str, direction: Pass) -> HW:
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


def model_subjects(
    name: str,
    direction: Pass,
    conditions: Conditions,
    levels: Sequence[Level],
    peers: Collection[str] = PEERS,
) -> Iterator[Subject | str]:
    """A row's whole model, that of mmdet's or mmseg's own classes, in other engines, and its rivals."""
    ours = own_backbone(config_of(name)) in OURS
    if ours and direction == "training":
        for level in levels:
            entries = dict(memory=level.memory, with_cp=level.with_cp)
            yield model_subject(name, direction, conditions, True, level, entries)
    else:
        yield model_subject(name, direction, conditions, ours)
    if ours and "stock" in peers:
        yield model_subject(name, direction, conditions, False, PLAIN, stock=True)
    for engine in ENGINES if ours and direction == "inference" else ():
        if engine in peers:
            yield engine_subject(name, engine, conditions)
    for rival in rival_rows(name) if "rivals" in peers else ():
        yield model_subject(rival, direction, conditions, False)


def model_subject(
    name: str,
    direction: Pass,
    conditions: Conditions,
    ours: bool,
    level: Level = LEAN,
    entries: dict | None = None,
    stock: bool = False,
) -> Subject:
    """A whole model, ready to run under autocast.

    Our backbone is fused for inference or compiled. A stock model has our backbone as well, since mmdet and
    mmseg have no ConvNeXt, but runs its blocks as their operations are written.
    """
    from convnext_dense.models.compile import compile_in_place

    model = build_model(name, level.memory, stock).to(conditions.device)
    if level.with_cp is not False and hasattr(model.backbone, "with_cp"):
        model.backbone.with_cp = level.with_cp
    entries = dict(entries or {}, row=name, paper_fps=None)
    label = f"{name}, stock" if stock else name + (f", {level.memory}" if "memory" in entries else "")
    label += ", with_cp" if level.with_cp else ""
    if conditions.compiled:
        compile_in_place(model.backbone)
    if direction == "training":
        return _training(label, model, conditions, ours, entries)
    if conditions.batch == 1 and conditions.shape == DETECTION_SHAPE and hasattr(model, "roi_head"):
        entries["paper_fps"] = getattr(paper.ROWS.get(name), "fps", None)  # of one image of 1280x800
    return _inference(label, model, conditions, ours, entries)


def _inference(label: str, model: nn.Module, conditions: Conditions, ours: bool, entries: dict) -> Subject:
    from convnext_dense.mm.models.folded_norms import fold_model
    from convnext_dense.mm.models.sliding_window import bound_predictions

    model.eval()
    if ours and not conditions.compiled:
        fold_model(model)
    if ours and not hasattr(model, "roi_head"):
        bound_predictions(model)
    entries["fused"] = ours and not conditions.compiled
    image = conditions.image()
    forward = detect if hasattr(model, "roi_head") else segment

    def infer() -> None:
        with torch.inference_mode(), autocast(conditions.device, conditions.dtype):
            forward(model, image)

    return Subject(label, ours, infer, None, model, image, entries)


def _training(label: str, model: nn.Module, conditions: Conditions, ours: bool, entries: dict) -> Subject:
    device, dtype = conditions.device, conditions.dtype
    model.train()
    image, samples = conditions.image(), synthetic_samples(model, conditions)

    def loss() -> Tensor:
        with autocast(device, dtype):
            return model.parse_losses(model(image, samples(), mode="loss"))[0]

    scaled = dtype == "fp16" and device.type == "cuda"
    return Subject(label, ours, training_step(model, loss, scaled), loss, model, image, entries)
