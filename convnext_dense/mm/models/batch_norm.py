"""Batch norm of a single value per channel: one image of which a head has pooled one pixel.

UperNet, PSPNet and DeepLab average whole maps to 1x1 pixels. With one image per batch no variance can be
computed of the result, and torch refuses it. Detectron2's and TensorFlow's DeepLab have no norm there; that
would change the model for other batches. So a norm uses its running statistics where there is one value, as
in evaluation, and other batches are normalised as before, bit for bit.
"""

from mmengine import dist
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm


def allow_one_value(model: nn.Module) -> None:
    """Let the batch norms of ``model`` train on one value per channel, with their running statistics.

    The first such batch is logged in one line.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not hasattr(module, "has_one_value"):
            module.has_one_value = False
            module.register_forward_pre_hook(_Before(name))
            module.register_forward_hook(_after, always_call=True)


class _Before:
    """Switch a norm to its running statistics for a batch with one value per channel."""

    logged = False

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if not module.training or x.dim() < 2 or x.numel() != x.shape[1] or module.running_mean is None:
            return
        if isinstance(module, SyncBatchNorm) and dist.get_world_size() > 1:
            return  # the other processes have values, too
        module.training = False
        module.has_one_value = True
        if not _Before.logged:
            _Before.logged = True
            print_log(
                f"{self.name} gets one value per channel, which has no variance: batch norm uses its running "
                "statistics there (two images per batch, or a norm such as GN, do not need that)",
                logger="current",
                level=30,
            )


def _after(module: _BatchNorm, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """Return a norm to training."""
    if module.has_one_value:
        module.has_one_value = False
        module.training = True
