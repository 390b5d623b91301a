"""Faster evaluations, from weights that are folded for the time of one."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from convnext_dense.layers.fused_block import fuse, unfuse


@HOOKS.register_module()
class FuseHook(Hook):
    """Fold the blocks' weights during an evaluation; see :mod:`convnext_dense.layers.fused_block`.

    Weights are folded at the first batch: before it they may still be loaded, or replaced by averaged ones,
    which folded weights would not follow. Folding is undone before the original weights are restored.
    """

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Fold the weights that the test runs with."""
        if batch_idx == 0:
            fuse(runner.model)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Fold the weights that an evaluation during training runs with."""
        if batch_idx == 0:
            fuse(runner.model)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Compute from the parameters again."""
        unfuse(runner.model)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Compute from the parameters again."""
        unfuse(runner.model)

    def after_interrupted_val(self, runner: Runner) -> None:
        """Do the same as after a finished evaluation."""
        unfuse(runner.model)
