"""The device of a process, and the group of processes that it joins."""

import contextlib
import gc
import os
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
from mmengine import dist
from mmengine.config import Config, ConfigDict
from mmengine.device import utils as mmengine_device
from torch.distributed.rendezvous import rendezvous

from convnext_dense.errors import UserError
from convnext_dense.mm.engine.signals import Interrupted

Launcher = Literal["none", "pytorch", "slurm"]


def start_processes(cfg: Config, launcher: Launcher) -> int:
    """Join the process group that ``launcher`` describes and return the number of processes.

    mmengine selects a CUDA device whatever the backend, so for a run on another device the group is opened
    here, with gloo instead of nccl; call :func:`select_device` first.

    Raises:
        UserError: an unknown launcher, its environment is missing, or more processes than GPUs.
    """
    if launcher not in get_args(Launcher):
        raise UserError(f"launcher={launcher!r}; use one of {get_args(Launcher)}")
    cfg.launcher = launcher
    if launcher == "none":
        return 1
    needed = {"pytorch": "RANK", "slurm": "SLURM_PROCID"}[launcher]
    if needed not in os.environ:
        command = {"pytorch": "torchrun --nproc_per_node=N", "slurm": "srun"}[launcher]
        raise UserError(f"--launcher {launcher} needs ${needed}: start with `{command} tools/train.py ...`")
    # from depthwise weights: their one input channel may have any stride, so nothing is copied
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    dist_cfg = cfg.setdefault("env_cfg", ConfigDict()).setdefault("dist_cfg", ConfigDict(backend="nccl"))
    if mmengine_device.get_device() != "cuda":
        dist_cfg["backend"] = "gloo"
        if not dist.is_distributed():
            if launcher == "slurm":
                os.environ.update(slurm_variables(os.environ))
            torch.distributed.init_process_group("gloo", **this_attempt())
        # device_ids must stay empty on the CPU; the runner would fill in the local rank
        cfg.setdefault(
            "model_wrapper_cfg", ConfigDict(type="MMDistributedDataParallel", broadcast_buffers=False)
        )
        cfg.model_wrapper_cfg.update(
            device_ids=None, find_unused_parameters=cfg.get("find_unused_parameters", False)
        )
    elif not dist.is_distributed():
        rank_name = {"pytorch": "LOCAL_RANK", "slurm": "SLURM_LOCALID"}[launcher]
        if rank_name in os.environ:  # mmengine takes the GPU of this number
            gpu = gpu_of_process(launcher, int(os.environ[rank_name]), torch.cuda.device_count())
            os.environ[rank_name] = str(gpu)
        dist.init_dist(launcher, **dist_cfg, **this_attempt())
    return dist.get_world_size()


@contextlib.contextmanager
def leaving_together() -> Iterator[None]:
    """Leave the process group after a block that ended normally, or that a signal ended in all processes.

    A thread of gloo that frees a tensor while Python shuts down aborts the process, so the group must be
    closed before that. A process that leaves early would break the connections of the others, so all wait.
    After an error the others are at different points of the code, and there is no wait.
    """
    try:
        yield
    except Interrupted as interrupted:
        traceback.clear_frames(interrupted.__traceback__)  # they refer to the runner
        _leave()
        raise
    _leave()


def _leave() -> None:
    if dist.is_distributed():
        dist.barrier()
        torch.distributed.destroy_process_group()
        gc.collect()  # a runner's cycles refer to the group, and its last reference joins the threads


def this_attempt() -> dict[str, object]:
    """Arguments of ``init_process_group`` that separate this attempt from processes that ended.

    torchrun restarts processes with the same key-value store. A process that is faster than the others finds
    their old addresses and waits for them until its timeout. The agents of several nodes count restarts
    separately, so there torchrun must open a new store (docs/distributed.md).
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE"):
        return {}
    store, rank, world_size = next(rendezvous("env://"))
    store = torch.distributed.PrefixStore(f"attempt {attempt}", store)
    return dict(store=store, rank=rank, world_size=world_size)


def slurm_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Variables of ``srun`` in torch's names; mmengine's own translation selects a CUDA device.

    ``MASTER_ADDR`` and ``MASTER_PORT`` are kept where they are set, as tools/slurm.sh does.
    """
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env["SLURM_NTASKS"],
        "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": env.get("MASTER_ADDR") or env.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
        "MASTER_PORT": env.get("MASTER_PORT") or "29500",
    }


def gpu_of_process(launcher: Launcher, local_rank: int, visible: int) -> int:
    """Number of a process's GPU among those that it sees: its own, or 0 where Slurm binds one GPU to it.

    Args:
        launcher: who started the process.
        local_rank: number of the process on its machine.
        visible: GPUs that the process sees.

    Raises:
        UserError: there is none for it; two processes with nccl cannot share one.
    """
    if launcher == "slurm" and visible == 1:  # --gpus-per-task=1
        return 0
    if local_rank >= visible:
        few = {"pytorch": f"--nproc_per_node={visible}", "slurm": f"--ntasks-per-node={visible}"}[launcher]
        raise UserError(
            f"process {local_rank} of this machine has no GPU, {visible} visible: start at most as many "
            f"processes ({few}), or use --device cpu"
        )
    return local_rank


def select_device(name: str | None, launcher: Launcher = "none") -> None:
    """Make mmengine use ``name`` where it would choose by itself.

    Args:
        name: ``cpu``, ``mps``, ``cuda`` or ``cuda:N``; ``None`` leaves the choice to mmengine.
        launcher: who started this process.

    Raises:
        UserError: a device that this torch does not have, or one GPU for all processes of a launcher.
    """
    if name is None:
        return
    kind, _, index = name.partition(":")
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    numbered = kind == "cuda" and index.isdecimal() and int(index) < torch.cuda.device_count()
    if not available.get(kind) or (":" in name and not numbered):
        found = [known for known, usable in available.items() if usable]
        raise UserError(f"--device {name}: not available with torch {torch.__version__}; use one of {found}")
    if numbered and launcher != "none":
        raise UserError(
            f"--device {name}: with --launcher each process has a GPU of its own; use --device cuda, and "
            "CUDA_VISIBLE_DEVICES to choose among the GPUs"
        )
    mmengine_device.DEVICE = kind  # what get_device() returns
    if numbered:
        torch.cuda.set_device(int(index))
