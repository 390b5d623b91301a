"""Pictures by Pillow with the pixels that OpenCV reads, and OpenCV's bilinear resize, bit for bit.

A model was trained and measured on pixels that OpenCV decoded and resized. Other filters, such as Pillow's
own, move box scores in the second digit.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from convnext_dense.data.image_headers import TURNS, UnknownFormatError, header_of, naming, opened

_AXES: dict[int | None, tuple[int, ...]] = {None: (), 0: (0,), 1: (1,), -1: (0, 1)}
"""The axis of ``cv2.flip`` -> the axes of ``numpy.flip``."""
_EXTRA_SAMPLES, _UNASSOCIATED = 338, 2  # the TIFF tag of alpha, and its value where colours are as they are
_WEIGHT_BITS = 11  # OpenCV's weights are multiples of 1 / 2048
_BAND_BYTES = 2**20  # of 16-bit sums handled at a time: they stay in a core's cache


def load_rgb(path: str | Path) -> np.ndarray:
    """Read a file: (H, W, 3) uint8, red first, turned upright by EXIF.

    The pixels are those of `convnext_dense.data.image_io.load_rgb`: for JPEG if both decoders were built on
    the same libjpeg; for TIFF of three times 16 bits, CMYK and YCbCr but for one level, which OpenCV rounds.

    Raises:
        PictureError: not a usable picture; the message names the file.
        DatasetNotFoundError: no such file.
    """
    with naming(path), opened(path) as image:
        return np.ascontiguousarray(_turned(_decoded(image), header_of(image).orientation))


def _decoded(image: ImageFile) -> np.ndarray:
    """The pixels as they are stored, (H, W, 3) uint8.

    16 bits become their upper 8, alpha is dropped but for TIFF, and CMYK is converted as OpenCV does it.
    """
    if image.mode in ("RGB", "L"):
        pixels = np.asarray(image)
    elif image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):  # "I": older Pillow
        pixels = (np.asarray(image) >> 8).astype(np.uint8)
    elif image.mode == "CMYK" and image.format == "JPEG":
        inks = 255 - np.asarray(image).astype(np.int32)  # Pillow inverts what the file has
        black = inks[..., 3:]
        pixels = (black - ((255 - inks[..., :3]) * black >> 8)).astype(np.uint8)
    elif image.mode == "RGBA" and _has_plain_alpha(image):  # libtiff hands OpenCV the product
        wide = np.asarray(image).astype(np.int32)
        pixels = ((wide[..., :3] * wide[..., 3:] + 127) // 255).astype(np.uint8)
    elif image.mode in ("I", "F"):
        raise UnknownFormatError(f"its pixels are of 32 bits (mode {image.mode}), not a picture's 8 or 16")
    else:
        pixels = np.asarray(image.convert("RGB"))
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)


def _has_plain_alpha(image: ImageFile) -> bool:
    """Whether this is a TIFF whose colours are not multiplied by alpha yet."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(_EXTRA_SAMPLES) == (_UNASSOCIATED,)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, 3) pixels upright; see `convnext_dense.data.image_io.turned`."""
    exchanged, axis = TURNS.get(orientation, (False, None))
    return np.flip(pixels.swapaxes(0, 1) if exchanged else pixels, _AXES[axis])


# ---- sizes


def fit_wh(wh: tuple[int, int], scale: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture resized with its ratio kept, by the rule of mmcv's ``rescale_size``.

    Args:
        wh: (width, height) of the picture.
        scale: its longer side is at most the larger of these, its shorter side at most the smaller one.
    """
    return _scaled(wh, min(max(scale) / max(wh), min(scale) / min(wh)))


def fit_inside(wh: tuple[int, int], box_wh: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture resized with its ratio kept so that it fits into a rectangle."""
    return _scaled(wh, min(box_wh[0] / wh[0], box_wh[1] / wh[1]))


def _scaled(wh: tuple[int, int], factor: float) -> tuple[int, int]:
    """Round as mmcv does; a side that would vanish keeps a pixel, where mmcv fails."""
    return max(1, int(wh[0] * factor + 0.5)), max(1, int(wh[1] * factor + 0.5))


def padded(pixels: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) -> (H, W, 3) with zeros on the right and below."""
    bottom, right = hw[0] - pixels.shape[0], hw[1] - pixels.shape[1]
    return np.pad(pixels, ((0, bottom), (0, right), (0, 0)))


# ---- resize


class _Taps(NamedTuple):
    """Two source positions of each resized position along one side, and OpenCV's whole-number weights."""

    first: np.ndarray
    second: np.ndarray
    first_weight: np.ndarray
    second_weight: np.ndarray


def resize(picture: np.ndarray, wh: tuple[int, int]) -> np.ndarray:
    """Bilinear resize (H, W, 3) uint8 -> (h, w, 3) uint8, equal to ``cv2.resize`` with INTER_LINEAR.

    OpenCV computes in whole numbers: weights of 11 bits, columns first, rounded down to 15 bits, then rows.
    At exactly half the width and height it averages four pixels instead.
    """
    height, width = picture.shape[:2]
    if (width, height) == wh:
        return picture
    if (width, height) == (2 * wh[0], 2 * wh[1]):
        return _halved(picture)
    columns, rows = _taps(width, wh[0], edge=True), _taps(height, wh[1], edge=False)
    used = np.union1d(rows.first, rows.second)  # when shrinking, most rows are not needed
    upper, lower = np.searchsorted(used, rows.first), np.searchsorted(used, rows.second)
    resized = np.empty((wh[1], wh[0], 3), np.uint8)
    step = max(1, _BAND_BYTES // (2 * 3 * wh[0]))
    for top in range(0, wh[1], step):
        band = slice(top, top + step)
        start, stop = int(upper[band][0]), int(lower[band][-1]) + 1
        sums = _columns(picture[used[start:stop]], columns)
        resized[band] = _rows(sums, upper[band] - start, lower[band] - start, rows, band)
    return resized


def _taps(size: int, resized: int, edge: bool) -> _Taps:
    """Taps along a side of ``size`` pixels that becomes one of ``resized``.

    Args:
        edge: whether positions beyond the outer pixels get the weights 1 and 0, as for OpenCV's columns; its
            rows there take one pixel twice.
    """
    position = ((np.arange(resized) + 0.5) * (1 / (resized / size)) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    part = position - first.astype(np.float32)
    if edge:
        part[(first < 0) | (first >= size - 1)] = 0
        first = first.clip(0, size - 1)
    one = np.float32(1 << _WEIGHT_BITS)
    weights = (np.rint(share * one).astype(np.int32) for share in (1 - part, part))
    return _Taps(first.clip(0, size - 1), (first + 1).clip(0, size - 1), *weights)


def _columns(band: np.ndarray, taps: _Taps) -> np.ndarray:
    """(h, W, 3) uint8 -> (h, w, 3) int16: sums of two columns, without their lowest 4 of 19 bits."""
    sums = np.take(band, taps.first, 1) * taps.first_weight[:, None]
    sums += np.take(band, taps.second, 1) * taps.second_weight[:, None]
    sums >>= 4
    return sums.astype(np.int16)


def _rows(sums: np.ndarray, upper: np.ndarray, lower: np.ndarray, taps: _Taps, band: slice) -> np.ndarray:
    """Sums (h, w, 3) of columns, and pairs of their rows -> (h', w, 3) uint8."""
    total = sums[upper] * taps.first_weight[band, None, None] >> 16
    total += sums[lower] * taps.second_weight[band, None, None] >> 16
    total += 2
    total >>= 2
    return total.astype(np.uint8)


def _halved(picture: np.ndarray) -> np.ndarray:
    """(2h, 2w, 3) -> (h, w, 3) uint8: the rounded means of 2x2 pixels."""
    sums = picture[::2].astype(np.uint16) + picture[1::2]
    sums = sums[:, ::2] + sums[:, 1::2]
    return (sums + 2 >> 2).astype(np.uint8)
