"""The trial of a swapped model: what its verdict must not depend on."""

import math

import torch
from torch import nn

from convnext_dense.mm.swap.smoke_test import _tame


def test_parameters_that_are_as_the_memory_was_do_not_decide_a_verdict():
    """Grounding DINO's ``level_embed`` is such a parameter; with NaN its training step fails."""
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[math.nan, -math.inf, 1e30, -0.5]]))
    bias = layer.bias.item()
    _tame(layer)
    assert layer.weight.tolist() == [[0, 0, 0, -0.5]] and layer.bias.item() == bias
