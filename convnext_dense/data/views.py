"""Pictures to look at, of any file that a data set may consist of.

Models see what their config's own decoder makes of a file: five channels, floats, arrays. Such a file has no
picture of its own; here it gets one, for drawings only.
"""

import io
from pathlib import Path

import cv2
import numpy as np

from convnext_dense.data.image_headers import Header, PictureError, UnknownFormatError, read_header
from convnext_dense.data.image_io import load_rgb, silent_opencv
from convnext_dense.errors import MissingPackageError
from convnext_dense.support.optional_packages import optional

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_GREY = 114


def load_view(path: str | Path, wh: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB to draw on: the picture itself, or the first three channels of other files.

    Channels that are not bytes are stretched from their lowest to their highest value. A file that nothing
    here can read is grey: its config has a decoder of its own.

    Args:
        path: file.
        wh: (width, height) that the model saw it at.

    Raises:
        PictureError: a damaged picture, or one of another size.
        DatasetNotFoundError: no such file.
    """
    try:
        return load_rgb(path, wh)
    except UnknownFormatError:
        pixels = any_pixels(Path(path).read_bytes())
    view = None if pixels is None else as_view(pixels, wh)
    return np.full((wh[1], wh[0], 3), _GREY, np.uint8) if view is None else view


def wh_on_disk(path: str | Path) -> tuple[int, int] | None:
    """(width, height) of the upright picture in a file, or of the array in it; ``None`` if unreadable."""
    try:
        return header_on_disk(path).upright
    except (OSError, PictureError):
        return None


def header_on_disk(path: str | Path) -> Header:
    """Sizes of an image in any format that some decoder here reads; see `read_header`.

    Raises:
        PictureError: empty, too large, or in no known format.
        OSError: the file cannot be opened.
    """
    try:
        return read_header(path)
    except UnknownFormatError:
        pixels = any_pixels(Path(path).read_bytes())
        if pixels is None or pixels.ndim not in (2, 3):
            raise
        first = pixels.ndim == 3 and pixels.shape[0] < min(pixels.shape[1:])
        height, width = pixels.shape[1:] if first else pixels.shape[:2]
        return Header((width, height))


def any_pixels(content: bytes) -> np.ndarray | None:
    """The array in a file: numpy's own formats, or what OpenCV or tifffile decodes, as it is stored.

    Colours that OpenCV decodes come red first.
    """
    try:
        if content.startswith((_NPY, _ZIP)):
            loaded = np.load(io.BytesIO(content), allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
        if content.startswith(_TIFF) and (pixels := _tiff(content)) is not None:
            return pixels
        with silent_opencv():
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None and pixels.ndim == 3 and pixels.shape[2] >= 3:
            pixels[..., :3] = pixels[..., 2::-1].copy()
        return pixels
    except Exception:  # three libraries, and files of any content
        return None


def _tiff(content: bytes) -> np.ndarray | None:
    try:
        library = optional("tifffile", "reading TIFFs with other channels")
    except MissingPackageError:
        return None
    return library.imread(io.BytesIO(content))


def as_view(pixels: np.ndarray, wh: tuple[int, int]) -> np.ndarray | None:
    """(H, W), (H, W, C) or (C, H, W) of any type -> (H, W, 3) uint8; ``None`` if ``wh`` differs."""
    hw = (wh[1], wh[0])
    if pixels.ndim == 3 and pixels.shape[:2] != hw:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim not in (2, 3) or pixels.shape[:2] != hw or pixels.dtype.kind not in "buif":
        return None
    channels = pixels[..., None] if pixels.ndim == 2 else pixels
    channels = channels[..., :3] if channels.shape[2] >= 3 else np.repeat(channels[..., :1], 3, 2)
    if channels.dtype == np.uint8:
        return np.ascontiguousarray(channels)
    values = channels.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    values = np.nan_to_num((values - low) / max(high - low, 1e-12), nan=0.0, posinf=1.0, neginf=0.0)
    return np.round(255 * values.clip(0, 1)).astype(np.uint8)
