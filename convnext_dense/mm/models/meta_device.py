"""Models of a config on the ``meta`` device: shapes and names without memory, weights or downloads."""

import copy

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.overrides import TorchFunctionMode


class LinspaceOnCpu(TorchFunctionMode):
    """Runs ``torch.linspace`` on the CPU: Swin reads drop path rates from it, and ``meta`` has no values."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


def build_on_meta(cfg: Config) -> nn.Module:
    """Build ``cfg.model`` in evaluation mode on the ``meta`` device, in the config's scope.

    Raises:
        KeyError: a type that is not registered.
    """
    init_default_scope(cfg.get("default_scope") or "mmengine")
    with torch.device("meta"), LinspaceOnCpu():
        return MODELS.build(copy.deepcopy(cfg.model)).eval()  # detectors change their config
