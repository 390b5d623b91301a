"""Safe reading of mmengine's checkpoints, and exact loading of whole models."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from convnext_dense.checkpoints import safe_pickle
from convnext_dense.checkpoints.fetch import fetch
from convnext_dense.checkpoints.load import OUTPUT_NORM, in_our_names
from convnext_dense.checkpoints.read import checkpoint_file, read_with_meta
from convnext_dense.errors import CheckpointError, reason
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.models.isotropic import IsotropicConvNeXt

CORE = (ConvNeXt, IsotropicConvNeXt)


def _history_method(owner: type, name: str) -> Callable:
    """Limit ``getattr`` to its one use in mmengine's pickles; anything wider would be unsafe."""
    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise pickle.UnpicklingError(f"getattr of {name!r} is not allowed")
    return getattr(owner, name)


# Objects other than tensors in the checkpoints of mmengine 0.10: the smoothed
# training log of its message hub, as numpy arrays. numpy 2 moved ``core`` to
# ``_core``; either version reads the files of both.
_ARRAY = np.zeros(1).__reduce__()[0]
_SCALAR = np.float64(1).__reduce__()[0]
ALLOWED = [
    (HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_history_method, "builtins.getattr"),
    (np.ndarray, "numpy.ndarray"),
    (np.dtype, "numpy.dtype"),
    *((_ARRAY, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u1", "?")),
]


def read_checkpoint(source: str | Path) -> dict:
    """Read a training checkpoint of mmengine to the CPU: tensors, plain containers and its log buffers.

    The recorded config text is left out: ``Runner.resume`` would run it as Python.

    Raises:
        CheckpointError: missing, truncated, or holding an object outside the allow-list.
    """
    path = checkpoint_file(fetch(source))
    try:
        sums = safe_pickle.check_archive(path) if zipfile.is_zipfile(path) else set()
        with torch.serialization.safe_globals(ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        safe_pickle.check_loaded(checkpoint, sums)
    except Exception as error:  # torch raises many types for a damaged file
        raise CheckpointError(f"cannot load {source}: {reason(error)}") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"cannot load {source}: it holds a {type(checkpoint).__name__}, not a checkpoint"
        )
    if isinstance(checkpoint.get("meta"), dict):
        checkpoint["meta"].pop("config", None)
    return checkpoint


def read_position(path: str | Path, weights_do: bool = False) -> dict | None:
    """Read ``meta`` of a training checkpoint without its tensors.

    ``None`` for a file without an optimizer, from which no training resumes, unless ``weights_do``.

    Raises:
        CheckpointError: truncated, or not a checkpoint.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return checkpoint["meta"] if weights_do or "optimizer" in checkpoint else None
    except Exception as error:  # torch raises many types for a damaged file
        raise CheckpointError(f"cannot load {path}: {reason(error)}") from error


def load_model(model: nn.Module, source: str) -> dict:
    """Load a whole detector or segmentor exactly and return the checkpoint's ``meta``.

    Raises:
        CheckpointError: unreadable, or keys or shapes differ; the first few are named.
    """
    checkpoint = read_weights(source)
    model.load_state_dict(whole_model_state(model, checkpoint["state_dict"], source))
    return checkpoint["meta"]


def read_weights(source: str | Path) -> dict:
    """Read ``dict(state_dict=..., meta=...)`` from a file in any format and wrapper that the core reads.

    Raises:
        CheckpointError: see :func:`convnext_dense.checkpoints.read.read_state_dict`.
    """
    state, meta = read_with_meta(checkpoint_file(fetch(source)))
    return {"state_dict": state, "meta": meta}


def whole_model_state(
    model: nn.Module,
    state: dict[str, Tensor],
    source: str | Path,
    partial: Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Rename the backbone in a whole detector's or segmentor's state dict to the names of ``model``.

    A model trained with another ConvNeXt (mmpretrain's, timm's) differs from ours only in
    the names of its backbone; its neck and heads are the toolbox's own.

    Args:
        model: the model.
        state: state dict of the file.
        source: the file, for messages.
        partial: makes of the model's and the file's tensors those to load, where that is not all of the file.

    Raises:
        CheckpointError: keys or shapes still differ; the first few are named.
    """
    own = model.state_dict()
    if set(state) != set(own) and any(isinstance(module, CORE) for module in model.children()):
        state = _rename_backbone(state, own, source)
    if partial is not None:
        state = partial(own, state)
    _check_whole_model(own, state, source)
    return state


def _rename_backbone(
    state: dict[str, Tensor], own: dict[str, Tensor], source: str | Path
) -> dict[str, Tensor]:
    try:
        renamed, tensors = in_our_names(state, source)
    except CheckpointError:
        return state  # from another network: the check that follows names the keys
    if not renamed.container.startswith("backbone."):
        raise CheckpointError(
            f"{source} is only a backbone ({renamed.naming.name} naming), not a whole model; "
            "--pretrained PATH starts training from one"
        )
    # the released dense backbones also have norms for levels that they do not return
    backbone = {
        f"backbone.{name}": value
        for name, value in tensors.items()
        if f"backbone.{name}" in own or not OUTPUT_NORM.fullmatch(name)
    }
    return backbone | {key: state[key] for key in renamed.beside}


def _check_whole_model(own: dict[str, Tensor], state: dict[str, Tensor], source: str | Path) -> None:
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    faults = {
        "missing": [key for key in own if key not in state],
        "not in the model": [key for key in state if key not in own],
        "of another shape": [f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}" for k in misshapen],
    }
    problems = [f"{len(keys)} {label}, first {keys[:3]}" for label, keys in faults.items() if keys]
    if problems:
        other = [*misshapen, *faults["not in the model"]]
        hint = NEW_HEADS if other and all(map(in_head, other)) else ""
        raise CheckpointError(f"{source} does not fit this config's model: {'; '.join(problems)}{hint}")


NEW_HEADS = (
    "; if it is for other classes or has more heads, train from it with --new-heads, "
    "and test it with the config in its work folder"
)


def in_head(key: str) -> bool:
    """Whether a tensor of a whole model is neither in the backbone nor in the neck."""
    return not key.startswith(("backbone.", "neck."))


def read_safely_in_mmengine() -> None:
    """Make mmengine read local files and URLs through :func:`read_checkpoint`.

    ``--resume`` needs this: torch's default refuses mmengine's log
    buffers.
    """

    def read(filename: str, map_location: str | torch.device | None = None, **_: object) -> dict:
        return read_checkpoint(filename)  # whoever loads the tensors copies them to their device

    CheckpointLoader.register_scheme(prefixes="", loader=read, force=True)
    CheckpointLoader.register_scheme(prefixes=("http://", "https://"), loader=read, force=True)
