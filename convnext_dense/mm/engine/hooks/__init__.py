"""What happens around a step, an evaluation or a run; importing this folder registers every hook.

``checkpoints`` (when checkpoints are written and removed), ``bad_input`` (files that training left
out), ``fuse`` (faster evaluations), ``group_rates`` (the learning rate of each layer, in the log), ``loader``
(a warning when the model waits for images), ``pictures`` (one picture per test image).

:class:`convnext_dense.mm.engine.fsdp.WholeModelHook` is not here: it is half of a pair with its runner, which
registers it.
"""

from convnext_dense.mm.engine.hooks.bad_input import BadInputHook
from convnext_dense.mm.engine.hooks.checkpoints import CheckpointKeeper
from convnext_dense.mm.engine.hooks.fuse import FuseHook
from convnext_dense.mm.engine.hooks.group_rates import GroupRatesHook
from convnext_dense.mm.engine.hooks.loader import LoaderHook
from convnext_dense.mm.engine.hooks.pictures import PicturesHook

__all__ = ["BadInputHook", "CheckpointKeeper", "FuseHook", "GroupRatesHook", "LoaderHook", "PicturesHook"]
