"""Loads that leave parts of a model as they are, and say so: new heads, `load_strict=False`, `Pretrained`."""

from collections.abc import Iterable, Mapping

from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from convnext_dense.checkpoints.load import part_of
from convnext_dense.errors import CheckpointError, UserError
from convnext_dense.mm.engine.checkpoints import in_head
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.mm.type_names import is_pretrained
from convnext_dense.support.nested import mappings


class NewHeads:
    """What ``--new-heads`` takes of a checkpoint: all but the layers of heads that depend on the classes.

    Args:
        cfg: config of the model.

    Attributes:
        anew: names of tensors that keep the model's initial values.
        unused: names of tensors of heads that the model does not have.
        total: number of the model's tensors.
    """

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.anew: set[str] = set()
        self.unused: set[str] = set()
        self.total = 0

    def __call__(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The checkpoint's tensors, with the model's own where a layer starts anew.

        Args:
            own: tensors of the model.
            state: tensors of the checkpoint.
        """
        self.total = len(own)
        depends = class_tensors(self.cfg, own)
        other = {key for key in own if key in state and state[key].shape != own[key].shape and in_head(key)}
        self.anew = {key for key in depends | other if key in own}
        self.unused = {key for key in state if key not in own and in_head(key)}
        kept = {key: value for key, value in state.items() if key not in self.unused}
        return {**kept, **{key: own[key] for key in self.anew}}

    def line(self, source: object) -> str:
        """The line to log after the load."""
        kept = self.total - len(self.anew)
        unused = f"; not used: {_layers(self.unused)}" if self.unused else ""
        anew = _layers(self.anew)
        return f"{kept}/{self.total} tensors from {source}; start anew (--new-heads): {anew}{unused}"


def _layers(keys: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(key.rpartition(".")[0] for key in sorted(keys)))


def class_tensors(cfg: Config, own: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors of ``cfg.model`` whose shape changes with the number of classes."""
    model = cfg.model.to_dict()
    for _, node in mappings(model):
        if isinstance(node.get("num_classes"), int):
            node["num_classes"] += 1
    try:
        other = build_on_meta(Config(dict(model=model, default_scope=cfg.get("default_scope")))).state_dict()
    except Exception:  # some model cannot be built with one class more; shapes still tell most of them
        return set()
    return {key for key in own if key in other and other[key].shape != own[key].shape}


def check_new_heads(cfg: Config, resumes: bool) -> None:
    """Check that there is a checkpoint whose heads can be replaced.

    Raises:
        UserError: none, or a run that is resumed.
    """
    if resumes:
        raise UserError("--new-heads starts a new run from a checkpoint; leave it out with --resume")
    if not cfg.get("load_from"):
        raise UserError("--new-heads needs a whole model to start from: --cfg-options load_from=CHECKPOINT")


def loaded_as_far_as_it_fits(model: nn.Module, checkpoint: Mapping, source: object) -> str:
    """The line about a load with ``load_strict = False``.

    Raises:
        CheckpointError: nothing fits.
    """
    state = checkpoint.get("state_dict", checkpoint)
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    return f"load_strict = False: {_fitting(model, state, source, 'the model')}"


def check_pretrained(model: nn.Module) -> list[str]:
    """Compare the files of ``Pretrained`` with the modules that mmengine will load them into.

    mmengine loads what fits and goes on. Modules with an initialisation of their own are left out: they may
    rename tensors.

    Returns:
        a line per module.

    Raises:
        CheckpointError: a file of which nothing fits.
    """
    lines = []
    for name, module in model.named_modules():
        if getattr(type(module), "init_weights", None) is not BaseModule.init_weights:
            continue
        for _, entry in mappings(getattr(module, "init_cfg", None), keys=()):
            if is_pretrained(entry) and entry.get("checkpoint"):
                lines.append(_compare(name or "model", module, entry))
    return lines


def _compare(name: str, module: nn.Module, entry: Mapping) -> str:
    source, prefix = entry["checkpoint"], entry.get("prefix")
    checkpoint = CheckpointLoader.load_checkpoint(source, map_location="cpu")
    state = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    state = {key.removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    if prefix:
        state = part_of(state, prefix, source)
    return f"{name}: {_fitting(module, state, source, name)}"


def _fitting(model: nn.Module, state: Mapping[str, Tensor], source: object, what: str) -> str:
    own = model.state_dict()
    fits = [key for key in own if key in state and state[key].shape == own[key].shape]
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    if not fits:
        raise CheckpointError(
            f"{source}: none of its {len(state)} tensors fits {what}, which would start from random weights; "
            f"first {next(iter(state), None)!r} there, {next(iter(own), None)!r} here"
        )
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    rest = [
        f"{len(keys)} {label}, first {keys[0]}"
        for label, keys in (("of another shape", misshapen), ("not in the file", missing))
        if keys
    ]
    return f"{len(fits)}/{len(own)} tensors from {source}" + (f" ({'; '.join(rest)})" if rest else "")
