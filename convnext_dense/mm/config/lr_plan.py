"""The learning rates of a recipe, computed before any training.

Groups and rates come from the config only: the model is built on the ``meta``
device and mmengine's own schedulers are stepped through the run.
"""

import contextlib
import copy
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

from convnext_dense.errors import ArgumentError
from convnext_dense.mm.models.meta_device import build_on_meta

COCO_TRAIN_IMAGES = 117_266  # images of train2017 with a box of a known category


class GroupPlan(NamedTuple):
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        name: group name, or ``all`` when the recipe has no layer decay.
        layer: layer id, 0 at the input; ``None`` without layer decay.
        contents: short summary of the group's parameters.
        tensors, params: their numbers.
        lr: rate before any schedule.
        lr_start, lr_peak, lr_end: rates of the first iteration, the highest, the last.
        weight_decay: value that the optimizer gets.
    """

    name: str
    layer: int | None
    contents: str
    tensors: int
    params: int
    lr: float
    lr_start: float
    lr_peak: float
    lr_end: float
    weight_decay: float


class Plan(NamedTuple):
    """Groups of a recipe and ``rates`` (iterations, groups): the learning rate of each iteration."""

    groups: list[GroupPlan]
    rates: np.ndarray


def make_plan(cfg: Config, iters_per_epoch: int | None = None) -> Plan:
    """Groups and learning rates of a config, over the whole run.

    Args:
        cfg: config with ``model``, ``optim_wrapper``, ``param_scheduler`` and ``train_cfg``.
        iters_per_epoch: iterations per epoch, for recipes by epoch; by default that of COCO train2017.

    Raises:
        ValueError: a recipe by epoch on data of unknown size.
    """
    groups = merged_groups(cfg)
    max_iters, epoch_length = run_length(cfg, iters_per_epoch)
    rates = simulate(cfg.get("param_scheduler") or [], [g["lr"] for g in groups], max_iters, epoch_length)
    plans = [
        GroupPlan(
            name=group["name"],
            layer=group["layer"],
            contents=summarise_names(group["param_names"]),
            tensors=len(group["param_names"]),
            params=group["params"],
            lr=group["lr"],
            lr_start=float(rates[0, i]),
            lr_peak=float(rates[:, i].max()),
            lr_end=float(rates[-1, i]),
            weight_decay=group["weight_decay"],
        )
        for i, group in enumerate(groups)
    ]
    return Plan(plans, rates)


def merged_groups(cfg: Config) -> list[dict]:
    """Parameter groups of a config's optimizer; unnamed groups of equal settings are merged.

    mmengine's default constructor makes one group per parameter, too many for a table.
    """
    model = build_on_meta(cfg)
    wrapper = copy.deepcopy(cfg.optim_wrapper)
    wrapper.type = "OptimWrapper"  # mixed precision asks for a GPU and changes no group
    for key in ("loss_scale", "dtype", "use_fp64"):
        wrapper.pop(key, None)
    with _no_logs():
        optimizer = build_optim_wrapper(model, wrapper).optimizer
    names = {id(param): name for name, param in model.named_parameters()}
    merged: dict[tuple, dict] = {}
    for group in optimizer.param_groups:
        key = (group.get("name", "all"), group["lr"], group["weight_decay"])
        entry = merged.setdefault(
            key,
            dict(
                name=key[0],
                layer=group.get("layer_id"),
                lr=key[1],
                weight_decay=key[2],
                params=0,
                param_names=[],
            ),
        )
        trainable = [param for param in group["params"] if param.requires_grad]
        entry["params"] += sum(param.numel() for param in trainable)
        entry["param_names"] += [names[id(param)] for param in trainable]
    return [entry for entry in merged.values() if entry["param_names"]]


@contextlib.contextmanager
def _no_logs() -> Iterator[None]:
    """Silence mmengine, which logs several lines per parameter."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def run_length(cfg: Config, iters_per_epoch: int | None = None) -> tuple[int, int]:
    """Return (iterations of the run, iterations per epoch); a run by iteration has one epoch.

    Raises:
        ValueError: a recipe by epoch on data of unknown size.
    """
    if "max_iters" in cfg.train_cfg:
        return cfg.train_cfg.max_iters, cfg.train_cfg.max_iters
    if iters_per_epoch is None:
        dataset = cfg.get("train_dataloader", {}).get("dataset", {})
        if dataset.get("ann_file") != "annotations/instances_train2017.json":
            raise ArgumentError("the size of the training set is unknown; give the iterations per epoch")
        batch = cfg.get("auto_scale_lr", {}).get("base_batch_size", cfg.train_dataloader.batch_size)
        iters_per_epoch = math.ceil(COCO_TRAIN_IMAGES / batch)
    return cfg.train_cfg.max_epochs * iters_per_epoch, iters_per_epoch


def simulate(
    schedulers: Sequence[dict], base_rates: Sequence[float], max_iters: int, epoch_length: int
) -> np.ndarray:
    """Step mmengine's schedulers through a run.

    Args:
        schedulers: ``param_scheduler`` of a config.
        base_rates: learning rate of each group before the first scheduler.
        max_iters: iterations of the run.
        epoch_length: iterations per epoch.

    Returns:
        (max_iters, groups): the learning rate that each iteration trains with.
    """
    optimizer = torch.optim.SGD([dict(params=[torch.zeros(1)], lr=rate) for rate in base_rates])
    rates = np.empty((max_iters, len(base_rates)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `scheduler.step")  # nothing is trained
        built = [_build_scheduler(cfg, optimizer, max_iters, epoch_length) for cfg in schedulers]
        by_iter = [scheduler for scheduler in built if not scheduler.by_epoch]
        by_epoch = [scheduler for scheduler in built if scheduler.by_epoch]
        i = 0
        while i < max_iters:
            active = [scheduler for scheduler in by_iter if i < scheduler.end]
            # after the warm-up nothing changes before the end of the epoch
            stop = i + 1 if active else min((i // epoch_length + 1) * epoch_length, max_iters)
            rates[i:stop] = [group["lr"] for group in optimizer.param_groups]
            for scheduler in active:
                scheduler.step()
            if stop % epoch_length == 0:
                for scheduler in by_epoch:
                    scheduler.step()
            i = stop
    return rates


def _build_scheduler(
    cfg: dict, optimizer: torch.optim.Optimizer, max_iters: int, epoch_length: int
) -> object:
    """Build a scheduler as mmengine's runner does."""
    cfg = copy.deepcopy(dict(cfg))
    by_epoch = cfg.get("by_epoch", True)
    cfg.setdefault("end", max_iters // epoch_length if by_epoch else max_iters)
    defaults = dict(optimizer=optimizer, epoch_length=epoch_length)
    return PARAM_SCHEDULERS.build(cfg, default_args=defaults)


def summarise_names(names: Iterable[str]) -> str:
    """Summarise a group's parameters, such as ``downsample_layers.2, stages.2.0-2``.

    Args:
        names: full parameter names of one group.
    """
    parts: dict[str, set[int]] = {}
    for name in names:
        if match := re.match(r"backbone\.(stages\.\d+|blocks|downsample_layers)\.(\d+)\.", name):
            parts.setdefault(f"{match[1]}.", set()).add(int(match[2]))
        elif match := re.match(r"(backbone\.\w*?)(\d*)\.", name):
            numbers = parts.setdefault(match[1], set())
            if match[2]:
                numbers.add(int(match[2]))
        else:
            parts.setdefault(name.partition(".")[0], set())
    return ", ".join(stem + _range(numbers) for stem, numbers in parts.items())


def _range(numbers: set[int]) -> str:
    """{3, 4, 5} -> ``3-5``, {3} -> ``3``, {1, 4} -> ``1,4``, nothing -> nothing."""
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    if low == high:
        return str(low)
    return f"{low}-{high}" if len(numbers) == high - low + 1 else ",".join(map(str, sorted(numbers)))


def draw(plan: Plan, path: str | Path, title: str = "") -> None:
    """Write the curve of the learning rate of every distinct group to an image file."""
    from matplotlib.figure import Figure  # optional, as all that reports need

    from convnext_dense.reports.curves import draw_rates
    from convnext_dense.reports.style import save_figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="iteration", ylabel="learning rate", yscale="log", title=title)
    step = max(1, len(plan.rates) // 20_000)  # a picture shows no more
    # Groups that differ in weight decay alone lie on each other: one curve per layer.
    by_layer = {group.layer: i for i, group in enumerate(plan.groups)}
    steps, curves = np.arange(len(plan.rates))[::step], {}
    for layer, i in sorted(by_layer.items(), key=lambda item: item[0] or 0):
        label = plan.groups[i].name if layer is None else f"layer {layer}: {plan.groups[i].contents}"
        positive = np.where(plan.rates[::step, i] > 0, plan.rates[::step, i], np.nan)
        curves[label] = (steps, positive)
    draw_rates(axes, curves)
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    save_figure(figure, path, dpi=150)
