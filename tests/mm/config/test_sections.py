"""A config lacks nothing that a command needs, its entries are of the right kind, and its overrides exist."""

import pytest
from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.config.sections import check_kinds, check_needed, check_overrides


@pytest.mark.parametrize("recipe", ["demo/mask_rcnn_shapes", "demo/upernet_shapes", "cascade/convnext_b_3x"])
def test_recipes_are_right(recipe):
    cfg = load_config(recipe)
    for purpose in ("train", "test", "predict", "rates"):
        check_needed(cfg, purpose)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("model", 3, "model is '3'; write a mapping with a type"),
        ("model.backbone", "ConvNeXt", "model.backbone is 'ConvNeXt'; write a mapping with a type"),
        ("model.neck.type", [1, 2], "model.neck.type is '[1, 2]'; write the name of a class"),
        ("train_dataloader.batch_size", "2", "batch_size is '2'; write a whole number above 0"),
        ("train_dataloader.batch_size", 0, "write a whole number above 0"),
        ("train_dataloader.dataset.pipeline", [dict(type="A"), {}], "pipeline.1 is '{}'; write"),
        ("train_dataloader.dataset.filter_cfg", 32, "dataset: filter_cfg is '32'; write a mapping"),
        ("train_dataloader.dataset.filter_cfg", dict(min_size="32"), "min_size is '32'; write a number"),
        ("val_evaluator.metric", 500, "val_evaluator.metric is '500'; write a text in quotes, or a list"),
        ("val_evaluator.ann_file", [1, 2], "val_evaluator.ann_file is '[1, 2]'; write a text in quotes"),
        ("optim_wrapper.paramwise_cfg.custom_keys", dict(norm=-1), "['norm'] is '-1'; write a mapping"),
        ("train_cfg.max_iters", 2.5, "train_cfg.max_iters is '2.5'; write a whole number above 0"),
        ("optim_wrapper.optimizer.lr", "1e-3", "optim_wrapper.optimizer.lr is '1e-3'; write a number"),
        ("default_hooks.logger", 3, "default_hooks.logger is '3'; write a mapping"),
        ("default_hooks.checkpoint.save_best", True, "write a text in quotes, or a list of them"),
        ("custom_hooks", ["EMAHook"], "custom_hooks.0 is 'EMAHook'; write a mapping with a type"),
    ],
)  # fmt: skip
def test_an_entry_of_a_wrong_kind(key, value, line):
    cfg = load_config("demo/mask_rcnn_shapes")
    cfg.merge_from_dict({key: value})
    with pytest.raises(UserError, match=r"mask_rcnn_shapes\.py: ") as raised:
        check_kinds(cfg)
    assert line in str(raised.value)


@pytest.mark.parametrize(
    ("absent", "purpose"),
    [
        ("model", "train"), ("train_dataloader", "train"), ("optim_wrapper", "rates"), ("train_cfg", "rates"),
        ("val_evaluator", "train"), ("test_evaluator", "test"), ("test_dataloader", "predict"),
    ],
)  # fmt: skip
def test_a_section_that_is_missing(absent, purpose):
    cfg = load_config("demo/mask_rcnn_shapes")
    cfg.pop(absent)
    with pytest.raises(UserError, match=f"has no {absent}"):
        check_needed(cfg, purpose)


CFG = Config(dict(model=dict(backbone=dict(type="A"), heads=[dict(a=1)]), train_cfg=dict(max_iters=1)))


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("moodel.backbone.type", r"the config has no 'moodel'; similar: model"),
        ("model.bakcbone.type", r"model has no 'bakcbone'; similar: backbone"),
        ("trian_cfg.max_iters", r"no 'trian_cfg'; similar: train_cfg"),
        ("optim_wraper.optimizer.lr", r"no 'optim_wraper'; similar: optim_wrapper"),
        ("model.heads.1.a", r"model.heads is a list; its indices are 0 to 0"),
        ("model.heads.a", r"model.heads is a list; its indices are 0 to 0"),
        ("model..type", r"a key is empty"),
    ],
)
def test_an_override_of_nothing(key, line):
    with pytest.raises(UserError, match=line):
        check_overrides(CFG, {key: 1})


@pytest.mark.parametrize(
    "key", ["model.backbone.with_cp", "model.heads.0.b", "load_from", "my_own.entry", "model.neck.type"]
)
def test_an_override_of_something_or_a_new_entry(key):
    check_overrides(CFG, {key: 1})
