"""Load any ConvNeXt checkpoint exactly, or say in one line what is wrong."""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from convnext_dense.checkpoints.fetch import fetch
from convnext_dense.checkpoints.namings import Layout, Renamed, rename
from convnext_dense.checkpoints.read import read_state_dict
from convnext_dense.errors import CheckpointError
from convnext_dense.models.archs import ARCHS, ISOTROPIC_ARCHS, Arch

logger = logging.getLogger(__name__)

_STEMS = ("downsample_layers.0.0.weight", "stem.weight")
OUTPUT_NORM = re.compile(r"norm\d\.(?:weight|bias)")
_HEAD = re.compile(r"(?:norm|head)\.(?:weight|bias)")  # parameters of a classifier


class LoadReport(NamedTuple):
    """The result of a load.

    Attributes:
        naming: naming of the file's parameters.
        loaded: the model's parameters that came from the file.
        fresh: parameters that the file lacks; they kept their initial value.
        dropped: checkpoint keys that have no use here; those of the backbone without its prefix.
        notes: how tensors were adapted, and what ``strict=False`` skipped.
    """

    naming: str
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.loaded) + sum(1 for name in self.fresh if not OUTPUT_NORM.fullmatch(name))
        line = f"backbone: {len(self.loaded)}/{total} tensors from {self.naming} naming"
        notes = [
            f"{label}: {_short(names)}"
            for label, names in (("dropped", self.dropped), ("new, not in the file", self.fresh))
            if names
        ]
        notes += self.notes
        return f"{line} ({'; '.join(notes)})" if notes else line


def load_checkpoint(
    model: nn.Module,
    source: str | Path,
    strict: bool = True,
    sha256: str | None = None,
    ema: bool = False,
    prefix: str = "",
) -> LoadReport:
    """Load the weights of a ConvNeXt into ``model``, all of them.

    Knows the namings of :data:`convnext_dense.checkpoints.namings.NAMINGS`, detects which one a
    file uses, and takes the backbone out of whole classifiers, detectors and
    segmentors. Output norms, which a classifier does not have, keep their initial
    value; nothing else may be missing. A stem for one input channel takes the sum over RGB, one
    for more than three takes RGB first and zeros after it: both leave the features
    of an RGB (grey) image as they were.

    Args:
        model: :class:`convnext_dense.ConvNeXt`, :class:`~convnext_dense.IsotropicConvNeXt`,
            :class:`~convnext_dense.Classifier` or a subclass.
        source: what :func:`convnext_dense.checkpoints.fetch.fetch` takes: path, folder, http(s) URL,
            ``timm:NAME`` or ``hf:REPO``.
        strict: ``False`` loads what fits and reports the rest.
        sha256: expected digest of the file, or its first digits.
        ema: whether to take the averaged weights of a training checkpoint that holds both.
        prefix: part of the file to take, such as ``teacher.backbone``; the whole file by default.

    Returns:
        what was loaded; this is also logged in one line.

    Raises:
        CheckpointError: unreadable, unknown naming or other shapes; the
            message has the file, the first keys and the likely cause. The model
            is unchanged.
    """
    state = read_state_dict(fetch(source, sha256=sha256), ema=ema)
    if prefix:
        state = part_of(state, prefix, source)
    renamed, tensors = in_our_names(state, source)
    own = own_tensors(model)
    tensors, notes = _adapt_stem(tensors, own)
    fit = _fit(renamed, tensors, own)
    if fit.problems and strict:
        raise CheckpointError(f"{source} does not fit: {'; '.join(fit.problems)}{_cause(tensors, own)}")
    if not fit.loaded:
        raise CheckpointError(f"{source}: nothing in it fits the model{_cause(tensors, own)}")
    with torch.no_grad():
        for name in fit.loaded:
            own[name].copy_(tensors[name])
    report = LoadReport(renamed.naming.name, fit.loaded, fit.fresh, fit.dropped, notes + fit.problems)
    logger.info("%s", report)
    return report


def part_of(state: Mapping[str, Tensor], prefix: str, source: str | Path) -> dict[str, Tensor]:
    """The tensors below ``prefix``, without it.

    Raises:
        CheckpointError: there are none.
    """
    dotted = prefix if prefix.endswith(".") else f"{prefix}."
    found = {key.removeprefix(dotted): value for key, value in state.items() if key.startswith(dotted)}
    if not found:
        parts = ", ".join(dict.fromkeys(f"{key.split('.')[0]}." for key in state))
        raise CheckpointError(
            f"{source}: no tensor begins with {dotted!r} (prefix); its names begin with {parts[:200]}"
        )
    return found


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's state in the names of the released code; writing to a tensor writes to the model."""
    # our classifier keeps its backbone under ``backbone``, the released one does not
    return {name.removeprefix("backbone."): value for name, value in model.state_dict().items()}


def in_our_names(state: Mapping[str, Tensor], source: str | Path) -> tuple[Renamed, dict[str, Tensor]]:
    """Rename a state dict of any known naming to our names and tensor layout.

    Args:
        state: checkpoint key -> tensor.
        source: name for the error message.

    Returns:
        the result of the renaming, and our name -> tensor.

    Raises:
        CheckpointError: unknown or ambiguous keys.
    """
    try:
        renamed = rename(state)
    except KeyError as error:
        raise CheckpointError(f"{source}: {error.args[0]}") from None
    return renamed, {
        name: our_layout(name, state[key], layout) for key, (name, layout) in renamed.names.items()
    }


def our_layout(name: str, tensor: Tensor, layout: Layout = "") -> Tensor:
    """The tensor in the shape that parameter ``name`` has here; no value is changed.

    Args:
        name: our parameter name.
        tensor: (O, I, 1, 1) or (O, I) for a linear weight; any shape with one long
            dimension for a value per channel; MinkowskiEngine's (K * K, C) or
            (K * K, I, O) where ``layout`` is ``sparse``, with the row index varying fastest.
        layout: layout of the row that named the tensor.
    """
    if layout == "sparse" and name.endswith(".weight"):
        return dense_kernel(tensor)
    shape = tuple(tensor.shape)
    values_a_channel = name.endswith((".bias", ".gamma", ".beta"))
    if values_a_channel and sum(size > 1 for size in shape) <= 1:
        flat = tensor.reshape(-1)
        return flat.reshape(1, 1, 1, -1) if ".grn." in name else flat
    if re.search(r"(?:pwconv\d|^head)\.weight$", name) and len(shape) == 4 and shape[2:] == (1, 1):
        return tensor.reshape(shape[:2])
    return tensor


def dense_kernel(kernel: Tensor) -> Tensor:
    """MinkowskiEngine's (K * K, C) -> (C, 1, K, K); (K * K, I, O) -> (O, I, K, K).

    Flattened positions run down the columns of the kernel (facebookresearch/ConvNeXt-V2,
    conversion of FCMAE weights to dense layers). Other shapes come back as they are.
    """
    side = math.isqrt(kernel.shape[0]) if kernel.dim() else 0
    if kernel.dim() not in (2, 3) or side * side != kernel.shape[0]:
        return kernel
    if kernel.dim() == 2:
        kernel = kernel.unsqueeze(1)  # one input channel per group
    return kernel.unflatten(0, (side, side)).permute(3, 2, 1, 0).contiguous()


def infer_arch(state: Mapping[str, Tensor]) -> Arch:
    """Depths and dims of a state dict in our names; four stages, or one if isotropic."""
    numbers: dict[int, int] = {}
    dims: dict[int, int] = {}
    for name, tensor in state.items():
        if match := re.match(r"(?:stages\.(\d)|blocks)\.(\d+)\.", name):
            stage = int(match[1] or 0)
            numbers[stage] = max(numbers.get(stage, 0), int(match[2]) + 1)
            if name.endswith("dwconv.weight"):
                dims[stage] = tensor.shape[0]
    return Arch(tuple(numbers[i] for i in sorted(numbers)), tuple(dims[i] for i in sorted(dims)))


class _Fit(NamedTuple):
    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]
    problems: tuple[str, ...]


def _fit(renamed: Renamed, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> _Fit:
    """Decide what to do with every parameter of the model and every key of the file."""
    missing = [name for name in own if name not in tensors]
    allowed = [
        name for name in missing if OUTPUT_NORM.fullmatch(name) and not renamed.naming.has_output_norms
    ]
    misshapen = [name for name in own if name in tensors and tensors[name].shape != own[name].shape]
    surplus = [name for name in tensors if name not in own]
    # norms of levels that the model does not return, and the head of a classifier
    useless = [name for name in surplus if OUTPUT_NORM.fullmatch(name) or _HEAD.fullmatch(name)]
    # a head with more than a norm and a linear layer would give other logits
    refused = list(renamed.dropped) if "head.weight" in own else []
    problems = _problems(
        {
            "missing": [name for name in missing if name not in allowed],
            "not in the model": [name for name in surplus if name not in useless] + refused,
            "of another shape": [
                f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}" for name in misshapen
            ],
        }
    )
    loaded = tuple(name for name in own if name in tensors and name not in misshapen)
    key_of = {name: key for key, (name, _) in renamed.names.items()}
    unused = (*(key_of[name] for name in surplus), *renamed.dropped)
    return _Fit(
        loaded,
        tuple(name for name in own if name not in loaded),
        (*(key.removeprefix(renamed.container) for key in unused), *renamed.beside),
        problems,
    )


def _problems(found: Mapping[str, list[str]]) -> tuple[str, ...]:
    return tuple(f"{len(names)} {label}, first {names[:3]}" for label, names in found.items() if names)


def _adapt_stem(
    tensors: dict[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The stem's RGB kernels for a model with other input channels, where the meaning is certain."""
    for name in _STEMS:
        if name not in own or name not in tensors:
            continue
        theirs, ours = tensors[name], own[name]
        rgb = theirs.dim() == 4 and theirs.shape[1] == 3 and theirs[:, 0].shape == ours[:, 0].shape
        channels = ours.shape[1]
        if rgb and channels == 1:
            summed = theirs.sum(dim=1, keepdim=True)
            return {**tensors, name: summed}, ("stem: summed over RGB for one input channel",)
        if rgb and channels > 3:
            more = theirs.new_zeros(theirs.shape[0], channels - 3, *theirs.shape[2:])
            note = f"stem: RGB first, zeros for the other {channels - 3} input channels"
            return {**tensors, name: torch.cat([theirs, more], dim=1)}, (note,)
    return tensors, ()


def _cause(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """The most likely cause of the error, or an empty string."""
    causes = [cause for cause in (_arch_cause(theirs, own), _version_cause(theirs, own)) if cause]
    if "head.weight" in own and "head.weight" not in theirs:
        causes.append("the file has no classifier head")
    elif "head.weight" in own and len(theirs["head.weight"]) != len(own["head.weight"]):
        causes.append(
            f"the file has {len(theirs['head.weight'])} classes, the model {len(own['head.weight'])}"
        )
    return f"; likely cause: {', '.join(causes)}" if causes else ""


def _arch_cause(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    arch, ours = infer_arch(theirs), infer_arch(own)
    return "" if arch == ours else f"the file is {_arch_name(arch)}, the model {_arch_name(ours)}"


def _version_cause(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    def has(state: Mapping[str, Tensor], part: str) -> bool:
        return any(part in name for name in state)

    if has(theirs, ".grn.") != has(own, ".grn."):
        file, other = ("V2", "V1") if has(theirs, ".grn.") else ("V1", "V2")
        return f"the file is ConvNeXt {file}, the model {other} (use_grn)"
    scale = re.compile(r"(?:stages\.\d|blocks)\.\d+\.gamma")
    theirs_scaled, own_scaled = (any(scale.fullmatch(name) for name in state) for state in (theirs, own))
    if theirs_scaled != own_scaled:
        value = "1.0" if theirs_scaled else "0"
        return f"layer scale: the model needs layer_scale_init_value={value}"
    return ""


def _arch_name(arch: Arch) -> str:
    names = (name for name, row in {**ARCHS, **ISOTROPIC_ARCHS}.items() if row == arch)
    return next(names, f"depths {arch.depths}, dims {arch.dims}")


def _short(names: tuple[str, ...]) -> str:
    """``norm.weight, norm.bias, neck.a.weight, neck.b.weight`` -> ``norm.*, neck.*``."""
    return ", ".join(dict.fromkeys(f"{name.split('.')[0]}.*" for name in names))
