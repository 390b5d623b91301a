"""The user's own classes and files: the config is fitted to them; faults are reported before training starts.

The checks themselves are in :mod:`convnext_dense.data.check`; here they are applied to mmengine's configs.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmengine import dist
from mmengine.config import Config, ConfigDict
from tqdm import tqdm

from convnext_dense.data.check import (
    ClassNamesError,
    PairCheck,
    Problem,
    check_coco,
    check_folder,
    check_pairs,
    common_suffix,
    find_files,
    parse_classes,
    read_categories,
    select_categories,
)
from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.paths import SPLITS, datasets_of, required_paths
from convnext_dense.mm.type_names import class_of, type_name
from convnext_dense.support.nested import mappings

CHECK_SECONDS = 10.0  # for the contents of all label maps together; names are always checked
COCO_BYTES = 100 << 20  # a larger annotation file takes seconds to parse: only its categories are read


def set_own_data(
    cfg: Config, classes: str | None, splits: tuple[str, ...] = SPLITS, strict: bool = True
) -> list[str]:
    """Fit ``cfg`` to the classes of its data and check the files; return lines to log.

    Args:
        cfg: changed in place.
        classes: ``--classes``, a JSON file or comma-separated names; ``None`` keeps the config's classes, or
            for detection takes those of the annotation file.
        splits: splits whose files are checked.
        strict: whether faults that training can leave out are errors too; in evaluation they always are.

    Raises:
        UserError: unusable class names or faulty data; all kinds of fault are listed.
    """
    try:
        names = None if classes is None else parse_classes(classes)
        if "decode_head" in cfg.model:
            notes = [] if names is None else [set_segmentation_classes(cfg, names)]
            check: Callable = check_segmentation
        elif any(_is_coco(data) for data in datasets_of(cfg)):
            notes = [note for note in [set_detection_classes(cfg, names)] if note]
            check = check_detection
        elif names is not None:
            raise UserError("--classes fits segmentors and detectors on files in COCO's format")
        else:
            return []
        left_out, found, check_notes = [], [], []
        if dist.get_rank() == 0:
            left_out, found, check_notes = _by_split(check, cfg, splits, strict)
    except ClassNamesError as error:
        raise UserError(str(error)) from None
    if found:
        raise UserError("the data cannot be used:\n" + "\n".join(f"  {problem}" for problem in found))
    return [*notes, *check_notes, *(f"left out in training: {problem}" for problem in left_out)]


def _by_split(
    check: Callable, cfg: Config, splits: tuple[str, ...], strict: bool
) -> tuple[list[Problem], list[Problem], list[str]]:
    """Faults that training leaves out, faults that stop the run, and notes."""
    tolerant = () if strict else tuple(split for split in splits if split == "train")
    others = tuple(split for split in splits if split not in tolerant)
    trained, first = check(cfg, tolerant) if tolerant else ([], None)
    found, second = check(cfg, others) if others else ([], None)
    left_out = [problem for problem in trained if problem.droppable and not problem.annotation]
    stops = [problem for problem in trained if not problem.droppable]
    # where training is strict, reading the file stops at the harmless ones
    stops += [problem for problem in found if not problem.harmless_in_evaluation]
    return left_out, stops, [note for note in (first, second) if note]


def _local(cfg: Config, splits: tuple[str, ...]) -> list[ConfigDict]:
    """Dataset configs with files on disk, each once: the test set is often the val set."""
    unique = {}
    for data in datasets_of(cfg, splits):
        if not data.get("backend_args"):
            unique.setdefault(tuple(required_paths(data)), data)
    return list(unique.values())


# ---- segmentation


def set_segmentation_classes(cfg: Config, names: Sequence[str]) -> str:
    """Set the classes ``names`` for label maps with values 0 to K - 1, in the datasets and in all heads.

    Raises:
        UserError: fewer than two classes.
    """
    if len(names) < 2:
        raise UserError(f"--classes: one class ({names[0]}) leaves nothing to classify; name the others too")
    for data in datasets_of(cfg):
        data["type"] = "BaseSegDataset"  # ADE20KDataset allows subsets of its own 150 classes only
        data["metainfo"] = ConfigDict(classes=tuple(names))
        data["reduce_zero_label"] = False
        folder = Path(data.get("data_root") or "", (data.get("data_prefix") or {}).get("img_path") or "")
        if "img_suffix" not in data and (suffix := common_suffix(folder)):
            data["img_suffix"] = suffix
    ignored = last_head(cfg).get("ignore_index", 255)
    if ignored < len(names):
        raise UserError(
            f"--classes: {len(names)} classes have the values 0 to {len(names) - 1}, and the config ignores"
            f" {ignored} (ignore_index), which is {names[ignored]}"
        )
    for _, node in mappings(cfg._cfg_dict):
        if node.get("reduce_zero_label"):
            node["reduce_zero_label"] = False
    for heads in (cfg.model.decode_head, cfg.model.get("auxiliary_head")):
        for _, head in mappings(heads, keys=()):
            head["num_classes"] = len(names)
    return (
        f"{len(names)} classes: value 0 of the label maps is {names[0]}, {len(names) - 1} is {names[-1]}, "
        f"{ignored} is ignored"
    )


def last_head(cfg: Config) -> ConfigDict:
    """The decode head whose labels are the prediction: the last stage of a cascade."""
    return [head for _, head in mappings(cfg.model.decode_head, keys=())][-1]


def check_segmentation(cfg: Config, splits: tuple[str, ...] = SPLITS) -> tuple[list[Problem], str | None]:
    """Faults of images and label maps, and a note if the time did not allow opening all of them."""
    found, opened, total = [], 0, 0
    datasets = [data for data in _local(cfg, splits) if (data.get("data_prefix") or {}).get("seg_map_path")]
    for data in datasets:
        faults, looked_at, count = check_dataset(cfg, data, CHECK_SECONDS / len(datasets))
        found, opened, total = found + faults, opened + looked_at, total + count
    if opened == total:
        return found, None
    return found, f"data: names of {total} label maps checked, contents of {opened} drawn at random"


def check_dataset(cfg: Config, data: ConfigDict, seconds: float) -> tuple[list[Problem], int, int]:
    """Faults of one dataset of label maps, number of pairs opened, number of all pairs.

    Args:
        cfg: config with the ``decode_head`` that the labels are for.
        data: config of the dataset.
        seconds: time for opening files in random order; 0 checks the names only.

    Raises:
        UserError: class names that are missing or do not match the head.
    """
    head = last_head(cfg)
    classes, num_classes = class_names(data), head["num_classes"]
    if classes is None:
        raise UserError(f"{type_name(data)} has no class names: give --classes, or metainfo in the config")
    if (data.get("metainfo") or {}).get("classes") and len(data.metainfo.classes) != num_classes:
        raise UserError(
            f"metainfo has {len(data.metainfo.classes)} classes and decode_head.num_classes is {num_classes};"
            " --classes sets both"
        )
    root, prefix = Path(data.get("data_root") or ""), data["data_prefix"]
    image_suffix = data.get("img_suffix", ".jpg")
    map_suffix = data.get("seg_map_suffix", ".png")
    folders = (root / (prefix.get("img_path") or ""), root / prefix["seg_map_path"])
    images, maps = find_files(folders[0], image_suffix), find_files(folders[1], map_suffix)
    empty = check_folder(folders[0], images, image_suffix) + check_folder(folders[1], maps, map_suffix)
    if empty:
        return empty, 0, 0
    if data.get("ann_file"):  # a list of names: other files are left out on purpose
        listed = (root / data["ann_file"]).read_text().split()
        if missing := [name for name in listed if name not in images]:
            path = str(folders[0] / (missing[0] + image_suffix))
            return [Problem(f"images of {data['ann_file']} that are not there", path, len(missing))], 0, 0
        images = {name: images[name] for name in listed}
        maps = {name: maps[name] for name in listed if name in maps}
    check = PairCheck(max(num_classes, len(classes)), head.get("ignore_index", 255), reduces_zero_label(data))
    pairs = [(image, maps[name]) for name, image in images.items() if name in maps]
    opened = 0
    for image, label_map in _within(pairs, seconds, f"checking {folders[1]}"):
        check.add(image, label_map)
        opened += 1
    return [*check_pairs(images, maps), *check.problems()], opened, len(pairs)


def reduces_zero_label(data: ConfigDict) -> bool:
    """Whether the dataset reduces zero labels: its entry if it has one, else the default of its class."""
    return bool(data.get("reduce_zero_label", type_name(data) == "ADE20KDataset"))


def class_names(data: ConfigDict) -> tuple[str, ...] | None:
    """Class names for the values in the files: those of the dataset's class take precedence."""
    import mmdet.datasets  # noqa: F401  registers
    import mmseg.datasets  # noqa: F401
    from mmdet.registry import DATASETS as DETECTION
    from mmseg.registry import DATASETS as SEGMENTATION

    registry = DETECTION if _is_coco(data) else SEGMENTATION
    known = getattr(class_of(data["type"], registry), "METAINFO", {}).get("classes")
    return tuple(known or (data.get("metainfo") or {}).get("classes") or ()) or None


def _within(items: list, seconds: float, title: str) -> Iterator:
    """Items in random order until the time is over; a progress bar appears after two seconds."""
    order = random.Random(0).sample(items, len(items))
    end = time.monotonic() + seconds
    for item in tqdm(order, title, delay=2, leave=False):
        if time.monotonic() > end:
            return
        yield item


# ---- detection


def _is_coco(data: ConfigDict) -> bool:
    return type_name(data) == "CocoDataset"


def set_detection_classes(cfg: Config, names: Sequence[str] | None) -> str | None:
    """Set classes and heads from the annotation files where these differ from the config.

    Args:
        cfg: changed in place.
        names: classes to use; ``None``: those that the config sets itself, else all of the file.

    Raises:
        ClassNamesError: names that are missing in a file.
        UserError: files that number the classes differently.
    """
    files = [(data, _annotation_file(data)) for data in _local(cfg, SPLITS) if _is_coco(data)]
    files = [(data, path) for data, path in files if path.is_file()]  # a test needs no training files
    if not files:
        return None
    stated = (files[0][0].get("metainfo") or {}).get("classes")
    stated = (stated,) if isinstance(stated, str) else stated
    wanted = names or stated
    chosen, source = None, files[0][1]
    for _, path in files:
        mine = select_categories([category["name"] for category in read_categories(path)], wanted, str(path))
        if chosen is not None and mine != chosen:
            raise UserError(_difference(source, chosen, path, mine))
        chosen = mine
    heads = list(_heads(cfg.model))
    same_names = chosen == tuple(stated or class_names(files[0][0]) or ())
    if same_names and all(head["num_classes"] == len(chosen) for head in heads):
        return None
    # drawing fails with fewer colours than classes, and CocoDataset has 80
    colours = random.Random(0)
    palette = [tuple(colours.randrange(40, 256) for _ in range(3)) for _ in chosen]
    for data in datasets_of(cfg):
        data["metainfo"] = ConfigDict(classes=chosen, palette=palette)
    for head in heads:
        head["num_classes"] = len(chosen)
    shown = ", ".join(chosen[:10]) + (", ..." if len(chosen) > 10 else "")
    return f"{len(chosen)} classes in the order of {source}: {shown}"


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


def check_detection(cfg: Config, splits: tuple[str, ...] = SPLITS) -> tuple[list[Problem], str | None]:
    """Faults of annotation files and their images, and a note if a file is too large to check."""
    found, large = [], []
    for data in _local(cfg, splits):
        if not _is_coco(data):
            continue
        path = _annotation_file(data)
        if path.stat().st_size > COCO_BYTES:
            large.append(path.name)
            continue
        folder = Path(data.get("data_root") or "", (data.get("data_prefix") or {}).get("img") or "")
        found += check_coco(path, folder)
    if not large:
        return found, None
    return found, f"data: entries of {', '.join(large)} not checked, too large"
