"""Schedules stepped on copies: where a run would be with other settings, and what is still to come."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import NamedTuple

from mmengine.optim import _ParamScheduler

NOT_SETTINGS = ("params", "param_names", "name", "layer_id", "lr_scale")
"""Entries of a parameter group that say what it holds."""
RUNNING = ("last_step", "_global_step", "_last_value", "verbose", "optimizer")
"""Entries of a scheduler that say where it is."""
PER_GROUP = ("base_values", "_last_value")


class Settings(NamedTuple):
    """The settings of an optimizer's groups, and the states of its schedulers."""

    groups: list[dict]
    schedulers: list[dict]


def settings_of(groups: Sequence[Mapping], schedulers: Sequence[_ParamScheduler]) -> Settings:
    """Copy the settings as they are now."""
    plain = [{key: value for key, value in group.items() if key not in NOT_SETTINGS} for group in groups]
    return Settings(copy.deepcopy(plain), [copy.deepcopy(scheduler.state_dict()) for scheduler in schedulers])


def of_one_group(settings: Settings) -> Settings:
    """The settings of the group with the highest learning rate alone, before any schedule."""
    top = max(range(len(settings.groups)), key=lambda index: configured(settings.groups[index], "lr"))
    states = [
        {key: [value[top]] if key in PER_GROUP else value for key, value in state.items()}
        for state in settings.schedulers
    ]
    return Settings([settings.groups[top]], states)


class Rehearsal:
    """Copies of schedulers on copies of parameter groups; groups with equal settings share one copy.

    Args:
        settings: the state to start from.
        schedulers: the schedulers whose states these are; they stay as they are.

    Attributes:
        groups: one copy per distinct group.
        member: index in ``groups`` for each group of ``settings``.
        schedulers: the copies.
    """

    def __init__(self, settings: Settings, schedulers: Sequence[_ParamScheduler]) -> None:
        total = len(settings.groups)
        lists = [state[key] for state in settings.schedulers for key in PER_GROUP if key in state]
        distinct: dict[str, int] = {}
        for index, group in enumerate(settings.groups):
            distinct.setdefault(repr((group, [values[index] for values in lists])), index)
        self.chosen = list(distinct.values())
        numbers = {key: number for number, key in enumerate(distinct)}
        self.member = [
            numbers[repr((settings.groups[index], [values[index] for values in lists]))]
            for index in range(total)
        ]
        self.groups = [dict(settings.groups[index]) for index in self.chosen]
        self.schedulers = [
            self._copy(scheduler, state)
            for scheduler, state in zip(schedulers, settings.schedulers, strict=True)
        ]

    def _copy(self, scheduler: _ParamScheduler, state: Mapping) -> _ParamScheduler:
        rehearsed = copy.copy(scheduler)
        rehearsed.__dict__ = copy.deepcopy(dict(state))
        for key in set(PER_GROUP) & set(state):
            rehearsed.__dict__[key] = [state[key][index] for index in self.chosen]
        # `step` and its count only serve a warning about the order of calls
        rehearsed.optimizer = SimpleNamespace(
            param_groups=self.groups, step=scheduler.optimizer.step, _global_step=1
        )
        return rehearsed

    def steps(self, count: int, epoch_ends: Sequence[int] = ()) -> Iterator[None]:
        """Take ``count`` steps of the run; yield after each.

        Args:
            count: optimizer steps.
            epoch_ends: numbers of the steps, from 1, that end an epoch.
        """
        ends = set(epoch_ends)
        for number in range(1, count + 1):
            self._step(by_epoch=False)
            if number in ends:
                self._step(by_epoch=True)
            yield

    def _step(self, by_epoch: bool) -> None:
        for scheduler in self.schedulers:
            # a schedule by results has no course that is known in advance
            if scheduler.by_epoch is by_epoch and not getattr(scheduler, "need_val_args", False):
                scheduler.step()

    def state(self, number: int) -> dict:
        """State of scheduler ``number`` for all groups, as its ``load_state_dict`` takes it."""
        values = {k: v for k, v in self.schedulers[number].__dict__.items() if k != "optimizer"}
        lists = set(PER_GROUP) & set(values)
        return {**values, **{key: [values[key][index] for index in self.member] for key in lists}}


def configured(group: Mapping, key: str) -> object:
    """The value that a schedule of ``key`` starts from, else the value itself."""
    value = group.get(f"initial_{key}", group.get(key))
    return tuple(value) if isinstance(value, list) else value


def changes(saved: Settings, own: Settings, names: Sequence[str]) -> list[str]:
    """What differs between the settings of a checkpoint and those of a config, one entry per setting.

    Args:
        saved: settings in a checkpoint.
        own: settings of the config.
        names: names of the config's schedulers.
    """
    found: dict[str, tuple] = {}
    for old, new in zip(saved.groups, own.groups, strict=True):
        for key in old.keys() & new.keys():
            if key.startswith(("initial_", "max_", "min_")):
                continue
            if key == "betas" and "initial_momentum" in new:
                continue  # scheduled as momentum
            before, after = configured(old, key), configured(new, key)
            if before != after and (key not in found or _size(after) > _size(found[key][1])):
                found[key] = (before, after)
    result = [f"{key} {_shown(old)} -> {_shown(new)}" for key, (old, new) in sorted(found.items())]
    return result + _schedule_changes(saved.schedulers, own.schedulers, names)


def _schedule_changes(saved: Sequence[Mapping], own: Sequence[Mapping], names: Sequence[str]) -> list[str]:
    if len(saved) != len(own):
        return [f"{len(saved)} schedules -> {len(own)}"]
    result = []
    for old, new, name in zip(saved, own, names, strict=True):
        if set(old) - set(RUNNING) != set(new) - set(RUNNING):
            result.append(f"another schedule -> {name}")
            continue
        if "best" in old:  # by results: its state is all of it
            continue
        result += [
            f"{name}.{key} {_shown(old[key])} -> {_shown(new[key])}"
            for key in sorted(new)
            if key not in (*RUNNING, *PER_GROUP) and old[key] != new[key]
        ]
    return result


def _size(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def silent_end(rates: Sequence[float], done: int = 0) -> str | None:
    """A line if a run trains nothing in its last steps, because the learning rate is 0.

    A schedule may reach 0 at its last step, or by rounding in the last few.

    Args:
        rates: highest rate of each step to come.
        done: steps before these.
    """
    idle = 0
    for rate in reversed(rates):
        if rate > 0:
            break
        idle += 1
    total = done + len(rates)
    if idle < 2 or (idle < len(rates) and idle < 0.01 * total):
        return None
    return (
        f"the learning rate is 0 in the last {idle:,} of {total:,} steps, which change nothing: let the "
        "schedules in param_scheduler end with the run"
    )
