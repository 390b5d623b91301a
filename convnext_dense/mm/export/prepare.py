"""From RGB pixels to what the network sees: channel order, normalisation and padding, inside the file."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Prepare(nn.Module):
    """The data preprocessor of mmdet or mmseg for images of one size.

    Args:
        preprocessor: the model's own.
        divisor: padded sides are multiples of it.
        smallest: padded sides are at least this long.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessor: nn.Module, divisor: int, smallest: int) -> None:
        super().__init__()
        normalises = bool(getattr(preprocessor, "_enable_normalize", False))
        mean = preprocessor.mean.flatten().clone() if normalises else torch.zeros(3)
        std = preprocessor.std.flatten().clone() if normalises else torch.ones(3)
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))
        # pipelines load BGR, and most preprocessors turn it round
        self.takes_rgb = bool(
            getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "channel_conversion", False))
        )
        self.value = float(getattr(preprocessor, "pad_value", getattr(preprocessor, "pad_val", 0)))
        self.divisor, self.smallest = divisor, smallest

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """(N, 3, H, W) RGB, uint8 or float -> (N, 3, H', W'), normalised and padded right and below.

        Args:
            images: pixels from 0 to 255.
            sizes: (N, 2) height and width of each image, where ``images`` is filled up to one size.
        """
        x = images.to(self.mean.dtype)
        x = x if self.takes_rgb else x.flip(1)
        x = (x - self.mean) / self.std
        height, width = images.shape[2:]
        if sizes is not None:
            rows = torch.arange(height, device=x.device) < sizes[:, :1]
            columns = torch.arange(width, device=x.device) < sizes[:, 1:]
            x = torch.where(rows[:, None, :, None] & columns[:, None, None, :], x, self.value)
        return F.pad(x, (0, self._missing(width), 0, self._missing(height)), value=self.value)

    def _missing(self, side: int) -> int:
        """Pixels up to the next multiple of the divisor; a symbol where ``side`` is one."""
        padded = (torch.sym_max(side, self.smallest) + self.divisor - 1) // self.divisor * self.divisor
        return padded - side  # no negative numbers on the way: ONNX divides towards zero
