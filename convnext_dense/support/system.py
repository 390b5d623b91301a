"""The machine: versions of packages, names of devices, and memory."""

import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import torch

_UNKNOWN_FREE = 4 * 2**30  # bytes, where the system does not report it


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, ``None`` when it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of those ``packages`` that are installed."""
    found = {name: installed_version(name) for name in packages}
    return {"python": platform.python_version(), **{name: v for name, v in found.items() if v}}


def device_name(device: torch.device | str) -> str:
    """Name of the GPU or CPU model; for other devices their type."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else device.type


def cpu_name() -> str:
    """Name of the CPU model as the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int:
    """Bytes that tensors on ``device`` could still take.

    On a CPU, what the file cache holds counts as free.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        return proc_bytes("/proc/meminfo", "MemAvailable")
    except (OSError, KeyError):  # not Linux
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_FREE


def used_memory(device: torch.device) -> int:
    """Bytes of tensors on a GPU, or of this process on a CPU; 0 where the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return proc_bytes("/proc/self/status", "VmRSS")
    except (OSError, KeyError):
        return 0


def proc_bytes(path: str, key: str) -> int:
    """Bytes of the line ``KEY: N kB`` of a file such as ``/proc/meminfo``.

    Raises:
        OSError: no such file, as on other systems than Linux.
        KeyError: no such line.
    """
    lines = Path(path).read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines if ":" in line)[key].split()[0]) * 1024


# ---- cores that other processes use


def own_cores() -> set[int]:
    """Numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def core_ticks(stat: str, cores: set[int]) -> tuple[int, int]:
    """Busy and all clock ticks of ``cores`` since the system's start, from the text of ``/proc/stat``."""
    busy = total = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
            ticks = [int(field) for field in fields[:8]]  # guests are counted as user time, too
            total += sum(ticks)
            busy += sum(ticks) - sum(ticks[3:5])  # idle, and waiting for a disk
    return busy, total


def busy_cores(seconds: float = 0.2) -> float | None:
    """How many of this process's cores are in use while it waits ``seconds``; ``None`` if unknown."""
    cores, stat = own_cores(), Path("/proc/stat")
    try:
        before = core_ticks(stat.read_text(), cores)
        time.sleep(seconds)
        after = core_ticks(stat.read_text(), cores)
    except (OSError, ValueError):
        return None
    passed = after[1] - before[1]
    return len(cores) * (after[0] - before[0]) / passed if passed > 0 else None


def thread_advice(threads: int, cores: int, busy: float | None) -> str | None:
    """A line if ``threads`` threads, which wait for each other, have fewer than as many free cores.

    Args:
        threads: of this process.
        cores: that it may use.
        busy: how many of them other processes use; ``None`` if unknown.
    """
    if threads < 2 or busy is None or threads + busy < cores + 0.5:
        return None
    free = max(1, int(cores - busy + 0.5))
    return (
        f"other processes use {busy:.1f} of {cores} CPU cores: {threads} threads, which wait for each other, "
        f"can be many times slower than fewer; OMP_NUM_THREADS={min(free, threads - 1)} sets their number"
    )


def crowded_line() -> str | None:
    """A line if torch's threads have too few free cores, unless the user has chosen their number."""
    if os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS") or torch.get_num_threads() < 2:
        return None
    return thread_advice(torch.get_num_threads(), len(own_cores()), busy_cores())
