"""A data set whose annotation file in COCO's format is repaired, or checked, while it is read."""

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mmengine import dist
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch.utils.data import Dataset
from tqdm import tqdm

from convnext_dense.data.coco_repair import KINDS, AnnotationFileError, Fault, repair
from convnext_dense.data.image_io import size_on_disk
from convnext_dense.mm.datasets.transforms import BadInputError
from convnext_dense.mm.type_names import class_of, type_name

OnFault = Literal["skip", "raise"]


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
        api = getattr(class_of(dataset["type"], registry), "COCOAPI", None)
    unchecked = f"annotations of {type_name(dataset)} are not checked: only files in COCO's format are"
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
    return size_on_disk(Path(folder, file_name)) if folder is not None else None


def _with_progress(path: str) -> Callable[[list], Iterable]:
    """A bar for a check that takes more than three seconds."""
    hidden = True if dist.get_rank() else None  # None: tqdm hides it where there is no terminal
    return lambda entries: tqdm(entries, f"checking {path}", delay=3, leave=False, disable=hidden)


def _warn(line: str) -> None:
    print_log(line, logger="current", level=logging.WARNING)
