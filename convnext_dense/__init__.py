"""convnext_dense: the dense-prediction toolkit for ConvNeXt.

The public names are imported when they are first used, so that `convnext_dense.export` runs without torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convnext_dense.checkpoints.load import LoadReport, load_checkpoint
    from convnext_dense.errors import CheckpointError
    from convnext_dense.models.archs import ARCHS, ISOTROPIC_ARCHS, Arch
    from convnext_dense.models.classifier import Classifier
    from convnext_dense.models.convnext import ConvNeXt
    from convnext_dense.models.isotropic import IsotropicConvNeXt
    from convnext_dense.recipes import config_path, get_config, list_configs

__version__ = "0.1.0"

__all__ = [
    "ARCHS",
    "ISOTROPIC_ARCHS",
    "Arch",
    "CheckpointError",
    "Classifier",
    "ConvNeXt",
    "IsotropicConvNeXt",
    "LoadReport",
    "__version__",
    "config_path",
    "get_config",
    "list_configs",
    "load_checkpoint",
]

_HOMES = {
    "ARCHS": "models.archs",
    "ISOTROPIC_ARCHS": "models.archs",
    "Arch": "models.archs",
    "CheckpointError": "errors",
    "Classifier": "models.classifier",
    "ConvNeXt": "models.convnext",
    "IsotropicConvNeXt": "models.isotropic",
    "LoadReport": "checkpoints.load",
    "config_path": "recipes",
    "get_config": "recipes",
    "list_configs": "recipes",
    "load_checkpoint": "checkpoints.load",
}
"""Public name -> the module that defines it."""


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
