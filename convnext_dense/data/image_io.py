"""Image files as the models see them: 8-bit BGR pictures and maps of class numbers, or a reason why not.

OpenCV decodes pictures and handles grey, palette, alpha, CMYK and 16-bit (the upper byte) correctly. It does
not report why a file is bad, does not refuse a picture that would fill the memory, older versions do not
notice that the end of a file is missing, and its versions differ in the formats whose EXIF rotation they
apply. So headers are read by PIL, in `image_headers`, and the rotation is applied by one rule for all files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from convnext_dense.data.image_headers import (
    TURNS,
    ChannelsError,
    PictureError,
    UnknownFormatError,
    check_complete,
    check_end,
    header_of,
    naming,
    opened,
    read_header,
    size_text,
)
from convnext_dense.support.files import replacing

_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_MAP_MODES = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I")  # one channel of whole numbers


# ---- pictures


def load_rgb(path: str | Path, wh: tuple[int, int] | None = None) -> np.ndarray:
    """Read a file as `read_picture` does, but red first: (H, W, 3) uint8.

    Raises:
        PictureError: not a usable picture, or another size; the message names the file.
        DatasetNotFoundError: no such file.
    """
    with naming(path):
        return cv2.cvtColor(read_picture(Path(path).read_bytes(), wh), cv2.COLOR_BGR2RGB)


def load_label_map(path: str | Path) -> np.ndarray:
    """Read a file as `label_numbers` does.

    Raises:
        PictureError: not a usable label map; the message names the file.
        DatasetNotFoundError: no such file.
    """
    with naming(path):
        return label_numbers(Path(path).read_bytes())


def read_picture(content: bytes, wh: tuple[int, int] | None = None) -> np.ndarray:
    """Decode to (H, W, 3) uint8, blue first, turned upright by EXIF.

    Args:
        content: bytes of a file.
        wh: (width, height) that the picture was annotated at. If only the picture as it is stored has
            that size, its EXIF rotation is ignored: the annotations were made without it.

    Raises:
        PictureError: damaged or incomplete, of another size, or too large.
    """
    header = read_header(content)
    check_end(content)
    stored = _decode(content)
    picture = turned(stored, header.orientation)
    if wh is None or _wh(picture) == tuple(wh):
        return picture
    if _wh(stored) != tuple(wh):
        raise PictureError(f"it has {size_text(_wh(picture))} pixels, but was annotated at {size_text(wh)}")
    return stored


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W) or (H, W, C) pixels upright."""
    if orientation == 1:
        return pixels
    exchanged, axis = TURNS[orientation]
    pixels = cv2.transpose(pixels) if exchanged else pixels
    return pixels if axis is None else cv2.flip(pixels, axis)


def _decode(content: bytes) -> np.ndarray:
    """The pixels as they are stored."""
    with silent_opencv():
        try:
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), _AS_STORED)
        except cv2.error as error:
            raise PictureError(str(error).strip().splitlines()[0]) from None
    if picture is None:
        check_complete(content)  # raises with the reason
        raise UnknownFormatError("OpenCV cannot decode it as a colour picture")
    return picture


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Silence OpenCV, which prints a line at each failure; we report it once."""
    log = getattr(cv2.utils, "logging", cv2)  # OpenCV 5, 4
    level = log.setLogLevel(0)
    try:
        yield
    finally:
        log.setLogLevel(level)


# ---- label maps


def read_label_map(content: bytes) -> np.ndarray:
    """Decode to (H, W) uint8: the class numbers as stored; for a palette, the indices.

    A rotation in the map's own EXIF is applied, as for the picture.

    Raises:
        PictureError: damaged or incomplete, several channels, or numbers above 255.
    """
    numbers = label_numbers(content)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > 255:
        raise PictureError(f"it has the class number {low if low < 0 else high}; 0 to 255 are possible")
    return numbers.astype(np.uint8, copy=False)


def label_numbers(content: bytes) -> np.ndarray:
    """Decode as `read_label_map` does, but keep any number: (H, W) uint8, or int32 for files of other types.

    Raises:
        PictureError: damaged or incomplete, or no whole numbers.
        ChannelsError: several channels.
    """
    with opened(content) as image:
        header = header_of(image)
        if image.mode not in _MAP_MODES:
            reason = f"it is {image.mode}; a label map has one channel, a class number per pixel"
            channels = len(image.getbands())
            raise PictureError(reason) if channels == 1 else ChannelsError(reason, channels)
        numbers = np.asarray(image)
    if numbers.dtype != np.uint8:
        numbers = numbers.astype(np.int32)
    return turned(numbers, header.orientation)


def _wh(picture: np.ndarray) -> tuple[int, int]:
    return picture.shape[1], picture.shape[0]


def save_label_map(path: str | Path, labels: np.ndarray, classes: int) -> None:
    """Write class numbers (H, W) as a PNG of 8 bits, or of 16 for more than 256 classes, atomically.

    ``cv2.imwrite`` returns ``False`` where it cannot write, and knows no names in other scripts on Windows.
    """
    content = cv2.imencode(".png", labels.astype(np.uint8 if classes <= 256 else np.uint16))[1]
    with replacing(path) as partial:
        partial.write_bytes(content.tobytes())
