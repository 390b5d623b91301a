"""A data set whose annotation file in COCO's format is repaired, or checked, while it is read."""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from mmengine import dist
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch.utils.data import Dataset
from tqdm import tqdm

from convnext_dense.data.coco_repair import KINDS, AnnotationFileError, Fault, Kind, repair
from convnext_dense.data.coco_tidy import tidy
from convnext_dense.data.spellings import has_byte_order_mark, read_text
from convnext_dense.data.views import wh_on_disk
from convnext_dense.mm.datasets.annotation_cache import Reading, cached_path, fill
from convnext_dense.mm.datasets.tidy_files import COCO_BYTES
from convnext_dense.mm.datasets.transforms import BadInputError
from convnext_dense.mm.type_names import class_of, type_name

OnFault = Literal["skip", "raise"]
_ONLY_COCO = "only files in COCO's format are"
FROM_IMAGES = {"spelling", "image size", "image unsized"}
"""Kinds of faults that depend on the image files."""


@DATASETS.register_module(name="CheckedDataset")
def checked_dataset(
    dataset: dict,
    on_fault: OnFault = "raise",
    trains: bool = True,
    masks: bool = False,
    cache: str | None = None,
    lazy_init: bool = False,
) -> Dataset:
    """Build ``dataset``; its annotation file in COCO's format is repaired or checked while it is read.

    Args:
        dataset: config; a class that does not read with ``pycocotools`` is built unchanged.
        on_fault: raise for any fault, or repair.
        trains: if false, nothing is repaired: the metric reads the file itself, so faults that would spoil
            it raise.
        masks: whether masks are used.
        cache: folder of annotations for training that later starts need not read again, see
            :mod:`convnext_dense.mm.datasets.annotation_cache`; ``None``: they are read at each start.
        lazy_init: do not read or check the file yet; mmdet does this when it needs only class names.

    Raises:
        BadInputError: an annotation file that cannot be used, or has faults that must raise.
    """
    if lazy_init:
        return DATASETS.build({**dataset, "lazy_init": True})
    with DATASETS.switch_scope_and_registry(None) as registry:
        api = getattr(class_of(dataset["type"], registry), "COCOAPI", None)
    if not _reads_by_pycocotools(api):
        _warn(f"annotations of {type_name(dataset)} are not checked: {_ONLY_COCO}")
        return DATASETS.build(dataset)
    built = DATASETS.build({**dataset, "lazy_init": True})
    settings = {key: value for key, value in dataset.items() if key != "pipeline"}
    path = cached_path(built, cache, dict(settings, checks=[on_fault, masks])) if trains and cache else None
    folder = None if dataset.get("backend_args") else (built.data_prefix or {}).get("img")
    judge = partial(_judge, str(built.ann_file), folder, on_fault, trains, masks)
    read = partial(_read, built, api, judge)
    for line in read().lines if path is None else fill(built, path, read):
        _warn(line)
    return built


def _read(dataset: Dataset, api: type, judge: Callable[[Any], tuple[dict, list[Fault]]]) -> Reading:
    """Let ``dataset`` read its file by ``api``; ``judge`` sees the content between reading and indexing."""
    path = str(dataset.ann_file)
    dataset.COCOAPI = _checking(api, path, judge)
    dataset.full_init()
    checking = dataset.COCOAPI
    del dataset.COCOAPI  # a local class cannot be sent to a worker
    if not checking.used:  # LVIS inherits it but reads in its own way
        return Reading([f"annotations of {type(dataset).__name__} are not checked: {_ONLY_COCO}"], False)
    lasting = not FROM_IMAGES & {fault.kind for fault in checking.faults}
    return Reading([f"{path}: {fault}" for fault in checking.faults], lasting)


def _reads_by_pycocotools(api: type | None) -> bool:
    """Whether ``api`` indexes like pycocotools; panoptic files and videos have other indices and entries."""
    index = getattr(api, "createIndex", None)
    return index is not None and index.__module__ == "pycocotools.coco"


def _checking(api: type, path: str, judge: Callable[[Any], tuple[dict, list[Fault]]]) -> type:
    """Subclass of ``api`` that judges the content of the file between reading and indexing."""

    class Checking(api):
        used = False
        faults: ClassVar[list[Fault]] = []

        def __init__(self, annotation_file: str) -> None:
            try:
                with _plain(annotation_file) as file:
                    super().__init__(file)
            except BadInputError:
                raise
            except (ValueError, AssertionError) as error:  # not JSON, or not a table
                raise BadInputError(f"cannot read annotations from {path}: {error}") from None

        def createIndex(self) -> None:
            Checking.used = True
            self.dataset, Checking.faults = judge(self.dataset)
            super().createIndex()

    return Checking


@contextmanager
def _plain(path: str) -> Iterator[str]:
    """A file with the content of ``path`` that pycocotools can read: without a byte-order mark."""
    if not has_byte_order_mark(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, Path(path).name)
        copy.write_text(read_text(path), encoding="utf-8")
        yield str(copy)


def _judge(
    path: str, folder: str | None, on_fault: OnFault, trains: bool, masks: bool, content: Any
) -> tuple[dict, list[Fault]]:
    """The content to continue with, and what was repaired in it."""
    wh_of, exists = partial(_size_of, folder), partial(_is_there, folder)
    # an evaluation reads the file itself, but for what means the same: the data set may know better
    tidied = content if trains else tidy(content, wh_of, exists, lambda kind, where: None)
    if not trains and not content.get("annotations"):
        return tidied, []  # images alone, to be predicted
    try:
        repaired, faults = repair(content, masks, wh_of, _with_progress(path), exists)
    except AnnotationFileError as error:
        raise BadInputError(f"{path}: {error}") from None
    if trains and on_fault == "skip":
        counted = []
    elif trains:
        counted = [fault for fault in faults if not KINDS[fault.kind].tidied]  # of those, nothing is lost
    else:
        # for other files, no tidy copy was made for the metric
        local = Path(path).is_file() and Path(path).stat().st_size <= COCO_BYTES
        counted = [fault for fault in faults if _spoils_metric(KINDS[fault.kind], not local)]
    if counted:
        raise BadInputError(f"{path}: {'; '.join(_without_remedy(fault) for fault in counted)}")
    return (repaired, faults) if trains else (tidied, [])


def _spoils_metric(kind: Kind, as_written: bool) -> bool:
    """Whether the metric would fail; ``as_written``: it reads the file as the user wrote it."""
    return kind.breaks_evaluation and (as_written or not kind.tidied)


def _without_remedy(fault: Fault) -> str:
    return str(fault).rpartition("; ")[0]


def _size_of(folder: str | None, file_name: str) -> tuple[int, int] | None:
    """Size of an image on disk, as it is read; ``None`` if it cannot be read."""
    return wh_on_disk(Path(folder, file_name)) if folder is not None else None


def _is_there(folder: str | None, file_name: str) -> bool:
    """Whether an image is on disk; images of a storage backend are believed to be there."""
    return folder is None or Path(folder, file_name).is_file()


def _with_progress(path: str) -> Callable[[list], Iterable]:
    """A bar for a check that takes more than three seconds."""
    hidden = True if dist.get_rank() else None  # None: tqdm hides it where there is no terminal
    return lambda entries: tqdm(entries, f"checking {path}", delay=3, leave=False, disable=hidden)


def _warn(line: str) -> None:
    print_log(line, logger="current", level=logging.WARNING)
