"""Label maps: the config is fitted to the user's classes, and files and values are checked."""

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from tqdm import tqdm

from convnext_dense.data.check import PairCheck, Problem, common_suffix, find_files, gather
from convnext_dense.data.split_lists import PairFiles, listed, pair_files, read_names
from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.declared import (
    LabelMaps,
    as_built,
    dataset_class,
    entries_of,
    is_kind,
    label_maps_of,
)
from convnext_dense.mm.datasets.decoders import has_picture_maps, header_reader
from convnext_dense.mm.datasets.learnable import Learnable
from convnext_dense.mm.datasets.one_channel import set_channels
from convnext_dense.mm.datasets.paths import SPLITS, datasets_of, local_datasets
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

CHECK_SECONDS = 10.0  # for the contents of all label maps together; names are always checked


def set_segmentation_classes(cfg: Config, names: Sequence[str]) -> str:
    """Set the classes ``names`` for label maps with values 0 to K - 1, in the datasets and in all heads.

    Raises:
        UserError: fewer than two classes.
    """
    if len(names) < 2:
        raise UserError(f"--classes: one class ({names[0]}) leaves nothing to classify; name the others too")
    subset = _own_names(cfg, names)
    for data in datasets_of(cfg):
        _keep_files(data, names)
    ignored = last_head(cfg).get("ignore_index", 255)
    if ignored < len(names):
        raise UserError(
            f"--classes: {len(names)} classes have the values 0 to {len(names) - 1}, and the config ignores"
            f" {ignored} (ignore_index), which is {names[ignored]}"
        )
    for _, node in mappings(cfg._cfg_dict):
        if node.get("reduce_zero_label"):
            node["reduce_zero_label"] = False  # the line below says that 0 is a class
    for heads in (cfg.model.decode_head, cfg.model.get("auxiliary_head")):
        for _, head in mappings(heads, keys=()):
            set_channels(head, len(names))
    return (
        f"{len(names)} classes: value 0 of the label maps is {names[0]}, {len(names) - 1} is {names[-1]}, "
        f"{ignored} is ignored (reduce_zero_label=False){subset}"
    )


def _own_names(cfg: Config, names: Sequence[str]) -> str:
    """What to do instead where ``names`` may be meant as a part of the class's own; empty if they are not."""
    for data in datasets_of(cfg):
        known = getattr(dataset_class(data), "METAINFO", {}).get("classes") or ()
        # ADE20K's are what our recipes start from, and its names (sky, road) are everybody's
        if type_name(data) != "ADE20KDataset" and set(names) < set(known):
            return (
                f". These are also names of {type_name(data)}: for its own label maps, without the other "
                f"{len(known) - len(names)} classes, set metainfo=dict(classes=...) in the datasets, and "
                "num_classes of the heads, instead of --classes"
            )
    return ""


def _keep_files(data: ConfigDict, names: Sequence[str]) -> None:
    """Give a dataset the classes ``names``, whose values are 0 to K - 1, and keep where its files are.

    Raises:
        UserError: a class of dataset that finds its files in its own way, but takes only its own names.
    """
    data.pop("metainfo", None)
    layout = label_maps_of(data)
    own = getattr(dataset_class(data), "METAINFO", {}).get("classes")
    if layout.own_reader and own and tuple(own) != tuple(names):
        raise UserError(
            f"--classes: {type_name(data)} finds its files in its own way and takes only its own names; "
            "write type=BaseSegDataset with img_suffix and seg_map_suffix into the config"
        )
    if not layout.own_reader:
        data["type"] = "BaseSegDataset"  # mmseg's other classes allow subsets of their own names only
        prefix = data.get("data_prefix") or {}
        keys, places = ("img_suffix", "seg_map_suffix"), ("img_path", "seg_map_path")
        for key, place, folder, suffix in zip(keys, places, layout.folders, layout.suffixes, strict=True):
            if key not in data:
                # the class's own suffix, unless the user's files have another one
                own_files = not prefix.get(place) or find_files(folder, suffix)
                data[key] = suffix if own_files else common_suffix(folder) or suffix
    data["metainfo"] = ConfigDict(classes=tuple(names))
    data["reduce_zero_label"] = False


def selected_classes(cfg: Config) -> list[str]:
    """Say of each dataset that wants some of its classes what becomes of the others."""
    notes = []
    for data in local_datasets(cfg, SPLITS):
        if not (data.get("metainfo") or {}).get("classes"):
            continue
        layout = label_maps_of(data)
        if layout.label_map is None:
            continue
        shown = ", ".join(layout.classes[:10]) + (", ..." if len(layout.classes) > 10 else "")
        notes.append(
            f"{len(layout.classes)} of the {len(layout.stored)} classes of {type_name(data)}: {shown}; "
            "their values are renumbered in this order, pixels of the others are ignored (255)"
        )
    return list(dict.fromkeys(notes))


def last_head(cfg: Config) -> ConfigDict:
    """The decode head whose labels are the prediction: the last stage of a cascade.

    Raises:
        UserError: ``model.decode_head`` has none.
    """
    heads = [head for _, head in mappings(cfg.model.decode_head, keys=())]
    if not heads:
        raise UserError(
            f"{cfg.filename}: model.decode_head is {cfg.model.decode_head!r}; write a mapping with a type, "
            "or a list of them"
        )
    return heads[-1]


def check_segmentation(
    cfg: Config, splits: tuple[str, ...] = SPLITS, learnable: Learnable | None = None
) -> tuple[list[Problem], str | None]:
    """Faults of images and label maps, and a note if the time did not allow opening all of them.

    ``learnable`` counts the labels.
    """
    found, opened, total = [], 0, 0
    datasets = [data for data in local_datasets(cfg, splits) if has_label_maps(data)]
    for data in datasets:
        faults, looked_at, count = check_dataset(cfg, data, CHECK_SECONDS / len(datasets), learnable)
        found, opened, total = found + faults, opened + looked_at, total + count
    if opened == total:
        return found, None
    return found, f"data: names of {total} label maps checked, contents of {opened} drawn at random"


def has_label_maps(data: ConfigDict) -> bool:
    """Whether a dataset has label maps beside its images."""
    if is_kind(data, "NYUDataset"):  # depths
        return False
    return bool((data.get("data_prefix") or {}).get("seg_map_path")) or label_maps_of(data).own_reader


def check_dataset(
    cfg: Config, data: ConfigDict, seconds: float, learnable: Learnable | None = None
) -> tuple[list[Problem], int, int]:
    """Faults of one dataset of label maps, number of pairs opened, number of all pairs.

    Args:
        cfg: config with the ``decode_head`` that the labels are for.
        data: config of the dataset.
        seconds: time for opening files in random order; 0 checks the names only.
        learnable: counts the labels.

    Raises:
        UserError: class names that are missing or do not match the head.
    """
    head = last_head(cfg)
    fits_head(data, label_maps_of(data), head["num_classes"], head.get("ignore_index", 255))
    images, maps, problems = files_of(data)
    check = values_check(cfg, data)
    pairs = [(image, maps[name]) for name, image in images.items() if name in maps]
    opened = 0
    for image, label_map in _within(pairs, seconds, f"checking {type_name(data)}"):
        check.add(image, label_map)
        opened += 1
    if learnable is not None:
        learnable.add_maps(data, check, len(pairs))
    return [*problems, *check.problems()], opened, len(pairs)


def files_of(data: ConfigDict) -> PairFiles:
    """Images and label maps of a dataset's config, those of its list if it has one.

    Raises:
        DataError: a list that cannot be read.
    """
    layout = label_maps_of(data)
    if layout.own_reader:
        return _as_read(data)
    path = listed(Path(data.get("data_root") or ""), data)
    return pair_files(layout.folders, layout.suffixes, None if path is None else read_names(path), str(path))


def _as_read(data: ConfigDict) -> PairFiles:
    """Images and label maps that a class finds in its own way."""
    entries = entries_of(as_built(data, lazy_init=False))
    images = {entry["img_path"]: Path(entry["img_path"]) for entry in entries}
    maps = {entry["img_path"]: Path(entry["seg_map_path"]) for entry in entries if entry.get("seg_map_path")}
    missing = {str(path): "" for path in (*images.values(), *maps.values()) if not path.is_file()}
    there = [{name: path for name, path in files.items() if path.is_file()} for files in (images, maps)]
    lost = f"files that {type_name(data)} names and that are not there"
    return PairFiles(*there, gather(lost, missing, droppable=bool(there[0])))


def values_check(cfg: Config, data: ConfigDict) -> PairCheck:
    """The check of a dataset's images and label maps for the labels of the decode head.

    Raises:
        UserError: the class refuses the config, or a loader that cannot be built.
    """
    head, layout = last_head(cfg), label_maps_of(data)
    stored, pipeline = len(layout.stored or ()), data.get("pipeline") or ()
    return PairCheck(
        stored if layout.label_map else max(head["num_classes"], stored),
        head.get("ignore_index", 255),
        layout.reduces_zero,
        header_reader(pipeline, cfg.get("default_scope") or "mmengine"),
        has_picture_maps(pipeline),
    )


def fits_head(data: ConfigDict, layout: LabelMaps, num_classes: int, ignored: int) -> None:
    """Compare a dataset with the head and the pipeline of its config.

    Raises:
        UserError: other numbers of classes, or a setting that differs between dataset and transform.
    """
    if layout.classes is None:
        raise UserError(f"{type_name(data)} has no class names: give --classes, or metainfo in the config")
    count = len(layout.classes)
    if (data.get("metainfo") or {}).get("classes") and count != num_classes:
        raise UserError(
            f"metainfo has {count} classes and decode_head.num_classes is {num_classes}; --classes sets both"
        )
    if count > num_classes:
        raise UserError(
            f"{type_name(data)} has {count} classes and decode_head.num_classes is {num_classes}: set "
            f"num_classes={count} in decode_head and auxiliary_head"
        )
    if layout.label_map and ignored != 255:
        raise UserError(
            f"metainfo of {type_name(data)} leaves classes out, which mmseg marks with 255, and "
            f"decode_head.ignore_index is {ignored}: set it to 255"
        )
    for _, step in mappings(data.get("pipeline")):
        own = step.get("reduce_zero_label") if type_name(step) == "LoadAnnotations" else None
        if own is not None and bool(own) != layout.reduces_zero:
            raise UserError(
                f"reduce_zero_label is {own} in LoadAnnotations and {layout.reduces_zero} for "
                f"{type_name(data)}; leave it out of LoadAnnotations, which then follows the dataset"
            )


def _within(items: list, seconds: float, title: str) -> Iterator:
    """Items in random order until the time is over; a progress bar appears after two seconds."""
    order = random.Random(0).sample(items, len(items))
    end = time.monotonic() + seconds
    for item in tqdm(order, title, delay=2, leave=False):
        if time.monotonic() > end:
            return
        yield item
