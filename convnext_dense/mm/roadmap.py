"""The roadmap's backbones as mmengine modules in the root registry."""

import copy
import logging

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from convnext_dense import roadmap
from convnext_dense.errors import CheckpointError
from convnext_dense.roadmap_weights import load_roadmap


@MODELS.register_module()
class Roadmap(roadmap.Roadmap, BaseModule):
    """:class:`convnext_dense.roadmap.Roadmap` with mmengine's ``init_cfg``.

    ``init_cfg=dict(type='Pretrained', checkpoint=PATH_OR_URL)`` loads exactly: a
    missing, unknown or misshapen tensor is an error.

    Args:
        init_cfg: mmengine's initialisation config; ``None`` keeps the random
            initialisation of the core class.
        **kwargs: arguments of the core class.

    Raises:
        ValueError: an argument that the core class refuses.
    """

    def __init__(self, init_cfg: dict | list[dict] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.init_cfg = copy.deepcopy(init_cfg)

    def init_weights(self) -> None:
        """Apply ``init_cfg``; pretrained weights go through the exact loader.

        Raises:
            convnext_dense.checkpoint.CheckpointError: weights that cannot be read or do not fit.
        """
        cfg = self.init_cfg
        if isinstance(cfg, dict) and cfg["type"] == "Pretrained":
            try:
                load_roadmap(self, cfg["checkpoint"])
            except CheckpointError as error:
                hint = "init_cfg names it; --pretrained PATH takes others, --pretrained none random ones"
                raise CheckpointError(f"{error}; {hint}") from error
            self.is_init = True
            return
        if self.norm_eval and self.step.norm == "bn":
            print_log(
                f"step={self.step.name!r} has random weights and norm_eval=True: unless a checkpoint is "
                "loaded next, its batch norms do nothing; give --pretrained PATH or "
                "--cfg-options model.backbone.norm_eval=False",
                logger="current",
                level=logging.WARNING,
            )
        super().init_weights()
