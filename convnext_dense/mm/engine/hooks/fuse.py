"""Faster evaluations, from weights that are folded for the time of one."""

from collections.abc import Callable

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from convnext_dense.mm.models.folded_norms import fold_model


@HOOKS.register_module()
class FuseHook(Hook):
    """Fold the blocks' weights and the heads' batch norms during an evaluation.

    Weights are folded at the first batch: before it they may still be loaded, or replaced by averaged ones,
    which folded weights would not follow. Folding is undone before the original weights are restored.
    """

    def __init__(self) -> None:
        self._undo: Callable[[], None] = lambda: None

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Fold the weights that the test runs with."""
        if batch_idx == 0:
            self._undo = fold_model(runner.model)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Fold the weights that an evaluation during training runs with."""
        if batch_idx == 0:
            self._undo = fold_model(runner.model)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Compute from the parameters again."""
        self._undo()

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Compute from the parameters again."""
        self._undo()

    def after_interrupted_val(self, runner: Runner) -> None:
        """Do the same as after a finished evaluation."""
        self._undo()
