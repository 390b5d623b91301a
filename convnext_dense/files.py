"""Files that are whole or not there."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary neighbour to write to; it takes the place of ``path`` once the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``path`` so that an interruption leaves the old file or none, never half of one."""
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: str | Path, content: object) -> None:
    """As :func:`write_text`, with ``content`` as indented JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")
