"""Whole models in the engines that users would take instead: exported files in ONNX Runtime and OpenVINO."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from convnext_dense.bench.timing import Conditions, Subject
from convnext_dense.errors import DenseError
from convnext_dense.export.engines import open_model
from convnext_dense.export.masks import paste_masks
from convnext_dense.mm.bench.models import build_model, config_of, spread_boxes
from convnext_dense.mm.models.complexity import MASK_ROIS

ENGINES = ("onnxruntime", "openvino")


def engine_subject(name: str, engine: str, conditions: Conditions) -> Subject | str:
    """The inference of a row's model by an engine; or the reason why it is left out.

    The file has random weights and one size of input. A detector has 1000 proposals through its box heads and
    100 RoIs through its mask heads for every image, as the others have here; 100 masks are pasted.

    Args:
        name: row or recipe.
        engine: one of :data:`ENGINES`.
        conditions: device, dtype and threads of the comparison.
    """
    if conditions.dtype != "fp32" or conditions.device.type != "cpu":
        return f"left out {engine}: it is measured in fp32 on a CPU"
    try:
        from convnext_dense.mm.export.load import exportable
        from convnext_dense.mm.export.write import save, to_onnx

        model = exportable(build_model(name), config_of(name), {}, name, conditions.shape)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            save(to_onnx(model), path)
            network = open_model(path, engine, torch.get_num_threads())
    except (ImportError, DenseError) as error:
        return f"left out {engine}: {error}"
    size = (conditions.batch, 3, *conditions.shape)
    images = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    sizes = np.array([conditions.shape] * conditions.batch, np.int64)
    boxes = spread_boxes(MASK_ROIS, torch.empty(1, 3, *conditions.shape)).numpy()

    def infer() -> None:
        found = network.run(images, sizes)
        for masks in found.get("masks", ()):
            paste_masks(masks[: len(boxes)], boxes[: len(masks)], conditions.shape, 0.5)

    label = f"{name}, {network.name}"
    return Subject(label, False, infer, None, torch.nn.Identity(), torch.empty(0), dict(row=name))
