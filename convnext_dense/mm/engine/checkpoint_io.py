"""Checkpoints that an interruption or a second run cannot damage, and the newest complete one of a folder."""

import errno
import shutil
import time
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend

from convnext_dense.errors import CheckpointError, UserError
from convnext_dense.mm.engine.checkpoints import read_checkpoint, read_position
from convnext_dense.support.files import free_path, replacing
from convnext_dense.support.nested import mappings

RECENT = "recent.pth"
"""File of the checkpoints by time and by signal; each replaces the previous one."""
DONE = "training is done"
"""Start of the last line of a run's log; after it a signal has nothing to save."""


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


class LaterRemoval(LocalBackend):
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
                # an epoch may have fewer steps than before, so epochs come first
                place = (meta.get("epoch", 0), meta["iter"])
                places[path] = (meta.get("began") or "", *place, path.stat().st_mtime_ns)
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


def set_aside(cfg: Config) -> str | None:
    """Move the checkpoints and the config of an earlier run into a folder of their own, for a new run.

    Nothing is moved if the new run starts from one of them.

    Args:
        cfg: config of a run from the start, with its ``work_dir``.

    Returns:
        A line for the user, ``None`` if nothing was moved.
    """
    folder = Path(cfg.work_dir)
    checkpoints = sorted(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime)
    named = [
        value for _, entry in mappings(cfg.to_dict()) for value in entry.values() if isinstance(value, str)
    ]
    starts = {Path(value).resolve() for value in named if value.endswith(".pth")}
    if not checkpoints or any(path.resolve() in starts for path in checkpoints):
        return None
    written = time.localtime(checkpoints[-1].stat().st_mtime)
    place = free_path(folder / time.strftime("run_until_%Y%m%d_%H%M%S", written))
    place.mkdir()
    for path in (*checkpoints, folder / "last_checkpoint", folder / Path(cfg.filename).name):
        if path.exists():
            path.rename(place / path.name)
    return f"{len(checkpoints)} checkpoints of an earlier run moved to {place} (--resume continues a run)"
