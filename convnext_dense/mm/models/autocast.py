"""Predictions in half precision: products and convolutions under autocast, decisions in float32.

Boxes, proposals, RoIAlign, NMS and logits stay in float32: :mod:`convnext_dense.mm.models.float32`.
"""

import torch
from torch import nn

from convnext_dense.bench.timing import DTYPES
from convnext_dense.errors import UserError


def predict_in(model: nn.Module, dtype: str, device: str) -> str | None:
    """Let ``model.test_step`` run in ``dtype``, also inside wrappers; return the line to log.

    Args:
        model: what the test calls.
        dtype: of the products, a name in ``DTYPES``; ``fp32`` changes nothing.
        device: type of the device, such as ``cpu``.

    Raises:
        UserError: no autocast on such a device.
    """
    if dtype == "fp32":
        return None
    if not torch.amp.is_autocast_available(device):
        raise UserError(f"--dtype {dtype}: torch {torch.__version__} has no autocast on {device}; omit it")
    step = model.test_step

    def step_in_half_precision(*args: object, **kwargs: object) -> object:
        with torch.autocast(device, DTYPES[dtype]):
            return step(*args, **kwargs)

    model.test_step = step_in_half_precision
    line = f"products in {dtype}; boxes, proposals, NMS and logits in fp32"
    if device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001  # no public name
        line += ". This CPU has no bf16 products: expect it to be slower than fp32"
    return line
