"""Parameters and multiply-accumulates of any module, without data or memory.

A MAC is one multiplication with its addition, counted once: what the paper's
tables call FLOPs. Convolutions, matrix products and attention count; norms,
activations, interpolation and RoIAlign do not.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convnext_dense.models.archs import resolve_arch
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.support.text_tables import aligned


class Complexity(NamedTuple):
    """Size of a model and cost of one forward pass over one image.

    Attributes:
        params: parameters, frozen ones too.
        macs: multiply-accumulates by the definition of the layers, which the paper's tables count.
        shape: (height, width) of the image in pixels.
        computed: multiply-accumulates that this package computes; ``None`` if they are ``macs``.
    """

    params: int
    macs: int
    shape: tuple[int, int]
    computed: int | None = None

    @property
    def params_m(self) -> float:
        """Millions of parameters."""
        return self.params / 1e6

    @property
    def macs_g(self) -> float:
        """Multiply-accumulates in 1e9."""
        return self.macs / 1e9


def count_params(module: nn.Module) -> int:
    """Parameters of ``module``; one that is shared counts once."""
    return sum(param.numel() for param in module.parameters())


def count_macs(forward: Callable[[], object]) -> int:
    """Multiply-accumulates of one call of ``forward``; a model on the ``meta`` device costs no arithmetic."""
    in_place = {torch.ops.aten.baddbmm_: _flops_in_place}  # torch counts the other form alone
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        forward()
    return counter.get_total_flops() // 2


def _flops_in_place(total: torch.Size, left: torch.Size, right: torch.Size, **_: object) -> int:
    """``total.baddbmm_(left, right)``: multiplications and additions; the arguments are shapes."""
    return 2 * math.prod(left) * right[-1]


def classifier_complexity(arch: str, height: int, width: int, classes: int = 1000) -> Complexity:
    """ConvNeXt with its ImageNet head: global average, norm, linear layer (paper, Table 1).

    Args:
        arch: name of the size.
        height, width: size of the image in pixels.
        classes: outputs of the linear layer.

    Raises:
        ValueError: the size is unknown.
    """
    with torch.device("meta"):
        # The output norm stands for the classifier's: the same parameters, and norms have no MACs.
        body = ConvNeXt(arch, out_indices=3)
        head = nn.Linear(resolve_arch(arch).dims[-1], classes)
        image = torch.empty(1, 3, height, width)
    macs = count_macs(lambda: head(body(image)[0].mean((2, 3))))  # (1, C, H, W) -> (1, C) -> (1, classes)
    return Complexity(count_params(body) + count_params(head), macs, (height, width))


class Comparison(NamedTuple):
    """A counted row and the paper's figures, which are ``None`` where nothing is published."""

    name: str
    counted: Complexity
    paper_params_m: float | None = None
    paper_macs_g: float | None = None

    def record(self) -> dict:
        """Plain values, ready for JSON."""
        return dict(
            name=self.name,
            height=self.counted.shape[0],
            width=self.counted.shape[1],
            params=self.counted.params,
            macs=self.counted.macs,
            computed_macs=self.counted.computed or self.counted.macs,
            paper_params_m=self.paper_params_m,
            paper_macs_g=self.paper_macs_g,
        )


def format_table(rows: Sequence[Comparison]) -> str:
    """Rows as aligned text, with the difference from the paper, and the MACs that are really computed."""
    table = [("row", "height x width", "params M", "paper", "diff", "MACs G", "paper", "diff", "computed G")]
    for name, counted, params_m, macs_g in rows:
        size = f"{counted.shape[0]}x{counted.shape[1]}"
        params, macs = _beside(counted.params_m, params_m, 1), _beside(counted.macs_g, macs_g, 2)
        table.append((name, size, *params, *macs, f"{(counted.computed or counted.macs) / 1e9:.2f}"))
    return aligned(table, "lr")


def _beside(counted: float, paper: float | None, digits: int) -> tuple[str, str, str]:
    """Counted figure, paper's figure, difference; dashes where the paper has none."""
    if paper is None:
        return f"{counted:.{digits}f}", "-", "-"
    return f"{counted:.{digits}f}", f"{paper:g}", f"{counted - paper:+.{digits}f}"
