"""Segmentors of mmseg from RGB pixels to logits or labels at the size of the input."""

import torch
from torch import Tensor, nn

from convnext_dense.mm.export.prepare import Prepare


class Segmentor(nn.Module):
    """A whole segmentor for one image or window.

    Args:
        model: mmseg's ``EncoderDecoder``.
        prepare: what comes before the network.
        labels: return class numbers in place of logits.
    """

    def __init__(self, model: nn.Module, prepare: Prepare, labels: bool) -> None:
        super().__init__()
        self.model, self.prepare, self.labels = model, prepare, labels

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        return ("labels",) if self.labels else ("logits",)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """(N, 3, H, W) RGB from 0 to 255 -> logits (N, C, H, W), or labels (N, H, W) int64.

        Args:
            images: pixels.
            sizes: (N, 2) height and width of each image, where ``images`` is filled up to one size.
        """
        x = self.prepare(images, sizes).to(next(self.model.parameters()).dtype)
        hw = tuple(x.shape[2:])
        logits = self.model.encode_decode(x, [dict(img_shape=hw, pad_shape=hw)]).float()
        logits = logits[:, :, : images.shape[2], : images.shape[3]]
        if not self.labels:
            return (logits,)
        if logits.shape[1] > 1:
            return (logits.argmax(1),)
        return ((logits[:, 0].sigmoid() > self.model.decode_head.threshold).to(torch.int64),)
