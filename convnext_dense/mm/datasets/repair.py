"""Training continues despite bad files and annotations and logs them; evaluation and ``--strict-data`` stop.

The loaders of a config get a checked dataset around each dataset
(:mod:`convnext_dense.mm.datasets.checked_dataset`) and checked transforms in place of mmcv's
(:mod:`convnext_dense.mm.datasets.transforms`). This is done in the runner, after the config was read: the
config in the work folder stays as the user wrote it, and works in the toolboxes' own tools.
"""

from collections.abc import Iterator, Mapping, MutableMapping

from mmengine.config import ConfigDict
from mmengine.runner import Runner

from convnext_dense.mm.datasets.checked_dataset import OnFault
from convnext_dense.mm.datasets.paths import INNER, SPLITS
from convnext_dense.mm.datasets.transforms import Dropped
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings


def tolerate_bad_data(runner: Runner, strict: bool = False, cache: str | None = None) -> str:
    """Make a runner check its data; call it before ``train()`` or ``test()``, which build the loaders.

    Args:
        runner: its loaders' configs are changed, and it gets a hook.
        strict: stop at the first bad file or annotation file.
        cache: folder of annotations that were read before, see
            :mod:`convnext_dense.mm.datasets.annotation_cache`.

    Returns:
        the line to log.
    """
    loaders = {f"{split}_dataloader": getattr(runner, f"_{split}_dataloader") for split in SPLITS}
    lines = [set_tolerant_data(loaders, strict, cache)]
    for hook in runner.hooks:  # mmdet's hook that changes the pipeline for the last epochs
        if isinstance(getattr(hook, "switch_pipeline", None), list):
            dropped = None if strict else Dropped()
            check_pipelines(hook.switch_pipeline, dropped)
            if dropped is not None:
                hook.switch_pipeline.append(ConfigDict(type="ReportDropped", dropped=dropped))
    if not strict:
        runner.register_hook(dict(type="BadInputHook"))  # of mm/engine, by name: this room imports none of it
    built = [name for name, loader in loaders.items() if loader is not None and not _is_config(loader)]
    if built:
        lines.append(f"{', '.join(built)} not checked: already built")
    return "; ".join(lines)


def set_tolerant_data(loaders: MutableMapping, strict: bool = False, cache: str | None = None) -> str:
    """Change ``train_dataloader``, ``val_dataloader`` and ``test_dataloader`` in place; safe to repeat.

    Args:
        loaders: a config, or the loaders of a runner.
        strict: training raises too; evaluation always does, because its figures are for all images.
        cache: folder of annotations that were read before.

    Returns:
        the line to log.
    """
    unread = []
    for split in SPLITS:
        loader = loaders.get(f"{split}_dataloader")
        if not _is_config(loader) or not _is_config(loader.get("dataset")):
            continue
        trains = split == "train"
        tolerant = trains and not strict
        dropped = Dropped() if tolerant else None  # one for all transforms of the loader
        check_pipelines(loader["dataset"], dropped)
        masks = any(node.get("with_mask") for _, node in mappings(loader["dataset"]))
        wrap_datasets(loader["dataset"], "skip" if tolerant else "raise", trains, masks, cache)
        if dropped is not None:
            _report_last(loader["dataset"], dropped)
        unread += [type_name(data) for data in _innermost(loader["dataset"]) if not _has_checked_image(data)]
    does = "stop the run (--strict-data)" if strict else "are counted, logged and left out in training"
    others = sorted(set(unread))
    alone = f"; {', '.join(others)} not checked: no LoadImageFromFile in the pipeline" if others else ""
    return f"bad images and annotations {does}{alone}"


def _is_config(node: object) -> bool:
    return isinstance(node, MutableMapping)


# ---- transforms


def check_pipelines(node: object, dropped: Dropped | None) -> None:
    """Replace the loading transforms in every pipeline below ``node``.

    Args:
        node: changed in place.
        dropped: takes notes of bad files; ``None``: they raise.
    """
    for _, step in mappings(node, stop=_is_checked_transform):
        kind = type_name(step)
        if _is_checked_transform(step):
            step["dropped"] = dropped
        elif kind == "LoadImageFromFile":
            step.pop("ignore_empty", None)  # drops images silently
            step.update(type="LoadCheckedImage", dropped=dropped)
        elif kind == "LoadAnnotations":
            loader = ConfigDict(step)
            step.clear()
            step.update(type="LoadCheckedAnnotations", loader=loader, dropped=dropped)

    for _, data in mappings(node, INNER):
        pipeline = data.get("pipeline")
        inner = any(data.get(key) for key in INNER)  # a wrapper's pipeline mixes images that are read already
        if pipeline and not inner and _is_own_loader(pipeline[0]):
            loader = ConfigDict(pipeline[0])
            data["pipeline"] = [
                ConfigDict(type="LoadOwnImage", loader=loader, dropped=dropped),
                *pipeline[1:],
            ]


def _is_own_loader(step: Mapping) -> bool:
    """Whether the first step of a pipeline reads images in a way of its own."""
    return not _is_checked_transform(step) and type_name(step) != "LoadImageFromNDArray"


def _is_checked_transform(node: Mapping) -> bool:
    return type_name(node) in ("LoadCheckedImage", "LoadCheckedAnnotations", "LoadOwnImage")


def _has_checked_image(node: object) -> bool:
    return any(type_name(step) in ("LoadCheckedImage", "LoadOwnImage") for _, step in mappings(node))


def _report_last(node: object, dropped: Dropped) -> None:
    """End the pipeline of a dataset, and of those below it, with ``ReportDropped``."""
    for _, data in mappings(node, INNER):
        if data.get("pipeline"):
            steps = [step for step in data["pipeline"] if type_name(step) != "ReportDropped"]
            data["pipeline"] = [*steps, ConfigDict(type="ReportDropped", dropped=dropped)]


# ---- datasets


def _innermost(node: object) -> Iterator[Mapping]:
    """Dataset configs that are not wrappers."""
    return (data for _, data in mappings(node, INNER) if not any(data.get(key) for key in INNER))


def wrap_datasets(
    node: object, on_fault: OnFault, trains: bool, masks: bool, cache: str | None = None
) -> None:
    """Put a ``CheckedDataset`` around every dataset with an annotation file below ``node``."""
    for _, data in mappings(node, INNER, stop=_is_checked_dataset):
        if _is_checked_dataset(data):
            data["on_fault"] = on_fault
        elif str(data.get("ann_file") or "").endswith(".json"):
            dataset = ConfigDict(data)
            data.clear()
            checks = dict(on_fault=on_fault, trains=trains, masks=masks, cache=cache)
            data.update(type="CheckedDataset", dataset=dataset, **checks)


def _is_checked_dataset(node: Mapping) -> bool:
    return type_name(node) == "CheckedDataset"
