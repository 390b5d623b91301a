"""Mistakes that mmengine finds at the first evaluation are found at the start."""

import json

import pytest
import torch
from mmengine.config import Config, ConfigDict

from convnext_dense.errors import UserError
from convnext_dense.mm.config.evaluators import check_evaluators, check_figures, figures_of

PACK = dict(type="PackDetInputs", meta_keys=("img_id",))
COLLECT = dict(type="mmdet.PackDetInputs", meta_keys=("img_id", "instances"))


def coco_file(path, ids):
    path.write_text(json.dumps(dict(images=[dict(id=i) for i in ids], annotations=[], categories=[])))
    return path


@pytest.fixture
def files(tmp_path):
    names = dict(a=[1, 2], b=[3, 4], all=[1, 2, 3, 4], again=[2, 9])
    return {name: coco_file(tmp_path / f"{name}.json", ids) for name, ids in names.items()}


def config(files, names, evaluator, model=None, step=PACK):
    """A config whose validation data are the files called ``names``."""
    root = str(files["a"].parent)
    datasets = [
        dict(
            type="CocoDataset",
            data_root=root,
            ann_file=f"{name}.json",
            data_prefix=dict(img=""),
            pipeline=[step],
        )
        for name in names
    ]
    data = datasets[0] if len(datasets) == 1 else dict(type="ConcatDataset", datasets=datasets)
    cfg = Config(dict(model=model or dict(type="RetinaNet"), val_dataloader=dict(dataset=data)))
    cfg.val_evaluator = ConfigDict(evaluator) if isinstance(evaluator, dict) else evaluator
    return cfg


def test_a_coco_metric_without_a_file_gets_that_of_its_only_data_set(files):
    cfg = config(files, ["b"], dict(type="CocoMetric"))
    (line,) = check_evaluators(cfg, "val")
    assert cfg.val_evaluator.ann_file == str(files["b"])
    assert line == f"val_evaluator: evaluating against {files['b']}, the file of its data set"


def test_of_several_data_sets_there_is_no_file_to_take(files):
    with pytest.raises(
        UserError, match=r"CocoMetric has no ann_file and val_dataloader has 2 data sets: give "
    ):
        check_evaluators(config(files, ["a", "b"], dict(type="CocoMetric")), "val")
    collecting = config(files, ["a", "b"], [dict(type="mmdet.CocoMetric")], step=COLLECT)
    assert check_evaluators(collecting, "val") == []
    assert "ann_file" not in collecting.val_evaluator[0]


def test_one_file_must_have_the_images_of_all_data_sets(files):
    whole = dict(type="CocoMetric", ann_file=str(files["all"]))
    assert check_evaluators(config(files, ["a", "b"], whole), "val") == []
    with pytest.raises(UserError, match=r"a.json lacks 2 images of .*b.json, first id 3: name"):
        check_evaluators(config(files, ["a", "b"], dict(whole, ann_file=str(files["a"]))), "val")


def test_two_images_with_one_id_are_refused(files):
    for step in (PACK, COLLECT):
        evaluator = dict(type="CocoMetric", **({} if step is COLLECT else dict(ann_file=str(files["all"]))))
        with pytest.raises(UserError, match=r"a.json and .*again.json both have an image with id 2"):
            check_evaluators(config(files, ["a", "again"], evaluator, step=step), "val")


def test_a_missing_file_is_named(files):
    for kind in ("CocoMetric", "LVISMetric"):
        with pytest.raises(UserError, match=rf"val_evaluator.ann_file of {kind}: no file at gone.json; name"):
            check_evaluators(config(files, ["a"], dict(type=kind, ann_file="gone.json")), "val")
    stored = dict(type="LVISMetric", ann_file="gone.json", backend_args=dict(backend="petrel"))
    assert check_evaluators(config(files, ["a"], stored), "val") == []


@pytest.mark.parametrize(
    ("evaluator", "model", "message"),
    [
        (dict(type="CocoMetric", metric=["bbox", "seg"]), None, "no 'seg'; use bbox, segm"),
        (dict(type="CocoMetric", metric_items=["AP50"]), None, "no 'AP50'; use mAP, mAP_50"),
        (dict(type="CocoMetric", metric=["bbox", "segm"]), None, "RetinaNet here predicts no masks"),
        (
            dict(type="CocoMetric", metric="segm"),
            dict(type="MaskRCNN", roi_head=dict(bbox_head=dict(), mask_head=None)),
            "MaskRCNN here predicts no masks",
        ),
        (dict(type="IoUMetric", iou_metrics=["IoU"]), None, "no 'IoU'; use mIoU, mDice, mFscore"),
        ([dict(type="mmseg.IoUMetric", iou_metrics="iou")], None, "no 'iou'; use mIoU"),
    ],
)
def test_metrics_that_cannot_be_computed_are_named(files, evaluator, model, message):
    with pytest.raises(UserError, match=message):
        check_evaluators(config(files, ["a"], evaluator, model), "val")


# ---- figures


IOU = dict(type="IoUMetric")
STOPPING = dict(type="EarlyStoppingHook", monitor="iou")
PLATEAU = dict(type="ReduceOnPlateauLR")


def best(evaluator, name):
    hook = dict(type="CheckpointHook", save_best=name)
    return Config(dict(val_evaluator=evaluator, default_hooks=dict(checkpoint=hook)))


@pytest.mark.parametrize(
    ("evaluator", "name"),
    [
        (dict(type="IoUMetric", iou_metrics=["mIoU"]), "mIoU"),
        (dict(type="IoUMetric"), "aAcc"),
        (dict(type="mmseg.IoUMetric", iou_metrics=["mDice", "mFscore"], prefix="seg"), "seg/mDice"),
        (dict(type="CocoMetric", metric=["bbox", "segm"]), "coco/segm_mAP"),
        (dict(type="CocoMetric", metric="proposal_fast"), "coco/AR@100"),
        ([dict(type="IoUMetric"), dict(type="CocoMetric")], "coco/bbox_mAP_50"),
        (dict(type="CocoMetric"), "auto"),
        (dict(type="CocoMetric", classwise=True), "coco/circle_precision"),
        (dict(type="VOCMetric"), "pascal_voc/mAP"),  # its names are not known here
        (dict(type="Evaluator", metrics=[dict(type="IoUMetric")]), "mIoU"),
    ],
)
def test_figures_that_are_reported_may_choose_the_best(evaluator, name):
    check_figures(best(evaluator, name))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (best(dict(type="CocoMetric"), "bbox_mAP"), r"'bbox_mAP' is no figure .*coco/bbox_mAP,"),
        (best(dict(type="IoUMetric", iou_metrics=["mDice"]), "mIoU"), "use one of aAcc, mAcc, mDice"),
        (best(dict(type="IoUMetric", format_only=True), "auto"), "it reports none"),
        (best(None, "mIoU"), "the config has no val_evaluator"),
        (best(dict(type="VOCMetric"), "score"), r"Cannot infer the rule for key score.*rule='greater'"),
        (best(dict(type="VOCMetric"), ["auto", "mAP"]), 'one "auto"'),
        (Config(dict(val_evaluator=IOU, custom_hooks=[STOPPING])), "EarlyStoppingHook.monitor 'iou'"),
        (Config(dict(val_evaluator=IOU, param_scheduler=[PLATEAU])), "monitor of ReduceOnPlateauLR 'loss'"),
    ],
)
def test_other_figures_are_refused_with_those_that_there_are(cfg, message):
    with pytest.raises(UserError, match=message):
        check_figures(cfg)


def test_the_names_are_those_of_mmdet():
    """Against an evaluation by mmdet of one perfect box."""
    from mmdet.evaluation import CocoMetric  # after the stand-in for mmcv's operators

    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    truth = dict(bbox=[8, 8, 40, 40], bbox_label=0, ignore_flag=0)
    found = dict(bboxes=box, scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.long))
    metric = CocoMetric(metric=["bbox"])
    metric.dataset_meta = dict(classes=("thing",))
    metric.process({}, [dict(img_id=1, ori_shape=(64, 64), instances=[truth], pred_instances=found)])
    assert set(metric.evaluate(1)) == figures_of(dict(type="CocoMetric", metric=["bbox"]))
