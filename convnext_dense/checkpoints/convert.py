"""A ConvNeXt checkpoint in the names of another code base, and a comparison of both implementations."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from convnext_dense.checkpoints.load import OUTPUT_NORM, infer_arch, own_tensors
from convnext_dense.checkpoints.namings import EXPORTS, Layout, export_names
from convnext_dense.checkpoints.other_libraries import stage_maps
from convnext_dense.errors import CheckpointError
from convnext_dense.models.archs import ARCHS, Arch
from convnext_dense.models.classifier import Classifier, is_isotropic
from convnext_dense.models.convnext import ConvNeXt
from convnext_dense.models.isotropic import IsotropicConvNeXt
from convnext_dense.support.files import replacing
from convnext_dense.support.optional_packages import optional

Target = Literal["facebook", "timm", "torchvision", "hf", "mmpretrain"]
TARGETS: tuple[str, ...] = get_args(Target)
Builder = Callable[[Arch, bool, int], nn.Module]
STAGES = ("stage 0", "stage 1", "stage 2", "stage 3")

_SMALL = ("atto", "femto", "pico", "nano")  # timm has 1x1 convolutions for the linear layers of these


class Converted(NamedTuple):
    """Tensors under the target's names, and our tensors that the target has no place for."""

    state: dict[str, Tensor]
    left_out: tuple[str, ...]


def convert(tensors: Mapping[str, Tensor], target: Target) -> Converted:
    """A state dict in our names -> the same in the target's names; values do not change.

    Args:
        tensors: what :func:`convnext_dense.checkpoints.load.in_our_names` returns.
        target: code base that gives the names; ``hf`` is transformers, whose prefix depends on whether
            there is a classifier.

    Returns:
        the renamed tensors, and which output norms were left out (timm and torchvision
        have none).

    Raises:
        CheckpointError: an unknown target, or parameters that the target cannot hold,
            such as V2's for torchvision.
    """
    if target not in TARGETS:
        raise CheckpointError(f"target {target!r}; use one of {TARGETS}")
    names = export_names(tensors, EXPORTS[_rows_of(tensors, target)])
    homeless = tuple(name for name, theirs in names.items() if theirs is None)
    refused = [name for name in homeless if not name.startswith("norm")]
    if refused:
        raise CheckpointError(f"{target} has no place for {len(refused)} tensors, first {refused[:3]}")
    state = {}
    for name, theirs in names.items():
        if theirs is not None:
            key, layout = theirs
            state[_prefix(tensors, target, key) + key] = _their_layout(tensors[name], layout)
    return Converted(state, homeless)


def _rows_of(tensors: Mapping[str, Tensor], target: str) -> str:
    if target == "timm":
        return "timm-conv" if infer_arch(tensors) in [ARCHS[name] for name in _SMALL] else "timm"
    if target == "mmpretrain" and "head.weight" in tensors:
        return "mmpretrain-classifier"
    return target


def _prefix(tensors: Mapping[str, Tensor], target: str, key: str) -> str:
    if "head.weight" not in tensors:
        return ""
    if target == "mmpretrain" and not key.startswith("head."):
        return "backbone."
    if target == "hf" and not key.startswith("classifier."):
        return "convnextv2." if _is_v2(tensors) else "convnext."
    return ""


def _is_v2(tensors: Mapping[str, Tensor]) -> bool:
    return any(".grn." in name for name in tensors)


def _their_layout(tensor: Tensor, layout: Layout) -> Tensor:
    if layout == "convolution":
        return tensor.reshape(*tensor.shape, 1, 1)
    if layout == "scale":
        return tensor.reshape(-1, 1, 1)
    return tensor.reshape(-1) if layout == "vector" else tensor


def build_model(tensors: Mapping[str, Tensor]) -> Classifier | ConvNeXt | IsotropicConvNeXt:
    """The model that a state dict in our names belongs to, with these weights, in eval mode.

    Raises:
        CheckpointError: neither a classifier nor a whole backbone.
    """
    arch = infer_arch(tensors)._asdict()
    scaled = any(name.endswith(".gamma") and ".grn." not in name for name in tensors)
    kwargs: dict[str, Any] = dict(layer_scale_init_value=1.0 if scaled else 0.0)
    if is_isotropic(arch):
        stem = tensors.get("stem.weight")
    else:
        stem = tensors.get("downsample_layers.0.0.weight")
        kwargs["use_grn"] = _is_v2(tensors)
    if stem is None:
        raise CheckpointError("the tensors are not a whole ConvNeXt (the stem is missing)")
    model: Classifier | ConvNeXt | IsotropicConvNeXt
    try:
        kwargs["in_channels"] = stem.shape[1]
        if "head.weight" in tensors:
            model = Classifier(arch, num_classes=len(tensors["head.weight"]), **kwargs)
        elif is_isotropic(arch):
            model = IsotropicConvNeXt(arch, **kwargs)
        else:
            model = ConvNeXt(arch, **kwargs)
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"the tensors are not a whole ConvNeXt ({error})") from None
    own = own_tensors(model)
    missing = [name for name in own if name not in tensors and not OUTPUT_NORM.fullmatch(name)]
    if missing:
        raise CheckpointError(
            f"the tensors are not a whole ConvNeXt: {len(missing)} missing, first {missing[:3]}"
        )
    with torch.no_grad():
        for name in own:
            if name in tensors:
                own[name].copy_(tensors[name])
    return model.eval()


def largest_difference(
    tensors: Mapping[str, Tensor], target: Target, builder: Builder, image: Tensor
) -> dict[str, float]:
    """Run our model and the target's own on one image, each with its weights.

    Args:
        tensors: a state dict in our names.
        target: code base of ``builder``'s model.
        builder: one of :data:`convnext_dense.checkpoints.other_libraries.BUILDERS`, or mmpretrain's.
        image: (1, C, H, W).

    Returns:
        the largest absolute difference of each stage's map, and of the logits if there is a
        classifier, in standard deviations of ours.

    Raises:
        CheckpointError: the library is not installed, or does not take the converted weights.
    """
    ours = build_model(tensors)
    num_classes = len(tensors["head.weight"]) if "head.weight" in tensors else 0
    peer = builder(infer_arch(tensors), _is_v2(tensors), num_classes)
    missing, unexpected = peer.load_state_dict(convert(tensors, target).state, strict=False)
    # a library's class may own a final norm that a dense checkpoint does not have
    missing = [name for name in missing if not re.search(r"norm|head|classifier", name)]
    if missing or unexpected:
        raise CheckpointError(f"{target} does not take the weights: {[*missing, *unexpected][:3]}")
    with torch.no_grad():
        trunk = ours.backbone if isinstance(ours, Classifier) else ours
        expected = dict(zip(STAGES, trunk.forward_stages(image), strict=True))
        if num_classes:
            expected["logits"] = ours(image)
    maps, logits = stage_maps(peer.eval(), image)
    actual = dict(zip(STAGES, maps, strict=True)) | ({} if logits is None else {"logits": logits})
    return {
        name: ((actual[name] - value).abs().max() / value.std()).item()
        for name, value in expected.items()
        if name in actual
    }


def write_checkpoint(state: Mapping[str, Tensor], path: str | Path, target: Target) -> None:
    """Write a converted state dict atomically.

    The suffix ``.safetensors`` gives that format, else ``torch.save``'s in the wrapper that the target's
    own files have.

    Raises:
        CheckpointError: the folder cannot be written to, or safetensors is not installed.
    """
    path = Path(path)
    state = {key: value.contiguous() for key, value in state.items()}
    library = optional("safetensors.torch", "a .safetensors file") if path.suffix == ".safetensors" else None
    try:
        with replacing(path) as partial:
            if library is not None:
                partial.touch()
                mode = partial.stat().st_mode
                library.save_file(state, partial, metadata={"format": "pt"})
                partial.chmod(mode)  # safetensors writes a new file, which nobody else may read
            else:
                wrapper = {"facebook": "model", "mmpretrain": "state_dict"}.get(target)
                torch.save({wrapper: state} if wrapper else state, partial)
    except OSError as error:
        raise CheckpointError(f"cannot write {path} ({error})") from error
