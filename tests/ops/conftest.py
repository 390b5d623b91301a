import sys

import pytest

from convnext_dense.ops.backend import torchvision_ops


@pytest.fixture
def portable(monkeypatch):
    """The portable path even where torchvision works."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    torchvision_ops.cache_clear()
    yield
    torchvision_ops.cache_clear()
