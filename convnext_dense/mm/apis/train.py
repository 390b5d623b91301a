"""From a config and the options of ``tools/train.py`` to a run that is ready to start."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from convnext_dense.errors import UserError
from convnext_dense.mm.config.boxes_only import drop_masks
from convnext_dense.mm.config.edit import (
    BatchRule,
    has_batch_norm,
    set_amp,
    set_batch,
    set_checkpoints,
    set_ema,
    set_pretrained,
)
from convnext_dense.mm.config.startup import check_evaluation, replace_missing_test
from convnext_dense.mm.datasets.annotation_cache import cache_folder
from convnext_dense.mm.datasets.custom_classes import set_own_data
from convnext_dense.mm.datasets.paths import SPLITS, check_data
from convnext_dense.mm.datasets.repair import tolerate_bad_data
from convnext_dense.mm.engine.checkpoint_io import newest_checkpoint, set_aside
from convnext_dense.mm.engine.checkpoints import read_position
from convnext_dense.mm.engine.hooks import FuseHook, LoaderHook
from convnext_dense.mm.engine.options import Options, one_of, option
from convnext_dense.mm.engine.partial_loads import check_new_heads
from convnext_dense.mm.engine.resume import check_length, seed_line
from convnext_dense.mm.engine.runner import compile_backbone, open_config
from convnext_dense.mm.mmcv_ext import ops_line
from convnext_dense.support.notes import Warned
from convnext_dense.support.system import crowded_line
from convnext_dense.toolboxes import faults, read_toolboxes, toolbox_line


@dataclass(frozen=True)
class TrainOptions(Options):
    """Options of training beside the shared ones."""

    resume: str | None = option(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="resume from a checkpoint; without PATH from the newest in the work folder",
    )
    amp: bool | None = option(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="mixed precision on or off (default: as the recipe has it)",
    )
    pretrained: str | None = option(
        "--pretrained", metavar="PATH|URL|none", help="backbone weights instead of the config's"
    )
    new_heads: bool = option(
        "--new-heads",
        default=False,
        action="store_true",
        help="start from the model of load_from without the layers that depend on its classes, and without "
        "heads that this model does not have",
    )
    boxes_only: bool = option(
        "--boxes-only",
        default=False,
        action="store_true",
        help="leave the mask head out, for annotations with boxes alone",
    )
    seed: int | None = option(
        "--seed", type=int, help="seed of the random numbers (default: a new one, or the resumed run's)"
    )
    batch: BatchRule = one_of(  # noqa: RUF009
        {
            "scale_lr": (
                "--scale-lr",
                "scale the learning rate to the batch that fits (default: accumulate the recipe's batch)",
            ),
            "as_is": ("--no-accumulate", "one batch per step at the recipe's learning rate"),
        },
        default="accumulate",
    )
    ema: float | None = option(
        "--ema",
        nargs="?",
        type=float,
        const=1e-4,
        metavar="MOMENTUM",
        help="average the weights; the average is evaluated and saved (momentum: 0.0001)",
    )
    keep: int | None = option("--keep", type=int, metavar="K", help="keep the last K regular checkpoints")
    save_best: str | None = option(
        "--save-best", metavar="METRIC", help="also keep the best checkpoint by e.g. mIoU or coco/bbox_mAP"
    )
    checkpoint_minutes: float = option(
        "--checkpoint-minutes",
        default=30,
        type=float,
        metavar="M",
        help="longest time without a checkpoint (default: 30; 0: only the config's)",
    )
    strict_data: bool = option(
        "--strict-data",
        default=False,
        action="store_true",
        help="stop at the first bad image or annotation (default: leave it out, count it and name it)",
    )
    cache: str | None = option(
        "--cache",
        metavar="DIR|none",
        help="folder for what was read of large annotation files (default: beside the work folder)",
    )
    fsdp: bool = option(
        "--fsdp",
        default=False,
        action="store_true",
        help="shard weights, gradients and optimizer over processes, for models that are too large otherwise",
    )


def training_config(
    source: str, options: TrainOptions, splits: tuple[str, ...] = SPLITS
) -> tuple[Config, list[str]]:
    """Return the config that the runner is built from, and lines for the user.

    Args:
        source: config path or recipe name.
        options: options of training.
        splits: splits whose files are checked; with none the evaluation is not checked, either.

    Raises:
        UserError, DatasetNotFoundError, CheckpointError: see :mod:`convnext_dense.mm.errors`.
    """
    cfg, notes = open_config(source, options, "train")
    if options.boxes_only:
        notes.append(drop_masks(cfg))
    notes.append(replace_missing_test(cfg))
    check_data(cfg, splits)
    notes += set_own_data(cfg, options.classes, splits, strict=options.strict_data)
    checkpoint, resume_notes = resume_point(cfg, options.resume)
    notes += resume_notes
    cfg.resume = checkpoint is not None
    if options.new_heads:
        check_new_heads(cfg, cfg.resume)
    seed = options.seed
    if checkpoint:
        cfg.load_from = str(checkpoint)
        set_pretrained(cfg, "none")  # the checkpoint replaces all weights, so none are downloaded
        meta = read_position(checkpoint) or {}
        notes.append(check_length(cfg.train_cfg, meta, checkpoint))
        notes.append(seed_line(seed, (cfg.get("randomness") or {}).get("seed"), meta.get("seed")))
        if seed is None:  # before the runner distributes the data with it
            seed = meta.get("seed")
    else:
        notes.append(set_pretrained(cfg, options.pretrained))
    if seed is not None:
        cfg.randomness = dict(cfg.get("randomness") or {}, seed=seed)
    notes.append(set_amp(cfg, options.amp, get_device()))
    notes += set_batch(cfg, dist.get_world_size(), options.batch)
    notes.append(set_ema(cfg, options.ema))
    set_checkpoints(cfg, options.keep, options.save_best, options.checkpoint_minutes)
    if splits:
        notes += check_evaluation(cfg)
    if options.fsdp:
        from convnext_dense.mm.engine.fsdp import set_fsdp  # needs a torch that is built with distributed

        notes.append(set_fsdp(cfg, dist.get_world_size(), options.compile))
    return cfg, [*run_summary(cfg, dist.get_world_size()), *filter(None, notes)]


def training_preflight(source: str, options: TrainOptions) -> bool:
    """Report what a run needs and what is wrong; return whether it can start. Nothing is written.

    Raises:
        UserError, CheckpointError: see :mod:`convnext_dense.mm.errors`.
    """
    from convnext_dense.mm.preflight.run import preflight  # a run does not need it

    cfg, notes = training_config(source, options, splits=())  # it checks all files, also after a fault
    if dist.is_main_process():
        print(*notes, sep="\n")
    return preflight(cfg, options.strict_data, options.compile, new_heads=options.new_heads)


def training_runner(source: str, options: TrainOptions) -> Runner:
    """Return a runner ready for ``train()``, after logging a summary of the run.

    Raises:
        UserError, DatasetNotFoundError, CheckpointError: see :mod:`convnext_dense.mm.errors`.
    """
    cfg, notes = training_config(source, options)
    earlier = None if cfg.resume or not dist.is_main_process() else set_aside(cfg)
    runner = RUNNERS.build(cfg)
    runner.new_heads = options.new_heads
    notes.extend(filter(None, [earlier]))
    cache = cache_folder(options.cache, cfg.work_dir)
    notes.append(tolerate_bad_data(runner, options.strict_data, cache))
    runner.register_hook(LoaderHook())
    runner.register_hook(FuseHook())  # for the evaluations in between
    if options.compile:
        notes.append(compile_backbone(runner.model))
    if cfg.train_cfg.get("accumulate", 1) > 1 and has_batch_norm(runner.model):
        notes.append(
            f"batch norm sees {cfg.train_dataloader.batch_size} images at a time, fewer than in the recipe: "
            "expect different statistics and slightly lower accuracy"
        )
    for line in notes:
        (runner.logger.warning if isinstance(line, Warned) else runner.logger.info)(line)
    return runner


def resume_point(cfg: Config, resume: str | None) -> tuple[Path | None, list[str]]:
    """Checkpoint to resume from and lines for the user; ``"auto"``: the newest complete one.

    Raises:
        UserError: the given file does not exist.
    """
    if resume is None:
        return None, []
    if resume != "auto":
        if not Path(resume).is_file():
            raise UserError(f"--resume: no checkpoint at {resume}")
        return Path(resume), [f"resuming from {resume}"]
    found = [newest_checkpoint(cfg.work_dir) if dist.is_main_process() else None]
    dist.broadcast_object_list(found)  # a file may come or go while another rank looks
    checkpoint, passed_over = found[0]
    if checkpoint is None:
        start = f"--resume: no checkpoint in {cfg.work_dir} yet, starting from the beginning"
    else:
        start = f"resuming from {checkpoint}"
    return checkpoint, [*(f"--resume: skipped a file: {line}" for line in passed_over), start]


def run_summary(cfg: Config, world_size: int) -> list[str]:
    """Recipe, batch, device and op backend, one line each."""
    per_batch, accumulate = cfg.train_dataloader.batch_size, cfg.train_cfg.get("accumulate", 1)
    processes = f"{world_size} process{'es' if world_size > 1 else ''} x {per_batch}"
    batches = f" x {accumulate} batches accumulated" if accumulate > 1 else ""
    lr = cfg.optim_wrapper.optimizer.get("lr")
    crowded = crowded_line() if get_device() == "cpu" else None
    threads = f", {torch.get_num_threads()} threads" if get_device() == "cpu" else ""
    images, boxes = per_batch * world_size * accumulate, read_toolboxes()
    return [
        f"recipe: {cfg.filename}",
        f"batch: {images} images per step ({processes}{batches}); learning rate {lr}",
        f"device: {get_device()}{threads}; RoIAlign and NMS: {ops_line(get_device())}",
        f"toolboxes: {toolbox_line(boxes)}",
        *(f"{wrong.text}; {wrong.remedy}" for wrong in faults(boxes)),
        *([crowded] if crowded else []),
    ]
