"""Batch norms on one value per channel, against torch's batch norm in evaluation and in training."""

import copy

import pytest
import torch
from torch import nn

from convnext_dense.mm.models.batch_norm import allow_one_value


def norm(kind=nn.BatchNorm2d, **options):
    torch.manual_seed(0)
    made = kind(4, **options)
    if made.running_mean is not None:
        made.running_mean.normal_()
        made.running_var.uniform_(0.5, 2.0)
    nn.init.normal_(made.weight)
    return made


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.BatchNorm2d, (1, 4, 1, 1)), (nn.BatchNorm1d, (1, 4)), (nn.SyncBatchNorm, (1, 4, 1, 1))],
)
def test_one_value_uses_the_running_statistics(kind, shape):
    plain = norm(kind)
    allowed = copy.deepcopy(plain)
    allow_one_value(allowed)
    x = torch.randn(shape, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        plain(x)
    expected, found = plain.eval()(x), allowed(y)
    assert torch.equal(found, expected)
    expected.sum().backward()
    found.sum().backward()
    assert torch.equal(x.grad, y.grad)
    assert torch.equal(plain.weight.grad, allowed.weight.grad)
    assert allowed.training
    assert int(allowed.num_batches_tracked) == 0


def test_other_batches_are_the_same_bit_for_bit():
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), norm(), nn.ReLU())
    allowed = copy.deepcopy(plain)
    allow_one_value(allowed)
    allow_one_value(allowed)  # as after a resume
    assert len(allowed[1]._forward_pre_hooks) == 1
    for shape in ((2, 3, 1, 1), (1, 3, 2, 1), (4, 3, 5, 5)):
        x = torch.randn(shape)
        assert torch.equal(plain(x), allowed(x))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, allowed.state_dict()[name]), name
    twin = copy.deepcopy(allowed)  # the average of the weights is one
    assert torch.equal(twin(torch.ones(1, 3, 1, 1)), allowed(torch.ones(1, 3, 1, 1)))


def test_a_norm_without_running_statistics_is_left_to_torch():
    made = norm(track_running_stats=False)
    allow_one_value(made)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        made(torch.randn(1, 4, 1, 1))
    assert made.training


def test_frozen_norms_stay_frozen():
    made = norm().eval()
    allow_one_value(made)
    made(torch.randn(1, 4, 1, 1))
    assert not made.training
