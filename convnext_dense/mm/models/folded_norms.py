"""Faster inference with the same outputs: weights of blocks and of convolutions with batch norms folded."""

from collections.abc import Callable

import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # the common base of BN and SyncBN
from torch.nn.utils.fusion import fuse_conv_bn_weights

from convnext_dense.layers.fused_block import fuse, unfuse
from convnext_dense.layers.lean_block import is_plain
from convnext_dense.layers.resized_conv import ConvOverResized

CONVOLUTIONS = (nn.Conv2d, ConvOverResized)


def fold_model(model: nn.Module) -> Callable[[], None]:
    """Fold the backbone's blocks and the batch norms of ``model``; return a function that undoes both.

    Raises:
        RuntimeError: the model is in training mode.
    """
    fuse(model)
    restore = fold_norms(model)

    def undo() -> None:
        unfuse(model)
        restore()

    return undo


def fold_norms(model: nn.Module) -> Callable[[], None]:
    """Fold every batch norm of a ``ConvModule`` into its convolution; return a function that undoes it.

    A norm that uses the running statistics is a scale and a shift of each channel. The parameters are
    replaced, not changed, so that they are the same objects afterwards.
    """
    undo = [_fold(module) for module in model.modules() if _is_foldable(module)]

    def restore() -> None:
        while undo:
            undo.pop()()

    return restore


def _is_foldable(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution, then a norm with fixed statistics, without hooks and wrappers."""
    if not isinstance(module, ConvModule) or not module.with_norm or module.training:
        return False
    conv, norm = module.conv, module.norm
    plain = type(conv) in CONVOLUTIONS and type(conv.weight) is nn.Parameter
    in_order = module.order.index("norm") == module.order.index("conv") + 1
    fixed = isinstance(norm, _BatchNorm) and norm.running_var is not None and not norm.training
    return plain and in_order and fixed and all(is_plain(part, type(part)) for part in (conv, norm))


@torch.no_grad()
def _fold(module: ConvModule) -> Callable[[], None]:
    conv, norm = module.conv, module.norm
    weight, bias = conv.weight, conv.bias
    conv.weight, conv.bias = fuse_conv_bn_weights(
        weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    setattr(module, module.norm_name, nn.Identity())

    def undo() -> None:
        conv.weight, conv.bias = weight, bias
        setattr(module, module.norm_name, norm)

    return undo
