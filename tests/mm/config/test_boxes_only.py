"""Recipes with a mask head, for data with boxes alone."""

import pytest

pytest.importorskip("mmdet")

from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.config.boxes_only import drop_masks
from convnext_dense.mm.config.evaluators import check_figures, evaluators_of
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.support.nested import mappings


@pytest.mark.parametrize(
    "name",
    ["mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x", "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"],
)
def test_neither_the_model_nor_the_pipelines_nor_the_figures_have_masks(name):
    cfg = load_config(name)
    cfg.default_hooks.checkpoint.save_best = "coco/segm_mAP"
    assert "no mask head" in drop_masks(cfg)
    model = build_on_meta(cfg)
    assert model.with_bbox and not model.with_mask and not model.roi_head.with_mask
    assert not [node for _, node in mappings(cfg.to_dict()) if node.get("with_mask")]
    assert {e.metric for split in ("val", "test") for e in evaluators_of(cfg, split)} == {"bbox"}
    check_figures(cfg)
    assert cfg.default_hooks.checkpoint.save_best == "coco/bbox_mAP"


@pytest.mark.parametrize("name", ["upernet/convnext_t_512_160k", "mmdet::solo/solo_r50_fpn_1x_coco.py"])
def test_a_model_without_a_mask_head_beside_a_box_head_is_refused(name):
    cfg = load_config(name)
    before = cfg.to_dict()
    with pytest.raises(UserError, match=r"--boxes-only: .* has no mask head beside a box head"):
        drop_masks(cfg)
    assert Config(before).to_dict() == cfg.to_dict()
