"""Configs by path, by the name of a recipe, or from another package."""

from pathlib import Path

from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.config.by_name import config_file
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

    if "::" in source:
        cfg = Config.fromfile(config_file(source))
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
