"""Texts and file names as other systems write them: byte-order marks, Windows' separators, accents."""

import codecs
import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from convnext_dense.errors import DataError

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Marks that editors and shells of Windows put before a text -> how Python reads it."""


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, or of one in UTF-16 with a byte-order mark; the mark is left out.

    Raises:
        DataError: another encoding.
        OSError: the file cannot be opened.
    """
    content = Path(path).read_bytes()
    encoding = next((name for mark, name in _BOMS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from None


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: not JSON, or not text in UTF-8.
        OSError: the file cannot be opened.
    """
    return json.loads(read_text(path))


def has_byte_order_mark(path: str | Path) -> bool:
    """Whether a file starts with a mark that the toolboxes do not expect."""
    with open(path, "rb") as file:
        return file.read(3).startswith(tuple(_BOMS))


def spellings(name: str) -> Iterator[str]:
    """Other spellings of a file name: Windows' separators, and accents as one character or as two."""
    seen = {name}
    for slashed in (name, name.replace("\\", "/")):
        composed = (unicodedata.normalize("NFC", slashed), unicodedata.normalize("NFD", slashed))
        for other in (slashed, *composed):
            if other not in seen:
                seen.add(other)
                yield other


def existing(name: str, exists: Callable[[str], bool]) -> str:
    """The spelling of ``name`` that ``exists``, or ``name`` if none does; plain names are not looked up."""
    if ("\\" not in name and name.isascii()) or exists(name):
        return name
    return next((other for other in spellings(name) if exists(other)), name)
