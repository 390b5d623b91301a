"""A warning when the model waits for images."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class LoaderHook(Hook):
    """Warn once if the model waits for images; mmengine only logs the time.

    Args:
        window: number of measured steps, after as many for warm-up.
        share: share of the time that may be spent waiting.
    """

    priority = "VERY_LOW"  # after the timer

    def __init__(self, window: int = 50, share: float = 0.1) -> None:
        self.window = window
        self.share = share
        self.steps = 0
        self.waited = 0.0
        self.taken = 0.0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Add up the step's times; judge them when there are enough."""
        self.steps += 1
        scalars = runner.message_hub.log_scalars
        if not self.window < self.steps <= 2 * self.window or "train/data_time" not in scalars:
            return
        self.waited += scalars["train/data_time"].current()
        self.taken += scalars["train/time"].current()
        if self.steps == 2 * self.window and self.waited > self.share * self.taken:
            loader = runner.train_dataloader
            runner.logger.warning(
                f"data loading does not keep up: {self.waited / self.taken:.0%} of the time of {self.window} "
                f"steps was spent waiting; raise train_dataloader.num_workers (now {loader.num_workers}) "
                "or put the images on a faster disk"
            )
