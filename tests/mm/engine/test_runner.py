"""Fused evaluation and compiled backbones, in the runners of the command lines."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.layers import fused_block
from convnext_dense.mm.apis.predict import Predictor
from convnext_dense.mm.apis.train import TrainOptions, training_runner
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.engine import runner as runners
from convnext_dense.mm.engine.hooks import FuseHook
from convnext_dense.mm.engine.options import Options
from convnext_dense.models.compile import compile_in_place

RECIPES = {"coco": "demo/mask_rcnn_shapes", "ade20k": "demo/upernet_shapes"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, train=4, val=2, size=64)
    return root


@pytest.fixture(scope="module", params=list(RECIPES))
def case(request, shapes, tmp_path_factory):
    """(recipe, data root, checkpoint of random weights)."""
    recipe = RECIPES[request.param]
    cfg = load_config(recipe)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model))
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return recipe, shapes / request.param, str(path)


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """Grows by one entry whenever a block takes the fused path."""
    made, run = [], fused_block.pointwise
    monkeypatch.setattr(fused_block, "pointwise", lambda *args: made.append(1) or run(*args))
    return made


def outputs_of(case, tmp_path, name: str, **kwargs):
    recipe, data, checkpoint = case
    options = Options(
        work_dir=str(tmp_path / name), data_root=str(data), device="cpu", **kwargs.pop("more", {})
    )
    runner = runners.testing_runner(recipe, checkpoint, options, **kwargs)
    seen = []
    forward = runner.model.backbone.register_forward_hook(lambda _m, _a, out: seen.append(out))
    runner.test()
    forward.remove()
    return runner, seen


def test_testing_is_fused_and_has_the_same_outputs(case, tmp_path, runs):
    runner, fused = outputs_of(case, tmp_path, "fused")
    blocks = sum(runner.model.backbone.depths)
    assert len(runs) == blocks * len(fused) > 0
    _, plain = outputs_of(case, tmp_path, "plain", fused=False)
    assert len(runs) == blocks * len(fused)
    for found, expected in zip(fused, plain, strict=True):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_half_precision_is_fused_and_close_and_decides_in_float32(case, tmp_path, runs):
    runner, half = outputs_of(case, tmp_path, "half", dtype="bf16")
    assert len(runs) == sum(runner.model.backbone.depths) * len(half) > 0
    assert {level.dtype for levels in half for level in levels} <= {torch.bfloat16, torch.float32}
    products = {block._folded for block in runner.model.modules() if hasattr(block, "_folded")}
    assert products == {None}, "nothing stays folded"
    _, full = outputs_of(case, tmp_path, "full")
    for found, expected in zip(half, full, strict=True):
        for a, b in zip(found, expected, strict=True):
            assert 0 < (a.float() - b).norm() / b.norm() < 0.05
    recipe, _, checkpoint = case
    predictor = Predictor(load_config(recipe), checkpoint, dtype="bf16")
    with torch.no_grad():
        (sample,) = predictor.model.test_step(
            dict(inputs=[torch.zeros(3, 64, 64, dtype=torch.uint8)], data_samples=[sample_of(recipe)])
        )
    if "pred_instances" in sample:
        assert sample.pred_instances.bboxes.dtype == sample.pred_instances.scores.dtype == torch.float32


def sample_of(recipe: str):
    """An empty sample of 64x64 pixels."""
    from mmdet.structures import DetDataSample
    from mmseg.structures import SegDataSample

    sample = DetDataSample() if "mask_rcnn" in recipe else SegDataSample()
    shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape"), (64, 64))
    sample.set_metainfo(dict(shapes, scale_factor=(1.0, 1.0)))
    return sample


def test_predicting_is_fused_unless_disabled(case, runs):
    recipe, _, checkpoint = case
    image = torch.randn(1, 3, 64, 96)
    levels = {}
    for fused in (True, False):
        backbone = Predictor(load_config(recipe), checkpoint, fused).model.backbone
        with torch.no_grad():
            levels[fused] = backbone(image)
        assert len(runs) == sum(backbone.depths)
    for a, b in zip(levels[True], levels[False], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_evaluation_between_training_steps_sees_the_weights_of_that_moment(case, tmp_path, runs):
    recipe, data, _ = case
    overrides = {
        "train_cfg.max_iters": 2, "train_cfg.val_interval": 1, "train_dataloader.batch_size": 2,
        "train_dataloader.num_workers": 0, "train_dataloader.persistent_workers": False,
        "optim_wrapper.optimizer.lr": 0.01,
    }  # fmt: skip
    folders = dict(work_dir=str(tmp_path / "run"), data_root=str(data))
    options = TrainOptions(**folders, device="cpu", overrides=overrides, pretrained="none", seed=0)
    runner = training_runner(recipe, options)
    image, differences, states = torch.randn(1, 3, 64, 64), [], []

    def compare(*_, **__):
        backbone = runner.model.backbone
        count = len(runs)
        found = backbone(image)
        assert len(runs) == count + sum(backbone.depths)
        plain = copy.deepcopy(backbone)  # a copy is not fused
        differences.append(max((a - b).abs().max().item() for a, b in zip(found, plain(image), strict=True)))
        states.append(plain.stages[0][0].pwconv1.weight.clone())

    hook = FuseHook()
    hook.after_val_iter = compare
    runner.register_hook(hook)
    runner.train()
    assert len(differences) >= 2 and max(differences) < 1e-4
    assert not torch.equal(states[0], states[-1])
    assert all(block._folded is None for stage in runner.model.backbone.stages for block in stage)


def test_compiled_testing_keeps_keys_and_outputs(case, tmp_path, monkeypatch):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        "convnext_dense.mm.engine.runner.compile_in_place", lambda module: compile_in_place(module, backend)
    )
    runner, _ = outputs_of(case, tmp_path, "compiled", more=dict(compile=True))
    widths = len(set(runner.model.backbone.dims))
    assert widths <= len(graphs) - 1 <= 2 * widths  # the first is the trial's
    assert not any("_orig_mod" in key for key in runner.model.state_dict())
    image, plain = torch.randn(2, 3, 64, 96), copy.deepcopy(runner.model.backbone)
    with torch.no_grad():
        for a, b in zip(runner.model.backbone(image), plain(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_runs_of_one_second_share_neither_scope_nor_log_nor_curves(tmp_path, monkeypatch):
    """mmengine names a run after its config and its second, and looks its scope up by that name."""
    monkeypatch.setattr("mmengine.runner.runner.time.time", lambda: 1_700_000_000.0)
    started = []
    for scope in ("mmdet", "mmseg", "mmdet"):
        cfg = Config(dict(default_scope=scope, work_dir=str(tmp_path), runner_type="DenseRunner"))
        cfg.model = torch.nn.Identity()
        cfg.visualizer = dict(
            type="Visualizer", name="visualizer", vis_backends=[dict(type="LocalVisBackend")]
        )
        started.append(runners.RUNNERS.build(cfg))
        assert DefaultScope.get_current_instance().scope_name == scope
    assert len({run.log_dir for run in started}) == 3
    assert len({run.message_hub.instance_name for run in started}) == 3
    backends = [run.visualizer.get_backend("LocalVisBackend") for run in started]
    assert len({backend._save_dir for backend in backends}) == 3
