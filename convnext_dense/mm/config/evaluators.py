"""Evaluators of a config before the run: their files, the figures that they report, and who asks for which.

mmengine and the toolboxes find such mistakes at the first evaluation, which may be hours after the start.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook

from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

IOU_FIGURES = {
    "mIoU": ("mIoU", "mAcc"),
    "mDice": ("mDice", "mAcc"),
    "mFscore": ("mFscore", "mPrecision", "mRecall"),
}
"""``iou_metrics`` of mmseg's IoUMetric -> figures that it reports, beside aAcc."""
COCO_METRICS = ("bbox", "segm", "proposal", "proposal_fast")
COCO_ITEMS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
COCO_RECALLS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
FILE_BYTES = 200 << 20  # a larger annotation file takes seconds to parse: its image ids are not compared
# detectors of mmdet without masks; others may have them under any name
ONLY_BOXES = {"ATSS", "DETR", "DINO", "DeformableDETR", "FCOS", "GFL", "RetinaNet", "RPN", "SSD", "YOLOX"}


def evaluators_of(cfg: Config, split: str) -> list[ConfigDict]:
    """The evaluator configs of a split."""
    nodes = [node for _, node in mappings(cfg.get(f"{split}_evaluator"), keys=("metrics",))]
    return [node for node in nodes if type_name(node) not in ("", "Evaluator")]


# ---- files


def check_evaluators(cfg: Config, split: str) -> list[str]:
    """Check what the evaluators of ``split`` need; return lines for the user.

    An evaluator for COCO's format without a file gets the file of its data set.

    Args:
        cfg: changed in place.
        split: ``val`` or ``test``.

    Raises:
        UserError: a missing file, one without the images of the data, or a metric that cannot be computed.
    """
    notes = []
    for evaluator in evaluators_of(cfg, split):
        kind = type_name(evaluator)
        if kind in ("CocoMetric", "CocoOccludedSeparatedMetric"):
            _check_coco_metrics(cfg, evaluator, split)
            notes.append(_find_file(cfg, evaluator, split))
        elif kind == "IoUMetric":
            _check_iou_metrics(evaluator, split)
        file = evaluator.get("ann_file")
        if isinstance(file, str) and _local(evaluator) and not Path(file).is_file():
            raise UserError(
                f"{split}_evaluator.ann_file of {kind}: no file at {file}; name the annotation file of "
                f"{split}_dataloader"
            )
        if kind == "CocoMetric":
            _check_images(cfg, evaluator, split)
    return [note for note in notes if note]


def _local(entry: Mapping) -> bool:
    return not entry.get("backend_args") and "://" not in str(entry.get("ann_file"))


def _annotation_files(cfg: Config, split: str) -> list[Path]:
    """Annotation files of a split on this machine, each once."""
    files = {
        Path(data.get("data_root") or "", data["ann_file"]): None
        for data in datasets_of(cfg, (split,))
        if isinstance(data.get("ann_file"), str) and _local(data)
    }
    return list(files)


def _find_file(cfg: Config, evaluator: ConfigDict, split: str) -> str | None:
    """Give an evaluator without a file that of its only data set, or refuse it; return a line."""
    if evaluator.get("ann_file"):
        return None
    datasets = datasets_of(cfg, (split,))
    if all(_packs_truth(data) for data in datasets):
        _check_ids(_annotation_files(cfg, split), split)
        return None  # it collects the annotations from the samples
    files = _annotation_files(cfg, split)
    if len(files) != 1 or len(datasets) != 1:
        raise UserError(
            f"{split}_evaluator: {type_name(evaluator)} has no ann_file and {split}_dataloader has "
            f"{len(datasets)} data sets: give ann_file, one file with the images of all, or add 'instances' "
            "to meta_keys of PackDetInputs in their pipelines"
        )
    evaluator["ann_file"] = str(files[0])
    return f"{split}_evaluator: evaluating against {files[0]}, the file of its data set"


def _packs_truth(data: Mapping) -> bool:
    """Whether the samples bring their annotations to the evaluator."""
    steps = data.get("pipeline") or ()
    return any("instances" in (step.get("meta_keys") or ()) for step in steps)


def _image_ids(path: Path) -> list | None:
    """Image ids of a file in COCO's format; ``None`` for a large file, or one that others report."""
    try:
        if path.stat().st_size > FILE_BYTES:
            return None
        return [image["id"] for image in json.loads(path.read_text(encoding="utf-8-sig"))["images"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_ids(files: Sequence[Path], split: str) -> None:
    """Refuse files that number different images alike: they would be taken for one image."""
    seen: dict[object, Path] = {}
    for path in files:
        for image in _image_ids(path) or ():
            if image in seen and seen[image] != path:
                raise UserError(
                    f"{split}_dataloader: {seen[image]} and {path} both have an image with id {image}, "
                    "which an evaluation would take for one image; number them differently"
                )
            seen[image] = path


def _check_images(cfg: Config, evaluator: Mapping, split: str) -> None:
    """Refuse a file that lacks images of the data: pycocotools would stop after the whole evaluation."""
    file = evaluator.get("ann_file")
    if not isinstance(file, str) or not _local(evaluator):
        return
    others = [path for path in _annotation_files(cfg, split) if path.absolute() != Path(file).absolute()]
    _check_ids(_annotation_files(cfg, split), split)
    known = set(_image_ids(Path(file)) or ()) if others else set()
    for path in others if known else ():
        lacking = [image for image in _image_ids(path) or () if image not in known]
        if lacking:
            raise UserError(
                f"{split}_evaluator.ann_file {file} lacks {len(lacking)} images of {path}, first id "
                f"{lacking[0]}: name the file of the data set, or one with the images of all"
            )


# ---- figures


def _names(value: object, default: str) -> list[str]:
    value = default if value is None else value
    return [value] if isinstance(value, str) else list(value)


def _check_iou_metrics(evaluator: Mapping, split: str) -> None:
    if unknown := [name for name in _names(evaluator.get("iou_metrics"), "mIoU") if name not in IOU_FIGURES]:
        raise UserError(
            f"{split}_evaluator.iou_metrics: IoUMetric has no {unknown[0]!r}; use {', '.join(IOU_FIGURES)}"
        )


def _check_coco_metrics(cfg: Config, evaluator: Mapping, split: str) -> None:
    metrics = _names(evaluator.get("metric"), "bbox")
    if unknown := [name for name in metrics if name not in COCO_METRICS]:
        raise UserError(
            f"{split}_evaluator.metric: CocoMetric has no {unknown[0]!r}; use {', '.join(COCO_METRICS)}"
        )
    items = (*COCO_ITEMS, *COCO_RECALLS)
    if unknown := [name for name in evaluator.get("metric_items") or () if name not in items]:
        raise UserError(
            f"{split}_evaluator.metric_items: CocoMetric has no {unknown[0]!r}; use {', '.join(items)}"
        )
    head = cfg.model.get("roi_head")
    if isinstance(head, Mapping):
        boxes = not head.get("mask_head")
    else:  # none; one of a wrong kind is an error when the model is built
        boxes = not head and type_name(cfg.model) in ONLY_BOXES
    if "segm" in metrics and boxes:
        raise UserError(
            f"{split}_evaluator.metric has segm, and {type_name(cfg.model)} here predicts no masks: leave "
            "segm out"
        )


def figures_of(evaluator: Mapping) -> set[str] | None:
    """Names of the figures that an evaluator reports; ``None`` if they are not known here."""
    kind = type_name(evaluator)
    if kind == "SegmentationRecords" or evaluator.get("format_only"):
        return set()
    if kind == "IoUMetric":
        metrics, prefix = _names(evaluator.get("iou_metrics"), "mIoU"), evaluator.get("prefix")
        found = {"aAcc", *(figure for metric in metrics for figure in IOU_FIGURES.get(metric, ()))}
    elif kind == "CocoMetric" and not evaluator.get("classwise"):
        prefix = evaluator.get("prefix") or "coco"
        found = set(_coco_figures(evaluator))
    else:
        return None
    return {f"{prefix}/{figure}" if prefix else figure for figure in found}


def _coco_figures(evaluator: Mapping) -> Iterator[str]:
    items = evaluator.get("metric_items")
    for metric in _names(evaluator.get("metric"), "bbox"):
        if metric == "proposal_fast":
            yield from (f"AR@{count}" for count in evaluator.get("proposal_nums") or (100, 300, 1000))
        elif metric == "proposal":
            yield from items or COCO_RECALLS
        else:
            yield from (f"{metric}_{item}" for item in items or COCO_ITEMS)


def check_figures(cfg: Config) -> None:
    """Refuse a figure that the validation will not report, for the best checkpoint or for a schedule.

    Raises:
        UserError: names the entry and the figures that there are.
    """
    for where, name in _wanted(cfg):
        if not cfg.get("val_evaluator"):
            raise UserError(f"{where} {name!r} needs an evaluation, and the config has no val_evaluator")
        known = [figures_of(evaluator) for evaluator in evaluators_of(cfg, "val")]
        if any(figures is None for figures in known):
            continue
        figures = sorted(set().union(*known))
        if (name == "auto" and not figures) or (name != "auto" and name not in figures):
            there = f"use one of {', '.join(figures)}" if figures else "it reports none"
            raise UserError(f"{where} {name!r} is no figure of val_evaluator; {there}")
    _check_rule((cfg.get("default_hooks") or {}).get("checkpoint"))


def _wanted(cfg: Config) -> Iterator[tuple[str, str]]:
    """Who asks for a figure, and its name."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    for name in _names(hook.get("save_best"), "") if hook.get("save_best") else ():
        yield "the best checkpoint (--save-best, default_hooks.checkpoint.save_best)", name
    for other in cfg.get("custom_hooks") or ():
        if type_name(other) == "EarlyStoppingHook" and other.get("monitor"):
            yield "EarlyStoppingHook.monitor", other["monitor"]
    for _, schedule in mappings(cfg.get("param_scheduler"), keys=()):
        if type_name(schedule).startswith("ReduceOnPlateau"):
            yield f"monitor of {type_name(schedule)}", schedule.get("monitor", "loss")


def _check_rule(hook: Mapping | None) -> None:
    """Refuse a figure of which mmengine does not know whether more is better."""
    if not hook or not hook.get("save_best"):
        return
    best = hook["save_best"] if isinstance(hook["save_best"], str) else list(hook["save_best"])
    options = {key: hook[key] for key in ("rule", "greater_keys", "less_keys") if key in hook}
    try:
        CheckpointHook(save_best=best, **options)
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"default_hooks.checkpoint.save_best={best!r}: {error}; rule='greater' or rule='less' says which "
            "is better"
        ) from None
