"""Optimizer of a layer-wise decay recipe: named parameter groups that a resume matches by name."""

import copy
from collections.abc import Callable

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.optim import Optimizer

from convnext_dense.errors import ArgumentError
from convnext_dense.models.layer_decay import (
    DECAY_TYPES,
    default_num_layers,
    infer_depths,
    is_decayed,
    layer_id,
    lr_scale,
)

BACKBONE = "backbone."
OPTIONS = ("decay_rate", "decay_type", "num_layers", "custom_keys", "norm_decay_mult", "bias_decay_mult")
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)

LayerOf = Callable[[str], int]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Learning rates that decay from the heads towards the input.

    Works for every model that has a ``backbone``, or one in a model inside it (``student``, ``detector``): a
    ConvNeXt by its parameter names, any other by the method ``get_layer_depth``. Everything outside
    the backbone is in the last group, whose rate is the optimizer's.

    Example::

        optim_wrapper = dict(
            type='AmpOptimWrapper',
            optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05),
            constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise'))

    Options of ``paramwise_cfg``:
        decay_rate: factor from one group to the group before it.
        decay_type: ``layer_wise`` (default) or ``stage_wise``; see
            :func:`convnext_dense.models.layer_decay.layer_id`.
        num_layers: overrides the number that follows from the depths.
        custom_keys, norm_decay_mult, bias_decay_mult: as in mmengine. Their
            ``lr_mult`` multiplies the decayed rate; without ``decay_mult`` the
            released rule applies: no weight decay for biases, norms, layer scales,
            GRN and position tables.

    Raises:
        ValueError: a missing or unknown option.
        TypeError: a backbone whose layers cannot be determined.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        unknown = sorted(set(self.paramwise_cfg) - set(OPTIONS))
        if unknown:
            raise ArgumentError(f"unknown paramwise_cfg options {unknown}; use {OPTIONS}")
        decay_rate = self.paramwise_cfg.get("decay_rate")
        if not isinstance(decay_rate, int | float) or not 0 < decay_rate <= 1:
            raise ArgumentError(f"paramwise_cfg.decay_rate={decay_rate!r}; use a number in (0, 1]")
        if self.base_lr is None:
            raise ArgumentError("the optimizer needs an explicit lr, because each group gets a share of it")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper of ``model``; its optimizer resumes by parameter name."""
        optim_wrapper = super().__call__(model)
        optim_wrapper.optimizer.register_load_state_dict_pre_hook(match_groups_by_name)
        return optim_wrapper

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: object = None
    ) -> None:
        """Append the groups of the whole model, from the input to the heads.

        Each group has ``name``, ``param_names``, ``layer_id``, ``lr_scale``, ``lr``
        and ``weight_decay``. Frozen parameters are in none.
        """
        layer_of, num_groups = layer_rule(
            module, self.paramwise_cfg.get("decay_type", "layer_wise"), self.paramwise_cfg.get("num_layers")
        )
        norms: set[int] = set()
        for child in module.modules():
            if isinstance(child, _NORMS):
                norms.update(id(param) for param in child.parameters(recurse=False))
        groups: dict[str, dict] = {}
        for name, param in module.named_parameters():  # a shared parameter comes once
            if not param.requires_grad:
                continue
            layer = layer_of(name)
            settings = self._settings(name, param, id(param) in norms)
            label = f"layer_{layer}_{_label(settings)}"
            if label not in groups:
                scale = lr_scale(layer, num_groups, self.paramwise_cfg["decay_rate"])
                groups[label] = dict(params=[], param_names=[], name=label, layer_id=layer, lr_scale=scale)
                groups[label].update(_group_options(settings, scale * self.base_lr, self.base_wd))
            groups[label]["params"].append(param)
            groups[label]["param_names"].append(name)
        # The order must not depend on the order of registration: schedulers save by position.
        params.extend(sorted(groups.values(), key=lambda group: (group["layer_id"], group["name"])))
        print_log(
            f"layer decay: {sum(len(group['params']) for group in params)} tensors in {len(groups)} groups, "
            f"lr {min(g['lr'] for g in params):.3g} to {max(g['lr'] for g in params):.3g}",
            logger="current",
        )

    def _settings(self, name: str, param: nn.Parameter, is_norm: bool) -> dict:
        """``decay_mult`` of one parameter, and the settings that a custom key adds."""
        decay_mult = 1.0 if is_decayed(name, param.shape) else 0.0
        custom_keys = self.paramwise_cfg.get("custom_keys", {})
        matching = sorted((key for key in custom_keys if key in name), key=lambda key: (-len(key), key))
        if matching:  # the longest key wins and overrides the other options, as in mmengine
            return {"decay_mult": decay_mult, **custom_keys[matching[0]], "key": matching[0]}
        if is_norm:
            decay_mult = self.paramwise_cfg.get("norm_decay_mult", decay_mult)
        elif name.endswith(".bias"):
            decay_mult = self.paramwise_cfg.get("bias_decay_mult", decay_mult)
        return {"decay_mult": decay_mult}


def layer_rule(model: nn.Module, decay_type: str, num_layers: int | None) -> tuple[LayerOf, int]:
    """Return the rule that numbers the layers of ``model``.

    Returns:
        a function from full parameter name to group, and the number of groups.

    Raises:
        ValueError: an unknown decay type or an impossible ``num_layers``.
        TypeError: no ``backbone``, or one whose layers cannot be determined.
    """
    if decay_type not in DECAY_TYPES:
        raise ArgumentError(f"decay_type={decay_type!r}; use one of {DECAY_TYPES}")
    found = _convnexts(model)
    if len(set(found.values())) == 1:
        depths = next(iter(found.values()))
        last = 1 + (default_num_layers(depths) if num_layers is None else num_layers)

        def by_name(name: str) -> int:
            prefix = next((prefix for prefix in found if name.startswith(prefix)), None)
            if prefix is None:
                return last
            return layer_id(name.removeprefix(prefix), depths, decay_type, num_layers)

        by_name(next(iter(found)))  # refuses an impossible num_layers before any group is made
        return by_name, last + 1
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"layer decay needs a model with a `backbone`; {type(model).__name__} has none")
    if hasattr(backbone, "get_layer_depth") and decay_type == "layer_wise" and num_layers is None:
        num_groups = backbone.get_layer_depth("", BACKBONE)[1]

        def by_method(name: str) -> int:
            if not name.startswith(BACKBONE):
                return num_groups - 1
            return backbone.get_layer_depth(name, BACKBONE)[0]

        return by_method, num_groups
    kind = type(backbone).__name__
    if hasattr(backbone, "get_layer_depth"):
        raise TypeError(
            f"{kind} numbers its layers by get_layer_depth: use decay_type='layer_wise' without num_layers"
        )
    raise TypeError(
        f"the layers of {kind} are unknown; give it a method get_layer_depth(name: str, prefix: str) -> "
        "(id, n): the group of parameter `name` (which starts with `prefix`), from 0 (input) to n - 1 (heads)"
    )


def _convnexts(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Depths of each trained ConvNeXt by its prefix: the backbone, a student's, that of a tracker's detector
    or of a recursive neck; of a backbone without them, what its parameter names give.
    """
    found = {}
    for name, module in model.named_modules():
        if name != BACKBONE[:-1] and not (hasattr(module, "stages") and hasattr(module, "downsample_layers")):
            continue
        if any(param.requires_grad for param in module.parameters()):
            found[f"{name}."] = infer_depths(inner for inner, _ in module.named_parameters())
    return {prefix: depths for prefix, depths in found.items() if depths}


def match_groups_by_name(optimizer: Optimizer, state_dict: dict) -> dict:
    """Reorder a saved optimizer state to the groups of ``optimizer``, by parameter name.

    A pre-hook of ``Optimizer.load_state_dict``; names are plain strings, so that
    checkpoints stay readable with ``weights_only=True``.

    Raises:
        ValueError: the saved groups hold other parameters; the message says which.
    """
    saved = state_dict["param_groups"]
    if not all("param_names" in group for group in saved):
        raise ArgumentError(
            f"cannot resume: the checkpoint's optimizer has {len(saved)} groups without parameter names, "
            "so it was not built by LayerDecayOptimWrapperConstructor"
        )
    saved_ids, saved_groups = {}, _groups_by_name(saved)
    for group in saved:
        saved_ids.update(zip(group["param_names"], group["params"], strict=True))
    _check_same_groups(
        {name: _identity(group) for name, group in saved_groups.items()},
        {name: _identity(group) for name, group in _groups_by_name(optimizer.param_groups).items()},
    )
    matched = []
    for group in optimizer.param_groups:
        names = list(group["param_names"])
        settings = copy.deepcopy(saved_groups[names[0]])  # rates and weight decay, which may be scheduled
        matched.append({**settings, "param_names": names, "params": [saved_ids[name] for name in names]})
    return {**state_dict, "param_groups": matched}


def _groups_by_name(groups: list[dict]) -> dict[str, dict]:
    """Parameter name -> its group."""
    return {name: group for group in groups for name in group["param_names"]}


def _identity(group: dict) -> str:
    """Settings that a resume must not change; without rates and weight decay, which may be scheduled."""
    return f"{group.get('name')}, lr x{group.get('lr_scale', 1.0):.4g}"


def _check_same_groups(saved: dict[str, str], current: dict[str, str]) -> None:
    moved = [
        f"{name} ({saved[name]} -> {group})"
        for name, group in current.items()
        if name in saved and saved[name] != group
    ]
    found = {
        "parameters only in the checkpoint": [name for name in saved if name not in current],
        "only in this model": [name for name in current if name not in saved],
        "in another group": moved,
    }
    differences = [f"{len(names)} {what}, first {names[:3]}" for what, names in found.items() if names]
    if differences:
        raise ArgumentError(
            f"cannot resume with other parameter groups: {'; '.join(differences)}. Resume with the "
            "checkpoint's recipe, or load only its weights (load_from)"
        )


def _label(settings: dict) -> str:
    """``decay``, ``no_decay`` or ``decay_x0.5``, followed by the custom key."""
    mult = settings["decay_mult"]
    label = {0.0: "no_decay", 1.0: "decay"}.get(mult, f"decay_x{mult:g}")
    return f"{label}_{settings['key']}" if "key" in settings else label


def _group_options(settings: dict, lr: float, weight_decay: float | None) -> dict:
    options = {k: v for k, v in settings.items() if k not in ("key", "lr_mult", "decay_mult")}
    options["lr"] = lr * settings.get("lr_mult", 1.0)
    if weight_decay is not None:
        options["weight_decay"] = weight_decay * settings["decay_mult"]
    return options
