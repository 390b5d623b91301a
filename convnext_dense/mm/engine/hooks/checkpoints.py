"""When checkpoints are written and removed: regular ones, by time and by signal."""

import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from convnext_dense.mm.engine.checkpoint_io import DONE, RECENT, LaterRemoval
from convnext_dense.mm.engine.loops import StepLoop
from convnext_dense.mm.engine.signals import Interrupted
from convnext_dense.support.command_line import SCRIPT

_SAVE = 1  # less than any 128 + signal


@HOOKS.register_module()
class CheckpointKeeper(CheckpointHook):
    """mmengine's hook; it never has fewer complete checkpoints than it is set to keep.

    It also writes ``recent.pth``, from which a run resumes exactly: every ``minutes``, and when SIGTERM or
    Ctrl-C ends the run.

    Args:
        minutes: time between two checkpoints of any kind; 0 for regular ones only.
        options: options of mmengine's hook.
    """

    def __init__(self, *args: object, minutes: float = 30, **options: object) -> None:
        options.setdefault("backend_args", {"backend": "AtomicBackend"})
        super().__init__(*args, **options)
        self.minutes = minutes
        self.began: str | None = None
        self.replaced: list[str] = []
        self.saved_step = -1
        self.saved_at = time.monotonic()

    # ---- regular checkpoints

    def before_train(self, runner: Runner) -> None:
        """Remove files of an earlier process: half-written ones, and replaced ones not removed yet."""
        super().before_train(runner)
        if runner._resume and (last := runner.message_hub.runtime_info.get("last_ckpt")):
            # mmengine forgets it and would then not record a new best score in it
            self.last_ckpt = str(Path(self.out_dir, Path(last).name))
        if isinstance(self.file_backend, LocalBackend):
            if is_main_process():
                self._remove_leftovers(Path(runner._load_from or "").parent)
            self.file_backend = LaterRemoval()
        self.saved_at = time.monotonic()

    def _remove_leftovers(self, source: Path) -> None:
        """Remove what an earlier process in this folder left.

        Args:
            source: folder of the checkpoint that this run resumes from. The file names that it mentions are
                those of its own folder.
        """
        for partial in Path(self.out_dir).glob(".*.pth.partial"):
            partial.unlink(missing_ok=True)
        if self.replaced and source.exists() and source.samefile(self.out_dir):
            for name in {Path(name).name for name in self.replaced} - self._kept():
                Path(self.out_dir, name).unlink(missing_ok=True)

    def _kept(self) -> set[str]:
        """Names of the checkpoint files that belong to the run, and ``recent.pth``."""
        steps = self.keep_ckpt_ids if self.max_keep_ckpts > 0 else ()
        best = [getattr(self, "best_ckpt_path", None), *getattr(self, "best_ckpt_path_dict", {}).values()]
        paths = [*map(self.filename_tmpl.format, steps), *best, self.last_ckpt, RECENT]
        return {Path(path).name for path in paths if path}

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        super()._save_checkpoint_with_step(runner, step, meta)
        self._saved(runner, meta["iter"])

    def _saved(self, runner: Runner, step: int) -> None:
        self.saved_step, self.saved_at = step, time.monotonic()
        if isinstance(self.file_backend, LaterRemoval):
            self.file_backend.carry_out(keep=self.last_ckpt)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record the position in the epoch, the start of the run, and the files that this one replaces.

        If the process is killed before they are removed, the resumed run removes them.
        """
        if isinstance(runner._train_loop, StepLoop):
            checkpoint["meta"].update(runner._train_loop.position(), began=self.began or runner.timestamp)
        if isinstance(self.file_backend, LaterRemoval):
            checkpoint["meta"]["replaces"] = [path.name for path in self.file_backend.doomed]

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping) -> None:
        """Restore the position in the run."""
        if runner._resume and isinstance(runner._train_loop, StepLoop):
            runner._train_loop.restore(checkpoint["meta"])
            self.began = checkpoint["meta"].get("began")
            self.replaced = checkpoint["meta"].get("replaces", [])

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Record that this evaluation is done before mmengine's hook may write a checkpoint."""
        if isinstance(runner._train_loop, StepLoop):
            runner._train_loop.validated = runner.iter
        super().after_val_epoch(runner, metrics)
        if isinstance(self.file_backend, LaterRemoval):
            self.file_backend.carry_out(keep=getattr(self, "best_ckpt_path", None))

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping) -> None:
        """Pass over an evaluation without the figure, such as one in which nothing was detected."""
        if self.save_best and "auto" not in self.key_indicators:
            absent = [name for name in self.key_indicators if name not in metrics]
            if absent:
                runner.logger.warning(f"no best checkpoint: this evaluation reports no {absent[0]}")
                return
        super()._save_best_checkpoint(runner, metrics)

    # ---- by time and by signal

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: dict | None = None
    ) -> None:
        """Write a regular checkpoint if it is due, else ``recent.pth`` if time or a signal requires it.

        Raises:
            Interrupted: a signal came.
        """
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if not isinstance(runner.train_loop, StepLoop):
            return
        overdue = self.minutes and time.monotonic() - self.saved_at > 60 * self.minutes
        # the clocks of the ranks differ; rank 0 decides
        wanted = runner.train_loop.interrupts.agreed(_SAVE if overdue and is_main_process() else 0)
        if wanted:
            self.save_recent(runner, runner.iter + 1)
        if wanted > _SAVE:
            self._stop(runner, wanted)

    def after_val_iter(self, runner: Runner, *_: object, **__: object) -> None:
        """Stop the evaluation if a signal came; the loop restores the weights before it saves."""
        loop = runner._train_loop
        if isinstance(loop, StepLoop) and (signum := loop.interrupts.agreed()):
            raise Interrupted(signum)

    def after_interrupted_val(self, runner: Runner) -> None:
        """Save the state that was being evaluated; the resumed run evaluates it first."""
        self.save_recent(runner, runner.iter)
        self._stop(runner, runner.train_loop.interrupts.agreed())

    def save_recent(self, runner: Runner, step: int) -> None:
        """Write ``recent.pth`` unless this step already has a checkpoint."""
        if self.saved_step == step:
            return
        meta = dict(epoch=runner.epoch, iter=step)
        runner.save_checkpoint(
            self.out_dir, RECENT, meta=meta, by_epoch=False, backend_args=self.backend_args
        )
        self.saved_step, self.saved_at = step, time.monotonic()

    def _stop(self, runner: Runner, signum: int) -> None:
        interrupted = Interrupted(signum)
        runner.logger.info(
            f"{interrupted.signal.name} after step {self.saved_step}. Resume with: {resume_command(sys.argv)}"
        )
        raise interrupted

    def after_train(self, runner: Runner) -> None:
        """Remove ``recent.pth``, which the final checkpoint replaces."""
        super().after_train(runner)
        if is_main_process() and self.last_ckpt and os.path.isfile(self.last_ckpt):
            Path(self.out_dir, RECENT).unlink(missing_ok=True)
        runner.logger.info(f"{DONE}; final checkpoint: {self.last_ckpt}")


def resume_command(argv: list[str]) -> str:
    """Return the command line that resumes this run."""
    names = {argument.split("=")[0] for argument in argv}
    asked = "--resume" in names
    if "--launcher" in names:  # torchrun or srun comes before it, with its own arguments
        return "the same command" if asked else "the same command with --resume"
    # the console script has its subcommand in argv[0]; a script of tools/ is run by Python
    program = argv[0].split() if argv[0].startswith(SCRIPT) else ["python", argv[0]]
    return shlex.join([*program, *argv[1:], *([] if asked else ["--resume"])])
