"""Check what this machine has for dense prediction, with a remedy for each missing thing.

Packages are probed in separate processes: a broken native library can end
its process, but not the report.
"""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from packaging.specifiers import SpecifierSet

from convnext_dense.support.system import installed_version

Status = Literal["ok", "note", "fail"]

# package -> versions that work together; mmdet 3.3 and mmseg 1.2 refuse mmcv 2.2
SUPPORTED = {
    "torch": ">=2.6",
    "mmengine": ">=0.10.4,<0.11",
    "mmdet": ">=3.3,<3.4",
    "mmsegmentation": ">=1.2.2,<1.3",
    "pycocotools": ">=2.0.6",
}
MMCV = ">=2.0,<2.2"

_TORCH = """
import torch
names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
print(f"CUDA {torch.version.cuda}, {names or 'no GPU visible'}" if torch.version.cuda else "CPU build")
"""
_TORCHVISION = "import torchvision; print(torchvision.__version__)"
_OPS = "from convnext_dense.mm.mmcv_ext import current_ops; print(current_ops())"
_ZOO = "import convnext_dense.mm, mmdet.models, mmseg.models; print('mmdet and mmseg import')"
_RESUME = """
import pathlib, tempfile, torch, convnext_dense.mm
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
with tempfile.TemporaryDirectory() as folder:
    path = str(pathlib.Path(folder, "state.pth"))
    torch.save({"message_hub": {"loss": HistoryBuffer([1.0], [1])}}, path)
    CheckpointLoader.load_checkpoint(path)
print("a training state reads back with weights_only=True")
"""


class Check(NamedTuple):
    """One line of the report; ``remedy`` is empty if nothing is wrong."""

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.status:>4}  {self.name:<16} {self.detail}"
        return f"{line}\n{'':24}-> {self.remedy}" if self.remedy else line


def probe(code: str) -> tuple[bool, str]:
    """Run Python ``code`` in a separate process; return whether it succeeded and its last line of output."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit status {done.returncode}"


def check_python(version: tuple[int, ...]) -> Check:
    """Check for Python 3.10 or newer."""
    name = ".".join(map(str, version[:3]))
    if version >= (3, 10):
        return Check("python", "ok", name)
    return Check("python", "fail", name, "install Python 3.10 or newer")


def check_version(package: str, version: str | None) -> Check:
    """Check that the package is installed, in a version that works with the others."""
    wanted = SUPPORTED[package]
    if version is None:
        return Check(package, "fail", "not installed", "pip install 'convnext_dense[lite]'")
    if version not in SpecifierSet(wanted, prereleases=True):
        return Check(package, "fail", f"{version}, needs {wanted}", f"pip install '{package}{wanted}'")
    return Check(package, "ok", version)


def check_mmcv(full: str | None, lite: str | None) -> Check:
    """Check for exactly one of mmcv and mmcv-lite, below 2.2."""
    if full and lite:
        remedy = (
            "pip uninstall -y mmcv mmcv-lite, then pip install 'mmcv-lite==2.1.0' (and `make ops` to compile)"
        )
        return Check("mmcv", "fail", f"mmcv {full} and mmcv-lite {lite} overwrite each other", remedy)
    name, version = ("mmcv", full) if full else ("mmcv-lite", lite)
    if version is None:
        return Check("mmcv", "fail", "not installed", "pip install 'mmcv-lite==2.1.0'")
    if version not in SpecifierSet(MMCV):
        remedy = f"mmdet and mmseg refuse it: pip install '{name}==2.1.0'"
        return Check("mmcv", "fail", f"{name} {version}, needs {MMCV}", remedy)
    return Check("mmcv", "ok", f"{name} {version}")


def check_setuptools(version: str | None) -> Check:
    """Check setuptools: mmengine finds configs such as ``mmdet::...`` through pkg_resources."""
    if version is None or version not in SpecifierSet("<82"):
        detail = f"{version or 'not installed'}; mmengine needs pkg_resources, which 82 removed"
        return Check("setuptools", "fail", detail, "pip install 'setuptools<81'")
    return Check("setuptools", "ok", version)


def check_gpus() -> Check:
    """Report CUDA of the torch build and the visible GPUs."""
    good, line = probe(_TORCH)
    return Check("devices", "ok", line) if good else Check("devices", "fail", line, "pip install torch")


def check_torchvision(version: str | None) -> Check:
    """Check the optional torchvision; a build for another torch fails at import and should be removed."""
    if version is None:
        return Check("torchvision", "ok", "not installed (optional)")
    good, line = probe(_TORCHVISION)
    if good:
        return Check("torchvision", "ok", line)
    remedy = "install the build that matches this torch, or pip uninstall torchvision (it is optional)"
    return Check("torchvision", "note", f"{version} does not import: {line}", remedy)


def check_ops() -> Check:
    """Report which kernels serve RoIAlign and NMS."""
    good, line = probe(_OPS)
    if not good:
        return Check("RoIAlign, NMS", "fail", line, "fix the lines above first")
    if line == "mmcv compiled":
        return Check("RoIAlign, NMS", "ok", line)
    return Check("RoIAlign, NMS", "ok", f"{line} (mmcv's other ops need `make ops`)")


def check_toolboxes() -> Check:
    """Check that mmdet and mmseg can be imported with our ops."""
    good, line = probe(_ZOO)
    return Check(
        "mmdet, mmseg", *(("ok", line) if good else ("fail", line, "pip install 'convnext_dense[lite]'"))
    )


def check_resume() -> Check:
    """Check that mmengine's training state can be read without unpickling code."""
    good, line = probe(_RESUME)
    if good:
        return Check("resume", "ok", line)
    return Check("resume", "fail", line, "pip install 'torch>=2.6', whose reader takes an allow-list")


def run_checks() -> list[Check]:
    """Run all checks, the slow probes in parallel."""
    now: list[Check] = [check_python(sys.version_info[:3])]
    now += [check_version(package, installed_version(package)) for package in SUPPORTED]
    now.append(check_mmcv(installed_version("mmcv"), installed_version("mmcv-lite")))
    now.append(check_setuptools(installed_version("setuptools")))
    vision = installed_version("torchvision")
    probes: list[Callable[[], Check]] = [
        check_gpus,
        lambda: check_torchvision(vision),
        check_ops,
        check_toolboxes,
        check_resume,
    ]
    with ThreadPoolExecutor() as pool:
        return now + [future.result() for future in [pool.submit(check) for check in probes]]
