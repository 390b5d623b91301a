"""Replace the backbone of any mmdet or mmseg config by a ConvNeXt."""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import init_default_scope

from convnext_dense.mm.config.inner_model import backbone_owner
from convnext_dense.mm.swap.channels import Change
from convnext_dense.mm.swap.consequences import group_changes, teacher_changes, unread_changes
from convnext_dense.mm.swap.forms import choose_form
from convnext_dense.mm.swap.heads import head_changes
from convnext_dense.mm.swap.probe import STRIDES, Levels, RefusedError, Stages, probe
from convnext_dense.mm.type_names import is_pretrained, type_name
from convnext_dense.models.archs import resolve_arch
from convnext_dense.models.layer_decay import DecayType
from convnext_dense.results.paper import facebook
from convnext_dense.support.nested import Path

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
WEIGHT_DECAY = 0.05  # of all released recipes


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

    scope = cfg.get("default_scope") or "mmengine"
    init_default_scope(scope)
    owner = _owner(cfg)
    inner = _view(cfg, owner)
    levels = probe(inner.model.backbone, _image_channels(cfg, owner))
    form = choose_form(inner.model, levels, dims, partial(new_backbone, inner, arch, pretrained))
    changes = [
        Change(
            ("model", "backbone"),
            inner.model.backbone,
            form.backbone,
            _levels(levels) + _weights(arch, pretrained),
        ),
        *form.changes,
    ]
    changes = [_inside(change, owner) for change in changes]
    changes += [
        *(_preprocessor_changes(cfg.model, owner) if _image_channels(cfg, owner) == 3 else ()),
        *_weight_changes(cfg, owner),
        *([] if keep_optim else _optimizer_changes(cfg, arch, amp)),
        *_import_changes(cfg),
    ]
    for change in changes:
        put(new, change.path, copy.deepcopy(change.new))
    made = _view(new, owner).model  # changes that follow from what has become of it
    strides = tuple(min(STRIDES[i], form.stages.output_stride) for i in form.stages.out_indices)
    channels = tuple(dims[i] for i in form.stages.out_indices)
    amp_trained = type_name(new.get("optim_wrapper")) == "AmpOptimWrapper"
    following = [
        *(_inside(change, owner) for change in group_changes(made)),
        *(_inside(change, owner) for change in teacher_changes(made, scope)),
        *unread_changes(new, made, channels, strides),
        *(_inside(change, owner) for change in head_changes(made, scope, amp_trained)),
    ]
    for change in following:
        put(new, change.path, change.new)
    changes += following
    return Swap(new, tuple(changes), levels, form.stages)


def _inside(change: Change, owner: Path) -> Change:
    """The change of a model, of the model at ``owner`` inside it."""
    return change._replace(path=("model", *owner, *change.path[1:]))


def put(cfg: Config, path: Path, value: object) -> None:
    """Set the entry at ``path``; ``None`` as value removes an entry such as ``model.pretrained``."""
    node = cfg
    for key in path[:-1]:
        node = node[key]
    if value is None and isinstance(node, dict):
        node.pop(path[-1], None)
    else:
        node[path[-1]] = value


def _owner(cfg: Config) -> Path:
    """Path from ``cfg.model`` to the model with the backbone; raises :class:`RefusedError` without one."""
    owner = backbone_owner(cfg.get("model"))
    if owner is None:
        encoders = [key for key in cfg.get("model") or {} if key.endswith("_encoder")]
        why = f": its {' and '.join(encoders)} were trained together" if encoders else ""
        raise RefusedError(f"the config has no model.backbone{why}")
    if not _view(cfg, owner).model.backbone.get("type"):
        where = ".".join(("model", *map(str, owner), "backbone"))
        raise RefusedError(f"{where} has no type: another library builds it, not mmengine's registry")
    return owner


def _view(cfg: Config, owner: Path) -> Config:
    """The config with the model at ``owner`` as its model."""
    model = cfg.model
    for key in owner:
        model = model[key]
    return Config(dict(cfg, model=model))


def _image_channels(cfg: Config, owner: Path = ()) -> int:
    for _, preprocessor in _preprocessors(cfg.model, owner):
        if preprocessor.get("mean"):
            return len(preprocessor["mean"])
    return int(_view(cfg, owner).model.backbone.get("in_channels", 3))


def _preprocessors(model: Mapping, owner: Path) -> Iterator[tuple[Path, Mapping]]:
    """The preprocessors of the models from the outermost to the one at ``owner``, with their paths."""
    path: Path = ("model",)
    for key in (*owner, None):
        found, where = model.get("data_preprocessor"), (*path, "data_preprocessor")
        while isinstance(found, Mapping) and isinstance(found.get("data_preprocessor"), Mapping):
            found, where = found["data_preprocessor"], (*where, "data_preprocessor")  # of several branches
        if isinstance(found, Mapping):
            yield where, found
        if key is not None:
            model, path = model[key], (*path, key)


def _levels(levels: Levels) -> str:
    how = ", dilated" if levels.dilated else ""
    return f"gave {list(levels.channels)} channels at strides {list(levels.strides)}{how}"


def _weights(arch: str | Mapping, pretrained: str | None) -> str:
    """The end of a reason: nothing, unless there are no published weights."""
    if pretrained or published(arch):
        return ""
    return f"; random weights: the release has none of {arch if isinstance(arch, str) else 'this size'}"


def published(arch: str | Mapping) -> str | None:
    """URL of the weights that the released recipes start from."""
    return PRETRAINED.get(arch if isinstance(arch, str) else "")


def new_backbone(
    cfg: Config,
    arch: str | Mapping,
    pretrained: str | None,
    stages: Stages,
    kind: str = "mmengine.ConvNeXt",
    **options,
) -> dict:
    """Config of a ConvNeXt that returns ``stages``; ``options`` are further arguments of the class."""
    backbone: dict = dict(type=kind, arch=arch, out_indices=list(stages.out_indices), **options)
    if stages.output_stride != 32:
        backbone["output_stride"] = stages.output_stride
    if _image_channels(cfg) != 3:
        backbone["in_channels"] = _image_channels(cfg)
    backbone["drop_path_rate"] = regularisation(cfg, arch).drop_path_rate
    source = pretrained or published(arch)
    if source and source != "none":
        backbone["init_cfg"] = dict(type="Pretrained", checkpoint=source)
    return backbone


def regularisation(cfg: Config, arch: str | Mapping) -> Regularisation:
    """Drop path and layer decay of the released recipe nearest to this config."""
    name = arch if isinstance(arch, str) else "tiny"
    if cfg.get("default_scope") == "mmseg":
        return SEGMENTATION.get(name, SEGMENTATION_DEFAULT)
    return DETECTION.get(name, DETECTION["tiny"])


def _preprocessor_changes(model: Mapping, owner: Path) -> Iterator[Change]:
    """Mean, std and order of the channels; a model without a preprocessor reads images that are ready."""
    why = "ImageNet in RGB, as trained"
    for path, old in _preprocessors(model, owner):
        for key, value in dict(mean=MEAN, std=STD, bgr_to_rgb=True).items():
            if old.get(key) != value:
                yield Change((*path, key), old.get(key), value, why)
        if old.get("rgb_to_bgr"):
            yield Change((*path, "rgb_to_bgr"), True, False, why)


def _weight_changes(cfg: Config, owner: Path) -> Iterator[Change]:
    """Changes that remove weights of the old backbone from other entries."""
    named = {("load_from",): cfg.get("load_from")}
    for depth in range(len(owner) + 1):
        model = _view(cfg, owner[:depth]).model
        named[("model", *owner[:depth], "pretrained")] = model.get("pretrained")
        if is_pretrained(model.get("init_cfg")):
            named[("model", *owner[:depth], "init_cfg")] = model["init_cfg"]
    for path, value in named.items():
        if value:
            yield Change(path, value, None, "weights of a model with the old backbone")


def _optimizer_changes(cfg: Config, arch: str | Mapping, amp: bool) -> Iterator[Change]:
    old = cfg.get("optim_wrapper")
    if not isinstance(old, Mapping):
        return
    settings = regularisation(cfg, arch)
    lr, rule = learning_rate(cfg)
    paramwise = dict(decay_rate=settings.decay_rate, decay_type=settings.decay_type)
    kept = (old.get("paramwise_cfg") or {}).get("custom_keys") or {}
    # entries for the heads stay; layer decay replaces those for the backbone
    custom = {key: dict(value) for key, value in kept.items() if "backbone" not in key}
    if custom:
        paramwise["custom_keys"] = custom
    mixed = amp or type_name(old) == "AmpOptimWrapper"
    wrapper: dict = dict(
        type="AmpOptimWrapper" if mixed else "OptimWrapper",
        optimizer=dict(type="AdamW", lr=lr, betas=(0.9, 0.999), weight_decay=WEIGHT_DECAY),
        constructor="LayerDecayOptimWrapperConstructor",
        paramwise_cfg=paramwise,
    )
    if mixed:
        wrapper["loss_scale"] = old.get("loss_scale", "dynamic")
    for key in ("clip_grad", "accumulative_counts"):
        if old.get(key):
            wrapper[key] = old[key]
    yield Change(("optim_wrapper",), old, wrapper, "; ".join([rule, *_replaced(old, wrapper, custom)]))


def _replaced(old: Mapping, new: Mapping, custom: Mapping) -> Iterator[str]:
    """What else of an optimizer's config does not stay."""
    decay = (old.get("optimizer") or {}).get("weight_decay", 0)
    if decay != WEIGHT_DECAY:
        yield f"weight decay {WEIGHT_DECAY:g}, not {decay:g}"
    kept = (old.get("paramwise_cfg") or {}).get("custom_keys") or {}
    if gone := [str(key) for key in kept if key not in custom]:
        yield f"layer decay in place of the rates of {', '.join(gone)}"
    if new["type"] != type_name(old):
        yield "mixed precision as released (--no-amp: as before)"


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
