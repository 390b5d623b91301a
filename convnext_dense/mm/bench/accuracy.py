"""Runs the test protocol of a table row and saves a record and a folder of predictions."""

import copy
import datetime
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner

from convnext_dense.checkpoints.read import checkpoint_file
from convnext_dense.errors import UserError
from convnext_dense.evaluation.coco_ap import (
    Evaluator,
    average_precision,
    coco_metrics,
    load_evaluator,
    read_detections,
)
from convnext_dense.evaluation.folder import (
    NAME,
    Evaluation,
    Task,
    detection_classes,
    segmentation_classes,
    segmentation_metrics,
)
from convnext_dense.mm.bench.complexity import config_complexity
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.engine.options import Options
from convnext_dense.mm.engine.runner import testing_runner
from convnext_dense.mm.evaluation.metrics import SegmentationRecords
from convnext_dense.mm.mmcv_ext import current_ops
from convnext_dense.recipes import list_configs
from convnext_dense.results import paper
from convnext_dense.results.records import (
    append_record,
    content_hash,
    dataset_entry,
    file_hash,
    find_record,
    read_records,
)
from convnext_dense.support.system import device_name, versions

PACKAGES = (
    "convnext_dense",
    "torch",
    "mmengine",
    "mmcv",
    "mmcv-lite",
    "mmdet",
    "mmsegmentation",
    "pycocotools",
    "faster-coco-eval",
)
_BESIDE_THE_POINT = ("init_cfg", "pretrained")  # entries of a model config: initial weights of training


@dataclass(frozen=True)
class Job:
    """One test: a config, weights, and how to test.

    Attributes:
        source: recipe name or config file.
        checkpoint: file that holds the weights.
        options: options of the command line.
        tta: several scales and flip instead of one scale.
        evaluator: library for COCO's figures.
        row: row of the paper's tables, if ``source`` is not its name.
    """

    source: str
    checkpoint: Path
    options: Options
    tta: bool = False
    evaluator: Evaluator = "pycocotools"
    row: str | None = None

    @property
    def name(self) -> str:
        """The row's or recipe's name, else the name of the config file."""
        return recipe_name(self.source) or Path(self.source).stem

    @property
    def folder(self) -> Path:
        """Folder for logs and predictions."""
        return Path(self.options.work_dir or f"work_dirs/benchmark/{self.name}")

    @property
    def out(self) -> Path:
        """Folder for the evaluation."""
        return self.folder / ("evaluation_tta" if self.tta else "evaluation")


# --------------------------------------------------------------------------------------------- identity


def recipe_name(source: str) -> str | None:
    """``configs/cascade/convnext_b_3x.py`` -> ``cascade/convnext_b_3x``; ``None`` for a user's config."""
    name = source.removeprefix("./").removeprefix("configs/").removesuffix(".py")
    return name if name in list_configs() else None


def config_hash(cfg: Config) -> str:
    """Digest of what determines a test result: model and test pipelines, not paths, devices or schedules."""
    parts = {key: cfg.get(key) for key in ("tta_pipeline", "tta_model", "default_scope")}
    parts["model"] = _essence(cfg.model)
    parts["pipelines"] = [data.get("pipeline") for data in datasets_of(cfg, ("test",))]
    return content_hash(json.loads(json.dumps(parts, default=str)))


def _essence(node: object) -> object:
    """A model config without initial weights; SyncBN counts as BN, as it is in a test."""
    if isinstance(node, dict):
        return {key: _essence(value) for key, value in node.items() if key not in _BESIDE_THE_POINT}
    if isinstance(node, list | tuple):
        return [_essence(item) for item in node]
    return "BN" if node == "SyncBN" else node


def row_of(cfg: Config, name: str) -> str | None:
    """Row of the paper's tables whose recipe tests as ``cfg`` does.

    Args:
        cfg: config, for example of a run with other paths.
        name: name of the recipe, with or without its folder.
    """
    stem = name.rpartition("/")[2]
    known = set(list_configs())
    candidates = [row for row in paper.ROWS if row.rpartition("/")[2] == stem and row in known]
    wanted = config_hash(cfg)
    return next((row for row in candidates if config_hash(load_config(row)) == wanted), None)


def task_of(cfg: Config) -> Task:
    """Task of a config's model.

    Raises:
        UserError: an evaluator other than mmdet's ``CocoMetric`` or mmseg's ``IoUMetric``.
    """
    evaluator = cfg.get("test_evaluator") or {}
    kind = str(evaluator.get("type")).split(".")[-1] if isinstance(evaluator, dict) else "a list"
    tasks: dict[str, Task] = {"CocoMetric": "detection", "IoUMetric": "segmentation"}
    if kind not in tasks:
        raise UserError(f"test_evaluator is {kind}; a benchmark needs one of CocoMetric or IoUMetric")
    return tasks[kind]


def identity(job: Job) -> dict:
    """Entries that identify a measurement; an interrupted series resumes after the recorded ones."""
    cfg = load_config(job.source, job.options.overrides)
    path = checkpoint_file(job.checkpoint)
    return dict(
        kind="accuracy",
        config=recipe_name(job.source) or Path(job.source).name,
        config_hash=content_hash([config_hash(cfg), job.options.classes]),
        checkpoint=dict(hash=file_hash(path)),
        tta=job.tta,
        data_hash=data_hash(cfg, job.options.data_root),
    )


def data_hash(cfg: Config, data_root: str | None) -> str:
    """Digest of the test's annotations: COCO's file, or the names and sizes of the label maps."""
    parts = []
    for data in datasets_of(cfg, ("test",)):
        root = Path(data_root or data.get("data_root") or "")
        parts.append(data.get("indices"))
        if data.get("ann_file"):
            path = root / data["ann_file"]
            parts.append(file_hash(path) if path.is_file() else None)
        maps = (data.get("data_prefix") or {}).get("seg_map_path")
        if maps:
            files = sorted(path for path in (root / maps).rglob("*") if path.is_file())
            parts += [(path.relative_to(root).as_posix(), path.stat().st_size) for path in files]
    return content_hash(parts)


# ---------------------------------------------------------------------------------------------- protocol


class Measurement(NamedTuple):
    """Record of a test, and folder of its predictions; no folder if it was recorded before."""

    record: Mapping
    folder: Path | None


def measure(job: Job, results: Path, again: bool = False) -> Measurement | None:
    """Run one test and record it, unless it is recorded; ``None`` except in the first process.

    Args:
        job: the test.
        results: folder of the records; a new one becomes a line in ``accuracy.jsonl``.
        again: run the test even if it is recorded.

    Raises:
        UserError, DatasetNotFoundError, CheckpointError: see :mod:`convnext_dense.mm.errors`.
    """
    record = None if again else find_record(read_records(results), identity(job))
    if record:
        return Measurement(record, None)
    evaluation = run_protocol(job)
    if evaluation is None:  # in a distributed test, not the first process
        return None
    append_record(results / "accuracy.jsonl", evaluation.record)
    return Measurement(evaluation.record, evaluation.folder)


def run_protocol(job: Job) -> Evaluation | None:
    """Test by the config's own protocol and save the evaluation; ``None`` except in the first process.

    Raises:
        UserError, DatasetNotFoundError, CheckpointError: see :mod:`convnext_dense.mm.errors`.
    """
    try:
        load_evaluator(job.evaluator)
    except ValueError as error:
        raise UserError(str(error)) from None
    cfg = load_config(job.source, job.options.overrides)
    task, same = task_of(cfg), identity(job)
    overrides = {**(job.options.overrides or {}), **_keep_predictions(cfg, task, job.out)}
    if cfg.get("visualizer"):  # mmengine keeps one per name in a process, with its folder
        overrides["visualizer.name"] = str(job.out)
    options = replace(job.options, overrides=overrides, work_dir=str(job.folder))
    runner = testing_runner(job.source, str(job.checkpoint), options, job.tta)
    (job.out / NAME).unlink(missing_ok=True)  # there is none until the new one is complete
    start = time.monotonic()
    runner.test()
    if dist.get_rank() != 0:
        return None
    record = {
        **same,
        "row": job.row or (recipe_name(job.source) if recipe_name(job.source) in paper.ROWS else None),
        "checkpoint": dict(name=job.checkpoint.name, **same["checkpoint"]),
        "seconds": round(time.monotonic() - start, 1),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device_name(get_device()),
        "threads": torch.get_num_threads(),
        "ops": current_ops(),
        "versions": versions(PACKAGES),
        "complexity": _complexity(cfg),
    }
    judge = judge_detection if task == "detection" else judge_segmentation
    evaluation = judge(runner, job, record)
    evaluation.save()
    return evaluation


def _keep_predictions(cfg: Config, task: Task, out: Path) -> dict:
    """Config entries that make the test leave its predictions in ``out``."""
    if task == "detection":
        # mmdet writes the detections; its own figures are rounded to 0.1 percentage points
        return {"test_evaluator.format_only": True, "test_evaluator.outfile_prefix": str(out / "found")}
    evaluator = copy.deepcopy(dict(cfg.test_evaluator))
    ignored = evaluator.get("ignore_index", 255)
    records = dict(type=SegmentationRecords.__name__, folder=str(out), ignore_index=ignored)
    return {"test_evaluator": [evaluator, records]}


def judge_detection(runner: Runner, job: Job, record: dict) -> Evaluation:
    """COCO's figures of the detections that the test wrote."""
    dataset = runner.test_dataloader.dataset
    classes = tuple(dataset.metainfo["classes"])
    images = [dataset.get_data_info(i)["img_id"] for i in range(len(dataset))]
    precisions, start = {}, time.monotonic()
    for kind in ("bbox", "segm"):
        written = job.out / f"found.{kind}.json"
        if written.is_file():
            written.replace(job.out / f"{kind}.json")
            found = read_detections(job.out / f"{kind}.json")
            precisions[kind] = average_precision(
                dataset.ann_file, found, kind, job.evaluator, classes, images
            )
    order = next(iter(precisions.values())).classes
    objects = len(json.loads(Path(dataset.ann_file).read_text())["annotations"])
    data = dataset_entry("detection", _data_name(job, dataset), len(images), len(order), objects, ())
    record |= dict(
        dataset=data,
        metrics={name: round(value, 4) for name, value in coco_metrics(precisions).items()},
        evaluator=job.evaluator,
        evaluation_seconds=round(time.monotonic() - start, 2),
    )
    return Evaluation(
        folder=job.out,
        task="detection",
        classes=order,
        images=str(Path(dataset.data_prefix["img"]).resolve()),
        annotations=str(Path(dataset.ann_file).resolve()),
        record=record,
        per_class=detection_classes(precisions),
        arrays={kind: precision.values for kind, precision in precisions.items()},
    )


def judge_segmentation(runner: Runner, job: Job, record: dict) -> Evaluation:
    """mIoU of the counted pixels."""
    dataset = runner.test_dataloader.dataset
    metrics = runner.test_evaluator.metrics
    (records,) = [metric for metric in metrics if isinstance(metric, SegmentationRecords)]
    classes = tuple(dataset.metainfo["classes"])
    names = [Path(scene["image"]).name for scene in records.scenes]
    data = dataset_entry("segmentation", _data_name(job, dataset), len(names), len(classes), None, names)
    figures = segmentation_metrics(records.confusion)
    record |= dict(
        dataset=data,
        metrics={name: round(value, 4) for name, value in figures.items()},
        evaluator="confusion matrix",
    )
    absolute = [
        {**scene, **{key: str(Path(scene[key]).resolve()) for key in ("image", "truth")}}
        for scene in records.scenes
    ]
    return Evaluation(
        folder=job.out,
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


def _complexity(cfg: Config) -> dict | None:
    """Parameters and MACs by the protocol of the paper's tables, for the chart of accuracy against cost."""
    try:
        counted = config_complexity(cfg)
    except (ValueError, TypeError, AttributeError, NotImplementedError):
        return None  # a model that the protocol does not cover
    return dict(params=counted.params, macs=counted.macs)


def _data_name(job: Job, dataset: object) -> str:
    return Path(job.options.data_root or dataset.data_root or "data").resolve().name
