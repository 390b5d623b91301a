"""The learning rate of each layer, in the log."""

from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner


@HOOKS.register_module()
class GroupRatesHook(Hook):
    """Log the learning rate of every layer of a layer-wise decay as ``lr/layer 3``.

    mmengine logs only the rate of the first group, which is the smallest. Recipes with a single rate need no
    more. The terminal output does not change.
    """

    priority = "VERY_LOW"  # after the losses are recorded

    def before_train(self, runner: Runner) -> None:
        """Find out when mmengine logs, and the first group of each layer."""
        intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self.interval = intervals[0] if intervals else 50
        optimizer = getattr(runner.optim_wrapper, "optimizer", None)  # several optimizers have none in common
        self.param_groups = optimizer.param_groups if optimizer else []
        self.first_of: dict[int, int] = {}  # layer -> number of its first group
        for number, group in enumerate(self.param_groups):
            if "layer_id" in group:
                self.first_of.setdefault(group["layer_id"], number)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Write the rates beside the losses."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            due = self.every_n_inner_iters(batch_idx, self.interval)
        else:
            due = self.every_n_train_iters(runner, self.interval)
        if due and len(self.first_of) > 1:
            layers = sorted(self.first_of.items())
            rates = {f"lr/layer {layer}": self.param_groups[i]["lr"] for layer, i in layers}
            runner.visualizer.add_scalars(rates, step=runner.iter + 1)
