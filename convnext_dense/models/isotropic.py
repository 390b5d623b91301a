"""Isotropic ConvNeXt: one resolution throughout, as in a plain ViT (Liu et al., section 3.3, Table 2)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from convnext_dense.layers import fused_block
from convnext_dense.layers.basic import LayerNorm2d, drop_path_rates
from convnext_dense.layers.lean_block import Memory
from convnext_dense.models.archs import ISOTROPIC_ARCHS, resolve_arch
from convnext_dense.models.convnext import Block, check_image, init_weights, run_blocks

STRIDE = 16  # stride of the stem and of the only level


class IsotropicConvNeXt(nn.Module):
    """A stem of stride 16 and blocks of one width; returns the last map, normalised.

    Parameter names are those of the released code; the output norm, which it does
    not have, is ``norm0``. Detectors and segmentors read it through
    :class:`convnext_dense.models.pyramid.SimpleFeaturePyramid`.

    Args:
        arch: a name in :data:`convnext_dense.models.archs.ISOTROPIC_ARCHS` or
            ``dict(depths=(18,), dims=(384,))``.
        in_channels: channels of the input image.
        drop_path_rate: rate of the last block; it rises linearly over the blocks.
        layer_scale_init_value: initial layer scale; 0, the default, leaves it out, as the
            released S and B do. The released L was trained with one: use 1.0 there.
        with_cp: recompute each block in the backward pass.
        memory: what a block keeps for the backward pass, see :class:`convnext_dense.models.convnext.Block`.

    Attributes:
        depths, dims: number and channels of the blocks, one entry each.
        out_channels, out_strides: channels and stride of the one level.

    Raises:
        ValueError: the arch is unknown.
    """

    smallest_side = STRIDE

    def __init__(
        self,
        arch: str | Mapping = "isotropic_small",
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 0.0,
        with_cp: bool = False,
        memory: Memory = "lean",
    ) -> None:
        super().__init__()
        self.depths, self.dims = resolve_arch(arch, ISOTROPIC_ARCHS)
        self.in_channels = in_channels
        self.with_cp = with_cp
        self.out_channels, self.out_strides = self.dims, (STRIDE,)
        (dim,) = self.dims
        self.stem = nn.Conv2d(in_channels, dim, kernel_size=STRIDE, stride=STRIDE)
        (rates,) = drop_path_rates(drop_path_rate, self.depths)
        self.blocks = nn.Sequential(
            *(Block(dim, rate, layer_scale_init_value, memory=memory) for rate in rates)
        )
        self.norm0 = LayerNorm2d(dim)
        self.apply(init_weights)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """(N, in_channels, H, W) -> one contiguous (N, C, H / 16, W / 16).

        Raises:
            ValueError: an input that is not 4-D, smaller than 16x16, or of other channels.
        """
        return (self.norm0(self.forward_stages(x)[0]).contiguous(),)

    def forward_stages(self, x: Tensor) -> tuple[Tensor]:
        """(N, in_channels, H, W) -> the map after the last block, channels-last and without output norm.

        Raises:
            ValueError: as :meth:`forward`.
        """
        check_image(x, self.in_channels, STRIDE)
        x = self.stem(x.to(memory_format=torch.channels_last))
        return (run_blocks(self.blocks, x, self.with_cp),)

    def fuse(self) -> "IsotropicConvNeXt":
        """Fold weights for faster inference, see :meth:`convnext_dense.ConvNeXt.fuse`.

        Raises:
            RuntimeError: the model is in training mode.
        """
        return fused_block.fuse(self)
