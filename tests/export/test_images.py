"""Pixels equal OpenCV's: decoded by Pillow, resized by numpy; sizes equal mmcv's."""

import io
import time

import cv2
import numpy as np
import pytest
from mmcv.image import rescale_size
from PIL import Image

from convnext_dense.data import image_io
from convnext_dense.data.image_headers import PictureError, UnknownFormatError
from convnext_dense.errors import DatasetNotFoundError
from convnext_dense.export.images import fit_inside, fit_wh, load_rgb, padded, resize

RNG = np.random.default_rng(0)
PIXELS = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
PICTURE = Image.fromarray(PIXELS)
WITH_ALPHA = Image.fromarray(np.dstack([PIXELS, RNG.integers(0, 256, (48, 64), np.uint8)]))
DEEP = RNG.integers(0, 65536, (48, 64, 4), np.uint16)
LOSSLESS = {"WEBP": {"lossless": True}}


def encoded(image: Image.Image, form: str, orientation: int = 1, **options) -> bytes:
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def deep(form: str, channels: int) -> bytes:
    return cv2.imencode(form, DEEP[..., :channels])[1].tobytes()


KINDS = {
    "jpeg": encoded(PICTURE, "JPEG"),
    "jpeg with all colours": encoded(PICTURE, "JPEG", quality=95, subsampling=0),
    "progressive jpeg": encoded(PICTURE, "JPEG", progressive=True),
    "grey jpeg": encoded(PICTURE.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(Image.fromarray(DEEP.astype(np.uint8), "CMYK"), "JPEG", quality=95),
    "png": encoded(PICTURE, "PNG"),
    "grey png": encoded(PICTURE.convert("L"), "PNG"),
    "black and white png": encoded(PICTURE.convert("1"), "PNG"),
    "grey and alpha png": encoded(WITH_ALPHA.convert("LA"), "PNG"),
    "palette png": encoded(PICTURE.convert("P"), "PNG"),
    "palette png of 4 bits": encoded(PICTURE.quantize(13), "PNG", bits=4),
    "palette png with a transparent colour": encoded(PICTURE.convert("P"), "PNG", transparency=3),
    "palette png with alpha": encoded(WITH_ALPHA.quantize(), "PNG"),
    "alpha png": encoded(WITH_ALPHA, "PNG"),
    "grey png of 16 bits": deep(".png", 1),
    "png of 16 bits": deep(".png", 3),
    "alpha png of 16 bits": deep(".png", 4),
    "bmp": encoded(PICTURE, "BMP"),
    "palette bmp": encoded(PICTURE.convert("P"), "BMP"),
    "tiff": encoded(PICTURE, "TIFF"),
    "alpha tiff": encoded(WITH_ALPHA, "TIFF"),
    "grey and alpha tiff": encoded(WITH_ALPHA.convert("LA"), "TIFF"),
    "cmyk tiff": encoded(PICTURE.convert("CMYK"), "TIFF"),
    "grey tiff of 16 bits": deep(".tif", 1),
    "tiff of 16 bits": deep(".tif", 3),
    "webp": encoded(PICTURE, "WEBP", quality=60),
    "lossless webp": encoded(PICTURE, "WEBP", lossless=True),
    "alpha webp": encoded(WITH_ALPHA, "WEBP", lossless=True),
}
ROUNDED = ("tiff of 16 bits", "cmyk tiff")


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_opencv(tmp_path, kind):
    (tmp_path / "picture").write_bytes(KINDS[kind])
    expected = image_io.load_rgb(tmp_path / "picture")
    read = load_rgb(tmp_path / "picture")
    assert read.shape == expected.shape and read.dtype == np.uint8 and expected.std() > 20
    assert np.abs(read.astype(int) - expected).max() <= (kind in ROUNDED)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_rotations_are_those_of_opencv(tmp_path, form, orientation):
    content = encoded(PICTURE, form, orientation, **LOSSLESS.get(form, {}))
    (tmp_path / "picture").write_bytes(content)
    assert np.array_equal(load_rgb(tmp_path / "picture"), image_io.load_rgb(tmp_path / "picture"))


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "the file is empty"),
        (b"hello world", "not an image file"),
        (KINDS["jpeg"][:-100], "truncated"),
        (KINDS["png"][:2000], "truncated"),
        (encoded(Image.fromarray(np.zeros((3, 4), np.float32)), "TIFF"), "32 bits"),
    ],
)
def test_bad_files_give_the_reason(tmp_path, content, error):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(PictureError, match=f"bad.jpg: .*{error}") as caught:
        load_rgb(tmp_path / "bad.jpg")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UnknownFormatError) == ("truncated" not in error and "empty" not in error)


def test_a_missing_file(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="no file at"):
        load_rgb(tmp_path / "absent.png")


def sizes() -> list[tuple[int, int, int, int]]:
    """(height, width) before and after: tiny to large, up and down, and OpenCV's special cases."""
    cases = [tuple(RNG.integers(1, most, 4)) for most in (8, 60, 300, 700) for _ in range(100)]
    cases += [(2 * h, 2 * w, h, w) for h, w in RNG.integers(1, 200, (40, 2))]  # halved: the mean of 4 pixels
    cases += [(h, 2 * w, h, w) for h, w in RNG.integers(1, 200, (20, 2))]
    cases += [(h, w, 3 * h, 4 * w) for h, w in RNG.integers(1, 90, (20, 2))]
    cases += [(h, w, h, w) for h, w in RNG.integers(1, 90, (3, 2))]
    return [tuple(int(side) for side in case) for case in cases]


def test_resize_is_opencvs_bit_for_bit():
    for h, w, new_h, new_w in sizes():
        picture = RNG.integers(0, 256, (h, w, 3), np.uint8)
        expected = cv2.resize(picture, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize(picture, (new_w, new_h)), expected), (h, w, new_h, new_w)


def test_resize_keeps_white_and_views():
    white = np.full((37, 53, 3), 255, np.uint8)
    assert (resize(white, (101, 11)) == 255).all()
    wide = RNG.integers(0, 256, (40, 80, 3), np.uint8)[:, ::2]
    assert np.array_equal(resize(wide, (33, 27)), cv2.resize(np.ascontiguousarray(wide), (33, 27)))


def test_a_large_picture_is_resized_in_well_under_a_second():
    picture = RNG.integers(0, 256, (3000, 4000, 3), np.uint8)
    times = []
    for _ in range(3):
        start = time.process_time()
        small = resize(picture, (1067, 800))
        times.append(time.process_time() - start)
    assert np.array_equal(small, cv2.resize(picture, (1067, 800)))
    assert min(times) < 0.5  # 0.09 s on an idle core


@pytest.mark.parametrize("scale", [(1333, 800), (2048, 512), (96, 64), (640, 640), (800, 1333)])
def test_sizes_are_mmcvs(scale):
    for w, h in RNG.integers(1, 5000, (300, 2)).tolist():
        expected = rescale_size((w, h), scale)
        if min(expected) > 0:
            assert fit_wh((w, h), scale) == expected
        else:
            assert min(fit_wh((w, h), scale)) == 1


def test_a_picture_fits_inside_a_fixed_size():
    for w, h, box_w, box_h in RNG.integers(1, 3000, (300, 4)).tolist():
        new_w, new_h = fit_inside((w, h), (box_w, box_h))
        assert new_w <= box_w and new_h <= box_h and (new_w == box_w or new_h == box_h)
    assert fit_inside((400, 300), (800, 800)) == (800, 600)


def test_padding():
    pixels = np.ones((2, 3, 3), np.uint8)
    whole = padded(pixels, (4, 5))
    assert whole.shape == (4, 5, 3) and whole.sum() == pixels.sum() and whole[:2, :3].all()
