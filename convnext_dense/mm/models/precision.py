"""Half precision -> float32, and regions without autocast."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from mmengine.utils import apply_to
from torch import Tensor


def to_float32(data: object) -> object:
    """Convert half-precision tensors in ``data`` to float32, also inside lists, tuples and dicts."""
    half = (torch.float16, torch.bfloat16)
    return apply_to(data, lambda x: isinstance(x, Tensor) and x.dtype in half, Tensor.float)


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch autocast off on every device type where it is on."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "xpu", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
