"""Training loops counted in optimizer steps, which resume exactly where a checkpoint was written."""

from collections.abc import Mapping, Sequence

from mmengine.hooks import EMAHook
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from convnext_dense.mm.datasets.resumable_loader import StepLoader
from convnext_dense.mm.engine.nan_guard import NotFiniteError, check_updates, explained
from convnext_dense.mm.engine.signals import Interrupted, Interrupts
from convnext_dense.support.seeding import STEP, seed_all


class StepLoop:
    """What both loops share: one optimizer step, and evaluations that a resume does not skip.

    Attributes:
        step_of_epoch: steps done in the current epoch.
        validated: step of the run after which the last evaluation finished.
        interrupts: signals that arrived.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, accumulate: int = 1, **options) -> None:
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed)
        steps = StepLoader(dataloader, accumulate, runner.seed, runner.rank, runner.world_size)
        super().__init__(runner, steps, **options)
        self.step_of_epoch = 0
        self.validated = 0
        self.interrupts = Interrupts()

    def position(self) -> dict[str, int]:
        """Position in the run beside mmengine's ``epoch`` and ``iter``: entries of a checkpoint's meta."""
        lengths = {"epoch_length": len(self.dataloader), "step_images": self.dataloader.step_images}
        return {"step_of_epoch": self.step_of_epoch, "validated": self.validated, **lengths}

    def restore(self, meta: Mapping) -> None:
        """Restore the position from a checkpoint's ``meta``; mmengine's own has no evaluation left to do."""
        self.step_of_epoch = meta.get("step_of_epoch", 0)
        self.validated = meta.get("validated", meta["iter"])

    def run(self) -> nn.Module:
        """Train until the run's end or a signal.

        Raises:
            Interrupted: a signal came; a checkpoint was written.
            NotFiniteError: a loss or gradient is NaN or infinite.
        """
        check_updates(self.runner.optim_wrapper)
        if self.dataloader.accumulate > 1:
            # not by the config: mmengine would count a resumed run's steps as batches, and warn
            self.runner.optim_wrapper._accumulative_counts = self.dataloader.accumulate
        self.interrupts.shield(self.dataloader.loader)
        if self.runner.val_loop is not None:
            self.interrupts.shield(self.runner.val_loop.dataloader)
        with self.interrupts:
            self.runner.call_hook("before_train")
            if self._iter and not self.step_of_epoch:
                self.recall()
                self.validate()  # if the checkpoint was written before the evaluation was done
            self.train()
            self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self, idx: int, batches: Sequence[dict]) -> None:
        """Take one optimizer step with the mean gradient of ``batches``.

        Args:
            idx: number of the step in its epoch.
            batches: inputs of the model's ``train_step``.
        """
        runner = self.runner
        runner.call_hook("before_train_iter", batch_idx=idx, data_batch=batches[-1])
        if self.dataloader.accumulate > 1:
            # mmengine's counter sees this step alone, so that an epoch's last one may have fewer batches
            runner.optim_wrapper.initialize_count_status(nn.Identity(), 0, len(batches))
        logs = []
        for number, batch in enumerate(batches):
            key = (runner.seed, STEP, self._iter, number * runner.world_size + runner.rank)
            seed_all(*key)
            try:
                logs.append(runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper))
            except NotFiniteError as error:
                raise explained(error, runner, batch, key) from None
        self.step_of_epoch = idx + 1
        runner.call_hook("after_train_iter", batch_idx=idx, data_batch=batches[-1], outputs=mean_logs(logs))
        self._iter += 1

    def validate(self) -> None:
        """Evaluate if that is due after this step and not done yet."""
        self._decide_current_val_interval()
        if self.runner.val_loop is None or self.validated == self._iter or not self.is_due():
            return
        try:
            self.runner.val_loop.run()
        except Interrupted:
            for hook in self.runner.hooks:
                if isinstance(hook, EMAHook):  # mmengine's, which knows no interrupted evaluation
                    hook.after_val_epoch(self.runner)
            self.runner.call_hook("after_interrupted_val")
            raise
        self.validated = self._iter

    def recall(self) -> None:
        """Set the message hub to the last step; mmengine sets it to the next one."""
        self.runner.message_hub.update_info("iter", self._iter - 1)


@LOOPS.register_module()
class EpochStepLoop(StepLoop, EpochBasedTrainLoop):
    """mmengine's loop by epoch, which can also resume in the middle of one.

    Args:
        accumulate: batches per optimizer step; an iteration is one step.
    """

    def train(self) -> None:
        """Run the remaining epochs."""
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self.validate()

    def run_epoch(self) -> None:
        """Run the rest of the current epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        first = self.step_of_epoch
        for idx, batches in enumerate(self.dataloader.epoch(self._epoch, first), first):
            self.run_iter(idx, batches)
        self.step_of_epoch = 0  # of the next epoch, where a checkpoint that is written now resumes
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def move_to(self, step_of_epoch: int) -> None:
        """Set the position in the current epoch, which has another number of steps than before the resume."""
        validated = self.validated == self._iter
        self.step_of_epoch = step_of_epoch
        self._iter = self._epoch * len(self.dataloader) + step_of_epoch
        self.validated = self._iter if validated else -1

    def recall(self) -> None:
        """Restore the epoch as well."""
        super().recall()
        self.runner.message_hub.update_info("epoch", self._epoch - 1)

    def is_due(self) -> bool:
        """Whether an evaluation is due after the epochs done."""
        last = self._epoch == self._max_epochs
        return self._epoch >= self.val_begin and (last or self._epoch % self.val_interval == 0)


@LOOPS.register_module()
class IterStepLoop(StepLoop, IterBasedTrainLoop):
    """mmengine's loop by iteration, which finds its place in the data at once.

    Args:
        accumulate: batches per optimizer step; an iteration is one step.
    """

    def train(self) -> None:
        """Run the remaining iterations; hooks see them as one epoch."""
        self.runner.call_hook("before_train_epoch")
        steps = self.dataloader.endless(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(self._iter, next(steps))
            self.validate()
        self.runner.call_hook("after_train_epoch")

    def position(self) -> dict[str, int]:
        """Position in the run without a step of the epoch."""
        return {"validated": self.validated, "step_images": self.dataloader.step_images}

    def is_due(self) -> bool:
        """Whether an evaluation is due after the iterations done."""
        last = self._iter == self._max_iters
        return self._iter >= self.val_begin and (last or self._iter % self.val_interval == 0)


def mean_logs(logs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each logged loss over the batches of a step that have it."""
    if len(logs) == 1:
        return dict(logs[0])
    values: dict[str, list[Tensor]] = {}
    for log in logs:
        for name, value in log.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}
