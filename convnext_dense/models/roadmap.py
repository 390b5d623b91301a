"""The roadmap from ResNet-50 to ConvNeXt-T (CVPR 2022, section 2 and Figure 2) as one backbone family.

A step is a row of plain values that says only what it changes; one class builds
them all. Parameter names follow ConvNeXt's scheme at every step
(``downsample_layers.i``, ``stages.i.j``), so that layer decay and freezing work
alike; :mod:`convnext_dense.checkpoints.roadmap` renames a ResNet-50's parameters.

Where the paper's text leaves something open, this module does the following:

- The patchify stem is one convolution; the norm after it comes with the last
  step, as the text says ("one after the stem").
- A strided block strides in its k x k convolution, and its shortcut is a strided
  1 x 1 convolution with a norm, until ``fewer_norms`` leaves one norm per block.
- A convolution has a bias unless a batch norm follows.
- Layer scale is part of the last step's block; the paper trained all with it.
- The paper's last step has one norm after its final pooling. Here the two steps
  with layer norm have one norm per returned level, as dense ConvNeXt has.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from convnext_dense.errors import ArgumentError
from convnext_dense.layers.basic import DropPath, LayerNorm2d, drop_path_rates
from convnext_dense.models.convnext import MIN_SIZE, Block, check_image, resolve_out_indices, run_blocks


class Step(NamedTuple):
    """One backbone of the roadmap; the defaults are ResNet-50.

    Attributes:
        name: name that users write.
        depths: blocks per stage.
        width: channels of stage 0's bottleneck, or of its blocks' ends when these are inverted.
        stem: 7x7 stride 2 with norm, activation and pooling, or 4x4 stride 4.
        block: order of the three convolutions. ``bottleneck``: 1x1, k x k, 1x1 from 4C through C;
            ``inverted``: the same from C through 4C; ``moved_up``: k x k, 1x1, 1x1.
        depthwise: whether the k x k convolution is depthwise.
        kernel_size: k.
        activation: activation in the blocks.
        activations: number per block; a single one is between the two 1x1 convolutions of ``moved_up``.
        norms: number per block; a single one is after the depthwise convolution.
        norm: batch norm or layer norm.
        separate_downsampling: 2x2 convolutions and norms between stages; the blocks do not stride.
    """

    name: str
    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stem: Literal["resnet", "patchify"] = "resnet"
    block: Literal["bottleneck", "inverted", "moved_up"] = "bottleneck"
    depthwise: bool = False
    kernel_size: int = 3
    activation: Literal["relu", "gelu"] = "relu"
    activations: Literal[3, 1] = 3
    norms: Literal[3, 1] = 3
    norm: Literal["bn", "ln"] = "bn"
    separate_downsampling: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """``width`` of every stage."""
        return tuple(self.width * 2**i for i in range(len(self.depths)))

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels that every stage returns: four times its width after a bottleneck."""
        return tuple((4 if self.block == "bottleneck" else 1) * width for width in self.widths)


# Each step keeps what the steps before it changed. Kernel sizes are alternatives, and ``gelu`` takes 7.
_CHANGES: dict[str, dict] = {
    "resnet50": {},
    "stage_ratio": dict(depths=(3, 3, 9, 3)),
    "patchify": dict(stem="patchify"),
    "depthwise": dict(depthwise=True),
    "width": dict(width=96),
    "inverted_bottleneck": dict(block="inverted"),
    "move_up": dict(block="moved_up"),
    "kernel_5": dict(kernel_size=5),
    "kernel_7": dict(kernel_size=7),
    "kernel_9": dict(kernel_size=9),
    "kernel_11": dict(kernel_size=11),
    "gelu": dict(kernel_size=7, activation="gelu"),
    "fewer_activations": dict(activations=1),
    "fewer_norms": dict(norms=1),
    "layer_norm": dict(norm="ln"),
    "separate_downsampling": dict(separate_downsampling=True),
}


def _accumulate(changes: Mapping[str, dict]) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    so_far: dict[str, Any] = {}
    for name, change in changes.items():
        so_far = {**so_far, **change}
        steps[name] = Step(name, **so_far)
    return steps


STEPS: dict[str, Step] = _accumulate(_CHANGES)


def resolve_step(step: str) -> Step:
    """Name -> row.

    Raises:
        ValueError: an unknown name; all are listed.
    """
    if step not in STEPS:
        raise ArgumentError(f"step={step!r}; use one of {tuple(STEPS)}")
    return STEPS[step]


class Roadmap(nn.Module):
    """Multi-scale backbone of one step between ResNet-50 and ConvNeXt-T.

    The contract is :class:`convnext_dense.ConvNeXt`'s: channels-last inside, one
    contiguous NCHW map per level. The first step computes what a ResNet-50 with its
    stride in the 3x3 convolution does, the last what ConvNeXt-T does, under
    ConvNeXt-T's parameter names.

    Args:
        step: a name in :data:`STEPS`.
        in_channels: channels of the input image.
        out_indices: stages to return (0 to 3, strides 4, 8, 16, 32), in rising
            order; negative ones count from the end; one integer means one stage.
        drop_path_rate: rate of the last block; it rises linearly over all blocks.
        layer_scale_init_value: initial layer scale of the last step, 0 to leave it
            out; ``None`` is 1.0. The steps before it have none.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k
            stages with their downsampling layers and output norms.
        norm_eval: keep batch norms in eval mode in training, as detectors with few
            images per GPU do; without effect at the steps with layer norm.
        with_cp: recompute each block in the backward pass instead of keeping its
            activations; batch norms then count each batch twice.

    Attributes:
        step: the row.
        depths, dims: blocks and output channels of the four stages.
        out_indices: the returned stages, non-negative.
        out_channels, out_strides: one entry per returned level.

    Raises:
        ValueError: an argument outside the ranges above.
    """

    smallest_side = MIN_SIZE

    def __init__(
        self,
        step: str = "separate_downsampling",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = 1.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.step = resolve_step(step)
        self.depths, self.dims = self.step.depths, self.step.dims
        self.in_channels = in_channels
        self.out_indices = resolve_out_indices(out_indices, len(self.depths))
        self.out_channels = tuple(self.dims[i] for i in self.out_indices)
        self.out_strides = tuple(4 * 2**i for i in self.out_indices)
        if not -1 <= frozen_stages <= len(self.depths):
            raise ArgumentError(
                f"frozen_stages={frozen_stages}; use -1 (none) to {len(self.depths)} (all stages)"
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

        rates = drop_path_rates(drop_path_rate, self.depths)
        self.downsample_layers = _downsample_layers(self.step, in_channels)
        self.stages = nn.ModuleList(
            _stage(
                self.step, i, stage_rates, 1.0 if layer_scale_init_value is None else layer_scale_init_value
            )
            for i, stage_rates in enumerate(rates)
        )
        for i in self.out_indices:
            level_norm = LayerNorm2d(self.dims[i]) if self.step.norm == "ln" else nn.Identity()
            self.add_module(f"norm{i}", level_norm)
        self._initialise()
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> one contiguous (N, C_i, H / s_i, W / s_i) per level of ``out_indices``.

        H and W are any sizes of at least 32. Odd ones round down at a convolution
        as large as its stride, and up at all others.

        Raises:
            ValueError: an input that is not 4-D, too small, or of other channels.
        """
        check_image(x, self.in_channels, MIN_SIZE)
        x = x.to(memory_format=torch.channels_last)
        levels = []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = run_blocks(stage, down(x), self.with_cp)  # type: ignore[arg-type]  # an nn.Sequential
            if i in self.out_indices:
                levels.append(getattr(self, f"norm{i}")(x).contiguous())
        return tuple(levels)

    def train(self, mode: bool = True) -> "Roadmap":
        """Set training mode; frozen stages, and batch norms with ``norm_eval``, stay in eval mode."""
        super().train(mode)
        kept = self._frozen_modules()
        if self.norm_eval:
            kept += [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in kept:
            module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        modules = [self.downsample_layers[0]]
        for i in range(self.frozen_stages):
            modules += [self.downsample_layers[i], self.stages[i]]
            if i in self.out_indices:
                modules.append(getattr(self, f"norm{i}"))
        return modules

    def _initialise(self) -> None:
        """Initialise as ResNet where a norm follows each convolution; else as ConvNeXt (small weights)."""
        for module in self.modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            if self.step.norms == 3:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ResidualBlock(nn.Module):
    """Block of every step before the last: three convolutions and a shortcut.

    Args:
        step: the row.
        c_in: channels of the input.
        width: ``step.widths`` of the stage.
        stride: stride of the k x k convolution and the shortcut.
        drop_path_rate: probability that a sample skips the branch, in training.
    """

    conv1: nn.Module
    norm1: nn.Module
    act1: nn.Module
    conv2: nn.Module
    norm2: nn.Module
    act2: nn.Module
    conv3: nn.Module
    norm3: nn.Module
    act3: nn.Module

    def __init__(self, step: Step, c_in: int, width: int, stride: int, drop_path_rate: float) -> None:
        super().__init__()
        convs = block_convs(step, c_in, width, stride)
        for i, conv in enumerate(convs, start=1):
            has_norm = i <= step.norms
            has_activation = step.activations == 3 or i == 2
            self.add_module(f"conv{i}", _conv(conv, bias=not (has_norm and step.norm == "bn")))
            self.add_module(f"norm{i}", _norm(step, conv.c_out) if has_norm else nn.Identity())
            self.add_module(f"act{i}", _activation(step) if has_activation else nn.Identity())
        self.drop_path = DropPath(drop_path_rate)
        c_out = convs[-1].c_out
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or c_in != c_out:
            has_norm = step.norms == 3
            projection = [_conv(Conv(c_in, c_out, stride=stride), bias=not has_norm)]
            self.shortcut = nn.Sequential(*projection, *([_norm(step, c_out)] if has_norm else []))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride), rounded up."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.act2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return self.act3(self.shortcut(x) + self.drop_path(y))


class Conv(NamedTuple):
    """Geometry of a convolution whose padding keeps the size at stride 1."""

    c_in: int
    c_out: int
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1


def block_convs(step: Step, c_in: int, width: int, stride: int) -> tuple[Conv, Conv, Conv]:
    """The three convolutions of a block in their order (Figure 3 of the paper)."""
    k, hidden = step.kernel_size, 4 * width
    if step.block == "bottleneck":
        groups = width if step.depthwise else 1
        return Conv(c_in, width), Conv(width, width, k, stride, groups), Conv(width, hidden)
    if step.block == "inverted":
        return Conv(c_in, hidden), Conv(hidden, hidden, k, stride, hidden), Conv(hidden, width)
    return Conv(c_in, c_in, k, stride, c_in), Conv(c_in, hidden), Conv(hidden, width)


def _stage(step: Step, index: int, rates: Sequence[float], layer_scale_init_value: float) -> nn.Sequential:
    width = step.widths[index]
    if step.separate_downsampling:
        # plain, as for every other step: the lean path would hide the cost of the step
        blocks = (Block(width, rate, layer_scale_init_value, memory="plain") for rate in rates)
        return nn.Sequential(*blocks)
    c_in = step.width if index == 0 else step.dims[index - 1]
    first = ResidualBlock(step, c_in, width, 1 if index == 0 else 2, rates[0])
    others = (ResidualBlock(step, step.dims[index], width, 1, rate) for rate in rates[1:])
    return nn.Sequential(first, *others)


def _downsample_layers(step: Step, in_channels: int) -> nn.ModuleList:
    """The stem and the layers before stages 1 to 3: none, or a norm and a 2x2 convolution."""
    if step.stem == "resnet":
        stem = nn.Sequential(
            _conv(Conv(in_channels, step.width, 7, 2), bias=False),
            _norm(step, step.width),
            _activation(step),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
    else:
        stem = nn.Sequential(nn.Conv2d(in_channels, step.width, kernel_size=4, stride=4))
    if not step.separate_downsampling:
        return nn.ModuleList([stem, *(nn.Identity() for _ in step.depths[1:])])
    stem.append(LayerNorm2d(step.width))
    downs = (
        nn.Sequential(LayerNorm2d(c_in), nn.Conv2d(c_in, c_out, kernel_size=2, stride=2))
        for c_in, c_out in zip(step.widths[:-1], step.widths[1:], strict=True)
    )
    return nn.ModuleList([stem, *downs])


def _conv(conv: Conv, bias: bool) -> nn.Conv2d:
    padding = conv.kernel_size // 2
    return nn.Conv2d(
        conv.c_in, conv.c_out, conv.kernel_size, conv.stride, padding, groups=conv.groups, bias=bias
    )


def _norm(step: Step, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if step.norm == "bn" else LayerNorm2d(channels)


def _activation(step: Step) -> nn.Module:
    return nn.ReLU(inplace=True) if step.activation == "relu" else nn.GELU()
