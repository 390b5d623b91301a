"""Compile mmcv against the torch of this environment, and keep the wheel.

The source and the object files of an unfinished build stay in the cache: ninja goes on with what is missing.
A wheel appears there only when it is complete.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch

from convnext_dense.errors import InstallationError
from convnext_dense.installation.pip import pip
from convnext_dense.installation.progress import explain_failure, show_progress, tee
from convnext_dense.support.locks import locked
from convnext_dense.support.system import own_cores

# Builds the wheel of the current folder into the folder argv[1]. Standard input is a pipe from the process
# that started it; when that process ends, by whatever signal, the build ends with it. The compilers are in
# groups of their own: at SIGTERM, unlike at SIGKILL, ninja ends them and removes what they have half written.
_BUILD = """
import os, signal, sys, threading
def end_with_the_starter():
    os.read(0, 1)
    os.killpg(0, signal.SIGTERM) if hasattr(os, "killpg") else os._exit(1)
threading.Thread(target=end_with_the_starter, daemon=True).start()
from setuptools.build_meta import __legacy__ as backend
backend.build_wheel(sys.argv[1])
"""
# mmcv's setup.py needs pkg_resources, which setuptools 81 removed; without ninja the build uses one core.
_TOOLS = ("setuptools>=80,<81", "packaging", "ninja")


class Source(NamedTuple):
    """A source distribution: ``mmcv`` or ``onedl-mmcv``, and its version."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def builds_cuda() -> bool:
    """Whether mmcv's setup.py will compile the GPU kernels, by its own rule."""
    return torch.cuda.is_available() or os.environ.get("FORCE_CUDA") == "1"


def cache_key(source: Source) -> str:
    """Everything that a wheel depends on: mmcv, torch, the accelerator and its kinds, Python and platform."""
    accelerator = "cpu"
    if builds_cuda():
        kinds = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or "_".join(f"{a}.{b}" for a, b in sorted(kinds))
        version = f"hip{torch.version.hip}" if torch.version.hip else f"cuda{torch.version.cuda}"
        accelerator = f"{version}-{archs or 'all'}"
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    parts = (*source, f"torch{torch.__version__}", accelerator, python, sysconfig.get_platform())
    return re.sub(r"[^\w.+-]+", "_", "-".join(parts))


def cache_folder(source: Source) -> Path:
    """Folder of the wheel, in $CONVNEXT_DENSE_CACHE or ~/.cache/convnext_dense."""
    root = os.environ.get("CONVNEXT_DENSE_CACHE")
    if not root:
        root = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convnext_dense")
    return Path(root).expanduser() / cache_key(source)


def cached_wheel(folder: Path) -> Path | None:
    """The wheel in the cache, if there is one."""
    return next(iter(sorted(folder.glob("*mmcv-*.whl"))), None)


def compiled_wheel(source: Source, jobs: int | None = None, force: bool = False) -> Path:
    """The wheel of the cache; compiles it where there is none, while other processes wait.

    Args:
        source: what to compile.
        jobs: compilers at once; by default $MAX_JOBS, or one per core.
        force: compile from the start, even if there is a wheel.

    Raises:
        InstallationError: no compiler, no network for the source, or a compilation that failed.
    """
    folder = cache_folder(source)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        wheel = None if force else cached_wheel(folder)
        if wheel:
            print(f"wheel from the cache: {wheel}", flush=True)
            return wheel
        check_compilers()
        work = folder / "work"
        if force:
            shutil.rmtree(work, ignore_errors=True)
        print(f"{'continuing' if work.exists() else 'building'} {source} in {folder}", flush=True)
        wheel = _compile(source, folder, work, jobs)
        shutil.rmtree(work, ignore_errors=True)
        return wheel


def check_compilers() -> None:
    """Check for a C++ compiler, and for nvcc where GPU kernels are compiled.

    Raises:
        InstallationError: there is none.
    """
    if not shutil.which(os.environ.get("CXX", "c++")):
        raise InstallationError("no C++ compiler: apt-get install g++ (or set CXX to yours)")
    nvcc_at = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    if builds_cuda() and not torch.version.hip and not (shutil.which("nvcc") or nvcc_at.exists()):
        raise InstallationError(
            f"a GPU is visible, but there is no nvcc: install the CUDA {torch.version.cuda} toolkit and set "
            "CUDA_HOME"
        )


def _compile(source: Source, folder: Path, work: Path, jobs: int | None) -> Path:
    """Compile in ``work``, which may hold what an interrupted call left, and move the wheel to ``folder``."""
    env = _environment(_tools(work), jobs)
    unpacked = _unpacked(source, work, env)
    # setuptools trusts the library of an interrupted build and links it no more; ninja checks its objects
    for path in (unpacked / "build").glob("*"):
        if not path.name.startswith("temp"):
            shutil.rmtree(path)
    log, made = folder / "build.log", work / "dist"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(made)],
        cwd=unpacked,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        assert process.stdin and process.stdout
        try:
            show_progress(tee(process.stdout, log))
        except BaseException:
            process.stdin.close()  # ends the build, see _BUILD
            process.wait()
            raise
    wheel = next(made.glob("*.whl"), None)
    if process.returncode or wheel is None:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise InstallationError(explain_failure(lines, log, torch.version.cuda))
    with zipfile.ZipFile(wheel) as archive:
        if not any(name.startswith("mmcv/_ext.") for name in archive.namelist()):
            raise InstallationError(f"{source} was built without its operators. Log: {log}")
    os.replace(wheel, folder / wheel.name)  # atomic: one file system
    return folder / wheel.name


def _tools(work: Path) -> Path:
    """Folder with the tools of the build, outside of the environment, which does not change."""
    tools = work / "tools"
    if not tools.exists():
        partial = _emptied(work / ".tools")
        pip("install", "--quiet", "--target", str(partial), *_TOOLS)
        os.replace(partial, tools)
    return tools


def _environment(tools: Path, jobs: int | None) -> dict[str, str]:
    """Environment variables of the build."""
    # Python's own flags ask for debug symbols, which take half of the time and nine tenths of the bytes
    plain = {} if os.name == "nt" else {"CFLAGS": f"{os.environ.get('CFLAGS', '')} -g0".strip()}
    return {
        **os.environ,
        **plain,
        "MMCV_WITH_OPS": "1",
        "MAX_JOBS": str(jobs or os.environ.get("MAX_JOBS") or len(own_cores())),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tools), os.environ.get("PYTHONPATH")])),
        "PATH": os.pathsep.join([str(tools / "bin"), os.environ.get("PATH", "")]),
    }


def _unpacked(source: Source, work: Path, env: dict[str, str]) -> Path:
    """Folder of the unpacked source distribution, always the same one: ninja compares its files' times."""
    unpacked = work / "source"
    if not unpacked.exists():
        partial = _emptied(work / ".download")
        # The isolation of pip would lack torch, which setup.py asks for.
        args = ["--no-deps", "--no-build-isolation", "--no-binary", source.distribution]
        pip("download", *args, "--dest", str(partial), f"{source.distribution}=={source.version}", env=env)
        (archive,) = partial.iterdir()
        shutil.unpack_archive(archive, partial / "unpacked")
        (root,) = (partial / "unpacked").iterdir()
        os.replace(root, unpacked)
        shutil.rmtree(partial)
    return unpacked


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
