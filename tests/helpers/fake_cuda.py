"""CUDA without a card: PyTorch's fake tensors, and a guard that fails on every tensor made on the host.

A fake tensor has a shape, a dtype, strides and a device, but no memory; operations compute these four by
the rules of the real ones. What needs a value (``.item()``, ``bool(tensor)``, ``nonzero``) raises: with a
real card the host would wait there. Autograd's backward pass needs a card: call hand-written gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # as torch.compile and torch.export use it
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA_BUILD = pytest.mark.skipif(
    torch.version.cuda is None or Version(torch.__version__) < Version("2.7") or torch.cuda.is_available(),
    reason="a CPU build of torch, which aborts when CUDA is recorded for autograd, or torch 2.6, which asks "
    "for the card; pip's newer wheels have fake CUDA. Where there is a card, test_gpu.py runs on it: "
    "a process that begins with fake tensors there can die",
)
HALF = (torch.float16, torch.bfloat16)


class HostTensorError(AssertionError):
    """An operation made a tensor outside of CUDA."""


class OnlyCuda(TorchDispatchMode):
    """Fails on every tensor that an operation makes outside of CUDA, with three exceptions.

    - A tensor without dimensions on the CPU: PyTorch treats it as a number in operations with CUDA tensors.
    - A tensor without elements, such as the one to which ``torch.utils.checkpoint`` ties its node.
    - ``torch.tensor(data, device="cuda")`` fills a CPU tensor, whose only use must be the copy to CUDA.
    """

    def __init__(self) -> None:
        super().__init__()
        self.filled: list[Tensor] = []  # by ``torch.tensor``, and not copied yet

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        made = [t for t in tensors if t.device.type != "cuda" and t.dim() and t.numel()]
        if not made:
            if func is torch.ops.aten._to_copy.default:
                self.filled = [t for t in self.filled if t is not args[0]]
            return out
        if func is not torch.ops.aten.lift_fresh.default:
            raise HostTensorError(f"{func} made a tensor of shape {tuple(made[0].shape)} on {made[0].device}")
        self.filled += made
        return out

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        super().__exit__(kind, *rest)
        if kind is None and self.filled:
            raise HostTensorError(f"torch.tensor made {[tuple(t.shape) for t in self.filled]} on the CPU")


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Let operations compute shapes, dtypes and devices only, and fail on a tensor that is not on CUDA."""
    with FakeTensorMode(), OnlyCuda():
        yield


@contextmanager
def autocast_on_cuda(dtype: torch.dtype) -> Iterator[None]:
    """``torch.autocast("cuda", dtype)``, which switches itself off where there is no card."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def like(tensor: Tensor) -> Tensor:
    """A fake CUDA tensor with the shape, dtype and strides of a CPU or meta tensor."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")


def moved(model: nn.Module) -> nn.Module:
    """Replace parameters and buffers of ``model``, which is on the CPU or on meta, by fake CUDA tensors."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(like(parameter), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = like(buffer)
    return model


def facts(out: object) -> list[tuple]:
    """Shape and dtype of every tensor in ``out``, in any nesting."""
    return [(tuple(t.shape), t.dtype) for t in tree_leaves(out) if isinstance(t, Tensor)]
