"""Recipes are bases of configs elsewhere, by the package's name."""

import pytest
from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.config.by_name import find_recipes_in_mmengine, recipe_file
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.recipes import config_path, configs_root


def test_names_of_recipes_and_bases():
    assert recipe_file("convnext_dense::cascade/convnext_b_3x.py") == config_path("cascade/convnext_b_3x")
    assert recipe_file("cascade/convnext_b_3x") == config_path("cascade/convnext_b_3x")
    assert recipe_file("convnext_dense::_base_/mask_rcnn.py") == configs_root() / "_base_/mask_rcnn.py"
    with pytest.raises(UserError, match="near: cascade/convnext_b_3x"):
        recipe_file("convnext_dense::cascade/convnext_b_4x.py")


@pytest.mark.parametrize("bases", ["'{}'", "['{}']", "['{}', 'other.py']"])
def test_a_child_inherits_a_recipe(bases, tmp_path):
    (tmp_path / "other.py").write_text("other = 1\n")
    child = tmp_path / "child.py"
    name = "convnext_dense::mask_rcnn/convnext_t_3x.py"
    child.write_text(f"_base_ = {bases.format(name)}\nmodel = dict(backbone=dict(drop_path_rate=0.1))\n")
    cfg, recipe = load_config(str(child)), load_config("mask_rcnn/convnext_t_3x")
    recipe.model.backbone.drop_path_rate = 0.1
    assert cfg.model == recipe.model and cfg.optim_wrapper == recipe.optim_wrapper
    assert Config.fromfile(child).model == cfg.model  # mmengine alone, after `import convnext_dense.mm`
    assert load_config(name).train_dataloader == recipe.train_dataloader


def test_a_child_adds_its_backbone_to_two_bases(tmp_path):
    child = tmp_path / "child.py"
    child.write_text(
        "_base_ = ['convnext_dense::_base_/mask_rcnn.py', 'convnext_dense::_base_/coco_3x.py']\n"
        "dims = [40, 80, 160, 320]\n"
        "model = dict(backbone=dict(type='ConvNeXt', arch='atto'), neck=dict(in_channels=dims))\n"
    )
    cfg, recipe = load_config(str(child)), load_config("mask_rcnn/convnext_t_3x")
    assert cfg.train_dataloader == recipe.train_dataloader
    neck = build_on_meta(cfg).neck
    assert [conv.in_channels for conv in neck.lateral_convs] == [40, 80, 160, 320]


def test_other_packages_are_found_as_before_and_once():
    find_recipes_in_mmengine()
    path, scope = Config._get_cfg_path("mmdet::_base_/models/mask-rcnn_r50_fpn.py", "child.py")
    assert path.endswith("mask-rcnn_r50_fpn.py") and scope == "mmdet"
    assert Config._get_cfg_path("base.py", "folder/child.py") == ("folder/base.py", None)
