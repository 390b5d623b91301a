"""Annotations that were read and checked once, kept in a file that later starts and all processes map.

A file of COCO's training set takes half a minute to read and 4 GiB in each process. The first process reads
it and writes what the dataset keeps of it; others wait, and map that file. Its name is a checksum of all that
decides its content: the annotation file, the dataset's config, the code of this package and the versions of
the toolboxes. Nothing is written for datasets whose classes are not the toolboxes' own: these may read more.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import print_log
from safetensors import SafetensorError
from torch.utils.data import Dataset

import convnext_dense
from convnext_dense.data.packed_entries import (
    NotPlainError,
    PackedEntries,
    PackedFileError,
    pack_entries,
    read_entries,
    write_entries,
)
from convnext_dense.errors import reason
from convnext_dense.mm.datasets.transforms import BadInputError
from convnext_dense.results.records import content_hash, file_hash
from convnext_dense.support.locks import locked
from convnext_dense.support.sources import code_checksum, imported_modules
from convnext_dense.toolboxes import read_toolboxes, toolbox_versions

LEAST_BYTES = 20 << 20
"""Smaller annotation files are read in less than two seconds."""
SUFFIX = ".safetensors"
_TOOLBOXES = ("mmdet", "mmengine", "torch", "typing", "builtins")
_READER = "convnext_dense.mm.datasets.checked_dataset"
_SET_APART = ("data_list", "COCOAPI", "_fully_initialized")  # attributes of a dataset that are no result


def cache_folder(given: str | None, work_dir: str) -> str | None:
    """Folder of such files: the one given, none for ``"none"``, or one beside the work folder."""
    return None if given == "none" else given or str(Path(work_dir).absolute().parent / "annotation_cache")


def cached_path(dataset: Dataset, folder: str, settings: Mapping) -> Path | None:
    """File for the annotations of a dataset, ``None`` if they are read anew at each start.

    Args:
        dataset: built, before it reads its file.
        folder: where such files are.
        settings: plain values that decide what is read: the dataset's config and the checks'.
    """
    source = Path(str(dataset.ann_file))
    own = all(base.__module__.partition(".")[0] in _TOOLBOXES for base in type(dataset).__mro__)
    if not (own and dataset.serialize_data and source.is_file()):
        return None
    if source.stat().st_size < LEAST_BYTES or getattr(dataset, "proposal_file", None):
        return None
    decides = [file_hash(source), settings, _deciding_code(), toolbox_versions(read_toolboxes())]
    key = content_hash(decides)
    return Path(folder, f"{source.stem}-{key}{SUFFIX}").absolute()


@cache
def _deciding_code() -> dict[str, str]:
    """Module -> checksum of the code that reads, checks and packs annotations."""
    modules = imported_modules(Path(convnext_dense.__file__).parent, [_READER, __name__])
    return {name: code_checksum(path.read_text("utf-8")) for name, path in modules.items()}


class Reading(NamedTuple):
    """What reading an annotation file found.

    Attributes:
        lines: the faults, to be logged.
        lasting: whether it depends on the annotation file alone, and not on images that may change.
    """

    lines: list[str]
    lasting: bool


def fill(dataset: Dataset, path: Path, read: Callable[[], Reading]) -> list[str]:
    """Give ``dataset`` its annotations from a file, which is written first where there is none.

    Args:
        dataset: built, before it reads its annotation file.
        path: see :func:`cached_path`.
        read: lets the dataset read its annotation file.

    Returns:
        the faults that were found, now or when the file was written.

    Raises:
        BadInputError: the config keeps none of the images.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log(f"{path.parent}: no cache of annotations ({error.strerror})", logging.WARNING)
        return read().lines
    found = _mapped(path)
    if found is None:
        with locked(path) as held:
            found = _mapped(path) if held else None  # another process may have written it meanwhile
            if found is None:
                return _read_and_write(dataset, path, read)
    entries, rest = found
    vars(dataset).update(rest["attributes"])
    _use(dataset, entries)
    _log(f"{dataset.ann_file}: annotations as an earlier start read and checked them, from {path}")
    return rest["lines"]


def _mapped(path: Path) -> tuple[PackedEntries, dict] | None:
    if not path.is_file():
        return None
    try:
        return read_entries(path, path.stem)
    except (PackedFileError, OSError) as error:
        _log(f"{path}: {error}; annotations are read again", logging.WARNING)
        return None


def _read_and_write(dataset: Dataset, path: Path, read: Callable[[], Reading]) -> list[str]:
    """Let the dataset read its file; write what it keeps, and let it use what was written."""
    before = dict(vars(dataset))
    dataset.serialize_data = False
    reading = read()
    if not dataset.data_list:
        raise BadInputError(f"{dataset.ann_file}: no image is left; check filter_cfg and the classes")
    attributes = {
        name: value
        for name, value in vars(dataset).items()
        if name not in _SET_APART and before.get(name) is not value
    }
    try:
        entries = pack_entries(dataset.data_list)
        if reading.lasting:
            write_entries(path, entries, dict(attributes=attributes, lines=reading.lines), path.stem)
            entries, rest = read_entries(path, path.stem)
            # their numbers lie scattered among those of the file, and would keep all that memory
            vars(dataset).update(rest["attributes"])
            _log(f"{dataset.ann_file}: annotations are kept for later starts in {path}")
    except NotPlainError as error:
        _log(f"{dataset.ann_file}: no cache of annotations, which hold {error}")
        dataset.serialize_data = True
        dataset.data_bytes, dataset.data_address = dataset._serialize_data()  # noqa: SLF001  as in full_init
        return reading.lines
    except (OSError, SafetensorError, PackedFileError) as error:
        _log(f"{path}: no cache of annotations ({reason(error)})", logging.WARNING)
    _use(dataset, entries)
    return reading.lines


def _use(dataset: Dataset, entries: PackedEntries) -> None:
    """Let the dataset take its entries from ``entries``."""
    dataset.serialize_data = False  # it is a list that unpacks itself
    dataset.data_list = entries
    dataset._fully_initialized = True  # noqa: SLF001  mmengine has no public name for it


def _log(line: str, level: int = logging.INFO) -> None:
    print_log(line, logger="current", level=level)
