"""Cross entropy of logits that are resized to the labels' size, without keeping the resized logits.

A segmentor with 150 classes resizes its logits from a quarter of the width and height to all of it. Autograd
keeps their softmax for the backward pass: 150 MiB for each head and image of 512x512, more than any other
map of UperNet. Here the backward pass resizes again and keeps the small logits alone. On a CPU the classes
of a pixel lie side by side, so that resizing, softmax and argmax read memory in order.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from convnext_dense.layers.resized_conv import resized


def classes_together(logits: Tensor) -> Tensor:
    """(N, K, H, W) in the layout that later passes over the classes prefer: channels-last on a CPU."""
    on_cpu = logits.device.type == "cpu"
    return logits.contiguous(memory_format=torch.channels_last) if on_cpu else logits


def resized_cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Cross entropy of every pixel, and the class with the largest logit.

    Args:
        logits: (N, K, h, w), float32 or wider.
        labels: (N, H, W), from 0 to K - 1, or ``ignore_index``.
        ignore_index: label of pixels whose cross entropy is 0.
        align_corners: of the bilinear interpolation from (h, w) to (H, W).

    Returns:
        (N, H, W) in the dtype of the logits, and (N, H, W) labels.

    Raises:
        IndexError: a label that is no class.
    """
    return _ResizedCrossEntropy.apply(classes_together(logits), labels, ignore_index, align_corners)


class _ResizedCrossEntropy(torch.autograd.Function):
    """One image at a time, so that one resized map of all classes is there at a time."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool
    ) -> tuple[Tensor, Tensor]:
        known = labels != ignore_index
        classes = labels.where(known, 0)
        on_cpu = classes.device.type == "cpu"  # a GPU's own check does not wait
        if on_cpu and classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < logits.shape[1]:
            wrong = classes[(classes < 0) | (classes >= logits.shape[1])][0]
            raise IndexError(f"label {wrong} is no class: there are {logits.shape[1]}, from 0")
        loss = logits.new_empty(labels.shape)
        found = torch.empty_like(labels)
        for i, image in enumerate(logits):
            rows = _rows(image, labels, align_corners)  # (H, W, K)
            found[i] = rows.argmax(-1)
            loss[i] = -rows.log_softmax(-1).gather(-1, classes[i].unsqueeze(-1)).squeeze(-1)
        ctx.save_for_backward(logits, labels)
        ctx.ignore_index, ctx.align_corners = ignore_index, align_corners
        ctx.mark_non_differentiable(found)
        return loss.masked_fill_(~known, 0), found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels = ctx.saved_tensors
        known = labels != ctx.ignore_index
        classes, grad = labels.where(known, 0), grad.masked_fill(~known, 0)
        result = torch.empty_like(logits)
        for i, image in enumerate(logits):
            rows = _rows(image, labels, ctx.align_corners).softmax(-1)
            index = classes[i].unsqueeze(-1)
            one_hot = torch.ones_like(index, dtype=rows.dtype)
            rows.scatter_add_(-1, index, -one_hot)
            rows.mul_(grad[i].unsqueeze(-1))
            result[i] = _resized_back(rows, image.shape, ctx.align_corners)
        return result, None, None, None


def _rows(image: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    """(K, h, w) -> (H, W, K) of the labels' size."""
    hw = labels.shape[1], labels.shape[2]
    return resized(image.unsqueeze(0), hw, align_corners)[0].permute(1, 2, 0)


def _resized_back(rows: Tensor, shape: torch.Size, align_corners: bool) -> Tensor:
    """Gradient of the resized rows (H, W, K) -> gradient (K, h, w) of ``shape``."""
    grad = rows.permute(2, 0, 1).unsqueeze(0)
    if grad.shape[2:] == shape[1:]:
        return grad[0]
    sizes = grad.shape[2:], (1, *shape)
    return torch.ops.aten.upsample_bilinear2d_backward(grad, *sizes, align_corners, None, None)[0]
