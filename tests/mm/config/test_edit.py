"""Config changes made by the command lines, as tables."""

import copy

import pytest
from mmengine.config import Config
from mmengine.hooks import EMAHook

from convnext_dense.errors import DatasetNotFoundError, UserError
from convnext_dense.mm.apis.train import run_summary
from convnext_dense.mm.config.edit import (
    batches_of_step,
    set_amp,
    set_backends,
    set_batch,
    set_checkpoints,
    set_ema,
    set_plain_batch_norm,
    set_pretrained,
)
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.datasets.paths import check_data, set_data_root
from convnext_dense.mm.engine.launch import select_device, start_processes
from convnext_dense.mm.errors import explain, one_line_errors

DATASET = dict(
    type="CocoDataset", data_root="data/coco/", ann_file="annotations/a.json", data_prefix=dict(img="train/")
)


def config(**entries) -> Config:
    base = dict(
        train_dataloader=dict(batch_size=2, dataset=dict(type="RepeatDataset", dataset=dict(DATASET))),
        test_dataloader=dict(dataset=dict(DATASET)),
        test_evaluator=dict(type="CocoMetric", ann_file="data/coco/annotations/a.json"),
        optim_wrapper=dict(type="AmpOptimWrapper", optimizer=dict(type="AdamW", lr=1e-4)),
        model=dict(
            backbone=dict(type="ConvNeXt", init_cfg=dict(type="Pretrained", checkpoint="u")), pretrained="x"
        ),
    )
    return Config({**base, **entries})


def test_data_root_reaches_wrapped_datasets_and_evaluators():
    cfg = config()
    set_data_root(cfg, "/mine/coco")
    assert cfg.train_dataloader.dataset.dataset.data_root == "/mine/coco/"
    assert cfg.test_dataloader.dataset.data_root == "/mine/coco/"
    assert cfg.test_evaluator.ann_file == "/mine/coco/annotations/a.json"


def test_missing_data_names_the_path_the_layout_and_the_option(tmp_path):
    cfg = config()
    (tmp_path / "train").mkdir()
    set_data_root(cfg, str(tmp_path))
    with pytest.raises(DatasetNotFoundError) as error:
        check_data(cfg)
    text = str(error.value)
    assert f"no dataset at {tmp_path}/annotations/a.json (give --data-root FOLDER)" in text
    assert f"found    {tmp_path}/train" in text
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/a.json").touch()
    check_data(cfg)


@pytest.mark.parametrize(
    ("recipe", "amp", "device", "expected", "note"),
    [
        ("AmpOptimWrapper", None, "cuda", "AmpOptimWrapper", False),
        ("AmpOptimWrapper", None, "cpu", "OptimWrapper", True),
        ("AmpOptimWrapper", False, "cuda", "OptimWrapper", False),
        ("OptimWrapper", None, "cuda", "OptimWrapper", False),
        ("OptimWrapper", True, "cuda", "AmpOptimWrapper", False),
        ("OptimWrapper", None, "cpu", "OptimWrapper", False),
    ],
)
def test_amp(recipe, amp, device, expected, note):
    cfg = config(
        optim_wrapper=dict(
            type=recipe,
            optimizer=dict(type="AdamW"),
            **({"loss_scale": "dynamic"} if "Amp" in recipe else {}),
        )
    )
    assert bool(set_amp(cfg, amp, device)) == note
    assert cfg.optim_wrapper.type == expected
    assert (cfg.optim_wrapper.get("loss_scale") == "dynamic") == (expected == "AmpOptimWrapper")


def test_amp_asked_for_without_a_gpu_is_an_error():
    with pytest.raises(UserError, match="needs a GPU"):
        set_amp(config(), True, "cpu")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, dict(type="Pretrained", checkpoint="u")),
        ("none", None),
        ("w.pth", dict(type="Pretrained", checkpoint="w.pth")),
    ],
)
def test_pretrained(source, expected):
    cfg = config()
    note = set_pretrained(cfg, source)
    assert cfg.model.backbone.init_cfg == expected
    assert ("pretrained" in cfg.model) == (source is None)
    assert (note is not None) == (source == "none")


def test_a_backbone_without_weights_is_said():
    cfg = config()
    cfg.model.pop("pretrained", None)
    cfg.model.backbone.init_cfg = None
    assert set_pretrained(cfg, None) == (
        "backbone starts from random weights: neither the config nor --pretrained names a file"
    )
    cfg.load_from = "whole.pth"
    assert set_pretrained(cfg, None) is None


def test_weights_reach_the_backbone_inside_and_the_parts_with_the_same_weights():
    shared = dict(type="ConvNeXtLastStage", init_cfg=dict(type="Pretrained", checkpoint="old"))
    detector = dict(backbone=dict(type="ConvNeXtTrunk", pretrained="old"), roi_head=dict(shared_head=shared))
    cfg = config(model=dict(type="SoftTeacher", detector=detector))
    assert set_pretrained(cfg, "new.pth") is None
    expected = dict(type="Pretrained", checkpoint="new.pth")
    assert cfg.model.detector.backbone == dict(type="ConvNeXtTrunk", init_cfg=expected)
    assert cfg.model.detector.roi_head.shared_head.init_cfg == expected
    set_pretrained(cfg, "none")
    assert cfg.model.detector.roi_head.shared_head.init_cfg is None
    assert set_pretrained(config(model=dict(type="NoBackbone")), "new.pth") is None


@pytest.mark.parametrize(
    ("world", "device", "kept"), [(1, "cuda", False), (8, "cuda", True), (2, "cpu", False)]
)
def test_sync_bn_becomes_bn_where_it_cannot_run(world, device, kept):
    heads = [dict(norm_cfg=dict(type="SyncBN", requires_grad=True)), dict(norm_cfg=dict(type="BN"))]
    heads.append(dict(norm_cfg=dict(type="MMSyncBN")))  # mmcv's own
    cfg = config(model=dict(roi_head=dict(bbox_head=heads)))
    note = set_plain_batch_norm(cfg, world, device)
    norms = [head.norm_cfg.type for head in cfg.model.roi_head.bbox_head]
    assert norms == (["SyncBN", "BN", "MMSyncBN"] if kept else ["BN", "BN", "BN"])
    assert (note is None) == kept


def test_tensorboard_joins_the_backends_once():
    cfg = config(visualizer=dict(type="DetLocalVisualizer", vis_backends=[dict(type="WandbVisBackend")]))
    set_backends(cfg)
    set_backends(cfg)
    kinds = [backend.type for backend in cfg.visualizer.vis_backends]
    assert kinds == ["WandbVisBackend", "LocalVisBackend", "TensorboardVisBackend"]


@pytest.mark.parametrize(
    ("recipe", "per_batch", "batches"),
    [(16, 16, 1), (16, 2, 8), (16, 8, 2), (16, 6, 3), (16, 64, 1), (16, 12, 1), (None, 2, 1)],
)
def test_a_step_has_as_many_batches_as_come_nearest_to_the_recipes(recipe, per_batch, batches):
    assert batches_of_step(recipe, per_batch) == batches


EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=3)


@pytest.mark.parametrize(
    ("rule", "world", "accumulate", "scaled", "told"),
    [
        ("accumulate", 8, 1, False, None),
        ("accumulate", 1, 8, False, "8 batches make the recipe's 16 images"),
        ("accumulate", 3, 3, False, "belongs to 16 images, a step has 18"),
        ("accumulate", 16, 1, False, "a step has 32; see --scale-lr"),
        ("scale_lr", 1, 1, True, "x 0.125: 2 images per step, recipe: 16"),
        ("as_is", 1, 1, False, "a step has 2; see --scale-lr"),
    ],
)
def test_the_batch_of_the_recipe_on_any_number_of_processes(rule, world, accumulate, scaled, told):
    cfg = config(auto_scale_lr=dict(enable=False, base_batch_size=16), train_cfg=dict(EPOCHS))
    notes = set_batch(cfg, world, rule)
    assert cfg.train_cfg == dict(type="EpochStepLoop", max_epochs=3, accumulate=accumulate)
    assert cfg.auto_scale_lr.enable == scaled
    assert told in notes[0] if told else not notes
    images = f"{2 * world * accumulate} images per step"
    assert images in "\n".join(run_summary(cfg, world))
    again = copy.deepcopy(cfg)  # as the work folder has it
    assert set_batch(again, world, rule) == notes and again.train_cfg == cfg.train_cfg


def test_other_configs_keep_their_batch():
    cfg = config(train_cfg=dict(by_epoch=False, max_iters=5))
    assert set_batch(cfg, 1) == []
    assert cfg.train_cfg == dict(type="IterStepLoop", max_iters=5, accumulate=1)
    with pytest.raises(UserError, match="base_batch_size"):
        set_batch(config(train_cfg=dict(EPOCHS)), 1, "scale_lr")
    own = config(train_cfg=dict(EPOCHS), auto_scale_lr=dict(base_batch_size=16))
    own.optim_wrapper.accumulative_counts = 4  # its schedule counts batches
    set_batch(own, 1)
    assert own.train_cfg.accumulate == 1
    foreign = config(train_cfg=dict(type="TeacherLoop"), auto_scale_lr=dict(base_batch_size=16))
    assert "TeacherLoop is not one of" in set_batch(foreign, 1)[0]
    assert foreign.train_cfg == dict(type="TeacherLoop")


def test_checkpoints_are_kept_as_asked():
    cfg = config(default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=5, max_keep_ckpts=2)))
    set_checkpoints(cfg, None, None, 30)
    kept = dict(type="CheckpointKeeper", interval=5, max_keep_ckpts=2, minutes=30)
    assert cfg.default_hooks.checkpoint == kept
    cfg = config()
    set_checkpoints(cfg, 1, "mIoU", 0)
    kept = dict(type="CheckpointKeeper", interval=1, minutes=0, max_keep_ckpts=1, save_best="mIoU")
    assert cfg.default_hooks.checkpoint == kept
    with pytest.raises(UserError, match="--keep 0"):
        set_checkpoints(cfg, 0, None, 30)


def test_the_average_of_the_weights_replaces_that_of_the_config():
    hooks = [dict(type=kind, momentum=0.1) for kind in ("EMAHook", "mmengine.EMAHook", EMAHook)]
    cfg = config(custom_hooks=[*hooks, dict(type="GroupRatesHook")])
    assert set_ema(cfg, None) is None and len(cfg.custom_hooks) == 4
    assert "0.001" in set_ema(cfg, 0.001)
    assert cfg.custom_hooks == [dict(type="GroupRatesHook"), dict(type="EMAHook", momentum=0.001)]
    with pytest.raises(UserError, match="between 0 and 1"):
        set_ema(cfg, 1.0)


def test_wrong_names_are_one_line_with_the_near_ones(monkeypatch):
    with pytest.raises(UserError, match="mask_rcnn/convnext_t_3x"):
        load_config("configs/mask_rcnn/convnext_tiny_3x.py")
    with pytest.raises(UserError, match=r"use one of \['cpu'"):
        select_device("tpu")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="torchrun"):
        start_processes(config(), "pytorch")


def test_an_unregistered_type_names_its_neighbours_and_the_import():
    from mmdet.registry import MODELS

    with pytest.raises(KeyError) as error:
        MODELS.build(dict(type="ConvNext"))
    advice = explain(error.value)
    assert "'ConvNext'" in advice
    assert "ConvNeXt" in advice.split("similar names")[1]
    assert "custom_imports = dict(imports=['convnext_dense.mm'])" in advice
    assert "\n" not in advice
    assert explain(RuntimeError("anything else")) is None


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(UserError("do this"), 2, "error: do this"), (KeyboardInterrupt(), 130, "interrupted")],
)
def test_expected_ends_are_one_line_and_a_status(error, status, line, capsys):
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise error
    assert end.value.code == status
    assert capsys.readouterr().err.strip() == line
    with pytest.raises(ZeroDivisionError), one_line_errors():
        1 / 0  # noqa: B018


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [(dict(arch="tinny"), "use one of ('atto'"), (dict(out_indices=(0, 9)), "9 is not a stage")],
)
def test_a_wrong_backbone_argument_is_one_line(kwargs, words):
    from mmdet.registry import MODELS

    with pytest.raises(ValueError) as error:
        MODELS.build(dict(type="ConvNeXt", **kwargs))
    advice = explain(error.value)
    assert words in advice
    assert "\n" not in advice
    assert explain(ValueError("raised elsewhere")) is None
