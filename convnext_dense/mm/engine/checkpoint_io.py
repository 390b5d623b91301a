"""Checkpoints that an interruption cannot damage, and the newest complete one of a folder."""

import errno
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from convnext_dense.errors import CheckpointError, UserError
from convnext_dense.mm.engine.checkpoints import read_checkpoint, read_position
from convnext_dense.mm.engine.loops import StepLoop
from convnext_dense.mm.engine.signals import Interrupted
from convnext_dense.support.command_line import SCRIPT
from convnext_dense.support.files import replacing

RECENT = "recent.pth"
"""File of the checkpoints by time and by signal; each replaces the previous one."""
DONE = "training is done"
"""Start of the last line of a run's log; after it a signal has nothing to save."""
_SAVE = 1  # less than any 128 + signal


class DiskFullError(UserError):
    """A checkpoint could not be written; earlier ones are complete."""


@register_backend("AtomicBackend")
class AtomicBackend(LocalBackend):
    """mmengine's local file backend with atomic writes, also safe after a power loss."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to a temporary file, flush it to disk, then rename it.

        Raises:
            DiskFullError: the message has the space needed and the space left.
        """
        try:
            with replacing(filepath, sync=True) as partial:
                partial.write_bytes(obj)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(Path(filepath).parent).free
            raise DiskFullError(
                f"no space for {filepath}: {len(obj) >> 20} MiB needed, {free >> 20} MiB free, or a "
                "quota is reached. Earlier checkpoints are complete: free space, then continue with --resume"
            ) from error


class _LaterRemoval(LocalBackend):
    """Delay removals until :meth:`carry_out`, because mmengine removes before it writes."""

    def __init__(self) -> None:
        self.doomed: list[Path] = []

    def remove(self, filepath: str | Path) -> None:
        """Remember ``filepath``."""
        self.doomed.append(Path(filepath))

    def carry_out(self, keep: str | None) -> None:
        """Remove the remembered files except ``keep``, which was written since."""
        for path in self.doomed:
            if str(path) != keep:
                path.unlink(missing_ok=True)
        self.doomed.clear()


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
                for partial in Path(self.out_dir).glob(".*.pth.partial"):
                    partial.unlink(missing_ok=True)
                source = Path(runner._load_from or "").parent
                if self.replaced and source.exists() and source.samefile(self.out_dir):
                    for name in {Path(name).name for name in self.replaced} - self._kept():
                        Path(self.out_dir, name).unlink(missing_ok=True)
            self.file_backend = _LaterRemoval()
        self.saved_at = time.monotonic()

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
        if isinstance(self.file_backend, _LaterRemoval):
            self.file_backend.carry_out(keep=self.last_ckpt)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record the position in the epoch, the start of the run, and the files that this one replaces.

        If the process is killed before they are removed, the resumed run removes them.
        """
        if isinstance(runner._train_loop, StepLoop):
            checkpoint["meta"].update(runner._train_loop.position(), began=self.began or runner.timestamp)
        if isinstance(self.file_backend, _LaterRemoval):
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
        if isinstance(self.file_backend, _LaterRemoval):
            self.file_backend.carry_out(keep=getattr(self, "best_ckpt_path", None))

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


# ---- choosing the checkpoint to resume from


def newest_checkpoint(folder: str | Path, to_resume: bool = True) -> tuple[Path | None, list[str]]:
    """Find the complete checkpoint in ``folder`` that is furthest in the run that began last.

    All files are checked. The name in ``last_checkpoint`` is not used: it may be that of an older file, of a
    damaged one, or of a folder that was moved since.

    Args:
        folder: a work folder.
        to_resume: accept only files with an optimizer. Otherwise weights are enough, and copies of the best
            one are left out, because they are older than they look.

    Returns:
        its path, ``None`` if there is none, and one line for each file that was skipped.
    """
    places, passed_over = {}, []
    for path in Path(folder).glob("*.pth"):
        if not to_resume and path.name.startswith("best_"):
            continue
        try:
            if meta := read_position(path, weights_do=not to_resume):
                # an older run may have left files; of two at the same step, the later one has more
                places[path] = (meta.get("began") or "", meta["iter"], path.stat().st_mtime_ns)
        except CheckpointError as error:
            passed_over.append(str(error))
    for path in sorted(places, key=places.get, reverse=True):
        try:
            read_checkpoint(path)  # compares the checksum of every tensor
        except CheckpointError as error:
            passed_over.append(str(error))
        else:
            return path, passed_over
    return None, passed_over
