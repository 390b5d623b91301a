"""Tests here may import timm, which imports torchvision."""

import contextlib

import torch  # noqa: F401  (what follows does nothing before)

from convnext_dense.support.optional_packages import without_compiled_torchvision

with without_compiled_torchvision(), contextlib.suppress(ImportError):
    import torchvision  # noqa: F401
