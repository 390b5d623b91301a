"""Replace the backbone of any mmdet or mmseg config by a ConvNeXt."""

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.mm.swap.channels import Change, consumer_changes, decoder_changes
from convnext_dense.mm.swap.heads import float32_changes
from convnext_dense.mm.swap.probe import (
    Levels,
    RefusedError,
    Stages,
    choose_stages,
    has_decoder,
    passed_on,
    probe,
)
from convnext_dense.mm.type_names import is_pretrained, type_name
from convnext_dense.models.archs import resolve_arch
from convnext_dense.models.layer_decay import DecayType
from convnext_dense.results.paper import facebook
from convnext_dense.support.nested import Path, mappings

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # ImageNet, RGB
# Initial weights of the released recipes. For ImageNet-22K these are the pre-trained weights, not those
# fine-tuned on ImageNet-1K afterwards.
PRETRAINED: dict[str, str] = {
    "tiny": facebook("convnext_tiny_1k_224"),
    "small": facebook("convnext_small_1k_224"),
    "base": facebook("convnext_base_22k_224"),
    "large": facebook("convnext_large_22k_224"),
    "xlarge": facebook("convnext_xlarge_22k_224"),
}


class Regularisation(NamedTuple):
    """Drop path rate of the last block and layer decay."""

    drop_path_rate: float
    decay_rate: float
    decay_type: DecayType


# Values of the released recipes: Cascade Mask R-CNN for detectors, UperNet for segmentors; huge uses those
# of xlarge, and sizes below tiny those of tiny.
DETECTION = {
    "tiny": Regularisation(0.4, 0.7, "layer_wise"),
    "small": Regularisation(0.6, 0.7, "layer_wise"),
    "base": Regularisation(0.7, 0.8, "layer_wise"),
    "large": Regularisation(0.7, 0.7, "layer_wise"),
    "xlarge": Regularisation(0.8, 0.7, "layer_wise"),
    "huge": Regularisation(0.8, 0.7, "layer_wise"),
}
SEGMENTATION = {"small": Regularisation(0.3, 0.9, "stage_wise")}
SEGMENTATION_DEFAULT = Regularisation(0.4, 0.9, "stage_wise")
BASE_LR, BASE_BATCH = 1e-4, 16  # of the released UperNet and Mask R-CNN recipes


class Swap(NamedTuple):
    """A swapped config, its changes, and the outputs of the old backbone."""

    cfg: Config
    changes: tuple[Change, ...]
    levels: Levels
    stages: Stages


def swap_backbone(
    cfg: Config,
    arch: str | Mapping = "tiny",
    pretrained: str | None = None,
    keep_optim: bool = False,
    amp: bool = True,
) -> Swap:
    """Replace the backbone of ``cfg`` by a ConvNeXt and adapt everything that depends on it.

    The outputs of the old backbone are measured by running it; the ConvNeXt returns
    the stages with the same strides, and each consumer's channels are adapted. ``cfg`` itself
    is not changed.

    Args:
        cfg: config of mmdet 3.x, mmseg 1.x or mmpretrain 1.x.
        arch: name, or depths and dims.
        pretrained: weights; ``None`` means the published ones of that size, ``"none"`` random ones.
        keep_optim: keep optimizer, decay and precision.
        amp: mixed precision; ``False`` keeps the config's setting. With mixed precision, heads are replaced
            by those that keep coordinates and losses in float32.

    Raises:
        RefusedError: the backbone cannot be swapped, with the reason.
        ValueError: an unknown arch.
    """
    new = copy.deepcopy(cfg)
    dims = resolve_arch(arch).dims
    import convnext_dense.mm  # noqa: F401  (ops and backbones, before the toolbox is imported)

    init_default_scope(cfg.get("default_scope") or "mmengine")
    backbone = _checked_backbone(cfg)
    levels = probe(backbone, _image_channels(cfg))
    stages = choose_stages(levels)
    channels = tuple(dims[i] for i in stages.out_indices)
    changes = [
        Change(("model", "backbone"), backbone, new_backbone(cfg, arch, stages, pretrained), _levels(levels)),
        *_reader_changes(cfg.model, levels, channels),
        *_preprocessor_changes(cfg.model),
        *_weight_changes(cfg),
        *([] if keep_optim else _optimizer_changes(cfg, arch, amp)),
        *_import_changes(cfg),
    ]
    for change in changes:
        put(new, change.path, copy.deepcopy(change.new))
    if type_name(new.get("optim_wrapper")) == "AmpOptimWrapper":
        mended = list(float32_changes(new.model, cfg.get("default_scope") or "mmengine"))
        for change in mended:
            put(new, change.path, change.new)
        changes += mended
    return Swap(new, tuple(changes), levels, stages)


def _reader_changes(model: Mapping, levels: Levels, channels: tuple[int, ...]) -> Iterator[Change]:
    """Changes of every part that reads the backbone."""
    if has_decoder(levels):
        if model.get("neck"):
            raise RefusedError("the old backbone has its own decoder, with a neck after it")
        return decoder_changes(model, levels.strides, channels)
    passed = passed_on(model.get("neck"), levels)
    return consumer_changes(model, levels.channels, channels, passed)


def put(cfg: Config, path: Path, value: object) -> None:
    """Set the entry at ``path``; ``None`` as value removes an entry such as ``model.pretrained``."""
    node = cfg
    for key in path[:-1]:
        node = node[key]
    if value is None and isinstance(node, dict):
        node.pop(path[-1], None)
    else:
        node[path[-1]] = value


def _checked_backbone(cfg: Config) -> Mapping:
    """The backbone's config; raises :class:`RefusedError` if it cannot be replaced alone."""
    model = cfg.get("model")
    if not model or not isinstance(model.get("backbone"), Mapping):
        parts = (model or {}).items()
        inner = [key for key, value in parts if isinstance(value, Mapping) and "backbone" in value]
        where = f" (there is one in model.{inner[0]}: a model around a model)" if inner else ""
        raise RefusedError(f"the config has no model.backbone{where}")
    if "Track" in str((model.get("data_preprocessor") or {}).get("type")):
        raise RefusedError("the model reads clips of video, not single images")
    if "language_model" in model or "text_encoder" in model:
        raise RefusedError("the model reads text as well: its backbone was trained together with words")
    if any("rfp_backbone" in neck for _, neck in mappings(model.get("neck"), keys=())):
        raise RefusedError("the neck feeds back into the backbone (RFP): it takes inputs beside the image")
    shared = (model.get("roi_head") or {}).get("shared_head")
    if shared:
        kind = shared.get("type")
        raise RefusedError(f"roi_head.shared_head ({kind}) is the last stage of the old backbone")
    return model.backbone


def _image_channels(cfg: Config) -> int:
    mean = (cfg.model.get("data_preprocessor") or {}).get("mean")
    return len(mean) if mean else int(cfg.model.backbone.get("in_channels", 3))


def _levels(levels: Levels) -> str:
    how = ", dilated" if levels.dilated else ""
    return f"gave {list(levels.channels)} channels at strides {list(levels.strides)}{how}"


def new_backbone(cfg: Config, arch: str | Mapping, stages: Stages, pretrained: str | None) -> dict:
    backbone: dict = dict(type="mmengine.ConvNeXt", arch=arch, out_indices=list(stages.out_indices))
    if stages.output_stride != 32:
        backbone["output_stride"] = stages.output_stride
    if _image_channels(cfg) != 3:
        backbone["in_channels"] = _image_channels(cfg)
    backbone["drop_path_rate"] = regularisation(cfg, arch).drop_path_rate
    source = pretrained or PRETRAINED.get(arch if isinstance(arch, str) else "")
    if source and source != "none":
        backbone["init_cfg"] = dict(type="Pretrained", checkpoint=source)
    return backbone


def regularisation(cfg: Config, arch: str | Mapping) -> Regularisation:
    """Drop path and layer decay of the released recipe nearest to this config."""
    name = arch if isinstance(arch, str) else "tiny"
    if cfg.get("default_scope") == "mmseg":
        return SEGMENTATION.get(name, SEGMENTATION_DEFAULT)
    return DETECTION.get(name, DETECTION["tiny"])


def _preprocessor_changes(model: Mapping) -> Iterator[Change]:
    old = model.get("data_preprocessor") or {}
    if len(old.get("mean") or MEAN) != 3:
        return
    why = "ImageNet in RGB, as trained"
    for key, value in dict(mean=MEAN, std=STD, bgr_to_rgb=True).items():
        if old.get(key) != value:
            yield Change(("model", "data_preprocessor", key), old.get(key), value, why)
    if old.get("rgb_to_bgr"):
        yield Change(("model", "data_preprocessor", "rgb_to_bgr"), True, False, why)


def _weight_changes(cfg: Config) -> Iterator[Change]:
    """Changes that remove weights of the old backbone from other entries."""
    named = {("model", "pretrained"): cfg.model.get("pretrained"), ("load_from",): cfg.get("load_from")}
    init = cfg.model.get("init_cfg")
    if is_pretrained(init):
        named["model", "init_cfg"] = init
    for path, value in named.items():
        if value:
            yield Change(path, value, None, "weights of a model with the old backbone")


def _optimizer_changes(cfg: Config, arch: str | Mapping, amp: bool) -> Iterator[Change]:
    old = cfg.get("optim_wrapper")
    if not isinstance(old, Mapping):
        return
    settings = regularisation(cfg, arch)
    lr, why = learning_rate(cfg)
    paramwise = dict(decay_rate=settings.decay_rate, decay_type=settings.decay_type)
    kept = (old.get("paramwise_cfg") or {}).get("custom_keys") or {}
    # entries for the heads stay; layer decay replaces those for the backbone
    custom = {key: dict(value) for key, value in kept.items() if "backbone" not in key}
    if custom:
        paramwise["custom_keys"] = custom
    mixed = amp or type_name(old) == "AmpOptimWrapper"
    wrapper: dict = dict(
        type="AmpOptimWrapper" if mixed else "OptimWrapper",
        optimizer=dict(type="AdamW", lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
        constructor="LayerDecayOptimWrapperConstructor",
        paramwise_cfg=paramwise,
    )
    if mixed:
        wrapper["loss_scale"] = old.get("loss_scale", "dynamic")
    for key in ("clip_grad", "accumulative_counts"):
        if old.get(key):
            wrapper[key] = old[key]
    yield Change(("optim_wrapper",), old, wrapper, why)


def learning_rate(cfg: Config) -> tuple[float, str]:
    """The new learning rate and its rule."""
    optimizer = cfg.optim_wrapper.get("optimizer") or {}
    kind = type_name(optimizer).rpartition(".")[2]
    if "adam" in kind.lower():
        return optimizer["lr"], f"lr {optimizer['lr']:g} as before: its heads were tuned with {kind}"
    batch = (cfg.get("auto_scale_lr") or {}).get("base_batch_size") or BASE_BATCH
    lr = BASE_LR * batch / BASE_BATCH
    return lr, f"lr = {BASE_LR:g} x {batch} / {BASE_BATCH} images: the released recipes' per image"


def _import_changes(cfg: Config) -> Iterator[Change]:
    old = cfg.get("custom_imports") or {}
    imports = old.get("imports") or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    if "convnext_dense.mm" not in imports:
        new = dict(old, imports=["convnext_dense.mm", *imports])
        yield Change(("custom_imports",), old or None, new, "registers ConvNeXt and layer decay")
