"""Training loops: steps of several batches, stops at any place, and results of the resumed run."""

import copy
import itertools
import json
import signal

import pytest
import small_runs
import torch
from mmengine.device import utils as mmengine_device
from mmengine.hooks import Hook
from mmseg.evaluation import IoUMetric
from small_runs import SEGMENTOR
from torch.utils._pytree import tree_leaves

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.apis.train import TrainOptions, training_runner
from convnext_dense.mm.engine.checkpoint_io import LaterRemoval, newest_checkpoint
from convnext_dense.mm.engine.checkpoints import read_checkpoint
from convnext_dense.mm.engine.nan_guard import NotFiniteError
from convnext_dense.mm.engine.signals import Interrupted

SMALL = {**small_runs.SMALL, "default_hooks.checkpoint.interval": 100}
EPOCHS = dict(_delete_=True, by_epoch=True, max_epochs=3, val_interval=1)


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    """Equal runs have equal bits here; a GPU sums the gradients of a resized map in any order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine_device, "DEVICE", "cpu")
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder, 10, 3, size=64)
    return folder / "ade20k"


def train(data, work_dir, overrides, signals=(), **options):
    """Train to the end or to the first of ``signals``: (method of a hook, number of its call)."""

    class Sender(Hook):
        priority = "VERY_HIGH"
        calls = 0

        def __getattribute__(self, name):
            if signals and name == signals[0]:
                return self.send
            return object.__getattribute__(self, name)

        def send(self, *_, **__):
            Sender.calls += 1
            if Sender.calls == signals[1]:
                signal.raise_signal(signal.SIGTERM)

    # mmengine keeps one message hub and one visualizer per name in a process
    train.count += 1
    names = {"experiment_name": f"loops{train.count}", "visualizer.name": f"loops{train.count}"}
    # and takes `_delete_` out of what it is given
    options = TrainOptions(
        work_dir=str(work_dir), data_root=str(data), overrides=copy.deepcopy({**SMALL, **names, **overrides}),
        **{"seed": 5, **options},
    )  # fmt: skip
    runner = training_runner(SEGMENTOR, options)
    runner.register_hook(Sender())
    if signals:
        with pytest.raises(Interrupted) as stop:
            runner.train()
        assert stop.value.code == 128 + signal.SIGTERM
    else:
        runner.train()
    return runner


train.count = 0


def records(work_dir):
    lines = "".join(path.read_text() for path in sorted(work_dir.glob("*/vis_data/scalars.json")))
    return [json.loads(line) for line in lines.splitlines()]


def weights(runner):
    return torch.cat([p.detach().flatten() for p in runner.model.parameters()])


SGD = dict(_delete_=True, type="OptimWrapper", optimizer=dict(type="SGD", lr=0.05, momentum=0.9))
STEPS = {"train_cfg.max_iters": 4, "train_cfg.val_interval": 4, "optim_wrapper": SGD, "param_scheduler": []}


@pytest.mark.parametrize("loop", ["iter", "epoch"])
def test_accumulated_batches_are_one_large_batch(data, tmp_path, loop):
    """The same images with the same flips: 1 x 4, 2 x 2 and 4 x 1, also in an epoch's last half step."""
    overrides = dict(STEPS)
    if loop == "epoch":
        overrides = {**STEPS, "train_cfg": dict(EPOCHS, max_epochs=2)}
        overrides["train_dataloader.sampler"] = dict(_delete_=True, type="DefaultSampler", shuffle=True)
        del overrides["train_cfg.max_iters"], overrides["train_cfg.val_interval"]
    found = []
    for size in (4, 2, 1):
        batch = {"train_dataloader.batch_size": size, "auto_scale_lr.base_batch_size": 4}
        runner = train(data, tmp_path / str(size), {**overrides, **batch})
        assert runner.iter == (4 if loop == "iter" else 6)  # 10 images are 2.5 steps of 4
        found.append(weights(runner))
    start = found[0].abs().max()
    # float32 sums in another order give 1e-7, and 2e-4 where one of them takes a ReLU to its other side
    assert (found[1] - found[0]).abs().max() / start < 1e-3
    assert (found[2] - found[0]).abs().max() / start < 1e-3


def test_rates_warm_up_and_evaluations_count_steps(data, tmp_path):
    schedule = [
        dict(type="LinearLR", start_factor=0.25, by_epoch=False, begin=0, end=4),
        dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=0, end=9),
    ]
    batch = {"train_dataloader.batch_size": 1, "auto_scale_lr.base_batch_size": 2}
    lengths = {"train_cfg.max_iters": 8, "train_cfg.val_interval": 4}
    runner = train(data, tmp_path, {**STEPS, **lengths, **batch, "param_scheduler": schedule})
    assert runner.train_dataloader.accumulate == 2
    logged = records(tmp_path)
    expected = [0.05 * (1 - n / 8) * min(1, 0.25 + 0.25 * n) for n in range(8)]
    assert [r["lr"] for r in logged if "lr" in r] == pytest.approx(expected)
    assert [r["step"] for r in logged if "mIoU" in r] == [4, 8]


def the_same(first, second):
    """Compare everything in two checkpoints except times and names."""
    assert first.keys() == second.keys()
    for part in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        leaves = [tree_leaves(checkpoint[part]) for checkpoint in (first, second)]
        for a, b in zip(*leaves, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    for name, buffer in first["message_hub"]["log_scalars"].items():
        if not name.endswith("time"):
            assert buffer.data[0].tolist() == second["message_hub"]["log_scalars"][name].data[0].tolist()


BY_EPOCHS = {
    "train_cfg": EPOCHS,
    "param_scheduler": [dict(type="MultiStepLR", milestones=[1, 2], by_epoch=True)],
    "train_dataloader.sampler": dict(_delete_=True, type="DefaultSampler", shuffle=True),
    "default_hooks.checkpoint": dict(interval=1, by_epoch=True, save_best="mIoU", max_keep_ckpts=1),
}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing interrupts, its data loaded by the main process."""
    folder = tmp_path_factory.mktemp("whole")
    train(data, folder, BY_EPOCHS, ema=0.1)
    return folder


@pytest.mark.parametrize(
    ("place", "workers", "step", "of_epoch"),
    [
        (("after_train_iter", 4), 2, 4, 1),  # in the second epoch
        (("after_train_iter", 3), 0, 3, 3),  # after the last step of the first
        (("after_val_iter", 5), 2, 6, 0),  # in the second evaluation
        (("after_val_iter", 8), 0, 9, 0),  # in the last one, after the last checkpoint
    ],
)
def test_a_run_by_epochs_resumes_anywhere(data, whole, tmp_path, place, workers, step, of_epoch):
    loaders = {f"{split}_dataloader.num_workers": workers for split in ("train", "val")}
    train(data, tmp_path, {**BY_EPOCHS, **loaders}, place, ema=0.1)
    meta = read_checkpoint(newest_checkpoint(tmp_path)[0])["meta"]
    assert (meta["iter"], meta["step_of_epoch"]) == (step, of_epoch)
    train(data, tmp_path, {**BY_EPOCHS, **loaders}, ema=0.1, resume="auto", seed=None)
    the_same(read_checkpoint(whole / "epoch_3.pth"), read_checkpoint(tmp_path / "epoch_3.pth"))
    names = [sorted(path.name for path in folder.glob("*.pth")) for folder in (whole, tmp_path)]
    assert names[0] == names[1] and "recent.pth" not in names[0]
    evaluations = [[r["mIoU"] for r in records(folder) if "mIoU" in r] for folder in (whole, tmp_path)]
    assert len(evaluations[0]) == 3 and evaluations[0] == evaluations[1]


@pytest.mark.parametrize("replaced", ["epoch_1.pth", "best_mIoU_epoch_1.pth"])
def test_what_a_kill_left_is_removed_at_the_next_start(data, tmp_path, monkeypatch, replaced):
    """No removal is carried out in the second epoch, as if SIGKILL had come before it."""
    carry_out, scores = LaterRemoval.carry_out, itertools.count(1)
    # each evaluation is the best so far, on every machine
    monkeypatch.setattr(IoUMetric, "compute_metrics", lambda self, results: {"mIoU": float(next(scores))})

    def killed_before(self, keep):
        if any(path.name == replaced for path in self.doomed):
            raise KeyboardInterrupt  # as with SIGKILL, nothing is saved
        carry_out(self, keep)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LaterRemoval, "carry_out", killed_before)
        train(data, tmp_path, BY_EPOCHS, ema=0.1)
    assert (tmp_path / replaced).exists()
    train(data, tmp_path, BY_EPOCHS, ema=0.1, resume="auto", seed=None)
    assert [path.name for path in tmp_path.glob("epoch_*")] == ["epoch_3.pth"]
    assert len(list(tmp_path.glob("best_*"))) == 1


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(data, tmp_path):
    rates = {"optim_wrapper.optimizer.lr": 1e30, "optim_wrapper.clip_grad": None}
    with pytest.raises(NotFiniteError, match=r"step 2: the loss is nan.*--resume --seed N"):
        train(data, tmp_path, {**STEPS, **rates, "default_hooks.checkpoint.interval": 1})
    found, passed_over = newest_checkpoint(tmp_path)
    assert found.name == "iter_1.pth" and not passed_over
    assert (tmp_path / "not_finite_step_2/image_0.png").is_file()


def test_checkpoints_by_time_replace_each_other(data, tmp_path):
    train(data, tmp_path, STEPS, ("after_train_iter", 3), checkpoint_minutes=1e-9)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["recent.pth"]
    assert read_checkpoint(tmp_path / "recent.pth")["meta"]["iter"] == 3
    train(data, tmp_path / "regular alone", STEPS, checkpoint_minutes=0)
    assert [path.name for path in (tmp_path / "regular alone").glob("*.pth")] == ["iter_4.pth"]
