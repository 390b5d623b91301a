"""``torch.compile`` of a backbone in place: the pointwise part of each ConvNeXt block.

Detectors have control flow that no compiler follows, so only their backbone is compiled, and of each block
the part after the depthwise convolution, for three reasons. Blocks of one width share their code, so that it
is compiled once per stage. The graph serves all image sizes, also in training: inductor compiles the backward
pass of a convolution for one size only. And stochastic depth, each rate of which makes another graph, stays
outside. The backbone does not change: the same object, the same state dict; a copy of it is not compiled.
"""

import logging
from collections.abc import Callable

import torch
from torch import nn

from convnext_dense.models.convnext import Block

logger = logging.getLogger(__name__)

Backend = str | Callable
GRAPHS_PER_WIDTH = 8  # as dynamo allows for one module: one image or several, training or not, the dtypes


def compile_in_place(backbone: nn.Module, backend: Backend = "inductor") -> bool:
    """Let calls of ``backbone`` run compiled code; it is compiled at the first images.

    Whether that works here, for example whether there is a C++ compiler, is tried first with one small
    block: if not, one warning is logged and nothing changes. Later errors are raised.

    Args:
        backbone: network with ConvNeXt blocks; one without them is compiled as a whole.
        backend: backend of ``torch.compile``.

    Returns:
        whether it will be compiled.
    """
    parameter = next(backbone.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    failure = compiler_failure(device, backend)
    if failure is not None:
        logger.warning("torch.compile: %s; the backbone runs without it", failure[:200])
        return False
    blocks = [module for module in backbone.modules() if isinstance(module, Block)]
    if not blocks:
        backbone.compile(backend=backend)
        return True
    # dynamo's limit is per function, and this function is shared by the blocks of all widths; it is called
    # recompile_limit since torch 2.7, which keeps the older name
    widths = len({block.norm.normalized_shape for block in blocks})
    config = torch._dynamo.config
    config.cache_size_limit = max(config.cache_size_limit, GRAPHS_PER_WIDTH * widths)
    compiled = _compiled(backend)
    for block in blocks:
        block.compiled = compiled
    return True


def compiler_failure(device: torch.device, backend: Backend = "inductor") -> str | None:
    """Run the forward and backward pass of one small compiled block; return the error in one line, if any."""
    with torch.random.fork_rng(devices=[]):  # the first weights of a block are random
        block = Block(8).to(device)
    y = torch.ones(2, 4, 4, 8, device=device, requires_grad=True)
    try:
        _compiled(backend)(block, y).sum().backward()
    except Exception as error:  # compilers raise anything
        cause = getattr(error, "inner_exception", error)
        said = str(cause).strip().split("\n")[0]
        return f"{type(cause).__name__}: {said}".rstrip(": ")
    return None


def _compiled(backend: Backend) -> Callable:
    return torch.compile(Block.pointwise, dynamic=True, backend=backend)
