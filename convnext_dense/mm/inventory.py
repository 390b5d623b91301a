"""Which rows can be measured here: their recipes, data and weights on disk."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from convnext_dense import paper
from convnext_dense.coco_eval import Evaluator
from convnext_dense.fetch import fetch
from convnext_dense.mm.benchmark import Job, config_hash, recipe_name
from convnext_dense.mm.data import datasets_of
from convnext_dense.mm.errors import UserError
from convnext_dense.mm.runtime import Options, load_config
from convnext_dense.recipes import list_configs


class LeftOut(NamedTuple):
    """A row that cannot be measured here, and why."""

    row: str
    reason: str


def find_data_root(cfg: Config, root: str | None) -> str | None:
    """The folder of the test's data: the config's own, ``root``, or the usual name below ``root``."""
    for data in datasets_of(cfg, ("test",)):
        own = Path(data.get("data_root") or "")
        places = [own]
        if root:
            places = [Path(root), Path(root, own.name), Path(root, *own.parts[1:])]
        prefixes = [data.get("ann_file"), *(data.get("data_prefix") or {}).values()]
        for place in places:
            if all((place / part).exists() for part in prefixes if part):
                return str(place)
    return None


def find_checkpoint(row: str, folders: list[Path]) -> Path | None:
    """Weights of a row on disk: the released file, or the newest of a run of its recipe.

    Args:
        row: name of the row.
        folders: where released files or work folders lie.
    """
    released = paper.WEIGHTS.get(row)
    for folder in folders:
        if released and (folder / Path(released).name).is_file():
            return folder / Path(released).name
    for folder in folders:
        stem = row.rpartition("/")[2]
        for run in (folder / row, folder / stem):
            config = run / f"{stem}.py"
            if config.is_file() and config_hash(load_config(str(config))) == config_hash(load_config(row)):
                latest = newest_checkpoint(run)
                if latest:
                    return latest
    return None


def newest_checkpoint(run: Path) -> Path | None:
    """The last checkpoint that a training in ``run`` wrote, also when the folder was moved since."""
    found = find_latest_checkpoint(str(run)) if (run / "last_checkpoint").is_file() else None
    for path in (Path(found or "-"), run / Path(found or "-").name):
        if path.is_file():
            return path
    written = [*run.glob("epoch_*.pth"), *run.glob("iter_*.pth")]
    return max(written, key=lambda path: path.stat().st_mtime, default=None)


def jobs_on_disk(
    options: Options, folders: list[Path], evaluator: Evaluator, tta: bool
) -> Iterator[Job | LeftOut]:
    """Every row of the COCO and ADE20K tables, as a job, or with what is missing.

    Args:
        options: of the command line; ``data_root`` may hold both data sets.
        folders: see :func:`find_checkpoint`.
        evaluator: see :class:`Job`.
        tta: for segmentors also several scales and flip.
    """
    known = set(list_configs())
    for row in paper.ROWS.values():
        if not isinstance(row, paper.CocoRow | paper.Ade20kRow):
            continue
        if row.name not in known:
            yield LeftOut(row.name, "no recipe")
            continue
        root = find_data_root(load_config(row.name, options.overrides), options.data_root)
        if root is None:
            yield LeftOut(row.name, f"no data in {options.data_root or 'the place that its config names'}")
            continue
        checkpoint = find_checkpoint(row.name, folders)
        if checkpoint is None:
            yield LeftOut(row.name, f"no checkpoint in {', '.join(map(str, folders))}")
            continue
        job = Job(row.name, checkpoint, replace(options, data_root=root), evaluator=evaluator)
        yield job
        if tta and isinstance(row, paper.Ade20kRow):
            yield replace(job, tta=True)


def checkpoint_folders() -> list[Path]:
    """Where weights are looked for: what was trained here, and what was downloaded."""
    return [Path("work_dirs"), Path(torch.hub.get_dir()) / "checkpoints"]


def single_job(
    source: str, checkpoint: str | None, options: Options, evaluator: Evaluator, tta: bool = False
) -> Job:
    """The test of a row or config; without ``checkpoint`` by the row's released weights.

    Raises:
        UserError: no such config, or no weights.
        CheckpointError: weights that cannot be fetched.
    """
    load_config(source, options.overrides)
    name = recipe_name(source)
    if checkpoint is None:
        found = find_checkpoint(name, checkpoint_folders()) if name in paper.ROWS else None
        checkpoint = str(found) if found else paper.WEIGHTS.get(name or "")
    if checkpoint is None:
        raise UserError(f"{source}: no weights were released for it; give --checkpoint FILE")
    if "://" not in checkpoint and not Path(checkpoint).is_file():
        raise UserError(f"--checkpoint: no file {checkpoint}")
    return Job(source, Path(fetch(checkpoint)), options, tta, evaluator)
