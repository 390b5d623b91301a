"""The roadmap's backbones as mmengine modules in the root registry."""

import logging

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from convnext_dense.checkpoints.roadmap import load_roadmap
from convnext_dense.mm.models.backbones import ExactInit
from convnext_dense.mm.type_names import is_pretrained
from convnext_dense.models import roadmap


@MODELS.register_module()
class Roadmap(ExactInit, roadmap.Roadmap, BaseModule):
    """:class:`convnext_dense.models.roadmap.Roadmap` with mmengine's ``init_cfg``, see :class:`ExactInit`."""

    load = staticmethod(load_roadmap)

    def init_weights(self) -> None:
        """Initialise like :class:`ExactInit`; warn about frozen statistics that were not loaded."""
        if not is_pretrained(self.init_cfg) and self.norm_eval and self.step.norm == "bn":
            print_log(
                f"step={self.step.name!r} has random weights and norm_eval=True: unless a checkpoint is "
                "loaded next, its batch norms do nothing; give --pretrained PATH or "
                "--cfg-options model.backbone.norm_eval=False",
                logger="current",
                level=logging.WARNING,
            )
        super().init_weights()
