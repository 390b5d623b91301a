"""Replace mmcv-lite by mmcv compiled with its ops against the torch of this environment.

    python tools/build_ops.py [--force]

The build takes about nine minutes on two cores and needs a C++ compiler (with a GPU, also nvcc). The wheel
is kept, so the second time takes seconds: in $CONVNEXT_DENSE_CACHE, by default ~/.cache/convnext_dense.
mmcv-lite stays until a wheel is ready to replace it. --force builds again.

Environment: MAX_JOBS (compilers at once, by default one per core), FORCE_CUDA=1 (compile for CUDA where no
GPU is visible), TORCH_CUDA_ARCH_LIST (by default the visible GPUs).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

MMCV = "2.1.0"  # the newest that mmdet 3.3 and mmseg 1.2 accept

CHECK = """
import torch, mmcv._ext
from mmcv.ops import RoIAlign, nms
for device in ["cpu"] + ["cuda"] * CUDA:
    box = torch.tensor([[0., 0., 4., 4.]], device=device)
    pooled = RoIAlign(2)(torch.ones(1, 1, 4, 4, device=device), torch.cat([box[:, :1], box], 1))
    assert pooled.flatten().tolist() == [1.0] * 4, pooled
    assert nms(box, box.new_ones(1), 0.5)[1].tolist() == [0]
"""


class BuildError(Exception):
    """A failed build; the message has the cause and the remedy."""


def builds_cuda() -> bool:
    """Whether mmcv's setup.py will compile the GPU kernels, by its own rule."""
    return torch.cuda.is_available() or os.environ.get("FORCE_CUDA") == "1"


def cache_key() -> str:
    """Everything that a wheel depends on: mmcv, torch, the accelerator and its kinds, Python and platform."""
    accelerator = "cpu"
    if builds_cuda():
        kinds = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or "_".join(f"{a}.{b}" for a, b in sorted(kinds))
        version = f"hip{torch.version.hip}" if torch.version.hip else f"cuda{torch.version.cuda}"
        accelerator = f"{version}-{archs or 'all'}"
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    key = f"mmcv-{MMCV}-torch{torch.__version__}-{accelerator}-{python}-{sysconfig.get_platform()}"
    return re.sub(r"[^\w.+-]+", "_", key)


def cache_folder() -> Path:
    root = os.environ.get("CONVNEXT_DENSE_CACHE")
    if not root:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convnext_dense"
    return Path(root).expanduser() / cache_key()


def cached_wheel(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("mmcv-*.whl"))), None)


def pip(*args: str) -> None:
    """Run pip of this environment, silently unless it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *args]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"pip {' '.join(args)} failed:\n{(done.stderr or done.stdout).strip()}")


def check_installed() -> str | None:
    """None if mmcv's compiled ops import and run; else the last line of the error.

    Runs in a new process: this one may have loaded another mmcv, and a wrong binary may crash.
    """
    code = CHECK.replace("CUDA", str(torch.cuda.is_available()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def check_compilers() -> None:
    if not shutil.which(os.environ.get("CXX", "c++")):
        raise BuildError("no C++ compiler: apt-get install g++ (or set CXX to yours)")
    nvcc_at = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    if builds_cuda() and not torch.version.hip and not (shutil.which("nvcc") or nvcc_at.exists()):
        raise BuildError(
            f"a GPU is visible, but there is no nvcc: install the CUDA {torch.version.cuda} toolkit and set "
            "CUDA_HOME"
        )


def build_wheel(folder: Path) -> Path:
    """Compile mmcv and put the wheel into ``folder`` atomically."""
    check_compilers()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as work:
        # --no-cache-dir: pip's cache ignores the torch version. After an upgrade of torch, pip would
        # install a cached wheel that no longer loads.
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--verbose"]
        command += ["--no-cache-dir", "--no-build-isolation", "--no-deps", "--no-binary", "mmcv"]
        command += ["--wheel-dir", work, f"mmcv=={MMCV}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        with subprocess.Popen(command, env=build_environment(Path(work)), **pipes) as process:
            show_progress(tee(process.stdout, log))
        built = cached_wheel(Path(work))
        if process.returncode or built is None:
            raise BuildError(explain_failure(log))
        wheel = folder / built.name
        os.replace(built, wheel)  # atomic: ``work`` is on the same file system
    return wheel


def build_environment(work: Path) -> dict[str, str]:
    """Environment variables of the build, with its tools installed in ``work``.

    mmcv's setup.py needs pkg_resources, which setuptools 81 removed; without ninja the build uses one
    core. Both are installed outside the environment, which does not change.
    """
    tools = work / "tools"
    pip("install", "--quiet", "--target", str(tools), "setuptools<81", "wheel", "ninja")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        **os.environ,
        "MMCV_WITH_OPS": "1",
        "MAX_JOBS": os.environ.get("MAX_JOBS") or str(cores),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tools), os.environ.get("PYTHONPATH")])),
        "PATH": os.pathsep.join([str(tools / "bin"), os.environ.get("PATH", "")]),
    }


def tee(lines: Iterator[str], log: Path) -> Iterator[str]:
    with log.open("w") as file:
        for line in lines:
            file.write(line)
            yield line


def show_progress(lines: Iterator[str]) -> None:
    """Shows progress: one line that is rewritten on a terminal; elsewhere a line every 30 seconds."""
    live, start, first, printed = sys.stdout.isatty(), time.monotonic(), None, -30.0
    for line in lines:
        match = re.match(r"\s*\[(\d+)/(\d+)\]", line)  # ninja's counter
        if not match:
            continue
        now = time.monotonic()
        first = first or now
        done, total = int(match[1]), int(match[2])
        text = progress_line(done, total, now - start, now - first)
        if live:
            print(f"\r{text}\x1b[K", end="", flush=True)
        elif now - start - printed >= 30 or done == total:
            printed = now - start
            print(text, flush=True)
    if live:
        print()


def progress_line(done: int, total: int, elapsed: float, compiling: float) -> str:
    """``elapsed`` and ``compiling`` (since the first object) in seconds."""
    left = compiling / (done - 1) * (total - done) if done > 1 else None
    eta = "" if left is None else f", about {minutes(left)} left"
    return f"compiling mmcv: {done}/{total} objects, {minutes(elapsed)} elapsed{eta}"


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def explain_failure(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    # pip and setuptools print a lot after an error, so the end of the log is the second choice.
    errors = [line.strip() for line in lines if re.search(r"(?i)error:|Killed", line)]
    remedy = "see the log"
    if any("Killed" in line for line in lines):
        remedy = "memory ran out; compile one file at a time: MAX_JOBS=1 make ops"
    elif any("No matching distribution" in line or "Failed to establish" in line for line in lines):
        remedy = "the source of mmcv could not be downloaded; check the network and pip's index"
    elif any("CUDA version" in line or ("nvcc" in line and "not found" in line) for line in lines):
        remedy = f"set CUDA_HOME to a CUDA toolkit of the version torch was built with ({torch.version.cuda})"
    shown = "\n".join(errors[:10] or lines[-15:])
    return (
        f"building mmcv {MMCV} failed (mmcv-lite is still in place).\n{shown}\n\nLog: {log}\nRemedy: {remedy}"
    )


def install(wheel: Path) -> None:
    """Replace mmcv-lite by the wheel: both own ``import mmcv``, so mmcv-lite is removed first."""
    pip("uninstall", "--yes", "mmcv-lite", "mmcv")
    try:
        pip("install", "--no-deps", "--no-index", str(wheel))
    except BuildError as error:
        raise BuildError(
            f"{error}\nRemedy: pip install mmcv-lite=={MMCV} restores the previous state"
        ) from None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--force", action="store_true", help="build even if there is a wheel or a working mmcv"
    )
    force = parser.parse_args().force
    if not force and check_installed() is None:
        print("mmcv is compiled, and its ops run; nothing to do (--force builds again)")
        return 0
    folder = cache_folder()
    try:
        wheel = None if force else cached_wheel(folder)
        print(
            f"wheel from the cache: {wheel}" if wheel else f"building mmcv {MMCV} into {folder}", flush=True
        )
        wheel = wheel or build_wheel(folder)
        install(wheel)
        problem = check_installed()
        if problem:
            raise BuildError(f"installed, but its ops do not run: {problem}\nRemedy: make ops with --force")
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"mmcv {MMCV} with compiled ops: mmcv._ext loads, RoIAlign and NMS run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
