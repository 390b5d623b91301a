"""Where a file and PyTorch part: the first module whose output differs.

The exporter notes for each node of the graph which module it comes from. So the outputs of PyTorch's modules
are kept while it runs, the file is made to return what its nodes compute, and the two are compared in the
order in which the modules ran.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from convnext_dense.export.engines import open_model
from convnext_dense.mm.export.check import valid_sizes
from convnext_dense.mm.export.load import Exportable

SCOPES = "pkg.torch.onnx.name_scopes"  # a node's metadata: the path of modules, as a Python list
RELATIVE = 1e-3  # difference as a share of the largest value


def first_difference(
    model: Exportable, proto: onnx.ModelProto, images: np.ndarray, engine: str, folder
) -> str | None:
    """Path of the first module whose output the file does not have; ``None`` if all that can be found agree.

    Args:
        model: what PyTorch runs.
        proto: the model in the file.
        images: (N, 3, H, W) uint8.
        engine: what runs the file.
        folder: for the file with more outputs.
    """
    expected = outputs_of_modules(model, images)
    produced = {name: values_of(proto, name) for name in expected}
    wanted = sorted({value for values in produced.values() for value in values})
    larger = onnx.ModelProto()
    larger.CopyFrom(proto)
    present = {value.name for value in larger.graph.output}
    larger.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in wanted if name not in present
    )
    path = folder / "all_outputs.onnx"
    path.write_bytes(larger.SerializeToString())
    found = open_model(path, engine).run(images, valid_sizes(len(images), model.metadata))
    for name, value in expected.items():
        same_shape = [found[v] for v in produced[name] if v in found and found[v].shape == value.shape]
        if same_shape and not any(agrees(value, candidate) for candidate in same_shape):
            return name
    return None


def agrees(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one shape are equal up to rounding."""
    largest = float(np.abs(a).max(initial=0.0))
    return bool(np.abs(a.astype(np.float64) - b).max(initial=0.0) <= RELATIVE * max(largest, 1e-6))


def outputs_of_modules(model: Exportable, images: np.ndarray) -> dict[str, np.ndarray]:
    """Module -> its output, of those that return one tensor, in the order in which they finish."""
    found: dict[str, np.ndarray] = {}
    handles = []

    def keep(name: str):
        def hook(module: nn.Module, args: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                found[name] = output.detach().float().numpy().copy()

        return hook

    for name, module in model.network.named_modules():
        if name:
            handles.append(module.register_forward_hook(keep(name)))
    try:
        sizes = valid_sizes(len(images), model.metadata)
        with torch.no_grad():
            model.network(torch.from_numpy(images), None if sizes is None else torch.from_numpy(sizes))
    finally:
        for handle in handles:
            handle.remove()
    return found


def values_of(proto: onnx.ModelProto, module: str) -> list[str]:
    """What the nodes of a module compute, without that of the modules inside it."""
    return [value for node in proto.graph.node if _scope(node) == module for value in _floats(node)]


def _scope(node: onnx.NodeProto) -> str | None:
    props = {prop.key: prop.value for prop in node.metadata_props}
    names = [part.strip(" []'\"") for part in props.get(SCOPES, "").split(",")]
    return next((name for name in reversed(names[:-1]) if name), None)


def _floats(node: onnx.NodeProto) -> Iterator[str]:
    return (name for name in node.output[:1] if name)
