"""Configs of packages by name, as bases too: ``_base_ = "convnext_dense::mask_rcnn/convnext_t_3x.py"``.

mmengine looks the other packages up by a fixed list of distributions, without the fork's, and its releases
do so through pkg_resources, which setuptools 82 removed. Here a package is found as Python imports it, and is
not imported.
"""

import difflib
from pathlib import Path

from mmengine.config import Config, config

from convnext_dense.errors import UserError
from convnext_dense.recipes import config_path, configs_root
from convnext_dense.toolboxes import DISTRIBUTIONS, advice, package_folder, read_toolboxes

PREFIX = "convnext_dense::"


def config_file(name: str) -> Path:
    """The file that ``PACKAGE::FOLDER/FILE.py`` names, below the configs that a package carries.

    Raises:
        UserError: there is no such package, or no such file in it; similar names are listed.
    """
    if name.startswith(PREFIX):
        return recipe_file(name)
    package, _, path = name.partition("::")
    folder = package_folder(package)
    if folder is None:
        raise UserError(f"no config {name}: {_not_installed(package)}")
    # a wheel of OpenMMLab carries them in the package; a checkout has them beside it
    roots = [root for root in (folder / ".mim" / "configs", folder.parent / "configs") if root.is_dir()]
    for root in roots:
        if (root / path).is_file():
            return root / path
    if not roots:
        raise UserError(f"no config {name}: {folder} carries none; give the path of the file")
    known = [file.relative_to(root).as_posix() for root in roots for file in root.rglob("*.py")]
    near = difflib.get_close_matches(path, known, n=3)
    hint = f"near: {', '.join(near)}" if near else "use PACKAGE::PATH, with PATH below that folder"
    raise UserError(f"no config {name}: no such file in {roots[0]}; {hint}")


def recipe_file(name: str) -> Path:
    """The file that ``convnext_dense::FOLDER/FILE.py`` names, a recipe or a base; ``.py`` may be left out.

    Raises:
        UserError: there is no such recipe; similar names are listed.
    """
    short = name.removeprefix(PREFIX)
    base = configs_root() / f"{short.removesuffix('.py')}.py"
    if short.startswith("_base_/") and base.is_file():
        return base
    try:
        return config_path(short)
    except ValueError as error:
        raise UserError(str(error)) from None


def _not_installed(package: str) -> str:
    remedy = f"; {advice(read_toolboxes(), package)}" if package in DISTRIBUTIONS else ""
    return f"{package or 'the package'} is not installed{remedy}"


def find_configs_in_mmengine() -> None:
    """Make ``Config.fromfile`` find configs as this module does, for ``_base_`` and for ``read_base()``."""
    of_mmengine = Config._get_cfg_path
    if getattr(of_mmengine, "finds_ours", False):
        return

    def path_and_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if "::" not in cfg_path:
            return of_mmengine(cfg_path, filename)
        # no scope for our own: our types are registered for every scope
        scope = None if cfg_path.startswith(PREFIX) else cfg_path.partition("::")[0]
        try:
            return str(config_file(cfg_path)), scope
        except UserError as error:
            raise UserError(f"{filename}: _base_ names {cfg_path!r}: {error}") from None

    def folder_of_base(package: str) -> str:
        """The folder of the package in `with read_base(): from PACKAGE.configs.FILE import *`."""
        folder = package_folder(package)
        if folder is None:
            raise config.ConfigParsingError(f"read_base(): {_not_installed(package)}")
        return str(folder)

    path_and_scope.finds_ours = True
    Config._get_cfg_path = staticmethod(path_and_scope)
    config.get_installed_path = folder_of_base
