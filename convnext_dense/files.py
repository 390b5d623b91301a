"""Files that are whole or not there."""

import json
import os
from pathlib import Path


def write_text(path: str | Path, text: str) -> None:
    """Write ``path`` by way of a temporary neighbour, so that an interruption leaves no half file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def write_json(path: str | Path, content: object) -> None:
    """As :func:`write_text`, with ``content`` as indented JSON."""
    write_text(path, json.dumps(content, indent=1) + "\n")
