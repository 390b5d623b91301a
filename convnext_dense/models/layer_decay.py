"""Layer-wise learning-rate decay: from a parameter's name to its group.

Pure functions of plain values. A group is a number, 0 at the input and
``num_layers + 1`` at the heads; each step away from the heads multiplies the
learning rate by ``decay_rate`` (appendix A.3 of the ConvNeXt paper, with the
groups of the released code).

Two backbones are known by their parameter names, so V1, V2 and any class with
the released names fit: hierarchical (``downsample_layers.i``, ``stages.i.j``)
and isotropic (``stem``, ``blocks.i``, given here as one stage).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from convnext_dense.errors import ArgumentError

DecayType = Literal["layer_wise", "stage_wise"]
DECAY_TYPES: tuple[str, ...] = get_args(DecayType)

BLOCKS_PER_GROUP = 3  # stage 2, by far the longest, is cut every three blocks

_DOWNSAMPLE = re.compile(r"downsample_layers\.(\d+)\.")
_BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.")
_ISOTROPIC_STEM = re.compile(r"stem\.")
_ISOTROPIC_BLOCK = re.compile(r"blocks\.(\d+)\.")
# GRN of V2 is (1, 1, 1, C): a scale and a shift per channel, though not one-dimensional.
# Tokens and position tables have no weight decay either, whatever their shape.
_NEVER_DECAYED = re.compile(
    r"(?:.*\.)?(?:grn\.(?:gamma|beta)|cls_token|mask_token|pos_embed|absolute_pos_embed"
    r"|relative_position_bias_table)"
)


def infer_depths(names: Iterable[str]) -> tuple[int, ...]:
    """Blocks per stage, from a backbone's parameter names (without prefix).

    Returns:
        four depths for a hierarchical ConvNeXt, one for an isotropic one, ``()``
        for any other backbone.
    """
    names = list(names)
    stages: dict[int, int] = {}
    for name in names:
        if match := _BLOCK.match(name):
            stage, block = int(match[1]), int(match[2])
            stages[stage] = max(stages.get(stage, 0), block + 1)
    hierarchical = sorted(stages) == [0, 1, 2, 3] and any(_DOWNSAMPLE.match(name) for name in names)
    if hierarchical:
        return tuple(stages[i] for i in range(4))
    blocks = [int(match[1]) for name in names if (match := _ISOTROPIC_BLOCK.match(name))]
    if blocks and any(_ISOTROPIC_STEM.match(name) for name in names):
        return (max(blocks) + 1,)
    return ()


def default_num_layers(depths: Sequence[int]) -> int:
    """Group of the last stage: 6 for ConvNeXt-T, 12 for S, B, L and XL, as published.

    Stem, stage 0 and stage 1 take groups 0 to 2, stage 2 one group for every three
    blocks from 3 on, stage 3 the next. An isotropic network takes one group
    for every three blocks from 1 on.

    Raises:
        ValueError: neither four depths nor one.
    """
    cut = -(-_long_stage(depths) // BLOCKS_PER_GROUP)  # rounded up
    return cut if len(depths) == 1 else 3 + cut


def layer_id(
    name: str, depths: Sequence[int], decay_type: DecayType = "layer_wise", num_layers: int | None = None
) -> int:
    """Group of one backbone parameter.

    ``layer_wise``: the stem is 0, stage 0 is 1, stage 1 is 2, stage 2 is cut every
    three blocks from 3 on, stage 3 is ``num_layers``; a downsampling layer goes
    with the first block after it.

    ``stage_wise``: the stem *and every downsampling layer* are 0, stage i is i + 1,
    and the heads stay at ``num_layers + 1``. With 12 layers and rate 0.9 the
    stages train at 0.28, 0.31, 0.35 and 0.39 of the heads' rate. It looks like a
    mistake, but the published ADE20K results were trained with it.

    Args:
        name: parameter name inside the backbone, such as ``stages.2.4.norm.bias``.
        depths: blocks per stage; four (hierarchical) or one (isotropic).
        decay_type: the rule.
        num_layers: overrides :func:`default_num_layers`; a smaller number cuts
            stage 2 into fewer, longer groups.

    Returns:
        0 to ``num_layers + 1``; a parameter that is neither stem, downsampling layer nor block
        (the output norms) gets the last group, as the heads do.

    Raises:
        ValueError: an unknown decay type, depths of another length, or a
            ``num_layers`` too small to hold the stages.
    """
    if decay_type not in DECAY_TYPES:
        raise ArgumentError(f"decay_type={decay_type!r}; use one of {DECAY_TYPES}")
    num_layers = _checked_num_layers(depths, num_layers)
    position = _position(name, isotropic=len(depths) == 1)
    if position is None:
        return num_layers + 1
    stage, block = position
    if stage < 0:
        return 0
    if decay_type == "stage_wise":
        return stage + 1 if block is not None else 0
    if len(depths) == 1:
        return 1 + (block or 0) // _cut(depths, num_layers)
    if stage == 2:
        return 3 + (block or 0) // _cut(depths, num_layers)
    return num_layers if stage == 3 else stage + 1


def lr_scale(layer: int, num_groups: int, decay_rate: float) -> float:
    """Factor on the learning rate of group ``layer`` (0 to ``num_groups - 1``); the last group has 1."""
    return decay_rate ** (num_groups - 1 - layer)


def is_decayed(name: str, shape: Sequence[int]) -> bool:
    """Whether weight decay applies: not to biases, scales, norms, GRN, tokens and position tables."""
    return len(shape) > 1 and not name.endswith(".bias") and not _NEVER_DECAYED.fullmatch(name)


def _long_stage(depths: Sequence[int]) -> int:
    if len(depths) not in (1, 4):
        raise ArgumentError(
            f"depths={tuple(depths)}; four stages (hierarchical) or one (isotropic) are known"
        )
    return depths[0] if len(depths) == 1 else depths[2]


def _checked_num_layers(depths: Sequence[int], num_layers: int | None) -> int:
    default = default_num_layers(depths)
    if num_layers is None:
        return default
    smallest = 1 if len(depths) == 1 else 4  # one group at least for the long stage
    if num_layers < smallest:
        raise ArgumentError(f"num_layers={num_layers}; at least {smallest} for depths {tuple(depths)}")
    return num_layers


def _cut(depths: Sequence[int], num_layers: int) -> int:
    """Blocks per group in the long stage: three, or more where ``num_layers`` is smaller."""
    room = num_layers if len(depths) == 1 else num_layers - 3
    return max(BLOCKS_PER_GROUP, -(-_long_stage(depths) // room))


def _position(name: str, isotropic: bool) -> tuple[int, int | None] | None:
    """(stage, block) of a parameter; block ``None`` is the downsampling layer, stage -1 the stem."""
    if isotropic:
        if match := _ISOTROPIC_BLOCK.match(name):
            return 0, int(match[1])
        return (-1, None) if _ISOTROPIC_STEM.match(name) else None
    if match := _BLOCK.match(name):
        return int(match[1]), int(match[2])
    if match := _DOWNSAMPLE.match(name):
        stage = int(match[1])
        return (stage, None) if stage > 0 else (-1, None)
    return None
