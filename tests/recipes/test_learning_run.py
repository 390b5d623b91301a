"""The learning run on real images: its recipe is the published one at reduced size, and it takes a step."""

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from published import config

from convnext_dense.data import synthetic
from convnext_dense.mm.apis.train import TrainOptions, training_config

NAME = "demo/mask_rcnn_coco_tiny"
RECIPE = "mask_rcnn/convnext_t_3x"
FACTOR = 0.25  # of the published lengths in pixels


def described(node: object) -> object:
    """A pipeline with the sides in pixels left out: types, their order, and every other argument."""
    if isinstance(node, dict):
        return {k: "pixels" if k in ("scales", "crop_size") else described(v) for k, v in node.items()}
    return [described(item) for item in node] if isinstance(node, list | tuple) else node


def sides(node: object, key: str) -> list:
    """Every value of ``key`` below ``node``, in their order."""
    if isinstance(node, dict):
        own = [node[key]] if key in node else []
        return own + [found for value in node.values() for found in sides(value, key)]
    return [found for item in node for found in sides(item, key)] if isinstance(node, list | tuple) else []


@pytest.fixture
def two_images(tmp_path) -> Config:
    """The config on a made-up COCO set of two training images with three classes."""
    synthetic.make_shapes(tmp_path / "shapes", train=2, val=1)
    options = TrainOptions(
        work_dir=str(tmp_path / "run"), data_root=str(tmp_path / "shapes" / "coco"), device="cpu"
    )
    cfg, _ = training_config(NAME, options)
    init_default_scope(cfg.default_scope)
    return cfg


def test_the_pipeline_is_the_recipes_at_reduced_size_with_masks_as_polygons():
    ours, recipe = config(NAME).train_pipeline, config(RECIPE).train_pipeline
    assert ours[1].pop("poly2mask") is False
    assert described(ours) == described(recipe)
    for key in ("scales", "crop_size"):
        for small, large in zip(sides(ours, key), sides(recipe, key), strict=True):
            flat_small, flat_large = torch.tensor(small).flatten(), torch.tensor(large).flatten()
            assert flat_small.min() == pytest.approx(FACTOR * flat_large.min(), abs=1)
            assert flat_small.max() == pytest.approx(FACTOR * flat_large.max(), abs=1)


def test_it_trains_with_the_pipeline_and_evaluates_on_the_same_images():
    cfg = config(NAME)
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert train.pipeline == cfg.train_pipeline
    assert (val.ann_file, val.data_prefix) == (train.ann_file, train.data_prefix)
    assert cfg.val_evaluator.ann_file == val.data_root + val.ann_file
    assert cfg.test_evaluator == cfg.val_evaluator and cfg.test_dataloader == cfg.val_dataloader


def test_gradients_are_not_accumulated(two_images):
    assert two_images.train_cfg.accumulate == 1, "the published batch of 16 is not this run's"


def test_the_model_stays_small():
    cfg = config(NAME)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) < 5e6


def test_one_step_on_two_images(two_images):
    torch.manual_seed(0)
    model = MODELS.build(two_images.model)
    model.init_weights()
    loader = Runner.build_dataloader(two_images.train_dataloader, seed=0)
    names = {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_mask", "loss"}
    images = 0
    for batch in loader:  # their gradients add up, as those of two processes do
        data = model.train().data_preprocessor(batch, training=True)
        total, logged = model.parse_losses(model.loss(data["inputs"], data["data_samples"]))
        total.backward()
        images += len(data["data_samples"])
        assert names <= set(logged)
        assert all(math.isfinite(logged[name]) for name in names)
    assert images == 2
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)
