"""The settings of the COCO recipes against the release."""

import ast
import re

import pytest
from mmengine.optim import build_optim_wrapper
from published import COCO_RECIPES, RECIPES, config, param_groups
from repository import ROOT

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)
from convnext_dense import ARCHS
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.models.layer_decay import default_num_layers
from convnext_dense.results import paper

ALL = [row.name for row in paper.COCO]
NOT_RELEASED = {"resnet50", "x101_32x4d", "x101_64x4d", "swin_b_in22k", "swin_l_in22k"}
FACEBOOK = "https://dl.fbaipublicfiles.com/convnext/convnext_{}_224.pth"
PRETRAINED = {
    "tiny": "tiny_1k",
    "small": "small_1k",
    "base": "base_1k",
    "large": "large_22k",
    "xlarge": "xlarge_22k",
}

# Settings of the released detection code, by path in the model.
RELEASED = {
    "data_preprocessor.mean": [123.675, 116.28, 103.53],
    "data_preprocessor.std": [58.395, 57.12, 57.375],
    "data_preprocessor.bgr_to_rgb": True,
    "data_preprocessor.pad_size_divisor": 32,
    "neck.type": "FPN",
    "neck.out_channels": 256,
    "neck.num_outs": 5,
    "rpn_head.anchor_generator.scales": [8],
    "rpn_head.anchor_generator.ratios": [0.5, 1.0, 2.0],
    "rpn_head.anchor_generator.strides": [4, 8, 16, 32, 64],
    "rpn_head.loss_cls.use_sigmoid": True,
    "train_cfg.rpn.assigner.pos_iou_thr": 0.7,
    "train_cfg.rpn.assigner.neg_iou_thr": 0.3,
    "train_cfg.rpn.assigner.min_pos_iou": 0.3,
    "train_cfg.rpn.sampler.num": 256,
    "train_cfg.rpn.sampler.pos_fraction": 0.5,
    "train_cfg.rpn_proposal.nms_pre": 2000,
    "train_cfg.rpn_proposal.nms.iou_threshold": 0.7,
    # the released code filters for sizes above 0 only, where mmdet 3 filters from 0 on
    "train_cfg.rpn_proposal.min_bbox_size": -1,
    "test_cfg.rpn.min_bbox_size": -1,
    "test_cfg.rpn.nms_pre": 1000,
    "test_cfg.rpn.max_per_img": 1000,
    "test_cfg.rpn.nms.iou_threshold": 0.7,
    "test_cfg.rcnn.score_thr": 0.05,
    "test_cfg.rcnn.nms.iou_threshold": 0.5,
    "test_cfg.rcnn.max_per_img": 100,
    "test_cfg.rcnn.mask_thr_binary": 0.5,
    "roi_head.mask_head.num_convs": 4,
    "roi_head.mask_head.num_classes": 80,
    "roi_head.mask_roi_extractor.roi_layer.output_size": 14,
    "roi_head.bbox_roi_extractor.roi_layer.sampling_ratio": 0,
}
RELEASED_MASK_RCNN = {
    "type": "MaskRCNN",
    "rpn_head.loss_bbox.type": "L1Loss",
    "train_cfg.rpn.allowed_border": -1,
    "train_cfg.rpn_proposal.max_per_img": 1000,
    "train_cfg.rcnn.assigner.pos_iou_thr": 0.5,
    "train_cfg.rcnn.assigner.match_low_quality": True,
    "train_cfg.rcnn.sampler.num": 512,
    "train_cfg.rcnn.mask_size": 28,
    "roi_head.bbox_head.type": "convnext_dense.Shared2FCBBoxHead",
    "roi_head.bbox_head.loss_bbox.type": "L1Loss",
    "roi_head.bbox_head.bbox_coder.target_stds": [0.1, 0.1, 0.2, 0.2],
}
RELEASED_CASCADE = {
    "type": "CascadeRCNN",
    "rpn_head.loss_bbox.type": "SmoothL1Loss",
    "rpn_head.loss_bbox.beta": 1 / 9,
    "train_cfg.rpn.allowed_border": 0,
    "train_cfg.rpn_proposal.max_per_img": 2000,
    "roi_head.num_stages": 3,
    "roi_head.stage_loss_weights": [1, 0.5, 0.25],
    **{f"train_cfg.rcnn.{i}.assigner.pos_iou_thr": 0.5 + 0.1 * i for i in range(3)},
    **{f"train_cfg.rcnn.{i}.assigner.match_low_quality": False for i in range(3)},
    **{f"train_cfg.rcnn.{i}.sampler.num": 512 for i in range(3)},
    **{
        f"roi_head.bbox_head.{i}.{key}": value
        for i in range(3)
        for key, value in {
            "type": "convnext_dense.ConvFCBBoxHead",
            "num_shared_convs": 4,
            "num_shared_fcs": 1,
            "conv_out_channels": 256,
            "fc_out_channels": 1024,
            "num_classes": 80,
            "reg_class_agnostic": False,
            "reg_decoded_bbox": True,
            "norm_cfg.type": "SyncBN",
            "loss_bbox.type": "GIoULoss",
            "loss_bbox.loss_weight": 10.0,
            "loss_cls.use_sigmoid": False,
        }.items()
    },
    "roi_head.bbox_head.0.bbox_coder.target_stds": [0.1, 0.1, 0.2, 0.2],
    "roi_head.bbox_head.1.bbox_coder.target_stds": [0.05, 0.05, 0.1, 0.1],
    "roi_head.bbox_head.2.bbox_coder.target_stds": [0.033, 0.033, 0.067, 0.067],
}


def at(node, path: str):
    """Value at ``roi_head.bbox_head.0.type``; tuples as lists."""
    for key in path.split("."):
        node = node[int(key)] if key.isdigit() else node[key]
    return list(node) if isinstance(node, tuple) else node


@pytest.mark.parametrize("name", ALL)
def test_model_is_that_of_the_release(name):
    model = config(name).model
    expected = RELEASED | (RELEASED_MASK_RCNN if name.startswith("mask_rcnn/") else RELEASED_CASCADE)
    found = {path: at(model, path) for path in expected}
    assert found == {
        path: pytest.approx(value) if isinstance(value, float) else value for path, value in expected.items()
    }


@pytest.mark.parametrize("name", COCO_RECIPES)
def test_settings_are_those_of_the_release(name):
    cfg, recipe = config(name), RECIPES[name]
    backbone = cfg.model.backbone
    for key in ("arch", "drop_path_rate", "layer_scale_init_value"):
        assert backbone[key] == recipe[key], key
    pretrained = PRETRAINED[recipe["arch"]]
    if recipe["pretrain"] == "ImageNet-22K":
        pretrained = pretrained.replace("_1k", "_22k")
    assert backbone.init_cfg == dict(type="Pretrained", checkpoint=FACEBOOK.format(pretrained))
    assert cfg.model.neck.in_channels == list(ARCHS[recipe["arch"]].dims)
    optimizer = {**cfg.optim_wrapper.optimizer, "betas": list(cfg.optim_wrapper.optimizer.betas)}
    assert optimizer == recipe["optimizer"]
    decay = dict(cfg.optim_wrapper.paramwise_cfg)
    decay["num_layers"] = default_num_layers(ARCHS[recipe["arch"]].depths)
    assert decay == recipe["layer_decay"]
    assert (cfg.optim_wrapper.type == "AmpOptimWrapper") == recipe["fp16"]
    assert recipe["grad_clip"] is None and "clip_grad" not in cfg.optim_wrapper


@pytest.mark.parametrize("name", ALL)
def test_training_is_that_of_the_release(name):
    cfg, recipe = config(name), RECIPES["cascade/convnext_t_3x"]  # these settings are the same in all
    assert cfg.train_cfg.max_epochs == recipe["epochs"]
    assert cfg.train_dataloader.batch_size == recipe["images_per_gpu"]
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=recipe["images_per_gpu"] * recipe["gpus"])
    assert cfg.param_scheduler[1].milestones == recipe["lr_steps"]
    assert cfg.train_dataloader.dataset.filter_cfg == dict(filter_empty_gt=True, min_size=32)
    assert cfg.val_evaluator.metric == ["bbox", "segm"]
    assert cfg.val_dataloader.dataset.pipeline[1] == dict(type="Resize", scale=(1333, 800), keep_ratio=True)
    paths = {
        cfg[part].dataset.data_root for part in ("train_dataloader", "val_dataloader", "test_dataloader")
    }
    assert paths == {"data/coco/"}


SWIN_DROP_PATH = {"swin_t": 0.2, "swin_s": 0.2, "swin_b": 0.3}  # released detection configs


@pytest.mark.parametrize("name", [name for name in ALL if "swin" in name])
def test_swin_is_trained_as_released(name):
    cfg = config(name)
    size = re.search(r"swin_\w", name)[0]
    assert cfg.model.backbone.drop_path_rate == SWIN_DROP_PATH.get(size, 0.3)
    assert cfg.optim_wrapper.type == "AmpOptimWrapper" and "constructor" not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    groups = build_optim_wrapper(
        model := build_on_meta(cfg), {**cfg.optim_wrapper, "type": "OptimWrapper"}
    ).optimizer.param_groups
    names = {id(param): key for key, param in model.named_parameters()}
    for group in groups:
        key = names[id(group["params"][0])]
        free = "norm" in key or "relative_position_bias_table" in key
        assert group["weight_decay"] == (0.0 if free else 0.05), key


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_opens_with_its_row(name):
    text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))
    row = paper.find_row(name)
    assert f"{row.table}: box AP {row.box.ap}, mask AP {row.mask.ap}; {row.macs_g} GMACs at 1280x800" in text
    assert row.params_m is None or f"{row.params_m} M parameters" in text
    assert f"tools/train.py {name} " in text
    assert f"ImageNet-{row.pretrain}" in text
    fp16 = config(name).optim_wrapper.type == "AmpOptimWrapper"
    assert text.splitlines()[5].endswith("fp16" if fp16 else "fp32")
    labelled = "same recipe, not released" in text
    assert labelled == (name.split("/")[1].removesuffix("_3x") in NOT_RELEASED)


@pytest.mark.parametrize("name", COCO_RECIPES)
def test_the_whole_model_is_in_the_published_groups(name):
    cfg = config(name)
    model = build_on_meta(cfg)
    groups = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"}).optimizer.param_groups
    found = {
        key: (round(group["lr"] / cfg.optim_wrapper.optimizer.lr, 9), group["weight_decay"])
        for group in groups
        for key in group["param_names"]
    }
    published = {
        key: (round(s, 9), wd) for key, (s, wd) in param_groups(name).items() if key.startswith("backbone.")
    }
    for key, param in model.named_parameters():
        flat = param.dim() == 1 or key.endswith(".bias")
        assert found[key] == published.get(key, (1.0, 0.0 if flat else 0.05)), key
    assert set(published) <= set(found)
