"""One test of a checkpoint: figures, and the evaluation that tables, pictures and reports are made from."""

import datetime
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import nn

from convnext_dense.checkpoints.fetch import fetch
from convnext_dense.errors import UserError
from convnext_dense.evaluation.coco_ap import Evaluator, load_evaluator
from convnext_dense.evaluation.folder import NAME, Evaluation
from convnext_dense.export.engines import EngineName
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.truth import check_truth
from convnext_dense.mm.engine.hooks import PicturesHook
from convnext_dense.mm.engine.options import Options
from convnext_dense.mm.engine.runner import testing_runner, work_folder
from convnext_dense.mm.evaluation.identity import recipe_name, row_of, test_identity
from convnext_dense.mm.evaluation.judge import (
    judge,
    keep_predictions,
    keep_users_files,
    name_label_maps,
    task_of,
)
from convnext_dense.mm.mmcv_ext import current_ops
from convnext_dense.mm.models.complexity import config_complexity
from convnext_dense.mm.models.onnx_model import OnnxModel
from convnext_dense.results.records import append_record, find_record
from convnext_dense.support.system import device_name, versions
from convnext_dense.toolboxes import toolbox_versions

PACKAGES = ("convnext_dense", "torch", "pycocotools", "faster-coco-eval")


@dataclass(frozen=True)
class Job:
    """One test: a config, weights, and how to test.

    Attributes:
        source: recipe name or config file.
        checkpoint: file that holds the weights, or an exported file.
        options: options of the command line; ``work_dir`` gets logs and predictions.
        tta: several scales and flip instead of one scale.
        evaluator: library for COCO's figures.
        row: row of the paper's tables; by default the one that tests in the same way.
        window_batch: windows of a segmentor's image at once; ``None`` chooses by the free memory.
        fused: fold weights for speed; the outputs are the same.
        dtype: of the products; figures in half precision are measurements of their own.
        engine: what runs an exported file.
        pictures: folder for pictures, ground truth beside the prediction.
        score_thr: detections below this score are not drawn.
    """

    source: str
    checkpoint: Path
    options: Options
    tta: bool = False
    evaluator: Evaluator = "pycocotools"
    row: str | None = None
    window_batch: int | None = None
    fused: bool = True
    dtype: str = "fp32"
    engine: EngineName = "auto"
    pictures: Path | None = None
    score_thr: float = 0.3

    @property
    def name(self) -> str:
        """The row's or recipe's name, else the name of the config file."""
        return recipe_name(self.source) or Path(self.source).stem


class Outcome(NamedTuple):
    """Figures of a test.

    Attributes:
        metrics: in percent by their names in records, such as ``box AP`` and ``mIoU``; those of another
            evaluator as it reports them.
        evaluation: for a test that makes one, already saved.
        reason: why there is none.
    """

    metrics: Mapping[str, float]
    evaluation: Evaluation | None
    reason: str = ""


def local_checkpoint(checkpoint: str) -> Path:
    """The file of a path or URL.

    Raises:
        UserError: no such file.
        CheckpointError: a URL that cannot be fetched.
    """
    if "://" not in checkpoint and not Path(checkpoint).exists():
        raise UserError(f"no checkpoint at {checkpoint}")
    return Path(fetch(checkpoint))


def identity(job: Job) -> dict:
    """Entries that identify a measurement; an interrupted series resumes after the recorded ones."""
    cfg = load_config(job.source, job.options.overrides)
    options = job.options
    return test_identity(cfg, job.checkpoint, job.tta, options.classes, options.data_root, job.dtype)


def evaluation_folder(job: Job, wanted: Mapping) -> Path:
    """Folder for the evaluation: the one of the same test, or the first free one.

    These are ``evaluation``, ``evaluation_2``, ... in the work folder, so that a test of another checkpoint
    or of other data leaves the earlier ones as they are.

    Args:
        job: the test.
        wanted: its identity.
    """
    base = Path(job.options.work_dir) / ("evaluation_tta" if job.tta else "evaluation")
    folders = (base.with_name(f"{base.name}_{n}") if n > 1 else base for n in itertools.count(1))
    return next(folder for folder in folders if _serves(folder, wanted))


def _serves(folder: Path, wanted: Mapping) -> bool:
    """Whether ``folder`` has no evaluation yet, or one of the wanted test."""
    if not (folder / NAME).is_file():
        return True
    try:
        return find_record([Evaluation.load(folder).record], wanted) is not None
    except (OSError, ValueError, KeyError, TypeError):  # not written by this version
        return False


def run_test(job: Job, results: Path) -> Outcome | None:
    """Test, and save and record an evaluation where the figures are those of the tables.

    ``None`` except in the first process.

    Args:
        job: the test; without ``work_dir`` its evaluation goes to the work folder of the config.
        results: folder of the records.

    Raises:
        UserError, DatasetNotFoundError, CheckpointError: see :mod:`convnext_dense.mm.errors`.
    """
    cfg = load_config(job.source, job.options.overrides)
    job = replace(job, options=replace(job.options, work_dir=work_folder(cfg, job.options.work_dir)))
    try:
        task_of(cfg)
    except UserError as error:
        # JSON cannot hold numpy's numbers; some metrics also report lists and text
        reported = _runner(job, job.options).test()
        metrics = {name: float(value) for name, value in reported.items() if isinstance(value, Real)}
        return Outcome(metrics, None, str(error)) if dist.get_rank() == 0 else None
    evaluation = run_protocol(job, results)
    return Outcome(evaluation.record["metrics"], evaluation) if evaluation else None


def run_protocol(job: Job, results: Path | None = None) -> Evaluation | None:
    """Test by the config's own protocol and save the evaluation; ``None`` except in the first process.

    Args:
        job: the test.
        results: folder of the records, whose ``accuracy.jsonl`` gets a line.

    Raises:
        UserError, DatasetNotFoundError, CheckpointError: see :mod:`convnext_dense.mm.errors`; also a test
            without an evaluation.
    """
    try:
        load_evaluator(job.evaluator)
    except ValueError as error:
        raise UserError(str(error)) from None
    cfg = load_config(job.source, job.options.overrides)
    task, same = task_of(cfg), identity(job)
    out = evaluation_folder(job, same)
    overrides = {**(job.options.overrides or {}), **keep_predictions(cfg, task, out)}
    if results and dist.get_rank() == 0:
        _check_writable(results)  # now, and not when the test is done
    runner = _runner(job, replace(job.options, overrides=overrides))
    name_label_maps(runner)
    check_truth(runner.cfg, ("test",), later=True)
    (out / NAME).unlink(missing_ok=True)  # there is none until the new one is complete
    start = time.monotonic()
    tested = runner.test()
    if dist.get_rank() != 0:
        return None
    record = {
        **same,
        "config": recipe_name(job.source) or Path(job.source).name,
        "row": job.row or row_of(cfg, job.name),
        "checkpoint": dict(name=job.checkpoint.name, **same["checkpoint"]),
        "seconds": round(time.monotonic() - start, 1),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device_name(get_device()),
        "threads": torch.get_num_threads(),
        **_computed_by(runner.model, job.dtype),
        "versions": versions(PACKAGES) | toolbox_versions(),
        "complexity": _complexity(cfg),
    }
    evaluation = judge(task, runner, tested, out, record, job.evaluator)
    evaluation.save()
    keep_users_files(cfg, out)
    if results:
        append_record(results / "accuracy.jsonl", evaluation.record)
    return evaluation


def _computed_by(model: nn.Module, dtype: str) -> dict[str, str]:
    """Entries of a record: precision of the products, and who provides the operators."""
    if isinstance(model, OnnxModel):
        return dict(dtype=model.predictor.metadata.precision, ops=model.predictor.engine.name)
    return dict(dtype=dtype, ops=current_ops(get_device()))


def _check_writable(folder: Path) -> None:
    """Make the folder of the records.

    Raises:
        UserError: it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--results {folder}: cannot be made ({error.strerror}); give another folder"
        ) from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"--results {folder}: not writable; give another folder")


def _runner(job: Job, options: Options) -> Runner:
    """A runner ready for the test of ``job``, with other options of the command line."""
    runner = testing_runner(
        job.source,
        str(job.checkpoint),
        options,
        job.tta,
        job.window_batch,
        job.fused,
        job.dtype,
        job.engine,
    )
    if job.pictures:
        runner.register_hook(PicturesHook(str(job.pictures), job.score_thr))
    return runner


def _complexity(cfg: Config) -> dict | None:
    """Parameters and MACs by the protocol of the paper's tables, for the chart of accuracy against cost."""
    try:
        counted = config_complexity(cfg)
    except (ValueError, TypeError, AttributeError, NotImplementedError):
        return None  # a model that the protocol does not cover
    return dict(params=counted.params, macs=counted.macs)
