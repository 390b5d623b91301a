"""Pictures of every kind are decoded as PIL decodes them, and errors of bad files give the reason."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from convnext_dense.data.image_headers import ChannelsError, PictureError, read_header
from convnext_dense.data.image_io import label_numbers, load_label_map, load_rgb, read_label_map, read_picture
from convnext_dense.data.views import wh_on_disk
from convnext_dense.errors import DatasetNotFoundError

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
    assert read_header(content).stored == (64, 48)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_stored_picture_leave_it_as_stored(orientation):
    content = encoded(PICTURE, "JPEG", orientation, quality=95)
    stored = np.asarray(Image.open(io.BytesIO(content)))[..., ::-1]
    assert np.array_equal(read_picture(content, (64, 48)), stored)


# ---- which rotations count

ORIENTED = {
    "JPEG": dict(quality=95),
    "MPO": dict(save_all=True, append_images=[PICTURE], quality=95),
    "PNG": {},
    "WEBP": dict(lossless=True),
    "TIFF": {},
    "AVIF": {},  # OpenCV does not apply its rotation
}
OPENCV_5 = int(cv2.__version__.partition(".")[0]) >= 5


def oriented(form: str, orientation: int) -> bytes:
    try:
        return encoded(PICTURE, form, orientation, **ORIENTED[form])
    except (KeyError, OSError):
        pytest.skip(f"this PIL cannot write {form}")


@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 8])
@pytest.mark.parametrize("form", ORIENTED)
def test_a_rotation_counts_where_opencv_applies_it(form, orientation):
    content = oriented(form, orientation)
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if expected is None:
        pytest.skip(f"this OpenCV cannot read {form}")
    if form == "WEBP" and not OPENCV_5:  # 4.10 ignores it
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))[..., ::-1]
    read = read_picture(content)
    assert np.array_equal(read, expected)
    assert read_header(content).upright == read.shape[1::-1]
    turned = orientation >= 5 and form != "AVIF"
    assert read_header(content).upright == ((48, 64) if turned else (64, 48))


def test_the_file_is_read_as_its_content(tmp_path):
    """``cv2.imread`` of OpenCV 5.0 returns ``None`` for a rotated TIFF, which ``imdecode`` reads."""
    for form in ("JPEG", "TIFF"):
        path = tmp_path / f"a.{form}"
        path.write_bytes(oriented(form, 6))
        upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
        assert np.array_equal(load_rgb(path), upright)
        assert wh_on_disk(path) == (48, 64)


def moved_behind_the_pixels(png: bytes) -> bytes:
    """A PNG whose chunk eXIf follows the pixels, as the format allows."""
    start = png.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    rest = png[:start] + png[end:]
    last = rest.index(b"IEND") - 4
    return rest[:last] + png[start:end] + rest[last:]


def test_the_rotation_of_a_png_may_follow_its_pixels():
    content = moved_behind_the_pixels(oriented("PNG", 6))
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert expected.shape == (64, 48, 3) and np.array_equal(read_picture(content), expected)
    assert read_header(content).upright == (48, 64)
    labels = moved_behind_the_pixels(encoded(Image.fromarray(LABELS), "PNG", 6))
    assert np.array_equal(read_label_map(labels), np.rot90(LABELS, -1))


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


@pytest.mark.parametrize(
    "options",
    [
        dict(xmp=XMP),  # OpenCV does not look there, PIL's getexif does
        dict(exif=b"Exif\0\0broken"),
        dict(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"),  # number 99
    ],
)
def test_what_says_nothing_about_the_rotation(options):
    content = encoded(PICTURE, "JPEG", **options)
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape == (48, 64, 3)
    assert read_picture(content).shape == (48, 64, 3)
    assert read_header(content) == ((64, 48), 1)


# ---- files


def test_names_in_any_language(tmp_path):
    picture, labels = tmp_path / "Straße 図 é.png", tmp_path / "метки.png"
    picture.write_bytes(KINDS["png"])
    Image.fromarray(np.full((4, 5), 300, np.uint16)).save(labels)
    assert np.array_equal(load_rgb(str(picture)), PIXELS)
    assert load_rgb(picture).flags.c_contiguous
    assert wh_on_disk(picture) == (64, 48)
    assert np.array_equal(load_label_map(labels), np.full((4, 5), 300)), "any number, as stored"


@pytest.mark.parametrize("load", [load_rgb, load_label_map])
def test_an_error_of_a_file_names_it(load, tmp_path):
    path = tmp_path / "größe.png"
    with pytest.raises(DatasetNotFoundError, match=r"no file at .*größe\.png"):
        load(path)
    assert wh_on_disk(path) is None
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(PictureError, match=r"größe\.png: not an image file: it starts with b'<html>40'"):
        load(path)
    assert wh_on_disk(path) is None
    with pytest.raises(PictureError, match=str(tmp_path)):
        load(tmp_path)  # a folder
    path.write_bytes(KINDS["png"])
    with pytest.raises(PictureError, match=r"größe\.png: it"):
        load_rgb(path, (9, 9)) if load is load_rgb else load(path)


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
    assert read_header(content).upright == (64, 48)


def test_a_map_of_two_classes():
    assert np.array_equal(read_label_map(encoded(Image.fromarray(LABELS > 99), "PNG")), LABELS > 99)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_map_is_turned_with_its_picture(orientation):
    labels = encoded(palette_map(), "PNG", orientation)
    picture = encoded(PICTURE, "JPEG", orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(labels))))
    assert np.array_equal(read_label_map(labels), expected)
    assert not np.array_equal(expected, LABELS)
    assert read_label_map(labels).shape == read_picture(picture).shape[:2]
    assert read_label_map(labels).shape == read_header(labels).upright[::-1]


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


def test_the_number_of_channels_is_known():
    with pytest.raises(ChannelsError) as error:
        label_numbers(encoded(with_alpha().convert("LA"), "PNG"))
    assert error.value.channels == 2
