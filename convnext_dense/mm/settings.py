"""Edits of a config that the command lines make, each in one respect.

Each function changes ``cfg`` in place and returns the line to tell the user, or ``None``.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, ConfigDict

from convnext_dense.mm.errors import UserError


def set_amp(cfg: Config, amp: bool | None, device: str) -> str | None:
    """Mixed precision on, off, or as the recipe has it where the device can."""
    wrapper = cfg.optim_wrapper
    recipe = wrapper.get("type", "OptimWrapper") == "AmpOptimWrapper"
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
    """Backbone weights: ``None`` leaves the config's, ``"none"`` means random, else a path or URL."""
    backbone = cfg.model.get("backbone")
    if source is None or backbone is None:
        return None
    for owner in (cfg.model, backbone):
        owner.pop("pretrained", None)  # spelling of older configs
    backbone["init_cfg"] = None if source == "none" else dict(type="Pretrained", checkpoint=source)
    return "backbone starts from random weights" if source == "none" else None


def set_plain_batch_norm(cfg: Config, world_size: int, device: str) -> str | None:
    """SyncBN -> BN where it cannot run: one process, or no GPU."""
    if world_size > 1 and device == "cuda":
        return None
    count = _rename_norms(cfg.model)
    reason = "one process" if world_size == 1 else device
    return f"SyncBN runs as BN ({reason}; {count} norm configs)" if count else None


def _rename_norms(node: object) -> int:
    """Change every ``type='SyncBN'`` below ``node``; the number of changes."""
    if isinstance(node, dict):
        found = node.get("type") == "SyncBN"
        if found:
            node["type"] = "BN"
        return found + sum(_rename_norms(value) for value in node.values())
    return sum(_rename_norms(value) for value in node) if isinstance(node, list | tuple) else 0


LOGS = {"wandb": ("WandbVisBackend", "wandb"), "mlflow": ("MLflowVisBackend", "mlflow")}
"""Choice of ``--log`` -> mmengine's backend and the package that it needs."""


def set_backends(cfg: Config, log: str | None = None) -> None:
    """TensorBoard files beside the JSON log, and the learning rate of every group in both.

    Args:
        cfg: changed in place; mmengine's own backends stay.
        log: one of :data:`LOGS`, to write there, too.

    Raises:
        UserError: another ``log``, or its package is not installed.
    """
    wanted = {"LocalVisBackend": {}, "TensorboardVisBackend": {}}
    if log is not None:
        if log not in LOGS:
            raise UserError(f"--log {log}: use one of {', '.join(LOGS)}; TensorBoard is always written")
        backend, package = LOGS[log]
        if find_spec(package) is None:
            raise UserError(f"--log {log} needs a package that is not installed: pip install {package}")
        wanted[backend] = _mlflow_place(cfg) if log == "mlflow" else {}
    # assigned, because what setdefault returns of a Config is a copy
    visualizer = cfg.get("visualizer") or ConfigDict(type="Visualizer")
    backends = list(visualizer.get("vis_backends") or [])
    present = {backend["type"] for backend in backends}
    backends += [ConfigDict(type=kind, **options) for kind, options in wanted.items() if kind not in present]
    cfg["visualizer"] = ConfigDict(visualizer, vis_backends=backends)
    hooks = list(cfg.get("custom_hooks") or [])
    if not any(hook["type"] == "GroupRatesHook" for hook in hooks):
        cfg["custom_hooks"] = [*hooks, ConfigDict(type="GroupRatesHook")]


def _mlflow_place(cfg: Config) -> dict[str, str]:
    """The server that ``MLFLOW_TRACKING_URI`` names, else a database in the work folder.

    mmengine's own choice, a folder of files, is refused by MLflow 3.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return dict(tracking_uri=uri)
    folder = Path(cfg.get("work_dir") or ".").resolve()
    # an experiment of its own: that of the default name would keep its files in the current folder
    place = dict(exp_name=folder.name, artifact_location=(folder / "mlflow").as_uri())
    return dict(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", **place)
