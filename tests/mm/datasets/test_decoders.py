"""Files are read as the config reads them: other decoders, other channels, loaders of the user's own."""

import io
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from PIL import Image

from convnext_dense.data.check import PairCheck
from convnext_dense.data.image_headers import PictureError
from convnext_dense.errors import DenseError, UserError
from convnext_dense.mm.datasets.decoders import (
    build_loader,
    decode,
    has_picture_maps,
    header_reader,
    need_decoder,
)
from convnext_dense.mm.datasets.repair import check_pipelines
from convnext_dense.mm.datasets.transforms import BadInputError, Dropped, LoadOwnImage

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 5), np.uint8)
NPY = b"\x93NUMPY"


@pytest.fixture
def tifffile(monkeypatch):
    """What mmcv takes for tifffile, which need not be installed: it reads numpy's files."""
    fake = SimpleNamespace(imread=lambda file: np.load(file, allow_pickle=False))
    monkeypatch.setattr(mmcv.image.io, "tifffile", fake)


def encoded(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def turned(orientation=6):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS[..., :3]).save(file, "PNG", exif=exif)
    return file.getvalue()


def test_what_the_decoder_of_the_config_reads(tifffile):
    assert np.array_equal(decode(encoded(PIXELS), "unchanged", "tifffile", (8, 6)), PIXELS)
    floats = (PIXELS[..., :4] / 255).astype(np.float32)
    content = cv2.imencode(".tiff", floats)[1].tobytes()
    assert np.array_equal(decode(content, "unchanged", "cv2"), floats)
    with pytest.raises(PictureError, match="color_type='unchanged' reads other channels"):
        decode(encoded(PIXELS), "color", "cv2")
    with pytest.raises(PictureError):
        decode(b"nothing", "unchanged", "tifffile")
    with pytest.raises(PictureError, match="the file is empty"):
        decode(b"", "unchanged", "tifffile")
    with pytest.raises(PictureError, match="8x6 pixels, but was annotated at 9x9"):
        decode(encoded(PIXELS), "unchanged", "tifffile", (9, 9))


@pytest.mark.parametrize("color_type", ["unchanged", "grayscale", "color_ignore_orientation"])
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
def test_the_orientation_of_the_annotations(color_type, backend):
    for wh in ((8, 6), (6, 8)):
        assert decode(turned(), color_type, backend, wh).shape[1::-1] == wh
    plain = io.BytesIO()
    Image.fromarray(PIXELS[..., :3]).save(plain, "PNG")
    expected = mmcv.imfrombytes(plain.getvalue(), flag=color_type, backend=backend)
    assert np.array_equal(decode(turned(), color_type, backend, (8, 6)), expected)


def test_packages_and_names_of_decoders(monkeypatch):
    import convnext_dense.mm.datasets.decoders as module

    def absent(name, purpose, package=None):
        raise UserError(f"{purpose} needs {name}")

    monkeypatch.setattr(module, "optional", absent)
    monkeypatch.setattr(mmcv.image.io, "tifffile", None)
    with pytest.raises(DenseError, match="imdecode_backend='tifffile' needs tifffile"):
        build_loader(dict(type="LoadImageFromFile", imdecode_backend="tifffile"), "mmseg")
    with pytest.raises(UserError, match="imdecode_backend='gdal' of LoadImageFromFile; use one of"):
        need_decoder("gdal")
    need_decoder("cv2")


def test_sizes_come_from_headers_or_from_the_decoder(tmp_path, tifffile):
    plain = [dict(type="LoadImageFromFile")]
    other = [dict(type="LoadImageFromFile", color_type="unchanged", imdecode_backend="tifffile")]
    path = tmp_path / "a.tif"
    path.write_bytes(encoded(PIXELS))
    with pytest.raises(PictureError, match="not an image file"):
        header_reader(plain, "mmseg")(path)
    assert header_reader(other, "mmseg")(path).upright == (8, 6)
    Image.fromarray(np.ones((6, 8), np.uint8)).save(tmp_path / "a.png")
    check = PairCheck(3, header_of=header_reader(other, "mmseg"))
    check.add(path, tmp_path / "a.png")
    assert check.problems() == []


@TRANSFORMS.register_module()
class ReadTestArray(BaseTransform):
    def transform(self, results):
        results["img"] = np.load(results["img_path"])
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results


@TRANSFORMS.register_module()
class ReadTestPair(BaseTransform):
    def transform(self, results):
        return {"img": np.load(results["img_path2"])}


def test_loaders_of_the_users_own(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(encoded(PIXELS))
    bad = tmp_path / "b.npy"
    bad.write_bytes(NPY)
    read = header_reader([dict(type="ReadTestArray")], "mmseg")
    assert read(path).upright == (8, 6)
    with pytest.raises(PictureError):
        read(bad)
    assert header_reader([dict(type="ReadTestPair")], "mmseg")(path) is None, "it needs more than a path"
    pipeline = [dict(type="ReadTestArray"), dict(type="LoadTestAnnotations")]
    assert not has_picture_maps(pipeline)
    assert has_picture_maps(pipeline[:1])
    with pytest.raises(UserError, match="NoLoader of the pipeline cannot be built"):
        header_reader([dict(type="NoLoader")], "mmseg")


def test_a_bad_file_of_an_own_loader_is_named_and_left_out(tmp_path):
    bad = tmp_path / "b.npy"
    bad.write_bytes(NPY)
    dropped = Dropped()
    inner = dict(type="Any", pipeline=[dict(type="ReadTestArray"), dict(type="PackSegInputs")])
    data = dict(type="MultiImageMixDataset", dataset=inner, pipeline=[dict(type="Mosaic")])
    for _ in range(2):
        check_pipelines(data, dropped)
    assert [step["type"] for step in inner["pipeline"]] == ["LoadOwnImage", "PackSegInputs"]
    assert data["pipeline"] == [dict(type="Mosaic")]
    load = TRANSFORMS.build(dict(inner["pipeline"][0]))
    assert load(dict(img_path=str(bad))) is None
    assert [path for path, _ in dropped.take()] == [str(bad)]
    with pytest.raises(BadInputError, match=r"image .*none\.npy: No such file"):
        LoadOwnImage(dict(type="ReadTestArray"))(dict(img_path=str(tmp_path / "none.npy")))
