"""Core backbones as mmengine modules in the root registry, where every scope finds them."""

import copy

from mmengine.model import BaseModule
from mmengine.registry import MODELS

from convnext_dense.checkpoints.load import load_checkpoint
from convnext_dense.errors import ArgumentError, CheckpointError
from convnext_dense.mm.models.foreign_arguments import in_our_spelling
from convnext_dense.mm.type_names import is_pretrained
from convnext_dense.models import convnext, isotropic


class ExactInit:
    """Mixin before a core class and ``BaseModule`` that adds mmengine's ``init_cfg``.

    ``init_cfg=dict(type='Pretrained', checkpoint=PATH_OR_URL)`` loads exactly: a
    missing or unknown tensor or a wrong shape is an error.

    Args:
        init_cfg: mmengine's initialisation config; ``None`` keeps the released
            random initialisation.
        pretrained: older spelling of ``init_cfg``: path or URL of weights.
        **kwargs: arguments of the core class; those of other backbones are accepted where they ask for what
            it does anyway, see :mod:`convnext_dense.mm.models.foreign_arguments`.

    Raises:
        ArgumentError: an argument that the core class rejects, or does not have.
    """

    load = staticmethod(load_checkpoint)  # (model, source); a class with other tensor names has its own

    def __init__(
        self, init_cfg: dict | list[dict] | None = None, pretrained: str | None = None, **kwargs
    ) -> None:
        super().__init__(**in_our_spelling(type(self).__name__, super().__init__, kwargs))
        if pretrained is not None:
            if init_cfg is not None:
                raise ArgumentError(
                    f"pretrained and init_cfg both say how it starts; keep one, for weights "
                    f"init_cfg=dict(type='Pretrained', checkpoint={pretrained!r})"
                )
            init_cfg = dict(type="Pretrained", checkpoint=pretrained)
        self.init_cfg = copy.deepcopy(init_cfg)

    def init_weights(self) -> None:
        """Apply ``init_cfg``; pretrained weights go through the exact loader.

        Raises:
            convnext_dense.checkpoints.load.CheckpointError: weights that cannot be read or do not fit.
        """
        cfg = self.init_cfg
        if is_pretrained(cfg):
            try:
                # a prefix chooses among several models in a file; the loader itself finds the backbone
                choice = {"prefix": cfg["prefix"]} if cfg.get("prefix") else {}
                if choice and type(self).load is not load_checkpoint:
                    kind = type(self).__name__
                    raise CheckpointError(f"init_cfg.prefix has no use for {kind}; leave it out")
                self.load(self, cfg["checkpoint"], **choice)
            except CheckpointError as error:
                hint = "init_cfg names it; use --pretrained PATH for others, --pretrained none for random"
                raise CheckpointError(f"{error}; {hint}") from error
            self.is_init = True
        else:
            super().init_weights()


@MODELS.register_module()
class ConvNeXt(ExactInit, convnext.ConvNeXt, BaseModule):
    """:class:`convnext_dense.ConvNeXt` with mmengine's ``init_cfg``, see :class:`ExactInit`."""


@MODELS.register_module()
class IsotropicConvNeXt(ExactInit, isotropic.IsotropicConvNeXt, BaseModule):
    """:class:`convnext_dense.IsotropicConvNeXt` with mmengine's ``init_cfg``, see :class:`ExactInit`.

    Its one level, of stride 16, needs the neck ``SimpleFeaturePyramid``.
    """
