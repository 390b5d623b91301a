"""The main process and its loaders' workers record the first signal; other children are left alone."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
from torch.utils.data import DataLoader, Dataset
from waiting import HANGS

from convnext_dense.mm.engine.signals import Interrupts


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_acts_as_before(signum, capfd):
    before = signal.signal(signum, acts := lambda *_: calls.append(1))
    calls = []
    try:
        with Interrupts() as interrupts:
            assert interrupts.agreed() == 0 and interrupts.agreed(1) == 1
            signal.raise_signal(signum)
            assert interrupts.agreed(1) == signum and not calls
            assert "again to stop at once" in capfd.readouterr().err
            signal.raise_signal(signum)
            assert calls == [1]
        assert signal.getsignal(signum) is acts
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_survives_a_signal_before_its_handlers_are_there(signum):
    """A signal to the group may come while a worker starts, as at each evaluation."""
    loader = DataLoader(range(4), num_workers=2, worker_init_fn=lambda _: os.kill(os.getpid(), signum))
    with Interrupts() as interrupts:
        interrupts.shield(loader)
        assert [int(x) for x in loader] == [0, 1, 2, 3]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
        assert not interrupts.received


def test_a_loader_without_workers_has_nothing_to_shield():
    loader = DataLoader(range(2))
    Interrupts().shield(loader)
    assert [int(x) for x in loader] == [0, 1]


# ---- children of other code


class Forks(Dataset):
    """Each sample is the exit status of a forked process: 1 if SIGTERM has its default effect there."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        child = os.fork()
        if child == 0:
            os._exit(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_forked_child_does_not_record(workers):
    """Neither one of the main process nor one of a loader's worker."""
    loader = DataLoader(Forks(), num_workers=workers)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with Interrupts() as interrupts:
            interrupts.shield(loader)
            assert [int(status) for status in loader] == [1, 1]
            assert signal.getsignal(signal.SIGTERM) == interrupts._note, "the parent still records"
    finally:
        signal.signal(signal.SIGTERM, before)


def work_on(started) -> None:
    started.release()
    time.sleep(10 * HANGS)


def test_a_pool_of_an_evaluator_ends(capfd):
    """mmdet's ``eval_map`` opens one and leaves it to the garbage collector, which terminates it."""
    context = multiprocessing.get_context("fork")
    started = context.Semaphore(0)
    with Interrupts() as interrupts:
        pool = context.Pool(2, work_on, (started,))
        processes = list(pool._pool)
        try:
            assert all(started.acquire(timeout=HANGS) for _ in processes)
            ender = threading.Thread(target=pool.terminate, daemon=True)
            ender.start()
            ender.join(HANGS)
            assert not ender.is_alive()
            assert [process.exitcode for process in processes] == [-signal.SIGTERM] * 2
        finally:  # a test that fails must not leave them
            for process in processes:
                process.kill()
        assert not interrupts.received
    assert "saving" not in capfd.readouterr().err
