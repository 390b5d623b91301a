"""Parts of the toolboxes' networks whose code counts in Python where a traced network has symbols."""

import copy
from types import MethodType

from torch import Tensor, nn

from convnext_dense.mm.export.pooling import replace_pools


def traceable(model: nn.Module) -> nn.Module:
    """A copy of ``model`` for images of any size and number; the same outputs."""
    model = copy.deepcopy(model)
    replace_pools(model)
    for module in model.modules():
        if _has_windows(module):
            module.window_reverse = MethodType(_window_reverse, module)
    return model


def needs_size(model: nn.Module) -> bool:
    """Whether only inputs of one size can be traced: the windows of a Swin depend on it in too many ways."""
    return any(map(_has_windows, model.modules()))


def _has_windows(module: nn.Module) -> bool:
    return type(module).__name__ == "ShiftWindowMSA"  # of Swin, in mmdet and in mmseg


def _window_reverse(self: nn.Module, windows: Tensor, height: int, width: int) -> Tensor:
    """Windows (N * number, s, s, C) of maps -> the maps (N, H, W, C).

    The toolboxes compute N with ``int``, which makes it a constant of the traced network.
    """
    side, channels = windows.shape[1], windows.shape[-1]
    x = windows.reshape(-1, height // side, width // side, side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)
