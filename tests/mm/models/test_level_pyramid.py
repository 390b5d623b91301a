"""Necks that give the maps of other backbones: strides, channels, and a gradient for every parameter."""

import pytest
import torch

import convnext_dense.mm  # noqa: F401
from convnext_dense.errors import ArgumentError
from convnext_dense.mm.models.level_pyramid import CoarserLevels, LevelPyramid

DIMS = (4, 8, 16, 32)


def stages(hw: int = 128, first: int = 0) -> list[torch.Tensor]:
    return [torch.randn(2, c, hw // s, hw // s) for c, s in zip(DIMS, (4, 8, 16, 32), strict=True)][first:]


@pytest.mark.parametrize(
    ("first", "strides", "channels", "sizes"),
    [
        (0, (16, 8, 4, 2), (1, 2, 3, 4), (8, 16, 32, 32)),  # below 4: at 4, the finest stage
        (1, (8, 8, 16), (5, 6, 7), (16, 16, 8)),
        (2, (64, 16), (3, 3), (2, 8)),
        (3, (128,), (9,), (1,)),
    ],
)
def test_the_maps_have_the_given_strides_and_channels(first, strides, channels, sizes):
    neck = LevelPyramid(DIMS[first:], strides, channels, channels=16)
    out = neck(stages(first=first))
    assert [tuple(m.shape) for m in out] == [(2, c, s, s) for c, s in zip(channels, sizes, strict=True)]
    sum(m.sum() for m in out).backward()  # a parameter without a gradient stops DistributedDataParallel
    assert all(p.grad is not None for p in neck.parameters())


def test_a_map_that_nobody_reads_costs_nothing():
    neck = LevelPyramid(DIMS, (8, 4, 32), (3, 0, 5), channels=16)
    out = neck(stages())
    assert out[1] is None and [m.shape[1] for m in (out[0], out[2])] == [3, 5]
    assert not list(neck.outputs[1].parameters())


def test_coarse_stages_reach_fine_maps():
    neck = LevelPyramid(DIMS, (4,), (3,), channels=16)
    maps = [m.requires_grad_() for m in stages()]
    neck(maps)[0].sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)


def test_one_map_in_evaluation():
    neck = LevelPyramid(DIMS, (8, 8), (3, 5), channels=16, test_level=1)
    maps = stages()
    both = neck.train()(maps)
    assert len(both) == 2
    torch.testing.assert_close(neck.eval()(maps), both[1])


def test_levels_are_appended():
    neck = CoarserLevels(DIMS[-1], count=2)
    maps = stages()
    out = neck(maps)
    assert all(a is b for a, b in zip(out, maps, strict=False))
    assert [tuple(m.shape[1:]) for m in out[4:]] == [(32, 2, 2), (32, 1, 1)]


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ArgumentError, match="2 strides for 1 out_channels"):
        LevelPyramid(DIMS, (4, 8), (3,))
