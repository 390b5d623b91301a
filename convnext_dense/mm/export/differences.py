"""Where a file and PyTorch part: the first module whose output differs.

The exporter notes for each node of the graph which module it comes from. So the outputs of PyTorch's modules
are kept while it runs, the file is made to return what its nodes compute, and the two are compared in the
order in which the modules ran.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from convnext_dense.export.engines import open_model
from convnext_dense.mm.export.check import valid_sizes
from convnext_dense.mm.export.load import Exportable

RELATIVE = 1e-3  # difference as a share of the largest value


def first_difference(
    model: Exportable, path: Path, produced: Mapping[str, Sequence[str]], images: np.ndarray, folder: Path
) -> str | None:
    """Path of the first module whose output the file does not have; ``None`` if all that can be found agree.

    Args:
        model: what PyTorch runs.
        path: the file.
        produced: module -> values that its nodes compute.
        images: (N, 3, H, W) uint8.
        folder: for a file with more outputs.
    """
    expected = outputs_of_modules(model, images)
    larger = onnx.load(path)
    computed = {value for node in larger.graph.node for value in node.output}
    wanted = {value for name in expected for value in produced.get(name, ()) if value in computed}
    present = {value.name for value in larger.graph.output}
    larger.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(value) for value in sorted(wanted - present)
    )
    with_all = folder / "all_outputs.onnx"
    with_all.write_bytes(larger.SerializeToString())
    found = open_model(with_all, "onnxruntime").run(images, valid_sizes(len(images), model.metadata))
    for name, value in expected.items():
        candidates = [found[v] for v in produced.get(name, ()) if v in found]
        same_shape = [candidate for candidate in candidates if candidate.shape == value.shape]
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

    def keep(name: str) -> Callable:
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
