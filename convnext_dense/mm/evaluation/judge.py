"""From a finished test to an evaluation: figures, figures of each class, and predictions kept on disk.

The figures of COCO are pycocotools' own, unrounded; mIoU comes from the counted pixels. Tests with other
evaluators have the figures that these report, and no evaluation.
"""

import copy
import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from convnext_dense.errors import UserError
from convnext_dense.evaluation.coco_ap import (
    Evaluator,
    average_precision,
    coco_metrics,
    read_detections,
)
from convnext_dense.evaluation.folder import (
    Evaluation,
    Task,
    detection_classes,
    segmentation_classes,
    segmentation_metrics,
)
from convnext_dense.mm.datasets.declared import scope_of, takes_some_classes
from convnext_dense.mm.datasets.paths import image_paths
from convnext_dense.mm.evaluation.metrics import SegmentationRecords
from convnext_dense.mm.type_names import type_name
from convnext_dense.results.records import dataset_entry
from convnext_dense.support.files import output_names

# arguments of CocoMetric and IoUMetric that do not change what is measured
_NEUTRAL = {"type", "ann_file", "metric", "format_only", "outfile_prefix", "backend_args", "classwise"}
_NEUTRAL |= {"prefix", "collect_device", "sort_categories", "iou_metrics", "ignore_index", "output_dir"}
_NEUTRAL |= {"_scope_"}  # mmengine's mark in configs that inherit from a toolbox
_FOUND = "found"  # what mmdet's files of detections are called while the test runs


def task_of(cfg: Config) -> Task:
    """Task whose figures can be computed for the test of ``cfg``.

    Raises:
        UserError: another evaluator than mmdet's ``CocoMetric`` or mmseg's ``IoUMetric``, one whose settings
            change the figures, or data that are not one plain dataset.
    """
    evaluator = cfg.get("test_evaluator") or {}
    if not isinstance(evaluator, Mapping):
        raise UserError("test_evaluator is a list; a record needs one of CocoMetric or IoUMetric")
    kind = type_name(evaluator)
    tasks: dict[str, Task] = {"CocoMetric": "detection", "IoUMetric": "segmentation"}
    if kind not in tasks:
        raise UserError(f"test_evaluator is {kind}; a record needs one of CocoMetric or IoUMetric")
    if evaluator.get("format_only"):
        raise UserError("test_evaluator.format_only is set, so nothing is compared with the truth")
    changed = sorted(key for key in set(evaluator) - _NEUTRAL if evaluator[key])
    if changed:
        raise UserError(f"test_evaluator.{changed[0]} is set, so the figures are not the tables' own")
    if kind == "CocoMetric" and "proposal" in str(evaluator.get("metric")):
        raise UserError("test_evaluator.metric asks for proposals; a record needs bbox or segm")
    data = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    if not data or {"dataset", "datasets"} & set(data):  # a wrapper, or several
        raise UserError(f"the test data are a {type_name(data)}; a record needs one plain dataset")
    if kind == "IoUMetric":
        with scope_of(cfg):
            renumbered = takes_some_classes(data)
        if renumbered:
            raise UserError(
                f"metainfo of {type_name(data)} has some of its classes; a record needs the files' own labels"
            )
    files = (evaluator.get("ann_file"), data.get("ann_file"))  # a list of names with XML files is none
    if kind == "CocoMetric" and not all(str(file).endswith(".json") for file in files):
        raise UserError("the test has no ann_file of its own in COCO's format, which a record needs")
    return tasks[kind]


def keep_predictions(cfg: Config, task: Task, out: Path) -> dict:
    """Config entries that make the test leave its predictions in ``out``."""
    if task == "detection":
        # mmdet writes the detections; its own figures are rounded to 0.1 percentage points
        return {"test_evaluator.format_only": True, "test_evaluator.outfile_prefix": str(out / _FOUND)}
    evaluator = copy.deepcopy(dict(cfg.test_evaluator))
    ignored = evaluator.get("ignore_index", 255)
    records = dict(type=SegmentationRecords.__name__, folder=str(out), ignore_index=ignored)
    return {"test_evaluator": [evaluator, records]}


def name_label_maps(runner: Runner) -> None:
    """Name the label maps that a test of a segmentor keeps; before the test."""
    for metric in runner.test_loop.evaluator.metrics:
        if isinstance(metric, SegmentationRecords):
            metric.names = output_names(image_paths(runner.test_dataloader.dataset))


def keep_users_files(cfg: Config, out: Path) -> None:
    """Copy the detections to where the config's own ``outfile_prefix`` wants them."""
    evaluator = cfg.test_evaluator
    prefix = evaluator.get("outfile_prefix") if isinstance(evaluator, Mapping) else None
    for kind in ("bbox", "segm"):
        if prefix and (out / f"{kind}.json").is_file():
            Path(prefix).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / f"{kind}.json", f"{prefix}.{kind}.json")


def judge(
    task: Task, runner: Runner, tested: Mapping, out: Path, record: dict, evaluator: Evaluator
) -> Evaluation:
    """The evaluation of a finished test, not yet saved.

    Args:
        task: what :func:`task_of` says of the config.
        runner: after ``test()`` with the entries of :func:`keep_predictions`.
        tested: figures that this test reported.
        out: folder of the evaluation.
        record: entries that the record starts with; data and figures are added.
        evaluator: library for COCO's figures.
    """
    if task == "detection":
        return _judge_detection(runner, out, record, evaluator)
    return _judge_segmentation(runner, tested, out, record)


def _judge_detection(runner: Runner, out: Path, record: dict, evaluator: Evaluator) -> Evaluation:
    dataset = runner.test_dataloader.dataset
    classes = tuple(dataset.metainfo["classes"])
    images = [dataset.get_data_info(i)["img_id"] for i in range(len(dataset))]
    precisions, start = {}, time.monotonic()
    for kind in ("bbox", "segm"):
        written = out / f"{_FOUND}.{kind}.json"
        if not written.is_file():
            continue
        written.replace(out / f"{kind}.json")
        found = read_detections(out / f"{kind}.json")
        precisions[kind] = average_precision(dataset.ann_file, found, kind, evaluator, classes, images)
    order = next(iter(precisions.values())).classes
    objects = len(json.loads(Path(dataset.ann_file).read_text())["annotations"])
    record = record | dict(
        dataset=dataset_entry("detection", _data_name(dataset), len(images), len(order), objects, ()),
        metrics={name: round(value, 4) for name, value in coco_metrics(precisions).items()},
        evaluator=evaluator,
        evaluation_seconds=round(time.monotonic() - start, 2),
    )
    return Evaluation(
        folder=out,
        task="detection",
        classes=order,
        images=str(Path(dataset.data_prefix["img"]).resolve()),
        annotations=str(Path(dataset.ann_file).resolve()),
        record=record,
        per_class=detection_classes(precisions),
        arrays={kind: precision.values for kind, precision in precisions.items()},
    )


def _judge_segmentation(runner: Runner, tested: Mapping, out: Path, record: dict) -> Evaluation:
    dataset = runner.test_dataloader.dataset
    metrics = runner.test_evaluator.metrics
    (records,) = [metric for metric in metrics if isinstance(metric, SegmentationRecords)]
    classes = tuple(dataset.metainfo["classes"])
    names = [Path(scene["image"]).name for scene in records.scenes]
    figures = {**tested, **segmentation_metrics(records.confusion)}  # ``tested`` may have mDice or mFscore
    record = record | dict(
        dataset=dataset_entry("segmentation", _data_name(dataset), len(names), len(classes), None, names),
        metrics={name: round(float(value), 4) for name, value in figures.items() if not math.isnan(value)},
        evaluator="confusion matrix",
    )
    absolute = [
        {**scene, **{key: str(Path(scene[key]).resolve()) for key in ("image", "truth")}}
        for scene in records.scenes
    ]
    return Evaluation(
        folder=out,
        task="segmentation",
        classes=classes,
        images=str(Path(dataset.data_prefix["img_path"]).resolve()),
        annotations=str(Path(dataset.data_prefix["seg_map_path"]).resolve()),
        record=record,
        per_class=segmentation_classes(records.confusion, classes),
        scenes=tuple(absolute),
        ignore_index=records.ignore_index,
        reduce_zero_label=bool(dataset.reduce_zero_label),
        arrays=dict(confusion=records.confusion),
    )


def _data_name(dataset: object) -> str:
    return Path(dataset.data_root or "data").resolve().name
