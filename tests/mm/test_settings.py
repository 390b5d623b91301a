"""What the command lines change in a config, as tables."""

import pytest
from mmengine.config import Config

from convnext_dense.mm.data import DatasetNotFoundError, check_data, set_data_root
from convnext_dense.mm.errors import UserError, explain, one_line_errors
from convnext_dense.mm.runtime import load_config, run_summary, select_device, start_processes
from convnext_dense.mm.settings import set_amp, set_backends, set_plain_batch_norm, set_pretrained

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


@pytest.mark.parametrize(
    ("world", "device", "kept"), [(1, "cuda", False), (8, "cuda", True), (2, "cpu", False)]
)
def test_sync_bn_becomes_bn_where_it_cannot_run(world, device, kept):
    heads = [dict(norm_cfg=dict(type="SyncBN", requires_grad=True)), dict(norm_cfg=dict(type="BN"))]
    cfg = config(model=dict(roi_head=dict(bbox_head=heads)))
    note = set_plain_batch_norm(cfg, world, device)
    norms = [head.norm_cfg.type for head in cfg.model.roi_head.bbox_head]
    assert norms == (["SyncBN", "BN"] if kept else ["BN", "BN"])
    assert (note is None) == kept


def test_tensorboard_joins_the_backends_once():
    cfg = config(visualizer=dict(type="DetLocalVisualizer", vis_backends=[dict(type="WandbVisBackend")]))
    set_backends(cfg)
    set_backends(cfg)
    kinds = [backend.type for backend in cfg.visualizer.vis_backends]
    assert kinds == ["WandbVisBackend", "LocalVisBackend", "TensorboardVisBackend"]


def test_the_summary_holds_the_batch_against_the_recipes():
    text = "\n".join(run_summary(config(auto_scale_lr=dict(base_batch_size=16)), world_size=4))
    assert "8 images per step (4 x 2); the recipe's learning rate belongs to 16" in text
    assert "belongs" not in "\n".join(
        run_summary(config(auto_scale_lr=dict(base_batch_size=8)), world_size=4)
    )


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
    assert "ConvNeXt" in advice.split("near names")[1]
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
