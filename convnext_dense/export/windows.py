"""Label maps from logits with limited memory: sliding windows, and resizing in bands of rows.

The same plan as `convnext_dense.mm.models.sliding_window`, in numpy: a row of pixels is finished as soon as
no later window touches it.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from convnext_dense.support.windows import covering, resize_taps, window_starts

_BAND_BYTES = 2**20  # of logits handled at a time

RunWindow = Callable[[np.ndarray], np.ndarray]
"""(h, w, 3) uint8 -> logits (C, h, w) float32."""


def slide(
    picture: np.ndarray, crop_hw: tuple[int, int], stride_hw: tuple[int, int], run: RunWindow
) -> Iterator[np.ndarray]:
    """Averages of the logits of all windows, as in mmseg.

    The last window of a row or column ends with the picture; a picture that is smaller than a window is one.

    Args:
        picture: (H, W, 3) uint8.
        crop_hw: (height, width) of a window.
        stride_hw: (height, width) from one window to the next.
        run: the network.

    Yields:
        logits (C, h, W) of the next rows, from the top.

    Raises:
        UserError: strides that leave gaps.
    """
    height, width = picture.shape[:2]
    h, w = min(crop_hw[0], height), min(crop_hw[1], width)
    tops, lefts = window_starts(height, h, stride_hw[0]), window_starts(width, w, stride_hw[1])
    hits = np.outer(covering(tops, h, height), covering(lefts, w, width)).astype(np.float32)
    held: np.ndarray | None = None  # sums of rows top ... top + h
    for top, next_top in itertools.pairwise([*tops, height]):
        for left in lefts:
            logits = run(picture[top : top + h, left : left + w])
            if held is None:
                held = np.zeros((len(logits), h, width), np.float32)
            held[:, :, left : left + w] += logits
        assert held is not None  # there is a window
        finished = next_top - top
        step = max(1, _BAND_BYTES // held[:, :1].nbytes)
        for y in range(0, finished, step):
            rows = slice(y, min(y + step, finished))
            yield held[:, rows] / hits[top + rows.start : top + rows.stop]
        held[:, : h - finished] = held[:, finished:]
        held[:, h - finished :] = 0


def resize_bands(
    bands: Iterable[np.ndarray], hw_in: tuple[int, int], hw_out: tuple[int, int], align_corners: bool
) -> Iterator[np.ndarray]:
    """Bilinear resize of a map that arrives in bands of rows; equal to ``F.interpolate`` of the whole map.

    Args:
        bands: (C, h, W) float32, from the top.
        hw_in: (height, width) of the map.
        hw_out: (height, width) of the result.
        align_corners: whether the outer pixels keep their places, else the outer edges do.

    Yields:
        (C, h', W') float32.
    """
    if hw_in == hw_out:
        yield from bands
        return
    above, below, part = resize_taps(hw_in[0], hw_out[0], align_corners)
    held, first, done = np.zeros((0, 0, 0), np.float32), 0, 0  # rows kept, index of the first, rows yielded
    for band in _thin(bands, hw_out[1]):
        wide = _resize_columns(band, hw_out[1], align_corners)
        held = np.concatenate([held, wide], 1) if held.size else wide
        ready = int((below < first + held.shape[1]).sum())
        step = max(1, _BAND_BYTES // held[:, :1].nbytes)
        for top in range(done, ready, step):
            rows = slice(top, min(top + step, ready))
            yield _lerp(held[:, above[rows] - first], held[:, below[rows] - first], part[rows, None])
        done = ready
        unused = min(int(above[done]) - first if done < hw_out[0] else held.shape[1], held.shape[1])
        held, first = held[:, unused:], first + unused


def _thin(bands: Iterable[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """Cut bands (C, h, W) into some of few rows, which fit in a core's cache when they are ``width`` wide."""
    for band in bands:
        step = max(1, _BAND_BYTES // (band[:, :1, :1].nbytes * width))
        for top in range(0, band.shape[1], step):
            yield band[:, top : top + step]


def _resize_columns(band: np.ndarray, width: int, align_corners: bool) -> np.ndarray:
    """(C, h, W) -> (C, h, W')."""
    if band.shape[2] == width:
        return band
    left, right, part = resize_taps(band.shape[2], width, align_corners)
    return _lerp(np.take(band, left, 2), np.take(band, right, 2), part)


def _lerp(start: np.ndarray, end: np.ndarray, part: np.ndarray) -> np.ndarray:
    """``start`` where ``part`` is 0 and ``end`` where it is 1; ``end`` is overwritten."""
    end -= start
    end *= part
    end += start
    return end


def label_map(bands: Iterable[np.ndarray], binary_threshold: float | None) -> np.ndarray:
    """(C, h, W) bands of logits, from the top -> class numbers (H, W), uint8 up to 256 classes, else uint16.

    Args:
        bands: logits.
        binary_threshold: of one channel: the probability above which a pixel has label 1.
    """
    return np.concatenate([_labels(band, binary_threshold) for band in bands])


def _labels(logits: np.ndarray, binary_threshold: float | None) -> np.ndarray:
    if len(logits) == 1 and binary_threshold is not None:
        with np.errstate(over="ignore"):
            return (1 / (1 + np.exp(-logits[0])) > np.float32(binary_threshold)).astype(np.uint8)
    return logits.argmax(0).astype(np.uint8 if len(logits) <= 256 else np.uint16)


def resize_labels(labels: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Nearest labels at another size, (H, W) -> (h, w): of a network that returns no logits."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for old, new in zip(labels.shape, hw, strict=True)
    )
    return labels[rows[:, None], columns]
