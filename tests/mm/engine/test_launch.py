"""The GPU of a process, and joining and leaving a process group."""

import os
import signal

import pytest
import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.device import utils as mmengine_device
from ranks import gloo_threads

from convnext_dense.errors import UserError
from convnext_dense.mm.engine.launch import gpu_of_process, leaving_together, select_device, start_processes
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
    if not gloo_threads(expected=True):
        torch.distributed.destroy_process_group()
        pytest.skip(f"torch {torch.__version__} does not name its threads")
    try:
        with leaving_together():
            train_as_a_runner_does(signum)
    except Interrupted as interrupted:
        assert interrupted.code == 128 + signum
        assert gloo_threads(expected=False)
    assert gloo_threads(expected=False)
    assert not dist.is_distributed()


# ---- GPUs, on a machine that seems to have two


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs, of which mmengine uses the first; what would touch them is recorded."""
    touched = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: touched.append(f"cuda:{index}"))
    monkeypatch.setattr(mmengine_device, "DEVICE", "cuda")
    monkeypatch.setattr(dist, "init_dist", lambda launcher, **options: touched.append((launcher, options)))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **options: touched.append(backend)
    )
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("SLURM_PROCID", "3")
    return touched


@pytest.mark.parametrize(
    ("name", "device", "touched"),
    [
        (None, "cuda", []),
        ("cuda", "cuda", []),
        ("cuda:1", "cuda", ["cuda:1"]),
        ("cuda:0", "cuda", ["cuda:0"]),
        ("cpu", "cpu", []),
    ],
)
def test_a_device_by_name(two_gpus, name, device, touched):
    select_device(name)
    assert mmengine_device.get_device() == device
    assert two_gpus == touched


@pytest.mark.parametrize("name", ["cuda:2", "cuda:x", "cuda:", "cuda:-1", "cpu:0", "mps:0", "tpu"])
def test_a_device_that_is_not_there_is_one_line(two_gpus, name):
    with pytest.raises(UserError, match=rf"--device {name}: not available .*'cpu', 'cuda'"):
        select_device(name)
    assert not two_gpus


def test_one_gpu_for_all_processes_of_a_launcher_is_refused(two_gpus):
    with pytest.raises(UserError, match=r"--device cuda:1: .*CUDA_VISIBLE_DEVICES"):
        select_device("cuda:1", "pytorch")
    select_device("cuda", "pytorch")
    assert not two_gpus


def test_processes_join_with_nccl_on_gpus_and_with_gloo_elsewhere(two_gpus):
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(backend="nccl"))))
    start_processes(cfg, "pytorch")
    assert two_gpus == [("pytorch", {"backend": "nccl"})]
    assert "model_wrapper_cfg" not in cfg
    del two_gpus[:]
    select_device("cpu")  # on the same machine: nccl has no operation for tensors on the CPU
    start_processes(cfg, "pytorch")
    assert two_gpus == ["gloo"]
    assert cfg.model_wrapper_cfg.device_ids is None


def test_more_processes_than_gpus_is_one_line(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"process 2 .* 2 visible.*--nproc_per_node=2"):
        start_processes(Config(), "pytorch")
    assert not two_gpus


@pytest.mark.parametrize(("local_rank", "visible", "gpu"), [(0, 8, 0), (7, 8, 7), (0, 1, 0), (3, 1, 0)])
def test_slurm_may_bind_one_gpu_to_each_task(two_gpus, monkeypatch, local_rank, visible, gpu):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setenv("SLURM_LOCALID", str(local_rank))
    start_processes(Config(), "slurm")
    assert two_gpus == [("slurm", {"backend": "nccl"})]
    assert os.environ["SLURM_LOCALID"] == str(gpu)  # where mmengine looks


def test_slurm_with_too_few_gpus_is_one_line():
    with pytest.raises(UserError, match="--ntasks-per-node=4"):
        gpu_of_process("slurm", 4, visible=4)
