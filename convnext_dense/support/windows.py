"""Plans for sliding windows and for bilinear resizing by rows: plain numbers for PyTorch and for numpy."""

import numpy as np

from convnext_dense.errors import UserError


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side; the last window ends with the image.

    Raises:
        UserError: there would be gaps between windows.
    """
    if size <= window:
        return [0]
    if stride > window:
        raise UserError(f"test_cfg.stride {stride} leaves gaps between windows of {window} pixels")
    count = -(-(size - window) // stride) + 1
    return [min(i * stride, size - window) for i in range(count)]


def covering(starts: list[int], window: int, size: int) -> list[int]:
    """Number of windows that cover each pixel along one side."""
    hits = np.zeros(size, np.int64)
    for start in starts:
        hits[start : start + window] += 1
    return hits.tolist()


def resize_taps(
    size_in: int, size_out: int, align_corners: bool, dtype: np.dtype | type = np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source rows above and below each row of the result, and the weight of the row below.

    Rounded to ``dtype``, float32 or float64, where ``F.interpolate`` rounds (once for the scale, once for
    the position): for large maps, exact weights would differ from its weights in the fourth digit. The host
    plans with them, so they are no tensors: reading one from a GPU would wait for it.
    """
    rows = np.arange(size_out, dtype=np.float64)
    scale = (size_in - 1) / max(size_out - 1, 1) if align_corners else size_in / size_out
    scale = np.float64(np.asarray(scale, dtype))
    source = rows * scale if align_corners else np.maximum((rows + 0.5) * scale - 0.5, 0)
    source = source.astype(dtype)
    above = np.minimum(source.astype(np.int64), size_in - 1)
    return above, np.minimum(above + 1, size_in - 1), source - above.astype(dtype)
