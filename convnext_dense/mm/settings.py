"""Edits of a config that the command lines make, each in one respect.

Each function changes ``cfg`` in place and returns the line to tell the user, or ``None``.
"""

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


def set_backends(cfg: Config) -> None:
    """TensorBoard files beside the JSON log; mmengine's own backends stay."""
    backends = cfg.setdefault("visualizer", ConfigDict(type="Visualizer")).setdefault("vis_backends", [])
    if not any(backend["type"] == "LocalVisBackend" for backend in backends):
        backends.append(ConfigDict(type="LocalVisBackend"))
    if not any(backend["type"] == "TensorboardVisBackend" for backend in backends):
        backends.append(ConfigDict(type="TensorboardVisBackend"))
