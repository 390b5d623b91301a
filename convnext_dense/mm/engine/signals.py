"""Handling of SIGTERM and Ctrl-C between two steps, at the same step on all ranks."""

import contextlib
import mmap
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkContext, ForkProcess
from types import FrameType

import torch
import torch.distributed as torch_dist
from torch.utils.data import DataLoader

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """A signal ended the run after its checkpoint; ``code`` is the shell's status, 128 + the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signal = signal.Signals(signum)


class Interrupts:
    """Record the first SIGTERM or SIGINT; the second one has its usual effect.

    Both are recorded in this process alone: a child that other code forks gets the handlers from before.
    Workers of loaders given to :meth:`shield` are ours, and ignore both signals, because a terminal, torchrun
    and Slurm send them to all processes, and the last step needs its data. After the block they obey, because
    Python ends its children with these signals.

    Example::

        with Interrupts() as interrupts:
            for step in steps:
                train(step)
                if signum := interrupts.agreed():
                    raise Interrupted(signum)

    Attributes:
        received: number of the signal, 0 if none came.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, object] = {}
        self._group = None
        self._main = os.getpid()
        self._left = mmap.mmap(-1, 1)  # shared with the processes that are forked

    def __enter__(self) -> "Interrupts":
        self._left[0] = 0
        distributed = torch_dist.is_available() and torch_dist.is_initialized()
        if distributed and torch_dist.get_backend() != "gloo":
            # agreeing on the CPU saves the accelerator one synchronisation per step
            self._group = torch_dist.new_group(backend="gloo")
        with contextlib.suppress(ValueError):  # not the main thread: the caller handles signals
            self._handle_by(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._left[0] = 1
        self.restore()

    def _handle_by(self, handler: Callable[[int, FrameType | None], None]) -> None:
        _handling.append(self)
        for signum in SIGNALS:
            self._before[signum] = signal.signal(signum, handler)

    def restore(self) -> None:
        """Set the handlers from before again."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()
        if self in _handling:
            _handling.remove(self)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        self.restore()
        # no logger: the signal may have come while it held its lock
        name = signal.Signals(signum).name
        os.write(2, f"\n{name}: saving after this step; send it again to stop at once\n".encode())

    def shield(self, loader: DataLoader) -> None:
        """Make workers that ``loader`` starts from now on ignore the signals of the whole group."""
        context = loader.multiprocessing_context or multiprocessing
        if loader.num_workers and context.get_start_method() == "fork":  # others share no memory with us
            loader.worker_init_fn = partial(self._start_worker, loader.worker_init_fn)
            loader.multiprocessing_context = _HoldingContext()

    def _start_worker(self, before: Callable[[int], None] | None, worker_id: int) -> None:
        if before is not None:
            before(worker_id)
        threading.Thread(target=self._end_with_main, daemon=True).start()
        self._handle_by(self._obey_when_left)  # here, because torch sets handlers of its own before this
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _obey_when_left(self, signum: int, frame: FrameType | None) -> None:
        if self._left[0]:
            os._exit(0)

    def _end_with_main(self) -> None:
        """End a worker without its parent: torch's watchdog cannot while the pipe to it is full."""
        while os.getppid() == self._main:
            time.sleep(2)
        os._exit(1)

    def agreed(self, also: int = 0) -> int:
        """Return the largest of ``also`` and the signal's number over all ranks, the same on each."""
        value = max(self.received, also)
        if not torch_dist.is_available() or not torch_dist.is_initialized():
            return value
        largest = torch.tensor(value)
        torch_dist.all_reduce(largest, torch_dist.ReduceOp.MAX, group=self._group)
        return int(largest)


# ---- processes that are forked


_handling: list[Interrupts] = []  # those whose handlers are set in this process


def _be_absent_in_child() -> None:
    """Restore handlers in a process that was just forked, as if this module were not there.

    A pool ends its processes with SIGTERM: one that recorded it and went on would make the pool wait forever.
    """
    for interrupts in list(_handling):
        interrupts.restore()


os.register_at_fork(after_in_child=_be_absent_in_child)  # once: Python cannot take it back


class _HoldingProcess(ForkProcess):
    """Start with the signals blocked: between the fork and our handlers torch's own would end it."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _HoldingContext(ForkContext):
    Process = _HoldingProcess
