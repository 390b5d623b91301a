"""The registry scope ``convnext_dense``: corrected classes of the toolboxes under their own names."""

from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry

SCOPE = "convnext_dense"

# Filled at the first look-up, because filling imports mmdet and mmseg.
MODELS = Registry(
    "model",
    parent=ROOT,
    scope=SCOPE,
    locations=["convnext_dense.mm.models.float32", "convnext_dense.mm.models.released"],
)
