"""The registered backbone: found from every scope, initialised as configured."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope

import convnext_dense.mm
from convnext_dense import CheckpointError, ConvNeXt

MICRO = dict(type="ConvNeXt", arch=dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)))


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain", "mmengine"])
def test_the_type_builds_from_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(MICRO)
    assert isinstance(model, convnext_dense.mm.backbones.ConvNeXt)
    assert isinstance(model, BaseModule)
    assert isinstance(model, ConvNeXt)


def test_the_toolbox_registries_find_it_too():
    from mmdet.registry import MODELS as MMDET
    from mmseg.registry import MODELS as MMSEG

    for registry in (MMDET, MMSEG):
        assert isinstance(registry.build(MICRO), ConvNeXt)


def test_pretrained_weights_load_exactly_and_are_reported(tmp_path, caplog):
    source = ConvNeXt(MICRO["arch"], out_indices=(3,))
    state = {k: torch.randn_like(v) for k, v in source.state_dict().items() if not k.startswith("norm")}
    torch.save({"model": state}, tmp_path / "w.pth")
    cfg = dict(MICRO, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "w.pth")))
    logger = MMLogger.get_instance("test_backbones")
    logger.propagate = True
    with caplog.at_level(logging.INFO):
        model = MODELS.build(cfg)
        model.init_weights()
    own = model.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state)
    assert f"backbone: {len(state)}/{len(state)} tensors" in caplog.text
    del state["stages.0.0.gamma"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"stages\.0\.0\.gamma"):
        MODELS.build(cfg).init_weights()


def test_other_initialisers_are_mmengines():
    cfg = dict(MICRO, init_cfg=dict(type="Constant", layer="Linear", val=0.25))
    model = MODELS.build(cfg)
    model.init_weights()
    assert (model.stages[0][0].pwconv1.weight == 0.25).all()
    assert MODELS.build(MICRO).init_cfg is None


def test_a_detector_trains_with_frozen_stages():
    model = MODELS.build(dict(MICRO, frozen_stages=2))
    model.init_weights()
    assert model.train() is model
    assert not model.stages[0].training
    assert model.stages[2].training
