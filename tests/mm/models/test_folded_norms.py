"""Batch norms in their convolutions: the same outputs, and everything as before afterwards."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import init_default_scope
from torch import nn

from convnext_dense.layers.resized_conv import ConvOverResized
from convnext_dense.mm.bench.models import build_model
from convnext_dense.mm.models.folded_norms import fold_model, fold_norms

NORM = dict(type="BN")


def shaken(model: nn.Module) -> nn.Module:
    """The model with random statistics and parameters of its norms."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data):
                values.normal_()
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 2)
    return model.eval()


def unfolded(model: nn.Module) -> list[nn.Module]:
    """Batch norms that still compute."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [module for module in norms if "forward" not in vars(module)]


@pytest.fixture
def model() -> nn.Module:
    model = nn.Sequential(
        ConvModule(3, 8, 3, padding=1, norm_cfg=NORM),
        ConvModule(8, 8, 3, padding=1, norm_cfg=NORM, bias=True, act_cfg=None),
        ConvModule(8, 8, 1, norm_cfg=NORM, act_cfg=dict(type="LeakyReLU")),
    )
    return shaken(model).double()


def test_outputs_are_the_same_and_parameters_stay_what_they_are(model):
    image = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    expected, kept = model(image), dict(model.named_parameters())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    restore = fold_norms(model)
    fold_norms(model)  # finds nothing more
    assert not unfolded(model)
    torch.testing.assert_close(model(image), expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(model(image), expected), "another order of the same operations"
    for _ in range(2):  # folded, then not
        found = dict(model.named_parameters())
        assert found.keys() == kept.keys() and all(found[name] is kept[name] for name in kept)
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
        restore()
    assert len(unfolded(model)) == 3
    assert torch.equal(model(image), expected)


def test_weights_that_change_end_the_use_of_the_folded_ones(model):
    image = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    other = shaken(copy.deepcopy(model))
    for parameter in other.parameters():
        parameter.data.mul_(1.5)
    fold_norms(model)
    before = model(image)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model(image), other(image)) and not torch.equal(model(image), before)
    assert torch.equal(model.train()(image), other.train()(image))


@pytest.mark.parametrize("why", ["training", "hook", "order", "group norm", "no statistics", "deformable"])
def test_what_does_more_than_scale_stays(model, why):
    block = model[0]
    if why == "training":
        block.train()
    elif why == "hook":
        block.norm.register_forward_hook(lambda *args: None)
    elif why == "order":
        model[0] = block = ConvModule(3, 8, 3, padding=1, norm_cfg=NORM, order=("norm", "conv", "act")).eval()
    elif why == "group norm":
        model[0] = block = ConvModule(3, 8, 3, padding=1, norm_cfg=dict(type="GN", num_groups=2)).eval()
    elif why == "no statistics":
        model[0] = block = ConvModule(3, 8, 3, norm_cfg=dict(NORM, track_running_stats=False)).eval()
    else:
        block.conv.__class__ = type("DeformableConv", (nn.Conv2d,), {})
    fold_norms(model)
    assert "forward" not in vars(block.conv) and "forward" not in vars(block.norm)
    assert "forward" in vars(model[1].norm)


def test_every_norm_of_a_segmentor_is_folded():
    model = shaken(build_model("upernet/convnext_t_512_160k")).double()
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = model(image, mode="tensor")
        undo = fold_model(model)
        assert not unfolded(model)
        assert any(isinstance(module, ConvOverResized) for module in model.modules())
        torch.testing.assert_close(model(image, mode="tensor"), expected, rtol=1e-9, atol=1e-9)
        undo()
        assert unfolded(model)
        assert torch.equal(model(image, mode="tensor"), expected)


def test_the_box_heads_of_a_cascade_are_folded():
    init_default_scope("mmdet")
    model = shaken(build_model("cascade/convnext_t_3x"))
    head = model.roi_head.bbox_head[1]
    rois = torch.randn(5, 256, 7, 7)
    with torch.no_grad():
        expected = head(rois)
        fold_norms(model)
        assert not unfolded(model.roi_head)
        for found, before in zip(head(rois), expected, strict=True):
            torch.testing.assert_close(found, before, rtol=1e-4, atol=1e-5)
