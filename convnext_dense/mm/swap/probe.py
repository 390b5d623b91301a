"""Outputs of a backbone, measured by running it, not guessed from its name."""

import copy
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch
from mmengine.registry import MODELS
from torch import nn

from convnext_dense.errors import UserError
from convnext_dense.mm.models.meta_device import LinspaceOnCpu
from convnext_dense.mm.type_names import PACKAGES, type_name

SIZE = 256  # pixels; divisible by every stride up to 128
BATCH = 2  # images in training: batch norm needs more than one value per channel
STRIDES = (4, 8, 16, 32)  # of ConvNeXt's stages

# Weights, layers that need compiled ops and do not change shapes, and the image beside the maps (RFP).
_NO_SHAPE = (
    "init_cfg",
    "pretrained",
    "dcn",
    "stage_with_dcn",
    "sac",
    "stage_with_sac",
    "plugins",
    "output_img",
)


class RefusedError(UserError):
    """A backbone that a ConvNeXt cannot replace; the message says why."""


class Levels(NamedTuple):
    """The maps of a backbone.

    Attributes:
        channels: one entry per map.
        strides: pixels per position of each map, rounded to a power of two.
        dilated: whether dilation replaced strides.
        test_level: the only map outside training, ``None`` if all are returned there.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    dilated: bool
    test_level: int | None = None


class Stages(NamedTuple):
    """ConvNeXt's arguments that give the same strides."""

    out_indices: tuple[int, ...]
    output_stride: int


def probe(backbone: Mapping, in_channels: int = 3) -> Levels:
    """Build a backbone from its config, run it on the meta device and inspect its maps.

    Args:
        backbone: config with ``type``; it is not changed.
        in_channels: channels of the input image.

    Raises:
        RefusedError: it does not build or run alone, or returns something other than maps of one image.
    """
    kind = type_name(backbone) if not isinstance(backbone.get("type"), str) else backbone["type"]
    package = kind.partition(".")[0]
    if package in PACKAGES and find_spec(package) is None:
        raise RefusedError(f"{kind} needs {package}, which is not installed")
    model, out = _run(backbone, torch.zeros(1, in_channels, SIZE, SIZE))
    maps = list(out) if isinstance(out, list | tuple) else [out]
    if not maps or not all(isinstance(m, torch.Tensor) and m.dim() == 4 for m in maps):
        raise RefusedError(f"{kind} returns {_describe(out)}, not a tuple of maps (N, C, H, W)")
    if any(m.shape[0] != 1 for m in maps):
        raise RefusedError(f"{kind} returns {maps[0].shape[0]} maps for one image (parallel branches)")
    trained = _maps_in_training(model, in_channels)
    if trained and any(m.shape[0] != BATCH for m in trained):
        raise RefusedError(
            f"{kind} returns {trained[0].shape[0] // BATCH} maps per image (parallel branches)"
        )
    if len(trained or maps) == len(maps):
        return _levels(maps, model)
    same = [i for i, m in enumerate(trained) if m.shape[1:] == maps[0].shape[1:]]
    if isinstance(out, list | tuple) or not same:
        raise RefusedError(f"{kind} returns other things in training than in testing")
    return _levels(trained, model)._replace(test_level=same[-1])


def _levels(maps: Sequence[torch.Tensor], model: nn.Module) -> Levels:
    strides = tuple(2 ** round(math.log2(SIZE / m.shape[2])) for m in maps)
    return Levels(tuple(m.shape[1] for m in maps), strides, is_dilated(model))


def _run(backbone: Mapping, image: torch.Tensor) -> tuple[nn.Module, object]:
    """The backbone and its output, on the meta device if possible, else on the CPU."""
    plain = {key: copy.deepcopy(value) for key, value in backbone.items() if key not in _NO_SHAPE}
    # some classes read numbers from tensors while they run, which meta tensors do not have
    for device in ("meta", "cpu"):
        try:
            with torch.device(device), LinspaceOnCpu():
                model = MODELS.build(copy.deepcopy(plain))
            _check_patches(model)
            model.eval()  # returns nothing in some classes
            with torch.device(device), torch.no_grad():
                return model, model(image.to(device))
        except RefusedError:
            raise
        except Exception as error:  # third-party classes may raise anything
            said = str(error).strip().split("\n")[0] or type(error).__name__
    raise RefusedError(f"{backbone.get('type')} does not run on an image alone ({said:.120})")


def _check_patches(model: nn.Module) -> None:
    """Raise :class:`RefusedError` for a ViT: one resolution, and often one size of images."""
    if any(isinstance(m, nn.Conv2d) and min(m.stride) >= 16 for m in model.modules()):
        kind = type(model).__name__
        raise RefusedError(f"{kind} cuts the image into patches of 16 pixels or more at once: no pyramid")


def _maps_in_training(model: nn.Module, in_channels: int) -> list[torch.Tensor] | None:
    """Outputs of a backbone in training mode, or ``None`` if it does not run alone or they are no maps."""
    model.train()
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            out = model(torch.zeros(BATCH, in_channels, SIZE, SIZE, device=device))
    except Exception:  # of a third-party class; the check after the swap will find it
        return None
    maps = list(out) if isinstance(out, list | tuple) else [out]
    return maps if all(isinstance(m, torch.Tensor) and m.dim() == 4 for m in maps) else None


def passed_on(neck: object, levels: Levels) -> dict[int, int]:
    """Outputs of a neck that are unchanged levels of the backbone: output -> level, from both ends.

    Empty if there are none or if the neck does not run alone.
    """
    if not isinstance(neck, Mapping):
        return {}
    try:
        with torch.device("meta"), LinspaceOnCpu():
            model = MODELS.build(copy.deepcopy(dict(neck)))
            pairs = zip(levels.channels, levels.strides, strict=True)
            maps = tuple(torch.zeros(1, c, SIZE // s, SIZE // s) for c, s in pairs)
        with torch.device("meta"), torch.no_grad():
            out = list(model(maps))
    except Exception:  # of a third-party class
        return {}
    same = [(i, level) for i, o in enumerate(out) for level, m in enumerate(maps) if o is m]
    return {key: level for i, level in same for key in (i, i - len(out))}


def is_dilated(model: nn.Module) -> bool:
    """Whether a convolution larger than 1x1 is dilated, as when a stride was removed."""
    return any(
        isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and max(module.dilation) > 1
        for module in model.modules()
    )


def choose_stages(levels: Levels) -> Stages:
    """The stages of a ConvNeXt that replace each level.

    Where strides repeat or were replaced by dilation (8, or 4, 8, 8, 8), those of the ConvNeXt are
    replaced too and the deepest stage of each stride is taken; else stage i has stride 4 * 2**i.

    Raises:
        RefusedError: levels that no ConvNeXt has.
    """
    strides = levels.strides
    if any(stride not in STRIDES for stride in strides):
        wrong = [stride for stride in strides if stride not in STRIDES]
        raise RefusedError(f"levels of stride {wrong}; ConvNeXt has {list(STRIDES)}")
    if list(strides) != sorted(strides) or len(strides) > len(STRIDES):
        raise RefusedError(f"levels of strides {list(strides)}; ConvNeXt's rise from one stage to the next")
    repeats = len(set(strides)) < len(strides)
    if repeats and not levels.dilated:
        raise RefusedError(
            f"{len(strides)} levels of strides {list(strides)}, which repeat without dilation: no pyramid"
        )
    if not repeats and not levels.dilated:
        return Stages(tuple(STRIDES.index(stride) for stride in strides), 32)
    output_stride = max(strides[-1], 8)
    return Stages(_deepest(strides, [min(stride, output_stride) for stride in STRIDES]), output_stride)


def _deepest(strides: Sequence[int], stages: Sequence[int]) -> tuple[int, ...]:
    """Index of the deepest unused stage of each stride, from the last level back."""
    chosen: list[int] = []
    limit = len(stages)
    for stride in reversed(strides):
        fitting = [i for i in range(limit) if stages[i] == stride]
        if not fitting:
            raise RefusedError(f"levels of strides {list(strides)}; ConvNeXt would have {list(stages)}")
        limit = fitting[-1]
        chosen.append(limit)
    return tuple(reversed(chosen))


def _describe(out: object) -> str:
    if isinstance(out, list | tuple):
        return f"{len(out)} things such as {_describe(out[0])}" if out else "nothing"
    return f"a tensor of {out.dim()} dimensions" if isinstance(out, torch.Tensor) else type(out).__name__
