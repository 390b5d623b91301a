"""Read a checkpoint safely and load it exactly, or say in one line what is wrong."""

import logging
import os
import pickle
import re
import tempfile
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from convnext_dense.archs import ARCHS, Arch
from convnext_dense.rename import detect_naming, rename

logger = logging.getLogger(__name__)

WRAPPERS = ("model", "state_dict", "module")  # keys under which training scripts put the state dict


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit the model."""


class LoadReport(NamedTuple):
    """What a load did: tensors loaded, names left at their initial value, checkpoint keys dropped."""

    naming: str
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        line = f"backbone: {len(self.loaded)}/{len(self.loaded)} tensors from {self.naming} naming"
        notes = [
            f"{label}: {_short(names)}"
            for label, names in (("dropped", self.dropped), ("new, not in the file", self.fresh))
            if names
        ]
        return f"{line} ({'; '.join(notes)})" if notes else line


def fetch(source: str, progress: bool = True) -> Path:
    """Local path of a file or http(s) URL; downloads land under ``TORCH_HOME`` by atomic rename.

    Raises:
        CheckpointError: the file does not exist or the URL cannot be reached.
    """
    if urlparse(source).scheme not in ("http", "https"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise CheckpointError(f"no checkpoint at {source}")
        return path
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(source).path).name
    if path.is_file():
        return path
    logger.info("downloading %s to %s", source, path)
    partial = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as partial:
            torch.hub.download_url_to_file(source, str(Path(partial) / path.name), progress=progress)
            os.replace(Path(partial) / path.name, path)
    except (OSError, urllib.error.URLError) as error:
        raise CheckpointError(f"cannot download {source} ({error})") from error
    return path


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint file by name, on the CPU; wrappers such as ``model`` are opened.

    Only tensors and plain containers are unpickled, so that a file from a
    stranger runs no code.

    Raises:
        CheckpointError: not a checkpoint, truncated, or holding anything else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is not a checkpoint of plain tensors ({reason(error)})") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read, perhaps truncated ({reason(error)})") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no state dict")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def load_checkpoint(model: nn.Module, source: str) -> LoadReport:
    """Load the weights of a ConvNeXt backbone into ``model``, all of them.

    Knows the released naming (classifiers and dense backbones) and takes the
    ``backbone.`` part of a whole detector or segmentor. The output norms, which a
    classifier does not have, keep their initial value; nothing else may.

    Args:
        model: :class:`convnext_dense.ConvNeXt` or a subclass.
        source: path or http(s) URL.

    Returns:
        what was loaded; the same is logged in one line.

    Raises:
        CheckpointError: unreadable, of another naming or of other shapes; the
            message has the file, the first keys and the likely cause. The model
            is then as it was.
    """
    state = backbone_part(read_state_dict(fetch(source)))
    try:
        naming = detect_naming(state)
        names = rename(state, naming)
    except KeyError as error:
        raise CheckpointError(f"{source}: {error.args[0]}") from None
    tensors = {name: state[key] for key, name in names.items() if name is not None}
    own = model.state_dict()
    missing = [name for name in own if name not in tensors]
    fresh = tuple(name for name in missing if naming.fresh and re.fullmatch(naming.fresh, name))
    _check_fit(source, own, tensors, [name for name in missing if name not in fresh])
    # norms of levels that this model does not return are all that can be left over
    surplus = tuple(name for name in tensors if name not in own)
    model.load_state_dict({**own, **{name: tensors[name] for name in own if name in tensors}})
    report = LoadReport(
        naming.name,
        tuple(name for name in own if name in tensors),
        fresh,
        tuple(key for key, name in names.items() if name is None) + surplus,
    )
    logger.info("%s", report)
    return report


def reason(error: Exception) -> str:
    """The one line that matters of a page in which torch explains a damaged or refused file.

    Torch's own first line advises to read the file unsafely; that line never gets through.
    """
    _, found, detail = str(error).partition("WeightsUnpickler error: ")
    lines = (detail if found else str(error)).split("\n")
    line = next((line for line in lines if line.strip()), type(error).__name__)
    return line.partition(" Please use")[0].strip()


def backbone_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ``backbone.`` entries without their prefix, or all entries when there are none."""
    part = {
        key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")
    }
    return part or dict(state)


def infer_arch(state: Mapping[str, Tensor]) -> Arch:
    """Depths and dims of a state dict in our names."""
    blocks = [re.match(r"stages\.(\d)\.(\d+)\.", name) for name in state]
    stages = sorted({int(m[1]) for m in blocks if m})
    depths = tuple(1 + max(int(m[2]) for m in blocks if m and int(m[1]) == stage) for stage in stages)
    dims = tuple(
        state[f"stages.{i}.0.dwconv.weight"].shape[0]
        for i in stages
        if f"stages.{i}.0.dwconv.weight" in state
    )
    return Arch(depths, dims)


def _check_fit(
    source: str, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], missing: list[str]
) -> None:
    surplus = [name for name in tensors if name not in own and not re.match(r"norm\d\.", name)]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {label}, first {names[:3]}"
        for label, names in (
            ("missing", missing),
            ("not in the model", surplus),
            ("of another shape", misshapen),
        )
        if names
    ]
    if not problems:
        return
    theirs, ours = infer_arch(tensors), infer_arch(own)
    cause = (
        ""
        if theirs == ours
        else f"; likely cause: the file is {_arch_name(theirs)}, the model {_arch_name(ours)}"
    )
    raise CheckpointError(f"{source} does not fit: {'; '.join(problems)}{cause}")


def _arch_name(arch: Arch) -> str:
    return next(
        (name for name, row in ARCHS.items() if row == arch), f"depths {arch.depths}, dims {arch.dims}"
    )


def _short(names: tuple[str, ...]) -> str:
    """``norm0.weight, norm0.bias, head.weight`` -> ``norm0.*, head.*``."""
    return ", ".join(dict.fromkeys(f"{name.rpartition('.')[0]}.*" for name in names))
