"""RoIAlign (bilinear samples, averaged) as two small matrix products per box.

A bin of a box averages bilinear samples on a regular grid. The sample at (y, x) weighs cell (i, j) with
``hat(y - i) * hat(x - j)``, and the grid is a product of rows and columns; so the whole op separates::

    out[p, q] = sum_ij  row[p, i] * column[q, j] * features[i, j]

with a (P, H) and a (Q, W) matrix per box. With the map laid out as NHWC, the rows of a box's crop are a
strided *view* that a matrix product reads in place: nothing is gathered, and in the backward pass the
gradient is accumulated in place, without scatters and in a fixed order. On two CPU cores this takes less
time than the usual loop over samples. On a GPU it costs two kernel launches per box, which is why
torchvision's kernel goes first wherever it works.

A cell that is inf or NaN spoils all bins of every box whose crop contains it (zero weights multiply it);
a loop over samples would spoil only the bins next to it.

Boxes of negative size are pooled as mmcv's CUDA kernel pools them (its CPU kernel stops the run): models that
predict boxes from scratch have them in their first steps. Adaptive sampling gives zeros, because such a box
has no samples; a fixed ratio samples the box in reverse. A box that is not finite gives NaN.

Precision: sample positions, weights, products and sums are float32 (float64 if either input is), for every
input; half-precision results are rounded once, at the end. Autocast changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convnext_dense.ops.backend import one_thread, torchvision_ops

# Boxes are taken in chunks: neither their weights nor their output may exceed this many elements (16 MiB in
# float32) ...
_CHUNK_ELEMENTS = 2**22
# ... and their samples are taken this many per bin at a time, so that a box far larger than its map costs
# time but no memory.
_SAMPLES_AT_ONCE = 64


class _Geometry(NamedTuple):
    """How boxes map to bins. Arguments of :func:`roi_align`, normalised."""

    output_size: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int
    aligned: bool


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Pool each box into a grid of bins: (N, C, H, W), (K, 5) -> (K, C, P, Q). Differentiable once.

    The gradient reaches ``features`` only; boxes are constants, as in mmcv and torchvision.

    Args:
        features: (N, C, H, W), any floating dtype, contiguous or channels-last.
        rois: (K, 5) rows of ``(image index, x1, y1, x2, y2)``, boxes in pixels of the input image.
        output_size: bins (P, Q), or one int for both.
        spatial_scale: feature cells per pixel, e.g. 1 / stride.
        sampling_ratio: samples per bin and axis; 0 or less adapts to ``ceil(box / bins)`` in cells.
        aligned: True places cell centres at half-integers, and a box without area gives zeros (adaptive
            sampling). False is the legacy layout, with every box at least one cell wide and high.

    Raises:
        ValueError: malformed shapes. The portable path, which needs the boxes on the host anyway,
            also refuses an image index out of range.
    """
    geometry = _Geometry(_pair(output_size), float(spatial_scale), int(sampling_ratio), bool(aligned))
    _check_shapes(features, rois, geometry)
    ops = torchvision_ops(features.device.type)
    if ops is not None:
        return _torchvision_roi_align(ops, features, rois, geometry)
    boxes, spoilt = _finite(rois)
    pooled = _RoIAlign.apply(features, boxes, geometry)
    return pooled if spoilt is None else pooled.masked_fill(spoilt[:, None, None, None], float("nan"))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    input_shape: tuple[int, int, int, int],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Gradient of :func:`roi_align` for its features: (K, C, P, Q) -> (N, C, H, W).

    For callers that keep their own autograd graph, such as mmcv's wrappers; the arguments are those of the
    forward, with ``input_shape`` (N, C, H, W) in place of the features.
    """
    geometry = _Geometry(_pair(output_size), float(spatial_scale), int(sampling_ratio), bool(aligned))
    ops = torchvision_ops(grad_output.device.type)
    if ops is None:
        return _portable_backward(grad_output, _finite(rois)[0], input_shape, geometry)
    # RoIAlign is linear in its features, so they may be zeros. Through autograd one forward is wasted, but
    # only public API is used: torchvision's backward kernel is a private op.
    with torch.enable_grad():
        features = grad_output.new_zeros(input_shape).requires_grad_()
        output = _torchvision_roi_align(ops, features, rois, geometry)
    return torch.autograd.grad(output, features, grad_output)[0]


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, rois: Tensor, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.input_shape, ctx.geometry = features.shape, geometry
        return _portable_forward(features, rois, geometry)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (rois,) = ctx.saved_tensors
        return _portable_backward(grad_output, rois, ctx.input_shape, ctx.geometry), None, None


def _torchvision_roi_align(ops: ModuleType, features: Tensor, rois: Tensor, geometry: _Geometry) -> Tensor:
    # Half precision goes through float32, as torchvision itself does under autocast: its kernels would
    # place the samples in half precision, and do not support bfloat16 on the CPU.
    dtype = _compute_dtype(features, rois)
    boxes, spoilt = rois.to(dtype), None
    if features.device.type == "cpu":  # its kernel would allocate a negative number of samples, or too many
        boxes, spoilt = _finite(boxes)
        if geometry.sampling_ratio <= 0:  # zeros, like those of a box without area
            boxes = torch.cat([boxes[:, :3], torch.maximum(boxes[:, 3:], boxes[:, 1:3])], dim=1)
    pooled = ops.roi_align(features.to(dtype), boxes, *geometry).to(features.dtype)
    return pooled if spoilt is None else pooled.masked_fill(spoilt[:, None, None, None], float("nan"))


def _finite(rois: Tensor) -> tuple[Tensor, Tensor | None]:
    """Boxes with those that are not finite emptied, and which these are: (K, 5), (K,) or ``None``."""
    spoilt = ~rois[:, 1:].isfinite().all(1)
    if not spoilt.any():
        return rois, None
    corners = rois[:, 1:].masked_fill(spoilt[:, None], 0)
    return torch.cat([rois[:, :1], corners], dim=1), spoilt


@torch.no_grad()
@one_thread()
def _portable_forward(features: Tensor, rois: Tensor, geometry: _Geometry) -> Tensor:
    """(N, C, H, W), (K, 5) -> (K, C, P, Q)."""
    channels, width = features.shape[1], features.shape[3]
    p, q = geometry.output_size
    dtype = _compute_dtype(features, rois)
    output = features.new_zeros(len(rois), channels, p, q)
    scratch = features.new_empty(p * width * channels, dtype=dtype)
    current, rows = -1, scratch
    for indices, boxes in _chunks(rois, features.shape, geometry, dtype, features.device):
        pooled = scratch.new_zeros(len(indices), p, q, channels)
        for bins, (image, row_weights, column_weights, ys, xs) in zip(pooled, boxes, strict=True):
            if image != current:
                current, rows = image, _rows(features[image], dtype)
            crop = rows[ys, xs.start * channels : xs.stop * channels]
            partial = scratch[: p * crop.shape[1]].view(p, xs.stop - xs.start, channels)
            # Autocast leaves products with ``out=`` alone; without it they would run in half precision.
            torch.mm(row_weights[:, ys], crop, out=partial.flatten(1))
            torch.bmm(column_weights[:, xs].expand(p, -1, -1), partial, out=bins)
        output[indices] = pooled.permute(0, 3, 1, 2).to(output.dtype)
    return output


@torch.no_grad()
@one_thread()
def _portable_backward(
    grad_output: Tensor, rois: Tensor, input_shape: tuple[int, int, int, int], geometry: _Geometry
) -> Tensor:
    """(K, C, P, Q), (K, 5) -> (N, C, H, W): the products of the forward, transposed."""
    n, channels, height, width = input_shape
    p = geometry.output_size[0]
    dtype = _compute_dtype(grad_output, rois)
    grad_rows = grad_output.new_zeros(n, height, width * channels, dtype=dtype)
    scratch = grad_output.new_empty(p * width * channels, dtype=dtype)
    for indices, boxes in _chunks(rois, input_shape, geometry, dtype, grad_output.device):
        grads = grad_output[indices].permute(0, 2, 3, 1).to(dtype).contiguous()  # (k, P, Q, C)
        for grad, (image, row_weights, column_weights, ys, xs) in zip(grads, boxes, strict=True):
            grad_crop = grad_rows[image, ys, xs.start * channels : xs.stop * channels]
            partial = scratch[: p * grad_crop.shape[1]].view(p, xs.stop - xs.start, channels)
            torch.bmm(column_weights[:, xs].t().expand(p, -1, -1), grad, out=partial)
            grad_crop.addmm_(row_weights[:, ys].t(), partial.flatten(1))
    grad_features = grad_output.new_empty(input_shape)
    for image, image_rows in zip(grad_features, grad_rows, strict=True):
        image.flatten(1).copy_(image_rows.view(-1, channels).t())
    return grad_features


def _rows(image: Tensor, dtype: torch.dtype) -> Tensor:
    """(C, H, W) -> (H, W * C), a copy unless the memory has this layout already.

    The transposition is two-dimensional on purpose: PyTorch has a blocked kernel for that, and permuting
    three dimensions takes 1.4 times as long.
    """
    channels, height, width = image.shape
    return image.flatten(1).t().to(dtype).contiguous().view(height, width * channels)


# One box: its image, row weights (P, H) and column weights (Q, W), and the rows and columns where those
# weights are not zero.
_Box = tuple[int, Tensor, Tensor, slice, slice]


def _chunks(
    rois: Tensor,
    input_shape: tuple[int, ...],
    geometry: _Geometry,
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[tuple[Tensor, Iterator[_Box]]]:
    """Yield boxes in chunks, ordered by image: indices (k,) into ``rois``, and the boxes.

    The extent of every crop must be known to the host; so boxes are copied to the CPU (the only
    synchronisation) and their weights are computed there.
    """
    if not len(rois):
        return
    _, channels, height, width = input_shape
    p, q = geometry.output_size
    rois = rois.detach().cpu()
    images = rois[:, 0].long()
    cells = rois[:, 1:].to(dtype) * geometry.spatial_scale - (0.5 if geometry.aligned else 0.0)
    if int(images.min()) < 0 or int(images.max()) >= input_shape[0]:
        raise ValueError(f"rois: image index outside the batch of {input_shape[0]}")
    per_box = max(max(p, q) * max(height, width, _SAMPLES_AT_ONCE), p * q * channels)
    chunk = max(1, _CHUNK_ELEMENTS // per_box)
    for indices in images.argsort(stable=True).split(chunk):
        x1, y1, x2, y2 = cells[indices].unbind(1)
        rows = _axis_weights(y1, y2, p, height, geometry)
        columns = _axis_weights(x1, x2, q, width, geometry)
        boxes = zip(
            images[indices].tolist(),
            rows.to(device),
            columns.to(device),
            _support(rows),
            _support(columns),
            strict=True,
        )
        yield indices.to(device), boxes


def _axis_weights(start: Tensor, stop: Tensor, bins: int, cells: int, geometry: _Geometry) -> Tensor:
    """Weight of each cell of one axis in each bin: (k,), (k,) in cells -> (k, bins, cells).

    Positions are computed in the order of operations that mmcv and torchvision use: whether a sample falls
    outside the map is decided by a comparison, and one rounding error may turn a full weight into zero.
    """
    extent = stop - start if geometry.aligned else (stop - start).clamp(min=1)
    size = (extent / bins)[:, None, None]
    per_bin = size.ceil() if geometry.sampling_ratio <= 0 else torch.full_like(size, geometry.sampling_ratio)
    divisor = per_bin.clamp(min=1)  # a box of no or negative extent has no samples, and no weights
    bin_start = start[:, None, None] + torch.arange(bins, device=start.device)[:, None] * size  # (k, bins, 1)
    weights = start.new_zeros(len(start), bins, cells)
    most = int(per_bin.max())
    for first in range(0, most, _SAMPLES_AT_ONCE):
        sample = torch.arange(first, min(first + _SAMPLES_AT_ONCE, most), device=start.device)
        position = bin_start + (sample + 0.5) * size / divisor  # (k, bins, samples)
        # A sample up to one cell beyond the border counts in full, at the border; farther ones not at all.
        counts = (sample < per_bin) & (position >= -1) & (position <= cells)
        position = position.clamp(0, cells - 1)
        low = position.floor()
        upper = position - low
        weights.scatter_add_(2, low.long(), counts * (1 - upper) / divisor)
        weights.scatter_add_(2, (low.long() + 1).clamp(max=cells - 1), counts * upper / divisor)
    return weights


def _support(weights: Tensor) -> list[slice]:
    """The cells that any bin of a box uses: (k, bins, cells) -> k slices, empty where no cell is used."""
    used = weights.amax(1) > 0  # (k, cells)
    first = used.int().argmax(1)
    stop = weights.shape[2] - used.flip(1).int().argmax(1)
    stop = torch.where(used.any(1), stop, first)
    return [slice(a, b) for a, b in zip(first.tolist(), stop.tolist(), strict=True)]


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    p, q = (size, size) if isinstance(size, int) else size
    return int(p), int(q)


def _check_shapes(features: Tensor, rois: Tensor, geometry: _Geometry) -> None:
    if features.ndim != 4 or not features.is_floating_point():
        raise ValueError(f"features: want floating (N, C, H, W), got {features.dtype} {features.shape}")
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois: want (K, 5) rows of (image, x1, y1, x2, y2), got {tuple(rois.shape)}")
    if min(geometry.output_size) < 1:
        raise ValueError(f"output_size must be positive, got {geometry.output_size}")
