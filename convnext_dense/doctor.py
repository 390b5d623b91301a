"""Check what this machine has for dense prediction, with a remedy for each missing thing.

Packages are probed in separate processes: a broken native library can end
its process, but not the report.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from packaging.specifiers import SpecifierSet

from convnext_dense.support.system import installed_version
from convnext_dense.toolboxes import DISTRIBUTIONS, Fault, Toolbox, breaks, fault, mixture, read_toolboxes

Status = Literal["ok", "note", "fail"]

SUPPORTED = {"torch": ">=2.6", "pycocotools": ">=2.0.6"}
OPENCV = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
# modules whose distributions have another name
_PACKAGES = {"cv2": "opencv-python", "PIL": "pillow", "yaml": "pyyaml", "skimage": "scikit-image"}

_TORCH = """
import torch
names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
print(f"CUDA {torch.version.cuda}, {names or 'no GPU visible'}" if torch.version.cuda else "CPU build")
"""
_TORCHVISION = "import torchvision; print(torchvision.__version__)"
_OPS = "from convnext_dense.mm.mmcv_ext import current_ops; print(current_ops())"
_ZOO = "import convnext_dense.mm, mmdet.models, mmseg.models; print('mmdet and mmseg import')"
_MMPRETRAIN = "import convnext_dense.mm, mmpretrain.models; print('imports')"
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
    """Check that a package is installed, in a version that works with the others."""
    wanted = SUPPORTED[package]
    remedy = f"pip install '{package}{wanted}'"
    if version is None:
        return Check(package, "fail", "not installed", remedy)
    if version not in SpecifierSet(wanted, prereleases=True):
        return Check(package, "fail", f"{version}, needs {wanted}", remedy)
    return Check(package, "ok", version)


def check_toolboxes(boxes: Mapping[str, Toolbox]) -> list[Check]:
    """Check each toolbox of OpenMMLab by its metadata, and that all are of one line."""
    checks = []
    for box in boxes.values():
        wrong = fault(box, boxes)
        if wrong:
            checks.append(_of_fault(box.module, wrong))
        elif not box.absent:
            mended = breaks(box)
            detail = f"{box} (mended here: {'; '.join(mended)})" if mended else str(box)
            checks.append(Check(box.module, "ok", detail))
    mixed = mixture(boxes)
    return [*checks, _of_fault("toolboxes", mixed)] if mixed else checks


def _of_fault(name: str, wrong: Fault) -> Check:
    return Check(name, "fail" if wrong.stops else "note", wrong.text, wrong.remedy)


def check_opencv(versions: Mapping[str, str | None]) -> Check | None:
    """Check that OpenCV's distributions, which all install ``cv2``, have one version; ``None`` if so."""
    found = {name: version for name, version in versions.items() if version}
    if len(set(found.values())) < 2:
        return None
    pairs = " and ".join(f"{name} {version}" for name, version in found.items())
    name, version = next(iter(found.items()))
    remedy = f"pip install --force-reinstall --no-deps {name}=={version}"
    return Check("opencv", "note", f"{pairs} overwrite each other's files", remedy)


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
        return Check("RoIAlign, NMS", "fail", line, _after_import_error(line))
    if line.startswith("mmcv compiled for"):
        return Check("RoIAlign, NMS", "note", line, "with nvcc: `convnext-dense ops --force`")
    if line == "mmcv compiled":
        return Check("RoIAlign, NMS", "ok", line)
    return Check("RoIAlign, NMS", "ok", f"{line} (mmcv's other ops need `convnext-dense ops`)")


def check_imports() -> Check:
    """Check that mmdet and mmseg can be imported with our ops."""
    good, line = probe(_ZOO)
    return Check("mmdet, mmseg", *(("ok", line) if good else ("fail", line, _after_import_error(line))))


def check_mmpretrain(installed: bool) -> Check | None:
    """Check that the optional mmpretrain can be imported, if it is installed."""
    good, line = probe(_MMPRETRAIN) if installed else (True, "")
    if good:
        return None
    remedy = f"{_after_import_error(line)} (only mmpretrain's own models need it)"
    return Check("mmpretrain", "note", f"does not import: {line}", remedy)


def _after_import_error(line: str) -> str:
    """The remedy for the last line of a failed import."""
    missing = re.search(r"No module named '(\w+)", line)
    if missing and missing[1] == "torchvision":  # the newest would bring another torch
        return "install the torchvision that matches this torch"
    if missing and missing[1] not in DISTRIBUTIONS:
        return f"pip install {_PACKAGES.get(missing[1], missing[1])}"
    if "from 'transformers" in line:
        return "mmpretrain's multimodal models need a transformers below 5"
    return "fix the lines above first"


def check_resume() -> Check:
    """Check that mmengine's training state can be read without unpickling code."""
    good, line = probe(_RESUME)
    if good:
        return Check("resume", "ok", line)
    return Check("resume", "fail", line, "pip install 'torch>=2.6', whose reader takes an allow-list")


def run_checks() -> list[Check]:
    """Run all checks, the slow probes in parallel."""
    boxes = read_toolboxes()
    now: list[Check | None] = [check_python(sys.version_info[:3])]
    now += [check_version(package, installed_version(package)) for package in SUPPORTED]
    now += check_toolboxes(boxes)
    now.append(check_opencv({name: installed_version(name) for name in OPENCV}))
    vision = installed_version("torchvision")
    probes: list[Callable[[], Check | None]] = [
        check_gpus,
        lambda: check_torchvision(vision),
        check_ops,
        check_imports,
        lambda: check_mmpretrain(not boxes["mmpretrain"].absent),
        check_resume,
    ]
    with ThreadPoolExecutor() as pool:
        now += [future.result() for future in [pool.submit(check) for check in probes]]
    return [check for check in now if check]
