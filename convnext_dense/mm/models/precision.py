"""Half precision -> float32, and regions without autocast."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmengine.utils import apply_to
from torch import Tensor


def to_float32(data: object) -> object:
    """``data`` with its half-precision tensors as float32, inside lists, tuples and dicts too."""
    half = (torch.float16, torch.bfloat16)
    return apply_to(data, lambda x: isinstance(x, Tensor) and x.dtype in half, Tensor.float)


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch autocast off on every kind of device where it is on."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "xpu", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
