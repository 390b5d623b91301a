"""Leaving a process group."""

import signal

import pytest
import torch
from mmengine import dist
from ranks import gloo_threads

from convnext_dense.mm.engine.launch import leaving_together
from convnext_dense.mm.engine.signals import Interrupted


def train_as_a_runner_does(signum: int | None) -> None:
    """Leave references to the group that no frame releases: a cycle, and the traceback of a signal."""
    cycle = [torch.distributed.group.WORLD]
    cycle.append(cycle)
    held = torch.distributed.group.WORLD
    dist.all_reduce(torch.ones(2))
    if signum is not None:
        raise Interrupted(signum)
    del held


@pytest.mark.parametrize("signum", [None, signal.SIGTERM])
def test_no_thread_of_the_group_is_left(signum):
    """A thread that releases a tensor while Python shuts down aborts the process."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    assert gloo_threads(expected=True)
    try:
        with leaving_together():
            train_as_a_runner_does(signum)
    except Interrupted as interrupted:
        assert interrupted.code == 128 + signum
        assert gloo_threads(expected=False)
    assert gloo_threads(expected=False)
    assert not dist.is_distributed()
