"""Training continues despite bad files and annotations and logs them; evaluation and ``--strict-data`` stop.

The loaders of a config get a checked dataset around each dataset and checked transforms in place of mmcv's
(:mod:`convnext_dense.mm.datasets.transforms`). This is done in the runner, after the config was read: the
config in the work folder stays as the user wrote it, and works in the toolboxes' own tools.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from torch.utils.data import Dataset
from tqdm import tqdm

from convnext_dense.data.check import size_on_disk
from convnext_dense.data.coco_repair import KINDS, AnnotationFileError, Fault, repair
from convnext_dense.mm.datasets.paths import SPLITS
from convnext_dense.mm.datasets.transforms import FIELD, BadInputError, OnFault, samples_of
from convnext_dense.support.files import write_text
from convnext_dense.support.modules import unwrapped

PREFIXES = ("mmengine.", "mmcv.", "mmdet.", "mmseg.", "mmpretrain.")


def tolerate_bad_data(runner: Runner, strict: bool = False) -> str:
    """Make a runner check its data; call it before ``train()`` or ``test()``, which build the loaders.

    Args:
        runner: its loaders' configs are changed, and it gets a hook.
        strict: stop at the first bad file or annotation file.

    Returns:
        the line to log.
    """
    loaders = {f"{split}_dataloader": getattr(runner, f"_{split}_dataloader") for split in SPLITS}
    lines = [set_tolerant_data(loaders, strict)]
    for hook in runner.hooks:  # mmdet's hook that changes the pipeline for the last epochs
        if isinstance(getattr(hook, "switch_pipeline", None), list):
            check_pipelines(hook.switch_pipeline, "raise" if strict else "skip")
            hook.switch_pipeline.append(ConfigDict(type="ReportDropped"))
    if not strict:
        runner.register_hook(BadInputHook())
    built = [name for name, loader in loaders.items() if loader is not None and not _is_config(loader)]
    if built:
        lines.append(f"{', '.join(built)} not checked: already built")
    return "; ".join(lines)


def set_tolerant_data(loaders: MutableMapping, strict: bool = False) -> str:
    """Change ``train_dataloader``, ``val_dataloader`` and ``test_dataloader`` in place; safe to repeat.

    Args:
        loaders: a config, or the loaders of a runner.
        strict: training raises too; evaluation always does, because its figures are for all images.

    Returns:
        the line to log.
    """
    unread = []
    for split in SPLITS:
        loader = loaders.get(f"{split}_dataloader")
        if not _is_config(loader) or not _is_config(loader.get("dataset")):
            continue
        trains = split == "train"
        on_fault: OnFault = "skip" if trains and not strict else "raise"
        check_pipelines(loader["dataset"], on_fault)
        wrap_datasets(loader["dataset"], on_fault, trains, _any_entry(loader["dataset"], "with_mask"))
        if trains:
            _report_at_the_end(loader["dataset"])
        unread += [leaf["type"] for leaf in _leaves(loader["dataset"]) if not _has_checked_image(leaf)]
    does = "stop the run (--strict-data)" if strict else "are counted, logged and left out in training"
    others = sorted(set(map(str, unread)))
    alone = f"; {', '.join(others)} not checked: no LoadImageFromFile in the pipeline" if others else ""
    return f"bad images and annotations {does}{alone}"


def _is_config(node: object) -> bool:
    return isinstance(node, MutableMapping)


def _any_entry(node: object, key: str) -> bool:
    """Whether ``key`` is true somewhere below ``node``."""
    if isinstance(node, Mapping):
        return bool(node.get(key)) or any(_any_entry(value, key) for value in node.values())
    return isinstance(node, list | tuple) and any(_any_entry(value, key) for value in node)


# ---- transforms


def check_pipelines(node: object, on_fault: OnFault) -> None:
    """Replace the loading transforms in every pipeline below ``node``."""
    if isinstance(node, list | tuple):
        for item in node:
            check_pipelines(item, on_fault)
    if not _is_config(node):
        return
    kind = _bare(node.get("type"))
    if kind in ("LoadCheckedImage", "LoadCheckedAnnotations"):
        node["on_fault"] = on_fault
    elif kind == "LoadImageFromFile":
        node.pop("ignore_empty", None)  # drops images silently
        node.update(type="LoadCheckedImage", on_fault=on_fault)
    elif kind == "LoadAnnotations":
        loader = ConfigDict(node)
        node.clear()
        node.update(type="LoadCheckedAnnotations", loader=loader, on_fault=on_fault)
    else:
        for value in node.values():
            check_pipelines(value, on_fault)


def _bare(kind: object) -> str:
    """Type without its scope; configs may hold the class itself."""
    kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    for prefix in PREFIXES:
        kind = kind.removeprefix(prefix)
    return kind


def _has_checked_image(node: object) -> bool:
    if isinstance(node, Mapping):
        return node.get("type") == "LoadCheckedImage" or any(map(_has_checked_image, node.values()))
    return isinstance(node, list | tuple) and any(map(_has_checked_image, node))


def _report_at_the_end(node: object) -> None:
    """Append ``ReportDropped`` to the pipeline of a dataset and of those below it."""
    if isinstance(node, list | tuple):
        for item in node:
            _report_at_the_end(item)
    elif _is_config(node):
        pipeline = node.get("pipeline")
        if pipeline and not any(step.get("type") == "ReportDropped" for step in pipeline):
            node["pipeline"] = [*pipeline, ConfigDict(type="ReportDropped")]
        _report_at_the_end([node.get("dataset"), node.get("datasets")])


# ---- datasets


def _leaves(node: object) -> Iterator[MutableMapping]:
    """Dataset configs that are not wrappers."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from _leaves(item)
    elif _is_config(node):
        below = [node[key] for key in ("dataset", "datasets") if node.get(key)]
        yield from _leaves(below) if below else iter([node])


def wrap_datasets(node: object, on_fault: OnFault, trains: bool, masks: bool) -> None:
    """Put a ``CheckedDataset`` around every dataset with an annotation file below ``node``."""
    if isinstance(node, list | tuple):
        for item in node:
            wrap_datasets(item, on_fault, trains, masks)
    elif _is_config(node) and node.get("type") == "CheckedDataset":
        node["on_fault"] = on_fault
    elif _is_config(node) and str(node.get("ann_file") or "").endswith(".json"):
        dataset = ConfigDict(node)
        node.clear()
        node.update(type="CheckedDataset", dataset=dataset, on_fault=on_fault, trains=trains, masks=masks)
    elif _is_config(node):
        wrap_datasets([node.get("dataset"), node.get("datasets")], on_fault, trains, masks)


@DATASETS.register_module(name="CheckedDataset")
def checked_dataset(
    dataset: dict,
    on_fault: OnFault = "raise",
    trains: bool = True,
    masks: bool = False,
    lazy_init: bool = False,
) -> Dataset:
    """Build ``dataset``; its annotation file in COCO's format is repaired or checked while it is read.

    Args:
        dataset: config; a class that does not read with ``pycocotools`` is built unchanged.
        on_fault: raise for any fault, or repair.
        trains: if false, nothing is repaired: the metric reads the file itself, so faults that would spoil
            it raise.
        masks: whether masks are used.
        lazy_init: do not read or check the file yet; mmdet does this when it needs only class names.

    Raises:
        BadInputError: an annotation file that cannot be used, or has faults that must raise.
    """
    if lazy_init:
        return DATASETS.build({**dataset, "lazy_init": True})
    with DATASETS.switch_scope_and_registry(None) as registry:
        kind = dataset["type"]
        api = getattr(registry.get(kind) if isinstance(kind, str) else kind, "COCOAPI", None)
    unchecked = f"annotations of {dataset['type']} are not checked: only files in COCO's format are"
    if not _reads_by_pycocotools(api):
        _warn(unchecked)
        return DATASETS.build(dataset)
    built = DATASETS.build({**dataset, "lazy_init": True})
    folder = None if dataset.get("backend_args") else (built.data_prefix or {}).get("img")
    judge = partial(_judge, str(built.ann_file), folder, on_fault, trains, masks)
    built.COCOAPI = _checking(api, str(built.ann_file), judge)
    built.full_init()
    if not built.COCOAPI.used:  # LVIS inherits it but reads in its own way
        _warn(unchecked)
    del built.COCOAPI  # a local class cannot be sent to a worker
    return built


def _reads_by_pycocotools(api: type | None) -> bool:
    """Whether ``api`` indexes like pycocotools; panoptic files and videos have other indices and entries."""
    index = getattr(api, "createIndex", None)
    return index is not None and index.__module__ == "pycocotools.coco"


def _checking(api: type, path: str, judge: Callable[[Any], dict]) -> type:
    """Subclass of ``api`` that judges the content of the file between reading and indexing."""

    class Checking(api):
        used = False

        def __init__(self, annotation_file: str) -> None:
            try:
                super().__init__(annotation_file)
            except BadInputError:
                raise
            except (ValueError, AssertionError) as error:  # not JSON, or not a table
                raise BadInputError(f"cannot read annotations from {path}: {error}") from None

        def createIndex(self) -> None:
            Checking.used = True
            self.dataset = judge(self.dataset)
            super().createIndex()

    return Checking


def _judge(path: str, folder: str | None, on_fault: OnFault, trains: bool, masks: bool, content: Any) -> dict:
    """The content to continue with."""
    if not trains and not content.get("annotations"):
        return content  # images alone, to be predicted
    try:
        repaired, faults = repair(content, masks, partial(_size_of, folder), _with_progress(path))
    except AnnotationFileError as error:
        raise BadInputError(f"{path}: {error}") from None
    if trains and on_fault == "skip":
        for fault in faults:
            _warn(f"{path}: {fault}")
        return repaired
    counted = faults if trains else [fault for fault in faults if KINDS[fault.kind].breaks_evaluation]
    if counted:
        raise BadInputError(f"{path}: {'; '.join(_without_remedy(fault) for fault in counted)}")
    return content


def _without_remedy(fault: Fault) -> str:
    return str(fault).rpartition("; ")[0]


def _size_of(folder: str | None, file_name: str) -> tuple[int, int] | None:
    """Size of an image on disk, as it is read; ``None`` if it cannot be read."""
    try:
        return size_on_disk(Path(folder, file_name)) if folder is not None else None
    except (OSError, ValueError, SyntaxError):
        return None


def _with_progress(path: str) -> Callable[[list], Iterable]:
    return lambda entries: tqdm(
        entries, f"checking {path}", delay=3, leave=False, disable=dist.get_rank() != 0 or None
    )


def _warn(line: str) -> None:
    print_log(line, logger="current", level=logging.WARNING)


# ---- what the workers found


@HOOKS.register_module()
class BadInputHook(Hook):
    """Warn once about every file that training left out, and report how many there were.

    Faults come with the samples, so every batch is inspected as it enters the model, also within an
    accumulated step. Several processes exchange their findings at the interval.

    Args:
        interval: steps between two exchanges among several processes.
        named: number of files that get their own line; the rest is counted and listed in ``bad_input.txt``.
    """

    def __init__(self, interval: int = 50, named: int = 20) -> None:
        self.interval = interval
        self.named = named
        self.new: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.logged = 0
        self.handle = None

    def before_train(self, runner: Runner) -> None:
        """Start to inspect the batches."""
        model = unwrapped(runner.model)
        self.handle = model.data_preprocessor.register_forward_pre_hook(self._look)

    def _look(self, module: object, args: tuple) -> None:
        for sample in samples_of(args[0]):
            for path, message in sample.metainfo.get(FIELD, ()):
                if path not in self.known:
                    self.new.setdefault(path, message)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Warn about new files."""
        if runner.world_size == 1 or self.every_n_train_iters(runner, self.interval):
            self.warn(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Report how many there were, if there are more than last time."""
        self.warn(runner)
        if len(self.known) == self.logged or runner.rank != 0:
            return
        self.logged = len(self.known)
        write_text(Path(runner.work_dir, "bad_input.txt"), "\n".join(sorted(self.known.values())) + "\n")
        runner.logger.warning(
            f"{self.logged} images could not be used and were replaced by others: first "
            f"{next(iter(self.known.values()))}; all of them: {runner.work_dir}/bad_input.txt"
        )

    def after_train(self, runner: Runner) -> None:
        """Stop inspecting the batches."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

    def warn(self, runner: Runner) -> None:
        """Log one line per file of all processes, up to ``named`` lines."""
        found = dist.all_gather_object(self.new) if runner.world_size > 1 else [self.new]
        self.new = {}
        for path, message in (item for part in found for item in part.items()):
            if path in self.known:
                continue
            self.known[path] = message
            if len(self.known) <= self.named:
                runner.logger.warning(f"bad input, another image takes its place: {message}")
            if len(self.known) == self.named:
                runner.logger.warning("further bad input is counted but no longer logged here")
