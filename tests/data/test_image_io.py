"""Pictures of every kind are decoded as PIL decodes them, and errors of bad files give the reason."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from convnext_dense.data.image_io import PictureError, map_size, read_label_map, read_picture, stored_size

RNG = np.random.default_rng(0)
PIXELS = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
PICTURE = Image.fromarray(PIXELS)
ALPHA = Image.fromarray(RNG.integers(0, 256, (48, 64), np.uint8))


def encoded(image: Image.Image, form: str, orientation: int = 1, **options) -> bytes:
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def with_alpha() -> Image.Image:
    image = PICTURE.copy()
    image.putalpha(ALPHA)
    return image


KINDS = {
    "jpeg": encoded(PICTURE, "JPEG"),
    "progressive jpeg": encoded(PICTURE, "JPEG", progressive=True),
    "grey jpeg": encoded(PICTURE.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "png": encoded(PICTURE, "PNG"),
    "grey png": encoded(PICTURE.convert("L"), "PNG"),
    "black and white png": encoded(PICTURE.convert("1"), "PNG"),
    "grey and alpha png": encoded(with_alpha().convert("LA"), "PNG"),
    "palette png": encoded(PICTURE.convert("P"), "PNG"),
    "palette png with a transparent colour": encoded(PICTURE.convert("P"), "PNG", transparency=3),
    "alpha png": encoded(with_alpha(), "PNG"),
    "bmp": encoded(PICTURE, "BMP"),
    "tiff": encoded(PICTURE, "TIFF"),
    "cmyk tiff": encoded(PICTURE.convert("CMYK"), "TIFF"),
    "webp": encoded(PICTURE, "WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_is_as_pil_has_it(kind):
    expected = np.asarray(Image.open(io.BytesIO(KINDS[kind])).convert("RGB"))[..., ::-1]
    read = read_picture(KINDS[kind])
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - expected).max() <= 1, "rounding of CMYK"
    assert expected.std() > 20, "the picture is not uniform"


@pytest.mark.parametrize("form", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_16_bits_the_upper_8_are_read(form, channels):
    """PIL clips 16-bit grey at 255 instead, which leaves white; so numpy is the reference."""
    deep = RNG.integers(0, 65536, (48, 64, channels), np.uint16)
    content = cv2.imencode(form, deep)[1].tobytes()
    expected = np.broadcast_to((deep >> 8)[..., :3], (48, 64, 3))
    read = read_picture(content)
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_upright(orientation):
    content = encoded(PICTURE, "JPEG", orientation, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(read_picture(content), np.asarray(upright)[..., ::-1])
    assert np.array_equal(read_picture(content, upright.size), np.asarray(upright)[..., ::-1])
    assert stored_size(content) == (64, 48)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_stored_picture_leave_it_as_stored(orientation):
    content = encoded(PICTURE, "JPEG", orientation, quality=95)
    stored = np.asarray(Image.open(io.BytesIO(content)))[..., ::-1]
    assert np.array_equal(read_picture(content, (64, 48)), stored)


def test_another_size_than_annotated():
    with pytest.raises(PictureError, match="it has 64x48 pixels, but was annotated at 48x64"):
        read_picture(KINDS["jpeg"], (48, 64))


def bomb(width: int, height: int) -> bytes:
    """A small PNG that decodes to ``width * height`` pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(byte ^ 0xA5 for byte in content[middle : middle + 40])
        + content[middle + 40 :]
    )


LARGE = Image.fromarray(cv2.resize(RNG.integers(0, 256, (60, 80, 3), np.uint8), (640, 480)))
JPEG, PNG = encoded(LARGE, "JPEG"), encoded(LARGE, "PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "not an image file: it starts with b'<html>40'"),
        (b"\xff", "not an image file"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:-200], "truncated"),
        (JPEG[: len(JPEG) // 2] + bytes(len(JPEG) // 2), "truncated"),
        (encoded(LARGE, "JPEG", progressive=True)[:-2000], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (damaged(PNG), "."),
        (encoded(LARGE, "WEBP")[:-500], "."),
        (encoded(LARGE, "BMP")[:-500], "truncated"),
        (bomb(60_000, 40_000), r"2400000000 pixels.* exceeds limit of 178956970"),
        (bomb(14_000, 13_000), r"182000000 pixels.* exceeds limit of 178956970"),
        (encoded(Image.fromarray(PIXELS[..., 0].astype(np.float32)), "TIFF"), "OpenCV cannot decode it"),
    ],
)
def test_bad_files_say_why(content, reason, capfd):
    with pytest.raises(PictureError, match=reason) as error:
        read_picture(content)
    assert "\n" not in str(error.value)
    assert "loadsave.cpp" not in capfd.readouterr().err, "OpenCV prints its own lines at every read"


def test_what_follows_the_picture_is_no_fault():
    for content in (JPEG, PNG):
        assert np.array_equal(read_picture(content + b"camera data" * 9), read_picture(content))
        assert np.array_equal(read_picture(content + bytes(99)), read_picture(content))


# ---- label maps

LABELS = RNG.integers(0, 200, (48, 64), np.uint8)


def palette_map(labels: np.ndarray = LABELS) -> Image.Image:
    image = Image.fromarray(labels, "L").convert("P")
    image.putdata(labels.ravel())
    image.putpalette(RNG.integers(0, 256, 768, np.uint8).tobytes())
    return image


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(LABELS), "PNG"),
        encoded(palette_map(), "PNG"),
        cv2.imencode(".png", LABELS.astype(np.uint16))[1].tobytes(),
        cv2.imencode(".tif", LABELS.astype(np.uint16))[1].tobytes(),
        encoded(Image.fromarray(LABELS), "BMP"),
    ],
)
def test_label_maps_keep_their_numbers(content):
    read = read_label_map(content)
    assert read.dtype == np.uint8
    assert np.array_equal(read, LABELS)
    assert map_size(content) == (64, 48)


def test_a_map_of_two_classes():
    assert np.array_equal(read_label_map(encoded(Image.fromarray(LABELS > 99), "PNG")), LABELS > 99)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_map_is_turned_with_its_picture(orientation):
    labels = encoded(palette_map(), "PNG", orientation)
    picture = encoded(PICTURE, "JPEG", orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(labels))))
    assert np.array_equal(read_label_map(labels), expected)
    assert not np.array_equal(expected, LABELS)
    assert read_label_map(labels).shape == read_picture(picture).shape[:2] == map_size(labels)[::-1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (PNG, "it is RGB; a label map has one channel"),
        (encoded(with_alpha().convert("LA"), "PNG"), "it is LA"),
        (encoded(palette_map(), "PNG")[:900], "."),
        (
            cv2.imencode(".png", LABELS.astype(np.uint16) * 300)[1].tobytes(),
            "the class number 59700; 0 to 255",
        ),
        (encoded(Image.fromarray(LABELS.astype(np.int32) - 7), "TIFF"), "the class number -7"),
        (encoded(Image.fromarray(LABELS.astype(np.float32)), "TIFF"), "it is F"),
    ],
)
def test_bad_label_maps_say_why(content, reason):
    with pytest.raises(PictureError, match=reason):
        read_label_map(content)


def test_the_limit_holds_where_pil_has_none(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(PictureError, match="60000x40000 pixels are more than the 178956970"):
        read_picture(bomb(60_000, 40_000))
