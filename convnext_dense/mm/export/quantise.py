"""Half precision and 8-bit integers: smaller files, whose accuracy is measured and not promised."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch

from convnext_dense.errors import DenseError, UserError
from convnext_dense.export.metadata import KEY, Metadata
from convnext_dense.export.runtime import Predictor
from convnext_dense.mm.export.load import Exportable
from convnext_dense.support.optional_packages import optional

QUANTISED = ["Conv", "Gemm", "MatMul"]


def in_half(model: Exportable) -> Exportable:
    """The model with weights and products in float16; boxes, scores, NMS and logits stay in float32.

    Raises:
        UserError: a network whose modules do not run in float16.
    """
    network = model.network
    network.model.half()  # type: ignore[union-attr, operator]
    metadata = dataclasses.replace(model.metadata, precision="fp16")
    return model._replace(network=network, metadata=metadata)


class Recorder:
    """An engine that keeps the inputs of the network while the runtime predicts on pictures."""

    def __init__(self, predictor: Predictor) -> None:
        self.engine, self.inputs = predictor.engine, []
        predictor.engine = self

    def run(self, images: np.ndarray, sizes: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Run the network, and keep its inputs."""
        feeds = {"images": np.ascontiguousarray(images)}
        self.inputs.append(feeds if sizes is None else {**feeds, "sizes": sizes})
        return self.engine.run(images, sizes)


def calibration_inputs(path: Path, pictures: Iterable[Path]) -> Iterator[dict[str, np.ndarray]]:
    """What the network of a file gets to see of pictures, one input at a time; bad pictures are left out."""
    predictor = Predictor(path, "onnxruntime")
    recorder = Recorder(predictor)  # type: ignore[arg-type]
    for picture in pictures:
        with contextlib.suppress(DenseError, OSError):
            predictor(picture)
        yield from recorder.inputs
        recorder.inputs.clear()


def products_of_activations(proto: onnx.ModelProto) -> list[str]:
    """Nodes that multiply two results, such as what resizes a map: these stay in float32."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type in QUANTISED and not {node.input[0], node.input[1]} & weights
    ]


def to_int8(path: Path, target: Path, pictures: Iterable[Path]) -> None:
    """Quantise a file with onnxruntime's static quantisation: int8 weights per channel, uint8 activations.

    Args:
        path: file in float32.
        target: file to write.
        pictures: images that the ranges of the activations are measured on.

    Raises:
        UserError: no picture that can be read.
        MissingPackageError: onnxruntime is not installed.
    """
    tools = optional("onnxruntime.quantization", "int8", "onnxruntime")
    inputs = calibration_inputs(path, pictures)
    if (first := next(inputs, None)) is None:
        raise UserError(
            "int8 needs pictures to measure ranges on, and none can be read; give --calibration FOLDER"
        )
    feeds = itertools.chain([first], inputs)

    class Reader(tools.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(feeds, None)

    reader, proto = Reader(), onnx.load(path)
    tools.quantize_static(
        str(path),
        str(target),
        reader,
        quant_format=tools.QuantFormat.QDQ,
        op_types_to_quantize=QUANTISED,
        nodes_to_exclude=products_of_activations(proto),
        per_channel=True,
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
    )
    quantised = onnx.load(target)
    metadata = Metadata.from_json({prop.key: prop.value for prop in proto.metadata_props}[KEY])
    onnx.helper.set_model_props(quantised, {KEY: dataclasses.replace(metadata, precision="int8").to_json()})
    target.write_bytes(quantised.SerializeToString())


def spread(paths: list[Path], count: int) -> list[Path]:
    """At most ``count`` of the paths, evenly spread."""
    places = torch.linspace(0, len(paths) - 1, min(count, len(paths))).round().long().tolist()
    return [paths[place] for place in places]
