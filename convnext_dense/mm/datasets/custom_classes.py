"""The user's own classes and files: the config is fitted to them; faults are reported before training starts.

The checks themselves are in :mod:`convnext_dense.data.check`; here they are applied to mmengine's configs.
"""

from collections.abc import Callable
from functools import partial

from mmengine import dist
from mmengine.config import Config

from convnext_dense.data.check import ClassNamesError, Problem, parse_classes
from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.class_settings import check_class_names, check_class_weights
from convnext_dense.mm.datasets.declared import (
    colours,
    dataset_class,
    reads_coco,
    scope_of,
    with_colours,
)
from convnext_dense.mm.datasets.detection_data import (
    check_detection,
    set_detection_classes,
    set_named_classes,
)
from convnext_dense.mm.datasets.learnable import Learnable
from convnext_dense.mm.datasets.one_channel import check_one_channel
from convnext_dense.mm.datasets.paths import SPLITS, datasets_of
from convnext_dense.mm.datasets.segmentation_data import (
    check_segmentation,
    selected_classes,
    set_segmentation_classes,
)
from convnext_dense.mm.datasets.tidy_files import tidy_files
from convnext_dense.mm.datasets.truth import check_truth
from convnext_dense.mm.datasets.usable import refuse_unusable
from convnext_dense.support.notes import Warned


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
    with scope_of(cfg):
        return _set_own_data(cfg, classes, splits, strict)


def _set_own_data(cfg: Config, classes: str | None, splits: tuple[str, ...], strict: bool) -> list[str]:
    """As :func:`set_own_data`, in the scope of the config's toolbox."""
    check_class_names(cfg)
    refuse_unusable(cfg, splits or SPLITS)  # a preflight checks its files later
    try:
        names = None if classes is None else parse_classes(classes)
        tidied = tidy_files(cfg, splits)
        check_truth(cfg, splits)
        even_palettes(cfg)
        if "decode_head" in cfg.model:
            notes = selected_classes(cfg) if names is None else [set_segmentation_classes(cfg, names)]
            check: Callable = check_segmentation
        else:
            coco = any(reads_coco(data) for data in datasets_of(cfg))
            note = (set_detection_classes if coco else set_named_classes)(cfg, names)
            notes, check = [note] if note else [], check_detection
        check_class_weights(cfg)
        if "decode_head" in cfg.model:
            check_one_channel(cfg)
        left_out, found, check_notes, learnable = [], [], [], Learnable(cfg)
        if dist.get_rank() == 0:
            left_out, found, check_notes = _by_split(partial(check, learnable=learnable), cfg, splits, strict)
    except ClassNamesError as error:
        raise UserError(str(error)) from None
    faults = [*learnable.stops, *map(str, found)]
    if found:
        raise UserError("the data cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults))
    if faults:
        raise UserError("; ".join(faults))
    lost = (f"left out in training: {problem}" for problem in left_out)
    return [*tidied, *notes, *check_notes, *map(Warned, (*learnable.notes, *lost))]


def even_palettes(cfg: Config) -> None:
    """Give each class that a config names one colour: mmseg refuses, and mmdet draws, with another number."""
    for data in datasets_of(cfg):
        info = data.get("metainfo") or {}
        known = getattr(dataset_class(data), "METAINFO", {})
        if info.get("classes") and "palette" in info:
            info["palette"] = with_colours(info)["palette"]
        elif len(known.get("palette") or info.get("classes") or ()) < len(info.get("classes") or ()):
            info["palette"] = colours(info["classes"])


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
