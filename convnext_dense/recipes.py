"""The recipes of the package, by name."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from convnext_dense.errors import ArgumentError
from convnext_dense.toolboxes import advice, read_toolboxes

if TYPE_CHECKING:
    from mmengine.config import Config

PACKAGE = Path(__file__).resolve().parent


def configs_root() -> Path:
    """Folder of the recipes: inside an installed wheel, or ``configs/`` of a checkout.

    Raises:
        FileNotFoundError: neither exists.
    """
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        if (folder / "_base_").is_dir():
            return folder
    raise FileNotFoundError(f"no recipes beside {PACKAGE}; reinstall convnext_dense")


def list_configs() -> list[str]:
    """Names such as ``cascade/convnext_b_3x``, sorted; bases are left out."""
    root = configs_root()
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.py"))
    return sorted(name for name in names if not name.startswith("_base_") and not name.endswith("__init__"))


def config_path(name: str) -> Path:
    """File of a recipe by name, with or without the prefix ``configs/`` and the suffix ``.py``.

    Raises:
        ValueError: an unknown name; similar names are listed.
    """
    short = name.removeprefix("./").removeprefix("configs/").removesuffix(".py")
    known = list_configs()
    if short not in known:
        near = difflib.get_close_matches(short, known, n=3, cutoff=0.4) or known
        raise ArgumentError(f"no recipe {name!r}; near: {', '.join(near)}")
    return configs_root() / f"{short}.py"


def run_name(path: str | Path) -> str:
    """``cascade/convnext_t_3x`` for a recipe, because file names are not unique; else the file's name."""
    path = Path(path).resolve()
    root = configs_root().resolve()
    return path.relative_to(root).with_suffix("").as_posix() if path.is_relative_to(root) else path.stem


def get_config(name: str) -> "Config":
    """mmengine ``Config`` of a recipe by name, e.g. ``get_config("cascade/convnext_b_3x")``.

    Raises:
        ValueError: an unknown name; similar names are listed.
        ImportError: mmengine is not installed.
    """
    path = config_path(name)
    try:
        from mmengine.config import Config
    except ImportError as error:
        raise ImportError(f"recipes need mmengine: {advice(read_toolboxes())}") from error
    return Config.fromfile(path)
