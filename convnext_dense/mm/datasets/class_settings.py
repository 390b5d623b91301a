"""Entries of a config that must agree with the classes: their names, and the class weights of the losses."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file

from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.paths import SPLITS, iter_datasets
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

OLD_KEYS = {"CLASSES": "classes", "PALETTE": "palette"}
"""Keys of `metainfo` in early versions of OpenMMLab 2.0, which the later ones ignore."""


def check_class_names(cfg: Config) -> None:
    """Check the names in every ``metainfo``; those that a text file lists are written into ``cfg``.

    mmdet would take a string for the list of its letters, or ignore the entry.

    Raises:
        UserError: class names that are not a list or tuple of different strings.
    """
    for split in SPLITS:
        for data in iter_datasets(cfg.get(f"{split}_dataloader")):
            info = data.get("metainfo")
            if info is None:
                continue
            where = f"metainfo of {type_name(data)} in {split}_dataloader"
            if not isinstance(info, Mapping):
                raise UserError(f"{where} is a {type(info).__name__}; write dict(classes=(...))")
            for old, new in OLD_KEYS.items():
                if old in info:
                    raise UserError(f"{where} has {old}, which is ignored: write {new}")
            if info.get("classes") is not None:
                info["classes"] = names_of(info["classes"], where)


def names_of(classes: object, where: str) -> tuple[str, ...]:
    """Class names of a ``metainfo``.

    Args:
        classes: a list or tuple of names, or a text file with one per line.
        where: name of the entry, for messages.

    Raises:
        UserError: anything else.
    """
    if isinstance(classes, str):
        if not Path(classes).is_file():
            raise UserError(
                f"classes in {where} is the text {classes!r}, not a list: write classes=({classes!r},) with "
                "its comma; a file must exist and have one name per line"
            )
        classes = [name.strip() for name in list_from_file(classes) if name.strip()]
    if not isinstance(classes, list | tuple):
        raise UserError(f"classes in {where} is a {type(classes).__name__}; write a list of names")
    if not classes:
        raise UserError(f"classes in {where} is empty: name the classes, or leave the entry out")
    wrong = [name for name in classes if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise UserError(f"classes in {where}: {wrong[0]!r} is no name; write a list of texts")
    repeated = [name for i, name in enumerate(classes) if name in classes[:i]]
    if repeated:
        raise UserError(f"classes in {where}: {repeated[0]!r} is there more than once")
    return tuple(classes)


# ---- class weights


def check_class_weights(cfg: Config) -> None:
    """Compare the class weights of every loss with the classes of its head.

    Raises:
        UserError: another number of weights; it names the entry.
    """
    for path, count, loss, wanted in _weighted(cfg.model):
        if count not in wanted:
            key = ".".join(map(str, ("model", *path, "class_weight")))
            background = " (the classes and the background)" if wanted == {loss + 1} else ""
            raise UserError(
                f"{key} has {count} weights for {loss} classes: give {min(wanted)}{background}, in the order "
                f"of the names, or --cfg-options {key}=None"
            )


def _weighted(model: ConfigDict) -> Iterator[tuple[tuple, int, int, set[int]]]:
    """Losses with a weight per class: path, number of weights, classes of the head, numbers that fit."""
    for path, node in mappings(model):
        weights = node.get("class_weight")
        if isinstance(weights, str):
            weights = _from_file(weights)
        owner = _head_of(model, path)
        if not isinstance(weights, Sequence) or owner is None:
            continue
        name = next((key for key in reversed(path) if isinstance(key, str)), "")
        classes = owner["num_classes"]
        if name == "loss_decode":
            outputs = owner.get("out_channels") or classes  # one channel can tell two classes apart
            yield path, len(weights), classes, {outputs, classes} if outputs == 1 else {outputs}
        elif name == "loss_cls":
            # a softmax has an output for "no object"; queries of transformers may have one also by sigmoid
            yield path, len(weights), classes, {classes} if node.get("use_sigmoid") else {classes + 1}


def _head_of(model: Mapping, path: Sequence) -> Mapping | None:
    """The innermost entry around ``path`` that has a number of classes."""
    found, node = None, model
    for key in path:
        if isinstance(node, Mapping) and isinstance(node.get("num_classes"), int):
            found = node
        node = node[key]
    return found


def _from_file(path: str) -> Sequence | None:
    """Class weights of a file, as mmseg reads them."""
    from mmseg.models.losses.utils import get_class_weight

    try:
        return list(get_class_weight(path))
    except FileNotFoundError:
        raise UserError(f"class_weight: no file {path}") from None
