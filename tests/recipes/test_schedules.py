"""Learning rates, iteration by iteration, against the published formulas."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from published import COCO_RECIPES, RECIPES, config
from torch import nn

from convnext_dense.mm.config.lr_plan import run_length, simulate
from convnext_dense.results import paper

ITERS_PER_EPOCH = 7330  # 117,266 images, 8 GPUs, 2 images each
COCO_CONFIGS = [row.name for row in paper.COCO]
ADE20K_CONFIGS = [row.name for row in paper.ADE20K]
ADE20K_RECIPES = [name for name in RECIPES if name.startswith("upernet/")]


def published_rates(base: float, recipe: dict) -> np.ndarray:
    """mmcv 1.x's step policy with a linear warm-up, written from its documentation.

    Regular rate: ``base * gamma ** (steps passed)``, by epoch. During the warm-up of W
    iterations, iteration n has ``regular * (1 - (1 - n / W) * (1 - ratio))``.
    """
    n = np.arange(recipe["epochs"] * ITERS_PER_EPOCH)
    passed = sum((n // ITERS_PER_EPOCH >= step).astype(int) for step in recipe["lr_steps"])
    regular = base * recipe["lr_gamma"] ** passed
    warmup = recipe["warmup"]
    assert warmup["type"] == "linear"
    rising = 1 - (1 - n / warmup["iters"]) * (1 - warmup["ratio"])
    return np.where(n < warmup["iters"], regular * rising, regular)


@pytest.fixture(scope="module")
def simulated() -> np.ndarray:
    """(iterations, recipes): the rate of the heads; a group's own factor passes through, tested below."""
    configs = {name: config(name) for name in COCO_CONFIGS}
    first = configs[COCO_RECIPES[0]]
    assert all(cfg.param_scheduler == first.param_scheduler for cfg in configs.values())
    assert {run_length(cfg) for cfg in configs.values()} == {(36 * ITERS_PER_EPOCH, ITERS_PER_EPOCH)}
    rates = [configs[name].optim_wrapper.optimizer.lr for name in COCO_RECIPES]
    return simulate(first.param_scheduler, rates, *run_length(first))


@pytest.mark.parametrize("name", COCO_RECIPES)
def test_every_iteration_of_every_released_recipe(name, simulated):
    rates = simulated[:, COCO_RECIPES.index(name)]
    expected = published_rates(RECIPES[name]["optimizer"]["lr"], RECIPES[name])
    assert len(rates) == len(expected) == 36 * ITERS_PER_EPOCH
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=0)  # first to last, none left out


def test_the_landmarks(simulated):
    rates = simulated[:, COCO_RECIPES.index("mask_rcnn/convnext_t_3x")] / 1e-4
    assert rates[0] == pytest.approx(0.001)
    assert rates[499] == pytest.approx(1 - 0.999 / 500)
    assert rates[500] == pytest.approx(1)
    assert rates[27 * ITERS_PER_EPOCH - 1] == pytest.approx(1)
    assert rates[27 * ITERS_PER_EPOCH] == pytest.approx(0.1)
    assert rates[33 * ITERS_PER_EPOCH] == rates[-1] == pytest.approx(0.01)


def published_poly_rates(base: float, recipe: dict) -> np.ndarray:
    """mmcv 1.x's poly policy by iteration, with a linear warm-up, written from its documentation.

    Regular rate of iteration n of N: ``(base - min) * (1 - n / N) ** power + min``. During the warm-up of
    W iterations, iteration n has ``regular * (1 - (1 - n / W) * (1 - ratio))``.
    """
    n = np.arange(recipe["iters"])
    schedule, warmup = recipe["schedule"], recipe["warmup"]
    assert (schedule["policy"], schedule["from_iter"], warmup["type"]) == ("poly", 0, "linear")
    share = (1 - n / recipe["iters"]) ** schedule["power"]
    regular = (base - schedule["min_lr"]) * share + schedule["min_lr"]
    rising = 1 - (1 - n / warmup["iters"]) * (1 - warmup["ratio"])
    return np.where(n < warmup["iters"], regular * rising, regular)


@pytest.fixture(scope="module")
def simulated_ade20k() -> dict[str, np.ndarray]:
    """Recipe -> (iterations,): the rate of the heads."""
    configs = {name: config(name) for name in ADE20K_CONFIGS}
    first = configs[ADE20K_RECIPES[0]]
    assert all(cfg.param_scheduler == first.param_scheduler for cfg in configs.values())
    assert {run_length(cfg) for cfg in configs.values()} == {(160_000, 160_000)}
    bases = {name: cfg.optim_wrapper.optimizer.lr for name, cfg in configs.items()}
    different = sorted(set(bases.values()))
    rates = simulate(first.param_scheduler, different, 160_000, 160_000)
    return {name: rates[:, different.index(base)] for name, base in bases.items()}


@pytest.mark.parametrize("name", ADE20K_CONFIGS)
def test_every_iteration_of_every_ade20k_recipe(name, simulated_ade20k):
    recipe = RECIPES.get(name, RECIPES["upernet/convnext_t_512_160k"])  # Swin's release has the same schedule
    base = recipe["optimizer"]["lr"] if name in RECIPES else 6e-5
    expected = published_poly_rates(base, recipe)
    assert len(expected) == 160_000
    np.testing.assert_allclose(simulated_ade20k[name], expected, rtol=1e-9, atol=0)  # none left out


def test_the_landmarks_of_ade20k(simulated_ade20k):
    rates = simulated_ade20k["upernet/convnext_xl_in22k_640_160k"] / 8e-5
    assert rates[0] == pytest.approx(1e-6)
    assert rates[750] == pytest.approx((0.5 + 0.5e-6) * (1 - 750 / 160_000))
    assert rates.argmax() == 1500 and rates[1500] == pytest.approx(1 - 1500 / 160_000)
    assert rates[80_000] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(1 / 160_000)


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.head = nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode="loss"):
        return dict(loss=self.head(self.layer(inputs)).mean())


class Recorder(Hook):
    """The rate of each group at the moment an iteration begins."""

    def __init__(self):
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append([group["lr"] for group in runner.optim_wrapper.optimizer.param_groups])


@pytest.mark.parametrize("by_epoch", [True, False])
def test_the_simulation_counts_as_a_real_run_does(by_epoch, tmp_path):
    schedulers = [dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=6)]
    if by_epoch:
        schedulers.append(dict(type="MultiStepLR", by_epoch=True, milestones=[2, 3], gamma=0.1))
        train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=4)
    else:
        schedulers.append(dict(type="PolyLR", by_epoch=False, power=1.0, eta_min=0.0, begin=0))
        train_cfg = dict(type="IterBasedTrainLoop", max_iters=20)
    recorder = Recorder()
    runner = Runner(
        Toy(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(2))] * 10,
            batch_size=2,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=train_cfg,
        optim_wrapper=dict(
            optimizer=dict(type="SGD", lr=0.5), paramwise_cfg=dict(custom_keys={"head": dict(lr_mult=3.0)})
        ),
        param_scheduler=[dict(scheduler) for scheduler in schedulers],
        custom_hooks=[recorder],
        default_hooks=dict(logger=None, checkpoint=None),
        log_level="ERROR",
        experiment_name=f"schedule_{by_epoch}",
    )
    runner.train()
    groups = [0.5, 0.5, 1.5, 1.5]
    cfg = ConfigDict(train_cfg=train_cfg)
    rates = simulate(schedulers, groups, *run_length(cfg, iters_per_epoch=5))
    np.testing.assert_allclose(rates, recorder.rates, rtol=1e-12)
    np.testing.assert_allclose(rates[:, 2], 3 * rates[:, 0], rtol=1e-12)


def test_a_run_by_epoch_needs_the_size_of_its_data():
    cfg = ConfigDict(
        train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=2),
        train_dataloader=dict(batch_size=2, dataset=dict(ann_file="mine.json")),
    )
    with pytest.raises(ValueError, match="iterations per epoch"):
        run_length(cfg)
    assert run_length(cfg, iters_per_epoch=7) == (14, 7)
