"""Which models can be exported: the reason for each kind of mmdet and mmseg that cannot."""

import copy
import functools

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

pytest.importorskip("onnxscript")
import exportable
from exportable import DETECTORS, SEGMENTORS

from convnext_dense.mm.config.edit import set_pretrained
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.export.kinds import why_not
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.recipes import list_configs

REFUSED = {
    "mmdet::detr/detr_r50_8xb2-150e_coco.py": "DETR predicts with code of its own",
    "mmdet::htc/htc_r50_fpn_1x_coco.py": "HybridTaskCascadeRoIHead has code of its own",
    "mmdet::queryinst/queryinst_r50_fpn_1x_coco.py": "EmbeddingRPNHead predicts without anchors",
    "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py": "EmbeddingRPNHead predicts without anchors",
    "mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py": "PointRendRoIHead has code of its own",
    "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py": "Mask2Former is neither a detector",
    "mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py": "has a shared head after RoIAlign",
    "mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py": "CenterNetHead predicts without anchors",
    "mmdet::gfl/gfl_r50_fpn_1x_coco.py": "GFLHead has its own _predict_by_feat_single",
    "mmdet::paa/paa_r50_fpn_1x_coco.py": "PAAHead has its own predict_by_feat",
    "mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py": "YOLOFHead limits how far a box may move",
    "mmdet::rpn/rpn_r50_fpn_1x_coco.py": "RPNHead has its own",  # proposals alone
    "mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py": "FastRCNN has no RPN",
    "mmdet::sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py": "SABLHead has code of its own",
    "mmdet::groie/faste-rcnn_r50_fpn_groie_1x_coco.py": "GenericRoIExtractor is no SingleRoIExtractor",
    "mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py": "CondInst predicts with code of its own",
    "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.01-coco.py": (
        "SoftTeacher is neither a detector"
    ),
    "mmseg::point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py": "PointHead predicts with code of its own",
    "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py": "Mask2FormerHead predicts with code",
    "mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py": "MaskFormerHead predicts with code",
}


@functools.cache
def _read(name: str) -> Config:
    return load_config(name)


def reason_of(cfg: Config) -> str | None:
    """What `why_not` says of a config's model, which is built without weights."""
    cfg = copy.deepcopy(cfg)
    init_default_scope(cfg.default_scope)
    set_pretrained(cfg, "none")
    return why_not(build_on_meta(cfg))


@pytest.mark.parametrize("name", REFUSED)
def test_the_reason_names_what_is_special(name):
    reason = reason_of(_read(name))
    assert reason and REFUSED[name] in reason
    assert "\n" not in reason


@pytest.mark.parametrize("name", [*DETECTORS, *SEGMENTORS])
def test_the_common_kinds_can(name):
    assert reason_of(exportable.config(name)) is None


RECIPES = [name for name in list_configs() if "_3x" in name or "_160k" in name]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can(name):
    """ConvNeXt V2's Mask R-CNN was published with soft-NMS, which has no operator in ONNX."""
    cfg = copy.deepcopy(_read(name))
    if name.startswith("mask_rcnn/convnextv2"):
        assert "--cfg-options model.test_cfg.rcnn.nms.type=nms" in reason_of(cfg)
        cfg.merge_from_dict({"model.test_cfg.rcnn.nms.type": "nms"})
    assert reason_of(cfg) is None


@pytest.mark.parametrize(
    ("nms", "remedy"),
    [
        (dict(type="soft_nms", iou_threshold=0.5), "nms.type=nms"),
        (dict(type="nms", iou_threshold=0.5, class_agnostic=True), "iou_threshold alone"),
        (dict(type="nms", iou_threshold=0.5, max_num=50), "iou_threshold alone"),
        (dict(type="nms", iou_threshold=0.5, score_threshold=0.3), "iou_threshold alone"),
        (dict(type="nms", iou_threshold=0.5, offset=1), "iou_threshold alone"),
        (dict(type="nms"), "iou_threshold alone"),
    ],
)
@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
def test_other_nms(nms, remedy, name):
    cfg = exportable.config(name)
    part = cfg.model.test_cfg if name == "retinanet" else cfg.model.test_cfg.rcnn
    part.nms = nms
    assert remedy in reason_of(cfg)


def test_nms_in_other_words():
    cfg = exportable.config("retinanet")
    cfg.model.test_cfg.nms = dict(iou_threshold=0.5, split_thr=20000, class_agnostic=False)
    assert reason_of(cfg) is None


def test_no_limit_before_nms():
    cfg = exportable.config("retinanet", model__test_cfg__nms_pre=-1)
    assert "nms_pre" in reason_of(cfg)


def test_depth_is_no_segmentation():
    """mmseg's ``DepthEstimator`` is an ``EncoderDecoder`` whose outputs are metres."""
    cfg = exportable.config("upernet")
    cfg.model.type = "DepthEstimator"
    assert "DepthEstimator predicts with code of its own" in reason_of(cfg)


def test_padding_to_one_size():
    cfg = exportable.config("upernet", model__data_preprocessor__test_cfg=dict(size=(512, 512)))
    assert "size_divisor" in reason_of(cfg)
