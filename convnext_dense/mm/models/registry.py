"""The registry scope ``convnext_dense``: corrected classes of the toolboxes under their own names."""

from importlib.util import find_spec

from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry

SCOPE = "convnext_dense"

_MODULES = ["float32", "released"]
if find_spec("mmseg"):  # one toolbox is enough
    _MODULES.append("uper_head")

# Filled at the first look-up, because filling imports mmdet and mmseg.
MODELS = Registry(
    "model",
    parent=ROOT,
    scope=SCOPE,
    locations=[f"convnext_dense.mm.models.{module}" for module in _MODULES],
)
