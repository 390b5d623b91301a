"""The convolution over resized maps, compared with resizing, concatenating and convolving."""

import pytest
import torch
import torch.nn.functional as F

from convnext_dense.bench.complexity import count_macs
from convnext_dense.layers import resized_conv
from convnext_dense.layers.resized_conv import conv_over_resized, macs_of_taps, pays

SIZES = {
    "halves": [(16, 24), (8, 12), (4, 6), (2, 3)],
    "odd": [(13, 17), (7, 9), (4, 5), (2, 3)],
    "one pixel": [(6, 5), (1, 1), (3, 3)],
    "one axis is finer, the other coarser": [(12, 16), (5, 16), (24, 4)],
    "equal": [(9, 9), (9, 9)],
    "alone": [(7, 8)],
}


def by_definition(maps, weight, bias, align_corners):
    hw = maps[0].shape[2:]
    resized = [F.interpolate(x, hw, mode="bilinear", align_corners=align_corners) for x in maps[1:]]
    return F.conv2d(torch.cat([maps[0], *resized], 1), weight, bias, padding=1)


def made(sizes, batch=2, dtype=torch.float64):
    torch.manual_seed(0)
    maps = [torch.randn(batch, 3 + i, *hw, dtype=dtype) for i, hw in enumerate(sizes)]
    weight = torch.randn(6, sum(x.shape[1] for x in maps), 3, 3, dtype=dtype)
    return [x.requires_grad_() for x in (*maps, weight, torch.randn(6, dtype=dtype))]


@pytest.fixture(params=["all maps at their own size", "where it pays"])
def split(request, monkeypatch):
    """Whether every map takes the new way, or only those that the rule chooses."""
    if request.param.startswith("all"):
        monkeypatch.setattr(resized_conv, "pays", lambda *_: True)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_values_and_gradients(split, sizes, align_corners):
    """In float64, at borders too."""
    *maps, weight, bias = made(sizes)
    expected = by_definition(maps, weight, bias, align_corners)
    found = conv_over_resized(maps, weight, bias, align_corners)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (*maps, weight, bias), grad)
    for a, b in zip(torch.autograd.grad(found, (*maps, weight, bias), grad), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_one_image_without_bias(split):
    *maps, weight, _ = made(SIZES["halves"], batch=1)
    expected = by_definition(maps, weight, None, False)
    torch.testing.assert_close(conv_over_resized(maps, weight), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_is_nearly_as_close_as_the_definition(split, dtype):
    """Half-precision products of float32 maps: each way rounds in other places, some more often here."""
    *maps, weight, bias = made(SIZES["odd"], dtype=torch.float32)
    exact = by_definition(maps, weight, bias, False)
    with torch.autocast("cpu", dtype):
        definition = by_definition(maps, weight, bias, False)
        found = conv_over_resized(maps, weight, bias, False)
    assert found.dtype == definition.dtype == dtype
    error, usual = (float((x.float() - exact).abs().mean()) for x in (found, definition))
    assert error < 2 * usual


def test_what_pays():
    """UperNet's bottleneck at 512x512 gains at every level; a map of the output's size does not."""
    for side, gain in ((64, 2.5), (32, 8), (16, 20)):
        assert pays((side, side), (128, 128), 512, 512)
        assert macs_of_taps((side, side), (128, 128), 512, 512) * gain < 9 * 512 * 512 * 128 * 128
    assert not pays((128, 128), (128, 128), 512, 512)
    assert not pays((64, 64), (128, 128), 8, 512), "few channels: resizing them is cheaper"


def test_products_are_counted_right():
    """The multiply-adds that torch counts are those that the rule compares."""
    small, large, channels, out_channels = (5, 7), (11, 13), 9, 4
    x, weight = torch.randn(1, channels, *small), torch.randn(out_channels, channels, 3, 3)

    def forward():
        down, across = resized_conv.taps_of_resized(x, weight, large, False)
        return torch.bmm(down.expand(len(across), -1, -1), across)

    assert count_macs(forward) == macs_of_taps(small, large, channels, out_channels)
