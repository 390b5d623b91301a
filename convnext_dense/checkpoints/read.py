"""Read the tensors of a checkpoint file safely and exactly, or say in one line what the file is.

The format follows from the first bytes, not from the name. Files of
``torch.save`` are opened in :mod:`convnext_dense.checkpoints.safe_pickle`.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from convnext_dense.checkpoints import safe_pickle
from convnext_dense.errors import CheckpointError, reason
from convnext_dense.support.optional_packages import optional

# Keys under which training scripts put the state dict, in search order.
PLAIN = ("model", "state_dict", "module", "net", "teacher")
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict")
COUNTERS = ("steps", "n_averaged")  # counters of averaged models, not weights
INDEX_SUFFIX = ".index.json"
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_DTYPES = {
    getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
        *("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool"),
    )
    if hasattr(torch, name)
}
# (position, first bytes, what it is)
_FOREIGN = (
    (0, b"version https://git-lfs", "a git-lfs pointer, not the file itself; run `git lfs pull` beside it"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it first"),
    (0, b"BZh", "a bzip2 archive; unpack it first"),
    (0, b"\xfd7zXZ", "an xz archive; unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (0, b"\x89HDF", "an HDF5 file (Keras or TensorFlow), not a PyTorch checkpoint"),
    (4, b"TFL3", "a TensorFlow Lite model, not a PyTorch checkpoint"),
    (0, b"\x08\x01\x12", "a TensorFlow SavedModel, not a PyTorch checkpoint"),
    (0, b"GGUF", "a GGUF file, not a PyTorch checkpoint"),
    (0, b"\x93NUMPY", "a numpy array, not a PyTorch checkpoint"),
    (0, b"PK\x05\x06", "an empty zip archive"),
)


def read_state_dict(path: str | Path, ema: bool = False) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name, on the CPU; wrappers such as ``model`` are opened.

    Takes files of ``torch.save`` (zip and legacy), safetensors, the index of a
    sharded checkpoint, and folders that hold one of these. No code of the file
    runs. Prefixes of data parallelism and of ``torch.compile`` are removed.

    Args:
        path: file or folder.
        ema: whether to take the averaged weights of a training checkpoint instead of the plain ones.

    Raises:
        CheckpointError: not a checkpoint, damaged, or holding anything but dense finite tensors.
    """
    return read_with_meta(path, ema)[0]


def read_with_meta(path: str | Path, ema: bool = False) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors of :func:`read_state_dict` and ``meta`` of OpenMMLab's checkpoints, else ``{}``.

    Raises:
        CheckpointError: as :func:`read_state_dict`.
    """
    path = checkpoint_file(Path(path))
    with _one_line(path):
        content = _content(path)
        state = clean_keys(open_wrappers(content, ema))
        _check_tensors(state)
    tensors = {key: value.detach().requires_grad_(False) for key, value in state.items()}
    return tensors, dict(_mapping(content, "meta"))


def checkpoint_file(path: Path) -> Path:
    """``path``, or the checkpoint in it when it is a folder.

    Raises:
        CheckpointError: no checkpoint, or more than one candidate.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint at {path}")
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if not files:
        wanted = ", ".join(f"*{suffix}" for suffix in _SUFFIXES)
        raise CheckpointError(f"no checkpoint in the folder {path}: it has none of {wanted}")
    if len(files) > 1:
        names = [file.name for file in files[:3]]
        raise CheckpointError(
            f"{len(files)} checkpoints in the folder {path}, such as {names}; name one file"
        )
    return files[0]


def open_wrappers(content: object, ema: bool = False) -> Mapping:
    """The state dict inside what a training script saved: ``{"model": {...}, "epoch": 3}`` -> ``{...}``.

    Raises:
        CheckpointError: no tensors, or ``ema`` without averaged weights.
    """
    # mmengine swaps the two when it saves: its `state_dict` is already the average
    swapped = isinstance(content, Mapping) and "steps" in _mapping(content, "ema_state_dict")
    if ema and not swapped:
        content = next((found for key in AVERAGED if (found := _mapping(content, key))), None)
        if content is None:
            raise CheckpointError(f"holds no averaged weights (none of {', '.join(AVERAGED)})")
    for _ in range(4):  # wrappers inside wrappers
        inner = next((found for key in (*PLAIN, *AVERAGED) if (found := _mapping(content, key))), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        held = f": its keys are {list(content)[:5]!r:.200}" if isinstance(content, Mapping) else ""
        raise CheckpointError(f"holds no state dict{held}")
    return content


def clean_keys(content: Mapping) -> dict[str, Tensor]:
    """Tensors only, without the prefixes ``module.`` (data parallelism) and ``_orig_mod.`` (compile).

    Raises:
        CheckpointError: a key is not a string, or two keys are the same without prefix.
    """
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if not isinstance(value, Tensor):
            continue
        if not isinstance(key, str):
            raise CheckpointError(f"holds a tensor under the key {key!r:.60}, which is not a name")
        name = re.sub(r"^(module\.)+", "", key.replace("_orig_mod.", ""))
        if name in COUNTERS:
            continue
        if name in state:
            raise CheckpointError(f"holds {name} twice, with and without a prefix such as `module.`")
        state[name] = value
    return state


def read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name of the shard, from the index of a sharded checkpoint.

    Raises:
        CheckpointError: no such index, or a shard outside the index's folder.
    """
    with _one_line(path):
        try:
            weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            shards = set(weight_map.values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"is not an index of a sharded checkpoint ({reason(error)})") from None
        for shard in shards:
            if not isinstance(shard, str) or not re.fullmatch(r"[^/\\:\0]+", shard) or shard in (".", ".."):
                raise CheckpointError(f"is not an index of a sharded checkpoint: shard {shard!r:.60}")
        if not shards:
            raise CheckpointError("is an index without shards")
        return weight_map


# ---- by first bytes


def _content(path: Path) -> object:
    """The content of the file: tensors and plain containers, perhaps wrapped."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if head.startswith(b"PK\x03\x04"):
        return safe_pickle.read_zip(path)
    if head.startswith(safe_pickle.LEGACY_START):
        return safe_pickle.read_legacy(path)
    if _is_safetensors(head):
        library = optional("safetensors.torch", "is a safetensors file and")
        return library.load_file(path, device="cpu")
    if head.lstrip()[:1] == b"{":
        return _read_shards(path)
    raise CheckpointError(what_it_is(head))


def _is_safetensors(head: bytes) -> bool:
    """A length of 8 bytes, then the header, a JSON object of that length."""
    return head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000


def what_it_is(head: bytes) -> str:
    """A short description of a file that is not a checkpoint, from its first bytes."""
    if not head:
        return "is empty (0 bytes)"
    for position, magic, words in _FOREIGN:
        if head[position : position + len(magic)] == magic:
            return f"is {words}"
    if looks_like_markup(head):
        return "is a web page or XML, not weights; the download went wrong"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "is a pickle that torch.save did not write; pickles run code, so it is refused"
    if re.match(rb"\x08[\x03-\x0f][\x10-\x42]", head):
        return "is an ONNX model, not a PyTorch checkpoint"
    return f"is of an unknown format (first bytes {head[:8].hex(' ')})"


def looks_like_markup(head: bytes) -> bool:
    """Whether these first bytes are those of HTML or XML."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def _read_shards(path: Path) -> dict[str, Tensor]:
    weight_map = read_index(path)
    state: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        file = path.parent / shard
        if not file.is_file():
            raise CheckpointError(f"is not complete: shard {shard} is missing beside it")
        with _one_line(file):
            content = _content(file)
        wanted = {key for key, name in weight_map.items() if name == shard}
        tensors = content if isinstance(content, Mapping) else {}
        held = set(tensors)
        if wanted != held:
            key = sorted(map(str, wanted ^ held))[0]
            where = "has" if key in held else "lacks"
            raise CheckpointError(f"does not match: shard {shard} {where} {key}")
        state.update(tensors)
    return state


# ---- checks of what was read


def _mapping(content: object, key: str) -> Mapping:
    """``content[key]`` where both are mappings, else an empty mapping."""
    inner = content.get(key) if isinstance(content, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _check_tensors(state: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        kind = _unfit(value)
        if kind:
            raise CheckpointError(f"holds {key} as {kind}; only dense tensors of numbers are weights")
    broken = [key for key, value in state.items() if not _finite(value)]
    if broken:
        count = f"{len(broken)} tensors" if len(broken) > 1 else "a tensor"
        raise CheckpointError(f"holds NaN or infinity in {count}, first {broken[:3]}")


def _unfit(value: Tensor) -> str:
    """The kind of tensor if it cannot be weights, else an empty string."""
    if value.is_quantized:
        return "a quantised tensor"
    if value.layout != torch.strided or value.is_nested:
        return f"a sparse or nested tensor ({value.layout})"
    if value.device.type != "cpu":
        return f"a tensor on the device {value.device.type}, without values"
    if value.dtype not in _DTYPES:
        return f"a tensor of {value.dtype}"
    if _distinct(value).numel() * value.element_size() > value.untyped_storage().nbytes():
        return "a tensor whose elements overlap in memory"
    return ""


def _distinct(value: Tensor) -> Tensor:
    """The tensor without its expanded dimensions (stride 0): a small file may claim a huge one."""
    for dim, stride in enumerate(value.stride()):
        if stride == 0 and value.shape[dim] > 1:
            value = value.narrow(dim, 0, 1)
    return value


def _finite(value: Tensor) -> bool:
    if not value.dtype.is_floating_point:
        return True
    value = _distinct(value)
    if value.element_size() == 1:  # float8 has no isfinite
        value = value.float()
    return bool(torch.isfinite(value).all())


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn every failure into one :class:`CheckpointError` that names the file once."""
    try:
        yield
    except CheckpointError as error:
        if error.names_file:
            raise
        named = CheckpointError(f"{path} {error}".replace("\n", " "))
        named.names_file = True
        raise named from None
    except Exception as error:  # a damaged file makes readers raise many types
        named = CheckpointError(f"{path} cannot be read, perhaps damaged ({reason(error)})")
        named.names_file = True
        raise named from error
