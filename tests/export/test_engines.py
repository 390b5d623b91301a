"""Both engines run the same file, read its metadata, and refuse others in one line."""

import importlib.util
import sys

import numpy as np
import pytest
from onnx_models import detector, segmentor, write_model

from convnext_dense.errors import MissingPackageError, UserError
from convnext_dense.export.engines import open_model, usable_cores

ENGINES = [
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is absent"),
    ),
]
WEIGHT = np.array([[1, 0, 0], [0, 2, 0], [0.5, 0.5, 1]])
BIAS = np.array([0, -3, 1])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_outputs_are_those_of_the_formula(tmp_path, engine):
    model = open_model(segmentor(tmp_path / "m.onnx", WEIGHT, BIAS), engine, threads=1)
    assert model.name.startswith(engine) and '"segmentor"' in model.metadata_text
    for n, h, w in ((1, 5, 7), (2, 3, 4)):
        images = np.random.default_rng(0).integers(0, 256, (n, 3, h, w), np.uint8)
        outputs = model.run(images)
        expected = np.einsum("oc,nchw->nohw", WEIGHT, images) + BIAS[:, None, None]
        assert list(outputs) == ["logits"]
        np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_later_run_leaves_earlier_outputs_alone(tmp_path, engine):
    model = open_model(segmentor(tmp_path / "m.onnx", WEIGHT, BIAS), engine, threads=1)
    first = model.run(np.full((1, 3, 4, 4), 200, np.uint8))["logits"]
    kept = first.copy()
    model.run(np.zeros((1, 3, 4, 4), np.uint8))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("engine", ENGINES)
def test_all_outputs_of_a_detector(tmp_path, engine):
    path = detector(tmp_path / "m.onnx", [[1, 2, 3, 4]], [0.5], [2], np.ones((1, 28, 28)))
    outputs = open_model(path, engine, threads=1).run(np.zeros((1, 3, 4, 4), np.uint8))
    assert {name: array.shape for name, array in outputs.items()} == {
        "boxes": (1, 5, 4),
        "scores": (1, 5),
        "labels": (1, 5),
        "count": (1,),
        "masks": (1, 5, 28, 28),
    }
    assert outputs["labels"].tolist() == [[2, -1, -1, -1, -1]] and outputs["count"] == [1]


@pytest.mark.parametrize("engine", ENGINES)
def test_files_that_are_no_models(tmp_path, engine):
    whole = segmentor(tmp_path / "m.onnx", WEIGHT, BIAS).read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("hello")
    for name in ("half.onnx", "text.onnx"):
        with pytest.raises(UserError, match=f"{name}: .* cannot load it") as caught:
            open_model(tmp_path / name, engine, threads=1)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no model at"):
        open_model(tmp_path / "absent.onnx", engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_of_another_program_has_no_metadata(tmp_path, engine):
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Cast", ["images"], ["y"], to=TensorProto.FLOAT)]
    path = write_model(tmp_path / "m.onnx", nodes, [("y", TensorProto.FLOAT, ["N", 3, "H", "W"])], {}, None)
    assert open_model(path, engine, threads=1).metadata_text is None


def test_what_is_missing_is_named_with_the_command(tmp_path, monkeypatch):
    path = segmentor(tmp_path / "m.onnx", WEIGHT, BIAS)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"needs onnxruntime.*; pip install onnxruntime") as caught:
        open_model(path, "onnxruntime")
    assert "convnext_dense[runtime]" in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingPackageError, match="onnxruntime"):
        open_model(path)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is absent")
def test_auto_takes_openvino_where_only_that_is_installed(tmp_path, monkeypatch):
    path = segmentor(tmp_path / "m.onnx", WEIGHT, BIAS)
    assert open_model(path, threads=1).name.startswith("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert open_model(path, threads=1).name.startswith("openvino")


def test_unknown_names(tmp_path):
    path = segmentor(tmp_path / "m.onnx", WEIGHT, BIAS)
    with pytest.raises(UserError, match="engine='tvm'; use one of"):
        open_model(path, "tvm")
    with pytest.raises(
        UserError, match=r"providers=.*'Abacus'.*: this onnxruntime has .*CPUExecutionProvider"
    ):
        open_model(path, "onnxruntime", providers=["Abacus"])
    with pytest.raises(UserError, match="are ONNX Runtime's"):
        open_model(path, "openvino", providers=["CUDAExecutionProvider"])
    assert usable_cores() >= 1
