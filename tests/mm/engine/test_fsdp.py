"""FSDP on two gloo ranks: the losses of DDP, half the memory, checkpoints of one process, a killed rank.

The file is its own worker: torchrun runs it with a folder as argument.
"""

import json
import os
import signal
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from ranks import make_noise, run_as_rank, torchrun
from repository import ROOT
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.torch_version import TorchVersion

from convnext_dense.errors import UserError
from convnext_dense.mm.bench.soak import differences
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.engine import fsdp as module
from convnext_dense.mm.engine.checkpoints import load_model, read_checkpoint
from convnext_dense.mm.engine.fsdp import set_fsdp, shard
from convnext_dense.mm.engine.nan_guard import diagnose
from convnext_dense.mm.engine.signals import Interrupted

STEPS, HALF = 4, 2

CONFIG = """
_base_ = ["{base}"]
dims = [16, 32, 48, 64]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(depths=[1, 1, 2, 1], dims=dims), drop_path_rate=0.2),
    decode_head=dict(in_channels=dims, channels=16),
    auxiliary_head=dict(in_channels=dims[2], channels=16))
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=4)  # two batches of two ranks
optim_wrapper = dict(
    _delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    constructor="LayerDecayOptimWrapperConstructor",
    paramwise_cfg=dict(decay_type="stage_wise", decay_rate=0.9),
    clip_grad=dict(max_norm=0.5))
train_cfg = dict(max_iters={steps}, val_interval={half})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval={half}))
log_processor = dict(window_size=1)
"""


class Notes(Hook):
    """Losses and norms of each step, and metrics; two runs in one process share mmengine's log."""

    def __init__(self) -> None:
        self.notes = {"loss": [], "grad_norm": [], "mIoU": []}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.notes["loss"].append(float(outputs["loss"]))
        self.notes["grad_norm"].append(float(runner.message_hub.get_scalar("train/grad_norm").current()))

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.notes["mIoU"].append(float(metrics["mIoU"]))


class Sigterm(Hook):
    """A signal that reaches one rank during an evaluation."""

    priority = "VERY_HIGH"

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def worker(folder: Path) -> None:
    """Train with DDP, then with FSDP and recomputed blocks; write what this rank holds."""
    plan = {
        "ddp": (False, None),
        "fsdp": (True, None),
        "fsdp_from_ddp": (True, f"ddp/iter_{HALF}.pth"),
        "stopped": (True, f"fsdp/iter_{HALF}.pth"),
        "fsdp_from_stopped": (True, "stopped/recent.pth"),
    }
    for name, (fsdp, start) in plan.items():
        try:
            record = train(folder, name, fsdp, start)
        except Interrupted as interrupted:
            traceback.clear_frames(interrupted.__traceback__)  # as in leaving_together
            record = {"signal": interrupted.code}
        (folder / f"{name}_{get_rank()}.json").write_text(json.dumps(record))
    (folder / f"overflow_{get_rank()}.json").write_text(json.dumps(overflow()))


def train(folder: Path, name: str, fsdp: bool, start: str | None) -> dict:
    """Train in ``folder / name`` and return the notes and what this rank holds at the end."""
    from convnext_dense.mm.apis.train import TrainOptions, training_runner

    options = TrainOptions(
        work_dir=str(folder / name),
        data_root=str(folder / "data"),
        launcher="pytorch",
        overrides={"experiment_name": name, "model.backbone.with_cp": fsdp},
        seed=3,
        fsdp=fsdp,
        resume=start and str(folder / start),
    )
    runner = training_runner(str(folder / "config.py"), options)
    notes = Notes()
    runner.register_hook(notes, priority="LOWEST")
    if name == "stopped":
        runner.register_hook(Sigterm())
    runner.train()
    optimizer = runner.optim_wrapper.optimizer
    state = [local(t) for values in optimizer.state.values() for t in values.values() if t.dim()]
    return {
        "parameters": sum(local(p).numel() for p in runner.model.parameters()),
        "state": sum(t.numel() for t in state),
        "groups": {
            g["name"]: (sorted(g["param_names"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups
        },
        "notes": notes.notes,
    }


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def overflow() -> dict:
    """Take a step in mixed precision in which only the gradients that the first rank holds overflow.

    Before it, the second rank alone looks for parameters that are not finite.
    """
    model = nn.Linear(2, 2)
    nn.init.ones_(model.weight)
    model.data_preprocessor = nn.Identity()
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    shard(model, optimizer, world_size=2)
    record = {}
    if get_rank() == 1:
        runner = SimpleNamespace(model=model, optim_wrapper=optimizer, world_size=2)
        record["alone"] = diagnose(runner, batch=None, key=())
    scaler = torch.amp.GradScaler(get_device(), init_scale=4.0)
    loss = model(torch.ones(1, 2, device=get_device()))[0, 0] * float("inf")
    scaler.scale(loss).backward()
    record["finite"] = bool(torch.isfinite(local(model.weight.grad)).all())
    scaler.step(optimizer)
    scaler.update()
    return {**record, "scale": scaler.get_scale(), "weight": local(model.weight).tolist()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Folder with the runs of :func:`worker`, of four steps each."""
    folder = tmp_path_factory.mktemp("sharding")
    make_noise(folder / "data", val=3)
    base = ROOT / "configs/demo/upernet_shapes.py"
    (folder / "config.py").write_text(CONFIG.format(base=base, steps=STEPS, half=HALF))
    torchrun(__file__, folder, folder=folder)
    return folder


def held(runs: Path, name: str, rank: int = 0) -> dict:
    """What the worker wrote."""
    return json.loads((runs / f"{name}_{rank}.json").read_text())


def test_losses_norms_and_metrics_are_those_of_ddp(runs):
    for rank in (0, 1):
        ddp, fsdp = (held(runs, name, rank)["notes"] for name in ("ddp", "fsdp"))
        assert len(ddp["loss"]) == len(set(ddp["loss"])) == STEPS
        assert fsdp["loss"] == pytest.approx(ddp["loss"], abs=1e-5)
        assert min(ddp["grad_norm"]) > 0.5, "clipped, or a wrong norm would not be noticed"
        assert fsdp["grad_norm"] == pytest.approx(ddp["grad_norm"], rel=1e-4)
        assert len(ddp["mIoU"]) == STEPS // HALF
        assert fsdp["mIoU"] == pytest.approx(ddp["mIoU"], abs=0.1)  # percent: a pixel of 12,288 may differ


def test_each_rank_holds_half(runs):
    ddp = held(runs, "ddp")
    ranks = [held(runs, "fsdp", rank) for rank in (0, 1)]
    for kind in ("parameters", "state"):
        assert sum(rank[kind] for rank in ranks) == ddp[kind]
        assert max(rank[kind] for rank in ranks) < 0.51 * ddp[kind]
    assert ddp["state"] == 2 * ddp["parameters"], "AdamW's two averages"


def test_groups_are_those_of_the_plain_model(runs):
    ddp = held(runs, "ddp")["groups"]
    assert any(name.endswith("_decay") and weight_decay for name, (_, _, weight_decay) in ddp.items())
    for rank in (0, 1):
        assert held(runs, "fsdp", rank)["groups"] == ddp


def test_checkpoint_is_that_of_one_process(runs):
    ddp, fsdp = (read_checkpoint(runs / name / f"iter_{STEPS}.pth") for name in ("ddp", "fsdp"))
    assert list(fsdp["state_dict"]) == list(ddp["state_dict"])
    for name, value in ddp["state_dict"].items():
        assert torch.allclose(fsdp["state_dict"][name], value, atol=2e-4), name  # AdamW's step is 1e-3
    for ours, theirs in zip(fsdp["optimizer"]["param_groups"], ddp["optimizer"]["param_groups"], strict=True):
        assert ours == theirs
    state = ddp["optimizer"]["state"]
    assert fsdp["optimizer"]["state"].keys() == state.keys()
    for key, values in state.items():
        ours = fsdp["optimizer"]["state"][key]
        assert ours["step"] == values["step"] == STEPS
        assert ours["exp_avg"].shape == values["exp_avg"].shape
        assert torch.allclose(ours["exp_avg"], values["exp_avg"], atol=1e-4, rtol=1e-2)
    cfg = load_config(str(runs / "config.py"))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    load_model(model, str(runs / "fsdp" / f"iter_{STEPS}.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, fsdp["state_dict"][name]), name
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    optimizer.load_state_dict({k: v for k, v in fsdp["optimizer"].items() if k != "base_param_settings"})
    averages = {name: optimizer.state[param]["exp_avg"] for name, param in model.named_parameters()}
    groups = ddp["optimizer"]["param_groups"]
    numbers = {n: i for g in groups for n, i in zip(g["param_names"], g["params"], strict=True)}
    for name, value in averages.items():
        assert torch.equal(value, fsdp["optimizer"]["state"][numbers[name]]["exp_avg"]), name


def test_a_sharded_run_resumes_from_ddp(runs):
    notes = held(runs, "fsdp_from_ddp")["notes"]
    assert notes["loss"] == pytest.approx(held(runs, "ddp")["notes"]["loss"][HALF:], abs=1e-5)


def test_command_resumes_with_the_same_bits(runs, tmp_path):
    """The documented command, from its own checkpoint."""
    command = [ROOT / "tools/train.py", runs / "config.py", "--launcher", "pytorch", "--fsdp"]
    options = ["--data-root", runs / "data", "--work-dir", tmp_path / "run"]
    start = runs / "fsdp" / f"iter_{HALF}.pth"
    resume = ["--resume", start, "--cfg-options", "model.backbone.with_cp=True"]
    output = torchrun(*command, *options, *resume, folder=tmp_path)
    assert "sharded over 2 processes" in output
    (log,) = (tmp_path / "run").glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses == pytest.approx(held(runs, "fsdp")["notes"]["loss"][HALF:], abs=1e-5)
    ours = read_checkpoint(tmp_path / "run" / f"iter_{STEPS}.pth")["state_dict"]
    theirs = read_checkpoint(runs / "fsdp" / f"iter_{STEPS}.pth")["state_dict"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_interrupted_evaluation_resumes_with_the_same_bits(runs):
    assert held(runs, "stopped", 0) == held(runs, "stopped", 1) == {"signal": 128 + signal.SIGTERM}
    whole, resumed = held(runs, "fsdp")["notes"], held(runs, "fsdp_from_stopped")["notes"]
    assert resumed["loss"] == whole["loss"][HALF:]
    assert resumed["mIoU"] == whole["mIoU"], "the interrupted evaluation comes first"
    theirs, ours = (
        read_checkpoint(runs / name / f"iter_{STEPS}.pth") for name in ("fsdp", "fsdp_from_stopped")
    )
    for part in ("state_dict", "optimizer"):
        assert not differences(theirs[part], ours[part])


def test_all_ranks_skip_a_step_that_overflows_on_one(runs):
    first, second = (held(runs, "overflow", rank) for rank in (0, 1))
    assert not first["finite"] and second["finite"]
    assert first["scale"] == second["scale"] == 2.0, "half of 4"
    assert first["weight"] == second["weight"] == [[1.0, 1.0]]


def test_a_rank_with_a_bad_loss_explains_it_alone(runs):
    assert "all parameters are finite" in held(runs, "overflow", 1)["alone"]


@pytest.mark.parametrize("fsdp", [False, True])
def test_a_killed_rank_is_reported_and_a_restart_ends_with_the_same_bits(runs, tmp_path, fsdp):
    """Kill a rank after step 3; the newest checkpoint is that of step 2. No rank waits for the killed one."""
    config = tmp_path / "killed.py"
    config.write_text(f"""
_base_ = ["{runs / "config.py"}"]
custom_imports = dict(imports=["ranks"])
custom_hooks = [dict(type="KilledRank", step={HALF + 1})]
""")
    command = [ROOT / "tools/train.py", config, "--launcher", "pytorch", "--resume", "--seed", 3]
    options = ["--data-root", runs / "data", "--work-dir", tmp_path / "run"]
    if fsdp:
        options += ["--fsdp", "--cfg-options", "model.backbone.with_cp=True"]
    output = torchrun(*command, *options, folder=tmp_path, restarts=1)
    assert "another process of this job ended, see its own message; start again with --resume" in output
    assert f"Load checkpoint from {tmp_path / 'run' / f'iter_{HALF}.pth'}" in output
    ours = read_checkpoint(tmp_path / "run" / f"iter_{STEPS}.pth")
    theirs = read_checkpoint(runs / ("fsdp" if fsdp else "ddp") / f"iter_{STEPS}.pth")
    for part in ("state_dict", "optimizer"):
        assert not differences(theirs[part], ours[part])


# ---- without processes


def config(**options) -> Config:
    return Config(dict(optim_wrapper=dict(type="OptimWrapper"), model_wrapper_cfg=dict(), **options))


def test_settings_that_do_not_work_with_it_are_refused(monkeypatch):
    with pytest.raises(UserError, match="torchrun --nproc_per_node"):
        set_fsdp(config(), 1)
    with pytest.raises(UserError, match="--compile"):
        set_fsdp(config(), 2, compiled=True)
    with pytest.raises(UserError, match="--ema"):
        set_fsdp(config(custom_hooks=[ConfigDict(type="EMAHook")]), 2)
    monkeypatch.setattr(module, "get_device", lambda: "cpu")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.12.1"))
    with pytest.raises(UserError, match=r"needs torch 2\.13"):
        set_fsdp(config(), 2)


def test_the_runner_shards_instead_of_wrapping():
    cfg = config()
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    assert "2 processes" in set_fsdp(cfg, 2)
    assert "use_fsdp" not in cfg.optim_wrapper, "the scaler of flat pieces, which FSDP2 has not"
    assert cfg.runner_type == "ShardedRunner"
    assert "model_wrapper_cfg" not in cfg


if __name__ == "__main__":
    run_as_rank(worker)
