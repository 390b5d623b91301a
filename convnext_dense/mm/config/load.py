"""Configs by path, by the name of a recipe, or from another package."""

import warnings
from pathlib import Path

from mmengine.config import Config
from mmengine.hub import get_config

from convnext_dense.errors import UserError
from convnext_dense.mm.config.by_name import PREFIX, recipe_file
from convnext_dense.mm.config.sections import check_kinds, check_overrides
from convnext_dense.recipes import config_path


def load_config(source: str, overrides: dict | None = None) -> Config:
    """Load a config by path, by the name of a recipe (``cascade/convnext_b_3x``), or from another package.

    Args:
        source: path, recipe, or from a package: ``convnext_dense::RECIPE``,
            ``mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py``.
        overrides: entries to replace, by dotted key.

    Raises:
        UserError: neither a file nor a known recipe (similar names are listed), or an entry of a wrong kind.
    """
    # registers the ops and the backbone, also for a config that does not ask for them
    import convnext_dense.mm  # noqa: F401

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # mmengine imports it
        if source.startswith(PREFIX):
            cfg = Config.fromfile(recipe_file(source))
        elif "::" in source:
            cfg = _zoo_config(source)
        else:
            try:
                path = source if Path(source).is_file() else config_path(source)
            except ValueError as error:
                raise UserError(f"no config file {source}, and {error}") from None
            cfg = Config.fromfile(path)
    check_overrides(cfg, overrides or {})
    cfg.merge_from_dict(overrides or {})
    check_kinds(cfg)
    return cfg


def _zoo_config(source: str) -> Config:
    """A config that another package carries, ``mmdet::FOLDER/FILE.py``."""
    try:
        return get_config(source)
    except Exception as error:  # mmengine raises many types for a package or file that is not there
        said = str(error).strip().split("\n")[0]
        raise UserError(
            f"no config {source}: {said}; use PACKAGE::PATH, with PATH below that package's configs"
        ) from None
