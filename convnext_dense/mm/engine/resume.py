"""Resume with other settings than the checkpoint's: the config is followed where that can be done exactly.

Without a change a resume is bit-identical, by mmengine's own way. A change of the optimizer's settings or of
the schedules holds as if the run had had it from the start: the schedules are stepped to the position of the
checkpoint. What cannot be followed, or may be forgotten on the command line, is said in one line.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from convnext_dense.errors import CheckpointError, UserError
from convnext_dense.mm.engine.loops import EpochStepLoop, StepLoop
from convnext_dense.mm.engine.schedules import (
    Rehearsal,
    Settings,
    changes,
    of_one_group,
    settings_of,
    silent_end,
)

OPTIMIZER_KINDS = ("betas", "momentum", "alpha", "rho", "etas", "lr_decay")
"""Settings that one kind of optimizer has and another has not."""


class Saved(NamedTuple):
    """What a resume needs of a checkpoint after mmengine has taken it apart.

    Attributes:
        meta: its position in the run.
        schedulers: states of its schedulers.
        scaled: whether it was trained in mixed precision.
        groups: its optimizer's groups.
        states: number of parameters that its optimizer has a state of.
    """

    meta: dict
    schedulers: list
    scaled: bool
    groups: list
    states: int


def saved_of(checkpoint: Mapping) -> Saved:
    """Note what mmengine's resume removes from ``checkpoint``, or does not keep."""
    optimizer = checkpoint.get("optimizer") or {}
    return Saved(
        dict(checkpoint["meta"]),
        checkpoint.get("param_schedulers") or [],
        "loss_scaler" in optimizer,
        optimizer.get("param_groups") or [],
        len(optimizer.get("state") or {}),
    )


# ---- before the run is built


def check_length(train_cfg: Mapping, meta: Mapping, checkpoint: object) -> str | None:
    """A line if nothing is left to train.

    Args:
        train_cfg: of the config.
        meta: of the checkpoint.
        checkpoint: its path.

    Raises:
        UserError: the checkpoint is beyond the end of the run.
    """
    by_epoch = "max_epochs" in train_cfg
    key, unit = ("max_epochs", "epoch") if by_epoch else ("max_iters", "step")
    end, done = train_cfg.get(key), meta.get("epoch" if by_epoch else "iter", 0)
    if end is None or done < end:
        return None
    if done > end:
        raise UserError(
            f"--resume: {checkpoint} is at {unit} {done}, beyond the {end} of this run (train_cfg.{key}): "
            f"raise it, or resume from an earlier checkpoint by --resume PATH"
        )
    return f"--resume: {checkpoint} is at the end of the run, {unit} {end}; raise train_cfg.{key} to go on"


def seed_line(given: int | None, of_config: int | None, saved: int | None) -> str | None:
    """A line if the seed of the continued run is another one than may be expected.

    Args:
        given: ``--seed``.
        of_config: ``randomness.seed``.
        saved: seed of the checkpoint.
    """
    if saved is None:
        return None
    if given is not None:
        if given == saved:
            return None
        return f"--resume: seed {given} from here on, the run had {saved}: its images come in another order"
    if of_config in (None, saved):
        return None
    return (
        f"--resume: continuing with the run's seed {saved}, not the config's {of_config} (--seed changes it)"
    )


# ---- while the weights are loaded


def without_average(checkpoint: dict) -> str | None:
    """Restore the trained weights of a run with averaged ones, for a run without; return a line.

    Such a checkpoint has the average in ``state_dict``, and the weights that were trained beside it.
    """
    average = checkpoint.pop("ema_state_dict", None)
    if average is None:
        return None
    state = checkpoint["state_dict"]
    for key, value in average.items():
        name = key.removeprefix("module.")
        if name != key and name in state:
            state[name] = value
    return (
        "--resume: the run averaged its weights and this one does not: the average ends here (--ema keeps it)"
    )


# ---- after mmengine's resume


def planned(runner: Runner) -> Settings | None:
    """The config's settings, before those of a checkpoint replace them; ``None`` for several optimizers."""
    if isinstance(runner.optim_wrapper, OptimWrapperDict) or isinstance(runner.param_schedulers, dict):
        return None
    return settings_of(runner.optim_wrapper.param_groups, runner.param_schedulers or [])


def check_optimizer(saved: Saved, optim_wrapper: OptimWrapper) -> None:
    """Refuse the state of an optimizer of another kind, or of other parameters.

    Raises:
        CheckpointError: the line names the difference and the remedy.
    """
    remedy = "resume with the checkpoint's optimizer, or start from its weights by load_from=PATH"
    groups = optim_wrapper.optimizer.param_groups
    if not saved.groups or not groups:
        return
    kinds = [[key for key in OPTIMIZER_KINDS if key in group] for group in (saved.groups[0], groups[0])]
    if kinds[0] != kinds[1]:
        raise CheckpointError(
            f"cannot resume with {type(optim_wrapper.optimizer).__name__}: the checkpoint's optimizer has "
            f"{' and '.join(kinds[0]) or 'none'}, this one {' and '.join(kinds[1]) or 'none'}; {remedy}"
        )
    if all("param_names" in group for group in groups):
        return  # matched by name, with an error of its own
    counts = [[len(group["params"]) for group in each] for each in (saved.groups, groups)]
    if counts[0] != counts[1]:
        totals = [f"{sum(each)} parameters in {len(each)} groups" for each in counts]
        raise CheckpointError(
            f"cannot resume: the checkpoint's optimizer has {totals[0]}, this config's {totals[1]} "
            f"(optim_wrapper.paramwise_cfg, or frozen parts of the model); {remedy}"
        )


def follow_config(runner: Runner, own: Settings | None, saved: Saved) -> list[str]:
    """Restore the schedules, or move them to the position of the checkpoint if the config has others.

    Args:
        runner: after mmengine's resume without schedulers.
        own: what :func:`planned` returned before it.
        saved: of the checkpoint.

    Returns:
        lines for the user.
    """
    lines = [_position(runner, saved), _precision(runner, saved), _trained(runner, saved)]
    if own is None:
        _restore_each(runner.param_schedulers, saved.schedulers)
        return [line for line in lines if line]
    schedulers = runner.param_schedulers or []
    before = settings_of(runner.optim_wrapper.param_groups, [])._replace(schedulers=saved.schedulers)
    different = changes(before, own, [type(scheduler).__name__ for scheduler in schedulers])
    if not different:
        _restore_each(schedulers, saved.schedulers)
    elif any(getattr(scheduler, "need_val_args", False) for scheduler in schedulers):
        _restore_each(schedulers, saved.schedulers)
        lines.append(
            f"--resume: {', '.join(different)} ignored: a schedule by results continues as it was; "
            "start from the weights by load_from=PATH"
        )
    else:
        _replay(runner, own, schedulers)
        lines.append(
            f"--resume: other settings than the run's: {', '.join(different)}; they hold from here on, as if "
            f"from the start: after step {runner.iter} the learning rate is "
            f"{highest_rate(own_groups(runner)):.4g} (it was {highest_rate(before.groups):.4g})"
        )
    return [line for line in lines if line]


def own_groups(runner: Runner) -> list[dict]:
    """The parameter groups as they are now, with the one that mmengine logs as the base rate."""
    return runner.optim_wrapper.param_groups


def highest_rate(groups: Sequence[Mapping]) -> float:
    """The highest learning rate of some groups."""
    return max(group["lr"] for group in groups)


def _restore_each(schedulers: object, states: object) -> None:
    """Load states into schedulers, as mmengine does."""
    if isinstance(schedulers, Mapping):
        for name, each in schedulers.items():
            _restore_each(each, states[name])
        return
    for scheduler, state in zip(schedulers or [], states, strict=False):
        scheduler.load_state_dict(state)


def _replay(runner: Runner, own: Settings, schedulers: Sequence) -> None:
    """Step schedules from the start to the position of the run, and set all groups to where they lead."""
    rehearsal = Rehearsal(own, schedulers)
    for _ in rehearsal.steps(runner.iter, _epoch_ends(runner)):
        pass
    for number, scheduler in enumerate(schedulers):
        scheduler.load_state_dict(rehearsal.state(number))
    for group, number in zip(own_groups(runner), rehearsal.member, strict=True):
        group.update(rehearsal.groups[number])


def _epoch_ends(runner: Runner) -> list[int]:
    """Steps after which the epochs that are done have ended."""
    loop = runner.train_loop
    done, epochs = loop.iter - getattr(loop, "step_of_epoch", 0), loop.epoch
    return [done * (number + 1) // epochs for number in range(epochs)] if done else []


def _position(runner: Runner, saved: Saved) -> str | None:
    """Convert the position of a run by epochs to another number of steps per epoch; return a line."""
    loop, meta = runner.train_loop, saved.meta
    if not isinstance(loop, StepLoop):
        return None
    images = loop.position().get("step_images")
    resized = meta.get("step_images") not in (None, images)
    if not isinstance(loop, EpochStepLoop):
        if not resized:
            return None
        return (
            f"--resume: a step has {images} images now, {meta['step_images']} before: the run continues at "
            f"step {loop.iter}, and some images come again or are left out once"
        )
    epoch, step, new = loop.epoch, loop.step_of_epoch, len(loop.dataloader)
    old = meta.get("epoch_length") or ((meta["iter"] - step) // epoch if epoch else None)
    if old in (None, new):
        return None
    loop.move_to(min(round(step * new / old), new - 1))
    return (
        f"--resume: an epoch has {new} steps now, {old} before: the run continues in epoch {epoch + 1} after "
        f"step {loop.step_of_epoch}, which counts as step {loop.iter} of the run"
    )


def _precision(runner: Runner, saved: Saved) -> str | None:
    scaled = isinstance(runner.optim_wrapper, AmpOptimWrapper)
    if scaled == saved.scaled or not saved.groups:
        return None
    if scaled:
        return "--resume: mixed precision from here on, the run had none (--no-amp continues without)"
    return "--resume: no mixed precision from here on, the run had it (--amp continues with it, on a GPU)"


def _trained(runner: Runner, saved: Saved) -> str | None:
    """A line if parameters are frozen, or trained, that were not before."""
    if isinstance(runner.optim_wrapper, OptimWrapperDict) or not saved.states:
        return None
    optimizer = runner.optim_wrapper.optimizer
    params: list[Tensor] = [param for group in optimizer.param_groups for param in group["params"]]
    frozen = sum(not param.requires_grad and param in optimizer.state for param in params)
    thawed = sum(param.requires_grad and param not in optimizer.state for param in params)
    parts = [
        f"{frozen} parameters are frozen from here on" if frozen else "",
        f"{thawed} parameters were not trained before and begin without optimizer state" if thawed else "",
    ]
    line = "; ".join(part for part in parts if part)
    return f"--resume: {line}" if line else None


# ---- at the start of any run


def idle_line(runner: Runner) -> str | None:
    """A line if the schedules leave the last steps of the run at a learning rate of 0."""
    schedulers, loop = runner.param_schedulers, runner.train_loop
    if not isinstance(schedulers, list) or isinstance(runner.optim_wrapper, OptimWrapperDict):
        return None
    if not schedulers or any(getattr(scheduler, "need_val_args", False) for scheduler in schedulers):
        return None
    left = loop.max_iters - loop.iter
    ends: range | tuple = ()
    if isinstance(loop, EpochStepLoop):
        length = len(loop.dataloader)
        ends = range(length - loop.step_of_epoch, left + 1, length)
    # one group is enough, and takes a second for 160,000 steps
    rehearsal = Rehearsal(of_one_group(settings_of(own_groups(runner), schedulers)), schedulers)
    rates = [highest_rate(rehearsal.groups)] if left > 0 else []
    rates += [highest_rate(rehearsal.groups) for _ in rehearsal.steps(left - 1, ends)]
    return silent_end(rates, loop.iter)
