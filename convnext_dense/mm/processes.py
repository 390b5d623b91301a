"""The device of a process, and the group of processes that it joins."""

import os
from typing import Literal, get_args

import torch
from mmengine import dist
from mmengine.config import Config, ConfigDict
from mmengine.device import utils as mmengine_device

from convnext_dense.mm.errors import UserError

Launcher = Literal["none", "pytorch", "slurm"]


def start_processes(cfg: Config, launcher: Launcher) -> int:
    """Join the process group that ``launcher`` describes; the number of processes.

    mmengine selects a CUDA device whatever the backend, so without CUDA the group
    is opened here, with gloo instead of nccl.

    Raises:
        UserError: an unknown launcher, or the launcher's environment is not there.
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
    dist_cfg = cfg.setdefault("env_cfg", ConfigDict()).setdefault("dist_cfg", ConfigDict(backend="nccl"))
    if not torch.cuda.is_available():
        dist_cfg["backend"] = "gloo"
        if launcher == "pytorch" and not dist.is_distributed():
            torch.distributed.init_process_group("gloo")
        # device_ids must stay empty on the CPU; the runner would fill in the local rank
        cfg.setdefault(
            "model_wrapper_cfg", ConfigDict(type="MMDistributedDataParallel", broadcast_buffers=False)
        )
        cfg.model_wrapper_cfg.update(
            device_ids=None, find_unused_parameters=cfg.get("find_unused_parameters", False)
        )
    elif not dist.is_distributed():
        dist.init_dist(launcher, **dist_cfg)
    return dist.get_world_size() if dist.is_distributed() else int(os.environ.get("SLURM_NTASKS", 1))


def select_device(name: str | None) -> None:
    """Make mmengine use ``name`` where it would choose by itself.

    Raises:
        UserError: a device that this torch does not have.
    """
    if name is None:
        return
    kind, _, index = name.partition(":")
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(kind):
        found = [known for known, usable in available.items() if usable]
        raise UserError(f"--device {name}: not there with torch {torch.__version__}; use one of {found}")
    mmengine_device.DEVICE = kind  # what get_device() returns
    if index:
        torch.cuda.set_device(int(index))
