"""Layers of the blocks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convnext_dense.errors import ArgumentError


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map, epsilon 1e-6 as released."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); no copy if ``x`` is channels-last."""
        x = x.permute(0, 2, 3, 1)  # NCHW -> NHWC
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # NHWC -> NCHW


GRN_EPS = 1e-6  # as released


class AtrousDownsample(nn.Conv2d):
    """The 2x2 convolution of a downsampling layer at stride 1, its taps ``dilation`` pixels apart.

    Every second output (``dilation`` = 1; every fourth: 2) is the output of the strided convolution
    with the same weights. The image is padded with zeros to the right and below.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H, W)."""
        return super().forward(F.pad(x, (0, self.dilation[1], 0, self.dilation[0])))


class GRN(nn.Module):
    """Global Response Normalisation of ConvNeXt V2 (Woo et al., CVPR 2023, section 3.3).

    Each channel is scaled by its norm over all positions relative to the mean of
    these norms; scale and shift start at zero, so that the layer starts as the identity.

    Args:
        channels: C; ``gamma`` and ``beta`` are (1, 1, 1, C) as released.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, H, W, C)."""
        response = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)  # (N, 1, 1, C)
        return torch.addcmul(self.beta, self.gamma * grn_relative(response), x) + x


def grn_relative(response: Tensor) -> Tensor:
    """Norms (..., C) of the channels of a map -> the same relative to their mean."""
    return response / (response.mean(dim=-1, keepdim=True) + GRN_EPS)


class DropPath(nn.Module):
    """Stochastic depth: in training each sample's branch is dropped with ``rate``.

    The branches that stay are scaled by 1 / (1 - rate), so that the expectation
    is the branch itself (Huang et al., ECCV 2016).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ArgumentError(f"drop path rate {rate}; use a number in [0, 1)")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, ...)."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = torch.empty((x.shape[0], *(1,) * (x.dim() - 1)), dtype=x.dtype, device=x.device)
        return x * mask.bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rates that rise linearly from 0 at the first block to ``rate`` at the last.

    Plain arithmetic instead of ``torch.linspace(...).item()``, which fails when
    a model is built on the ``meta`` device.

    Returns:
        one list per stage, one rate per block.
    """
    step = rate / max(sum(depths) - 1, 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [
        [step * (start + block) for block in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]
