"""The simple feature pyramid against its definition, written out in sums."""

import pytest
import torch
from torch.nn import functional as F

from convnext_dense import IsotropicConvNeXt
from convnext_dense.models.pyramid import SimpleFeaturePyramid


def random_pyramid(channels: int = 8, out_channels: int = 6, num_outs: int = 5) -> SimpleFeaturePyramid:
    """In float64, with scales and shifts that show a forgotten or doubled one."""
    torch.manual_seed(0)
    neck = SimpleFeaturePyramid(channels, out_channels, num_outs).double()
    with torch.no_grad():
        for parameter in neck.parameters():
            parameter.normal_()
    return neck


def norm(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Over the channels of (N, C, h, w)."""
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    return x * scale[:, None, None] + shift[:, None, None]


def doubled(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Each position of (N, C, h, w) becomes a 2x2 tile, its product with (C, O, 2, 2)."""
    n, _, h, w = x.shape
    tiles = torch.einsum("ncij,coab->noiajb", x, weight)
    return tiles.reshape(n, weight.shape[1], 2 * h, 2 * w) + bias[:, None, None]


def pooled(x: torch.Tensor) -> torch.Tensor:
    """Largest of each 2x2 tile; one that hangs over the edge has what is there."""
    rows = [x[:, :, i : i + 2].amax(2) for i in range(0, x.shape[2], 2)]
    x = torch.stack(rows, 2)
    return torch.stack([x[..., j : j + 2].amax(3) for j in range(0, x.shape[3], 2)], 3)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 1)])
def test_every_level_is_what_the_paper_defines(size):
    neck, x = random_pyramid(), torch.randn(2, 8, *size, dtype=torch.float64)
    p = neck.state_dict()
    stride_4 = norm(doubled(x, p["resample.0.0.weight"], p["resample.0.0.bias"]), *affine(p, "resample.0.1"))
    stride_4 = stride_4 * (1 + torch.erf(stride_4 / 2**0.5)) / 2  # GELU
    stride_4 = doubled(stride_4, p["resample.0.3.weight"], p["resample.0.3.bias"])
    stride_8 = doubled(x, p["resample.1.weight"], p["resample.1.bias"])
    levels = neck((x,))
    assert len(levels) == 5
    for i, source in enumerate((stride_4, stride_8, x, pooled(x))):
        thin = torch.einsum("nchw,oc->nohw", source, p[f"project.{i}.0.weight"][:, :, 0, 0])
        thin = F.pad(norm(thin, *affine(p, f"project.{i}.1")), (1, 1, 1, 1))
        patches = thin.unfold(2, 3, 1).unfold(3, 3, 1)  # (N, C, h, w, 3, 3)
        mixed = torch.einsum("nchwab,ocab->nohw", patches, p[f"project.{i}.2.weight"])
        torch.testing.assert_close(levels[i], norm(mixed, *affine(p, f"project.{i}.3")), rtol=0, atol=1e-9)
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])
    # nothing else has parameters: no bias in the 1x1 and 3x3 convolutions
    half, quarter = 4, 2
    resample = (8 * half * 4 + half) + 2 * half + (half * quarter * 4 + quarter) + (8 * half * 4 + half)
    project = (quarter + half + 8 + 8) * 6 + 4 * (6 * 6 * 9 + 4 * 6)
    assert sum(value.numel() for value in p.values()) == resample + project


def affine(parameters: dict, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return parameters[f"{name}.weight"], parameters[f"{name}.bias"]


@pytest.mark.parametrize(
    ("image", "sizes"),
    [
        ((64, 96), [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]),
        ((33, 47), [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]),  # 32x32 of it are seen
        ((50, 81), [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]),
        ((16, 31), [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]),
    ],
)
def test_levels_of_any_image_are_there_and_contiguous(image, sizes):
    backbone = IsotropicConvNeXt(dict(depths=(1,), dims=(8,)))
    neck = SimpleFeaturePyramid(8, out_channels=6, num_outs=5)
    levels = neck(backbone(torch.randn(2, 3, *image)))
    assert [tuple(level.shape[2:]) for level in levels] == sizes
    assert all(level.shape[:2] == (2, 6) and level.is_contiguous() for level in levels)
    assert neck.out_strides == (4, 8, 16, 32, 64)
    assert len(SimpleFeaturePyramid(8)((torch.randn(1, 8, 2, 2),))) == 4


def test_each_level_sees_an_object_where_it_is():
    neck, x = random_pyramid(), torch.randn(1, 8, 6, 8, dtype=torch.float64)
    moved = x.clone()
    moved[:, :, 2, 4] += 3.0  # pixels 32 to 47 from the top, 64 to 79 from the left
    for stride, before, after in zip((4, 8, 16, 32), neck((x,)), neck((moved,)), strict=False):
        rows, columns = ((before - after).abs().sum((0, 1)) > 1e-9).nonzero().unbind(1)
        top, left = 32 // stride, 64 // stride
        side = max(16 // stride, 1)
        # the 3x3 convolution adds a position on each side
        assert (rows.min(), rows.max()) == (max(top - 1, 0), min(top + side, before.shape[2] - 1))
        assert (columns.min(), columns.max()) == (max(left - 1, 0), min(left + side, before.shape[3] - 1))


def test_gradients_reach_every_parameter_and_the_map():
    neck, x = random_pyramid(), torch.randn(1, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    sum(level.square().sum() * (i + 1) for i, level in enumerate(neck((x,)))).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in neck.parameters())
    assert (x.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (dict(in_channels=6), "in_channels=6; use a multiple of 4"),
        (dict(in_channels=0), "in_channels=0; use a multiple of 4"),
        (dict(in_channels=8, num_outs=3), "num_outs=3; use at least 4"),
    ],
)
def test_an_impossible_pyramid_is_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        SimpleFeaturePyramid(**kwargs)


@pytest.mark.parametrize(
    "maps", [(), (torch.zeros(1, 8, 2, 2),) * 2, (torch.zeros(1, 4, 2, 2),), (torch.zeros(8, 2, 2),)]
)
def test_anything_but_one_map_is_refused(maps):
    with pytest.raises(ValueError, match=r"expected one \(N, 8, h, w\)"):
        SimpleFeaturePyramid(8)(maps)
