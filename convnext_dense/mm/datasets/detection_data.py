"""Boxes and masks: config and heads are fitted to the classes of the files, and the files are checked."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from convnext_dense.data.check import Problem
from convnext_dense.data.coco_check import check_coco, read_categories, select_categories
from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.declared import (
    colours,
    dataset_class,
    detection_classes_of,
    is_kind,
    is_plain_coco,
    reads_coco,
)
from convnext_dense.mm.datasets.decoders import header_reader
from convnext_dense.mm.datasets.learnable import Learnable, loads_masks
from convnext_dense.mm.datasets.other_boxes import check_boxes
from convnext_dense.mm.datasets.paths import SPLITS, datasets_of, local_datasets, required_paths
from convnext_dense.mm.datasets.tidy_files import COCO_BYTES
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

NUMBERED_BY_FILES = ("OpenImagesDataset", "LVISV05Dataset")
"""Classes of datasets whose labels follow their files, whatever names the config has."""


def set_detection_classes(cfg: Config, names: Sequence[str] | None) -> str | None:
    """Set classes and heads from the annotation files where these differ from the config.

    Args:
        cfg: changed in place.
        names: classes to use; ``None``: those that the config sets itself, else all of the file.

    Raises:
        ClassNamesError: names that are missing in a file.
        UserError: files that number the classes differently.
    """
    files = [(data, _annotation_file(data)) for data in local_datasets(cfg, SPLITS) if reads_coco(data)]
    files = [(data, path) for data, path in files if path.is_file()]  # a test needs no training files
    if not files:
        return None
    first = files[0][0]
    stated = (first.get("metainfo") or {}).get("classes")
    stated = (stated,) if isinstance(stated, str) else stated
    chosen, source = None, files[0][1]
    for data, path in files:
        held = _file_classes(data, path)
        mine = select_categories(held, names or stated or _own_part(data, held), str(path))
        if chosen is not None and mine != chosen:
            raise UserError(_difference(source, chosen, path, mine))
        chosen = mine
    known, heads = detection_classes_of(first), list(_heads(cfg.model))
    if chosen == known and all(head["num_classes"] == len(chosen) for head in heads):
        return None
    if chosen != known:
        _set_metainfo(cfg, first, chosen)
    for head in heads:
        head["num_classes"] = len(chosen)
    return f"{len(chosen)} classes in the order of {source}: {_shown(chosen)}"


def _file_classes(data: ConfigDict, path: Path) -> list[str]:
    """Names of a file's categories, in the order in which its class of dataset numbers them."""
    categories = read_categories(path)
    if is_kind(data, "Objects365V1Dataset"):
        categories = sorted(categories, key=lambda category: category["id"])
    return [category["name"] for category in categories]


def _own_part(data: ConfigDict, held: Sequence[str]) -> tuple[str, ...] | None:
    """Classes that a class of dataset takes from a file that has more, as Cityscapes does; else ``None``."""
    own = detection_classes_of(data) if type_name(data) != "CocoDataset" else ()
    return own if own and set(own) <= set(held) else None


def set_named_classes(cfg: Config, names: Sequence[str] | None) -> str | None:
    """Set classes and heads for datasets that name the class of each object, such as Pascal VOC's.

    Args:
        cfg: changed in place.
        names: classes to use; ``None``: those that the config or the class of the dataset has.

    Raises:
        UserError: datasets whose classes differ, or whose own files number them.
    """
    datasets = [data for data in local_datasets(cfg, SPLITS) if is_kind(data, "BaseDetDataset")]
    datasets = [data for data in datasets if all(path.exists() for path in required_paths(data))]
    if cfg.model.get("language_model") or not datasets or is_kind(datasets[0], "CocoPanopticDataset"):
        if names is not None:
            raise UserError("--classes fits segmentors, and detectors on files with boxes or masks")
        return None
    fixed = [data for data in datasets if is_kind(data, *NUMBERED_BY_FILES)]
    if names is not None and fixed:
        raise UserError(f"--classes: {type_name(fixed[0])} takes the classes of its own files; leave it out")
    if names is not None:
        _set_metainfo(cfg, datasets[0], tuple(names))
    found = {detection_classes_of(data): data for data in datasets}
    if len(found) > 1:
        (first, data), (second, other) = list(found.items())[:2]
        apart = sorted(set(first) ^ set(second))
        what = f"{apart[0]!r} is in one of them only" if apart else "the same names in another order"
        both = [f"{type_name(d)} ({d.get('ann_file')})" for d in (data, other)]
        raise UserError(f"the classes of {both[0]} and {both[1]} differ: {what}; give --classes or metainfo")
    chosen = next(iter(found))
    if not chosen:
        raise UserError(
            f"{type_name(datasets[0])} has no class names: give --classes, or metainfo in the config"
        )
    heads = list(_heads(cfg.model))
    if names is None and all(head["num_classes"] == len(chosen) for head in heads):
        return None
    for head in heads:
        head["num_classes"] = len(chosen)
    return f"{len(chosen)} classes of {type_name(datasets[0])}: {_shown(chosen)}"


def _set_metainfo(cfg: Config, data: ConfigDict, chosen: tuple[str, ...]) -> None:
    """Set classes with a colour each in all datasets: drawing fails with fewer colours than classes.

    Args:
        cfg: changed in place.
        data: dataset whose own colours the names keep.
        chosen: class names.
    """
    own = getattr(dataset_class(data), "METAINFO", {})
    # a file may have another number of classes than colours
    known = dict(zip(own.get("classes") or (), own.get("palette") or (), strict=False))
    for each in datasets_of(cfg):
        each["metainfo"] = ConfigDict(classes=chosen, palette=colours(chosen, known=known))


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _annotation_file(data: ConfigDict) -> Path:
    return Path(data.get("data_root") or "", data["ann_file"])


def _difference(first: Path, names: tuple[str, ...], second: Path, others: tuple[str, ...]) -> str:
    """Why two annotation files do not fit together."""
    apart = sorted(set(names) ^ set(others))
    what = f"{apart[0]!r} is in one of them only" if apart else "the same names in another order"
    return f"the categories of {first} and {second} differ: {what}; mmdet numbers classes by that order"


def _heads(model: ConfigDict) -> Iterator[dict]:
    """Box and mask heads of every stage of a model config."""
    for path, node in mappings(model):
        names = [key for key in path if isinstance(key, str)]
        if names[-1:] in (["bbox_head"], ["mask_head"]) and "num_classes" in node:
            yield node


def check_detection(
    cfg: Config, splits: tuple[str, ...] = SPLITS, learnable: Learnable | None = None
) -> tuple[list[Problem], str | None]:
    """Faults of annotation files and their images, and a note if a file is too large to check.

    ``learnable`` counts the objects.
    """
    found, large = [], []
    for data in local_datasets(cfg, splits):
        path = _annotation_file(data)
        if path.stat().st_size > COCO_BYTES:
            large.append(path.name)
            continue
        if is_plain_coco(data):
            folder = Path(data.get("data_root") or "", (data.get("data_prefix") or {}).get("img") or "")
            scope = cfg.get("default_scope") or "mmengine"
            header_of = header_reader(data.get("pipeline") or (), scope)
            seen = {} if learnable is None else dict(seen=learnable.listener(data, path))
            found += check_coco(path, folder, header_of, loads_masks(data), **seen)
        else:
            found += check_boxes(data)[0]
    if not large:
        return found, None
    return found, f"data: entries of {', '.join(large)} not checked, too large"
