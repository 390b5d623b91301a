"""A function over many files in threads, which Ctrl-C ends early."""

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Event, current_thread, main_thread
from typing import TypeVar

from tqdm import tqdm

AT_ONCE = 512  # items given to the threads at a time; Ctrl-C waits only for those in progress
T = TypeVar("T")


@contextmanager
def noticed_ctrl_c() -> Iterator[Event]:
    """Yield an event that the first Ctrl-C sets; the second has its usual effect.

    Python's own exception may come at any instruction, also between the taking of a lock of the pool and the
    block that releases it. The pool's threads then wait for that lock for ever.
    """
    stop = Event()
    before = signal.getsignal(signal.SIGINT)
    # no handler can be set outside the main thread, where no exception comes; a background job ignores Ctrl-C
    if current_thread() is not main_thread() or before is signal.SIG_IGN:
        yield stop
        return

    def note(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def in_threads(look: Callable[[T], object], items: Sequence[T], title: str, bar: bool) -> int:
    """Call ``look`` on all ``items`` in random order; return how many were done before Ctrl-C.

    Args:
        look: function of one item.
        items: what it is called on.
        title: of the progress bar.
        bar: show the bar also where there is no terminal.
    """
    order = iter(random.Random(0).sample(items, len(items)))
    done = 0
    threads = min(16, os.cpu_count() or 1)
    # a separate bar, not around the loop: it must be erased when Ctrl-C leaves the loop
    with (
        noticed_ctrl_c() as stop,
        ThreadPoolExecutor(threads) as pool,
        tqdm(
            total=len(items),
            desc=f"{title} (Ctrl-C skips)",
            unit=" files",
            disable=None if bar else True,
            leave=False,
        ) as shown,
    ):
        while not stop.is_set() and (some := list(islice(order, AT_ONCE))):
            for _ in pool.map(look, some):
                done += 1
                shown.update()
                if stop.is_set():
                    pool.shutdown(wait=True, cancel_futures=True)
                    break
    return done
