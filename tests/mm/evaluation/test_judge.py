"""Which tests have the figures of the tables, and what they keep."""

import json

import pytest
from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.evaluation.judge import keep_predictions, keep_users_files, task_of

COCO = dict(type="CocoMetric", ann_file="a.json", metric=["bbox", "segm"])
DETECTION = dict(type="CocoDataset", ann_file="a.json", data_prefix=dict(img="images"))
SEGMENTATION = dict(type="BaseSegDataset", data_prefix=dict(img_path="images", seg_map_path="maps"))


def config(evaluator: object, data: dict) -> Config:
    return Config(dict(test_evaluator=evaluator, test_dataloader=dict(dataset=data)))


@pytest.mark.parametrize(
    ("evaluator", "data", "task"),
    [
        (COCO, DETECTION, "detection"),
        (COCO | dict(type="mmdet.CocoMetric", classwise=True, _scope_="mmdet"), DETECTION, "detection"),
        (COCO | dict(outfile_prefix="found/mine"), DETECTION, "detection"),
        (dict(type="IoUMetric", iou_metrics=["mIoU", "mFscore"]), SEGMENTATION, "segmentation"),
        (dict(type="mmseg.IoUMetric", ignore_index=0), SEGMENTATION, "segmentation"),
        (dict(type="IoUMetric"), dict(type="CityscapesDataset", data_root="city"), "segmentation"),
    ],
)
def test_evaluators_of_the_tables(evaluator, data, task):
    assert task_of(config(evaluator, data)) == task


@pytest.mark.parametrize(
    ("evaluator", "data", "reason"),
    [
        (None, DETECTION, "CocoMetric or IoUMetric"),
        (dict(type="VOCMetric"), DETECTION, "VOCMetric; a record needs one of CocoMetric or IoUMetric"),
        ([COCO], DETECTION, "a list"),
        (COCO | dict(format_only=True), DETECTION, "format_only"),
        (COCO | dict(iou_thrs=[0.5]), DETECTION, "test_evaluator.iou_thrs is set"),
        (COCO | dict(proposal_nums=(1, 10, 100)), DETECTION, "test_evaluator.proposal_nums is set"),
        (COCO | dict(metric="proposal_fast"), DETECTION, "asks for proposals"),
        (COCO | dict(ann_file=None), DETECTION, "no ann_file of its own in COCO's format"),
        (COCO, dict(type="VOCDataset", ann_file="val.txt"), "no ann_file of its own in COCO's format"),
        (COCO, dict(type="ConcatDataset", datasets=[DETECTION]), "a ConcatDataset; a record needs one plain"),
        (dict(type="IoUMetric"), dict(type="ConcatDataset", datasets=[SEGMENTATION]), "one plain dataset"),
        (dict(type="IoUMetric", nan_to_num=-1), SEGMENTATION, "test_evaluator.nan_to_num is set"),
    ],
)
def test_other_tests_are_not_recorded_with_the_reason(evaluator, data, reason):
    with pytest.raises(UserError, match=reason):
        task_of(config(evaluator, data))


def test_detections_also_go_where_the_config_wants_them(tmp_path):
    cfg = config(COCO | dict(outfile_prefix=str(tmp_path / "sub/mine")), DETECTION)
    out = tmp_path / "evaluation"
    assert keep_predictions(cfg, "detection", out)["test_evaluator.outfile_prefix"] == str(out / "found")
    out.mkdir()
    (out / "bbox.json").write_text("[1]")
    keep_users_files(cfg, out)
    assert json.loads((tmp_path / "sub/mine.bbox.json").read_text()) == [1]
    assert not (tmp_path / "sub/mine.segm.json").exists()
