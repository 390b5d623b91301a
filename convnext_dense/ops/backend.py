"""Lazy access to torchvision: a copy that cannot run its kernels counts as absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Literal

import torch

OpBackend = Literal["torchvision", "portable"]

# AttributeError: a namespace package or a stub named torchvision, without ``.ops``.
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError)


@cache
def torchvision_ops(device_type: str) -> ModuleType | None:
    """``torchvision.ops`` if its kernels run on this kind of device (``"cpu"``, ``"cuda"``...), else None.

    Importing is not enough: a torchvision built for another torch fails at import with ``RuntimeError``,
    one without its C++ library fails at the first call, and a CPU build beside a CUDA torch fails on
    CUDA tensors only. So each op is run once, on a tiny input, for each kind of device.
    """
    try:
        import torchvision.ops as ops

        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device_type)
        roi = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]], device=device_type)
        ops.nms(box, box.new_ones(1), 0.5)
        ops.roi_align(box.new_ones(1, 1, 2, 2), roi, (1, 1), 1.0, 1, True)
    except _BROKEN:
        return None
    return ops


def op_backend(device_type: str | None = None) -> OpBackend:
    """Which kernels serve RoIAlign and NMS.

    Args:
        device_type: ``"cpu"``, ``"cuda"``, ``"mps"``...; by default ``"cuda"`` where there is a GPU,
            else ``"cpu"``. A torchvision may work on one and not on the other.
    """
    if device_type is None:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
    return "portable" if torchvision_ops(device_type) is None else "torchvision"


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the enclosed CPU work without PyTorch's thread pool.

    The portable ops make thousands of calls of some ten microseconds. Splitting those over threads gains
    little on idle cores, and where other processes (such as data loaders) use the cores, each call waits
    at its barrier for a thread that is not running: a measurement showed a hundred times the time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
