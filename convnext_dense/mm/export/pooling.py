"""``AdaptiveAvgPool2d`` as two products, because ONNX has no operator for it whose input has any size."""

import torch
from torch import Tensor, nn


class AdaptiveMean(nn.Module):
    """The module ``nn.AdaptiveAvgPool2d(hw)`` for maps of any size.

    Args:
        hw: rows and columns of the result; ``None`` keeps those of the map.
    """

    def __init__(self, hw: tuple[int | None, int | None]) -> None:
        super().__init__()
        self.hw = hw

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, *hw)."""
        rows, columns = self.hw
        if rows is not None:
            x = averaging(x.shape[2], rows, x) @ x
        return x if columns is None else x @ averaging(x.shape[3], columns, x).t()


def averaging(length: int, count: int, like: Tensor) -> Tensor:
    """(count, length): row i averages from ``i * length // count`` to where the next begins, rounded up."""
    bins = torch.arange(count, device=like.device)[:, None]
    places = torch.arange(length, device=like.device)
    starts, ends = bins * length // count, ((bins + 1) * length + count - 1) // count
    inside = (places >= starts) & (places < ends)
    return inside.to(like.dtype) / (ends - starts).to(like.dtype)


def replace_pools(model: nn.Module) -> None:
    """Put `AdaptiveMean` in the place of adaptive pooling layers; one to 1x1 stays a mean."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.AdaptiveAvgPool2d:
                size = child.output_size
                hw = tuple(size) if isinstance(size, tuple | list) else (size, size)
                if hw != (1, 1):
                    setattr(parent, name, AdaptiveMean(hw))
