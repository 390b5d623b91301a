"""The sections of a config: what must be there for a command, and of which kind each entry is."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.datasets.paths import SPLITS, iter_datasets
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

Purpose = Literal["train", "test", "predict", "rates"]
# what a command cannot do without
NEEDED: dict[Purpose, tuple[str, ...]] = {
    "train": ("model", "train_dataloader.dataset", "train_cfg", "optim_wrapper.optimizer"),
    "test": ("model", "test_dataloader.dataset", "test_cfg", "test_evaluator"),
    "predict": ("model", "test_dataloader.dataset"),
    "rates": ("model", "optim_wrapper.optimizer", "train_cfg"),
}


def _mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _typed(value: object) -> bool:
    """A mapping whose type is a name or a class."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    return isinstance(kind, str) or callable(kind)


def _steps(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(_typed, value))


def _one_or_more(value: object) -> bool:
    """A mapping, or a list of them."""
    return isinstance(value, Mapping) or (isinstance(value, list | tuple) and all(map(_mapping, value)))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: object) -> bool:
    """1, 2, ...; also as 2.0, which a config gets from a division."""
    return _number(value) and float(value).is_integer() and value > 0


def _amount(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return _text(value) or (isinstance(value, list | tuple) and all(map(_text, value)))


def _folders(value: object) -> bool:
    return isinstance(value, Mapping) and all(v is None or isinstance(v, str) for v in value.values())


Kind = tuple[Callable[[object], bool], str]
MAPPING: Kind = (_mapping, "a mapping, dict(...)")
TYPED: Kind = (_typed, "a mapping with a type, dict(type=...)")
STEPS: Kind = (_steps, "a list of mappings with a type, [dict(type=...), ...]")
ONE_OR_MORE: Kind = (_one_or_more, "a mapping, dict(type=...), or a list of them")
NUMBER: Kind = (_number, "a number")
COUNT: Kind = (_count, "a whole number above 0")
AMOUNT: Kind = (_amount, "a whole number from 0 on")
TEXT: Kind = (_text, "a text in quotes")
TEXTS: Kind = (_texts, "a text in quotes, or a list of them")
FOLDERS: Kind = (_folders, "a mapping of folders, e.g. dict(img='train2017/')")
TYPE: Kind = (_text, "the name of a class")

# None stands for "not there" everywhere, as in mmengine
KINDS: dict[str, Kind] = {
    "model": TYPED,
    "model.backbone": TYPED,
    "model.data_preprocessor": MAPPING,
    **{f"{split}_dataloader": MAPPING for split in SPLITS},
    **{f"{split}_dataloader.batch_size": COUNT for split in SPLITS},
    **{f"{split}_dataloader.num_workers": AMOUNT for split in SPLITS},
    **{f"{split}_dataloader.dataset": TYPED for split in SPLITS},
    **{f"{split}_dataloader.sampler": TYPED for split in SPLITS},
    **{f"{split}_evaluator": ONE_OR_MORE for split in SPLITS},
    **{f"{split}_cfg": MAPPING for split in SPLITS},
    "train_cfg.max_iters": COUNT,
    "train_cfg.max_epochs": COUNT,
    "train_cfg.val_interval": COUNT,
    "optim_wrapper": MAPPING,
    "optim_wrapper.optimizer": TYPED,
    "optim_wrapper.optimizer.lr": NUMBER,
    "optim_wrapper.optimizer.weight_decay": NUMBER,
    "optim_wrapper.accumulative_counts": COUNT,
    "optim_wrapper.clip_grad": MAPPING,
    "optim_wrapper.paramwise_cfg": MAPPING,
    "param_scheduler": ONE_OR_MORE,
    "auto_scale_lr": MAPPING,
    "auto_scale_lr.base_batch_size": COUNT,
    "default_hooks": MAPPING,
    "default_hooks.checkpoint.save_best": TEXTS,
    "custom_hooks": STEPS,
    "visualizer": MAPPING,
    "visualizer.vis_backends": STEPS,
    "log_processor": MAPPING,
    "env_cfg": MAPPING,
    "randomness": MAPPING,
    "custom_imports": MAPPING,
    "default_scope": TEXT,
    "work_dir": TEXT,
    "load_from": TEXT,
    "log_level": TEXT,
}
DATASET_KINDS: dict[str, Kind] = {
    "pipeline": STEPS,
    "data_prefix": FOLDERS,
    "data_root": TEXT,
    "ann_file": TEXT,
    "metainfo": MAPPING,
    "filter_cfg": MAPPING,
    "filter_cfg.min_size": NUMBER,
    "max_refetch": AMOUNT,
    "img_suffix": TEXT,
    "seg_map_suffix": TEXT,
}
# of the evaluators that the checks of the start read; a class of the user may mean something else
EVALUATORS = ("CocoMetric", "IoUMetric", "VOCMetric")
EVALUATOR_KINDS: dict[str, Kind] = {"ann_file": TEXT, "metric": TEXTS, "iou_metrics": TEXTS}
# entries that mmengine's runner and the toolboxes read, beside those above
KNOWN = {
    *(key.partition(".")[0] for key in KINDS),
    *("resume", "launcher", "runner_type", "experiment_name", "cfg", "load_strict", "tta_model"),
    *("tta_pipeline", "train_pipeline", "test_pipeline", "val_pipeline", "data_root", "dataset_type"),
    *("max_iters", "max_epochs", "compile", "find_unused_parameters", "model_wrapper_cfg", "backend_args"),
}


def check_kinds(cfg: Config) -> None:
    """Refuse entries of a wrong kind before anything reads them.

    Raises:
        UserError: names file, key and the kind that it must have.
    """
    for where, node in mappings(cfg._cfg_dict):
        kind = node.get("type")
        if isinstance(kind, bool | int | float | Mapping | list | tuple):
            _check(cfg, ".".join(map(str, (*where, "type"))), kind, TYPE)
    for path, kind in KINDS.items():
        _check(cfg, path, lookup(cfg._cfg_dict, path), kind)
    for name, hook in (cfg.get("default_hooks") or {}).items():
        _check(cfg, f"default_hooks.{name}", hook, MAPPING)
    keys = lookup(cfg._cfg_dict, "optim_wrapper.paramwise_cfg.custom_keys")
    _check(cfg, "optim_wrapper.paramwise_cfg.custom_keys", keys, MAPPING)
    for name, options in (keys or {}).items():
        _check(cfg, f"optim_wrapper.paramwise_cfg.custom_keys[{name!r}]", options, MAPPING)
    for split in SPLITS:
        evaluators = cfg.get(f"{split}_evaluator") or ()
        for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
            for key, kind in EVALUATOR_KINDS.items() if type_name(evaluator) in EVALUATORS else ():
                _check(cfg, f"{split}_evaluator.{key}", evaluator.get(key), kind)
        for data in iter_datasets(cfg.get(f"{split}_dataloader")):
            for key, kind in DATASET_KINDS.items():
                _check(cfg, f"{split}_dataloader.dataset: {key}", lookup(data, key), kind)


def _check(cfg: Config, path: str, value: object, kind: Kind) -> None:
    fits, text = kind
    if value is not None and not fits(value):
        if kind is STEPS and isinstance(value, list | tuple):
            path, value = next((f"{path}.{i}", step) for i, step in enumerate(value) if not _typed(step))
            text = TYPED[1]
        shown = str(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise UserError(f"{cfg.filename or 'the config'}: {path} is {shown!r}; write {text}")


def check_needed(cfg: Config, purpose: Purpose) -> None:
    """Refuse a config without the sections that a command needs.

    Raises:
        UserError: names the file and what is missing.
    """
    file = cfg.filename or "the config"
    for path in NEEDED[purpose]:
        if lookup(cfg._cfg_dict, path) is None:
            raise UserError(
                f"{file} has no {path}: name a base that has it in _base_, or write it (see "
                "docs/own_data.md, 'Configs of your own')"
            )
    for split, why in (("val", "train without"), ("test", "leave testing out")):
        parts = (f"{split}_dataloader", f"{split}_cfg", f"{split}_evaluator")
        absent = [name for name in parts if cfg.get(name) is None]
        if purpose == "train" and 0 < len(absent) < len(parts):  # mmengine refuses it, too
            raise UserError(
                f"{file} has no {' and no '.join(absent)}: an evaluation needs {', '.join(parts)}; set all "
                f"three to None to {why}"
            )


def lookup(node: object, path: str) -> object:
    """The value of a dotted key, ``None`` where it is not there."""
    for key in path.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


# ---- --cfg-options


def check_overrides(cfg: Config, overrides: Mapping) -> None:
    """Refuse a misspelled key of ``--cfg-options``, which would add an entry that nothing reads.

    A new entry is allowed where no other one is spelled like it.

    Raises:
        UserError: names the key and what is spelled like it, or the indices of a list.
    """
    for full_key in overrides:
        if "" in full_key.split("."):
            raise UserError(f"--cfg-options {full_key}: a key is empty; write KEY.KEY=VALUE without spaces")
        for done, key, node in _steps_of(cfg._cfg_dict, full_key.split(".")):
            _check_key(full_key, done, key, node)


def _steps_of(node: object, keys: Sequence[str]) -> Iterator[tuple[list[str], str, object]]:
    """Keys before an existing container, the key in it and the container, from the outermost on."""
    for depth, key in enumerate(keys):
        if not isinstance(node, Mapping | list | tuple):
            return
        yield list(keys[:depth]), key, node
        if isinstance(node, Mapping):
            node = node.get(key)
        else:
            node = node[int(key)] if key.isdigit() and int(key) < len(node) else None


def _check_key(full_key: str, done: list[str], key: str, node: object) -> None:
    where = ".".join(done) or "the config"
    if isinstance(node, list | tuple):
        if not key.isdigit() or int(key) >= len(node):
            indices = f"0 to {len(node) - 1}" if node else "none: it is empty"
            raise UserError(f"--cfg-options {full_key}: {where} is a list; its indices are {indices}")
        return
    if key in node or (not done and key in KNOWN):
        return
    leaf = full_key == ".".join([*done, key]) and done
    near = difflib.get_close_matches(key, {*node, *(() if done else KNOWN)}, n=2, cutoff=0.75)
    if near and not leaf:
        raise UserError(f"--cfg-options {full_key}: {where} has no {key!r}; similar: {', '.join(near)}")
