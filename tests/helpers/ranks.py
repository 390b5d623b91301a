"""Two gloo ranks: a test file that is its own worker, and data that they share."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image
from repository import ROOT
from waiting import HANGS


@HOOKS.register_module()
class KilledRank(Hook):
    """The second rank ends by SIGKILL after ``step`` steps, but not again after a restart."""

    priority = "LOWEST"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and runner.rank == 1 and runner.iter + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def torchrun(*command: object, folder: Path, restarts: int = 0) -> str:
    """Output of two ranks in ``folder``; both must succeed."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    launch.append(f"--max-restarts={restarts}")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])}
    done = subprocess.run(
        [*launch, *map(str, command)],
        cwd=folder,
        env={**env, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def run_as_rank(worker: Callable[[Path], None]) -> None:
    """Run ``worker`` in the folder that the command names, as the tools run a training."""
    from convnext_dense.mm.engine.launch import leaving_together

    with leaving_together():
        worker(Path(sys.argv[1]))
    assert gloo_threads(expected=False)


def gloo_threads(expected: bool) -> bool:
    """Wait until this process has threads of gloo, or has none; return whether it happened.

    A thread names itself once it runs, and is listed for a moment after it was joined.
    """
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if any("gloo" in name for name in thread_names()) == expected:
            return True
        time.sleep(0.01)
    return False


def thread_names() -> Iterator[str]:
    """Names of this process's threads; a thread that ends meanwhile is left out."""
    for path in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):
            yield path.read_text()


def make_noise(folder: Path, val: int) -> None:
    """Eight training and ``val`` validation images of noise, with a label at each pixel: none is ignored."""
    rng = np.random.default_rng(0)
    for split, count in (("training", 8), ("validation", val)):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(image).save(folder / "images" / split / f"{i}.jpg")
            labels = np.kron(rng.integers(1, 5, (8, 8), np.uint8), np.ones((8, 8), np.uint8))
            Image.fromarray(labels).save(folder / "annotations" / split / f"{i}.png")
