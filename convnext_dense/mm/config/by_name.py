"""Recipes as bases of other configs: ``_base_ = "convnext_dense::mask_rcnn/convnext_t_3x.py"``."""

from pathlib import Path

from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.recipes import config_path, configs_root

PREFIX = "convnext_dense::"


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


def find_recipes_in_mmengine() -> None:
    """Make ``Config.fromfile`` find our recipes by name, in a wheel, an editable install and a clone.

    mmengine's own look-up knows a fixed list of packages and needs them installed.
    """
    of_mmengine = Config._get_cfg_path
    if getattr(of_mmengine, "finds_ours", False):
        return

    def path_and_scope(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(PREFIX):
            return str(recipe_file(cfg_path)), None  # no scope: our types are registered for every scope
        return of_mmengine(cfg_path, filename)

    path_and_scope.finds_ours = True
    Config._get_cfg_path = staticmethod(path_and_scope)
