"""Locks between processes: one writes a file while the others wait.

A lock is taken on an empty hidden file ``.NAME.lock`` beside the file, so that all who share the folder
meet there; the system frees the lock of a killed process. The hidden file stays. Some releases of filelock
remove it and others do not; if it were removed here as well, that could hit the file that the next process
has just locked, and two processes would write at once.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from convnext_dense.errors import reason

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Wait for the lock of ``path``, hold it while the context lasts, and yield whether there is one.

    There is none where the file system has no locks, where the folder is read-only, or where the hidden file
    belongs to a user who shares no files. The caller then writes so that it needs none.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    held = _acquired(lock, path)
    try:
        yield held
    finally:
        lock.release()  # does nothing without a lock


def _acquired(lock: FileLock, path: Path) -> bool:
    """Wait for ``lock`` without limit; return whether it could be had."""
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("%s: waiting for another process that writes it", path)
            lock.acquire()
    except OSError as error:
        logger.info("%s: no lock (%s)", path, reason(error))
        return False
    return True
