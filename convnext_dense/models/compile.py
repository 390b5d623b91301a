"""``torch.compile`` of one module in place: few graphs for all image sizes, and eager mode where it fails.

Detectors have control flow that no compiler follows, so only their backbone is compiled. The
module does not change: the same object, the same state dict; a copy of it is not compiled.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

logger = logging.getLogger(__name__)

Backend = str | Callable
MAX_GRAPHS = 8  # if every image size needs its own graph, compiling never ends


@dataclass
class Compilation:
    """State of a compiled module.

    Attributes:
        graphs: number compiled so far. One serves all sizes; one image instead of several, training instead
            of inference and another dtype each need one more.
        failure: why the module runs uncompiled, or ``None``.
    """

    graphs: int = 0
    failure: str | None = None


def compile_in_place(
    module: nn.Module, dynamic: bool | None = True, backend: Backend = "inductor"
) -> Compilation:
    """Let calls of ``module`` run compiled code; it is compiled at the first call.

    If that fails, for example without a C++ compiler or at more than :data:`MAX_GRAPHS` graphs, one
    warning is logged and the module runs uncompiled. Errors of the module itself are raised as before.

    Args:
        module: module to compile; its state dict and copies do not change.
        dynamic: whether to compile for any image size; ``None`` begins with the size of the first image.
        backend: backend of ``torch.compile``.
    """
    outcome = Compilation()
    module.compile(backend=_counting(backend, outcome), dynamic=dynamic)
    compiled = module._compiled_call_impl

    def guarded(*args, **kwargs):
        try:
            return compiled(*args, **kwargs)
        except Exception as error:  # compilers raise anything
            result = module._call_impl(*args, **kwargs)  # raises here if the call itself was wrong
            cause = getattr(error, "inner_exception", error)
            said = str(cause).strip().split("\n")[0]
            _give_up(module, outcome, f"{type(cause).__name__}: {said}".rstrip(": "))
            return result

    module._compiled_call_impl = guarded  # nn.Module calls this first; not in copies and pickles
    return outcome


def _counting(backend: Backend, outcome: Compilation) -> Callable:
    """The backend, with each graph counted and logged."""

    def compile_graph(graph: torch.fx.GraphModule, inputs: Sequence) -> Callable:
        if outcome.graphs == MAX_GRAPHS:
            raise RuntimeError(f"more than {MAX_GRAPHS} graphs, because image sizes keep changing")
        outcome.graphs += 1
        logger.info("torch.compile: graph %d of the backbone", outcome.graphs)
        found = torch._dynamo.lookup_backend(backend) if isinstance(backend, str) else backend
        return found(graph, inputs)

    return compile_graph


def _give_up(module: nn.Module, outcome: Compilation, reason: str) -> None:
    outcome.failure = reason
    module._compiled_call_impl = None
    logger.warning("torch.compile: %s; the backbone runs without it", reason[:200])
