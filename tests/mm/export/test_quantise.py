"""Calibration on a folder with bad pictures, and int8 of a small network against its float32."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import onnx_models
from PIL import Image

from convnext_dense.errors import UserError
from convnext_dense.export.runtime import Predictor
from convnext_dense.mm.export.quantise import calibration_inputs, spread, to_int8


@pytest.fixture
def pictures(tmp_path):
    """Two good pictures, and between them one that is none, and one that is missing."""
    paths = [tmp_path / name for name in ("a.png", "bad.png", "missing.png", "z.png")]
    for seed, path in enumerate((paths[0], paths[3])):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    paths[1].write_text("broken")
    return paths


@pytest.fixture
def model(tmp_path):
    weight = np.random.default_rng(2).normal(0, 0.01, (3, 3)).astype(np.float32)
    return onnx_models.segmentor(tmp_path / "m.onnx", weight, np.zeros(3, np.float32))


def test_bad_pictures_are_left_out(model, pictures):
    assert len(list(calibration_inputs(model, pictures))) == 2


def test_int8_is_close_and_says_what_it_is(model, pictures, tmp_path):
    to_int8(model, tmp_path / "small.onnx", pictures)
    exact, small = Predictor(model, "onnxruntime"), Predictor(tmp_path / "small.onnx", "onnxruntime")
    assert (exact.metadata.precision, small.metadata.precision) == ("fp32", "int8")
    labels = [predictor(pictures[0])["label_map"] for predictor in (exact, small)]
    assert (labels[0] == labels[1]).mean() > 0.9


def test_nothing_to_measure_on_is_one_line(model, pictures, tmp_path):
    with pytest.raises(UserError, match=r"none can be read.*--calibration FOLDER"):
        to_int8(model, tmp_path / "small.onnx", pictures[1:3])
    assert not (tmp_path / "small.onnx").exists()


def test_pictures_are_spread_over_all():
    assert spread(list(range(101)), 5) == [0, 25, 50, 75, 100] and spread([1, 2], 5) == [1, 2]
