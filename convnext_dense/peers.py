"""ConvNeXt as other libraries build it, to compare with; each library is optional.

mmpretrain's is in :mod:`convnext_dense.mm.peers`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from convnext_dense.archs import ARCHS, Arch
from convnext_dense.reading import optional

# Where each library keeps the four stages.
_STAGES = (
    "stages",
    "encoder.stages",
    "convnext.encoder.stages",
    "convnextv2.encoder.stages",
    "backbone.stages",
    "model.stages",
)


def timm_model(arch: Arch, use_grn: bool, num_classes: int) -> nn.Module:
    """timm's classifier of these sizes, laid out as its registered variant of that name is.

    Raises:
        CheckpointError: timm is not installed.
    """
    timm = optional("timm", "timm's ConvNeXt")
    name = next((name for name, row in ARCHS.items() if row == arch), "tiny")
    name = f"convnextv2_{name}" if use_grn else f"convnext_{name}"
    known = name if timm.is_model(name) else "convnext_tiny"  # the sizes below say the rest
    more = {} if known == name else dict(use_grn=use_grn, ls_init_value=None if use_grn else 1e-6)
    return timm.create_model(known, depths=arch.depths, dims=arch.dims, num_classes=num_classes, **more)


def transformers_model(arch: Arch, use_grn: bool, num_classes: int) -> nn.Module:
    """transformers' ``ConvNextForImageClassification`` or ``ConvNextModel`` (V2 likewise).

    Raises:
        CheckpointError: transformers is not installed.
    """
    library = optional("transformers", "transformers' ConvNeXt")
    family = "ConvNextV2" if use_grn else "ConvNext"
    config = getattr(library, f"{family}Config")(
        depths=list(arch.depths), hidden_sizes=list(arch.dims), num_labels=max(num_classes, 1)
    )
    kind = "ForImageClassification" if num_classes else "Model"
    return getattr(library, family + kind)(config)


def torchvision_model(arch: Arch, use_grn: bool, num_classes: int) -> nn.Module:
    """torchvision's classifier of these sizes (V1 only).

    Raises:
        CheckpointError: torchvision is not installed.
    """
    convnext = optional("torchvision.models.convnext", "torchvision's ConvNeXt")
    rows = [
        convnext.CNBlockConfig(c_in, c_out, depth)
        for c_in, c_out, depth in zip(arch.dims, (*arch.dims[1:], None), arch.depths, strict=True)
    ]
    return convnext.ConvNeXt(rows, num_classes=max(num_classes, 1))


BUILDERS: dict[str, Callable[[Arch, bool, int], nn.Module]] = {
    "timm": timm_model,
    "hf": transformers_model,
    "torchvision": torchvision_model,
}


@torch.no_grad()
def stage_maps(model: nn.Module, image: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """What leaves the four stages of another library's model, and its logits if it has a head.

    Args:
        model: built by one of :data:`BUILDERS` or mmpretrain's.
        image: (N, 3, H, W).

    Returns:
        four maps (N, C, H, W) before any output norm; logits (N, classes) or ``None``.
    """
    maps: list[Tensor] = []
    hooks = [
        stage.register_forward_hook(lambda _module, _args, out: maps.append(out.clone()))
        for stage in _stages(model)
    ]
    try:
        out = model(image)
    finally:
        for hook in hooks:
            hook.remove()
    out = getattr(out, "logits", out)
    return maps, out if isinstance(out, Tensor) and out.dim() == 2 else None


def _stages(model: nn.Module) -> list[nn.Module]:
    if hasattr(model, "features"):  # torchvision: stem, stage, downsampling, stage, ...
        return [model.features[i] for i in (1, 3, 5, 7)]
    modules = dict(model.named_modules())
    return list(next(modules[path] for path in _STAGES if path in modules))
