"""Faster inference with the same outputs: weights of blocks and of convolutions with batch norms folded."""

import copy
from collections.abc import Callable

import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # the common base of BN and SyncBN
from torch.nn.utils.fusion import fuse_conv_bn_weights

from convnext_dense.layers.fused_block import fuse, state_of, unfuse
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

    A norm that uses the running statistics is a scale and a shift of each channel. Parameters, buffers and
    the state dict stay as they are: what averages, saves or loads weights sees no difference. Weights that
    change later, or a switch to training, end the use of the folded ones.
    """
    folded = [_FoldedNorm(module) for module in model.modules() if _is_foldable(module)]

    def restore() -> None:
        while folded:
            folded.pop().remove()

    return restore


def _is_foldable(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution, then a norm with fixed statistics, without hooks and wrappers."""
    if not isinstance(module, ConvModule) or not module.with_norm or module.training:
        return False
    conv, norm = module.conv, module.norm
    plain = type(conv) in CONVOLUTIONS and type(conv.weight) is nn.Parameter and "forward" not in vars(conv)
    in_order = module.order.index("norm") == module.order.index("conv") + 1
    fixed = isinstance(norm, _BatchNorm) and norm.running_var is not None and not norm.training
    return plain and in_order and fixed and all(is_plain(part, type(part)) for part in (conv, norm))


class _FoldedNorm:
    """Takes the place of the ``forward`` of a convolution and its norm."""

    @torch.no_grad()
    def __init__(self, module: ConvModule) -> None:
        self.conv, self.norm = conv, norm = module.conv, module.norm
        self.folded = copy.deepcopy(conv)
        self.folded.weight, self.folded.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.state = self._state()
        self.current = True
        conv.forward, norm.forward = self.convolve, self.normalise

    def _state(self) -> tuple:
        parts = (self.conv, self.norm)
        return state_of(t for part in parts for t in (*part.parameters(), *part.buffers()))

    def convolve(self, x: object) -> torch.Tensor:
        """What the convolution is given -> (N, C, H, W), already normalised if the weights are current."""
        self.current = not self.norm.training and self.state == self._state()
        return self.folded(x) if self.current else type(self.conv).forward(self.conv, x)

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same shape."""
        return x if self.current else type(self.norm).forward(self.norm, x)

    def remove(self) -> None:
        """Call the convolution and the norm themselves again."""
        del self.conv.forward, self.norm.forward
