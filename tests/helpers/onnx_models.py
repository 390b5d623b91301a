"""Small ONNX files by hand, with the inputs, outputs and metadata of exported models."""

from pathlib import Path

import numpy as np
import pytest

from convnext_dense.export.metadata import KEY, Metadata

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto

CLASSES = ("ground", "thing", "other")
PALETTE = ((0, 0, 0), (250, 60, 20), (20, 60, 250))


def metadata(kind: str, **entries) -> Metadata:
    """Metadata of a small model with three classes."""
    common = dict(
        package="0.1.0",
        torch="2.13.0",
        opset=20,
        recipe="demo/by_hand",
        kind=kind,
        classes=CLASSES,
        palette=PALETTE,
        scale=(96, 64),
        keep_ratio=True,
        size_divisor=32,
    )
    return Metadata(**{**common, **entries})


def write_model(path: Path, nodes: list, outputs: list, constants: dict, meta: Metadata | str | None) -> Path:
    """Write a model with the input ``images``, and ``sizes`` where the metadata have a fixed size.

    Args:
        outputs: (name, element type, shape) of each.
        constants: arrays by name.
        meta: metadata, or their text, or none.
    """
    fixed = meta.fixed_hw if isinstance(meta, Metadata) else None
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 3, *(fixed or ("H", "W"))]),
    ]
    if fixed:
        inputs.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, ["N", 2]))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    infos = [helper.make_tensor_value_info(*output) for output in outputs]
    graph = helper.make_graph(nodes, "by_hand", inputs, infos, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if meta is not None:
        helper.set_model_props(model, {KEY: meta if isinstance(meta, str) else meta.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def detector(path: Path, boxes, scores, labels, masks=None, rows: int = 5, **entries) -> Path:
    """A detector that finds the same in each image; ``rows`` of output, those without a detection padded."""
    count = len(boxes)
    arrays = {
        "boxes": np.zeros((1, rows, 4), np.float32),
        "scores": np.zeros((1, rows), np.float32),
        "labels": np.full((1, rows), -1, np.int64),
        "count": np.array([count], np.int64),
    }
    for name, values in (("boxes", boxes), ("scores", scores), ("labels", labels)):
        arrays[name][0, :count] = np.asarray(values).reshape(arrays[name][0, :count].shape)
    if masks is not None:
        arrays["masks"] = np.zeros((1, rows, 28, 28), np.float32)
        arrays["masks"][0, :count] = masks
    types = {"boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT, "masks": TensorProto.FLOAT}
    meta = metadata("detector", **{"masks": masks is not None, "max_per_image": rows, **entries})
    constants = {f"{name}_value": array for name, array in arrays.items()}
    nodes = [helper.make_node("Identity", [f"{name}_value"], [name]) for name in arrays]
    outputs = [(name, types.get(name, TensorProto.INT64), array.shape) for name, array in arrays.items()]
    return write_model(path, nodes, outputs, constants, meta)


def whole_image_detector(path: Path, hw: tuple[int, int]) -> Path:
    """A detector of one fixed size that finds one object: all of the image, as `sizes` has it."""
    nodes = [
        helper.make_node("Cast", ["sizes"], ["hw"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["hw", "order"], ["x2y2"], axis=1),
        helper.make_node("Concat", ["x1y1", "x2y2"], ["flat"], axis=1),
        helper.make_node("Unsqueeze", ["flat", "one"], ["boxes"]),
        *(helper.make_node("Identity", [f"{name}_value"], [name]) for name in ("scores", "labels", "count")),
    ]
    constants = {
        "order": np.array([1, 0], np.int64),
        "x1y1": np.zeros((1, 2), np.float32),
        "one": np.array([1], np.int64),
        "scores_value": np.array([[0.9]], np.float32),
        "labels_value": np.array([[1]], np.int64),
        "count_value": np.array([1], np.int64),
    }
    outputs = [
        ("boxes", TensorProto.FLOAT, ["N", 1, 4]),
        ("scores", TensorProto.FLOAT, [1, 1]),
        ("labels", TensorProto.INT64, [1, 1]),
        ("count", TensorProto.INT64, [1]),
    ]
    return write_model(path, nodes, outputs, constants, metadata("detector", fixed_hw=hw))


def segmentor(path: Path, weight: np.ndarray, bias: np.ndarray, **entries) -> Path:
    """A segmentor whose logits are a 1x1 convolution of the pixels; ``output="labels"`` adds an argmax.

    Args:
        weight: (C, 3).
        bias: (C,).
    """
    meta = metadata("segmentor", **entries)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "weight", "bias"], ["logits"]),
    ]
    hw = meta.fixed_hw or ("H", "W")
    outputs = [("logits", TensorProto.FLOAT, ["N", len(weight), *hw])]
    if meta.output == "labels":
        nodes.append(helper.make_node("ArgMax", ["logits"], ["labels"], axis=1, keepdims=0))
        outputs = [("labels", TensorProto.INT64, ["N", *hw])]
    constants = {"weight": np.float32(weight)[:, :, None, None], "bias": np.float32(bias)}
    return write_model(path, nodes, outputs, constants, meta)
