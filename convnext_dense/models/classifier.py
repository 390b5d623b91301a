"""The ImageNet classifier on top of a backbone: a quick check that pretrained weights work."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from convnext_dense.models.archs import ISOTROPIC_ARCHS
from convnext_dense.models.convnext import ConvNeXt, init_weights
from convnext_dense.models.isotropic import IsotropicConvNeXt


class Classifier(nn.Module):
    """Mean over all positions, LayerNorm, linear layer, as in the released classifiers.

    Args:
        arch: a name in ``ARCHS`` or ``ISOTROPIC_ARCHS``, or depths and dims of four stages
            or of one (isotropic).
        num_classes: outputs of the linear layer.
        **kwargs: arguments of the backbone class.

    Raises:
        ValueError: an argument that the backbone refuses.
    """

    backbone: ConvNeXt | IsotropicConvNeXt

    def __init__(self, arch: str | Mapping = "tiny", num_classes: int = 1000, **kwargs: Any) -> None:
        super().__init__()
        if is_isotropic(arch):
            self.backbone = IsotropicConvNeXt(arch, **kwargs)
            del self.backbone.norm0  # a classifier norms once, after the mean
        else:
            self.backbone = ConvNeXt(arch, out_indices=-1, **kwargs)
            del self.backbone.norm3
        self.norm = nn.LayerNorm(self.backbone.dims[-1], eps=1e-6)
        self.head = nn.Linear(self.backbone.dims[-1], num_classes)
        init_weights(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> logits (N, num_classes)."""
        return self.head(self.norm(self.backbone.forward_stages(x)[-1].mean(dim=(2, 3))))


def is_isotropic(arch: str | Mapping) -> bool:
    """Whether ``arch`` names or describes a backbone of one stage."""
    return arch in ISOTROPIC_ARCHS if isinstance(arch, str) else len(arch.get("depths", ())) == 1
