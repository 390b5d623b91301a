"""Image files as the models see them: 8-bit BGR pictures and maps of class numbers, or a reason why not.

OpenCV decodes pictures and handles grey, palette, alpha, CMYK, 16-bit (the upper byte) and EXIF rotation
correctly. It does not report why a file is bad, does not refuse a picture that would fill the memory, and
older versions do not notice that the end of a file is missing.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import Image, ImageOps

from convnext_dense.errors import DataError

MAX_PIXELS = 178_956_970  # as PIL: 0.5 GB decoded
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_MAP_MODES = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I")  # one channel of whole numbers

_PIL_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""Exceptions that PIL raises for files that it cannot read; for damaged PNGs it raises SyntaxError."""


class PictureError(DataError):
    """A file that is not a usable picture; the message is the reason, without the file name."""


def stored_size(content: bytes) -> tuple[int, int]:
    """(width, height) from the header, before any EXIF rotation.

    Raises:
        PictureError: empty, not an image, or too large to decode.
    """
    with _opened(content) as image:
        return image.size


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open the image and read its header; errors of PIL inside the block become a `PictureError`."""
    if not content:
        raise PictureError("the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise PictureError(
                    f"{_by(image.size)} pixels are more than the {MAX_PIXELS} that are decoded"
                )
            yield image
    except PictureError:
        raise
    except Image.UnidentifiedImageError:
        raise PictureError(f"not an image file: it starts with {content[:8]!r}") from None
    except Image.DecompressionBombError as error:  # PIL noticed it first
        raise PictureError(str(error).partition(", could")[0]) from None
    except _PIL_ERRORS as error:
        raise PictureError(str(error) or type(error).__name__) from None


def read_picture(content: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode to (H, W, 3) uint8, blue first, turned upright by EXIF.

    Args:
        content: bytes of a file.
        size: (width, height) that the picture was annotated at. If only the picture as it is stored has
            that size, its EXIF rotation is ignored: the annotations were made without it.

    Raises:
        PictureError: damaged or incomplete, of another size, or too large.
    """
    stored_size(content)
    if content.startswith(_JPEG) and not content.rstrip(b"\0").endswith(_JPEG_END):
        _check_complete(content)  # older OpenCV fills the missing part with grey
    picture = _decode(content, cv2.IMREAD_COLOR)
    if size is None or _size(picture) == tuple(size):
        return picture
    upright, picture = _size(picture), _decode(content, _AS_STORED)
    if _size(picture) != tuple(size):
        raise PictureError(f"it has {_by(upright)} pixels, but was annotated at {_by(size)}")
    return picture


def _check_complete(content: bytes) -> None:
    with _opened(content) as image:
        image.load()


def _decode(content: bytes, flags: int) -> np.ndarray:
    with _silent_opencv():
        try:
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        except cv2.error as error:
            raise PictureError(str(error).strip().splitlines()[0]) from None
    if picture is None:
        _check_complete(content)  # raises with the reason
        raise PictureError("OpenCV cannot decode it")
    return picture


@contextmanager
def _silent_opencv() -> Iterator[None]:
    """Silence OpenCV, which prints a line at each failure; we report it once."""
    set_level = cv2.utils.logging.setLogLevel if hasattr(cv2.utils, "logging") else cv2.setLogLevel  # 5, 4
    level = set_level(0)
    try:
        yield
    finally:
        set_level(level)


def read_label_map(content: bytes) -> np.ndarray:
    """Decode to (H, W) uint8: the class numbers as stored; for a palette, the indices.

    A rotation in the map's own EXIF is applied, as for the picture.

    Raises:
        PictureError: damaged or incomplete, several channels, or numbers above 255.
    """
    with _opened(content) as image:
        if image.mode not in _MAP_MODES:
            raise PictureError(f"it is {image.mode}; a label map has one channel, a class number per pixel")
        numbers = np.asarray(ImageOps.exif_transpose(image) if "exif" in image.info else image)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > 255:
        raise PictureError(f"it has the class number {low if low < 0 else high}; 0 to 255 are possible")
    return numbers.astype(np.uint8)


def map_size(content: bytes) -> tuple[int, int]:
    """(width, height) of the result of :func:`read_label_map`, from the header.

    Raises:
        PictureError: empty, not an image, or too large to decode.
    """
    with _opened(content) as image:
        turned = "exif" in image.info and image.getexif().get(0x0112, 1) >= 5
        return image.size[::-1] if turned else image.size


def _size(picture: np.ndarray) -> tuple[int, int]:
    return picture.shape[1], picture.shape[0]


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
