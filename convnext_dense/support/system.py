"""The machine: versions of packages, names of devices, and memory."""

import os
import platform
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
