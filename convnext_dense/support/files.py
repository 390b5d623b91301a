"""Atomic file writes: readers see the old content or all of the new."""

import contextlib
import json
import os
from collections.abc import Iterator
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
        partial.write_text(text)


def write_json(path: str | Path, content: object) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")
