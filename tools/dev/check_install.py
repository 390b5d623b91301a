"""Install this package as its users do, in environments of its own, and compare what pip lists.

    python tools/dev/check_install.py official onedl          # beside the toolboxes of these environments
    python tools/dev/check_install.py --extra lite onedl      # the extras, each in an empty environment

The package beside toolboxes of either line must change none of them; an extra must give toolboxes that can be
imported and that fit together.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from matrix_environments import FOLDER, ROOT, ROWS, environment

from convnext_dense.errors import InstallationError

PARTS = ("convnext_dense", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
IMPORTS = "import convnext_dense.mm, mmdet.models, mmseg.models"


def output(*command: object) -> str:
    """Standard output of a command that finds the installed package and not this clone.

    Raises:
        InstallationError: it failed; the message ends with what it said.
    """
    words = [str(part) for part in command]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tempfile.gettempdir(), env=env)
    if done.returncode:
        raise InstallationError(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def pip(python: Path, *args: object) -> str:
    return output(python, "-m", "pip", "--disable-pip-version-check", *args)


def build(folder: Path) -> Path:
    """The wheel of this clone, built from a copy: an older build folder would add its files."""
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    pip(Path(sys.executable), "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder)
    return next(folder.glob("*.whl"))


def difference(before: str, after: str) -> list[str]:
    """Lines that two lists of ``pip freeze`` do not share, without this package: ``-torch==2.13.0``."""
    old, new = set(before.splitlines()), set(after.splitlines())
    changed = [*(f"-{line}" for line in sorted(old - new)), *(f"+{line}" for line in sorted(new - old))]
    return [line for line in changed if not line.startswith("+convnext_dense")]


def check_beside(row: str, root: Path, wheel: Path) -> list[str]:
    """What the package changes in an environment that has toolboxes; it is removed again."""
    python = environment(row, root, sys.stderr)
    before = pip(python, "freeze")
    try:
        pip(python, "install", wheel)
        output(python, "-m", "convnext_dense", "list")
        return difference(before, pip(python, "freeze"))
    finally:
        pip(python, "uninstall", "--yes", "convnext_dense")


def check_extra(extra: str, wheel: Path) -> str:
    """The toolboxes that an extra gives to an empty environment; they are imported there."""
    with tempfile.TemporaryDirectory(prefix=f"extra-{extra}-") as folder:
        output(sys.executable, "-m", "venv", folder)
        python = Path(folder) / "bin" / "python"
        pip(python, "install", f"{wheel}[{extra}]")
        pip(python, "check")
        output(python, "-W", "ignore", "-c", IMPORTS)
        return " ".join(line for line in pip(python, "freeze").split() if "mm" in line.partition("==")[0])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--extra", nargs="+", default=[], metavar="EXTRA", help="extras of setup.py")
    parser.add_argument("--root", type=Path, default=FOLDER, help=f"default: {FOLDER.name}/")
    args = parser.parse_args()
    if unknown := {*args.rows} - {*ROWS}:
        parser.error(f"no row {' '.join(unknown)}; there are {', '.join(ROWS)}")
    try:
        return check(args.rows, args.extra, args.root)
    except InstallationError as error:
        raise SystemExit(f"error: {error}") from None


def check(rows: list[str], extras: list[str], root: Path) -> int:
    """Print a line per row and extra; return 1 if the package changed something."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        for row in rows:
            changes = check_beside(row, root, wheel)
            print(f"{row}: {' '.join(changes) or 'unchanged'}", flush=True)
            failed |= bool(changes)
        for extra in extras:
            print(f"[{extra}]: {check_extra(extra, wheel)}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
