"""Atomic file writes: readers see the old content or all of the new. Names of outputs that do not clash."""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; it replaces ``path`` if the block succeeds.

    With ``sync`` it is on disk before that: a power loss leaves the complete old or new file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        if sync:
            _wait_for_disk(partial)
        os.replace(partial, path)
        if sync:
            _wait_for_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _wait_for_disk(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders, and writes names at once
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write ``path`` so that an interruption leaves the old file or none, never a part."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: object) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")


# ---- names of outputs


def output_names(inputs: Iterable[str | Path], endings: Sequence[str] = ("",)) -> dict[str, str]:
    """A name for the outputs of each input file, so that no two of them clash.

    It is the path below the folder that all inputs share, without the suffix: ``monday/0001`` and
    ``tuesday/0001``, or ``0001`` where all are in one folder. Where that is not enough, as for ``a.jpg``
    beside ``a.png``, the suffix stays.

    Args:
        inputs: paths of files; each counts once.
        endings: what is appended to a name for each of its outputs.

    Returns:
        absolute path of an input -> name of its outputs.
    """
    paths = list(dict.fromkeys(os.path.abspath(path) for path in inputs))
    if not paths:
        return {}
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    full = [Path(path).relative_to(shared).as_posix() for path in paths]
    short = [name.removesuffix(Path(name).suffix) for name in full]
    clashes = _repeated(short, endings)
    names = [long if name in clashes else name for name, long in zip(short, full, strict=True)]
    return dict(zip(paths, full if _repeated(names, endings) else names, strict=True))


def _repeated(names: Sequence[str], endings: Sequence[str]) -> set[str]:
    """The names with an output that another name has, too."""
    counts = Counter(name + ending for name in names for ending in endings)
    return {name for name in names if any(counts[name + ending] > 1 for ending in endings)}


def free_path(path: Path) -> Path:
    """``path``, or the first of ``path_2``, ``path_3``, ... that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}_{number}")
    return free
