"""What a test result depends on, as digests: model, test pipelines, weights and data.

Two records with the same identity measured the same thing, whatever the paths and the machine.
"""

import json
from pathlib import Path

from mmengine.config import Config

from convnext_dense.checkpoints.read import checkpoint_file
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.recipes import list_configs
from convnext_dense.results import paper
from convnext_dense.results.records import content_hash, file_hash
from convnext_dense.support.nested import rebuilt

_INITIAL_WEIGHTS = ("init_cfg", "pretrained")  # entries of a model config that a test does not use


def test_identity(
    cfg: Config,
    checkpoint: Path,
    tta: bool,
    classes: str | None,
    data_root: str | None,
    dtype: str = "fp32",
) -> dict:
    """Entries of a record that identify the measurement; see :func:`results.records.find_record`.

    Args:
        cfg: config that is tested.
        checkpoint: file of the weights, or the folder of a sharded checkpoint.
        tta: several scales and flip.
        classes: the user's own class names, as given.
        data_root: dataset folder instead of the config's.
        dtype: of the products; another one than fp32 makes it another measurement.
    """
    other = [] if dtype == "fp32" else [dtype]
    return dict(
        kind="accuracy",
        config_hash=content_hash([config_hash(cfg), classes, *other]),
        checkpoint=dict(hash=file_hash(checkpoint_file(checkpoint))),
        tta=tta,
        data_hash=data_hash(cfg, data_root),
    )


def recipe_name(source: str) -> str | None:
    """``configs/cascade/convnext_b_3x.py`` -> ``cascade/convnext_b_3x``; ``None`` for a user's config."""
    name = source.removeprefix("./").removeprefix("configs/").removesuffix(".py")
    return name if name in list_configs() else None


def row_of(cfg: Config, name: str) -> str | None:
    """Row of the paper's tables whose recipe tests as ``cfg`` does.

    Args:
        cfg: config, for example of a run with other paths.
        name: name of the recipe, with or without its folder.
    """
    stem = name.rpartition("/")[2]
    known = set(list_configs())
    candidates = [row for row in paper.ROWS if row.rpartition("/")[2] == stem and row in known]
    wanted = config_hash(cfg)
    return next((row for row in candidates if config_hash(load_config(row)) == wanted), None)


def config_hash(cfg: Config) -> str:
    """Digest of what determines a test result: model and test pipelines, not paths, devices or schedules."""
    parts = {key: cfg.get(key) for key in ("tta_pipeline", "tta_model", "default_scope")}
    parts["model"] = rebuilt(
        cfg.model,
        leaf=lambda value: "BN" if value == "SyncBN" else value,  # as it is in a test
        keep=lambda key, _: key not in _INITIAL_WEIGHTS,
    )
    parts["pipelines"] = [data.get("pipeline") for data in datasets_of(cfg, ("test",))]
    return content_hash(json.loads(json.dumps(parts, default=str)))


def data_hash(cfg: Config, data_root: str | None) -> str:
    """Digest of the test's annotations: COCO's file, or the names and sizes of the label maps."""
    parts = []
    for data in datasets_of(cfg, ("test",)):
        root = Path(data_root or data.get("data_root") or "")
        parts.append(data.get("indices"))
        if data.get("ann_file"):
            path = root / data["ann_file"]
            parts.append(file_hash(path) if path.is_file() else None)
        maps = (data.get("data_prefix") or {}).get("seg_map_path")
        if maps:
            files = sorted(path for path in (root / maps).rglob("*") if path.is_file())
            parts += [(path.relative_to(root).as_posix(), path.stat().st_size) for path in files]
    return content_hash(parts)
