"""Levels for detectors and segmentors from one map: the simple feature pyramid of plain backbones.

Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV
2022, section 3: every level comes from the last map of stride 16 alone, by
transposed convolutions, the identity or pooling, without lateral or top-down paths.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convnext_dense.errors import ArgumentError
from convnext_dense.layers.basic import LayerNorm2d

STRIDES = (4, 8, 16, 32)  # the levels before the extra ones


class SimpleFeaturePyramid(nn.Module):
    """A map of stride 16 -> levels of stride 4, 8, 16, 32 and, beyond four, 64 and so on.

    Stride 4 takes two transposed 2x2 convolutions, which halve the channels each, with
    LayerNorm and GELU between them; stride 8 takes one, 16 none, 32 a 2x2 max pooling. A
    1x1 and a 3x3 convolution, each with LayerNorm and without bias, follow on every level. An
    extra level is every second position of the level before it, like an FPN's last level.

    Strides 4 and 8 have exactly 4 and 2 positions for one of the map; 32 and the extra
    levels round up, so that no level is ever empty. An image of a multiple of 32 pixels, to which
    detectors pad, is covered exactly up to stride 32. For any other image the *backbone* leaves out the last
    rows and columns, fewer than 16 pixels, and so they are in no level.

    Args:
        in_channels: C of the map; a multiple of 4.
        out_channels: channels of each level.
        num_outs: levels; 4 (segmentor) or 5 (detector), or more.

    Attributes:
        out_strides: strides of the levels.

    Raises:
        ValueError: channels that four does not divide, or fewer than four levels.
    """

    def __init__(self, in_channels: int, out_channels: int = 256, num_outs: int = 4) -> None:
        super().__init__()
        if in_channels % 4 or in_channels < 4:
            raise ArgumentError(f"in_channels={in_channels}; use a multiple of 4, which is halved twice")
        if num_outs < len(STRIDES):
            raise ArgumentError(f"num_outs={num_outs}; use at least {len(STRIDES)}, strides {STRIDES}")
        self.in_channels, self.out_channels, self.num_outs = in_channels, out_channels, num_outs
        self.out_strides = tuple(STRIDES[0] * 2**i for i in range(num_outs))
        half, quarter = in_channels // 2, in_channels // 4
        self.resample = nn.ModuleList(
            (
                nn.Sequential(
                    _double(in_channels, half), LayerNorm2d(half), nn.GELU(), _double(half, quarter)
                ),
                _double(in_channels, half),
                nn.Identity(),
                nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True),
            )
        )
        self.project = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for channels in (quarter, half, in_channels, in_channels)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One (N, C, h, w) in a sequence -> a contiguous (N, out_channels, h_i, w_i) per level.

        (h_i, w_i) is (4h, 4w), (2h, 2w), (h, w), then half of the level before, rounded up.

        Raises:
            ValueError: not exactly one map, or one of other channels.
        """
        shapes = [tuple(each.shape) for each in maps]
        if len(maps) != 1 or maps[0].dim() != 4 or maps[0].shape[1] != self.in_channels:
            raise ArgumentError(f"maps of shape {shapes}; expected one (N, {self.in_channels}, h, w)")
        # channels-last saves LayerNorm2d its copies; compiled RoIAlign wants contiguous NCHW
        x = maps[0].to(memory_format=torch.channels_last)
        levels = [
            project(resample(x)).contiguous()
            for resample, project in zip(self.resample, self.project, strict=True)
        ]
        while len(levels) < self.num_outs:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return tuple(levels)


def _double(c_in: int, c_out: int) -> nn.Module:
    """(N, c_in, h, w) -> (N, c_out, 2h, 2w)."""
    return nn.ConvTranspose2d(c_in, c_out, kernel_size=2, stride=2)
