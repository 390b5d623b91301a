"""Copies of annotation files and split lists that say the same in the words that the toolboxes expect.

Training repairs annotation files in memory. An evaluation reads them in several places (data set, metric,
reports), so it gets a copy in the work folder, but only where nothing is lost: see
:func:`convnext_dense.data.coco_tidy.tidy`. Split lists get one without a byte-order mark, empty lines and
Windows' separators.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine import dist
from mmengine.config import Config, ConfigDict

from convnext_dense.data.coco_repair import Findings
from convnext_dense.data.coco_tidy import tidy
from convnext_dense.data.spellings import existing, has_byte_order_mark, read_json, read_text
from convnext_dense.data.split_lists import read_names
from convnext_dense.data.views import wh_on_disk
from convnext_dense.mm.datasets.declared import is_kind, is_plain_coco
from convnext_dense.mm.datasets.other_boxes import named_files
from convnext_dense.mm.datasets.paths import SPLITS, datasets_of
from convnext_dense.support.files import write_text
from convnext_dense.support.nested import mappings

COCO_BYTES = 100 << 20
"""A larger annotation file takes seconds to parse: it is not opened here, nor in the checks at the start."""


def tidy_files(cfg: Config, splits: tuple[str, ...] = SPLITS) -> list[str]:
    """Let ``cfg`` name copies in its work folder where needed; return lines to log.

    Args:
        cfg: changed in place, with its evaluators.
        splits: splits whose files are read.

    Raises:
        DataError: a list of names that cannot be read.
    """
    found: list = [list(_copies(cfg, splits)) if dist.is_main_process() else None]
    dist.broadcast_object_list(found)
    for path, copy, _ in found[0]:
        _replace(cfg, path, copy)
    return [f"{path}: {what}; read from the copy {copy}" for path, copy, what in found[0]]


def _copies(cfg: Config, splits: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Write the copies that are needed; yield the file, its copy and what is different."""
    folder, used = Path(cfg.get("work_dir") or "work_dirs", "annotations"), set()
    seen = set()
    for split in splits:
        for data in datasets_of(cfg, (split,)):
            path = annotation_path(data)
            # training repairs annotations in memory; a storage backend is not looked into
            skipped = path is None or path in seen or data.get("backend_args") or not path.is_file()
            if skipped or (path.suffix == ".json" and (split == "train" or not is_plain_coco(data))):
                continue
            seen.add(path)
            text, what = _tidy_json(path, data) if path.suffix == ".json" else _tidy_list(path, data)
            if not what:
                continue
            name = path.name if path.name not in used else f"{len(used)}_{path.name}"
            used.add(name)
            write_text(folder / name, text)
            yield str(path), str((folder / name).absolute()), what


def annotation_path(data: Mapping) -> Path | None:
    """The annotation file or list of names of a dataset's config."""
    return Path(data.get("data_root") or "", data["ann_file"]) if data.get("ann_file") else None


def _tidy_json(path: Path, data: Mapping) -> tuple[str, str]:
    """The tidy text, and what was not tidy."""
    if path.stat().st_size > COCO_BYTES:
        return "", ""
    try:
        content = read_json(path)
    except ValueError:
        return "", ""  # the check says why
    if not isinstance(content, Mapping):
        return "", ""
    folder = Path(data.get("data_root") or "", (data.get("data_prefix") or {}).get("img") or "")
    findings = Findings()
    tidied = tidy(
        content,
        lambda name: wh_on_disk(folder / name),
        lambda name: (folder / name).is_file(),
        findings.add,
    )
    what = [str(fault) for fault in findings.faults()]
    if has_byte_order_mark(path):
        what.append("a byte-order mark; left out")
    return (json.dumps(tidied), ". ".join(what)) if what else ("", "")


def _tidy_list(path: Path, data: Mapping) -> tuple[str, str]:
    xml = is_kind(data, "XMLDataset")
    if not xml and "img_path" not in (data.get("data_prefix") or {}):  # a list of another kind of dataset
        return "", ""
    named, names = named_files(data), read_names(path)
    better = [existing(name, lambda name: named(name).is_file()) for name in names]
    spelled = next((name for name, other in zip(names, better, strict=True) if name != other), None)
    mark = has_byte_order_mark(path)
    lines = read_text(path).split("\n")
    empty = not mark and len(names) < len("\n".join(lines).rstrip().split("\n"))
    faults = {
        # mmseg takes it away itself
        "white space around names, left out": xml and any(line.strip("\r") != line.strip() for line in lines),
        "a byte-order mark, left out": mark,
        "empty lines, left out": empty,
        f"names whose file has another spelling, first {spelled}, found there": spelled is not None,
    }
    what = ", and ".join(fault for fault, there in faults.items() if there)
    return "\n".join(better) + "\n", what


def _replace(cfg: Config, path: str, copy: str) -> None:
    """Let every dataset and evaluator of ``cfg`` that names ``path`` name ``copy``."""
    for split in SPLITS:
        for data in datasets_of(cfg, (split,)):
            if split == "train" and path.endswith(".json"):
                continue
            if str(annotation_path(data)) == path:
                data["ann_file"] = copy
        for _, evaluator in mappings(cfg.get(f"{split}_evaluator"), keys=()):
            if isinstance(evaluator, ConfigDict | dict) and _same(evaluator.get("ann_file"), path):
                evaluator["ann_file"] = copy


def _same(named: object, path: str) -> bool:
    return isinstance(named, str) and Path(named).absolute() == Path(path).absolute()
