"""Folded weights are those of the evaluation; ``test_runner`` has whole evaluations."""

import copy
from types import SimpleNamespace

import torch
from mmcv.cnn import ConvModule
from mmengine.hooks import EMAHook
from torch import nn

from convnext_dense import ConvNeXt
from convnext_dense.mm.engine.hooks import FuseHook

MICRO = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


def test_averaged_weights_that_are_swapped_in_are_the_ones_that_are_folded():
    model = ConvNeXt(MICRO).eval()
    image, hook, runner = torch.randn(1, 3, 64, 64), FuseHook(), SimpleNamespace(model=model)
    with torch.no_grad():
        raw = model(image)
        kept = {name: p.data.clone() for name, p in model.named_parameters()}
        for p in model.parameters():
            p.data.mul_(1.5)  # as mmengine's EMAHook swaps: no version counter sees it
        averaged = model(image)
        hook.before_val_iter(runner, 0)
        torch.testing.assert_close(model(image), averaged, rtol=1e-4, atol=1e-5)
        for name, p in model.named_parameters():
            p.data.copy_(kept[name])
        hook.after_val_epoch(runner)
        torch.testing.assert_close(model(image), raw, rtol=1e-4, atol=1e-5)


def test_an_interrupted_evaluation_is_unfolded_too():
    model = ConvNeXt(MICRO).eval()
    hook, runner = FuseHook(), SimpleNamespace(model=model)
    with torch.no_grad():
        hook.before_val_iter(runner, 0)
        model(torch.randn(1, 3, 64, 64))
    blocks = [block for stage in model.stages for block in stage]
    assert all(block._folded is not None for block in blocks)
    hook.after_interrupted_val(runner)
    assert all(block._folded is None for block in blocks)


def test_mmengines_average_is_swapped_in_and_out_beside_folded_norms():
    """mmengine swaps parameter by parameter, by position, and may do so while the norms are folded."""
    model = nn.Sequential(
        ConvModule(3, 4, 3, norm_cfg=dict(type="BN")), ConvModule(4, 4, 1, norm_cfg=dict(type="BN"))
    )
    runner = SimpleNamespace(model=model)
    average, fuse = EMAHook(), FuseHook()
    average.before_run(runner)
    with torch.no_grad():
        for value in average.ema_model.module.parameters():
            value.mul_(1.5)
    own = [value.clone() for value in model.parameters()]
    averaged = copy.deepcopy(average.ema_model.module).eval()
    image = torch.randn(1, 3, 8, 8)
    average.before_val_epoch(runner)
    model.eval()
    fuse.before_val_iter(runner, 0)
    with torch.no_grad():
        torch.testing.assert_close(model(image), averaged(image))
    average.after_val_epoch(runner)  # before ours, as in a run and in an interrupted evaluation
    fuse.after_interrupted_val(runner)
    assert all(torch.equal(value, kept) for value, kept in zip(model.parameters(), own, strict=True))
    assert len(model.state_dict()) == 2 * 6
