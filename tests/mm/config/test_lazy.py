"""Pure-Python configs, whose types are classes, go through every tool."""

import mmcv
import pytest
from mmengine.config import Config
from packaging.version import Version

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.apis.train import TrainOptions, training_config
from convnext_dense.mm.bench.config_fuzz import build_all
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.config.lr_plan import make_plan
from convnext_dense.mm.swap.backbone import swap_backbone
from convnext_dense.mm.swap.write import format_changes, write_config

HEAD = """
from mmcv.transforms import LoadImageFromFile, RandomFlip
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import CheckpointHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from torch.optim import AdamW
from convnext_dense.mm.backbones import ConvNeXt

dims = [8, 16, 24, 32]
backbone = dict(type=ConvNeXt, arch=dict(depths=[1, 1, 1, 1], dims=dims))
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
param_scheduler = [dict(type=LinearLR, start_factor=0.5, by_epoch=False, begin=0, end=2)]
default_hooks = dict(timer=dict(type=IterTimerHook), logger=dict(type=LoggerHook, interval=1),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=2))
train = dict(batch_size=2, num_workers=0, sampler=dict(type=InfiniteSampler, shuffle=True))
test = dict(batch_size=1, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False))
load = dict(type=LoadImageFromFile)
flip = dict(type=RandomFlip, prob=0.5)
"""
TAIL = """
test_dataloader = val_dataloader
test_evaluator = val_evaluator
"""
SEGMENTOR = """
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, FCNHead, SegDataPreProcessor
from mmseg.visualization import SegLocalVisualizer
from torch.nn import SyncBatchNorm

default_scope = "mmseg"
model = dict(type=EncoderDecoder, backbone=backbone,
    data_preprocessor=dict(type=SegDataPreProcessor, size=(64, 64)),
    decode_head=dict(type=FCNHead, in_channels=32, in_index=3, channels=8, num_classes=4,
                     norm_cfg=dict(type=SyncBatchNorm)), test_cfg=dict(mode="whole"))
data = dict(type=BaseSegDataset, data_root=ROOT, reduce_zero_label=True,
    metainfo=dict(classes=("background", "circle", "triangle", "cross"), palette=[[1, 2, 3]] * 4))
steps = [load, dict(type=LoadAnnotations), dict(type=PackSegInputs)]
train_dataloader = dict(**train, dataset=dict(**data, pipeline=[*steps[:2], flip, steps[2]],
    data_prefix=dict(img_path="images/training", seg_map_path="annotations/training")))
val_dataloader = dict(**test, dataset=dict(**data, pipeline=steps,
    data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation")))
val_evaluator = dict(type=IoUMetric, iou_metrics=["mIoU"])
visualizer = dict(type=SegLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)], name="visualizer")
"""
DETECTOR = """
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.evaluation import CocoMetric
from mmdet.models import FPN, DetDataPreprocessor, FCOS, FCOSHead
from mmdet.visualization import DetLocalVisualizer

default_scope = "mmdet"
model = dict(type=FCOS, data_preprocessor=dict(type=DetDataPreprocessor), backbone=backbone,
    neck=dict(type=FPN, in_channels=dims, out_channels=8, num_outs=5),
    bbox_head=dict(type=FCOSHead, num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1,
                   norm_cfg=dict(type="GN", num_groups=2)),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.05, max_per_img=9,
                  nms=dict(type="nms", iou_threshold=0.5)))
data = dict(type=CocoDataset, data_root=ROOT)
steps = [load, dict(type=LoadAnnotations, with_bbox=True), dict(type=Resize, scale=(64, 64), keep_ratio=True)]
pack = dict(type=PackDetInputs)
train_dataloader = dict(**train, dataset=dict(**data, pipeline=[*steps, flip, pack],
    ann_file="annotations/instances_train2017.json", data_prefix=dict(img="train2017/")))
val_dataloader = dict(**test, dataset=dict(**data, pipeline=[*steps, pack], test_mode=True,
    ann_file="annotations/instances_val2017.json", data_prefix=dict(img="val2017/")))
val_evaluator = dict(type=CocoMetric, ann_file=ROOT + "annotations/instances_val2017.json", metric=["bbox"])
visualizer = dict(type=DetLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)], name="visualizer")
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    make_shapes(root := tmp_path_factory.mktemp("lazy") / "shapes", train=2, val=2, size=64)
    return root


@pytest.fixture(params=["coco", "ade20k"])
def path(request, shapes):
    text = {"coco": DETECTOR, "ade20k": SEGMENTOR}[request.param]
    path = shapes.parent / f"lazy_{request.param}.py"
    path.write_text(f"ROOT = {str(shapes / request.param)!r} + '/'\n{HEAD}{text}{TAIL}")
    return str(path)


def test_a_run_can_be_built_dumped_and_built_again(path, tmp_path, request):
    if Version(mmcv.__version__) < Version("2.1") and "ade20k" in request.node.name:
        pytest.skip("mmcv 2.0 takes a norm by its name, not by its class")
    options = TrainOptions(work_dir=str(tmp_path / "run"), device="cpu", log=None, ema=0.01, keep=2)
    assert Config._is_lazy_import(path)
    build_all(path, options)
    cfg, _ = training_config(path, options)
    assert cfg.train_cfg.type == "IterStepLoop" and cfg.default_hooks.checkpoint.type == "CheckpointKeeper"
    cfg.dump(dumped := str(tmp_path / "dumped.py"))
    assert not Config._is_lazy_import(dumped)
    build_all(dumped, options)
    assert len(make_plan(load_config(dumped)).groups) == len(make_plan(load_config(path)).groups) == 1


def test_overrides_reach_a_pure_python_config(path):
    cfg = load_config(path, {"train_cfg.max_iters": 7, "model.backbone.with_cp": True})
    assert cfg.train_cfg.max_iters == 7 and cfg.model.backbone.with_cp


def test_its_swap_is_written_whole(path, tmp_path):
    swap = swap_backbone(load_config(path), "atto", "none")
    assert "<class" not in format_changes(swap.changes)
    write_config(swap, path, tmp_path / "swapped.py")
    assert load_config(str(tmp_path / "swapped.py")).model.backbone.arch == "atto"
