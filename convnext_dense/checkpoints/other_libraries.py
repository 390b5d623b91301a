"""ConvNeXt of other libraries, for comparison; each library is optional.

mmpretrain's is in :mod:`convnext_dense.mm.bench.mmpretrain`.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convnext_dense.models.archs import ARCHS, Arch
from convnext_dense.support.optional_packages import optional

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
    """timm's classifier of these sizes, with the layout of its registered variant of that name.

    Raises:
        CheckpointError: timm is not installed.
    """
    timm = optional("timm", "timm's ConvNeXt")
    name = next((name for name, row in ARCHS.items() if row == arch), "tiny")
    name = f"convnextv2_{name}" if use_grn else f"convnext_{name}"
    known = name if timm.is_model(name) else "convnext_tiny"  # the sizes below set the rest
    more = {} if known == name else dict(use_grn=use_grn, ls_init_value=None if use_grn else 1e-6)
    return timm.create_model(known, depths=arch.depths, dims=arch.dims, num_classes=num_classes, **more)


def transformers_model(arch: Arch, use_grn: bool, num_classes: int) -> nn.Module:
    """transformers' ``ConvNextForImageClassification`` or ``ConvNextModel`` (V2 likewise).

    Raises:
        CheckpointError: transformers is not installed.
    """
    family = "ConvNextV2" if use_grn else "ConvNext"
    # the module itself: the package imports its own names only on access
    name = f"transformers.models.{family.lower()}.modeling_{family.lower()}"
    library = optional(name, "transformers' ConvNeXt")
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


class PaperBlock(nn.Module):
    """The block as the released code computes it: one operation after the other, in NCHW memory."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # NCHW -> NHWC
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))  # C -> 4C -> C
        return x + y.permute(0, 3, 1, 2)


class ElementaryNorm(nn.Module):
    """LayerNorm over the channels of NCHW maps from means and differences, as in the released code."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        normed = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class PaperConvNeXt(nn.Module):
    """The dense backbone in the structure of the released code, four levels; written from the paper."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        depths, dims = arch
        stem = nn.Sequential(nn.Conv2d(3, dims[0], kernel_size=4, stride=4), ElementaryNorm(dims[0]))
        self.downsample_layers = nn.ModuleList([stem])
        for c_in, c_out in pairwise(dims):
            down = nn.Sequential(ElementaryNorm(c_in), nn.Conv2d(c_in, c_out, kernel_size=2, stride=2))
            self.downsample_layers.append(down)
        self.stages = nn.ModuleList(
            nn.Sequential(*(PaperBlock(dim) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )
        self.norms = nn.ModuleList(map(ElementaryNorm, dims))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four levels (N, C_i, H / s_i, W / s_i)."""
        levels = []
        for down, stage, norm in zip(self.downsample_layers, self.stages, self.norms, strict=True):
            x = stage(down(x))
            levels.append(norm(x))
        return levels


def timm_levels(arch: Arch) -> nn.Module:
    """timm's backbone with its four levels, without output norms.

    Raises:
        CheckpointError: timm is not installed.
    """
    timm = optional("timm", "timm's ConvNeXt")
    return timm.create_model("convnext_tiny", features_only=True, depths=arch.depths, dims=arch.dims)


LEVELS: dict[str, Callable[[Arch], nn.Module]] = {"facebook": PaperConvNeXt, "timm": timm_levels}
"""ConvNeXt of other libraries as dense backbones, by contender.

mmpretrain's is in :mod:`convnext_dense.mm.bench.mmpretrain`.
"""

BUILDERS: dict[str, Callable[[Arch, bool, int], nn.Module]] = {
    "timm": timm_model,
    "hf": transformers_model,
    "torchvision": torchvision_model,
}


@torch.no_grad()
def stage_maps(model: nn.Module, image: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """Outputs of the four stages of another library's model, and its logits if it has a head.

    Args:
        model: a model built by one of :data:`BUILDERS` or mmpretrain's.
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
    features = getattr(model, "features", None)
    if isinstance(features, nn.Sequential):  # torchvision: stem, stage, downsampling, stage, ...
        return [features[i] for i in (1, 3, 5, 7)]
    modules = dict(model.named_modules())
    return list(next(modules[path] for path in _STAGES if path in modules))
