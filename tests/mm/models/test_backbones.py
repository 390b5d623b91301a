"""The registered backbones and their neck: found from every scope, initialised as configured."""

import logging
from importlib.util import find_spec

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope

import convnext_dense.mm
from convnext_dense import CheckpointError, Classifier, ConvNeXt, IsotropicConvNeXt
from convnext_dense.models.pyramid import SimpleFeaturePyramid

MICRO = dict(type="ConvNeXt", arch=dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)))
ISOTROPIC = dict(type="IsotropicConvNeXt", arch=dict(depths=(2,), dims=(8,)))
PYRAMID = dict(type="SimpleFeaturePyramid", in_channels=8, out_channels=4)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain", "mmengine"])
def test_the_type_builds_from_every_scope(scope):
    if scope == "mmpretrain" and find_spec("mmpretrain"):
        pytest.skip("in its own scope, mmpretrain has a ConvNeXt of its own")
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(MICRO)
    assert isinstance(model, convnext_dense.mm.models.backbones.ConvNeXt)
    assert isinstance(model, BaseModule)
    assert isinstance(model, ConvNeXt)


def test_the_toolbox_registries_find_it_too():
    from mmdet.registry import MODELS as MMDET
    from mmseg.registry import MODELS as MMSEG

    for registry in (MMDET, MMSEG):
        assert isinstance(registry.build(MICRO), ConvNeXt)
        assert isinstance(registry.build(ISOTROPIC), IsotropicConvNeXt)
        assert isinstance(registry.build(PYRAMID), SimpleFeaturePyramid)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain", "mmengine"])
def test_an_isotropic_backbone_feeds_its_pyramid_in_every_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        backbone, neck = MODELS.build(ISOTROPIC), MODELS.build(PYRAMID)
    assert isinstance(backbone, BaseModule) and isinstance(neck, BaseModule)
    backbone.init_weights()
    neck.init_weights()
    levels = neck(backbone(torch.randn(1, 3, 64, 96)))
    assert [tuple(level.shape) for level in levels] == [(1, 4, 64 // s, 96 // s) for s in (4, 8, 16, 32)]


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


def test_an_isotropic_backbone_loads_a_released_classifier_exactly(tmp_path, caplog):
    source = Classifier(ISOTROPIC["arch"])
    state = {name: torch.randn_like(value) for name, value in source.state_dict().items()}
    state = {name.removeprefix("backbone."): value for name, value in state.items()}
    torch.save({"model": state}, tmp_path / "w.pth")
    cfg = dict(ISOTROPIC, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "w.pth")))
    logger = MMLogger.get_instance("test_backbones")
    logger.propagate = True
    with caplog.at_level(logging.INFO):
        model = MODELS.build(cfg)
        model.init_weights()
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("norm0")}
    assert len(own) == 2 + 2 * 8 and all(torch.equal(value, state[name]) for name, value in own.items())
    assert f"backbone: {len(own)}/{len(own)} tensors from isotropic naming" in caplog.text
    assert (model.norm0.weight == 1).all() and model.is_init
    del state["blocks.1.dwconv.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.dwconv\.bias.*use --pretrained PATH for others"):
        MODELS.build(cfg).init_weights()
    with pytest.raises(CheckpointError):  # a hierarchical backbone does not take it
        MODELS.build(dict(MICRO, init_cfg=cfg["init_cfg"])).init_weights()


@pytest.mark.parametrize("cfg", [ISOTROPIC, PYRAMID], ids=["isotropic", "pyramid"])
def test_the_config_is_copied_and_mmengines_initialisers_work(cfg):
    init_cfg = dict(type="Constant", layer="Conv2d", val=0.25)
    model = MODELS.build(dict(cfg, init_cfg=init_cfg))
    init_cfg["val"] = 0.5
    model.init_weights()
    convolutions = [module for module in model.modules() if type(module) is torch.nn.Conv2d]
    assert convolutions and all((module.weight == 0.25).all() for module in convolutions)
    assert MODELS.build(cfg).init_cfg is None


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
