"""The OpenMMLab toolboxes of this environment: which distribution serves each import name, in which version.

Two lines share the import names: the official releases, and the maintained fork, whose distributions are
called ``onedl-...``. pip sees no conflict between them, although they overwrite each other's files.

Reads metadata and file names and imports no toolbox: it must also work where none of them can be imported,
so it belongs to the core and not to ``mm``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

Line = Literal["official", "onedl"]

# import name -> the distributions that install it; the first of a line is the one to install
DISTRIBUTIONS: dict[str, dict[str, Line]] = {
    "mmengine": {"mmengine": "official", "mmengine-lite": "official", "onedl-mmengine": "onedl"},
    "mmcv": {"mmcv-lite": "official", "mmcv": "official", "mmcv-full": "official", "onedl-mmcv": "onedl"},
    "mmdet": {"mmdet": "official", "onedl-mmdetection": "onedl"},
    "mmseg": {"mmsegmentation": "official", "onedl-mmsegmentation": "onedl"},
    "mmpretrain": {"mmpretrain": "official", "onedl-mmpretrain": "onedl"},
}
REQUIRED = ("mmengine", "mmcv", "mmdet", "mmseg")  # mmpretrain is optional

# versions that work together; the official mmdet 3.3 and mmseg 1.2 refuse mmcv 2.2
SUPPORTED: dict[Line, dict[str, str]] = {
    "official": {
        "mmengine": ">=0.10.4,<0.11",
        "mmcv": ">=2.0,<2.2",
        "mmdet": ">=3.3,<3.4",
        "mmseg": ">=1.2.2,<1.3",
        "mmpretrain": ">=1.2,<1.3",
    },
    "onedl": {
        "mmengine": ">=0.10.12,<0.11",
        "mmcv": ">=2.3.6,<2.4",
        "mmdet": ">=3.5.1,<3.6",
        "mmseg": ">=1.4.2,<1.5",
        "mmpretrain": ">=1.3.6,<1.4",
    },
}


# (import name, line, versions, what is known to break in them and is mended by ``convnext_dense.mm``)
BREAKS: tuple[tuple[str, Line, str, str], ...] = (
    ("mmengine", "official", "<=0.10.7", "resume with torch 2.6 and newer"),
    ("mmengine", "official", "<=0.10.7", "configs as `mmdet::...` without pkg_resources"),
    ("mmengine", "onedl", "<=0.10.12", "configs as `mmseg::...`"),
    ("mmengine", "onedl", "<=0.10.12", "reading checkpoints without running code in them"),
)


class Distribution(NamedTuple):
    """An installed distribution of a toolbox, such as ``onedl-mmcv 2.3.6``."""

    name: str
    version: str
    line: Line

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Toolbox:
    """What serves one import name.

    Attributes:
        module: the import name.
        owners: installed distributions that have it; more than one overwrite each other's files.
        folder: the folder that Python imports; ``None`` if there is none.
        version: of what is imported; ``None`` if absent or unknown.
        checkout: whether ``folder`` belongs to none of ``owners``, such as a clone on ``PYTHONPATH``.
        compiled: whether there are compiled operators for this Python (mmcv only).
    """

    module: str
    owners: tuple[Distribution, ...] = ()
    folder: Path | None = None
    version: str | None = None
    checkout: bool = False
    compiled: bool = False

    @property
    def absent(self) -> bool:
        """Whether nothing of it is installed."""
        return self.folder is None and not self.owners

    @property
    def line(self) -> Line | None:
        """Its line; ``None`` if absent, mixed, or a checkout, whose line is unknown."""
        lines = {owner.line for owner in self.owners}
        return lines.pop() if len(lines) == 1 and not self.checkout else None

    def __str__(self) -> str:
        if self.absent:
            return "not installed"
        if self.checkout:
            known = self.version or "of unknown version"
            text = f"{self.module} {known} at {self.folder}, of no installed distribution"
        else:
            text = " + ".join(map(str, self.owners))
        if self.module == "mmcv":
            text += ", compiled operators" if self.compiled else ", no compiled operators"
        return text


# ------------------------------------------------------------------------------------- what is installed


def read_toolboxes() -> dict[str, Toolbox]:
    """The toolboxes of this environment by import name, absent ones as well."""
    return {module: read_toolbox(module) for module in DISTRIBUTIONS}


def read_toolbox(module: str) -> Toolbox:
    """What serves the import name ``module``, one of :data:`DISTRIBUTIONS`."""
    folder = package_folder(module)
    found = list(_installed(module))
    owners = tuple(owner for owner, _ in found)
    serving = [owner for owner, dist in found if folder is not None and _installs(dist, module, folder)]
    version = serving[0].version if len(serving) == 1 else folder and written_version(folder)
    return Toolbox(
        module,
        owners,
        folder,
        version or (owners[0].version if owners else None),
        checkout=folder is not None and not serving,
        compiled=module == "mmcv" and folder is not None and has_operators(folder),
    )


def package_folder(module: str) -> Path | None:
    """The folder of a package that Python would import, without importing it; ``None`` if there is none."""
    try:
        spec = find_spec(module)
    except (ValueError, ImportError):  # a module without a spec
        return None
    # a folder without __init__.py, such as remains after a partial removal, is no package
    return Path(spec.origin).resolve().parent if spec and spec.origin and spec.has_location else None


def written_version(folder: Path) -> str | None:
    """``__version__`` as the source of a package states it; ``None`` if it is computed."""
    for name in ("version.py", "__init__.py"):
        path = folder / name
        text = path.read_text(errors="replace") if path.is_file() else ""
        if found := re.search(r"""^__version__\s*(?::.*)?=\s*['"](.+?)['"]""", text, re.MULTILINE):
            return found[1]
    return None


def has_operators(folder: Path) -> bool:
    """Whether a folder of mmcv has operators that were compiled for this Python; they are not loaded."""
    return any((folder / f"_ext{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)


def _installed(module: str) -> Iterator[tuple[Distribution, metadata.Distribution]]:
    for name, line in DISTRIBUTIONS[module].items():
        try:
            dist = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        yield Distribution(name, dist.version, line), dist


def _installs(dist: metadata.Distribution, module: str, folder: Path) -> bool:
    """Whether ``folder`` is the one that a distribution installed, or for an editable one its source."""
    if Path(str(dist.locate_file(module))).resolve() == folder:
        return True
    origin = json.loads(dist.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return False
    return folder.is_relative_to(Path(url2pathname(urlparse(origin["url"]).path)).resolve())


# ---------------------------------------------------------------------------------- what is wrong with it


class Fault(NamedTuple):
    """Something wrong in one line, and the command that mends it.

    Attributes:
        text: what is wrong.
        remedy: a command.
        stops: whether training cannot be relied on; else it is only untested.
    """

    text: str
    remedy: str
    stops: bool = True


def requirement(module: str, line: Line) -> str:
    """What pip is asked for: ``mmsegmentation>=1.2.2,<1.3``."""
    name = next(name for name, of in DISTRIBUTIONS[module].items() if of == line)
    return f"{name}{SUPPORTED[line][module]}"


def line_of(boxes: Mapping[str, Toolbox]) -> Line | None:
    """The line to stay with; ``None`` where nothing of either is installed.

    In a mixture it is the one of the compiled operators, which take longest to make again; else the one
    with more toolboxes; else the maintained one.
    """
    mmcv = boxes["mmcv"]
    if mmcv.compiled and mmcv.line:
        return mmcv.line
    count = {
        line: sum(owner.line == line for box in boxes.values() for owner in box.owners) for line in SUPPORTED
    }
    if not any(count.values()):
        return None
    return "onedl" if count["onedl"] >= count["official"] else "official"


def breaks(box: Toolbox) -> list[str]:
    """What is known to break in this version, and is mended by importing ``convnext_dense.mm``."""
    known = [row[2:] for row in BREAKS if row[:2] == (box.module, box.line)]
    return [text for versions, text in known if _fits(box.version, versions)]


def advice(boxes: Mapping[str, Toolbox], *wanted: str) -> str:
    """The command that mends a mixture, or installs what is missing and replaces nothing that is there.

    Args:
        boxes: the toolboxes of the environment.
        wanted: import names of optional ones that are needed, too.
    """
    missing = [module for module in dict.fromkeys((*REQUIRED, *wanted)) if boxes[module].absent]
    if mixed := mixture(boxes):
        return mixed.remedy
    if missing:
        return _install(missing, line_of(boxes))
    wrong = [fault(box, boxes) for box in boxes.values()]
    return next((each.remedy for each in wrong if each), "convnext-dense doctor says what is wrong")


def mixture(boxes: Mapping[str, Toolbox]) -> Fault | None:
    """Distributions that overwrite each other, or toolboxes of both lines beside each other."""
    keep = line_of(boxes)
    doubled = [box for box in boxes.values() if len(box.owners) > 1]
    lines = {owner.line for box in boxes.values() for owner in box.owners}
    if not keep or not (doubled or len(lines) > 1):
        return None
    remove = [o.name for b in boxes.values() for o in b.owners if o.line != keep or b in doubled]
    lost = [
        m for m, b in boxes.items() if (b.absent and m in REQUIRED) or {o.name for o in b.owners} & {*remove}
    ]
    remedy = f"pip uninstall -y {' '.join(remove)} && {_install(lost, keep)}"
    if "mmcv" in lost and boxes["mmcv"].compiled:
        remedy += " && convnext-dense ops"
    if doubled:
        pairs = "; ".join(" and ".join(map(str, box.owners)) for box in doubled)
        return Fault(f"{pairs} overwrite each other's files", remedy)
    other = [str(o) for b in boxes.values() for o in b.owners if o.line != keep]
    refused = boxes["mmcv"].line == "onedl" and "official" in (boxes["mmdet"].line, boxes["mmseg"].line)
    why = "which refuse each other" if refused else "which are not tested together"
    return Fault(f"{', '.join(other)} beside toolboxes of the {keep} line, {why}", remedy, refused)


def fault(box: Toolbox, boxes: Mapping[str, Toolbox]) -> Fault | None:
    """What is wrong with one toolbox by itself: absent, without files, or a version that does not fit."""
    if box.absent:
        return Fault("not installed", advice(boxes)) if box.module in REQUIRED else None
    if box.folder is None:
        return Fault(f"{box}: its files are gone", _reinstall(box))
    if box.checkout:
        return _checkout_fault(box)
    line = box.line
    if line is None or _fits(box.version, SUPPORTED[line][box.module]):
        return None
    return Fault(f"{box}, needs {SUPPORTED[line][box.module]}", _other_version(box, line))


def faults(boxes: Mapping[str, Toolbox]) -> list[Fault]:
    """All that is wrong: the mixture if there is one, then each toolbox by itself."""
    found = [mixture(boxes), *(fault(box, boxes) for box in boxes.values())]
    return [each for each in found if each]


def _checkout_fault(box: Toolbox) -> Fault | None:
    if box.owners:
        return Fault(
            f"{box}, hides {box.owners[0]}", "unset PYTHONPATH, or pip install -e that checkout", False
        )
    ranges = [SUPPORTED[line][box.module] for line in SUPPORTED]
    if box.version and not any(_fits(box.version, tested) for tested in ranges):
        return Fault(
            f"{box}, needs {' or '.join(ranges)}", "check out a version in one of these ranges", False
        )
    return None


def _fits(version: str | None, wanted: str) -> bool:
    try:
        return SpecifierSet(wanted).contains(Version(version or ""), prereleases=True)
    except InvalidVersion:
        return False


def _install(modules: list[str], line: Line | None) -> str:
    if line is None:
        return "pip install 'convnext_dense[lite]'"
    by_extra = REQUIRED if line == "onedl" else ()
    extra = ["'convnext_dense[onedl]'"] if {*by_extra} & {*modules} else []
    others = [f"'{requirement(module, line)}'" for module in modules if module not in by_extra]
    return " ".join(["pip install", *extra, *others])


def _reinstall(box: Toolbox) -> str:
    names = [owner.name for owner in box.owners]
    line = box.owners[0].line
    return f"pip uninstall -y {' '.join(names)} && pip install '{requirement(box.module, line)}'"


def _other_version(box: Toolbox, line: Line) -> str:
    name = box.owners[0].name
    if name == "mmcv":  # pip's isolated build of it fails
        return "convnext-dense ops"
    if name == "mmcv-full":  # it ends at 1.7
        return _reinstall(box)
    command = f"pip install '{name}{SUPPORTED[line][box.module]}'"
    return f"{command} && convnext-dense ops" if box.compiled else command


# ------------------------------------------------------------------------------------ for logs and records


def toolbox_line(boxes: Mapping[str, Toolbox] | None = None) -> str:
    """The toolboxes of this environment in one line, for a log."""
    boxes = read_toolboxes() if boxes is None else boxes
    return "; ".join(str(box) for box in boxes.values() if not box.absent) or "none"


def toolbox_versions(boxes: Mapping[str, Toolbox] | None = None) -> dict[str, str]:
    """Versions by distribution, whose names tell the lines apart, and what mmcv's operators are.

    By default those of this environment. Absent toolboxes are left out.
    """
    boxes = read_toolboxes() if boxes is None else boxes
    found: dict[str, str] = {}
    for box in boxes.values():
        if box.checkout:
            found[box.module] = f"{box.version or 'unknown version'} (checkout)"
        else:
            found |= {owner.name: owner.version for owner in box.owners}
    if not boxes["mmcv"].absent:
        found["mmcv operators"] = "compiled" if boxes["mmcv"].compiled else "not compiled"
    return found
