"""What else follows from new channels and levels: group norms, unread levels, a teacher's config."""

import copy
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path as File

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from convnext_dense.mm.models.meta_device import LinspaceOnCpu
from convnext_dense.mm.swap.channels import NOT_CONSUMERS, Change, read_levels
from convnext_dense.mm.swap.probe import SIZE
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

NOT_DIVISIBLE = "divisible by num_groups"  # of PyTorch's error


def group_changes(model: Mapping) -> Iterator[Change]:
    """Group norms with too many groups: the largest divisor of their number with which the part builds.

    Args:
        model: the swapped model's config.
    """
    for key, node in model.items():
        if key in NOT_CONSUMERS:
            continue
        for outer, part in mappings(node, keys=()):
            norms = [path for path, inner in mappings(part) if _is_group_norm(inner)]
            groups = {_at(part, path)["num_groups"] for path in norms}
            if not groups or not _too_many(part):
                continue
            for count in (n for n in range(max(groups) - 1, 0, -1) if max(groups) % n == 0):
                smaller = copy.deepcopy(dict(part))
                for path in norms:
                    _at(smaller, path)["num_groups"] = count
                if not _too_many(smaller):
                    break
            why = f"{max(groups)} groups do not divide the new channels; the largest divisor that does"
            for path in norms:
                yield Change(
                    ("model", key, *outer, *path, "num_groups"), _at(part, path)["num_groups"], count, why
                )


def _is_group_norm(node: Mapping) -> bool:
    return type_name(node) in ("GN", "GroupNorm") and isinstance(node.get("num_groups"), int)


def _at(node: Mapping, path: tuple) -> dict:
    for key in path:
        node = node[key]
    return node  # type: ignore[return-value]  # a mapping by construction


def _too_many(part: Mapping) -> bool:
    """Whether a part does not build because of its groups; one that fails otherwise is left as it is."""
    try:
        _build(part)
    except Exception as error:  # of a third-party class
        return NOT_DIVISIBLE in str(error)
    return False


def _build(part: object) -> nn.Module:
    with torch.device("meta"), LinspaceOnCpu():
        return MODELS.build(copy.deepcopy(part))


def unread_changes(
    cfg: Config, model: Mapping, channels: tuple[int, ...], strides: tuple[int, ...]
) -> Iterator[Change]:
    """Tell DistributedDataParallel of levels that nobody reads: their norms get no gradient.

    Args:
        cfg: the swapped config.
        model: its model with the backbone.
        channels: channels of the ConvNeXt's levels.
        strides: their strides.
    """
    unread = _unread(model, channels, strides)
    if unread and not cfg.get("find_unused_parameters") and not cfg.get("model_wrapper_cfg"):
        why = f"levels {unread} are not read: on several GPUs, training would stop at their norms"
        yield Change(("find_unused_parameters",), None, True, why)


def _unread(model: Mapping, channels: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """Levels on which the neck's output, or that of the heads, does not depend; none if it is unknown."""
    neck = model.get("neck")
    if not neck:
        return sorted(set(range(len(channels))) - set(read_levels(model, len(channels))))
    try:
        module = _build(neck if isinstance(neck, Mapping) else neck[0])
        with torch.device("meta"):
            maps = [
                torch.zeros(1, c, SIZE // s, SIZE // s, requires_grad=True)
                for c, s in zip(channels, strides, strict=True)
            ]
            out = module(maps)
        total = sum(o.sum() for o in (out if isinstance(out, list | tuple) else [out]) if o is not None)
        gradients = torch.autograd.grad(total, maps, allow_unused=True)
    except Exception:  # of a third-party class
        return []
    return [i for i, gradient in enumerate(gradients) if gradient is None]


def teacher_changes(model: Mapping, scope: str) -> Iterator[Change]:
    """The model of a teacher's config, which is named by a path that only a clone of the toolbox has.

    Args:
        model: the model's config.
        scope: the toolbox, which also carries its configs in the wheel.
    """
    named = model.get("teacher_config")
    if not isinstance(named, str) or File(named).is_file():
        return
    package = File(importlib.import_module(scope).__file__ or "").parent
    carried = package / ".mim" / named  # configs/...
    if carried.is_file():
        teacher = dict(model=Config.fromfile(carried).model.to_dict())
        yield Change(("model", "teacher_config"), named, teacher, "of the wheel: runs start in any folder")
