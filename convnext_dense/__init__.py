"""convnext_dense: the dense-prediction toolkit for ConvNeXt."""

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
