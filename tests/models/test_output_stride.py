"""Strides replaced by dilation: the same weights, the same features, at more positions."""

import pytest
import torch

from convnext_dense import ConvNeXt

MICRO = dict(depths=(1, 1, 2, 2), dims=(8, 16, 24, 32))


@torch.no_grad()
@pytest.mark.parametrize(
    ("output_stride", "strides"), [(32, (4, 8, 16, 32)), (16, (4, 8, 16, 16)), (8, (4, 8, 8, 8))]
)
def test_every_nth_position_has_the_features_of_the_plain_network(output_stride, strides):
    torch.manual_seed(0)
    plain = ConvNeXt(MICRO).double().eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    dilated = ConvNeXt(MICRO, output_stride=output_stride).double().eval()
    dilated.load_state_dict(plain.state_dict())
    assert dilated.out_strides == strides
    image = torch.randn(2, 3, 128, 96, dtype=torch.float64)
    for level, expected, stride, full in zip(
        dilated(image), plain(image), strides, (4, 8, 16, 32), strict=True
    ):
        assert level.shape[2:] == (128 // stride, 96 // stride)
        step = full // stride
        torch.testing.assert_close(level[:, :, ::step, ::step], expected, rtol=1e-9, atol=1e-9)


def test_positions_in_between_are_new_and_train():
    model = ConvNeXt(MICRO, output_stride=8, use_grn=True)
    level = model(torch.randn(1, 3, 64, 64))[-1]
    assert not torch.allclose(level[:, :, ::4, ::4], level[:, :, 1::4, 1::4])
    level.square().sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("norm"))


@pytest.mark.parametrize("size", [(33, 47), (40, 72)])
def test_odd_sizes_round_as_the_strides_that_are_left(size):
    level = ConvNeXt(MICRO, output_stride=8, out_indices=-1)(torch.randn(1, 3, *size))[0]
    assert level.shape[2:] == (size[0] // 4 // 2, size[1] // 4 // 2)


def test_another_stride_is_refused():
    with pytest.raises(ValueError, match=r"output_stride=4; use one of \(32, 16, 8\)"):
        ConvNeXt(MICRO, output_stride=4)
