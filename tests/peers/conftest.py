"""Everything here may import timm."""

import torchvision_shim  # noqa: F401
