"""UperNet's head compared with mmseg's, with the same weights."""

import pytest
import torch
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmseg is imported)

CHANNELS = [6, 8, 10, 12]


def head(kind: str, levels: int = 4, **entries):
    """A head in float64 with the seed's weights, and running statistics that matter."""
    entries = dict(dict(norm_cfg=dict(type="BN"), align_corners=False), **entries)
    with DefaultScope.overwrite_default_scope("mmseg"):
        torch.manual_seed(0)
        made = ROOT.build(
            dict(
                type=kind,
                in_channels=CHANNELS[:levels],
                in_index=list(range(levels)),
                channels=16,
                num_classes=5,
                dropout_ratio=0.0,
                **entries,
            )
        ).double()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return made


def pyramid(levels: int = 4):
    torch.manual_seed(1)
    sides = [(24, 20), (12, 10), (6, 5), (3, 3)]
    return [torch.randn(2, c, *hw).double() for c, hw in zip(CHANNELS[:levels], sides, strict=False)]


CASES = {
    "as in the recipes": {},
    "align_corners": dict(align_corners=True),
    "two levels": dict(levels=2),
    "without norms": dict(norm_cfg=None),
    "other scales": dict(pool_scales=(1, 4)),
    "resize first": dict(resize_first=True),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("entries", CASES.values(), ids=CASES)
def test_parameters_outputs_and_gradients(entries, training):
    others = {key: value for key, value in entries.items() if key != "resize_first"}
    theirs, ours = head("mmseg.UPerHead", **others), head("convnext_dense.UPerHead", **entries)
    for (name, a), (other, b) in zip(theirs.state_dict().items(), ours.state_dict().items(), strict=True):
        assert name == other
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    maps = pyramid(entries.get("levels", 4))
    results = [made.train(training)(maps) for made in (theirs, ours)]
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-12)
    grads = [
        torch.autograd.grad(out.square().sum(), list(made.parameters()), allow_unused=True)
        for made, out in zip((theirs, ours), results, strict=True)
    ]
    for a, b in zip(*grads, strict=True):
        if a is not None or b is not None:
            torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-9)


def test_a_special_convolution_keeps_its_own_way():
    """``conv_cfg`` may ask for any class; only plain convolutions commute with resizing."""
    made = head("convnext_dense.UPerHead", conv_cfg=dict(type="ConvAWS"))
    theirs = head("mmseg.UPerHead", conv_cfg=dict(type="ConvAWS"))
    torch.testing.assert_close(made.eval()(pyramid()), theirs.eval()(pyramid()), rtol=0, atol=1e-12)


def test_it_exports():
    made = head("convnext_dense.UPerHead").eval()
    maps = tuple(pyramid())
    exported = torch.export.export(made, (maps,)).module()
    torch.testing.assert_close(exported(maps), made(maps), rtol=0, atol=1e-12)
