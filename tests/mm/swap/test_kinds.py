"""Configs of each kind that is more than a backbone with levels: swapped, written, trained for a step."""

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.swap import smoke_test
from convnext_dense.mm.swap.backbone import Swap, swap_backbone
from convnext_dense.mm.swap.smoke_test import try_model
from convnext_dense.mm.swap.write import write_config

KINDS = {
    "c4": "mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py",
    "rfp": "mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco.py",
    "stride 64": "mmdet::rtmdet/rtmdet_l_swin_b_p6_4xb16-100e_coco.py",  # and group norms
    "semi-supervised": "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.01-coco.py",
    "tracker": "mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py",
    "one mask head": "mmdet::scnet/scnet_r50_fpn_1x_coco.py",  # for all stages of a cascade
    "distillation": "mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py",
    "video": "mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py",
    "text": "mmdet::grounding_dino/grounding_dino_r50_scratch_8xb2_1x_coco.py",
    "other maps in training": "mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
    "branches": "mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py",
    "several inputs": "mmseg::icnet/icnet_r50-d8-in1k-pre_4xb2-160k_cityscapes-832x832.py",
    "finer than 4": "mmseg::erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py",
    "several in_index": "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py",
    "ssd": "mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",  # mmdet's own head cannot predict
    "point_rend": "mmseg::point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py",
}


def swapped(kind: str) -> Swap:
    return swap_backbone(load_config(KINDS[kind]), "atto", pretrained="none")


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_and_predicts(kind):
    try_model(swapped(kind).cfg)


@pytest.mark.parametrize(
    ("name", "unread"),
    [
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", {"norm0"}),  # its FPN starts at stride 8
        ("mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py", {"norm0", "norm1"}),
        ("mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py", set()),
    ],
)
def test_distributed_training_is_told_what_gets_no_gradient(name, unread, monkeypatch):
    tried = []
    monkeypatch.setattr(smoke_test, "_check_gradients", tried.append)
    cfg = swap_backbone(load_config(name), "atto", pretrained="none").cfg
    try_model(cfg)
    without = {n for n, p in tried[0].named_parameters() if p.requires_grad and p.grad is None}
    assert without == {f"backbone.{norm}.{part}" for norm in unread for part in ("weight", "bias")}
    assert cfg.get("find_unused_parameters", False) is bool(unread)


@pytest.mark.parametrize("kind", ["c4", "rfp", "stride 64", "semi-supervised", "tracker", "distillation"])
def test_its_file_reads_back_and_builds_with_layer_decay(kind, tmp_path):
    path = tmp_path / "swapped.py"
    write_config(swapped(kind), KINDS[kind], path)
    cfg = Config.fromfile(path)
    init_default_scope("mmdet")
    cfg.model.pop("teacher_ckpt", None)  # a download
    model = MODELS.build(cfg.model)
    cfg.optim_wrapper.type = "OptimWrapper"  # the other one needs a GPU
    cfg.optim_wrapper.pop("loss_scale", None)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    scale = {name: group["lr_scale"] for group in groups for name in group["param_names"]}
    stems = [scale[name] for name in scale if name.endswith("downsample_layers.0.0.weight")]
    # ConvNeXt atto: stem, three stages, two groups of three blocks, the last stage, heads
    assert stems and all(rate == pytest.approx(0.7**6) for rate in stems)
    assert all(p.requires_grad or name.startswith("teacher.") for name, p in model.named_parameters())


@pytest.mark.parametrize("empty", [False, True])
def test_a_new_neck_reads_back_in_a_config_without_one(empty, tmp_path):
    cfg = load_config(KINDS["branches"])
    if empty:
        cfg.model.neck = None  # there, but nothing
    cfg.dump(tmp_path / "old.py")
    swap = swap_backbone(cfg, "atto", pretrained="none")
    write_config(swap, str(tmp_path / "old.py"), tmp_path / "swapped.py")  # it compares
    neck = Config.fromfile(tmp_path / "swapped.py").model.neck
    assert neck.type == "LevelPyramid" and "_delete_" not in neck


def test_the_inner_model_gets_the_backbone_and_the_outer_the_preprocessor():
    cfg = swapped("semi-supervised").cfg
    assert cfg.model.detector.backbone.type == "mmengine.ConvNeXt"
    for owner in (cfg.model.detector, cfg.model.data_preprocessor):
        assert owner.data_preprocessor.bgr_to_rgb is True and owner.data_preprocessor.mean[0] == 123.675
    cfg = swapped("tracker").cfg
    assert cfg.model.data_preprocessor.mean[0] == 123.675 and "data_preprocessor" not in cfg.model.detector
    assert cfg.model.detector.neck.in_channels == [40, 80, 160, 320]
    assert "init_cfg" not in cfg.model.detector  # weights of the old detector


def test_a_teacher_is_read_from_the_wheel_and_stays_as_it_is():
    model = swapped("distillation").cfg.model
    assert model.teacher_config.model.backbone.type == "ResNet" and model.teacher_ckpt.startswith("https")
