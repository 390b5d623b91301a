"""Steps, evaluations, rates and checkpoints of a config with a training set of known length."""

from collections.abc import Mapping
from typing import NamedTuple

from mmengine.config import Config

from convnext_dense.mm.config.lr_plan import make_plan
from convnext_dense.mm.engine.schedules import silent_end
from convnext_dense.reports.preflight import Disk, Length, evaluations, regular_checkpoints


class Span(NamedTuple):
    """A run from its first step to its last.

    Attributes:
        by_epoch: whether it counts in epochs.
        end: epochs or steps.
        epoch_length: steps per epoch; all steps of a run without epochs.
        total: steps.
    """

    by_epoch: bool
    end: int
    epoch_length: int
    total: int


def span_of(train_cfg: Mapping, batches: int) -> Span:
    """The span of a run with ``batches`` batches per epoch on each process."""
    if "max_epochs" not in train_cfg:
        return Span(False, train_cfg["max_iters"], train_cfg["max_iters"], train_cfg["max_iters"])
    epoch_length = -(-batches // train_cfg.get("accumulate", 1))
    end = train_cfg["max_epochs"]
    return Span(True, end, epoch_length, end * epoch_length)


def length_of(cfg: Config, span: Span, done: int) -> Length:
    """Remaining length after ``done`` steps; the images of an evaluation are not known yet."""
    count = 0
    if cfg.get("val_dataloader") and cfg.get("val_cfg"):
        passed = done // span.epoch_length if span.by_epoch else done
        begin = max(cfg.train_cfg.get("val_begin", 1), passed + 1)
        count = evaluations(span.end, cfg.train_cfg.get("val_interval", 1), begin)
    return Length(max(0, span.total - done), cfg.train_cfg.get("accumulate", 1), count)


class Rates(NamedTuple):
    """Lines about the groups of an optimizer and the course of the highest rate.

    Attributes:
        groups, course: the lines.
        reached: whether the rate ever gets as high as the optimizer's; a short run may end in its warm-up.
        idle: a line if the last steps have a rate of 0.
    """

    groups: str
    course: str
    reached: bool
    idle: str | None


def plan_rates(cfg: Config, epoch_length: int, images: int, done: int = 0) -> Rates:
    """Step the schedulers of ``cfg`` through the run.

    Args:
        cfg: config of the run.
        epoch_length: steps per epoch.
        images: images per step, to which ``auto_scale_lr`` scales if it is on.
        done: steps that a resumed run has done.

    Raises:
        AttributeError, TypeError, ValueError: settings that cannot be simulated.
    """
    plan = make_plan(cfg, epoch_length)
    auto = cfg.get("auto_scale_lr") or {}
    factor = images / auto["base_batch_size"] if auto.get("enable") else 1.0
    peaks = [group.lr_peak * factor for group in plan.groups]
    top = peaks.index(max(peaks))
    rates = plan.rates[:, top] * factor
    tensors = sum(group.tensors for group in plan.groups)
    decays = sorted({group.weight_decay for group in plan.groups}, reverse=True)
    lowest, highest = f"{min(peaks):.3g}", f"{max(peaks):.3g}"
    span = highest if lowest == highest else f"{lowest} to {highest}"
    return Rates(
        f"{len(plan.groups)} groups of {tensors} tensors; peak rates {span}, "
        f"weight decay {' and '.join(f'{decay:g}' for decay in decays)}",
        f"the highest rate goes from {rates[0]:.3g} to {rates.max():.3g} at step {rates.argmax():,} "
        f"and {rates[-1]:.3g} at the end, step {len(rates):,}",
        peaks[top] > 0.99 * plan.groups[top].lr * factor,
        silent_end(rates[done:].tolist(), done),
    )


def disk_of(hook: Mapping, span: Span, whole: int, weights: int) -> Disk:
    """Checkpoints that ``hook``, the config of mmengine's or ours, leaves on disk.

    Args:
        hook: ``default_hooks.checkpoint``.
        span: length of the run.
        whole, weights: bytes of a checkpoint with and without the optimizer.
    """
    regular = regular_checkpoints(
        span.end if hook.get("by_epoch", True) and span.by_epoch else span.total,
        hook.get("interval", -1),
        hook.get("max_keep_ckpts", -1),
        recent=bool(hook.get("minutes")),
        last=hook.get("save_last", True),
    )
    best = hook.get("save_best") or ()
    return Disk(
        whole if hook.get("save_optimizer", True) else weights,
        weights,
        regular,
        1 if isinstance(best, str) else len(best),
    )
