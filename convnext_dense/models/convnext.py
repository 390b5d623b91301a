"""ConvNeXt as a multi-scale backbone: V1 ("A ConvNet for the 2020s", CVPR 2022), V2 (CVPR 2023).

Plain PyTorch. Parameter names are those of the released code, so that its
checkpoints load without renaming.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from convnext_dense.errors import ArgumentError
from convnext_dense.layers import fused_block, lean_block
from convnext_dense.layers.basic import GRN, AtrousDownsample, DropPath, LayerNorm2d, drop_path_rates
from convnext_dense.models.archs import resolve_arch

logger = logging.getLogger(__name__)

OutputStride = Literal[32, 16, 8]
MIN_SIZE = 32  # the last stage has stride 32: a smaller image would leave no position


class Block(fused_block.FusibleBlock):
    """Depthwise 7x7, LayerNorm, C -> 4C, GELU, 4C -> C, layer scale, residual (Figure 4).

    Args:
        dim: channels C.
        drop_path_rate: probability that a sample skips the branch, in training.
        layer_scale_init_value: initial value of ``gamma``; 0 leaves the scale out.
        use_grn: V2's Global Response Normalisation after the GELU.
        memory: what the block keeps for the backward pass, in units of C numbers per position.
            ``plain``: 12, as autograd does. ``lean``: 6, at the same speed
            (:mod:`convnext_dense.layers.lean_block`). ``leaner``: 2, and the first product is computed
            twice. The gradients are the same; only ``plain`` has second derivatives.
        dilation: of the depthwise convolution.
    """

    def __init__(
        self,
        dim: int,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1.0,
        use_grn: bool = False,
        memory: lean_block.Memory = "lean",
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.memory = lean_block.resolve_memory(memory)
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3 * dilation, groups=dim, dilation=dilation)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = GRN(4 * dim) if use_grn else nn.Identity()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        # register_parameter keeps the attribute (as None) and the state dict free of it
        scale = (
            nn.Parameter(torch.full((dim,), layer_scale_init_value)) if layer_scale_init_value > 0 else None
        )
        self.register_parameter("gamma", scale)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y = self.dwconv(x).permute(0, 2, 3, 1)  # NCHW -> NHWC, a view of channels-last memory
        folded = self.fused(y) if self.compiled is None else None
        if folded is not None:
            return fused_block.pointwise(folded, y, x, self.norm.eps)
        if self.compiled is not None:
            y = self.compiled(self, y)
        elif self.memory != "plain" and lean_block.applies(self, y):
            y = lean_block.pointwise(self, y, self.memory)
        else:
            y = self.pointwise(y)
        return x + self.drop_path(y.permute(0, 3, 1, 2))  # NHWC -> NCHW

    def pointwise(self, y: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C): the layers after the depthwise convolution, one by one."""
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(self.norm(y)))))  # C -> 4C -> C
        return y if self.gamma is None else self.gamma * y


class ConvNeXt(nn.Module):
    """Hierarchical ConvNeXt with one normalised output per chosen level.

    Works channels-last inside and returns contiguous NCHW maps: compiled RoIAlign
    kernels read memory as NCHW and ignore the strides.

    Args:
        arch: a name in :data:`convnext_dense.models.archs.ARCHS` or
            ``dict(depths=(...), dims=(...))`` with four entries each.
        in_channels: channels of the input image.
        out_indices: stages to return (0 to 3, strides 4, 8, 16, 32), in rising
            order; negative ones count from the end; one integer means one stage.
        drop_path_rate: rate of the last block; it rises linearly over all blocks.
        layer_scale_init_value: initial layer scale; 0 leaves it out. ``None`` is 1.0, as in
            every published detection and segmentation recipe (ImageNet training: 1e-6), and
            0 with ``use_grn``, which took its place.
        use_grn: ConvNeXt V2 (Woo et al., CVPR 2023).
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k
            stages with their downsampling layers and output norms.
        with_cp: recompute each block in the backward pass instead of keeping its
            activations: in all stages, or in those named, e.g. ``(0, 1)``.
        memory: what a block keeps for the backward pass, see :class:`Block`. All of ``tiny``
            with one image of 512x512 in float32: 545, 288 or 117 MiB.

        output_stride: 16 or 8 removes the last stride or the last two and dilates the following
            convolutions instead, with the same weights (Chen et al., DeepLab): the heads of
            PSPNet, DeepLab or FCN keep their resolution. Every second (fourth) position has the
            features of the plain network; with GRN, which uses all positions, only nearly.

    Attributes:
        depths, dims: blocks and channels of the four stages.
        out_indices: the returned stages, non-negative.
        out_channels, out_strides: one entry per returned level.
        smallest_side: pixels that each side of an image must have.

    Raises:
        ValueError: an argument outside the ranges above.
    """

    smallest_side = MIN_SIZE

    def __init__(
        self,
        arch: str | Mapping = "tiny",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
        use_grn: bool = False,
        frozen_stages: int = -1,
        with_cp: bool | Sequence[int] = False,
        memory: lean_block.Memory = "lean",
        output_stride: OutputStride = 32,
    ) -> None:
        super().__init__()
        self.depths, self.dims = resolve_arch(arch)
        self.in_channels = in_channels
        self.out_indices = resolve_out_indices(out_indices, len(self.depths))
        self.out_channels = tuple(self.dims[i] for i in self.out_indices)
        if output_stride not in get_args(OutputStride):
            raise ArgumentError(f"output_stride={output_stride!r}; use one of {get_args(OutputStride)}")
        self.output_stride = output_stride
        self.out_strides = tuple(min(4 * 2**i, output_stride) for i in self.out_indices)
        if not -1 <= frozen_stages <= len(self.depths):
            raise ArgumentError(
                f"frozen_stages={frozen_stages}; use -1 (none) to {len(self.depths)} (all stages)"
            )
        self.frozen_stages = frozen_stages
        resolve_with_cp(with_cp, len(self.depths))
        self.with_cp = with_cp

        if layer_scale_init_value is None:
            layer_scale_init_value = 0.0 if use_grn else 1.0
        stem = nn.Sequential(
            nn.Conv2d(in_channels, self.dims[0], kernel_size=4, stride=4), LayerNorm2d(self.dims[0])
        )
        self.downsample_layers = nn.ModuleList([stem])
        # dilation of each stage's blocks: a factor of 2 for each stride removed so far
        dilations = [max(4 * 2**i // output_stride, 1) for i in range(len(self.dims))]
        for c_in, c_out, before, after in zip(
            self.dims[:-1], self.dims[1:], dilations[:-1], dilations[1:], strict=True
        ):
            strided = before == after
            conv = (
                nn.Conv2d(c_in, c_out, kernel_size=2, stride=2)
                if strided
                else AtrousDownsample(c_in, c_out, before)
            )
            self.downsample_layers.append(nn.Sequential(LayerNorm2d(c_in), conv))
        rates = drop_path_rates(drop_path_rate, self.depths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(Block(dim, rate, layer_scale_init_value, use_grn, memory, dilation) for rate in stage_rates)
            )
            for dim, stage_rates, dilation in zip(self.dims, rates, dilations, strict=True)
        )
        for i in self.out_indices:
            self.add_module(f"norm{i}", LayerNorm2d(self.dims[i]))
        self.apply(init_weights)
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> one contiguous (N, C_i, H / s_i, W / s_i) per level of ``out_indices``.

        H and W are any sizes of at least 32; odd ones round down at each stage.

        Raises:
            ValueError: an input that is not 4-D, too small, or of other channels.
        """
        stages = self.forward_stages(x)
        return tuple(getattr(self, f"norm{i}")(stages[i]).contiguous() for i in self.out_indices)

    def forward_stages(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> the maps after the four stages, channels-last, not normalised.

        Raises:
            ValueError: as :meth:`forward`.
        """
        check_image(x, self.in_channels, MIN_SIZE)
        x = x.to(memory_format=torch.channels_last)
        recomputed = resolve_with_cp(self.with_cp, len(self.stages))
        maps = []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = run_blocks(stage, down(x), i in recomputed)  # type: ignore[arg-type]  # an nn.Sequential
            maps.append(x)
        return tuple(maps)

    def fuse(self) -> "ConvNeXt":
        """Fold weights for faster inference under ``torch.no_grad()``.

        See :mod:`convnext_dense.layers.fused_block`. Outputs and state dict stay the same. Training mode,
        loading weights and moving the model undo it; a copy of the model is not fused.

        Raises:
            RuntimeError: the model is in training mode.
        """
        return fused_block.fuse(self)

    def train(self, mode: bool = True) -> "ConvNeXt":
        """Set training mode; frozen stages stay in eval mode."""
        super().train(mode)
        for module in self._frozen_modules():
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

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval().requires_grad_(False)
        if self.frozen_stages >= 0:
            frozen = sum(p.numel() for p in self.parameters() if not p.requires_grad)
            total = sum(p.numel() for p in self.parameters())
            logger.info(
                "frozen_stages=%d: %d of %d backbone parameters are frozen", self.frozen_stages, frozen, total
            )


def check_image(x: Tensor, in_channels: int, smallest: int) -> None:
    """Raise ``ValueError`` unless ``x`` is (N, in_channels, H, W) with H and W of at least ``smallest``."""
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise ArgumentError(f"input of shape {tuple(x.shape)}; expected (N, {in_channels}, H, W)")
    if x.shape[2] < smallest or x.shape[3] < smallest:
        raise ArgumentError(
            f"input of {x.shape[2]}x{x.shape[3]} pixels; at least {smallest}x{smallest} are needed"
        )


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, with_cp: bool) -> Tensor:
    """(N, C, H, W) -> (N, C, H, W); ``with_cp`` recomputes each block in the backward pass."""
    recompute = with_cp and torch.is_grad_enabled()
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
    return x


def resolve_with_cp(with_cp: bool | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """The stages to recompute: ``True`` is all of them, ``False`` none.

    Raises:
        ValueError: a stage out of range, or a number instead of a sequence.
    """
    if isinstance(with_cp, bool):
        return tuple(range(num_stages)) if with_cp else ()
    stages = tuple(with_cp) if isinstance(with_cp, Sequence) else (with_cp,)
    known = isinstance(with_cp, Sequence) and all(type(i) is int and 0 <= i < num_stages for i in stages)
    if not known:
        raise ArgumentError(
            f"with_cp={with_cp!r}; use True, False or a sequence of stages 0 to {num_stages - 1}"
        )
    return stages


def resolve_out_indices(out_indices: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Non-negative stage indices in rising order, e.g. ``(0, -1)`` of 4 -> ``(0, 3)``.

    Raises:
        ValueError: an index out of range, repeated or out of order, or none at all.
    """
    given = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    for i in given:
        if not isinstance(i, int) or not -num_stages <= i < num_stages:
            raise ArgumentError(
                f"out_indices={given}: {i!r} is not a stage; use -{num_stages} to {num_stages - 1}"
            )
    resolved = tuple(i % num_stages for i in given)
    if not resolved or list(resolved) != sorted(set(resolved)):
        raise ArgumentError(f"out_indices={given}; name at least one stage, each once, in rising order")
    return resolved


def init_weights(module: nn.Module) -> None:
    """Truncated normal of std 0.02 and zero biases, as released."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
