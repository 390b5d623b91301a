"""Layers that the blocks are made of."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map, epsilon 1e-6 as released."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); free of copies when ``x`` is channels-last."""
        x = x.permute(0, 2, 3, 1)  # NCHW -> NHWC
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)  # NHWC -> NCHW


class DropPath(nn.Module):
    """Stochastic depth: in training each sample's branch is dropped with ``rate``.

    The branches that stay are scaled by 1 / (1 - rate), so that the expectation
    is the branch itself (Huang et al., ECCV 2016).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop path rate {rate}; use a number in [0, 1)")
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
        one list a stage, one rate a block.
    """
    step = rate / max(sum(depths) - 1, 1)
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [
        [step * (start + block) for block in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]
