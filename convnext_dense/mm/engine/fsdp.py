"""Models whose parameters, gradients and optimizer state are sharded over the processes (FSDP2).

The plain model and its optimizer are initialised, or resumed, exactly as in one process. Then torch's
``fully_shard`` shards the model in place: one unit per ConvNeXt block, and one with the rest. Parameters keep
their names and their groups. Checkpoints are the same as those of one process.
"""

import copy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from convnext_dense.errors import UserError
from convnext_dense.mm.engine.runner import DenseRunner
from convnext_dense.mm.type_names import type_name
from convnext_dense.models.convnext import Block


def set_fsdp(cfg: Config, world_size: int, compiled: bool = False) -> str:
    """Shard the model over the processes and return the line for the user.

    Args:
        cfg: changed in place, after the settings of precision and averaging.
        world_size: processes of the run.
        compiled: whether the backbone is to be compiled.

    Raises:
        UserError: one process, or a setting that does not work with sharding.
    """
    if world_size < 2:
        raise UserError(
            "--fsdp shards a model over processes: start with "
            "`torchrun --nproc_per_node=N tools/train.py ... --launcher pytorch`"
        )
    if get_device() == "cpu" and torch.__version__ < (2, 13):  # pytorch/pytorch#162338
        raise UserError("--fsdp on a CPU needs torch 2.13: older ones may add up gradients, not average them")
    if compiled:
        raise UserError("--fsdp and --compile cannot be combined: leave one out")
    if any(type_name(hook) == "EMAHook" for hook in cfg.get("custom_hooks") or []):
        raise UserError("--fsdp keeps no average of the weights: leave out --ema (EMAHook)")
    cfg.runner_type = "ShardedRunner"
    cfg.pop("model_wrapper_cfg", None)
    return f"parameters, gradients and optimizer state are sharded over {world_size} processes"


@RUNNERS.register_module()
class ShardedRunner(DenseRunner):
    """Runner whose model is sharded after its weights, and a resumed optimizer, are loaded.

    Evaluations run on a whole copy: the ranks' images take different numbers of windows, and ranks with a
    sharded model must all run it equally often.

    Attributes:
        sharded: the model that is trained.
        whole: the copy for evaluations, kept on the CPU between them.
        gathered: whole tensors for the checkpoint that is being written.
    """

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Return the plain model on the CPU: :func:`shard` moves it to the device, unit by unit."""
        return model

    def load_or_resume(self) -> None:
        """Load the plain model and its optimizer as in one process; then shard both."""
        super().load_or_resume()
        self.whole = copy.deepcopy(self.model).requires_grad_(False)
        self.sharded = self.model
        shard(self.sharded, self.optim_wrapper.optimizer, self.world_size)
        if getattr(self.optim_wrapper, "clip_func", None) is clip_grad_norm_:
            self.optim_wrapper.clip_func = clip_whole_norm
        self.register_hook(WholeModelHook())
        own = sum(param.to_local().numel() for param in self.sharded.parameters())
        total = sum(param.numel() for param in self.whole.parameters())
        self.logger.info(f"sharded: {own / 1e6:.1f} of {total / 1e6:.1f} M parameters on this process")

    def save_checkpoint(self, *args: Any, save_optimizer: bool = True, **kwargs: Any) -> None:
        """Write one file, on the first rank, that one process can also resume; all ranks must call this."""
        states = {"state_dict": self.sharded.state_dict()}
        if save_optimizer:
            states["optimizer"] = self.optim_wrapper.optimizer.state_dict()
        self.gathered = gather(states, keep=self.rank == 0)
        super().save_checkpoint(*args, save_optimizer=save_optimizer, **kwargs)
        self.gathered = {}


class WholeModelHook(Hook):
    """Evaluate the whole copy, and write whole tensors to checkpoints."""

    priority = "BELOW_NORMAL"  # after hooks that change the model for it, before the checkpoint of the best

    def before_val(self, runner: ShardedRunner) -> None:
        """Replace the sharded model by the copy, with the current weights."""
        runner.model = runner.whole.to(get_device())
        copies = runner.whole.state_dict()
        for name, tensor in runner.sharded.state_dict().items():
            copies[name].copy_(full(tensor))

    def after_val_epoch(self, runner: ShardedRunner, metrics: dict | None = None) -> None:
        """Restore the sharded model and free the copy's device memory."""
        runner.model = runner.sharded
        runner.whole.to("cpu")

    def after_interrupted_val(self, runner: ShardedRunner) -> None:
        """Do the same as after a finished evaluation."""
        self.after_val_epoch(runner)

    def before_save_checkpoint(self, runner: ShardedRunner, checkpoint: dict) -> None:
        """Put whole tensors in place of the first rank's pieces."""
        for part, state in runner.gathered.items():
            checkpoint[part].update(state)


def shard(model: nn.Module, optimizer: Optimizer, world_size: int) -> None:
    """Shard the model, and its optimizer with the state that a resume loaded, in place."""
    mesh = init_device_mesh(get_device(), (world_size,))
    # torch's caches keep the mesh; in torch 2.13 it keeps the group, whose threads must end with the run
    getattr(mesh, "_pg_registry", {}).clear()
    plain, state = dict(model.named_parameters()), optimizer.state_dict()
    model.data_preprocessor.to(get_device())  # it remembers its device
    for module in model.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    sharded = {plain[name]: param for name, param in model.named_parameters()}
    for group in optimizer.param_groups:
        group["params"] = [sharded[param] for param in group["params"]]
    pieces = apply_to(
        state,
        lambda value: isinstance(value, Tensor) and value.dim() > 0,  # counts of steps stay whole
        lambda tensor: distribute_tensor(tensor, mesh, [Shard(0)]),
    )
    optimizer.load_state_dict(pieces)


def full(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that may be sharded; all ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(state: dict, keep: bool) -> dict:
    """Return ``state`` with whole tensors on the CPU; all ranks must call this, also those that keep none."""

    def whole(tensor: DTensor) -> Tensor | None:
        gathered = tensor.full_tensor()
        return gathered.cpu() if keep else None

    return apply_to(state, lambda value: isinstance(value, DTensor), whole)


def clip_whole_norm(
    params: list[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Clip as torch's ``clip_grad_norm_`` does, and return the norm over all ranks as a plain tensor."""
    norm = full(get_total_norm([param.grad for param in params], norm_type, error_if_nonfinite, foreach))
    clip_grads_with_norm_(params, max_norm, norm, foreach)
    return norm
