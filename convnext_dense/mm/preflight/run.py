"""``tools/train.py --preflight``: try or compute what a run depends on; nothing is written."""

import contextlib
import copy
import io
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from convnext_dense.errors import UserError
from convnext_dense.mm.config.edit import has_batch_norm, set_pretrained
from convnext_dense.mm.config.startup import check_evaluation
from convnext_dense.mm.datasets.paths import SPLITS
from convnext_dense.mm.datasets.repair import set_tolerant_data
from convnext_dense.mm.engine.runner import compile_backbone
from convnext_dense.mm.errors import explain
from convnext_dense.mm.models.batch_norm import allow_one_value
from convnext_dense.mm.models.mixed_sizes import allow_mixed_sizes
from convnext_dense.mm.models.small_inputs import pad_small_inputs
from convnext_dense.mm.preflight.data import check_everything
from convnext_dense.mm.preflight.plan import disk_of, length_of, plan_rates, span_of
from convnext_dense.mm.preflight.samples import Samples, largest_samples
from convnext_dense.mm.preflight.steps import (
    Measured,
    evaluation_pace,
    largest_fitting,
    loader_pace,
    measure_steps,
)
from convnext_dense.mm.preflight.weights import checkpoint_bytes, load, wrap
from convnext_dense.mm.type_names import type_name
from convnext_dense.reports.preflight import (
    Length,
    Pace,
    Report,
    duration,
    gib,
    run_seconds,
)
from convnext_dense.toolboxes import faults, read_toolboxes, toolbox_line


def preflight(
    cfg: Config,
    strict: bool = False,
    compiled: bool = False,
    tell: Callable[[str], None] = print,
    new_heads: bool = False,
) -> bool:
    """Check the data, load the weights, take steps, and report what the run will need.

    All processes of a distributed run call it; the first one checks the files and reports. Nothing is
    written, except weights that must be downloaded, which go where the run will look for them.

    Args:
        cfg: config that :func:`convnext_dense.mm.apis.train.training_runner` would run.
        strict: ``--strict-data``.
        compiled: ``--compile``.
        tell: function that prints a line of the report.
        new_heads: ``--new-heads``.

    Returns:
        whether the run can start.

    Raises:
        UserError: a sharded run, which only the run itself can measure.
    """
    if cfg.get("runner_type") == "ShardedRunner":
        raise UserError("--preflight measures whole models, --fsdp runs a part per process: leave --fsdp out")
    main = dist.is_main_process()
    report = Report(tell if main else lambda line: None)
    init_default_scope(cfg.get("default_scope") or "mmengine")
    boxes = read_toolboxes()
    report.say("toolboxes", toolbox_line(boxes))
    for wrong in faults(boxes):
        report.warn("toolboxes", f"{wrong.text}; {wrong.remedy}")
    with _quiet():
        usable = [check_everything(cfg, strict, report) if main else True]
        dist.broadcast_object_list(usable)  # the others wait here
        _Preflight(cfg, strict, compiled, report, new_heads).run(usable[0])
    report.tell(report.verdict())
    ready = [report.ready]
    dist.broadcast_object_list(ready)  # the other processes have not seen the files
    return ready[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what mmengine logs for each parameter, and pycocotools for each file."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Preflight:
    """State shared by the parts of a preflight; each part reports its own lines."""

    def __init__(
        self, cfg: Config, strict: bool, compiled: bool, report: Report, new_heads: bool = False
    ) -> None:
        self.cfg = cfg
        self.new_heads = new_heads
        self.report = report
        self.compiled = compiled
        self.loaders = {f"{s}_dataloader": copy.deepcopy(cfg.get(f"{s}_dataloader")) for s in SPLITS}
        set_tolerant_data(self.loaders, strict)
        self.steps_done = 0
        self.batch_size = cfg.train_dataloader.batch_size

    def run(self, usable: bool) -> None:
        """Run all parts; a part that fails is a problem, and the others continue as far as they can.

        Args:
            usable: whether training can be tried on the data.
        """
        for line in self.attempt("evaluation", lambda: check_evaluation(self.cfg)) or ():
            self.report.say("evaluation", line)
        model = self.weights()
        loader = self.attempt("training", self.train_loader) if usable else None
        wrapped = wrap(model, self.cfg)
        if self.compiled:
            self.report.say("compile", compile_backbone(wrapped))
        optim_wrapper = build_optim_wrapper(wrapped, copy.deepcopy(self.cfg.optim_wrapper))
        if loader is None:
            self.report.say("steps", "not tried: training would fail on these data")
            return
        self.span = span_of(self.cfg.train_cfg, len(loader))
        self.rates()
        steps = self.attempt("training", lambda: self.steps(wrapped, optim_wrapper, loader))
        if steps:
            self.attempt("time", lambda: self.time(wrapped, *steps, loader))
            self.disk(model, optim_wrapper)

    def attempt(self, topic: str, part: Callable[[], object]) -> object:
        """Return the result of ``part``; ``None`` after an error that a user can act on."""
        try:
            return part()
        except Exception as error:
            advice = explain(error)
            if advice is None:
                raise
            self.report.problem(topic, advice)
            return None

    # ---- weights

    def weights(self) -> nn.Module:
        """Build the model with the weights that the run will start from; random ones if these fail."""
        model = MODELS.build(self.cfg.model)
        loaded = self.attempt("weights", lambda: load(model, self.cfg, self.new_heads))
        if loaded:
            text, self.steps_done = loaded
        else:
            plain = Config(dict(model=copy.deepcopy(self.cfg.model)))
            set_pretrained(plain, "none")
            model = MODELS.build(plain.model)
            text = "continuing with random weights so that the other checks can run"
        allow_one_value(model)
        allow_mixed_sizes(model)
        pad_small_inputs(model)
        total, inside = (
            sum(p.numel() for p in part.parameters()) / 1e6
            for part in (model, getattr(model, "backbone", nn.Identity()))
        )
        self.report.say("weights", f"{text}; {total:.1f} M parameters, {inside:.1f} M in the backbone")
        return model

    # ---- data, length and rates of the run

    def train_loader(self) -> DataLoader:
        """The training loader with its dataset."""
        with contextlib.redirect_stdout(io.StringIO()):
            return Runner.build_dataloader(self.loaders["train_dataloader"], seed=0)

    def rates(self) -> None:
        """Report the groups and learning rates."""
        images = self.batch_size * dist.get_world_size()
        try:
            rates = plan_rates(self.cfg, self.span.epoch_length, images, self.steps_done)
        except (AttributeError, TypeError, ValueError) as error:
            self.report.say("rates", f"cannot be determined in advance: {error}")
            return
        self.report.say("rates", rates.groups)
        self.report.say("", rates.course)
        if rates.idle:
            self.report.warn("rates", rates.idle)
        if not rates.reached:
            self.report.warn(
                "rates", "the run ends in its warm-up: lengthen it, or shorten the warm-up in param_scheduler"
            )

    # ---- steps

    def steps(
        self, model: nn.Module, optim_wrapper: OptimWrapper, loader: DataLoader
    ) -> tuple[Measured, Samples] | None:
        """Measure steps on the largest batch, their memory, and the largest batch that fits."""
        samples = largest_samples(self.cfg, self.loaders["train_dataloader"], loader.dataset)
        image, batch = (_by(hw) for hw in samples.largest)
        shape = f"{self.batch_size} x {batch}"
        self.report.say(
            "shape", f"largest image {image}, largest batch {shape} (height x width); {samples.source}"
        )
        average = copy.deepcopy(model) if self.averages else None  # --ema keeps one
        least = 2 if has_batch_norm(model) else 1
        measured = measure_steps(model, optim_wrapper, samples, self.batch_size, least)
        fitting = largest_fitting(model, optim_wrapper, samples, measured)
        del average
        self.memory(measured, fitting, shape)
        if not math.isfinite(measured.loss):
            self.report.problem(
                "steps",
                f"the loss is {measured.loss} after the first steps: check labels, weights and rates",
            )
        return None if measured.seconds is None else (measured, samples)

    def memory(self, measured: Measured, fitting: tuple[int, bool] | None, shape: str) -> None:
        """Report the memory."""
        place = torch.device(get_device())
        peak = measured.peaks.get(self.batch_size)
        free = f"{gib(measured.free)} were free on {place}"
        if measured.seconds is None:
            most = f"about {fitting[0]} images may" if fitting and fitting[0] else "perhaps none does"
            self.report.problem(
                "memory",
                f"a batch of {shape} does not fit, {free}; {most}: lower train_dataloader.batch_size "
                "(gradients are accumulated), or set model.backbone.memory=leaner or "
                "model.backbone.with_cp=True",
            )
        elif peak is None:
            self.report.say("memory", "not reported by this system")
        else:
            self.report.say(
                "memory",
                f"peak {gib(measured.before + peak)} at {shape}: {gib(measured.before)} before the step and "
                f"{gib(peak)} in it; {free}",
            )
        if fitting:
            images, tried = fitting
            line = measured.line
            how = (
                "tried"
                if tried
                else f"{gib(line.fixed)} + {gib(line.per_image)} per image in 90% of the free memory"
            )
            self.report.say("batch", f"largest that fits: {images} images per process ({how})")
            if measured.seconds is not None and images < self.batch_size:
                self.report.warn("batch", f"{self.batch_size} images leave less than 10% of the memory free")

    # ---- time

    def time(self, model: nn.Module, measured: Measured, samples: Samples, loader: DataLoader) -> None:
        """Report the time of steps, of the loader, of evaluations and of the run."""
        length = length_of(self.cfg, self.span, self.steps_done)
        preprocessor = self.cfg.model.get("data_preprocessor") or {}
        shape = f"{self.batch_size} x {_by(samples.largest.batch)}"
        seconds = measured.seconds
        batches = f", {duration(seconds * length.accumulate)} per step of {length.accumulate} batches"
        self.report.say(
            "steps", f"{duration(seconds)} per batch of {shape}{batches if length.accumulate > 1 else ''}"
        )
        pace = Pace(seconds, overlap=loader.num_workers > 0)
        if loading := loader_pace(loader, preprocessor):
            largest = samples.largest.batch[0] * samples.largest.batch[1]
            share = min(1.0, loading.area / largest)
            pace = pace._replace(share=share, loading=loading.seconds)
            self.report.say(
                "loading",
                f"{self.batch_size / loading.seconds:.1f} images/s with {_workers(loader.num_workers)}, "
                f"{duration(loading.seconds)} per batch; {loading.batches} batches drawn have "
                f"{share:.0%} of the largest one's area",
            )
        if pace.starved:
            self.report.warn(
                "loading",
                "slower than training, so it sets the pace: raise train_dataloader.num_workers "
                f"({os.cpu_count()} CPU cores)",
            )
        if length.evaluations:
            pace, length = self.evaluation(model, pace, length)
        usual, most, evaluating = run_seconds(pace, length)
        worst = f", {duration(most)} if every batch were the largest" if most > 1.01 * usual else ""
        left = f" left of {self.span.total:,}" if self.steps_done else ""
        self.report.say(
            "run",
            f"{length.steps:,} steps{left}: {duration(usual)}{worst}; {length.evaluations} "
            f"evaluation{'s' * (length.evaluations != 1)}: {duration(evaluating)}",
        )

    def evaluation(self, model: nn.Module, pace: Pace, length: Length) -> tuple[Pace, Length]:
        """Add the validation images to ``pace`` and ``length``."""
        settings = self.loaders["val_dataloader"]
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = DATASETS.build(settings["dataset"])
        if hasattr(dataset, "full_init"):
            dataset.full_init()
        fp16 = self.cfg.val_cfg.get("fp16", False)
        seconds = evaluation_pace(model, dataset, settings.get("batch_size", 1), fp16)
        images = -(-len(dataset) // dist.get_world_size())
        self.report.say(
            "evaluation",
            f"{duration(seconds)} per image with the current weights, {duration(images * seconds)} "
            f"for {images:,} images, without the metric",
        )
        return pace._replace(image=seconds), length._replace(val_images=images)

    # ---- disk

    @property
    def averages(self) -> bool:
        """Whether an average of the weights is kept."""
        return any(type_name(hook) == "EMAHook" for hook in self.cfg.get("custom_hooks") or [])

    def disk(self, model: nn.Module, optim_wrapper: OptimWrapper) -> None:
        """Compare the checkpoints of the run with the free space."""
        hook = (self.cfg.get("default_hooks") or {}).get("checkpoint")
        if not hook or type_name(hook) not in ("CheckpointHook", "CheckpointKeeper"):
            self.report.say("disk", "no known checkpoint hook")
            return
        plain = checkpoint_bytes(model)
        average = plain if self.averages else 0
        whole = checkpoint_bytes(model, optim_wrapper) + average
        disk = disk_of(hook, self.span, whole, plain + average)
        folder = _existing(Path(hook.get("out_dir") or self.cfg.work_dir))
        free = shutil.disk_usage(folder).free
        keep = hook.get("max_keep_ckpts", -1)
        kept = "all are kept" if keep <= 0 else f"the last {keep} are kept"
        also = " and the best" if disk.best else ""
        self.report.say(
            "disk",
            f"{gib(disk.whole)} per checkpoint; {kept}{also}: at most {gib(disk.most)} of {gib(free)} "
            f"free in {folder}",
        )
        if disk.most > free:
            self.report.warn("disk", "too little space: --keep K keeps fewer, or choose another --work-dir")


def _existing(path: Path) -> Path:
    """The nearest existing folder, ``path`` or above it."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _by(hw: Sequence[int]) -> str:
    return f"{hw[0]}x{hw[1]}"


def _workers(count: int) -> str:
    return "no worker" if count == 0 else f"{count} worker{'s' if count > 1 else ''}"
