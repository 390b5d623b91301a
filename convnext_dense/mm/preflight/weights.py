"""A model with the weights that a run will start from, on its device, and the size of a checkpoint."""

import contextlib
import logging
import os
from collections.abc import Iterator

from mmengine import dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, nn

from convnext_dense.mm.engine.checkpoints import read_checkpoint, read_weights, whole_model_state
from convnext_dense.mm.engine.partial_loads import NewHeads, check_pretrained, loaded_as_far_as_it_fits
from convnext_dense.mm.type_names import is_pretrained
from convnext_dense.support.nested import mappings


def load(model: nn.Module, cfg: Config, new_heads: bool = False) -> tuple[str, int]:
    """Load as the run will; return what was loaded from where, and the steps already done.

    Args:
        model: gets the weights.
        cfg: config of the run.
        new_heads: ``--new-heads``.

    Raises:
        CheckpointError: a file that is missing, damaged or of another model.
    """
    with _lines_of_core() as lines:
        lines += check_pretrained(model)
        model.init_weights()
    source = cfg.get("load_from")
    if source and cfg.get("load_strict", True):
        checkpoint = (read_checkpoint if cfg.get("resume") else read_weights)(source)
        heads = NewHeads(cfg) if new_heads else None
        state = whole_model_state(model, checkpoint["state_dict"], source, heads)
        model.load_state_dict(state)
        loaded = f"whole model: {len(state)}/{len(model.state_dict())} tensors from {source}"
        loaded = heads.line(source) if heads else loaded
        steps = checkpoint["meta"].get("iter", 0) if cfg.get("resume") else 0
        return (f"{loaded}, after step {steps:,}" if steps else loaded), steps
    if source:
        return loaded_as_far_as_it_fits(model, read_checkpoint(source), source), 0
    named = _pretrained(model)
    if lines:
        return f"{'; '.join(lines)}, {named}", 0
    if named:
        return f"{named}, by the toolbox's own loading, which does not count tensors", 0
    return "random: neither the config nor --pretrained names a file", 0


@contextlib.contextmanager
def _lines_of_core() -> Iterator[list[str]]:
    """Collect what the exact loader logs, one line per file."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener = Listener(logging.INFO)
    logger = logging.getLogger("convnext_dense")
    logger.addHandler(listener)
    try:
        yield lines
    finally:
        logger.removeHandler(listener)


def _pretrained(model: nn.Module) -> str:
    """The file that the backbone, or the whole model, is initialised from; empty for none."""
    for part in (getattr(model, "backbone", None), model):
        for _, entry in mappings(getattr(part, "init_cfg", None), keys=()):
            if is_pretrained(entry):
                return str(entry["checkpoint"])
    return ""


def wrap(model: nn.Module, cfg: Config) -> nn.Module:
    """Move ``model`` to its device and wrap it for several processes, as mmengine's runner does."""
    model = model.to(get_device())
    if not dist.is_distributed():
        return model
    wrapper = dict(
        cfg.get("model_wrapper_cfg")
        or dict(
            type="MMDistributedDataParallel",
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
    )
    return MODEL_WRAPPERS.build(
        wrapper, default_args=dict(module=model, device_ids=[int(os.environ["LOCAL_RANK"])])
    )


def checkpoint_bytes(model: nn.Module, optim_wrapper: OptimWrapper | None = None) -> int:
    """Bytes of the tensors in a checkpoint; the optimizer has tensors only after a step."""
    state = optim_wrapper.optimizer.state if optim_wrapper else {}
    tensors = [*model.state_dict().values()]
    tensors += [value for values in state.values() for value in values.values() if isinstance(value, Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
