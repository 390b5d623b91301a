"""FSDP on two gloo ranks: the losses of DDP, half the memory, checkpoints of one process; a killed rank.

The file is its own worker: torchrun runs it with a folder as argument.
"""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmseg.registry import MODELS
from ranks import make_noise, run_as_rank, torchrun
from repository import ROOT

from convnext_dense.errors import UserError
from convnext_dense.mm.bench.soak import differences
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.engine.checkpoints import load_model, read_checkpoint
from convnext_dense.mm.engine.fsdp import blocks_to_recompute, plain_name, set_fsdp, with_names, with_numbers

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


def worker(folder: Path) -> None:
    """Train with DDP, then with FSDP and recomputed blocks; write what this rank holds."""
    from mmengine.dist import get_rank

    from convnext_dense.mm.apis.train import TrainOptions, training_runner

    plan = {"ddp": (False, None), "fsdp": (True, None), "fsdp_from_ddp": (True, f"ddp/iter_{HALF}.pth")}
    for name, (fsdp, start) in plan.items():
        overrides = {"experiment_name": name, "model.backbone.with_cp": fsdp}
        options = TrainOptions(
            work_dir=str(folder / name),
            data_root=str(folder / "data"),
            launcher="pytorch",
            overrides=overrides,
            seed=3,
            fsdp=fsdp,
            resume=start and str(folder / start),
        )
        runner = training_runner(str(folder / "config.py"), options)
        notes = Notes()
        runner.register_hook(notes, priority="LOWEST")
        runner.train()
        groups = runner.optim_wrapper.optimizer.param_groups
        record = {
            "parameters": sum(p.numel() for p in runner.model.parameters()),
            "state": sum(
                t.numel()
                for values in runner.optim_wrapper.optimizer.state.values()
                for t in values.values()
                if t.dim()
            ),
            "groups": {g["name"]: (sorted(g["param_names"]), g["lr"], g["weight_decay"]) for g in groups},
            "notes": notes.notes,
        }
        (folder / f"{name}_{get_rank()}.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Folder with ``ddp/`` and ``fsdp/``, of four steps each."""
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


def test_settings_that_do_not_work_with_it_are_refused():
    with pytest.raises(UserError, match="torchrun --nproc_per_node"):
        set_fsdp(config(), 1)
    with pytest.raises(UserError, match="--compile"):
        set_fsdp(config(), 2, compiled=True)
    with pytest.raises(UserError, match="--ema"):
        set_fsdp(config(custom_hooks=[ConfigDict(type="EMAHook")]), 2)


def test_mixed_precision_takes_the_scaler_of_sharded_gradients():
    cfg = config()
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    assert "2 processes" in set_fsdp(cfg, 2)
    assert cfg.optim_wrapper.use_fsdp
    assert cfg.runner_type == "ShardedRunner"
    assert "model_wrapper_cfg" not in cfg


def test_recomputed_blocks_are_those_of_the_named_stages():
    from convnext_dense import ConvNeXt

    model = torch.nn.Module()
    for with_cp, stages in ((False, ()), ((0, 2), (0, 2)), (True, (0, 1, 2, 3))):
        arch = dict(depths=(1, 2, 3, 1), dims=(8, 8, 8, 8))
        model.backbone = ConvNeXt(arch, with_cp=with_cp)
        expected = {block for stage in stages for block in model.backbone.stages[stage]}
        assert blocks_to_recompute(model) == expected


def test_names_and_numbers_of_an_optimizer_state():
    names = [["a.weight", "b.weight"], ["a.bias"]]
    plain = {
        "state": {0: "A", 1: "B", 2: "C"},
        "param_groups": [{"lr": 1, "params": [0, 1]}, {"params": [2]}],
    }
    by_name = {"a.weight": "A", "b.weight": "B", "a.bias": "C"}
    named = with_names({**plain, "state": by_name}, names)
    assert [group["params"] for group in named["param_groups"]] == names
    assert with_numbers(named, names) == plain
    wrapped = "backbone._fsdp_wrapped_module.stages.0._fsdp_wrapped_module._checkpoint_wrapped_module.gamma"
    assert plain_name(wrapped) == "backbone.stages.0.gamma"


if __name__ == "__main__":
    run_as_rank(worker)
