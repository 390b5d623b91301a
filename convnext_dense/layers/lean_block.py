"""The block's pointwise part with half the usual memory in training, and hand-written gradients.

The part maps x (N, H, W, C), the output of the depthwise convolution, to

    n = LayerNorm(x)        (N, H, W, C)
    h = n W1' + b1          (N, H, W, 4C)
    a = GELU(h)
    z = a                   or with V2's GRN, z = s a + beta
    y = g (z W2' + b2)      (N, H, W, C), g the layer scale, or 1

Autograd would keep x, n, h, a and the product that g scales: eleven times C numbers per
position. This module keeps x and h (five times C; ``leaner``: x alone). n and a are
recomputed by an elementwise pass each, and h by one product. With d the gradient of y and the
layer scale folded into the second product, nothing of y is needed:

    D = d' z                dW2 = g D,  db2 = g sum(d),  dg = sum(D W2) + b2 sum(d)
    dz = d (g W2)           da = dz, or GRN's (see :func:`_grn_backward`)
    dh = GELU'(h) da        dW1 = dh' n,  db1 = sum(dh),  dn = dh W1

and LayerNorm's own backward gives dx. On a CPU all of it runs over a few thousand
positions at a time, so that no full-size temporary of 4C channels is made: new
memory of that size costs as much time there as the product that fills it.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional as F
from torch.nn import modules as hooks

from convnext_dense.errors import ArgumentError
from convnext_dense.layers.basic import GRN, GRN_EPS, grn_relative
from convnext_dense.layers.onednn_linear import linear

Memory = Literal["plain", "lean", "leaner"]
MEMORY: tuple[str, ...] = ("plain", "lean", "leaner")

POSITIONS = 1024  # positions that a CPU thread works on at a time: with 4 x 96 channels of float32, 1.5 MiB

_is_compiling = getattr(torch.compiler, "is_compiling", lambda: False)  # the oldest releases lack it


class Block(Protocol):
    """The parts of a block after its depthwise convolution."""

    norm: nn.LayerNorm
    pwconv1: nn.Linear
    grn: nn.Module
    pwconv2: nn.Linear
    gamma: nn.Parameter | None


class Weights(NamedTuple):
    """Parameters of the pointwise part; ``None`` where a block has none."""

    norm_weight: Tensor
    norm_bias: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    gamma: Tensor | None
    grn_gamma: Tensor | None
    grn_beta: Tensor | None

    @property
    def grn(self) -> tuple[Tensor, Tensor] | None:
        """GRN's scale and shift."""
        if self.grn_gamma is None or self.grn_beta is None:
            return None
        return self.grn_gamma, self.grn_beta

    def given(self) -> list[Tensor]:
        """The parameters that are not ``None``."""
        return [w for w in self if w is not None]


class Plan(NamedTuple):
    """Settings that do not depend on values.

    Attributes:
        eps: epsilon of the LayerNorm.
        keep_hidden: keep h for the backward pass instead of computing it again.
        norm, product, output: dtypes of n, of both products and of y.
    """

    eps: float
    keep_hidden: bool
    norm: torch.dtype
    product: torch.dtype
    output: torch.dtype


def resolve_memory(memory: str) -> str:
    """Return ``memory`` after validating it.

    Raises:
        ValueError: ``memory`` is not in :data:`MEMORY`.
    """
    if memory not in MEMORY:
        raise ArgumentError(f"memory={memory!r}; use one of {MEMORY}")
    return memory


def weights_of(block: Block) -> Weights:
    """A block's parameters after its depthwise convolution."""
    scale, shift = (block.grn.gamma, block.grn.beta) if isinstance(block.grn, GRN) else (None, None)
    norm, first, second = block.norm, block.pwconv1, block.pwconv2
    return Weights(
        norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias,
        block.gamma, scale, shift,
    )  # fmt: skip


def is_bare(block: Block) -> bool:
    """Whether calling the block's parts one by one does no more than the equations above.

    This is false with hooks on a part or on all modules, a replaced part (LoRA, quantisation, parametrised
    weights) or parameters of a tensor subclass: then the parts must be called.
    """
    if hooks.module._global_forward_hooks or hooks.module._global_forward_pre_hooks:
        return False
    kinds = ((block.norm, nn.LayerNorm), (block.pwconv1, nn.Linear), (block.pwconv2, nn.Linear))
    grn = (block.grn, GRN if isinstance(block.grn, GRN) else nn.Identity)
    plain = all(is_plain(part, kind) for part, kind in (*kinds, grn))
    return plain and all(type(w) in (Tensor, nn.Parameter) for w in weights_of(block).given())


def is_plain(part: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``part`` is a ``kind``, not a subclass, without hooks."""
    hooks_of = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    return type(part) is kind and not any(hooks_of)


def is_watched(x: Tensor, weights: Weights) -> bool:
    """Whether a compiler, an exporter, functorch or forward-mode AD needs to see plain operations."""
    return (
        _is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or any(unpack_dual(t).tangent is not None for t in (x, *weights.given()))
    )


def applies(block: Block, x: Tensor) -> bool:
    """Whether the hand-written gradients can replace autograd's at this call."""
    if not torch.is_grad_enabled() or not is_bare(block):
        return False
    weights = weights_of(block)
    return any(t.requires_grad for t in (x, *weights.given())) and not is_watched(x, weights)


def pointwise(block: Block, x: Tensor, memory: str) -> Tensor:
    """(N, H, W, C), contiguous -> (N, H, W, C): the block after its depthwise convolution."""
    weights = weights_of(block)
    plan = Plan(block.norm.eps, memory == "lean", *dtypes(x, weights))
    return _Pointwise.apply(plan, x, *weights)


def dtypes(x: Tensor, weights: Weights) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
    """Dtypes of n, of the products and of y, as the block's parts would choose them here.

    Autocast's rules differ between devices and releases, so empty tensors are sent through them.
    """
    norm = F.layer_norm(x.new_empty(0, 1), (1,)).dtype
    product = F.linear(x.new_empty(0, 1, dtype=norm), weights.w1.new_empty(1, 1)).dtype
    scale = product if weights.gamma is None else weights.gamma.dtype
    return norm, product, torch.promote_types(product, scale)


def pieces(x: Tensor, whole_samples: bool) -> Iterator[slice]:
    """Ranges of positions to work on at a time, of (N, H, W, C) seen as (N H W, C).

    Only a CPU gains from this. GRN needs all positions of a sample at once.
    """
    count = step = x.shape[:-1].numel()
    if x.device.type == "cpu":
        step = x.shape[1:-1].numel() if whole_samples else torch.get_num_threads() * POSITIONS
    for start in range(0, count, max(step, 1)):
        yield slice(start, min(start + step, count))


def _with_piece(whole: Tensor, piece: slice, part: Tensor, count: int) -> Tensor:
    """(rows so far or none, C), (rows of the piece, C) -> (count, C): no copy of a piece that is all of it.

    On a GPU every piece is, and there a pass over memory is what costs time.
    """
    if len(part) == count:
        return part.to(whole.dtype)
    if len(whole) < count:
        whole = whole.new_empty(count, whole.shape[1])
    whole[piece] = part
    return whole


def split_scale(gamma: Tensor | None, product: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Layer scale -> the factor to fold into the second product and the one to apply after it.

    All is folded, except in 16 bits: a layer scale of 1e-6 times a weight of 0.02 is 0 in
    float16. There the fold keeps only the zeros. The other factor must not have zeros,
    because the gradient of the layer scale divides by it.
    """
    if gamma is None or torch.finfo(product).bits > 16:
        return gamma, None
    return (gamma != 0).to(gamma.dtype), gamma.masked_fill(gamma == 0, 1.0)


class _Pointwise(torch.autograd.Function):
    """The equations of this module; x (N, H, W, C) -> y (N, H, W, C)."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, *parameters: Tensor | None) -> Tensor:
        weights = Weights._make(parameters)
        fold, scale = split_scale(weights.gamma, plan.product)
        w2, b2 = _folded(weights, fold, plan.product)
        w1, b1 = weights.w1.to(plan.product), weights.b1.to(plan.product)
        rows = x.reshape(-1, x.shape[-1])  # (N, H, W, C) -> (N H W, C)
        hidden = rows.new_empty((len(rows), len(w1)), dtype=plan.product) if plan.keep_hidden else None
        y = rows.new_empty((0, x.shape[-1]), dtype=plan.output)
        for piece in pieces(x, weights.grn_gamma is not None):
            n = F.layer_norm(rows[piece].to(plan.norm), x.shape[-1:], *weights[:2], plan.eps)
            n = n.to(plan.product)
            h = linear(n, w1, b1) if hidden is None else torch.addmm(b1, n, w1.t(), out=hidden[piece])
            z = F.gelu(h)
            if weights.grn is not None:
                z = _grn(by_sample(z, x), *weights.grn)[0].view_as(z).to(plan.product)
            product = linear(z, w2, b2)
            y = _with_piece(y, piece, product if scale is None else product * scale, len(rows))
        ctx.plan = plan
        ctx.save_for_backward(x, hidden, *parameters)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, *parameters = ctx.saved_tensors
        needed = dict(zip(("x", *Weights._fields), ctx.needs_input_grad[1:], strict=True))
        with torch.no_grad(), _no_autocast(x.device.type):  # backward() may be called inside autocast
            grads = _backward(ctx.plan, grad, x, hidden, Weights._make(parameters), needed)
        if torch.is_grad_enabled():  # create_graph=True: refuse when these gradients are differentiated
            grads = _Once.apply(len(grads), *grads, grad, x, *parameters)
        return (None, *grads)


def _no_autocast(device_type: str) -> AbstractContextManager:
    known = device_type in ("cpu", "cuda", "xpu")  # meta has no autocast, and refuses to disable it
    return torch.autocast(device_type, enabled=False) if known else nullcontext()


class _Once(torch.autograd.Function):
    """Passes on the first ``count`` tensors; a second derivative would be of the others."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(t if t is None else t.view_as(t) for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "a ConvNeXt block with memory='lean' or 'leaner' has no second derivatives; set memory='plain'"
        )


def _backward(
    plan: Plan, grad: Tensor, x: Tensor, hidden: Tensor | None, weights: Weights, needed: Mapping[str, bool]
) -> list[Tensor | None]:
    """Gradients of x and the weights, in this order; ``None`` where ``needed`` (by name) says so."""
    of_norm = needed["x"] or needed["norm_weight"] or needed["norm_bias"]
    of_hidden = of_norm or needed["w1"] or needed["b1"] or needed["grn_gamma"]
    fold, scale = split_scale(weights.gamma, plan.product)
    w2t = _folded(weights, fold, plan.product)[0].t().contiguous()
    w1, b1 = weights.w1.to(plan.product), weights.b1.to(plan.product)
    w1t = w1.t().contiguous()
    rows, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, x.shape[-1])
    wide = torch.promote_types(plan.product, torch.float32)  # dtype of sums over pieces
    total = Weights._make(None if w is None else torch.zeros_like(w, dtype=wide) for w in weights)
    dx = rows.new_empty((0, x.shape[-1])) if of_norm else None

    for piece in pieces(x, weights.grn_gamma is not None):
        row = rows[piece].to(plan.norm)
        n, *moments = torch.native_layer_norm(row, row.shape[1:], *weights[:2], plan.eps)
        n = n.to(plan.product)
        h = linear(n, w1, b1) if hidden is None else hidden[piece]
        d = (grad[piece] if scale is None else grad[piece] * scale).to(plan.product)
        z, dh = _backward_hidden(d, h, w2t, x, weights, total, of_hidden)
        total.b2.add_(d.sum(0, dtype=wide))
        if needed["w2"] or needed["gamma"]:
            _add_product(total.w2, d.t(), z)
        if dh is None:
            continue
        if needed["w1"]:
            _add_product(total.w1, dh.t(), n)
        if needed["b1"]:
            total.b1.add_(dh.sum(0, dtype=wide))
        if dx is not None:
            dn = linear(dh, w1t, None).to(plan.norm)  # 4C -> C
            args = (dn, row, row.shape[1:], *moments, *weights[:2], (True, True, True))
            part, *affine = torch.ops.aten.native_layer_norm_backward(*args)
            dx = _with_piece(dx, piece, part, len(rows))
            for sums, of_piece in zip(total[:2], affine, strict=True):
                sums.add_(of_piece)
    grads = (None if dx is None else dx.view(x.shape), *_unfolded(total, weights, fold, scale))
    pairs = zip(grads, (x, *weights), needed.values(), strict=True)
    return [g.to(w.dtype) if need else None for g, w, need in pairs]  # type: ignore[union-attr]  # needed, so there


def _backward_hidden(
    d: Tensor, h: Tensor, w2t: Tensor, x: Tensor, weights: Weights, total: Weights, needed: bool
) -> tuple[Tensor, Tensor | None]:
    """d (rows, C), h (rows, 4C) -> z and, if ``needed``, dh; GRN's scale's gradient adds to ``total``."""
    z = F.gelu(h)
    dz = linear(d, w2t, None) if needed else None  # C -> 4C
    if weights.grn is not None:
        a, (scale, shift) = by_sample(z, x), weights.grn
        z, response = _grn(a, scale, shift)
        z = z.view_as(h).to(h.dtype)
        if dz is not None:
            da, of_scale = _grn_backward(by_sample(dz, x), a, response, scale)
            dz = da.view_as(h).to(h.dtype)
            assert total.grn_gamma is not None  # because the weights have one
            total.grn_gamma.add_(of_scale.view_as(total.grn_gamma))
    return z, None if dz is None else torch.ops.aten.gelu_backward.grad_input(dz, h, grad_input=dz)


def _unfolded(total: Weights, weights: Weights, fold: Tensor | None, scale: Tensor | None) -> Weights:
    """Sums over all positions (w2 and b2 are D and sum(d)) -> gradients of the weights."""
    product, shift, gamma, beta = total.w2, total.b2, None, None
    w2, b2 = weights.w2.to(product.dtype), weights.b2.to(product.dtype)
    if weights.grn_beta is not None:
        # z has beta added at every position, so its gradient is the sum of dz
        folded = w2 if fold is None else fold.to(w2.dtype)[:, None] * w2
        beta = (shift @ folded).view_as(weights.grn_beta)
    if fold is not None:
        gamma = torch.einsum("ij,ij->i", product, w2) + shift * b2
        gamma = gamma if scale is None else gamma / scale
        product, shift = product.mul_(fold[:, None]), fold * shift
    return total._replace(w2=product, b2=shift, gamma=gamma, grn_beta=beta)


def _folded(weights: Weights, fold: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of the second product with the layer scale's ``fold`` in them."""
    if fold is None:
        return weights.w2.to(dtype), weights.b2.to(dtype)
    return (fold[:, None] * weights.w2).to(dtype), (fold * weights.b2).to(dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``; 16-bit products are summed in ``total``'s dtype."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def by_sample(hidden: Tensor, x: Tensor) -> Tensor:
    """(n H W, 4C), of n whole samples of x (N, H, W, C), -> (n, H W, 4C)."""
    return hidden.view(-1, x.shape[1] * x.shape[2], hidden.shape[-1])


def _grn(a: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """a (n, H W, 4C) -> GRN's output, of the same shape, and each channel's norm (n, 1, 4C)."""
    wide = torch.promote_types(a.dtype, torch.float32)
    response = torch.linalg.vector_norm(a, dim=1, keepdim=True, dtype=wide)
    scale = 1 + gamma.flatten() * grn_relative(response)
    return torch.addcmul(beta.flatten(), scale, a), response


def _grn_backward(dz: Tensor, a: Tensor, response: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a (n, H W, 4C) and of GRN's scale gamma (4C,).

    With r the channels' norms, m their mean plus epsilon, u = r / m and S = sum(dz a) over
    positions: dgamma = sum(u S) over samples, du = gamma S, dr = (du - mean(du u)) / m and
    da = (1 + gamma u) dz + (dr / r) a, without the last term where a channel is 0 throughout.
    """
    gamma, relative = gamma.flatten(), grn_relative(response)
    overlap = (dz * a).sum(1, keepdim=True, dtype=response.dtype)  # S, (n, 1, 4C)
    of_relative = gamma * overlap
    centred = of_relative - (of_relative * relative).mean(-1, keepdim=True)
    of_response = centred / (response.mean(-1, keepdim=True) + GRN_EPS)
    along = torch.where(response > 0, of_response / response, 0.0)
    return torch.addcmul((1 + gamma * relative) * dz, along, a), (overlap * relative).sum((0, 1))
