"""Edits of a config for the options of the commands.

Each function changes ``cfg`` in place and returns the line for the user, or ``None``.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from mmengine.config import Config, ConfigDict
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from convnext_dense.errors import UserError
from convnext_dense.mm.config.inner_model import inner_model
from convnext_dense.mm.type_names import is_pretrained, type_name
from convnext_dense.support.nested import mappings

BatchRule = Literal["accumulate", "scale_lr", "as_is"]
STEP_LOOPS = {"EpochBasedTrainLoop": "EpochStepLoop", "IterBasedTrainLoop": "IterStepLoop"}
"""mmengine's training loop -> ours, which counts optimizer steps."""
PARTS = ("ConvNeXtLastStage", "RFPConvNeXt")  # outside the backbone, with the same weights


def set_amp(cfg: Config, amp: bool | None, device: str) -> str | None:
    """Switch mixed precision on or off, or use the recipe's setting if the device supports it."""
    wrapper = cfg.optim_wrapper
    recipe = type_name(wrapper) == "AmpOptimWrapper"
    wanted = recipe if amp is None else amp
    possible = device not in ("cpu", "mps")
    if amp and not possible:
        raise UserError(f"--amp needs a GPU: mmengine's loss scaling does not run on {device}; leave it out")
    if wanted and possible:
        wrapper["type"] = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    else:
        wrapper["type"] = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fp64"):
            wrapper.pop(key, None)
    if recipe and not possible:
        return f"fp16 of the recipe is off: {device} trains in fp32"
    return None


def set_pretrained(cfg: Config, source: str | None) -> str | None:
    """Set the backbone weights: ``None`` keeps the config's, ``"none"`` means random, else a path or URL."""
    model = inner_model(cfg.model)  # of a tracker or a semi-supervised model, its detector
    if model is None:
        return None
    if source is None:
        named = is_pretrained(model["backbone"].get("init_cfg")) or model["backbone"].get("pretrained")
        if named or is_pretrained(model.get("init_cfg")) or model.get("pretrained") or cfg.get("load_from"):
            return None
        return "backbone starts from random weights: neither the config nor --pretrained names a file"
    model.pop("pretrained", None)  # spelling of older configs
    model["backbone"].pop("pretrained", None)
    for _, node in mappings(model):
        if node is model["backbone"] or type_name(node) in PARTS:
            node["init_cfg"] = None if source == "none" else dict(type="Pretrained", checkpoint=source)
    return "backbone starts from random weights" if source == "none" else None


def set_plain_batch_norm(cfg: Config, world_size: int, device: str) -> str | None:
    """Replace SyncBN by BN where it cannot run: one process, or no GPU."""
    if world_size > 1 and device == "cuda":
        return None
    count = 0
    for _, node in mappings(cfg.model):
        if type_name(node) in ("SyncBN", "MMSyncBN"):
            node["type"] = "BN"
            count += 1
    reason = "one process" if world_size == 1 else device
    return f"SyncBN runs as BN ({reason}; {count} norm configs)" if count else None


def set_batch(cfg: Config, world_size: int, rule: BatchRule = "accumulate") -> list[str]:
    """Match the step to the recipe's batch, or the learning rate to the step, and count the run in steps.

    Args:
        cfg: changed in place; ``auto_scale_lr.base_batch_size`` is the recipe's batch.
        world_size: processes, each with ``train_dataloader.batch_size`` images at a time.
        rule: ``accumulate`` adds up the gradients of the number of batches nearest to the recipe's,
            ``scale_lr`` scales the learning rate with the batch, ``as_is`` does neither.

    Returns:
        lines for the user.

    Raises:
        UserError: an unknown rule, or one that needs a base batch size that the config lacks.
    """
    if rule not in get_args(BatchRule):
        raise UserError(f"batch rule {rule!r}; use one of {get_args(BatchRule)}")
    auto = cfg.get("auto_scale_lr") or {}
    recipe, per_batch = auto.get("base_batch_size"), cfg.train_dataloader.batch_size * world_size
    scaled = rule == "scale_lr" or auto.get("enable", False)
    if scaled and not recipe:
        raise UserError("--scale-lr needs auto_scale_lr.base_batch_size in the config: the batch of the rate")
    own = cfg.optim_wrapper.get("accumulative_counts", 1) > 1  # the config itself counts batches
    accumulate = batches_of_step(recipe, per_batch) if rule == "accumulate" and not scaled and not own else 1
    loop = type_name(cfg.train_cfg) or (
        "EpochBasedTrainLoop" if cfg.train_cfg.get("by_epoch") else "IterBasedTrainLoop"
    )
    if loop in STEP_LOOPS.values():  # a config from a work folder
        loop = next(known for known, ours in STEP_LOOPS.items() if ours == loop)
    if loop not in STEP_LOOPS:
        return [f"{loop} is not one of {', '.join(STEP_LOOPS)}: no accumulation, no resume inside an epoch"]
    cfg.train_cfg.pop("by_epoch", None)
    cfg.train_cfg.update(type=STEP_LOOPS[loop], accumulate=accumulate)
    if scaled:
        cfg.auto_scale_lr = ConfigDict(auto, enable=True)
        return [f"learning rate x {per_batch / recipe:g}: {per_batch} images per step, recipe: {recipe}"]
    images = per_batch * accumulate
    if recipe and images != recipe:
        return [f"the recipe's learning rate belongs to {recipe} images, a step has {images}; see --scale-lr"]
    if accumulate > 1:
        return [f"gradients of {accumulate} batches make the recipe's {recipe} images (--no-accumulate: one)"]
    return []


def batches_of_step(recipe: int | None, per_batch: int) -> int:
    """Number of batches of ``per_batch`` images nearest to the recipe's batch; 1 if it states none."""
    return max(1, round(recipe / per_batch)) if recipe else 1


def has_batch_norm(model: nn.Module) -> bool:
    """Whether training uses batch statistics; frozen norms do not."""
    mode = model.training
    found = any(isinstance(m, _BatchNorm) and m.training for m in model.train().modules())
    model.train(mode)
    return found


def set_ema(cfg: Config, momentum: float | None) -> str | None:
    """Average the weights over the steps; the average is evaluated, and is a checkpoint's ``state_dict``."""
    if momentum is None:
        return None
    if not 0 < momentum < 1:
        raise UserError(f"--ema {momentum}: a number between 0 and 1; 0.0001 averages about 10,000 steps")
    hooks = [hook for hook in cfg.get("custom_hooks") or [] if type_name(hook) != "EMAHook"]
    cfg["custom_hooks"] = [*hooks, ConfigDict(type="EMAHook", momentum=momentum)]
    return f"weights averaged with momentum {momentum:g}; the average is evaluated and saved"


def set_checkpoints(cfg: Config, keep: int | None, best: str | None, minutes: float) -> None:
    """Write checkpoints with :class:`convnext_dense.mm.engine.hooks.CheckpointKeeper`.

    Args:
        cfg: changed in place.
        keep: regular checkpoints to keep; ``None`` for the config's setting.
        best: metric whose best checkpoint is also kept; ``None`` for the config's setting.
        minutes: longest time without a checkpoint, 0 for no limit.

    Raises:
        UserError: nothing would be kept.
    """
    if keep is not None and keep < 1:
        raise UserError(f"--keep {keep}: at least one checkpoint must be kept")
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    hook = hooks.get("checkpoint") or ConfigDict(type="CheckpointHook", interval=1)
    if type_name(hook) not in ("CheckpointHook", "CheckpointKeeper"):
        return
    hook.update(type="CheckpointKeeper", minutes=minutes)
    if keep is not None:
        hook["max_keep_ckpts"] = keep
    if best is not None:
        hook["save_best"] = best
    hooks["checkpoint"] = hook


LOGS = {"wandb": ("WandbVisBackend", "wandb"), "mlflow": ("MLflowVisBackend", "mlflow")}
"""Choice of ``--log`` -> mmengine's backend and the package that it needs."""


def set_backends(cfg: Config, log: str | None = None) -> None:
    """Write TensorBoard files beside the JSON log, and the learning rate of every group to both.

    Args:
        cfg: changed in place; mmengine's own backends stay.
        log: one of :data:`LOGS`, an additional log.

    Raises:
        UserError: an unknown ``log``, or its package is not installed.
    """
    wanted = {"LocalVisBackend": {}, "TensorboardVisBackend": {}}
    if log is not None:
        if log not in LOGS:
            raise UserError(f"--log {log}: use one of {', '.join(LOGS)}; TensorBoard is always written")
        backend, package = LOGS[log]
        if find_spec(package) is None:
            raise UserError(f"--log {log} needs a package that is not installed: pip install {package}")
        wanted[backend] = _mlflow_place(cfg) if log == "mlflow" else {}
    # assigned, because setdefault of a Config returns a copy
    visualizer = cfg.get("visualizer") or ConfigDict(type="Visualizer")
    backends = list(visualizer.get("vis_backends") or [])
    present = {type_name(backend) for backend in backends}
    backends += [ConfigDict(type=kind, **options) for kind, options in wanted.items() if kind not in present]
    cfg["visualizer"] = ConfigDict(visualizer, vis_backends=backends)
    hooks = list(cfg.get("custom_hooks") or [])
    if not any(type_name(hook) == "GroupRatesHook" for hook in hooks):
        cfg["custom_hooks"] = [*hooks, ConfigDict(type="GroupRatesHook")]


def _mlflow_place(cfg: Config) -> dict[str, str]:
    """The server that ``MLFLOW_TRACKING_URI`` names, else a database in the work folder.

    mmengine's own choice, a folder of files, is refused by MLflow 3.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return dict(tracking_uri=uri)
    folder = Path(cfg.get("work_dir") or ".").resolve()
    # a separate experiment: the default one would keep its files in the current folder
    place = dict(exp_name=folder.name, artifact_location=(folder / "mlflow").as_uri())
    return dict(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", **place)
