"""Which rows can be measured here: their recipes, data and weights on disk."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.evaluation.coco_ap import Evaluator
from convnext_dense.mm.apis.test import Job, local_checkpoint
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.engine.checkpoint_io import newest_checkpoint
from convnext_dense.mm.engine.options import Options
from convnext_dense.mm.evaluation.identity import config_hash, recipe_name
from convnext_dense.recipes import list_configs
from convnext_dense.results import paper
from convnext_dense.results.reproduction import Part


class LeftOut(NamedTuple):
    """A row that cannot be measured here, and why.

    Attributes:
        row: name of the row.
        reason: the first missing part, in words.
        lacks: all missing parts.
        expected: missing files and folders of the data, as paths.
    """

    row: str
    reason: str
    lacks: tuple[Part, ...] = ()
    expected: tuple[str, ...] = ()


def find_data_root(cfg: Config, root: str | None) -> str | None:
    """Folder of the test's data: the config's own, ``root``, or the usual name below ``root``."""
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


def expected_data(cfg: Config, root: str | None) -> tuple[str, ...]:
    """Missing paths of the test's data, as expected from ``root`` or the config."""
    missing = []
    for data in datasets_of(cfg, ("test",)):
        own = Path(data.get("data_root") or "")
        place = own if not root else Path(root) if Path(root).name == own.name else Path(root, own.name)
        prefixes = [data.get("ann_file"), *(data.get("data_prefix") or {}).values()]
        missing += [str(place / part) for part in prefixes if part and not (place / part).exists()]
    return tuple(missing)


def find_released(row: str, folders: Iterable[Path]) -> Path | None:
    """Released checkpoint of a row in one of ``folders``, under its released file name."""
    released = paper.WEIGHTS.get(row)
    paths = [folder / Path(released).name for folder in folders] if released else []
    return next((path for path in paths if path.is_file()), None)


def find_checkpoint(row: str, folders: list[Path]) -> Path | None:
    """Weights of a row on disk: the released file, or the newest of a run of its recipe.

    Args:
        row: name of the row.
        folders: folders with released files or work folders.
    """
    released = find_released(row, folders)
    if released:
        return released
    for folder in folders:
        stem = row.rpartition("/")[2]
        for run in (folder / row, folder / stem):
            config = run / f"{stem}.py"
            if config.is_file() and config_hash(load_config(str(config))) == config_hash(load_config(row)):
                latest, _ = newest_checkpoint(run, to_resume=False)
                if latest:
                    return latest
    return None


def jobs_on_disk(
    options: Options,
    folders: list[Path],
    evaluator: Evaluator,
    tta: bool,
    rows: Iterable[str] | None = None,
    released: bool = False,
) -> Iterator[Job | LeftOut]:
    """Every row of the COCO and ADE20K tables, as a job, or with what is missing.

    Args:
        options: options of the command line; ``data_root`` may hold both data sets, and ``work_dir`` gets a
            folder for each row.
        folders: see :func:`find_checkpoint`.
        evaluator: see :class:`Job`.
        tta: also test segmentors at several scales and flip.
        rows: names of the rows to check; all by default.
        released: use only released checkpoints, not those of a run.
    """
    known = set(list_configs())
    find = find_released if released else find_checkpoint
    wanted = paper.ROWS if rows is None else set(rows)
    for row in paper.ROWS.values():
        if not isinstance(row, paper.CocoRow | paper.Ade20kRow) or row.name not in wanted:
            continue
        if row.name not in known:
            yield LeftOut(row.name, "no recipe", ("recipe",))
            continue
        cfg = load_config(row.name, options.overrides)
        root, checkpoint = find_data_root(cfg, options.data_root), find(row.name, folders)
        if root is None:
            reason = f"no data in {options.data_root or 'the place that its config names'}"
            lacks = ("data",) if checkpoint else ("checkpoint", "data")
            yield LeftOut(row.name, reason, lacks, expected_data(cfg, options.data_root))
            continue
        if checkpoint is None:
            yield LeftOut(row.name, f"no checkpoint in {', '.join(map(str, folders))}", ("checkpoint",))
            continue
        own = replace(options, data_root=root, work_dir=row_folder(options.work_dir, row.name))
        job = Job(row.name, checkpoint, own, evaluator=evaluator)
        yield job
        if tta and isinstance(row, paper.Ade20kRow):
            yield replace(job, tta=True)


def row_folder(base: str | None, name: str) -> str:
    """Folder for logs and predictions of one row, apart from those of trainings here."""
    return f"{base or 'work_dirs/benchmark'}/{name}"


def checkpoint_folders() -> list[Path]:
    """Folders that are searched for weights: trained here or downloaded."""
    return [Path("work_dirs"), download_folder()]


def download_folder() -> Path:
    """Folder of downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def single_job(
    source: str, checkpoint: str | None, options: Options, evaluator: Evaluator, tta: bool = False
) -> Job:
    """The test of a row or config; without ``checkpoint`` it uses the row's weights, on disk or released.

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
    folder = options.work_dir or row_folder(None, name or Path(source).stem)
    return Job(source, local_checkpoint(checkpoint), replace(options, work_dir=folder), tta, evaluator)
