"""Read files of ``torch.save`` without running any code in them.

Checks, in this order: the archive (every record has its checksum and is not
compressed; what torch read is checked again), the names (a pickle that names anything outside the
lists below is refused by that name before a byte of it is executed), and torch's
own restricted unpickler. Objects that training scripts put beside the weights come
back as :class:`Inert`; their classes are never imported or built.
"""

import io
import pickletools
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch

from convnext_dense.errors import CheckpointError

# protocol 2 and the magic number at the start of a file of torch before 1.6
LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PICKLES = 5  # magic number, version, machine, content, keys of the storages that follow


class Inert:
    """Placeholder for an object that a state dict does not need: takes anything, keeps nothing."""

    def __new__(cls, *_: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _plain_dict(*_: object) -> dict:
    return {}


def _plain_list(*_: object) -> list:
    return []


_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_IGNORED = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"builtins.{kind}" for kind in ("int", "float", "str", "tuple", "frozenset")),
    # mmengine's log buffers, which pickle their methods as getattr(HistoryBuffer, "mean")
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "numpy.ndarray",
    "numpy.dtype",
    # numpy 2 moved `core` to `_core`, Python 3.13 the paths to `_local`
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
)
# Objects that may be stored with weights, and what is read in their place.
_STAND_INS: list[tuple[Callable, str]] = [
    *((_plain_dict, name) for name in ("builtins.dict", "collections.defaultdict")),
    *((_plain_list, name) for name in ("builtins.list", "collections.deque")),
    *((Inert, name) for name in _IGNORED),
]
# What weights need of all that torch's restricted unpickler builds. It would build
# more, such as tensors of any size that hold no data.
_NEEDED = {
    "collections.OrderedDict",
    "collections.Counter",
    "builtins.set",
    "builtins.complex",
    "_codecs.encode",
    "torch.Size",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.storage.UntypedStorage",
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")),
    *(f"torch._utils._rebuild_{name}" for name in ("parameter", "parameter_with_state")),
    *(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)),
    *(
        f"torch.{device}{kind}Storage"
        for device in ("", "cuda.")
        for kind in (
            *("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"),
            *("ComplexFloat", "ComplexDouble", "Untyped"),
        )
    ),
}
_FOLDER = 0x10  # attribute of a record that is a folder
_KINDS = {
    "torch._utils._rebuild_sparse_tensor": "sparse tensors",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse tensors",
    "torch._utils._rebuild_qtensor": "quantised tensors",
    "torch._utils._rebuild_nested_tensor": "nested tensors",
    "torch._utils._rebuild_meta_tensor_no_storage": "tensors without values (device meta)",
    "torch._tensor._rebuild_from_type_v2": "tensors of a custom class",
}
_ALLOWED = _NEEDED | {name for _, name in _STAND_INS}
# names of Python 2, which `torch.save` writes at protocol 2
_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def read_zip(path: Path) -> object:
    """Content of a file of torch >= 1.6, a zip archive.

    Raises:
        CheckpointError: damaged, not such an archive, or refused.
    """
    sums = check_archive(path)
    content = _load(path)
    check_loaded(content, sums)
    return content


def check_archive(path: Path) -> set[tuple[int, int]]:
    """Check every record and every name in the pickle, before torch reads the file.

    Returns:
        (size in bytes, checksum) of the records; empty where torch will swap bytes.

    Raises:
        CheckpointError: damaged, not an archive of ``torch.save``, or refused.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickle_name = _check_records(archive)
            check_names(io.BytesIO(archive.read(pickle_name)))
            orders = [name for name in archive.namelist() if name.endswith("/byteorder")]
            if orders and archive.read(orders[0]) != sys.byteorder.encode():
                return set()
            return {(record.file_size, record.CRC) for record in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"is truncated or damaged ({error})") from None


def check_loaded(content: object, sums: set[tuple[int, int]]) -> None:
    """Compare the tensors that torch read with the records' checksums, which torch does not check.

    Torch leaves memory uninitialised where one bit marks a record as a folder, and
    versions without a check of sizes read beyond a record.

    Raises:
        CheckpointError: the bytes of a tensor match no record.
    """
    seen, pending = set(), [content] if sums else []
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            value = value.untyped_storage()
            if value.nbytes() == 0 or value.data_ptr() in seen:
                continue
            seen.add(value.data_ptr())
            stored = torch.empty(0, dtype=torch.uint8).set_(value).numpy()
            if (stored.nbytes, zlib.crc32(stored.data)) not in sums:
                raise CheckpointError("is damaged: torch reads a tensor that differs from the saved one")
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))  # a pickle may contain itself
            pending.extend(value.values() if isinstance(value, dict) else value)


def read_legacy(path: Path) -> object:
    """Content of a file of torch < 1.6: pickles, then the raw storages.

    Raises:
        CheckpointError: damaged or refused.
    """
    with open(path, "rb") as file:
        for _ in range(_LEGACY_PICKLES):
            check_names(file)
    return _load(path)


def check_names(file: BinaryIO) -> None:
    """Walk one pickle without executing it, up to its end.

    Raises:
        CheckpointError: it names a class or function outside the lists, or is damaged.
    """
    strings: list[str] = []
    protocol: int | None = 2
    try:
        for opcode, value, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                _check_name(*str(value).split(" ", 1))
            elif opcode.name == "STACK_GLOBAL":
                _check_name(*strings[-2:])
            elif opcode.name.startswith("EXT"):
                raise CheckpointError(
                    f"is refused: it would run entry {value} of Python's extension registry"
                )
            elif opcode.name == "PROTO":
                protocol = value
            elif isinstance(value, str):
                strings = [*strings[-1:], value]
    except (ValueError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"is truncated or damaged ({str(error) or type(error).__name__})") from None
    if protocol != 2:
        raise CheckpointError(f"uses pickle protocol {protocol}; torch reads 2, the default of torch.save")


def _check_name(module: str, name: str) -> None:
    full = f"{_PYTHON2.get(module, module)}.{name}"
    if full in _KINDS:
        raise CheckpointError(f"holds {_KINDS[full]}; only dense tensors of numbers are weights")
    if full not in _ALLOWED:
        raise CheckpointError(
            f"is refused: it would run {full!r:.120}; ask its author for the tensors alone (a state dict)"
        )


def _check_records(archive: zipfile.ZipFile) -> str:
    """Name of the pickle record, after every record has been read and its checksum compared."""
    records = archive.infolist()
    names = [record.filename for record in records]
    if len(set(names)) < len(names):
        raise CheckpointError("is damaged: two records of the same name")
    inner = {PurePosixPath(name).parts[1:2] for name in names}
    if ("constants.pkl",) in inner or ("code",) in inner:
        raise CheckpointError("is a TorchScript archive, which is code; save its state_dict() instead")
    pickles = [name for name in names if PurePosixPath(name).parts[1:] == ("data.pkl",)]
    if len(pickles) != 1:
        raise CheckpointError("is a zip archive without the data.pkl of torch.save, or damaged")
    for record in records:
        _check_record(archive, record)
    return pickles[0]


def _check_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
        raise CheckpointError(f"is refused: record {record.filename} is compressed, which torch never does")
    if record.is_dir() or record.external_attr & _FOLDER:
        raise CheckpointError(f"is damaged: record {record.filename} is marked as a folder")
    try:
        with archive.open(record) as file:
            if file.name.endswith("/byteorder") and file.read(8) not in (b"little", b"big"):
                raise CheckpointError("is of an unknown byte order")
            while file.read(1 << 20):
                pass
    except zipfile.BadZipFile as error:
        what = "checksum" if "CRC" in str(error) else "header"
        raise CheckpointError(f"is damaged: {what} of {record.filename} differs") from None
    except EOFError:
        raise CheckpointError(f"is truncated: {record.filename} is cut") from None


def _load(path: Path) -> object:
    # by file object: by name, torch would read a zip called *.safetensors as safetensors
    with torch.serialization.safe_globals([*_STAND_INS]), open(path, "rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)
