"""Files that are whole or not there."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path, sync: bool = False) -> Iterator[Path]:
    """A temporary neighbour to write to; it takes the place of ``path`` once the block ends well.

    With ``sync`` the disk has all of it before: a power loss leaves the old or the new file, whole.
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
    """Of a folder, its names."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders, and writes names at once
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write ``path`` so that an interruption leaves the old file or none, never half of one."""
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: str | Path, content: object) -> None:
    """As :func:`write_text`, with ``content`` as indented JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")
