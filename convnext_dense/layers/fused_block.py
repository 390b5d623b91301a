"""The block's fused inference path: fewer passes over memory, the same outputs.

LayerNorm's affine part goes into the first pointwise weight, the layer scale and GRN's
shift into the second; GELU works in place (inside the product, where oneDNN offers that)
and the residual is added where the result is written. With n the LayerNorm without its
affine part (w, b), g the layer scale and beta GRN's shift:

    W1 (w n + b) + b1        = (W1 w) n + (b1 + W1 b)
    g (W2 (z + beta) + b2)   = (g W2) z + g (b2 + W2 beta)

The folded weights are not parameters: the state dict does not change. They are valid for the
parameters that they were made from, and are dropped or ignored once these change.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convnext_dense.layers import lean_block
from convnext_dense.layers.basic import grn_relative
from convnext_dense.layers.onednn_linear import linear, pack

Backbone = TypeVar("Backbone", bound=nn.Module)


class Folded(NamedTuple):
    """Weights of a block's pointwise part with all linear operations folded in.

    Attributes:
        w1, b1, w2, b2: (4C, C), (4C,), (C, 4C), (C,); the weights are packed.
        grn_gamma: GRN's scale (4C,), or None.
        origin: the original parameters.
        state: addresses and versions of the parameters when they were folded.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    grn_gamma: Tensor | None
    origin: lean_block.Weights
    state: tuple[tuple[int, int], ...]


@torch.no_grad()
def fold(weights: lean_block.Weights, dtype: torch.dtype) -> Folded:
    """Parameters -> folded weights in ``dtype``, that of the products; 16-bit ones are folded in float32."""
    wide = lean_block.Weights._make(
        None if w is None else w.to(torch.promote_types(w.dtype, torch.float32)) for w in weights
    )
    w1, b1 = wide.w1 * wide.norm_weight, wide.b1 + wide.w1 @ wide.norm_bias
    w2, b2 = wide.w2, wide.b2
    if wide.grn_beta is not None:
        b2 = b2 + w2 @ wide.grn_beta.flatten()
    if wide.gamma is not None:
        w2, b2 = wide.gamma[:, None] * w2, wide.gamma * b2
    scale = None if weights.grn_gamma is None else weights.grn_gamma.detach().flatten()
    w1, b1, w2, b2 = (w.to(dtype).contiguous() for w in (w1, b1, w2, b2))
    return Folded(pack(w1), b1, pack(w2), b2, scale, weights, state_of(weights.given()))


def is_current(folded: Folded, weights: lean_block.Weights) -> bool:
    """Whether the parameters are still those that were folded (an edit through ``.data`` is not seen)."""
    same = all(a is b for a, b in zip(folded.origin, weights, strict=True))
    return same and folded.state == state_of(weights.given())


def state_of(tensors: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """Addresses and versions, which tell whether tensors were replaced or written to."""
    # a parameter made in inference mode has no version counter
    return tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in tensors)


def pointwise(folded: Folded, y: Tensor, x: Tensor, eps: float) -> Tensor:
    """Output y (N, H, W, C) of the depthwise convolution, block input x (N, C, H, W) -> (N, C, H, W).

    The result overwrites y if the dtypes allow it: new memory costs time, too.
    """
    output = lean_block.dtypes(y, folded.origin)[2]
    product = folded.w2.dtype
    rows = y.reshape(-1, y.shape[-1])  # (N, H, W, C) -> (N H W, C)
    residual = x.permute(0, 2, 3, 1).reshape(rows.shape)
    dtype = torch.promote_types(output, x.dtype)
    out = rows if rows.dtype == dtype else torch.empty_like(rows, dtype=dtype)
    for piece in lean_block.pieces(y, folded.grn_gamma is not None):
        n = F.layer_norm(rows[piece], rows.shape[1:], eps=eps)
        z = linear(n.to(product), folded.w1, folded.b1, gelu=True)  # C -> 4C
        if folded.grn_gamma is not None:
            a = lean_block.by_sample(z, y)
            response = torch.linalg.vector_norm(a, dim=1, keepdim=True)
            a.mul_(1 + folded.grn_gamma * grn_relative(response))
        torch.add(linear(z, folded.w2, folded.b2), residual[piece], out=out[piece])  # 4C -> C
    return out.view(y.shape).permute(0, 3, 1, 2)  # NHWC -> NCHW, channels-last memory


class FusibleBlock(nn.Module):
    """Keeps a block's folded weights, and drops them when the parameters change or training begins."""

    dwconv: nn.Conv2d
    norm: nn.LayerNorm
    pwconv1: nn.Linear
    grn: nn.Module
    pwconv2: nn.Linear
    gamma: nn.Parameter | None

    _folded: Folded | None = None
    compiled: Callable[[nn.Module, Tensor], Tensor] | None = None
    """What :mod:`convnext_dense.models.compile` made of the pointwise part; it goes before the other ways."""

    def fuse(self) -> None:
        """Fold the current parameters; nothing is folded if a part has hooks or was replaced."""
        bare = lean_block.is_bare(self)
        self._folded = fold(lean_block.weights_of(self), self.pwconv1.weight.dtype) if bare else None

    def unfuse(self) -> None:
        """Drop the folded weights."""
        self._folded = None

    def fused(self, y: Tensor) -> Folded | None:
        """The folded weights in the dtype of the products, if they can replace the parts at this call.

        The first call under autocast folds them again, in half precision. They are not used if gradients are
        recorded, in a trace, or with hooks on a part. y is overwritten, so it must be the output of a
        convolution that nothing else uses.
        """
        folded = self._folded
        if folded is None or self.training or torch.is_grad_enabled():
            return None
        fresh = lean_block.is_plain(self.dwconv, nn.Conv2d)
        if not fresh or not lean_block.is_bare(self) or lean_block.is_watched(y, folded.origin):
            return None
        weights = lean_block.weights_of(self)
        if not is_current(folded, weights):
            return None
        product = lean_block.dtypes(y, weights)[1]
        if folded.w1.dtype != product:
            self._folded = folded = fold(weights, product)
        return folded

    def train(self, mode: bool = True) -> "FusibleBlock":
        """Set the mode; training drops the folded weights."""
        if mode:
            self._folded = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> "FusibleBlock":  # to(), half(), cuda() and similar
        self._folded = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:  # every way of loading calls this
        self._folded = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict:
        """Leave out folded weights and compiled code: a copy, or a model read from a file, has neither."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_folded", "compiled")}


def fuse(model: Backbone) -> Backbone:
    """Fold the weights of every block of ``model``, in place.

    Raises:
        RuntimeError: the model is in training mode.
    """
    if model.training:
        raise RuntimeError("fuse() folds weights for inference; call .eval() on the model before it")
    for module in model.modules():
        if isinstance(module, FusibleBlock):
            module.fuse()
    return model


def unfuse(model: nn.Module) -> None:
    """Drop the folded weights of every block; the model computes as before :func:`fuse`."""
    for module in model.modules():
        if isinstance(module, FusibleBlock):
            module.unfuse()
