"""The settings of the ADE20K recipes against the release."""

import ast

import cv2
import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from published import RECIPES, config, param_groups
from repository import ROOT

import convnext_dense.mm  # noqa: F401
from convnext_dense import ARCHS, list_configs
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.models.layer_decay import default_num_layers
from convnext_dense.results import paper

ALL = sorted(row.name for row in paper.ADE20K)
RELEASED_RECIPES = [name for name in RECIPES if name.startswith("upernet/")]
SWIN = [name for name in ALL if "swin" in name]
NOT_RELEASED = {"upernet/swin_b_in22k_640_160k", "upernet/swin_l_in22k_640_160k"}
FACEBOOK = "https://dl.fbaipublicfiles.com/convnext/convnext_{}_{}_224.pth"
RATIOS = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]

# Settings of the released segmentation code, by path in the model.
RELEASED = {
    "type": "EncoderDecoder",
    "pretrained": None,
    "data_preprocessor.type": "SegDataPreProcessor",
    "data_preprocessor.mean": [123.675, 116.28, 103.53],
    "data_preprocessor.std": [58.395, 57.12, 57.375],
    "data_preprocessor.bgr_to_rgb": True,
    "data_preprocessor.pad_val": 0,
    "data_preprocessor.seg_pad_val": 255,
    "decode_head.type": "convnext_dense.UPerHead",
    "decode_head.in_index": [0, 1, 2, 3],
    "decode_head.pool_scales": [1, 2, 3, 6],
    "decode_head.channels": 512,
    "decode_head.dropout_ratio": 0.1,
    "decode_head.num_classes": 150,
    "decode_head.norm_cfg.type": "SyncBN",
    "decode_head.align_corners": False,
    "decode_head.loss_decode.type": "CrossEntropyLoss",
    "decode_head.loss_decode.loss_weight": 1.0,
    "auxiliary_head.type": "convnext_dense.FCNHead",
    "auxiliary_head.in_index": 2,
    "auxiliary_head.channels": 256,
    "auxiliary_head.num_convs": 1,
    "auxiliary_head.concat_input": False,
    "auxiliary_head.dropout_ratio": 0.1,
    "auxiliary_head.num_classes": 150,
    "auxiliary_head.norm_cfg.type": "SyncBN",
    "auxiliary_head.align_corners": False,
    "auxiliary_head.loss_decode.loss_weight": 0.4,
}


def plain(node):
    """A piece of a config without the scopes that inheritance from mmseg writes into it; tuples as lists."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items() if key != "_scope_"}
    return [plain(item) for item in node] if isinstance(node, list | tuple) else node


def at(node, path: str):
    """Value at ``decode_head.norm_cfg.type``; tuples as lists."""
    for key in path.split("."):
        node = node[key]
    return plain(node)


def crop_of(name: str) -> int:
    return paper.find_row(name).crop


def test_every_row_of_the_table_has_its_recipe():
    assert set(ALL) <= set(list_configs())
    assert set(RELEASED_RECIPES) == set(ALL) - set(SWIN)


@pytest.mark.parametrize("name", ALL)
def test_model_is_that_of_the_release(name):
    model = config(name).model
    assert {path: at(model, path) for path in RELEASED} == RELEASED


@pytest.mark.parametrize("name", RELEASED_RECIPES)
def test_settings_are_those_of_the_release(name):
    cfg, recipe = config(name), RECIPES[name]
    backbone = cfg.model.backbone
    for key in ("arch", "drop_path_rate", "layer_scale_init_value"):
        assert backbone[key] == recipe[key], key
    pretrained = recipe["pretrain"].removeprefix("ImageNet-").lower()
    assert plain(backbone.init_cfg) == dict(
        type="Pretrained", checkpoint=FACEBOOK.format(recipe["arch"], pretrained)
    )
    assert cfg.model.decode_head.in_channels == list(ARCHS[recipe["arch"]].dims)
    assert cfg.model.auxiliary_head.in_channels == recipe["aux_in_channels"]
    optimizer = {**cfg.optim_wrapper.optimizer, "betas": list(cfg.optim_wrapper.optimizer.betas)}
    assert optimizer == recipe["optimizer"]
    decay = dict(cfg.optim_wrapper.paramwise_cfg)
    decay["num_layers"] = default_num_layers(ARCHS[recipe["arch"]].depths)
    assert decay == recipe["layer_decay"]
    assert cfg.optim_wrapper.type == ("AmpOptimWrapper" if recipe["fp16"] else "OptimWrapper")
    assert "clip_grad" not in cfg.optim_wrapper


@pytest.mark.parametrize("name", ALL)
def test_training_is_that_of_the_release(name):
    cfg, crop = config(name), crop_of(name)
    recipe = RECIPES["upernet/convnext_t_512_160k"]  # these settings are the same in all
    assert cfg.train_cfg == dict(type="IterBasedTrainLoop", max_iters=recipe["iters"], val_interval=16_000)
    assert cfg.default_hooks.checkpoint.interval == 16_000 and not cfg.default_hooks.checkpoint.by_epoch
    assert cfg.train_dataloader.batch_size == recipe["images_per_gpu"]
    assert plain(cfg.train_dataloader.sampler) == dict(type="InfiniteSampler", shuffle=True)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=recipe["images_per_gpu"] * recipe["gpus"])
    assert plain(cfg.train_dataloader.dataset.pipeline) == [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", reduce_zero_label=True),
        dict(type="RandomResize", scale=[4 * crop, crop], ratio_range=[0.5, 2.0], keep_ratio=True),
        dict(type="RandomCrop", crop_size=[crop, crop], cat_max_ratio=0.75),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PhotoMetricDistortion"),
        dict(type="PackSegInputs"),
    ]
    assert cfg.model.data_preprocessor["size"] == (crop, crop)
    splits = [cfg[f"{split}_dataloader"].dataset for split in ("train", "val", "test")]
    assert {data.type for data in splits} == {"ADE20KDataset"}
    assert {data.data_root for data in splits} == {"data/ade/ADEChallengeData2016"}
    assert [data.data_prefix.img_path for data in splits] == ["images/training", *["images/validation"] * 2]


@pytest.mark.parametrize("name", ALL)
def test_one_scale_slides_windows(name):
    cfg, crop = config(name), crop_of(name)
    recipe = RECIPES[f"upernet/convnext_b_{'512' if crop == 512 else 'in22k_640'}_160k"]
    assert plain(cfg.model.test_cfg) == recipe["test_single_scale"]
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.batch_size == 1
        resize = dict(type="Resize", scale=recipe["test_resize"], keep_ratio=True)
        assert plain(loader.dataset.pipeline[1]) == resize
    assert (
        plain(cfg.val_evaluator) == plain(cfg.test_evaluator) == dict(type="IoUMetric", iou_metrics=["mIoU"])
    )


@pytest.mark.parametrize("name", ["upernet/convnext_t_512_160k", "upernet/swin_b_in22k_640_160k"])
def test_several_scales_and_flip_see_whole_images(name, tmp_path):
    """Twelve versions of an image of 90 x 60 pixels: sides are ratio x (crop x 1.5, crop), rounded."""
    cfg, crop = config(name), crop_of(name)
    assert RECIPES["upernet/convnext_t_512_160k"]["test_multi_scale"] == dict(
        mode=cfg.tta_model.mode, flip=True, ratios=RATIOS
    )
    sizes = [plain(step["scale"]) for step in cfg.tta_pipeline[1].transforms[0]]
    assert sizes == [[4 * crop * ratio, crop * ratio] for ratio in RATIOS]
    cv2.imwrite(str(tmp_path / "image.png"), np.arange(90 * 60 * 3, dtype=np.uint8).reshape(60, 90, 3))
    label = np.arange(90 * 60, dtype=np.int64).reshape(60, 90) % 151
    cv2.imwrite(str(tmp_path / "label.png"), label.astype(np.uint8))
    init_default_scope("mmseg")
    versions = Compose(cfg.tta_pipeline)(
        dict(
            img_path=str(tmp_path / "image.png"),
            seg_map_path=str(tmp_path / "label.png"),
            reduce_zero_label=True,
            seg_fields=[],
        )
    )
    shapes = {(tuple(image.shape[1:]), sample.flip) for image, sample in zip(*versions.values(), strict=True)}
    assert len(versions["inputs"]) == 12
    assert shapes == {
        ((int(crop * r), int(crop * r * 1.5 + 0.5)), flip) for r in RATIOS for flip in (False, True)
    }
    for sample in versions["data_samples"]:  # the ground truth stays as it is on disk
        assert sample.ori_shape == (60, 90)
        expected = np.where(label == 0, 255, label - 1)
        np.testing.assert_array_equal(sample.gt_sem_seg.data[0].numpy(), expected)


@pytest.mark.parametrize("name", SWIN)
def test_swin_is_trained_as_released(name):
    cfg = config(name)
    assert cfg.model.backbone.drop_path_rate == 0.3  # in all three released segmentation configs
    assert cfg.model.backbone.window_size == 7
    file = cfg.model.backbone.init_cfg.checkpoint.rpartition("/")[2]
    size = dict(t="tiny", s="small", b="base", l="large")[name.removeprefix("upernet/swin_")[0]]
    assert file.startswith(f"swin_{size}_patch4_window7_224_{'22k_2022' if 'in22k' in name else '2022'}")
    assert cfg.optim_wrapper.type == "OptimWrapper" and "constructor" not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    model = build_on_meta(cfg)
    names = {id(param): key for key, param in model.named_parameters()}
    for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups:
        key = names[id(group["params"][0])]
        free = "norm" in key or "relative_position_bias_table" in key
        assert (group["lr"], group["weight_decay"]) == (6e-5, 0.0 if free else 0.01), key


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_opens_with_its_row(name):
    text = ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))
    row = paper.find_row(name)
    miou = (
        f"{row.miou} at one scale, {row.miou_ms} at several"
        if row.miou
        else f"{row.miou_ms} at several scales"
    )
    macs = f"{row.macs_g} GMACs at {row.crop}x{4 * row.crop}"
    assert f"{row.table}: mIoU {miou} + flip; {macs}; {row.params_m} M parameters" in text
    assert text.startswith(f"UperNet, {row.backbone}")
    assert f"tools/train.py {name} " in text
    assert f"Pretrained ImageNet-{row.pretrain}, 224 pixels" in text
    fp16 = config(name).optim_wrapper.type == "AmpOptimWrapper"
    assert (
        text.splitlines()[5] == f"Cost       160,000 iterations of 8 GPUs x 2 images, fp{16 if fp16 else 32}"
    )
    assert ("same recipe, not released" in text) == (name in NOT_RELEASED)


@pytest.mark.parametrize("name", RELEASED_RECIPES)
def test_the_whole_model_is_in_the_published_groups(name):
    cfg = config(name)
    model = build_on_meta(cfg)
    groups = build_optim_wrapper(model, {**cfg.optim_wrapper, "type": "OptimWrapper"}).optimizer.param_groups
    found = {
        key: (group["lr"] / cfg.optim_wrapper.optimizer.lr, group["weight_decay"])
        for group in groups
        for key in group["param_names"]
    }
    published = {key: values for key, values in param_groups(name).items() if key.startswith("backbone.")}
    for key, param in model.named_parameters():
        flat = param.dim() == 1 or key.endswith(".bias")
        scale, weight_decay = published.get(key, (1.0, 0.0 if flat else 0.05))
        assert found[key] == (pytest.approx(scale, abs=1e-9), weight_decay), key
    assert len(found) == len(list(model.parameters())) and set(published) <= set(found)
