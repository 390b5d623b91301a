"""What the headers of image files say, and why a file is no usable picture; read by PIL alone.

One rule for EXIF rotations, for all formats and all decoders. The pixels are decoded elsewhere: by OpenCV in
`image_io`, and without it in `convnext_dense.export.images`.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from convnext_dense.errors import DataError, DatasetNotFoundError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 178_956_970  # as PIL: 0.5 GB decoded
_JPEG, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"

_EXIF_COUNTS = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats, by PIL's names, whose EXIF rotation is applied: those of OpenCV 5 (OpenCV 4.10 omits WebP).

TIFF is not among them: its rotation is part of the format, and OpenCV and PIL apply it while they decode.
"""
_ORIENTATION = 0x0112  # the EXIF tag
TURNS: dict[int, tuple[bool, int | None]] = {
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
    with opened(source) as image:
        return header_of(image)


def header_of(image: ImageFile) -> Header:
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
    return value if value in TURNS else 1


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
def opened(source: bytes | str | Path) -> Iterator[ImageFile]:
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


def check_end(content: bytes) -> None:
    """Check that a JPEG is complete: older OpenCV fills the missing part with grey.

    Raises:
        PictureError: it is not.
    """
    if content.startswith(_JPEG) and not content.rstrip(b"\0").endswith(_JPEG_END):
        check_complete(content)


def check_complete(content: bytes) -> None:
    with opened(content) as image:
        image.load()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
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


def size_text(wh: Sequence[int]) -> str:
    """(width, height) -> ``640x480``."""
    return f"{wh[0]}x{wh[1]}"
