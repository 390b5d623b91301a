"""Check every file of every split: existing, complete, of the annotated size, with labels that the model has.

Images are decoded and label maps read completely, in threads and in random order, with a progress bar.
Ctrl-C ends the check of one data set and keeps what was found; the preflight continues.
"""

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config, ConfigDict
from tqdm import tqdm

from convnext_dense.data.check import PairCheck, Problem, find_files, gather
from convnext_dense.data.coco_repair import KINDS, AnnotationFileError, Fault, repair
from convnext_dense.data.image_io import PictureError, read_picture, size_on_disk
from convnext_dense.errors import DatasetNotFoundError, UserError
from convnext_dense.mm.datasets import custom_classes
from convnext_dense.mm.datasets.paths import SPLITS, check_data, datasets_of, required_paths
from convnext_dense.mm.type_names import type_name
from convnext_dense.reports.preflight import Report

OF_CONTENT = {
    "files that cannot be read",
    "label maps with more than one channel",
    "label maps of another size than their image",
    "label maps with wrong values",
}
"""Kinds of fault that the quick check at the start of a run may have found in the one file it opened."""
AT_ONCE = 512  # files given to the threads at a time; Ctrl-C waits only for those in progress
FileFaults = dict[str, str]  # file -> what is wrong with it


class Item(NamedTuple):
    """An image, its label map if it has one, and the (width, height) that it was annotated at."""

    image: Path
    label_map: Path | None = None
    wh: tuple[int, int] | None = None


class Found(NamedTuple):
    """A kind of fault.

    Attributes:
        problem: the fault with its count and first file.
        files: all files that show it; empty for entries of an annotation file.
        done: what training does about it.
        harmless: whether an evaluation reads it as it is.
    """

    problem: Problem
    files: FileFaults
    done: str = "left out in training"
    harmless: bool = False


def check_everything(cfg: Config, strict: bool, report: Report, bar: bool = True) -> bool:
    """Check the files of all splits and write the findings to ``report``.

    Args:
        cfg: config with the data's folders and classes set.
        strict: whether training stops at faults that it could leave out.
        report: gets one line per data set, and one per kind of fault.
        bar: show progress.

    Returns:
        whether training can be tried; it cannot without data, or with labels that the model does not have.
    """
    try:
        check_data(cfg)
    except DatasetNotFoundError as error:
        report.problem("data", str(error))
        return False
    usable = True
    for splits, data in unique_datasets(cfg):
        name = " and ".join(splits)
        if data.get("backend_args"):
            report.say(name, f"{type_name(data)} with a storage backend: its files are not checked")
            continue
        try:
            found, line = check_dataset(cfg, data, name, bar)
        except (UserError, OSError) as error:
            report.problem(name, str(error))
            usable &= "train" not in splits
            continue
        report.say(name, line)
        for fault in found:
            _tell(fault, splits, strict, report)
            usable &= "train" not in splits or fault.problem.droppable
    return usable


def _tell(found: Found, splits: tuple[str, ...], strict: bool, report: Report) -> None:
    problem, topic = found.problem, " and ".join(splits)
    if splits == ("train",) and problem.droppable and not strict:
        report.warn(topic, str(problem._replace(remedy=found.done)), found.files)
    elif "train" not in splits and found.harmless:
        report.warn(topic, str(problem._replace(remedy="evaluated as it is")), found.files)
    else:
        remedy = problem.remedy or "repair or remove it: evaluations and --strict-data stop at it"
        report.problem(topic, str(problem._replace(remedy=remedy)), found.files)


def unique_datasets(cfg: Config) -> list[tuple[tuple[str, ...], ConfigDict]]:
    """Each data set once, with the splits that use it: test is often the same as val."""
    unique: dict[tuple, tuple[list[str], ConfigDict]] = {}
    for split in SPLITS:
        for data in datasets_of(cfg, (split,)):
            splits, _ = unique.setdefault((data["type"], *required_paths(data)), ([], data))
            if split not in splits:
                splits.append(split)
    return [(tuple(splits), data) for splits, data in unique.values()]


def check_dataset(cfg: Config, data: ConfigDict, name: str, bar: bool) -> tuple[list[Found], str]:
    """Return the faults of one data set, and the line that says what was checked.

    Raises:
        UserError: files that cannot be distinguished or read at all.
    """
    root, prefix = Path(data.get("data_root") or ""), data.get("data_prefix") or {}
    if data.get("ann_file") and str(data["ann_file"]).endswith(".json"):
        path = root / data["ann_file"]
        found, items, annotations = check_annotations(path, root / (prefix.get("img") or ""), _masks(data))
        images, done = check_images(items, name, bar)
        return found + images, f"{done} images of {path}, {annotations:,} annotations"
    if prefix.get("seg_map_path") and "decode_head" in cfg.model:
        return _check_segmentation(cfg, data, name, bar)
    return [], f"{type_name(data)}: its files are not checked, only COCO's and ADE20K's layouts are"


def _masks(data: Mapping) -> bool:
    """Whether the pipeline loads masks."""
    return any(step.get("with_mask") for step in data.get("pipeline") or ())


# ---- annotation files


def check_annotations(path: Path, folder: Path, masks: bool) -> tuple[list[Found], list[Item], int]:
    """Return the faults of a file in COCO's format, its images, and the number of its annotations.

    Raises:
        UserError: no such file, or one of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _, faults = repair(content, masks, lambda name: size_on_disk(folder / name))
    except AnnotationFileError as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(f"cannot read annotations from {path} ({error})") from None
    items = [
        Item(folder / entry["file_name"], None, _stated_wh(entry))
        for entry in content["images"]
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)
    ]
    return [_of_annotations(fault, path) for fault in faults], items, len(content["annotations"])


def _of_annotations(fault: Fault, path: Path) -> Found:
    kind = KINDS[fault.kind]
    more = f"then {', '.join(fault.first[1:])}" if len(fault.first) > 1 else ""
    problem = Problem(f"{path}: {kind.what}", fault.first[0], fault.count, more, droppable=True)
    return Found(problem, {}, kind.done, not kind.breaks_evaluation)


def _stated_wh(entry: Mapping) -> tuple[int, int] | None:
    wh = entry.get("width"), entry.get("height")
    return wh if all(isinstance(side, int) for side in wh) else None


# ---- images and label maps


def check_images(items: Sequence[Item], name: str, bar: bool) -> tuple[list[Found], str]:
    """Decode every image; return the faults and how many were checked."""
    faults = ImageFaults()
    done = _in_threads(faults.add, items, f"checking {name}", bar)
    return faults.found(), _share(done, len(items))


def _check_segmentation(cfg: Config, data: ConfigDict, name: str, bar: bool) -> tuple[list[Found], str]:
    """Check names as every run does at its start, then the content of all files."""
    structure, _, _ = custom_classes.check_dataset(cfg, data, 0.0)  # 0 s: only names
    head = custom_classes.last_head(cfg)
    classes = max(head["num_classes"], len(custom_classes.class_names(data) or ()))
    check = PairCheck(classes, head.get("ignore_index", 255), custom_classes.reduces_zero_label(data))
    faults, items = ImageFaults(), list(_pairs(data))

    def look(item: Item) -> None:
        if faults.add(item):
            check.add(item.image, item.label_map)

    done = _in_threads(look, items, f"checking {name}", bar)
    by_kind = (check.unreadable, check.modes, check.sizes, check.values)
    contents = [
        Found(problem, next(files for files in by_kind if files.get(problem.first) == problem.detail))
        for problem in check.problems()
    ]
    named = [Found(problem, {}) for problem in structure if problem.what not in OF_CONTENT]
    folder = Path(data.get("data_root") or "", data["data_prefix"]["seg_map_path"])
    return (
        named + faults.found() + contents,
        f"{_share(done, len(items))} images with label maps of {folder}, {classes} classes",
    )


def _pairs(data: ConfigDict) -> Iterator[Item]:
    """Images with their label maps, those of a list if there is one."""
    root, prefix = Path(data.get("data_root") or ""), data["data_prefix"]
    images = find_files(root / (prefix.get("img_path") or ""), data.get("img_suffix", ".jpg"))
    maps = find_files(root / prefix["seg_map_path"], data.get("seg_map_suffix", ".png"))
    listed = (root / data["ann_file"]).read_text().split() if data.get("ann_file") else images
    for name in listed:
        if name in images and name in maps:
            yield Item(images[name], maps[name])


class ImageFaults:
    """Collects images that are not there or cannot be decoded; threads may share one."""

    def __init__(self) -> None:
        self.missing: FileFaults = {}
        self.broken: FileFaults = {}

    def add(self, item: Item) -> bool:
        """Decode one image as training will; return whether it is good."""
        try:
            read_picture(item.image.read_bytes(), item.wh)
        except FileNotFoundError:
            self.missing[str(item.image)] = ""
        except PictureError as error:
            self.broken[str(item.image)] = str(error)
        except OSError as error:
            self.broken[str(item.image)] = error.strerror or str(error)
        else:
            return True
        return False

    def found(self) -> list[Found]:
        """Faults found so far, ordered by name."""
        kinds = {"images that are not there": self.missing, "images that cannot be used": self.broken}
        sorted_kinds = {what: dict(sorted(files.items())) for what, files in kinds.items()}
        return [
            Found(problem, files)
            for what, files in sorted_kinds.items()
            for problem in gather(what, files, droppable=True)
        ]


def _in_threads(look: Callable[[Item], object], items: Sequence[Item], title: str, bar: bool) -> int:
    """Call ``look`` on all ``items`` in random order; return how many were done before Ctrl-C."""
    order = iter(random.Random(0).sample(items, len(items)))
    done = 0
    threads = min(16, os.cpu_count() or 1)
    # a separate bar, not around the loop: it must be erased when Ctrl-C leaves the loop
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=len(items),
            desc=f"{title} (Ctrl-C skips)",
            unit=" files",
            disable=None if bar else True,
            leave=False,
        ) as shown,
    ):
        try:
            while some := list(islice(order, AT_ONCE)):
                for _ in pool.map(look, some):
                    done += 1
                    shown.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
    return done


def _share(done: int, total: int) -> str:
    return f"all {total:,}" if done == total else f"{done:,} (drawn at random, then Ctrl-C) of {total:,}"
