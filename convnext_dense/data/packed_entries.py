"""The entries of a dataset in one array of bytes: a file that processes map shares one copy among them.

COCO's training set is 3.5 GiB of Python objects and 0.5 GiB packed. Each entry is pickled by itself and holds
plain values alone: numbers, texts, lists and dictionaries. Anything else is refused when a file is written,
and again when it is read, so that no code runs from a file.
"""

import collections
import io
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from convnext_dense.errors import DataError
from convnext_dense.support.files import replacing

ALLOWED = {("collections", "defaultdict"): collections.defaultdict, ("builtins", "list"): list}
"""Beside plain values: pycocotools indexes images by class in a ``defaultdict(list)``."""


class NotPlainError(DataError):
    """A value that is not packed, because its class could hold code."""


class PackedFileError(DataError):
    """A file that does not hold packed entries, or holds others."""


class _Packer(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        """Is asked for everything but plain values."""
        if type(value) is collections.defaultdict or any(value is allowed for allowed in ALLOWED.values()):
            return NotImplemented  # pickle as usual
        raise NotPlainError(f"a {type(value).__module__}.{type(value).__name__}")


class _Unpacker(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        """Return one of the classes that files may name."""
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise PackedFileError(f"names {module}.{name}; only plain values are read")


def pack(value: object) -> bytes:
    """One value as bytes.

    Raises:
        NotPlainError: it is not made of plain values.
    """
    buffer = io.BytesIO()
    _Packer(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def unpack(content: bytes) -> Any:
    """The value that :func:`pack` was given.

    Raises:
        PackedFileError: anything but plain values.
    """
    return _Unpacker(io.BytesIO(content)).load()


class Entry(dict):
    """An entry just unpacked, which is nobody else's.

    mmengine takes a deep copy of each entry of a list before it changes it, which would cost more than the
    unpacking: here the copy is the same entries as a plain dictionary.
    """

    def __deepcopy__(self, memo: dict) -> dict:
        return dict(self)


class PackedEntries(Sequence):
    """Dictionaries that are unpacked when they are asked for.

    Args:
        content: (bytes,) uint8.
        spans: (entries, 2) int64, start and end of each in ``content``.
        path: the file that ``content`` is a map of; another process, to which the entries are sent, maps it
            itself.
    """

    def __init__(self, content: np.ndarray, spans: np.ndarray, path: Path | None = None) -> None:
        self.content, self.spans, self.path = content, spans, path

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: Any) -> Any:
        """An :class:`Entry`; for a slice, :class:`PackedEntries` of the same content."""
        if isinstance(index, slice):
            return PackedEntries(self.content, self.spans[index], self.path)
        start, end = self.spans[index]
        return Entry(unpack(self.content[start:end].tobytes()))

    def __reduce__(self) -> tuple:
        if self.path is None:
            return PackedEntries, (self.content, self.spans)
        return _mapped, (self.path, self.spans)


def _mapped(path: Path, spans: np.ndarray) -> PackedEntries:
    with safe_open(path, framework="pt") as file:
        return PackedEntries(file.get_tensor("content").numpy(), spans, path)


def pack_entries(entries: Iterable[dict]) -> PackedEntries:
    """Pack entries one after the other.

    Raises:
        NotPlainError: an entry that is not made of plain values.
    """
    content, ends = bytearray(), [0]
    for entry in entries:
        content += pack(entry)
        ends.append(len(content))
    edges = np.asarray(ends, dtype=np.int64)
    return PackedEntries(np.frombuffer(content, dtype=np.uint8), np.stack([edges[:-1], edges[1:]], axis=1))


def write_entries(path: Path, entries: PackedEntries, rest: object, key: str) -> None:
    """Write entries to a file, which is complete or not there.

    Args:
        path: a safetensors file.
        entries: as :func:`pack_entries` returns them.
        rest: plain values that belong to them.
        key: of what the entries were made.

    Raises:
        NotPlainError: ``rest`` is not made of plain values.
        OSError, safetensors.SafetensorError: the file cannot be written.
    """
    tensors = {
        "content": torch.from_numpy(entries.content),
        "spans": torch.from_numpy(entries.spans),
        "rest": torch.frombuffer(bytearray(pack(rest)), dtype=torch.uint8),
    }
    with replacing(path, sync=True) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(tensors, partial, metadata={"key": key})
        partial.chmod(mode)  # safetensors writes a new file, which nobody else may read


def read_entries(path: Path, key: str) -> tuple[PackedEntries, Any]:
    """Map a file that :func:`write_entries` wrote; return its entries and the rest.

    Raises:
        PackedFileError: another kind of file, a damaged one, or one with another key.
        OSError: the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                raise PackedFileError("was made of other annotations or by other code")
            content, spans = file.get_tensor("content").numpy(), file.get_tensor("spans").numpy()
            rest = unpack(file.get_tensor("rest").numpy().tobytes())
    except (OSError, PackedFileError):
        raise
    except Exception as error:  # damaged bytes can raise anything while they are unpacked
        raise PackedFileError(f"damaged ({error})") from None
    if spans.ndim != 2 or (len(spans) and (spans.min() < 0 or spans.max() > len(content))):
        raise PackedFileError("names entries outside its content")
    return PackedEntries(content, spans, path), rest
