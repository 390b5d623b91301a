"""Schedules that are stepped on copies, against mmengine's schedulers on a real optimizer."""

import pytest
import torch
from mmengine.optim import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS

from convnext_dense.mm.engine.schedules import Rehearsal, Settings, changes, settings_of, silent_end

CHAIN = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=5),
    dict(type="PolyLR", power=0.9, eta_min=0.01, by_epoch=False, begin=2, end=20),
    dict(type="MultiStepLR", milestones=[2, 3], gamma=0.5, by_epoch=True),
    dict(type="CosineAnnealingMomentum", T_max=20, eta_min=0.1, by_epoch=False),
]
CYCLE = [dict(type="OneCycleLR", eta_max=1.0, total_steps=20, by_epoch=False)]


def built(schedules, rates=(0.5, 0.5, 0.2)):
    """An optimizer with a group per rate, and its schedulers."""
    groups = [dict(params=[torch.zeros(1, requires_grad=True)], lr=rate, name=str(rate)) for rate in rates]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, weight_decay=0.05)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(entry), default_args=dict(optimizer=optimizer)) for entry in schedules
    ]
    return optimizer, schedulers


def walk(optimizer, schedulers, steps, length):
    """Step as mmengine's hook does; yield the groups' settings after each step."""
    for step in range(1, steps + 1):
        optimizer.step()
        for by_epoch in [False] + [True] * (step % length == 0):
            for scheduler in schedulers:
                if scheduler.by_epoch is by_epoch:
                    scheduler.step()
        yield settings_of(optimizer.param_groups, schedulers)


def steps_of(rehearsal, settings, count, ends):
    """Groups after each rehearsed step, as `walk` gives them."""
    for _ in rehearsal.steps(count, ends):
        yield [rehearsal.groups[number] for number in rehearsal.member]


@pytest.mark.parametrize("schedules", [CHAIN, CYCLE])
def test_a_rehearsal_is_what_mmengine_does(schedules):
    optimizer, schedulers = built(schedules)
    start = settings_of(optimizer.param_groups, schedulers)
    rehearsal = Rehearsal(start, schedulers)
    assert len(rehearsal.groups) == (2 if schedules is CHAIN else 1)  # a cycle sets all rates
    rehearsed = [
        [dict(group) for group in groups] for groups in steps_of(rehearsal, start, 16, (4, 8, 12, 16))
    ]
    assert settings_of(optimizer.param_groups, schedulers) == start, "the run itself has not moved"
    real = [settings.groups for settings in walk(optimizer, schedulers, 16, 4)]
    assert rehearsed == real
    for number, scheduler in enumerate(schedulers):
        state = {key: value for key, value in scheduler.state_dict().items() if key != "verbose"}
        assert {key: rehearsal.state(number)[key] for key in state} == state


def test_a_rehearsed_state_is_continued():
    """Twelve rehearsed steps and eight real ones are twenty real ones."""
    optimizer, schedulers = built(CHAIN)
    rehearsal = Rehearsal(settings_of(optimizer.param_groups, schedulers), schedulers)
    for _ in rehearsal.steps(12, (5, 10)):
        pass
    for number, scheduler in enumerate(schedulers):
        scheduler.load_state_dict(rehearsal.state(number))
    for group, number in zip(optimizer.param_groups, rehearsal.member, strict=True):
        group.update(rehearsal.groups[number])
    *_, mine = walk(optimizer, schedulers, 3, 3)  # step 15 ends the third epoch

    other, theirs = built(CHAIN)
    *_, expected = walk(other, theirs, 15, 5)
    assert mine.groups == expected.groups


@pytest.mark.parametrize(
    ("schedules", "rates", "expected"),
    [
        (CHAIN, (0.5, 0.5, 0.2), []),
        (CHAIN, (1.5, 0.5, 0.2), ["lr 0.5 -> 1.5"]),
        (
            [CHAIN[0], dict(CHAIN[1], end=40), *CHAIN[2:]],
            (0.5, 0.5, 0.2),
            ["PolyLR.end 20 -> 40", "PolyLR.total_iters 17 -> 37"],
        ),
        (
            [CHAIN[0], dict(type="ConstantLR", by_epoch=False), *CHAIN[2:]],
            (0.5, 0.5, 0.2),
            ["another schedule -> ConstantLR"],
        ),
        (CHAIN[:2] + CHAIN[3:], (0.5, 0.5, 0.2), ["4 schedules -> 3"]),
    ],
)
def test_changes_are_named_wherever_the_checkpoint_is(schedules, rates, expected):
    optimizer, schedulers = built(CHAIN)
    *_, saved = walk(optimizer, schedulers, 7, 3)
    own, theirs = built(schedules, rates)
    found = changes(saved, settings_of(own.param_groups, theirs), [type(each).__name__ for each in theirs])
    assert found == expected


def test_a_change_beside_the_schedules_is_named():
    optimizer, _ = built([])
    saved = settings_of(optimizer.param_groups, [])
    other = Settings([dict(group, weight_decay=0.1, nesterov=True) for group in saved.groups], [])
    assert changes(saved, other, []) == ["nesterov False -> True", "weight_decay 0.05 -> 0.1"]


@pytest.mark.parametrize(
    ("rates", "done", "said"),
    [
        ([0.2, 0.1, 0.0], 0, None),  # a schedule ends at 0 with the run
        ([0.2, 0.0, 0.0], 0, "last 2 of 3 steps"),
        ([0.0, 0.0], 6, "last 2 of 8 steps"),
        ([0.0], 6, None),
        ([], 6, None),
        ([0.1] * 997 + [0.0] * 3, 0, None),  # by rounding
        ([0.0, 0.0], 9998, "last 2 of 10,000 steps"),
        ([0.1, 0.2], 0, None),
    ],
)
def test_steps_without_a_rate_are_said(rates, done, said):
    line = silent_end(rates, done)
    assert line is None if said is None else said in line


def test_every_scheduler_of_mmengine_keeps_the_known_entries():
    """A scheduler with another running entry would always look changed."""
    known = {
        "param_name",
        "begin",
        "end",
        "by_epoch",
        "base_values",
        "last_step",
        "_global_step",
        "verbose",
        "_last_value",
    }
    _, schedulers = built([dict(type="ConstantLR", by_epoch=False)])
    assert isinstance(schedulers[0], _ParamScheduler)
    assert set(schedulers[0].state_dict()) - known == {"factor", "total_iters"}
