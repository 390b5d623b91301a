"""Segmentation of images of any size with limited memory: windows in batches, label maps row by row.

mmseg 1.2 feeds the windows of an image to the network one by one, adds each to a map of the whole image and
resizes this whole map at once: 4096 x 4096 pixels of 150 classes take 10 GB, several times. Here a row
of pixels is finished as soon as no later window touches it: averaged, resized to the original width and
height, and reduced to its labels.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.nn import functional as F

from convnext_dense.errors import UserError
from convnext_dense.mm.models.precision import to_float32
from convnext_dense.support.modules import unwrapped
from convnext_dense.support.system import free_memory
from convnext_dense.support.windows import covering, resize_taps, window_starts

BAND_BYTES = 64 * 2**20  # of logits handled at a time
LARGEST_BATCH = 16  # of windows; more do not use a GPU better
# Floats that UperNet keeps per pixel of a window, besides its logits: four levels of 512 channels
# concatenated at a quarter of the width and height (128), their convolution, and the backbone.
FEATURES_PER_PIXEL = 512


def choose_window_batch(free: int, pixels: int, classes: int) -> int:
    """How many windows of ``pixels`` pixels to run at once with half of ``free`` bytes."""
    bytes_per_window = 4 * pixels * (2 * classes + FEATURES_PER_PIXEL)  # logits before and after their resize
    return max(1, min(LARGEST_BATCH, free // 2 // bytes_per_window))


def resize_bands(
    bands: Iterator[Tensor], hw_in: tuple[int, int], hw_out: tuple[int, int], align_corners: bool
) -> Iterator[Tensor]:
    """Bilinear resize of a map that arrives in bands of rows, from the top; equal to resizing the whole map.

    Bands are float32 or float64: (N, C, h, W) bands of ``hw_in`` -> (N, C, h', W') bands of ``hw_out``.
    """
    if hw_in == hw_out:
        yield from bands
        return
    held, first, done = None, 0, 0  # rows kept, index of the first, result rows already yielded
    for band in bands:
        if held is None:
            wide = np.float64 if band.dtype == torch.float64 else np.float32
            taps = resize_taps(hw_in[0], hw_out[0], align_corners, wide)
            above, below, _ = taps
            # uploaded once: the host waits for each upload
            on_device = [torch.tensor(part, device=band.device) for part in taps]
        if hw_in[1] != hw_out[1]:
            shape = (band.shape[2], hw_out[1])
            band = F.interpolate(band, shape, mode="bilinear", align_corners=align_corners)
        held = band if held is None else torch.cat([held, band], 2)
        ready = int((below < first + held.shape[2]).sum())
        step = _rows_of_a_band(held)
        for top in range(done, ready, step):
            upper, lower, part = (tap[top : min(top + step, ready)] for tap in on_device)
            upper, lower = (held[:, :, index - first] for index in (upper, lower))
            yield upper.lerp_(lower, part[:, None])
        done = ready
        unused = int(above[done]) - first if done < hw_out[0] else held.shape[2]
        unused = min(unused, held.shape[2])
        held, first = held[:, :, unused:], first + unused


def crop_bands(bands: Iterator[Tensor], height: int, padding: tuple[int, int, int, int]) -> Iterator[Tensor]:
    """Bands of a map of ``height`` rows without its padding (left, right, top, bottom)."""
    left, right, top, bottom = padding
    y = 0
    for band in bands:
        rows = slice(max(top - y, 0), max(min(height - bottom - y, band.shape[2]), 0))
        y += band.shape[2]
        if rows.start < rows.stop:
            yield band[:, :, rows, left : band.shape[3] - right]


def _rows_of_a_band(like: Tensor) -> int:
    """Number of rows of an (N, C, h, W) map that fit into a band."""
    return max(1, BAND_BYTES // (like[:, :, :1].numel() * like.element_size()))


class BoundedPredict:
    """Replaces ``predict`` of one mmseg ``EncoderDecoder``; label maps are equal.

    Samples get ``pred_sem_seg`` but no ``seg_logits``: a map of all classes would not fit in memory.

    Args:
        model: the segmentor; ``test_cfg.mode`` says whether it uses sliding windows.
        window_batch: windows per batch; ``None`` chooses by free memory.
    """

    def __init__(self, model: nn.Module, window_batch: int | None = None) -> None:
        self.model = model
        self.window_batch = window_batch

    def __call__(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """(N, 3, H, W) and their samples -> the samples with ``pred_sem_seg`` at the original size."""
        if data_samples is None:
            from mmseg.structures import SegDataSample

            shape = tuple(inputs.shape[2:])
            meta = dict(ori_shape=shape, img_shape=shape, pad_shape=shape)
            data_samples = [SegDataSample(metainfo=meta) for _ in inputs]
        metas = [sample.metainfo for sample in data_samples]
        labels: list[Tensor | None] = [None] * len(metas)
        for image, rows, logits in self.original_rows(inputs, metas):
            part = self.labels(logits)
            if labels[image] is None:
                labels[image] = part.new_empty(1, *metas[image]["ori_shape"][:2])
            labels[image][:, rows] = part
        for sample, label in zip(data_samples, labels, strict=True):
            sample.set_data({"pred_sem_seg": PixelData(data=label)})
        return data_samples

    def labels(self, logits: Tensor) -> Tensor:
        """(C, h, W) -> (1, h, W) as in mmseg: one channel is a binary map with the head's threshold."""
        if len(logits) > 1:
            return logits.argmax(0, keepdim=True)
        return (logits.sigmoid() > self.model.decode_head.threshold).long()

    def original_rows(self, inputs: Tensor, metas: list[dict]) -> Iterator[tuple[int, slice, Tensor]]:
        """Logits without padding and flip, at the original size.

        Yields:
            index of the image, its rows, and their logits (C, h, W).
        """
        slide = self.model.test_cfg.get("mode", "whole") == "slide"
        whole = None if slide else self._logits(inputs, metas)
        for i, meta in enumerate(metas):
            if slide:
                bands = self.window_bands(inputs[i : i + 1], meta)
            else:
                bands = iter(whole[i : i + 1].split(_rows_of_a_band(whole[i : i + 1]), 2))
            for rows, logits in self._restored(bands, tuple(inputs.shape[2:]), meta):
                yield i, rows, logits

    def _restored(
        self, bands: Iterator[Tensor], shape: tuple[int, int], meta: dict
    ) -> Iterator[tuple[slice, Tensor]]:
        """Bands of the network's input of ``shape`` -> rows and logits of the original image."""
        padding = tuple(meta.get("img_padding_size", meta.get("padding_size", (0, 0, 0, 0))))
        left, right, top, bottom = padding
        inner = (shape[0] - top - bottom, shape[1] - left - right)
        original = tuple(meta["ori_shape"][:2])
        direction = meta.get("flip_direction") if meta.get("flip") else None
        y = 0
        bands = crop_bands(bands, shape[0], padding)
        for (logits,) in resize_bands(bands, inner, original, self.model.align_corners):
            rows = slice(y, y + logits.shape[1])
            y = rows.stop
            if direction == "vertical":
                rows = slice(original[0] - rows.stop, original[0] - rows.start)
            yield rows, logits.flip(2 if direction == "horizontal" else 1) if direction else logits

    def window_bands(self, image: Tensor, meta: dict) -> Iterator[Tensor]:
        """(1, 3, H, W) -> averaged logits (1, C, h, W) from the top, when no later window adds to them."""
        height, width = image.shape[2:]
        crop, stride = self.model.test_cfg.crop_size, self.model.test_cfg.stride
        h, w = min(crop[0], height), min(crop[1], width)
        tops, lefts = window_starts(height, h, stride[0]), window_starts(width, w, stride[1])
        rows_hit, columns_hit = (
            torch.tensor(covering(*side), device=image.device, dtype=torch.float32)
            for side in ((tops, h, height), (lefts, w, width))
        )
        hits = rows_hit[:, None] * columns_hit
        windows = self._window_logits(image, meta, list(itertools.product(tops, lefts)), (h, w))
        held = to_float32(image).new_zeros(1, self.model.out_channels, h, width)  # rows top ... top + h
        if held.device.type == "cpu":  # the classes of a pixel side by side, for the argmax
            held = held.contiguous(memory_format=torch.channels_last)
        step = _rows_of_a_band(held)
        for top, next_top in itertools.pairwise([*tops, height]):
            for left in lefts:
                held[0, :, :, left : left + w] += next(windows)
            finished = next_top - top
            for y in range(0, finished, step):
                rows = slice(y, min(y + step, finished))
                yield held[:, :, rows] / hits[top + rows.start : top + rows.stop]
            kept = h - finished
            held[:, :, :kept] = held[:, :, finished:].clone()
            held[:, :, kept:] = 0

    def _window_logits(
        self, image: Tensor, meta: dict, corners: list[tuple[int, int]], hw: tuple[int, int]
    ) -> Iterator[Tensor]:
        """Logits (C, h, w) of the windows whose top left pixels are ``corners``, in their order."""
        h, w = hw
        most = self.window_batch or choose_window_batch(
            free_memory(image.device), h * w, self.model.out_channels
        )
        batches = -(-len(corners) // most)
        batch = -(-len(corners) // batches)  # 9 windows, at most 8 at once: 5 and 4
        for start in range(0, len(corners), batch):
            group = corners[start : start + batch]
            crops = torch.cat([image[:, :, y : y + h, x : x + w] for y, x in group])
            # a torch.Size shows mmseg's heads that this is a window, whatever the other entries are
            metas = [dict(meta, img_shape=crops.shape[2:]) for _ in group]
            yield from self._logits(crops, metas)

    def _logits(self, inputs: Tensor, metas: list[dict]) -> Tensor:
        """(N, 3, H, W) -> (N, C, H, W) in float32 or wider, for averaging and resizing."""
        return to_float32(self.model.encode_decode(inputs, metas))


def bound_predictions(model: nn.Module, window_batch: int | None = None) -> str | None:
    """Let the segmentor inside ``model`` predict with :class:`BoundedPredict`; return the line to log.

    Looks inside wrappers for distributed and augmented testing. Detectors, and segmentors that predict
    in their own way, are not changed.

    Raises:
        UserError: ``window_batch`` for a model that does not use it.
    """
    model = unwrapped(model)
    if not _predicts_as_mmseg(model):
        if window_batch is not None:
            raise UserError(f"--window-batch: {type(model).__name__} does not predict with mmseg's windows")
        return None
    model.predict = BoundedPredict(model, window_batch)
    if model.test_cfg.get("mode", "whole") != "slide":
        if window_batch is not None:
            raise UserError("--window-batch: this test uses whole images; omit the option")
        return None
    height, width = model.test_cfg.crop_size
    batch = "chosen by free memory" if window_batch is None else window_batch
    return f"windows of {width}x{height} pixels; batch: {batch}"


def _predicts_as_mmseg(model: nn.Module) -> bool:
    if not hasattr(model, "encode_decode"):
        return False
    from mmseg.models.segmentors import EncoderDecoder

    parts = ("predict", "inference", "slide_inference", "whole_inference", "postprocess_result")
    return isinstance(model, EncoderDecoder) and all(
        getattr(type(model), part) is getattr(EncoderDecoder, part) for part in parts
    )
