"""mmpretrain's ConvNeXt, for comparison."""

from mmengine.registry import DefaultScope
from torch import nn

from convnext_dense.models.archs import Arch
from convnext_dense.support.optional_packages import optional


def mmpretrain_model(arch: Arch, use_grn: bool, num_classes: int) -> nn.Module:
    """mmpretrain's ``ImageClassifier`` with its ConvNeXt, or without classes only the dense backbone.

    Raises:
        CheckpointError: mmpretrain is not installed.
    """
    optional("mmpretrain.models", "mmpretrain's ConvNeXt")
    backbone = dict(
        type="mmpretrain.ConvNeXt",
        arch=dict(depths=list(arch.depths), channels=list(arch.dims)),
        use_grn=use_grn,
        layer_scale_init_value=0.0 if use_grn else 1e-6,
    )
    if not num_classes:
        dense = dict(out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
        return _built(dict(backbone, **dense))
    head = dict(
        type="LinearClsHead",
        num_classes=num_classes,
        in_channels=arch.dims[-1],
        loss=dict(type="CrossEntropyLoss"),
    )
    return _built(dict(type="ImageClassifier", backbone=backbone, head=head))


def _built(cfg: dict) -> nn.Module:
    """Build in mmpretrain's scope, where ``ConvNeXt`` is its own; the scope of the process stays."""
    from mmpretrain.registry import MODELS

    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(cfg)
