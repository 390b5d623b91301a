"""Pictures of files that are no pictures."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from convnext_dense.data.image_headers import PictureError
from convnext_dense.data.image_io import load_rgb
from convnext_dense.data.views import as_view, header_on_disk, load_view, wh_on_disk
from convnext_dense.errors import DatasetNotFoundError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 5), np.uint8)


def saved(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_of_picture_can_be_shown(tmp_path, mode):
    suffix = ".tif" if mode in ("CMYK", "F", "PA") else ".png"
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 256) if mode == "I;16" else None
    if mode == "PA":
        image, suffix = Image.fromarray(PIXELS[..., :3]).convert("P"), ".png"
        image.info["transparency"] = 0
    image = image or Image.fromarray(PIXELS[..., :3]).convert(mode)
    image.save(tmp_path / f"a{suffix}")
    view = load_view(tmp_path / f"a{suffix}", (8, 6))
    assert (view.shape, view.dtype) == ((6, 8, 3), np.uint8)
    assert view.std() > 10
    if mode != "F":
        assert np.array_equal(view, load_rgb(tmp_path / f"a{suffix}"))


def test_arrays_and_floats_are_stretched(tmp_path):
    whole = load_view(saved(tmp_path / "a.npy", PIXELS), (8, 6))
    assert np.array_equal(whole, PIXELS[..., :3])
    first = load_view(saved(tmp_path / "b.npy", np.moveaxis(PIXELS, -1, 0)), (8, 6))
    assert np.array_equal(first, whole)
    floats = PIXELS[..., 0] / 255.0
    floats[0, 0] = np.nan
    grey = load_view(saved(tmp_path / "c.npy", floats), (8, 6))
    assert grey[0, 0].tolist() == [0, 0, 0]
    assert (grey.min(), grey.max()) == (0, 255)
    cv2.imwrite(str(tmp_path / "d.tif"), (PIXELS[..., :3] / 255).astype(np.float32))
    bgr = load_view(tmp_path / "d.tif", (8, 6)).astype(int)
    low, high = int(PIXELS[..., :3].min()), int(PIXELS[..., :3].max())
    expected = (PIXELS[..., 2::-1].astype(float) - low) / (high - low) * 255
    assert np.abs(bgr - expected).max() <= 1, "red first"


def test_sizes_of_arrays(tmp_path):
    assert wh_on_disk(saved(tmp_path / "a.npy", PIXELS)) == (8, 6)
    assert header_on_disk(saved(tmp_path / "b.npy", np.zeros((3, 20, 30)))).upright == (30, 20)
    assert wh_on_disk(tmp_path / "none.npy") is None


def test_what_nobody_reads_is_grey_and_what_is_damaged_is_said(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"another format")
    assert (load_view(tmp_path / "a.nii", (8, 6)) == 114).all()
    assert as_view(PIXELS, (9, 9)) is None
    content = io.BytesIO()
    Image.fromarray(PIXELS[..., :3]).save(content, "PNG")
    (tmp_path / "b.png").write_bytes(content.getvalue()[:60])
    with pytest.raises(PictureError, match=r"b\.png"):
        load_view(tmp_path / "b.png", (8, 6))
    with pytest.raises(DatasetNotFoundError):
        load_view(tmp_path / "absent.png", (8, 6))
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "c.png")
    with pytest.raises(PictureError, match="annotated at 9x9"):
        load_view(tmp_path / "c.png", (9, 9))
