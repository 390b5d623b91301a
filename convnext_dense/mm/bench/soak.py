"""Training under faults (random kills, a slow disk, a full disk) compared with a run without faults."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from convnext_dense.mm.engine.checkpoint_io import DONE, newest_checkpoint
from convnext_dense.mm.engine.checkpoints import read_checkpoint
from convnext_dense.recipes import config_path
from convnext_dense.support.files import write_text

TRAIN = ("-m", "convnext_dense", "train")
OPTIONS = ("--seed", "3", "--ema", "0.01", "--checkpoint-minutes", "0.03", "--device", "cpu", "--resume")
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
# checkpoint entries that belong to the process and may differ between runs
MAY_DIFFER = re.compile(
    r"/(time|data_time|experiment_name|mmengine_version|began|replaces|eta|cfg|last_ckpt|best_ckpt|filename)$"
)
_STEP = re.compile(r"Iter\(train\) \[ *(\d+)/|Epoch\(train\) +\[(\d+)\]\[ *(\d+)/")

# Programs that train on a disk with faults; the product has no hook for them.
SLOW_DISK = "real = os.fsync; os.fsync = lambda handle: (time.sleep(0.7), real(handle))[1]"
FULL_DISK = """calls = []
def full(handle, real=os.fsync):
    calls.append(handle)
    if len(calls) > 3: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(handle)
os.fsync = full"""
_PROGRAM = """import errno, os, sys, time
from convnext_dense.cli import main
{fault}
main(["train", *sys.argv[1:]])"""

_COMMON = """
_base_ = ["{base}"]
train_dataloader = dict(batch_size=2, num_workers=2{sampler})
val_dataloader = dict(num_workers=1)
auto_scale_lr = dict(base_batch_size=4)  # two batches per step
param_scheduler = [dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end={steps})]
"""
SEGMENTATION = """
train_cfg = dict(max_iters={steps}, val_interval={part})
default_hooks = dict(
    logger=dict(interval=1), checkpoint=dict(interval={part}, max_keep_ckpts=2, save_best="mIoU"))
"""
DETECTION = """
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=4, val_interval=2)
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=2, save_best="coco/bbox_mAP"))
"""
SMALL = """
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(_delete_=True, depths=[1, 1, 1, 1], dims=[8, 16, 24, 32])),
    decode_head=dict(in_channels=[8, 16, 24, 32], channels=8),
    auxiliary_head=dict(in_channels=24, channels=8))
"""


class SoakError(AssertionError):
    """Training did not behave as promised; the message says what was found."""


@dataclass(frozen=True)
class Case:
    """A recipe in its own folder.

    Attributes:
        config: config file.
        data: data set in the recipe's layout.
        last: name of the final checkpoint.
    """

    config: Path
    data: Path
    last: str


class Kill(NamedTuple):
    """One line of the table: what ended a process, at which step, and with which status."""

    signal: str
    to: str
    reached: str
    status: int
    seconds: float


def make_case(task: str, folder: Path, shapes: Path, steps: int, small: bool = False) -> Case:
    """Make a case: ``segmentation`` by iterations or ``detection`` over four epochs, ``steps`` steps in all.

    Args:
        task: ``segmentation`` or ``detection``.
        folder: folder for the config.
        shapes: data set folder written by :func:`convnext_dense.data.synthetic.make_shapes`.
        steps: optimizer steps; for detection, the number of training scenes sets them.
        small: use a small model and scenes of 64 pixels, for tests.
    """
    segments = task == "segmentation"
    base = config_path("demo/upernet_shapes" if segments else "demo/mask_rcnn_shapes")
    sampler = "" if segments else ', sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True)'
    text = _COMMON + (SEGMENTATION if segments else DETECTION)
    text = text.format(base=base, steps=steps, part=max(steps // 4, 1), sampler=sampler)
    config = folder / f"{task}.py"
    write_text(config, text + (SMALL if small else ""))
    last = f"iter_{steps}.pth" if segments else "epoch_4.pth"
    return Case(config, shapes / ("ade20k" if segments else "coco"), last)


# ---- one process


class Training:
    """A training process in its own session; its output is in ``log``."""

    def __init__(self, case: Case, work_dir: Path, fault: str = "") -> None:
        program = ["-c", _PROGRAM.format(fault=fault)] if fault else TRAIN
        command = [sys.executable, *program, case.config, "--data-root", case.data]
        command += ["--work-dir", work_dir, *OPTIONS]
        work_dir.mkdir(parents=True, exist_ok=True)
        self.work_dir = work_dir
        self.log = work_dir.with_name(f"{work_dir.name}.log")
        self.began = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": "1", **os.environ},
                start_new_session=True,
            )

    def reached(self) -> str:
        """The last step in the log, such as ``17`` or ``epoch 2, 5``."""
        found = _STEP.findall(self.log.read_text(errors="replace"))
        if not found:
            return "start"
        iteration, epoch, step = found[-1]
        return iteration or f"epoch {epoch}, {step}"

    def wait(self, timeout: float = 600) -> int:
        """Exit status, after making sure that nothing is left behind.

        Raises:
            SoakError: a process of the session still runs, or a partial file is there after a clean end.
        """
        status = self.process.wait(timeout)
        deadline = time.monotonic() + 10
        while left := session_processes(self.process.pid):
            if time.monotonic() > deadline:
                raise SoakError(f"processes {left} are left behind with status {status}: {self.log}")
            time.sleep(0.2)
        if status != -signal.SIGKILL and (partial := list(self.work_dir.glob(".*.partial"))):
            raise SoakError(f"{partial[0]} is left behind with status {status}")
        return status


def session_processes(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def run_through(case: Case, work_dir: Path) -> Path:
    """Train to the end; return the final checkpoint.

    Raises:
        SoakError: training ended with an error.
    """
    training = Training(case, work_dir)
    if status := training.wait():
        raise SoakError(f"training ended with status {status}: {training.log}")
    return work_dir / case.last


# ---- faults


def kill_at_random(case: Case, work_dir: Path, kills: int, rng: random.Random) -> Iterator[Kill]:
    """Start, kill and restart ``kills`` times; every third start is on a slow disk and killed during a write.

    Raises:
        SoakError: an unexpected status or message, something left behind, or nothing to kill.
    """
    for number in range(kills):
        in_write = number % 3 == 2
        training = Training(case, work_dir, SLOW_DISK if in_write else "")
        _until(training, lambda t: t.reached() != "start")
        if in_write:
            _until(training, lambda t: list(t.work_dir.glob(".*.partial")))
            signum = signal.SIGKILL
            time.sleep(rng.uniform(0, 1.2))  # two waits for the disk, with the renaming between them
        else:
            signum = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            time.sleep(rng.uniform(0, 3))
        group = rng.random() < 0.5
        reached = training.reached()
        if training.process.poll() is None:
            (os.killpg if group else os.kill)(training.process.pid, signum)
        status = training.wait()
        log = training.log.read_text(errors="replace")
        if status == 0 or DONE in log:  # the run ended before it could be killed
            if not number:
                raise SoakError(
                    f"training ended before the first kill; more steps are needed: {training.log}"
                )
            return
        if status != STATUS[signum] or (signum != signal.SIGKILL and "Resume with: " not in log):
            raise SoakError(f"{signum.name} ended in status {status}: {training.log}")
        to = "group" if group else "process"
        place = f"{reached}, writing" if in_write else reached
        yield Kill(signum.name, to, place, status, time.monotonic() - training.began)


def _until(training: Training, condition: Any) -> None:
    """Wait for ``condition`` or the end of the process."""
    while training.process.poll() is None and not condition(training):
        time.sleep(0.05)


def fill_the_disk(case: Case, work_dir: Path, megabytes: int) -> str:
    """Fill the disk of the work folder, free space, and train to the end; return how the disk was filled.

    Raises:
        SoakError: training did not end with one clear line, or checkpoints are incomplete.
    """
    work_dir.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "soak", str(work_dir)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    try:
        training = Training(case, work_dir, "" if mounted else FULL_DISK)
        status = training.wait()
        lines = [line for line in training.log.read_text().splitlines() if line.startswith("error: no space")]
        if status != 2 or len(lines) != 1:
            raise SoakError(
                f"a full disk ended in status {status} with {len(lines)} clear lines: {training.log}"
            )
        found, passed_over = newest_checkpoint(work_dir)
        if found is None or passed_over:
            raise SoakError(f"a full disk left {found} to resume from, and skipped: {passed_over}")
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=1g", str(work_dir)], check=True)
        run_through(case, work_dir)
        final = work_dir.with_name(f"{work_dir.name}.pth")
        final.write_bytes((work_dir / case.last).read_bytes())
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(work_dir)], check=True)
    return f"tmpfs of {megabytes} MiB" if mounted else "fsync that raises ENOSPC (mounting is not permitted)"


def memory_slope(case: Case, work_dir: Path) -> tuple[float, float]:
    """Growth in bytes per step over the last half of the run, and resident bytes at its end.

    Both are for the main process and its workers together.

    Raises:
        SoakError: training ended with an error.
    """
    training, samples = Training(case, work_dir), []
    page = os.sysconf("SC_PAGE_SIZE")
    while training.process.poll() is None:
        time.sleep(1)
        reached = training.reached()
        if not reached.isdigit():
            continue
        resident, processes = 0, session_processes(training.process.pid)
        for pid in processes:
            try:
                # without memory shared with the parent, which would count once per worker
                fields = Path(f"/proc/{pid}/statm").read_text().split()
                resident += (int(fields[1]) - int(fields[2])) * page
            except OSError:
                continue
        samples.append((int(reached), resident, len(processes)))
    if training.wait():
        raise SoakError(f"training ended with an error: {training.log}")
    steps, resident, count = np.array(samples, dtype=float).T
    # evaluations add a worker for a while, and at the end all workers exit
    usual = count == np.bincount(count.astype(int)).argmax()
    steps, resident = steps[usual], resident[usual]
    late = steps > steps[-1] / 2
    return float(np.polyfit(steps[late], resident[late], 1)[0]), float(resident[-1])


# ---- comparison


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Names of leaves that are not bit-identical in two checkpoints, except :data:`MAY_DIFFER`."""
    if MAY_DIFFER.search(name):
        return []
    if type(first) is not type(second):
        return [f"{name}: {type(first).__name__} and {type(second).__name__}"]
    if isinstance(first, dict):
        return [
            line
            for key in [*first, *(key for key in second if key not in first)]
            for line in differences(first.get(key), second.get(key), f"{name}/{str(key).rpartition('/')[2]}")
        ]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{name}: {len(first)} and {len(second)} entries"]
        pairs = enumerate(zip(first, second, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{name}/{i}")]
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
    elif isinstance(first, HistoryBuffer):
        same = all(np.array_equal(a, b) for a, b in zip(first.data, second.data, strict=True))
    else:
        same = bool(np.array_equal(first, second)) if isinstance(first, np.ndarray) else first == second
    return [] if same else [name]


def check_same(first: Path, second: Path) -> int:
    """Number of tensors in two equal checkpoints.

    Raises:
        SoakError: they differ; the message names the first few leaves.
    """
    one, other = read_checkpoint(first), read_checkpoint(second)
    if found := differences(one, other):
        raise SoakError(f"{first} and {second} differ in {len(found)} places: {', '.join(found[:5])}")
    return sum(isinstance(leaf, torch.Tensor) for leaf in torch.utils._pytree.tree_leaves(one))
