"""Cross entropy of logits that are resized to the labels' size, without keeping the resized logits.

A segmentor with 150 classes resizes its logits from a quarter of the width and height to all of it. Autograd
keeps their softmax for the backward pass: 150 MiB for each head and image of 512x512, more than any other
map of UperNet. Here the backward pass resizes again and keeps the small logits alone. On a CPU the classes
of a pixel lie side by side, so that resizing, softmax and argmax read memory in order.
"""

from collections.abc import Iterator
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
        for image, label, *outputs in _by_image(logits, classes, loss, found):
            rows = resized_rows(image, label, align_corners)
            pixels = rows.log_softmax(-1).gather(-1, label.unsqueeze(-1)).squeeze(-1).neg_()
            for output, values in zip(outputs, (pixels, rows.argmax(-1)), strict=True):
                output.copy_(values)
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
        for image, label, weight, output in _by_image(logits, classes, grad, result):
            rows = resized_rows(image, label, ctx.align_corners).softmax(-1)
            index = label.unsqueeze(-1)
            rows.scatter_add_(-1, index, -torch.ones_like(index, dtype=rows.dtype))  # minus the one-hot label
            rows.mul_(weight.unsqueeze(-1))
            output.copy_(_resized_back(rows, image.shape, ctx.align_corners))
        return result, None, None, None


def _by_image(*batches: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of one image each, still with N = 1: three dimensions would hide the memory format."""
    return zip(*(batch.split(1) for batch in batches), strict=True)


def resized_rows(image: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    """(1, K, h, w), labels (1, H, W) -> (1, H, W, K); contiguous if the image is channels-last."""
    hw = labels.shape[1], labels.shape[2]
    return resized(image, hw, align_corners).permute(0, 2, 3, 1)


def _resized_back(rows: Tensor, shape: torch.Size, align_corners: bool) -> Tensor:
    """Gradient of the resized rows (1, H, W, K) -> gradient (1, K, h, w) of ``shape``."""
    grad = rows.permute(0, 3, 1, 2)
    if grad.shape == shape:
        return grad
    sizes = grad.shape[2:], shape
    return torch.ops.aten.upsample_bilinear2d_backward(grad, *sizes, align_corners, None, None)
