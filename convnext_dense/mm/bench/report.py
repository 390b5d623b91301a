"""Collects the content of the page about a run from its work folder."""

import platform
from dataclasses import replace
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from convnext_dense.checkpoints.read import read_with_meta
from convnext_dense.errors import UserError
from convnext_dense.evaluation.folder import NAME, Evaluation
from convnext_dense.mm.apis.test import PACKAGES, Job, evaluation_folder, identity, run_protocol
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.config.lr_plan import make_plan
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.engine.checkpoint_io import newest_checkpoint
from convnext_dense.mm.engine.options import Options
from convnext_dense.mm.evaluation.identity import row_of
from convnext_dense.mm.mmcv_ext import current_ops
from convnext_dense.mm.type_names import type_name
from convnext_dense.reports.curves import Log, read_log
from convnext_dense.reports.html import Group, RunReport, build_page
from convnext_dense.results import paper
from convnext_dense.support.files import write_text
from convnext_dense.support.system import device_name, versions
from convnext_dense.toolboxes import toolbox_versions


def write_report(
    run: Path, out: Path, data_root: str | None = None, row: str | None = None, skip_test: bool = False
) -> None:
    """Write the page about the training in folder ``run`` to ``out``.

    The newest checkpoint is tested, unless its test is already in ``run/evaluation``.

    Raises:
        UserError: no run in the folder, or an unknown row.
        DatasetNotFoundError, CheckpointError: see :mod:`convnext_dense.mm.errors`.
    """
    source = run_config(run)
    cfg = load_config(str(source))
    if row is not None and row not in paper.ROWS:
        raise UserError(f"--row: the paper's tables have no row {row!r}")
    row = row or row_of(cfg, source.stem)
    notes, log, evaluation = [], None, None
    try:
        log = read_log(run)
    except (FileNotFoundError, ValueError) as error:
        notes.append(f"No curves: {error}.")
    checkpoint, passed_over = newest_checkpoint(run, to_resume=False)
    notes += [f"Skipped a checkpoint: {line}." for line in passed_over]
    if checkpoint is None:
        notes.append("No checkpoint in this folder yet.")
    elif skip_test:
        notes.append("The checkpoint was not tested (--skip-test).")
    else:
        evaluation = test(source, checkpoint, data_root, row)
    report = RunReport(
        title=f"{source.stem} in {run.resolve().name}",
        recipe=[*recipe_lines(cfg, row), *checkpoint_lines(checkpoint)],
        config=cfg.pretty_text,
        groups=groups(cfg, log),
        log=log,
        evaluation=evaluation,
        environment=environment_lines(evaluation),
        notes=notes,
    )
    write_text(out, build_page(report))


def run_config(run: Path) -> Path:
    """The config that training wrote to its work folder.

    Raises:
        UserError: no folder or no config.
    """
    if not run.is_dir():
        raise UserError(f"no folder {run}; give the work folder of a training")
    found = sorted(run.glob("*.py"), key=lambda path: path.stat().st_mtime)
    found = found or sorted(run.glob("*/vis_data/config.py"))
    if not found:
        raise UserError(f"{run} has no config: tools/train.py did not train there")
    return found[-1]


def test(source: Path, checkpoint: Path, data_root: str | None, row: str | None) -> Evaluation:
    """The evaluation of ``checkpoint``, made now unless the same one is already there."""
    job = Job(str(source), checkpoint, Options(work_dir=str(source.parent), data_root=data_root), row=row)
    folder = evaluation_folder(job, identity(job))
    if not (folder / NAME).is_file():
        return run_protocol(job)
    evaluation = Evaluation.load(folder)
    return replace(evaluation, record={**evaluation.record, "row": row})


def groups(cfg: Config, log: Log | None) -> list[Group]:
    """Learning-rate groups; the epoch length comes from the log if the config does not give it."""
    epochs = cfg.train_cfg.get("max_epochs")
    steps = next(iter(log.losses.values()))[0] if log else [epochs or 1]
    try:
        plan = make_plan(cfg)
    except ValueError:
        plan = make_plan(cfg, max(1, steps[-1] // (epochs or 1)))
    return [
        Group(
            "all" if g.layer is None else str(g.layer),
            g.tensors,
            g.params,
            g.lr,
            g.lr_end,
            g.weight_decay,
            g.contents,
        )
        for g in plan.groups
    ]


def recipe_lines(cfg: Config, row: str | None) -> list[tuple[str, str]]:
    """Summary of the recipe."""
    model, backbone = cfg.model, cfg.model.get("backbone") or {}
    start = (backbone.get("init_cfg") or {}).get("checkpoint") or "random weights"
    optimizer = cfg.optim_wrapper.optimizer
    length = cfg.train_cfg.get("max_epochs")
    length = f"{length} epochs" if length else f"{cfg.train_cfg.get('max_iters')} iterations"
    steps = [_phase(scheduler) for scheduler in cfg.get("param_scheduler") or []]
    decay = (cfg.optim_wrapper.get("paramwise_cfg") or {}).get("decay_rate")
    root = next((str(data.get("data_root")) for data in datasets_of(cfg, ("train",))), "")
    arch = backbone.get("arch")
    return [
        ("row of the paper", row or "none"),
        ("model", f"{model.type}, backbone {backbone.get('type')}" + (f" {arch}" if arch else "")),
        ("started from", start),
        ("data", root),
        ("batch", f"{cfg.train_dataloader.batch_size} images per process"),
        ("optimizer", f"{optimizer.type}, learning rate {optimizer.get('lr')}"),
        ("weight decay", str(optimizer.get("weight_decay", 0))),
        ("layer decay", str(decay) if decay else "none"),
        ("precision", "mixed" if type_name(cfg.optim_wrapper) == "AmpOptimWrapper" else "single"),
        ("length", length),
        ("schedule", ", then ".join(steps) or "constant"),
    ]


def _phase(scheduler: dict) -> str:
    """A scheduler and when it acts."""
    unit = "epochs" if scheduler.get("by_epoch", True) else "iterations"
    return f"{scheduler['type']} ({unit} {scheduler.get('begin', 0)} to {scheduler.get('end', 'the end')})"


def checkpoint_lines(checkpoint: Path | None) -> list[tuple[str, str]]:
    """Name and metadata of the checkpoint."""
    if checkpoint is None:
        return []
    meta = read_with_meta(checkpoint)[1]
    known = {"after iteration": meta.get("iter"), "written": meta.get("time"), "seed": meta.get("seed")}
    return [("checkpoint", checkpoint.name), *((k, str(v)) for k, v in known.items() if v is not None)]


def environment_lines(evaluation: Evaluation | None) -> list[tuple[str, str]]:
    """Environment in which the test ran or the page was made."""
    record = evaluation.record if evaluation else {}
    found = record.get("versions") or versions(PACKAGES) | toolbox_versions()
    return [
        ("device", record.get("device") or device_name(get_device())),
        ("RoIAlign and NMS", record.get("ops") or current_ops()),
        ("system", f"{platform.system()} {platform.machine()}"),
        *found.items(),
        *([("tested", f"{record['time']}, in {record['seconds']:g} s")] if record else []),
    ]
