"""Make the environments in which this package is tested, and print the Python of one.

    python tools/dev/matrix_environments.py onedl               # makes it on first use
    python tools/dev/matrix_environments.py --list

They have the toolboxes and pytest, and not this package: set PYTHONPATH to the clone.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, TextIO

from convnext_dense.errors import InstallationError
from convnext_dense.support.locks import locked

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-matrix"


class Row(NamedTuple):
    """An environment: what it is, what pip is asked for, and whether mmcv is compiled then."""

    text: str
    requirements: tuple[str, ...]
    compiled: bool = False


def pinned(name: str) -> tuple[str, ...]:
    """The lines of ``requirements/NAME.txt`` without comments."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def changed(requirements: tuple[str, ...], *others: str) -> tuple[str, ...]:
    """``requirements`` with ``others`` in place of those of the same package, or added."""
    names = {other.partition("==")[0] for other in others}
    return (*(line for line in requirements if line.partition("==")[0] not in names), *others)


PYTEST = tuple(line for line in pinned("dev") if line.startswith("pytest"))
OFFICIAL = (*pinned("runtime"), *pinned("lite"), *PYTEST)
ONEDL = (*pinned("onedl"), *PYTEST)
TORCH_2_14 = ("torch==2.14.1", "torchvision==0.29.1")
# The lower ends of the ranges in setup.py; pip chooses the rest to fit.
OLDEST = (
    *("torch==2.6.0", "numpy==1.26.0", "safetensors==0.4.0", "filelock==3.24.0"),
    *("mmengine==0.10.4", "mmcv-lite==2.0.0", "mmdet==3.3.0", "mmsegmentation==1.2.2", "pycocotools==2.0.7"),
    *("ftfy", "regex", "tensorboard", "jinja2", "tqdm", "setuptools<81", *PYTEST),
)

ROWS = {
    "official": Row("the official line, as `make setup` installs it", OFFICIAL),
    "official-torch-2.14": Row(
        "the same with torch 2.14.1 and torchvision, a CUDA build", changed(OFFICIAL, *TORCH_2_14)
    ),
    "official-compiled": Row("the official line, mmcv compiled by `make ops`", OFFICIAL, compiled=True),
    "onedl": Row("the OneDL fork as pip installs it, mmcv without operators", ONEDL),
    "onedl-compiled": Row("the OneDL fork, mmcv compiled by `make ops`", ONEDL, compiled=True),
    "onedl-torch-2.14": Row(
        "the OneDL fork with torch 2.14.1 and torchvision, a CUDA build", changed(ONEDL, *TORCH_2_14)
    ),
    "oldest": Row("the lower ends of the supported ranges", OLDEST),
    "mmpretrain": Row(
        "the official line with mmpretrain beside",
        # mmpretrain imports torchvision: these two builds fit each other
        changed(OFFICIAL, *TORCH_2_14, "mmpretrain==1.2.0", "importlib_metadata==10.2.0"),
    ),
    "onedl-mmpretrain": Row(
        "the OneDL fork with its mmpretrain beside", changed(ONEDL, *TORCH_2_14, "onedl-mmpretrain==1.3.6")
    ),
    "core": Row(
        "torch, numpy and safetensors alone",
        ("torch==2.13.0", "numpy==2.4.6", "safetensors==0.8.0", "filelock==4.3.1", *PYTEST),
    ),
}


def folder_of(row: str, root: Path) -> Path:
    """The folder of an environment in ``root``: another one after each change of its requirements."""
    key = "\n".join([*sorted(ROWS[row].requirements), f"compiled={ROWS[row].compiled}", sys.version])
    return root.resolve() / f"{row}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def environment(row: str, root: Path, log: TextIO) -> Path:
    """The Python of an environment, which is made on first use while other processes wait.

    Args:
        row: one of :data:`ROWS`.
        root: folder of all environments.
        log: file that pip's output is written to.

    Raises:
        InstallationError: pip or the compilation failed; what there is so far is removed.
    """
    folder = folder_of(row, root)
    python, complete = folder / "bin" / "python", folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not complete.exists():
            # an interrupted call leaves a folder without the mark; a venv cannot be renamed
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _make(ROWS[row], folder, python, log)
            except InstallationError:
                shutil.rmtree(folder)
                raise
            complete.touch()
    return python


def _make(row: Row, folder: Path, python: Path, log: TextIO) -> None:
    _run([sys.executable, "-m", "venv", str(folder)], log)
    with tempfile.TemporaryDirectory() as temporary:
        wanted = Path(temporary) / "requirements.txt"
        wanted.write_text("\n".join(row.requirements))
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar=off"]
        _run([*install, "-r", str(wanted)], log)
    if row.compiled:
        _run([str(python), "-m", "convnext_dense", "ops"], log)


def _run(command: list[str], log: TextIO) -> None:
    log.write(f"$ {' '.join(command)}\n")
    log.flush()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise InstallationError(f"{' '.join(command)} ended with status {done.returncode}; see {log.name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="?", choices=ROWS)
    parser.add_argument("--root", type=Path, default=FOLDER, help=f"default: {FOLDER.name}/")
    parser.add_argument("--list", action="store_true", help="print the requirements of the row, or of each")
    args = parser.parse_args()
    if args.list or not args.row:
        for name in [args.row] if args.row else ROWS:
            compiled = " (mmcv compiled)" if ROWS[name].compiled else ""
            print(f"{name}{compiled}: {' '.join(ROWS[name].requirements)}")
        return
    try:
        print(environment(args.row, args.root, sys.stderr))
    except InstallationError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
