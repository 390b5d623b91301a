"""What an evaluation compares with: the annotations of its own data set, and that there are any."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config

from convnext_dense.data.spellings import read_json
from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.paths import SPLITS, datasets_of
from convnext_dense.mm.datasets.tidy_files import COCO_BYTES
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

EVALUATIONS = ("val", "test")


def follow_datasets(cfg: Config, overrides: Mapping | None, moved: bool) -> list[str]:
    """Let evaluators read the annotation file of their data set where only that was changed; return lines.

    Args:
        cfg: changed in place.
        overrides: ``--cfg-options``.
        moved: whether ``--data-root`` was given.
    """
    notes, keys = [], flat_keys(overrides or {})
    for split in EVALUATIONS:
        stated = any(key.startswith(f"{split}_evaluator") and key.endswith("ann_file") for key in keys)
        changed = moved or any(
            key.startswith(f"{split}_dataloader") and key.endswith(("ann_file", "data_root")) for key in keys
        )
        for evaluator, own in _other_files(cfg, split):
            if not stated and (changed or not Path(evaluator["ann_file"]).exists()):
                old = evaluator["ann_file"]
                notes.append(f"{split}_evaluator.ann_file follows its data set: {own} instead of {old}")
                evaluator["ann_file"] = own
    return notes


def flat_keys(entries: Mapping, before: str = "") -> set[str]:
    """``{"a": {"b": 1}, "c.d": 2}`` -> ``{"a.b", "c.d"}``."""
    found = set()
    for key, value in entries.items():
        name = f"{before}{key}"
        found |= flat_keys(value, f"{name}.") if isinstance(value, Mapping) else {name}
    return found


def _other_files(cfg: Config, split: str) -> Iterator[tuple[dict, str]]:
    """Evaluators that read another file than the one data set of their split, and that set's file."""
    files = {
        os.path.join(data.get("data_root") or "", data["ann_file"])
        for data in datasets_of(cfg, (split,))
        if data.get("ann_file") and not data.get("backend_args")
    }
    if len(files) != 1:
        return
    own = files.pop()
    for _, evaluator in mappings(cfg.get(f"{split}_evaluator"), keys=("metrics",)):
        path = evaluator.get("ann_file")
        if isinstance(path, str) and not evaluator.get("backend_args") and not _same(path, own):
            yield evaluator, own


def _same(first: str, second: str) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)


def check_truth(cfg: Config, splits: tuple[str, ...] = SPLITS, later: bool = False) -> None:
    """Compare the evaluators of ``cfg`` with their data sets.

    Args:
        cfg: config of the run.
        splits: splits that are checked; of a training, the evaluations that it runs.
        later: whether figures are computed after the run, from files that ``format_only`` makes it write.

    Raises:
        UserError: another file with other images or categories, or nothing to compare with.
    """
    for split in splits:
        if (
            split not in EVALUATIONS
            or (split == "test" and "train" in splits)
            or not cfg.get(f"{split}_evaluator")
        ):
            continue
        for evaluator, own in _other_files(cfg, split):
            path = evaluator["ann_file"]
            if Path(own).is_file() and not (Path(path).is_file() and _same_images(path, own)):
                raise UserError(
                    f"{split}_evaluator.ann_file is {path}, the data set of {split}_dataloader reads {own}, "
                    f"with other images or categories: set {split}_evaluator.ann_file={own}"
                )
        compares = [
            metric
            for _, metric in mappings(cfg[f"{split}_evaluator"], keys=("metrics",))
            if "type" in metric and (later or not metric.get("format_only"))
        ]
        if compares and (empty := without_truth(cfg, split, compares)):
            kind = type_name(compares[0])
            where = "output_dir=DIR" if kind == "IoUMetric" else "outfile_prefix=results/test"
            raise UserError(
                f"nothing to compare with: {empty}; for predictions alone set "
                f"{split}_evaluator.format_only=True {split}_evaluator.{where}"
            )


def without_truth(cfg: Config, split: str, metrics: list) -> str | None:
    """What a split lacks that its metrics compare with; ``None`` if nothing."""
    for data in datasets_of(cfg, (split,)):
        if data.get("backend_args"):
            continue
        if any(type_name(metric) == "IoUMetric" for metric in metrics):
            prefix = data.get("data_prefix") or {}
            # other classes find their label maps in their own way
            if "img_path" in prefix and not prefix.get("seg_map_path") and not data.get("ann_file"):
                return f"{split}_dataloader has no annotations (data_prefix.seg_map_path, the label maps)"
            continue
        files = [metric.get("ann_file") for metric in metrics if type_name(metric) == "CocoMetric"]
        own = os.path.join(data.get("data_root") or "", data.get("ann_file") or "")
        for path in dict.fromkeys(path or own for path in files):
            if isinstance(path, str) and path.endswith(".json") and not _has_annotations(path):
                return f"{path} has no annotations"
    return None


def _content(path: str) -> Mapping:
    """A file in COCO's format; empty if it is too large, or no such file: other checks say so."""
    try:
        content = read_json(path) if Path(path).stat().st_size <= COCO_BYTES else None
    except (OSError, ValueError):
        content = None
    return content if isinstance(content, Mapping) else {}


def _has_annotations(path: str) -> bool:
    content = _content(path)
    return not content or bool(content.get("annotations"))


def _same_images(first: str, second: str) -> bool:
    """Whether two files have the same images and categories, as a file with and one without annotations."""
    listed = []
    for path in (first, second):
        content = _content(path)
        images, categories = content.get("images"), content.get("categories")
        if not isinstance(images, list) or not isinstance(categories, list):
            return False
        entries = [entry for entry in (*images, *categories) if isinstance(entry, dict)]
        listed.append({(str(e.get("id")), e.get("file_name") or e.get("name")) for e in entries})
    return listed[0] == listed[1]
