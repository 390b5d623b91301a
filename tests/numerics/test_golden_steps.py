"""Twelve steps of each demo recipe in float64: a change of code that changes numbers shows here.

Losses, norms of the gradients, and what the model then predicts, from a fixed seed on one thread. After
an intended change, ``PYTHONPATH=tests/helpers python tests/numerics/test_golden_steps.py`` rewrites them.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from published import config
from repository import ASSETS

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)
from convnext_dense.data import synthetic
from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.datasets.paths import datasets_of

GOLDEN = ASSETS / "golden_steps.json"
RECIPES = {"demo/mask_rcnn_shapes": "coco", "demo/upernet_shapes": "ade20k"}
STEPS = 12
TOLERANCE = 1e-4  # relative; binary cross entropy is float32 also in a float64 model; CPUs differ in rounding


def computed(name: str, folder: Path) -> dict:
    """Loss terms and gradient norm of each step, and sums over the predictions of the validation scenes."""
    synthetic.make_shapes(folder, train=2 * STEPS, val=2, size=96)
    cfg = config(name)
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    for data in datasets_of(cfg):
        data.data_root = f"{folder / RECIPES[name]}/"
    init_default_scope(cfg.default_scope)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    try:
        model = MODELS.build(cfg.model)
        model.init_weights()
        model.double()
        steps = train(cfg, model)
        return dict(steps=steps, predictions=predict(cfg, model))
    finally:
        torch.set_num_threads(threads)


def train(cfg, model: torch.nn.Module) -> list[dict[str, float]]:
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    batches = iter(Runner.build_dataloader(cfg.train_dataloader, seed=0))
    optimizer = build_optim_wrapper(model.train(), cfg.optim_wrapper).optimizer
    steps = []
    for _ in range(STEPS):
        data = model.data_preprocessor(next(batches), training=True)
        loss, terms = model.parse_losses(model.loss(data["inputs"].double(), data["data_samples"]))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        steps.append({key: float(value) for key, value in terms.items()} | {"gradient_norm": float(norm)})
        optimizer.step()
    return steps


@torch.no_grad()
def predict(cfg, model: torch.nn.Module) -> dict[str, float]:
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    sums: dict[str, float] = {}
    for batch in Runner.build_dataloader(cfg.val_dataloader, seed=0):
        data = model.eval().data_preprocessor(batch, training=False)
        inputs, samples = data["inputs"].double(), data["data_samples"]
        for key, value in outputs(model, inputs, samples).items():
            sums[key] = sums.get(key, 0.0) + value
    return sums


def outputs(model: torch.nn.Module, inputs: torch.Tensor, samples: list) -> dict[str, float]:
    if not hasattr(model, "roi_head"):
        logits = model.encode_decode(inputs, [sample.metainfo for sample in samples])
        return dict(logits=float(logits.abs().mean()), pixels_of_a_shape=float((logits.argmax(1) > 0).sum()))
    features = model.extract_feat(inputs)
    proposals = model.rpn_head.predict(features, samples, rescale=False)
    boxes = model.roi_head.predict_bbox(
        features, [sample.metainfo for sample in samples], proposals, model.roi_head.test_cfg
    )
    return dict(
        proposals=float(sum(len(found) for found in proposals)),
        objectness=float(sum(found.scores.sum() for found in proposals)),
        coordinates=float(sum(found.bboxes.sum() for found in proposals)),
        detections=float(sum(len(found) for found in boxes)),
        scores=float(sum(found.scores.sum() for found in boxes)),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_twelve_steps_are_the_golden_ones(name, tmp_path):
    golden, found = json.loads(GOLDEN.read_text())[name], computed(name, tmp_path)
    assert len(found["steps"]) == STEPS and found["steps"][-1]["loss"] < found["steps"][0]["loss"]
    for step, expected in enumerate(golden["steps"]):
        assert found["steps"][step] == pytest.approx(expected, rel=TOLERANCE), f"step {step + 1}"
    assert found["predictions"] == pytest.approx(golden["predictions"], rel=TOLERANCE)


if __name__ == "__main__":
    values = {}
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as work:
            values[recipe] = computed(recipe, Path(work))
    GOLDEN.write_text(json.dumps(values, indent=1) + "\n")
    sys.exit()
