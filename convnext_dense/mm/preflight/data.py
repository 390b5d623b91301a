"""Check every file of every split: existing, complete, of the annotated size, with labels that the model has.

Images are decoded and label maps read completely, in threads and in random order, with a progress bar.
Ctrl-C ends the check of one data set and keeps what was found; the preflight continues.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config, ConfigDict

from convnext_dense.data.check import Problem, gather
from convnext_dense.data.coco_repair import KINDS, AnnotationFileError, Fault, repair
from convnext_dense.data.coco_tidy import is_size, tidy
from convnext_dense.data.image_headers import PictureError
from convnext_dense.data.image_io import read_picture
from convnext_dense.data.spellings import read_json
from convnext_dense.data.views import wh_on_disk
from convnext_dense.errors import DatasetNotFoundError, UserError
from convnext_dense.mm.datasets import segmentation_data
from convnext_dense.mm.datasets.declared import (
    is_kind,
    is_plain_coco,
    label_maps_of,
    scope_of,
)
from convnext_dense.mm.datasets.decoders import (
    array_reader,
    image_loader,
    is_plain,
)
from convnext_dense.mm.datasets.learnable import Learnable, loads_masks
from convnext_dense.mm.datasets.other_boxes import check_boxes
from convnext_dense.mm.datasets.paths import SPLITS, check_data, datasets_of, required_paths
from convnext_dense.mm.datasets.truth import check_truth
from convnext_dense.mm.preflight.threads import in_threads
from convnext_dense.mm.type_names import type_name
from convnext_dense.reports.preflight import Report

OF_CONTENT = {
    "files that cannot be read",
    "label maps with more than one channel",
    "label maps of another size than their image",
    "label maps with wrong values",
}
"""Kinds of fault that the quick check at the start of a run may have found in the one file it opened."""
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
        tidied: whether nothing is lost, so that nothing stops at it.
    """

    problem: Problem
    files: FileFaults
    done: str = "left out in training"
    harmless: bool = False
    tidied: bool = False


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
    usable, learnable = True, Learnable(cfg)
    for splits, data in unique_datasets(cfg):
        name = " and ".join(splits)
        if data.get("backend_args"):
            report.say(name, f"{type_name(data)} with a storage backend: its files are not checked")
            continue
        try:
            with scope_of(cfg):
                found, line = check_dataset(cfg, data, name, bar, learnable)
        except (UserError, OSError) as error:
            report.problem(name, str(error))
            usable &= "train" not in splits
            continue
        report.say(name, line)
        for fault in found:
            _tell(fault, splits, strict, report)
            usable &= "train" not in splits or fault.problem.droppable
    try:
        check_truth(cfg)
    except UserError as error:
        report.problem("evaluation", str(error))
    with scope_of(cfg):
        for line in learnable.stops:
            report.problem("labels", line)
        for line in learnable.notes:
            report.warn("labels", line)
        return usable and not learnable.stops


def _tell(found: Found, splits: tuple[str, ...], strict: bool, report: Report) -> None:
    problem, topic = found.problem, " and ".join(splits)
    if found.tidied:
        copy = "" if splits == ("train",) else "; evaluations read a copy in the work folder"
        report.warn(topic, str(problem._replace(remedy=found.done + copy)), found.files)
    elif splits == ("train",) and problem.droppable and not strict:
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


def check_dataset(
    cfg: Config, data: ConfigDict, name: str, bar: bool, learnable: Learnable
) -> tuple[list[Found], str]:
    """Return the faults of one data set, and the line that says what was checked.

    Raises:
        UserError: files that cannot be distinguished or read at all.
    """
    root, prefix = Path(data.get("data_root") or ""), data.get("data_prefix") or {}
    if "decode_head" in cfg.model and segmentation_data.has_label_maps(data):
        return _check_segmentation(cfg, data, name, bar, learnable)
    if data.get("ann_file") and is_plain_coco(data):
        path = root / data["ann_file"]
        folder, seen = root / (prefix.get("img") or ""), learnable.listener(data, path)
        found, items, annotations = check_annotations(path, folder, loads_masks(data), seen)
        images, done = check_images(items, name, bar, picture_reader(cfg, data))
        return found + images, f"{done} images of {path}, {annotations:,} annotations"
    if is_kind(data, "BaseDetDataset") and "decode_head" not in cfg.model:
        problems, images = check_boxes(data)
        found = [Found(problem, {}, harmless=problem.harmless_in_evaluation) for problem in problems]
        return found, f"headers of {images:,} images and their boxes"
    return [], f"{type_name(data)}: its files are not checked, only boxes, masks and label maps are"


# ---- annotation files


def check_annotations(
    path: Path, folder: Path, masks: bool, seen: Callable[[Mapping, Sequence[Fault]], None]
) -> tuple[list[Found], list[Item], int]:
    """Return the faults of a file in COCO's format, its images, and the number of its annotations.

    ``seen`` gets the content after the repair, and the faults.

    Raises:
        UserError: no such file, or one of another kind.
    """
    try:
        content = read_json(path)
        wh_of, exists = lambda name: wh_on_disk(folder / name), lambda name: (folder / name).is_file()
        repaired, faults = repair(content, masks, wh_of, exists=exists)
        seen(repaired, faults)
        content = tidy(content, wh_of, exists, lambda kind, where: None)
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
    return Found(problem, {}, kind.done, not kind.breaks_evaluation, kind.tidied)


def _stated_wh(entry: Mapping) -> tuple[int, int] | None:
    return (int(entry["width"]), int(entry["height"])) if is_size(entry) else None


# ---- images and label maps


Read = Callable[[Path, tuple[int, int] | None], object]
"""Reads an image of this (width, height); raises `PictureError` or `OSError`."""


def picture_reader(cfg: Config, data: Mapping) -> Read:
    """A function that reads an image as training will."""
    step = image_loader(data.get("pipeline") or ())
    if is_plain(step):
        return lambda path, wh: read_picture(path.read_bytes(), wh)
    read = array_reader(step, cfg.get("default_scope") or "mmengine")
    return lambda path, wh: read(path, wh)


def check_images(items: Sequence[Item], name: str, bar: bool, read: Read) -> tuple[list[Found], str]:
    """Decode every image; return the faults and how many were checked."""
    faults = ImageFaults(read)
    done = in_threads(faults.add, items, f"checking {name}", bar)
    return faults.found(), _share(done, len(items))


def _check_segmentation(
    cfg: Config, data: ConfigDict, name: str, bar: bool, learnable: Learnable
) -> tuple[list[Found], str]:
    """Check names as every run does at its start, then the content of all files."""
    structure, _, _ = segmentation_data.check_dataset(cfg, data, 0.0)  # 0 s: only names
    check, layout = segmentation_data.values_check(cfg, data), label_maps_of(data)
    faults, items = ImageFaults(picture_reader(cfg, data)), list(_pairs(data))

    def look(item: Item) -> None:
        if faults.add(item):
            check.add(item.image, item.label_map)

    done = in_threads(look, items, f"checking {name}", bar)
    learnable.add_maps(data, check, len(items))
    by_kind = (check.unreadable, check.modes, check.sizes, check.values)
    contents = [
        Found(problem, next(files for files in by_kind if files.get(problem.first) == problem.detail))
        for problem in check.problems()
    ]
    named = [Found(problem, {}) for problem in structure if problem.what not in OF_CONTENT]
    count, folder = check.num_classes, layout.folders[1]
    line = f"{_share(done, len(items))} images with label maps of {folder}, {count} classes"
    return named + faults.found() + contents, line


def _pairs(data: ConfigDict) -> Iterator[Item]:
    """Images with their label maps, those of a list if there is one."""
    images, maps, _ = segmentation_data.files_of(data)
    for name, image in images.items():
        if name in maps:
            yield Item(image, maps[name])


class ImageFaults:
    """Collects images that are not there or cannot be decoded; threads may share one.

    Args:
        read: reads an image.
    """

    def __init__(self, read: Read) -> None:
        self.read = read
        self.missing: FileFaults = {}
        self.broken: FileFaults = {}

    def add(self, item: Item) -> bool:
        """Decode one image as training will; return whether it is good."""
        try:
            self.read(item.image, item.wh)
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


def _share(done: int, total: int) -> str:
    return f"all {total:,}" if done == total else f"{done:,} (drawn at random, then Ctrl-C) of {total:,}"
