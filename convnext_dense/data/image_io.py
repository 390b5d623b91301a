"""Image files as the models see them: 8-bit BGR pictures and maps of class numbers, or a reason why not.

OpenCV decodes pictures and handles grey, palette, alpha, CMYK and 16-bit (the upper byte) correctly. It does
not report why a file is bad, does not refuse a picture that would fill the memory, older versions do not
notice that the end of a file is missing, and its versions differ in the formats whose EXIF rotation they
apply. So headers are read by PIL, and the rotation is applied here, by one rule for all files.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from convnext_dense.errors import DataError, DatasetNotFoundError
from convnext_dense.support.files import replacing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 178_956_970  # as PIL: 0.5 GB decoded
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_MAP_MODES = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I")  # one channel of whole numbers

_EXIF_COUNTS = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats, by PIL's names, whose EXIF rotation is applied: those of OpenCV 5 (OpenCV 4.10 omits WebP).

TIFF is not among them: its rotation is part of the format, and OpenCV and PIL apply it while they decode.
"""
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS: dict[int, tuple[bool, int | None]] = {
    2: (False, 1), 3: (False, -1), 4: (False, 0), 5: (True, None), 6: (True, 1), 7: (True, -1), 8: (True, 0)
}  # fmt: skip
"""EXIF orientation -> whether rows and columns are exchanged, and then the axis of ``cv2.flip``."""

_PIL_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""Exceptions that PIL raises for files that it cannot read; for damaged PNGs it raises SyntaxError."""


class PictureError(DataError):
    """A file that is not a usable picture; the message is the reason, and names the file if given a path."""


class UnknownFormatError(PictureError):
    """A file in a format, or with channels, that neither PIL nor OpenCV reads as a picture."""


class ChannelsError(PictureError):
    """A label map with several channels.

    Attributes:
        channels: their number.
    """

    def __init__(self, message: str, channels: int) -> None:
        super().__init__(message)
        self.channels = channels


# ---- headers


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
        stored: (width, height) of the pixels in the file; of a TIFF, after its own rotation.
        orientation: EXIF orientation that is applied, 1 (upright) to 8.
    """

    stored: tuple[int, int]
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) after the EXIF rotation, as `read_picture` and `read_label_map` return it."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored


def read_header(source: bytes | str | Path) -> Header:
    """Sizes of an image, before and after the EXIF rotation, without decoding it.

    Args:
        source: content of a file, or its path.

    Raises:
        PictureError: empty, not an image, or too large to decode; the message does not name the file.
        OSError: the file cannot be opened.
    """
    with _opened(source) as image:
        return _header(image)


def _header(image: ImageFile) -> Header:
    """The header of an image that is not decoded yet."""
    if isinstance(image, TiffImageFile):  # newer PILs exchange the sides here, older ones when they decode
        stored = image.tag_v2[256], image.tag_v2[257]
        return Header(stored[::-1] if image.tag_v2.get(_ORIENTATION, 1) >= 5 else stored)
    block = image.info.get("exif")
    if image.format == "PNG" and block is None and image.fp is not None:
        block = _late_exif(image.fp)
    return Header(image.size, _orientation(block) if block and image.format in _EXIF_COUNTS else 1)


def _orientation(block: bytes) -> int:
    """Orientation in an EXIF block; 1 where it has none or a damaged one, which spoils no picture.

    The method ``getexif`` of an image would also use an orientation in XMP data, which OpenCV does not.
    """
    exif = Image.Exif()
    try:
        exif.load(block)
        value = exif.get(_ORIENTATION)
    except Exception:  # PIL raises many kinds
        return 1
    return value if value in _TURNS else 1


def _late_exif(file: IO[bytes]) -> bytes | None:
    """The EXIF block of a PNG that has it after the pixels, where PIL finds it only when it decodes."""
    position = file.tell()
    try:
        file.seek(8)
        while len(start := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", start)
            if kind == b"eXIf":
                return file.read(length)
            file.seek(length + 4, io.SEEK_CUR)
    finally:
        file.seek(position)
    return None


@contextmanager
def _opened(source: bytes | str | Path) -> Iterator[ImageFile]:
    """Open the image and read its header; errors of PIL inside the block become a `PictureError`."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        start = file.read(8)
        file.seek(0)
        if not start:
            raise PictureError("the file is empty")
        try:
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise PictureError(
                        f"{size_text(image.size)} pixels are more than the {MAX_PIXELS} that are decoded"
                    )
                yield image
        except PictureError:
            raise
        except Image.UnidentifiedImageError:
            raise UnknownFormatError(f"not an image file: it starts with {start!r}") from None
        except Image.DecompressionBombError as error:  # PIL noticed it first
            raise PictureError(str(error).partition(", could")[0]) from None
        except _PIL_ERRORS as error:
            raise PictureError(str(error) or type(error).__name__) from None


# ---- pictures


def load_rgb(path: str | Path, wh: tuple[int, int] | None = None) -> np.ndarray:
    """Read a file as `read_picture` does, but red first: (H, W, 3) uint8.

    Raises:
        PictureError: not a usable picture, or another size; the message names the file.
        DatasetNotFoundError: no such file.
    """
    with _naming(path):
        return cv2.cvtColor(read_picture(Path(path).read_bytes(), wh), cv2.COLOR_BGR2RGB)


def load_label_map(path: str | Path) -> np.ndarray:
    """Read a file as `label_numbers` does.

    Raises:
        PictureError: not a usable label map; the message names the file.
        DatasetNotFoundError: no such file.
    """
    with _naming(path):
        return label_numbers(Path(path).read_bytes())


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Name the file in errors. ``cv2.imread`` would return ``None`` for all of them.

    On Windows it does so for every name that the code page lacks, too, so files are read by Python.
    """
    try:
        yield
    except FileNotFoundError:
        raise DatasetNotFoundError(f"no file at {path}") from None
    except OSError as error:
        raise PictureError(f"{path}: {error.strerror or error}") from None
    except UnknownFormatError as error:
        raise UnknownFormatError(f"{path}: {error}") from None
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from None


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
    exchanged, axis = _TURNS[orientation]
    pixels = cv2.transpose(pixels) if exchanged else pixels
    return pixels if axis is None else cv2.flip(pixels, axis)


def check_end(content: bytes) -> None:
    """Check that a JPEG is complete: older OpenCV fills the missing part with grey.

    Raises:
        PictureError: it is not.
    """
    if content.startswith(_JPEG) and not content.rstrip(b"\0").endswith(_JPEG_END):
        _check_complete(content)


def _check_complete(content: bytes) -> None:
    with _opened(content) as image:
        image.load()


def _decode(content: bytes) -> np.ndarray:
    """The pixels as they are stored."""
    with silent_opencv():
        try:
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), _AS_STORED)
        except cv2.error as error:
            raise PictureError(str(error).strip().splitlines()[0]) from None
    if picture is None:
        _check_complete(content)  # raises with the reason
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
    with _opened(content) as image:
        header = _header(image)
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


def size_text(wh: Sequence[int]) -> str:
    """(width, height) -> ``640x480``."""
    return f"{wh[0]}x{wh[1]}"


def save_label_map(path: str | Path, labels: np.ndarray, classes: int) -> None:
    """Write class numbers (H, W) as a PNG of 8 bits, or of 16 for more than 256 classes, atomically.

    ``cv2.imwrite`` returns ``False`` where it cannot write, and knows no names in other scripts on Windows.
    """
    content = cv2.imencode(".png", labels.astype(np.uint8 if classes <= 256 else np.uint16))[1]
    with replacing(path) as partial:
        partial.write_bytes(content.tobytes())
