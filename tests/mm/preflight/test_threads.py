"""Files that are checked in threads: what Ctrl-C keeps, and that it ends."""

import itertools
import os
import signal
import threading

import pytest
from waiting import wait_until

from convnext_dense.mm.preflight.threads import AT_ONCE, in_threads, noticed_ctrl_c


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C raises, also where the tests run as a background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_everything_is_looked_at_once():
    looked = []
    assert in_threads(looked.append, range(3 * AT_ONCE + 1), "checking", bar=False) == 3 * AT_ONCE + 1
    assert sorted(looked) == list(range(3 * AT_ONCE + 1))


def test_ctrl_c_keeps_what_was_found():
    """Items that come after the signal wait for it to arrive, whatever the order of the threads."""
    looked, numbers, before = [], itertools.count(1), signal.getsignal(signal.SIGINT)

    def look(item: int) -> None:
        looked.append(item)
        number = next(numbers)
        if number == 700:
            os.kill(os.getpid(), signal.SIGINT)
        if number >= 700:
            wait_until(lambda: signal.getsignal(signal.SIGINT) is before)

    done = in_threads(look, range(5000), "checking", bar=False)
    assert 0 < done <= len(looked) <= 700 + AT_ONCE
    assert len(set(looked)) == len(looked)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_first_ctrl_c_raises_nothing_and_the_second_does():
    """An exception at any instruction could leave a lock of the pool taken for ever."""
    with pytest.raises(KeyboardInterrupt), noticed_ctrl_c() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_handlers_stay():
    found = []
    before = signal.getsignal(signal.SIGINT)

    def run() -> None:
        found.append(in_threads(lambda _: None, range(3), "checking", bar=False))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [3] and signal.getsignal(signal.SIGINT) is before


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with noticed_ctrl_c() as stop:
        signal.raise_signal(signal.SIGINT)
    assert not stop.is_set()
