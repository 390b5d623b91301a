"""Adaptive pooling as products against PyTorch's own."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnext_dense.mm.export.pooling import AdaptiveMean
from convnext_dense.mm.export.traceable import traceable

SIDES = (1, 2, 3, 5, 6, 7, 12, 13, 31)


@pytest.mark.parametrize("count", [1, 2, 3, 6, 8])
def test_any_size_of_map(count):
    g = torch.Generator().manual_seed(count)
    for h, w in itertools.product(SIDES, SIDES):
        x = torch.randn(2, 3, h, w, generator=g)
        expected = F.adaptive_avg_pool2d(x, (count, 3))
        assert torch.allclose(AdaptiveMean((count, 3))(x), expected, atol=1e-5), (h, w)


@pytest.mark.parametrize("hw", [(None, 4), (3, None), (None, None)])
def test_a_side_that_stays(hw):
    x = torch.randn(1, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(AdaptiveMean(hw)(x), nn.AdaptiveAvgPool2d(hw)(x), atol=1e-6)


def test_a_model_gets_them_in_a_copy():
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d(6), nn.Sequential(nn.AdaptiveAvgPool2d((3, 2))), nn.AdaptiveAvgPool2d(1)
    )
    changed = traceable(model)
    assert [type(m).__name__ for m in changed.modules() if not isinstance(m, nn.Sequential)] == [
        *("AdaptiveMean", "AdaptiveMean", "AdaptiveAvgPool2d")
    ]
    assert not any(isinstance(module, AdaptiveMean) for module in model.modules()), "the model itself stays"
    x = torch.randn(2, 3, 11, 17, generator=torch.Generator().manual_seed(0))
    for k in (1, 2, 3):
        assert torch.allclose(changed[:k](x), model[:k](x), atol=1e-6)
