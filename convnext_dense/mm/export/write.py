"""Translate a network into ONNX, and write it as one file."""

import ast
import contextlib
import io
import itertools
import logging
import warnings
from pathlib import Path

import onnx
import torch

from convnext_dense.errors import UserError
from convnext_dense.export.metadata import KEY
from convnext_dense.mm.export.load import Exportable
from convnext_dense.mm.export.operators import OPSET, translations

EXAMPLE_HW = (800, 1216)  # of the traced input where sizes are dynamic; the decision what to resize fits it
SCOPES = "pkg.torch.onnx.name_scopes"  # key of a node's note: the path of modules, as a Python list
LARGEST_FILE = 2**31 - 1  # bytes of a protobuf message


def to_onnx(model: Exportable) -> onnx.ModelProto:
    """Trace a network and translate it into standard operators.

    Raises:
        UserError: PyTorch cannot trace it, or an operator has no form in ONNX.
    """
    meta = model.metadata
    hw = meta.fixed_hw or meta.crop_hw or EXAMPLE_HW
    images = torch.zeros(2, 3, *hw, dtype=torch.uint8)  # two, because a one would be taken for a constant
    sizes = torch.tensor([hw, hw]) if meta.fixed_hw else None
    dynamic = torch.export.Dim.DYNAMIC
    free = {0: dynamic} if meta.fixed_hw else {0: dynamic, 2: dynamic, 3: dynamic}
    shapes = {"images": free, "sizes": {0: dynamic} if meta.fixed_hw else None}
    try:
        with _quiet(), torch.no_grad():
            traced = torch.export.export(model.network, (images, sizes), dynamic_shapes=shapes, strict=False)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=OPSET,
                custom_translation_table=translations(),
                input_names=["images", *(["sizes"] if meta.fixed_hw else [])],
                output_names=list(model.outputs),
                verbose=False,
            )
    except Exception as error:  # torch raises many kinds
        text = str(error).strip().splitlines()
        raise UserError(
            f"{meta.recipe} cannot be exported: {type(error).__name__}: {text[0] if text else ''}"
        ) from error
    proto = program.model_proto
    _name_axes(proto)
    describe(proto, model)
    return proto


@contextlib.contextmanager
def _quiet():
    """Without the exporter's progress and its hints about packages that are not needed."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger = logging.getLogger("torch.onnx._internal.exporter")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _name_axes(proto: onnx.ModelProto) -> None:
    """Call what is dynamic ``N``, ``H`` and ``W``, as in the images."""
    images = proto.graph.input[0].type.tensor_type.shape.dim
    names = {images[axis].dim_param: name for axis, name in ((3, "W"), (2, "H"), (0, "N"))}
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names and dim.dim_param:
                dim.dim_param = names[dim.dim_param]


def describe(proto: onnx.ModelProto, model: Exportable) -> None:
    """Put the metadata into the model, in place of an older one."""
    onnx.helper.set_model_props(proto, {KEY: model.metadata.to_json()})
    proto.producer_name, proto.producer_version = "convnext_dense", model.metadata.package


def values_by_module(proto: onnx.ModelProto) -> dict[str, list[str]]:
    """Module -> what its nodes compute, with those of the modules inside it: one of them may come last."""
    found: dict[str, list[str]] = {}
    for node in proto.graph.node:
        notes = {prop.key: prop.value for prop in node.metadata_props}
        path = ast.literal_eval(notes.get(SCOPES, "[]"))[:-1]  # the last is the operation
        for module in filter(None, path):
            found.setdefault(module, []).extend(node.output[:1])
    return found


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Write a model without the exporter's notes, which have lines and paths of the source code.

    Raises:
        UserError: it is too large for one file.
    """
    graph = proto.graph
    noted = (graph.node, graph.input, graph.output, graph.value_info, graph.initializer)
    for each in (graph, *itertools.chain(*noted)):
        del each.metadata_props[:]
    size = proto.ByteSize()
    if size > LARGEST_FILE:
        raise UserError(f"the model has {size / 2**30:.1f} GiB, and an ONNX file at most 2; try --half")
    path.write_bytes(proto.SerializeToString())
