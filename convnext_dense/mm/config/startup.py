"""Settings of a run that cannot work, or not as they look: corrected, or said, before it starts."""

import copy
from collections.abc import Iterator, Mapping

from mmengine.config import Config

from convnext_dense.mm.config.evaluators import check_evaluators, check_figures
from convnext_dense.mm.datasets.paths import SPLITS, expected_paths
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.notes import Warned

FOREVER = 10**9  # the end of a schedule that has none, in mmengine
NEARLY = 1.01  # the release's poly schedule ends a step after the run
OF_WORKERS = ("persistent_workers", "prefetch_factor", "multiprocessing_context", "timeout")


def set_loaders(cfg: Config) -> None:
    """Take out what only concerns worker processes where there are none: torch refuses it."""
    for split in SPLITS:
        loader = cfg.get(f"{split}_dataloader")
        if isinstance(loader, Mapping) and not loader.get("num_workers"):
            for key in OF_WORKERS:
                loader.pop(key, None)


def drop_incomplete(cfg: Config, splits: tuple[str, ...]) -> None:
    """Leave out incomplete sections of splits that a command does not use: mmengine refuses them."""
    for split in splits:
        third = "optim_wrapper" if split == "train" else f"{split}_evaluator"
        names = (f"{split}_dataloader", f"{split}_cfg", third)
        if any(cfg.get(name) is None for name in names):
            for name in names:
                cfg[name] = None
            if split == "train":
                cfg["param_scheduler"] = None


def replace_missing_test(cfg: Config) -> str | None:
    """Put the val set in the place of a test set that is not there; return the line that says so.

    Training does not read the test set, and whoever names the files of their own data forgets it first.
    """
    missing = [path for path in expected_paths(cfg, ("test",)) if not path.exists()]
    if not missing or not cfg.get("val_dataloader"):
        return None
    for part in ("dataloader", "evaluator"):
        cfg[f"test_{part}"] = copy.deepcopy(cfg.get(f"val_{part}"))
    return Warned(f"test_dataloader: no {missing[0]}, so the val set takes its place")


def check_evaluation(cfg: Config) -> list[str]:
    """Check what a run meets at its first evaluation or checkpoint; return lines for the user.

    Args:
        cfg: config of a run whose data are in place; an evaluator may get the file of its data set.

    Raises:
        UserError: the run would stop there, or never get there.
    """
    notes = check_evaluators(cfg, "val") if cfg.get("val_evaluator") else []
    check_figures(cfg)
    return [*notes, *check_intervals(cfg)]


def check_intervals(cfg: Config) -> list[str]:
    """Lines about evaluations, checkpoints and drops of the learning rate that never come, or rarely."""
    by_epoch = "max_epochs" in cfg.train_cfg
    unit, key = ("epochs", "max_epochs") if by_epoch else ("steps", "max_iters")
    end = cfg.train_cfg.get(key)
    notes = []
    begin, interval = cfg.train_cfg.get("val_begin", 1), cfg.train_cfg.get("val_interval", 1)
    if cfg.get("val_evaluator") and end is not None:
        if begin > end:
            notes.append(f"train_cfg.val_begin={begin} is beyond the {end} {unit}: nothing is evaluated")
        elif interval > end:
            notes.append(f"train_cfg.val_interval={interval}: {end} {unit} are evaluated at the end only")
    if end is not None:  # a loop of its own may count in another way
        notes.append(_checkpoint_note(cfg, by_epoch))
        notes += _schedule_notes(cfg, by_epoch, end, unit)
    return [note for note in notes if note]


def _checkpoint_note(cfg: Config, by_epoch: bool) -> str | None:
    hook = (cfg.get("default_hooks") or {}).get("checkpoint")
    if not hook or type_name(hook) not in ("CheckpointHook", "CheckpointKeeper"):
        return None
    if hook.get("by_epoch", True) and not by_epoch and hook.get("interval", -1) > 0:
        return (
            f"default_hooks.checkpoint: interval={hook['interval']} counts epochs, and a run by iterations "
            "has one: only its end is kept as a regular checkpoint; by_epoch=False counts iterations"
        )
    return None


def _schedule_notes(cfg: Config, by_epoch: bool, end: int, unit: str) -> Iterator[str]:
    """Lines about schedules of the learning rate that go on beyond the run, which was shortened."""
    schedulers = cfg.get("param_scheduler") or ()
    for i, scheduler in enumerate(schedulers if isinstance(schedulers, list) else ()):
        last, steps = scheduler.get("end", FOREVER), scheduler.get("milestones", ())
        late = any(step >= end for step in steps)
        if scheduler.get("by_epoch", True) != by_epoch or not (late or NEARLY * end < last < FOREVER):
            continue
        fitting = []
        if steps:
            share = end / (last if last < FOREVER else max(steps))
            fitting.append(f"milestones=[{','.join(str(_step(step * share, end)) for step in steps)}]")
        if last < FOREVER:
            fitting.append(f"end={end}")
        entry = f"param_scheduler.{i}"
        listed = " and ".join(f"{step:,}" for step in steps)
        what = f"lowers the learning rate at {listed}" if steps else f"ends at {last:,}"
        yield Warned(
            f"{entry} ({type_name(scheduler)}) {what}, and the run ends at {end:,} {unit}; to shorten it "
            f"as well: --cfg-options {' '.join(f'{entry}.{change}' for change in fitting)}"
        )


def _step(where: float, end: int) -> int:
    """The nearest whole number inside a run."""
    return max(1, min(end - 1, round(where)))
