"""Helpers for PyTorch modules."""

from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of distributed training and augmented tests."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model
