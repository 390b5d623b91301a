"""Importing this module registers everything in mmengine's root registries.

``custom_imports = dict(imports=['convnext_dense.mm'])`` is all that a config needs.
"""

# ruff: noqa: E402, F401
# Before anything that may import mmcv.ops: mmdet and mmseg cannot even be
# imported while ``mmcv._ext`` is missing.
from convnext_dense.mm.mmcv_ext import install_ops

install_ops()

from convnext_dense.mm import logs
from convnext_dense.mm.config import by_name
from convnext_dense.mm.datasets import repair
from convnext_dense.mm.engine import checkpoints, hooks, loops, optimizer, runner
from convnext_dense.mm.models import backbones, level_pyramid, necks, partial, registry, roadmap, tta

checkpoints.read_safely_in_mmengine()
by_name.find_configs_in_mmengine()
logs.forward_core_logs()


def __getattr__(name: str) -> object:
    """``swap_backbone``, imported when it is asked for: training does without."""
    if name == "swap_backbone":
        from convnext_dense.mm.swap.backbone import swap_backbone

        return swap_backbone
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
