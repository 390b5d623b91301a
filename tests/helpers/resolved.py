"""Resolved recipes as lines ``path = value``, and their storage: a line that recipes share is kept once."""

from collections.abc import Iterator, Mapping

# What mmengine's Runner takes from a config. It reads `data_preprocessor` only for a model without its own.
RUNNER = (
    *("model", "work_dir", "train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg"),
    *("test_cfg", "auto_scale_lr", "optim_wrapper", "param_scheduler", "val_evaluator", "test_evaluator"),
    *("default_hooks", "custom_hooks", "load_from", "resume", "launcher", "env_cfg", "log_processor"),
    *("log_level", "visualizer", "default_scope", "randomness", "experiment_name"),
)
# What else our tools, mmengine, the toolboxes' inference or a user who inherits a recipe reads by name.
OTHERS = (
    *("custom_imports", "data_root", "metainfo", "train_pipeline", "test_pipeline", "tta_model"),
    *("tta_pipeline", "vis_backends", "find_unused_parameters", "model_wrapper_cfg", "runner_type"),
    "load_strict",
)
SETTINGS = frozenset(RUNNER + OTHERS)
# What files of `configs/` name for their own use. mmengine keeps it in the config, and nobody reads it there.
VARIABLES = frozenset(
    (
        *("annotations", "backend_args", "box_stages", "channels", "crop", "crop_size", "dataset", "dims"),
        *("extractor", "ignore_index", "image", "longer_side", "max_epochs", "max_iters", "norm_cfg"),
        *("num_classes", "part", "public_weights", "ratios", "resize", "scale", "shorter_side", "size"),
        *("step", "workers"),
    )
)

Entries = dict[str, str]
"""Dotted path -> the value as Python writes it, so that 1 and 1.0, or a list and a tuple, are two values."""


def entries(cfg: Mapping) -> Entries:
    """Entries of ``cfg`` below the top-level keys of ``SETTINGS``."""
    settings = {key: value for key, value in cfg.items() if key in SETTINGS}
    return dict(sorted(_walk("", settings)))


def _walk(path: str, node: object) -> Iterator[tuple[str, str]]:
    """Yield path and value of every leaf. A list or tuple without mappings, however deep, is a leaf."""
    if isinstance(node, Mapping):
        inner = list(node.items())
    elif isinstance(node, list | tuple) and _has_mapping(node):
        inner = list(enumerate(node))
    else:
        yield path, repr(node)
        return
    if not inner:
        yield path, "{}"
    for key, value in inner:
        yield from _walk(f"{path}.{key}" if path else str(key), value)


def _has_mapping(node: object) -> bool:
    return isinstance(node, Mapping) or (isinstance(node, list | tuple) and any(map(_has_mapping, node)))


def grouped(recipes: Mapping[str, Entries]) -> list[dict[str, list[str]]]:
    """Lines ``path = value`` by the exact set of recipes that have them, largest sets first."""
    owners: dict[str, list[str]] = {}
    for name in sorted(recipes):
        for path, value in recipes[name].items():
            owners.setdefault(f"{path} = {value}", []).append(name)
    groups: dict[tuple[str, ...], list[str]] = {}
    for line in sorted(owners):
        groups.setdefault(tuple(owners[line]), []).append(line)
    order = sorted(groups, key=lambda names: (-len(names), names))
    return [{"recipes": list(names), "entries": groups[names]} for names in order]


def ungrouped(groups: list[dict[str, list[str]]]) -> dict[str, Entries]:
    """Undo ``grouped``."""
    recipes: dict[str, Entries] = {}
    for group in groups:
        for name in group["recipes"]:
            recipes.setdefault(name, {}).update(line.split(" = ", 1) for line in group["entries"])
    return recipes


def differences(name: str, expected: Entries, found: Entries) -> list[str]:
    """One line for each entry of the recipe ``name`` that is missing, new or of another value."""
    absent = "no such entry"
    return [
        f"{name}: {path}: expected {expected.get(path, absent)}, found {found.get(path, absent)}"
        for path in sorted({*expected, *found})
        if expected.get(path) != found.get(path)
    ]
