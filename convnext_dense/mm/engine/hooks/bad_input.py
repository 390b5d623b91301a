"""Which files training left out."""

from pathlib import Path

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from convnext_dense.mm.datasets.transforms import FIELD, samples_of
from convnext_dense.support.files import write_text
from convnext_dense.support.modules import unwrapped


@HOOKS.register_module()
class BadInputHook(Hook):
    """Warn once about every file that training left out, and report how many there were.

    Faults come with the samples, so every batch is inspected as it enters the model, also within an
    accumulated step. Several processes exchange their findings at the interval.

    Args:
        interval: steps between two exchanges among several processes.
        named: number of files that get their own line; the rest is counted and listed in ``bad_input.txt``.
    """

    def __init__(self, interval: int = 50, named: int = 20) -> None:
        self.interval = interval
        self.named = named
        self.new: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.logged = 0
        self.handle = None

    def before_train(self, runner: Runner) -> None:
        """Start to inspect the batches."""
        model = unwrapped(runner.model)
        self.handle = model.data_preprocessor.register_forward_pre_hook(self._look)

    def _look(self, module: object, args: tuple) -> None:
        for sample in samples_of(args[0]):
            for path, message in sample.metainfo.get(FIELD, ()):
                if path not in self.known:
                    self.new.setdefault(path, message)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Warn about new files."""
        if runner.world_size == 1 or self.every_n_train_iters(runner, self.interval):
            self.warn(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Report how many there were, if there are more than last time."""
        self.warn(runner)
        if len(self.known) == self.logged or runner.rank != 0:
            return
        self.logged = len(self.known)
        write_text(Path(runner.work_dir, "bad_input.txt"), "\n".join(sorted(self.known.values())) + "\n")
        runner.logger.warning(
            f"{self.logged} images could not be used and were replaced by others: first "
            f"{next(iter(self.known.values()))}; all of them: {runner.work_dir}/bad_input.txt"
        )

    def after_train(self, runner: Runner) -> None:
        """Stop inspecting the batches."""
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

    def warn(self, runner: Runner) -> None:
        """Log one line per file of all processes, up to ``named`` lines."""
        found = dist.all_gather_object(self.new) if runner.world_size > 1 else [self.new]
        self.new = {}
        for path, message in (item for part in found for item in part.items()):
            if path in self.known:
                continue
            self.known[path] = message
            if len(self.known) <= self.named:
                runner.logger.warning(f"bad input, another image takes its place: {message}")
            if len(self.known) == self.named:
                runner.logger.warning("further bad input is counted but no longer logged here")
