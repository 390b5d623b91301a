"""Core necks as mmengine modules in the root registry, where every scope finds them."""

import copy

from mmengine.model import BaseModule
from mmengine.registry import MODELS

from convnext_dense.models import pyramid


@MODELS.register_module()
class SimpleFeaturePyramid(pyramid.SimpleFeaturePyramid, BaseModule):
    """:class:`convnext_dense.models.pyramid.SimpleFeaturePyramid` with mmengine's ``init_cfg``.

    Args:
        init_cfg: mmengine's initialisation config; ``None`` keeps PyTorch's, as released
            with ViTDet.
        **kwargs: arguments of the core class.

    Raises:
        ValueError: an argument that the core class rejects.
    """

    def __init__(self, init_cfg: dict | list[dict] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.init_cfg = copy.deepcopy(init_cfg)
