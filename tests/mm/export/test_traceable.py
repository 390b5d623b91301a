"""Swin's windows, put together without counting images in Python."""

import pytest
import torch

pytest.importorskip("onnxscript")

from convnext_dense.mm.export.traceable import needs_size, traceable


@pytest.mark.parametrize("toolbox", ["mmdet", "mmseg"])
def test_swin_computes_the_same_for_any_number_of_images(toolbox):
    swin = pytest.importorskip(f"{toolbox}.models.backbones.swin")
    torch.manual_seed(0)
    small = dict(embed_dims=12, depths=(2, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1))
    model = swin.SwinTransformer(**small)
    model.eval()
    changed = traceable(model)
    x = torch.randn(3, 3, 70, 90)
    with torch.no_grad():
        for ours, theirs in zip(changed(x), model(x), strict=True):
            torch.testing.assert_close(ours, theirs)
        dim = torch.export.Dim.DYNAMIC
        traced = torch.export.export(changed, (x,), dynamic_shapes=({0: dim},), strict=False)
        assert needs_size(model) and not needs_size(torch.nn.Conv2d(1, 1, 1))
        for ours, theirs in zip(traced.module()(x[:2]), model(x[:2]), strict=True):
            torch.testing.assert_close(ours, theirs)
