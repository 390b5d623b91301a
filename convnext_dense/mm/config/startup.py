"""Settings of a run that cannot work, or not as they look: corrected, or said, before it starts."""

from collections.abc import Mapping

from mmengine.config import Config

from convnext_dense.mm.config.evaluators import check_evaluators, check_figures
from convnext_dense.mm.datasets.paths import SPLITS
from convnext_dense.mm.type_names import type_name

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
    """Lines about evaluations and checkpoints that never come, or rarely."""
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
