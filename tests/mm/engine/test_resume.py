"""Resume with other settings than the checkpoint's: followed exactly, or said in one line."""

import copy
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from small_runs import SEGMENTOR, SMALL

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.errors import CheckpointError, UserError
from convnext_dense.mm.apis.train import TrainOptions, training_runner
from convnext_dense.mm.engine.checkpoints import read_checkpoint
from convnext_dense.mm.engine.resume import Saved, _trained, check_length, seed_line, without_average

LR = 0.05
POLY = dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=0)
BASE = {
    **SMALL,
    "train_dataloader.batch_size": 2,
    "default_hooks.checkpoint.interval": 2,
    "train_cfg.max_iters": 4,
    "train_cfg.val_interval": 100,
    "train_cfg.val_begin": 1,
    "val_dataloader": None,
    "val_cfg": None,
    "val_evaluator": None,
    "optim_wrapper": dict(
        _delete_=True,
        type="OptimWrapper",
        optimizer=dict(type="SGD", lr=LR, momentum=0.9, weight_decay=0.1),
        paramwise_cfg=dict(norm_decay_mult=0.0),
    ),
    "param_scheduler": [dict(POLY, end=4)],
}
EPOCHS = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=4, val_interval=1)
BY_EPOCH = {
    "train_cfg": EPOCHS,
    "train_dataloader.sampler": dict(_delete_=True, type="DefaultSampler", shuffle=True),
    "param_scheduler": [dict(POLY, end=4, by_epoch=True, convert_to_iter_based=True)],
    "default_hooks.checkpoint": dict(_delete_=True, type="CheckpointHook", interval=1),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder, 8, 2, size=64)
    return folder / "ade20k"


def run(data, work_dir, changes=None, **options):
    """Train with some settings changed; return the runner."""
    run.count += 1
    names = {"experiment_name": f"resume{run.count}", "visualizer.name": f"resume{run.count}"}
    overrides = {**BASE, **names, **(changes or {})}
    if "train_cfg" in overrides:
        overrides = {key: value for key, value in overrides.items() if not key.startswith("train_cfg.")}
    options = {"seed": 5, **options}
    given = TrainOptions(
        work_dir=str(work_dir),
        data_root=str(data),
        overrides=copy.deepcopy(overrides),
        device="cpu",
        **options,
    )
    runner = training_runner(SEGMENTOR, given)
    runner.train()
    return runner


run.count = 0


def rates(work_dir):
    """Logged learning rates by step."""
    lines = "".join(path.read_text() for path in sorted(work_dir.glob("*/vis_data/scalars.json")))
    logged = [json.loads(line) for line in lines.splitlines()]
    return {entry["step"]: entry["base_lr"] for entry in logged if "base_lr" in entry}


def lines(work_dir):
    """What the runs said about the resume and the rates."""
    text = "".join(path.read_text() for path in sorted(work_dir.glob("*/*.log")))
    return [line for line in text.splitlines() if "--resume:" in line or "learning rate is 0" in line]


def values(runner):
    return {name: param.detach().clone() for name, param in runner.model.named_parameters()}


@pytest.fixture(scope="module")
def first(data, tmp_path_factory):
    """Checkpoint after two of four steps."""
    folder = tmp_path_factory.mktemp("first")
    run(data, folder)
    return folder / "iter_2.pth"


@pytest.fixture
def resumed(data, first, tmp_path):
    """A run that continues the first one with some changes: its folder, its runner."""

    def resume(changes=None, **options):
        shutil.copy(first, tmp_path)
        return tmp_path, run(data, tmp_path, changes, resume="auto", **options)

    return resume


def test_an_unchanged_run_says_nothing_and_is_the_same(resumed, first):
    folder, _ = resumed()
    assert lines(folder) == []
    mine, whole = (read_checkpoint(path / "iter_4.pth") for path in (folder, first.parent))
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, mine["state_dict"][name]), name
    assert mine["param_schedulers"] == whole["param_schedulers"]
    assert mine["optimizer"]["param_groups"] == whole["optimizer"]["param_groups"]


def test_a_longer_run_follows_its_schedule(resumed):
    folder, _ = resumed({"train_cfg.max_iters": 7, "param_scheduler": [dict(POLY, end=7)]})
    assert rates(folder) == pytest.approx({n + 1: LR * (1 - n / 6) for n in range(2, 7)})
    (line,) = lines(folder)
    assert "PolyLR.end 4 -> 7" in line
    assert "after step 2 the learning rate is 0.03333 (it was 0.01667)" in line


def test_a_schedule_that_ends_before_the_run_is_said(resumed):
    folder, _ = resumed({"train_cfg.max_iters": 7})
    assert set(list(rates(folder).values())[1:]) == {0.0}
    (line,) = lines(folder)
    assert "learning rate is 0 in the last 4 of 7 steps" in line
    assert "param_scheduler" in line


def test_rate_weight_decay_and_momentum_follow_the_config(resumed):
    settings = dict(lr=0.2, weight_decay=0.3, momentum=0.5)
    change = {f"optim_wrapper.optimizer.{key}": value for key, value in settings.items()}
    folder, runner = resumed(change)
    assert rates(folder) == pytest.approx({3: 0.2 / 3, 4: 0.0})
    (line,) = lines(folder)
    assert "lr 0.05 -> 0.2, momentum 0.9 -> 0.5, weight_decay 0.1 -> 0.3;" in line
    groups = runner.optim_wrapper.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}, "norms have none"
    assert {group["momentum"] for group in groups} == {0.5}


def test_a_schedule_may_be_left_out_or_added(resumed, data, tmp_path):
    folder, _ = resumed({"param_scheduler": []})
    assert set(rates(folder).values()) == {LR}
    assert "1 schedules -> 0" in lines(folder)[0]


def test_without_the_option_the_trained_weights_are_restored():
    """mmengine stores the average as the weights, and the trained weights as the average."""
    average = {"module.head.weight": torch.ones(1), "steps": torch.tensor(3)}
    checkpoint = dict(state_dict={"head.weight": torch.zeros(1)}, ema_state_dict=average)
    assert "(--ema keeps it)" in without_average(checkpoint)
    assert checkpoint == dict(state_dict={"head.weight": torch.ones(1)})
    assert without_average(checkpoint) is None


def test_an_average_ends_or_begins_when_the_option_says_so(data, tmp_path):
    """Without --ema the training goes on from the trained weights, not from their average."""
    plain, averaged = tmp_path / "plain", tmp_path / "averaged"
    whole = values(run(data, plain))
    run(data, averaged, ema=0.5)
    (averaged / "iter_4.pth").unlink()
    shutil.copytree(averaged, tmp_path / "ended")
    ended = run(data, tmp_path / "ended", resume="auto")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in values(ended).items())
    assert "the average ends here (--ema keeps it)" in lines(tmp_path / "ended")[-1]
    assert "ema_state_dict" not in read_checkpoint(tmp_path / "ended" / "iter_4.pth")
    begun = run(
        data,
        plain,
        {"train_cfg.max_iters": 5, "param_scheduler": [dict(POLY, end=4)]},
        resume="auto",
        ema=0.5,
    )
    assert begun.iter == 5
    assert "ema_state_dict" in read_checkpoint(plain / "iter_5.pth")


def test_other_parameters_or_optimizers_are_one_line(resumed, first):
    with pytest.raises(CheckpointError, match=r"cannot resume with AdamW: .* has momentum, this one betas"):
        adam = dict(type="AdamW", lr=LR, weight_decay=0.1)
        resumed({"optim_wrapper": dict(BASE["optim_wrapper"], optimizer=adam)})
    with pytest.raises(CheckpointError, match=r"this config's \d+ parameters in 1 groups .*paramwise_cfg"):
        resumed({"optim_wrapper.paramwise_cfg": None})


def test_frozen_stages_are_one_line(resumed):
    """The optimizer has no groups for them."""
    with pytest.raises(CheckpointError, match=r"has 90 parameters .* config's 86 .* frozen parts"):
        resumed({"model.backbone.frozen_stages": 0})


def test_parameters_without_groups_of_their_own_may_be_frozen_or_thawed():
    params = [torch.zeros(1, requires_grad=number != 1) for number in range(3)]
    optimizer = torch.optim.SGD(params, lr=1.0)
    optimizer.state.update({params[0]: {}, params[1]: {}})
    runner = SimpleNamespace(optim_wrapper=SimpleNamespace(optimizer=optimizer))
    saved = Saved({}, [], False, [{}], 2)
    assert _trained(runner, saved) == (
        "--resume: 1 parameters are frozen from here on; "
        "1 parameters were not trained before and begin without optimizer state"
    )
    assert _trained(runner, saved._replace(states=0)) is None, "SGD without momentum has no state"


def test_other_steps_per_epoch_keep_the_place_in_the_run(data, tmp_path):
    """Eight images: four steps of two, then two steps of four; epoch 2 ends where the schedule says."""
    run(data, tmp_path, {**BY_EPOCH, "train_cfg": dict(EPOCHS, max_epochs=2)})
    runner = run(data, tmp_path, {**BY_EPOCH, "train_dataloader.batch_size": 4}, resume="auto")
    assert (runner.epoch, runner.iter) == (4, 8)
    found = lines(tmp_path)
    assert any(
        "an epoch has 2 steps now, 4 before" in line and "continues in epoch 3" in line for line in found
    )
    # the schedule of a run of 8 steps, from step 4 on
    assert [rates(tmp_path)[n + 1] for n in range(4, 8)] == pytest.approx(
        [LR * (1 - n / 7) for n in range(4, 8)]
    )


def test_another_batch_is_said(resumed):
    folder, _ = resumed({"train_dataloader.batch_size": 1})
    (line,) = lines(folder)
    assert "a step has 1 images now, 2 before" in line


@pytest.mark.parametrize(
    ("train_cfg", "meta", "expected"),
    [
        (dict(max_iters=12), dict(iter=6, epoch=0), None),
        (dict(max_iters=6), dict(iter=6, epoch=0), "at the end of the run, step 6"),
        (dict(max_epochs=3), dict(iter=60, epoch=2), None),
        (dict(max_epochs=3), dict(iter=60, epoch=3), "at the end of the run, epoch 3"),
    ],
)
def test_a_run_that_is_done_is_said(train_cfg, meta, expected):
    line = check_length(train_cfg, meta, "last.pth")
    assert line is None if expected is None else expected in line


def test_a_run_cannot_end_before_its_checkpoint():
    with pytest.raises(
        UserError, match=r"last.pth is at step 6, beyond the 4 of this run \(train_cfg.max_iters\)"
    ):
        check_length(dict(max_iters=4), dict(iter=6), "last.pth")


@pytest.mark.parametrize(
    ("given", "of_config", "saved", "expected"),
    [
        (None, 3, 3, None),
        (None, None, 3, None),
        (3, 0, 3, None),
        (4, 0, 3, "seed 4 from here on, the run had 3"),
        (None, 0, 3, "the run's seed 3, not the config's 0"),
        (4, 0, None, None),
    ],
)
def test_another_seed_is_said(given, of_config, saved, expected):
    line = seed_line(given, of_config, saved)
    assert line is None if expected is None else expected in line
