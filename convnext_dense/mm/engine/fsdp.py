"""Models whose parameters, gradients and optimizer state are sharded over the processes (FSDP).

mmengine's ``FSDPStrategy`` does the sharding, with one unit per ConvNeXt block. mmengine's own runner builds
the optimizer after sharding, when parameters are flat pieces with other names: layer-wise decay would treat
every weight as a bias. Here the plain model and its optimizer are initialised, or resumed, exactly as in one
process, and then both are sharded in place. Checkpoints are the same as those of one process.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from mmengine._strategy.fsdp import FSDPStrategy
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS, STRATEGIES
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from convnext_dense.errors import UserError
from convnext_dense.mm.engine.runner import DenseRunner
from convnext_dense.models.convnext import Block, resolve_with_cp

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


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
    if compiled:
        raise UserError("--fsdp and --compile cannot be combined: leave one out")
    if any(hook["type"] == "EMAHook" for hook in cfg.get("custom_hooks") or []):
        raise UserError("--fsdp keeps no average of the weights: leave out --ema (EMAHook)")
    cfg.runner_type = "ShardedRunner"
    cfg.pop("model_wrapper_cfg", None)
    if cfg.optim_wrapper.get("type") == "AmpOptimWrapper":
        cfg.optim_wrapper["use_fsdp"] = True  # its scaler agrees with the other ranks on overflows
    return f"parameters, gradients and optimizer state are sharded over {world_size} processes"


@RUNNERS.register_module()
class ShardedRunner(DenseRunner):
    """Runner whose model FSDP shards after its weights, and a resumed optimizer, are loaded.

    Evaluations run on a whole copy: the ranks' images take different numbers of windows, and ranks with a
    sharded model must all run it equally often.

    Attributes:
        strategy: the sharding strategy, set when training begins.
        groups: names of the parameters in each of the optimizer's groups.
        whole: the copy for evaluations, kept on the CPU between them.
    """

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Return the plain model on the CPU: :meth:`shard` moves it to the device, unit by unit."""
        return model

    def load_or_resume(self) -> None:
        """Load the plain model and its optimizer as in one process; then shard both."""
        super().load_or_resume()
        self.shard()

    def shard(self) -> None:
        """Shard the model, and its optimizer's state in place."""
        optimizer = self.optim_wrapper.optimizer
        names = {id(param): name for name, param in self.model.named_parameters()}
        self.groups = [[names[id(param)] for param in group["params"]] for group in optimizer.param_groups]
        state = {names[id(param)]: dict(values) for param, values in optimizer.state.items()}
        self.whole = copy.deepcopy(self.model).requires_grad_(False)
        self.strategy = BlockStrategy(self)
        self.model = self.strategy.shard(self.model)
        pieces = {plain_name(name): param for name, param in self.model.named_parameters()}
        for group, members in zip(optimizer.param_groups, self.groups, strict=True):
            group["params"] = [pieces[name] for name in members]
        optimizer.state.clear()
        if state:
            self.strategy.load_optim_state_dict(
                with_names({**optimizer.state_dict(), "state": state}, self.groups)
            )
        if getattr(self.optim_wrapper, "clip_func", None) is torch.nn.utils.clip_grad_norm_:
            self.optim_wrapper.clip_func = self.clip_whole_norm
        self.register_hook(WholeModelHook())
        own, total = (sum(p.numel() for p in model.parameters()) for model in (self.model, self.whole))
        self.logger.info(f"sharded: {own / 1e6:.1f} of {total / 1e6:.1f} M parameters on this process")

    def clip_whole_norm(
        self, params: list[Tensor], max_norm: float, norm_type: float = 2.0, **_: Any
    ) -> Tensor:
        """Clip by the norm over all ranks; torch's ``clip_grad_norm_`` uses only this rank's pieces."""
        return self.strategy.model.clip_grad_norm_(max_norm, norm_type)

    def save_checkpoint(self, *args: Any, save_optimizer: bool = True, **kwargs: Any) -> None:
        """Write one file, on the first rank, that one process can also resume; all ranks must call this."""
        weights = self.strategy.model_state_dict()
        for name in weights:  # without FSDP's mark, with which torch would also save a class of FSDP
            weights[name] = weights[name].detach()
        optimizer = self.optim_wrapper.optimizer
        state = self.strategy.optim_state_dict() if save_optimizer else {}
        if self.rank == 0 and state:
            state = with_numbers(state, self.groups)
        with answering(self.strategy.model.module, weights), answering(optimizer, state):
            super().save_checkpoint(*args, save_optimizer=save_optimizer, **kwargs)

    @torch.no_grad()
    def gather(self) -> nn.Module:
        """Return the copy for evaluations, on the device, with the current weights."""
        self.whole.to(get_device())
        with FSDP.summon_full_params(self.strategy.model, writeback=False):
            for kind in ("named_parameters", "named_buffers"):
                own = dict(getattr(self.whole, kind)())
                for name, tensor in getattr(self.strategy.model, kind)():
                    own[plain_name(name)].copy_(tensor)
        return self.whole


class WholeModelHook(Hook):
    """Replace the sharded model by the whole copy during an evaluation."""

    priority = "BELOW_NORMAL"  # after hooks that change the model for it, before the checkpoint of the best

    def before_val(self, runner: ShardedRunner) -> None:
        """Evaluate the copy."""
        runner.model = runner.gather()

    def after_val_epoch(self, runner: ShardedRunner, metrics: dict | None = None) -> None:
        """Restore the sharded model and free the copy's device memory."""
        runner.whole.to("cpu")
        runner.model = runner.strategy.model

    def after_interrupted_val(self, runner: ShardedRunner) -> None:
        """Do the same as after a finished evaluation."""
        self.after_val_epoch(runner)


# ---- mmengine's strategy


@STRATEGIES.register_module()
class BlockStrategy(FSDPStrategy):
    """mmengine's strategy for use inside a runner, with the runner's environment and log.

    ``with_cp`` of the backbone becomes the strategy's activation checkpointing, because the gathered
    weights of a block must be available when it is recomputed.

    Args:
        runner: the runner, with its plain model.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        recomputed = blocks_to_recompute(runner.model)
        device = get_device()
        place = f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device
        super().__init__(
            work_dir=runner.work_dir,
            model_wrapper=dict(
                type="MMFullyShardedDataParallel",
                auto_wrap_policy=ModuleWrapPolicy({Block}),
                device_id=torch.device(place),
                use_orig_params=True,  # each parameter keeps its group
            ),
            # like mmengine's "full", which on a CPU would free the weights that it has just gathered
            state_dict_cfg=dict(
                state_dict_type=StateDictType.FULL_STATE_DICT,
                state_dict_config=FullStateDictConfig(offload_to_cpu=device != "cpu", rank0_only=True),
                optim_state_dict_config=FullOptimStateDictConfig(
                    offload_to_cpu=device != "cpu", rank0_only=True
                ),
            ),
            activation_checkpointing=(
                dict(check_fn=lambda module: module in recomputed) if recomputed else None
            ),
        )

    def _setup_env(self, **_: Any) -> None:
        """Do nothing: the runner has set up and seeded its processes."""
        self._timestamp = self.runner.timestamp

    def build_logger(self, **_: Any):
        """Return the runner's logger: mmengine's would open another file and make it the current log."""
        return self.runner.logger

    def shard(self, model: nn.Module) -> nn.Module:
        """Wrap the plain model."""
        if self.activation_checkpointing is not None:
            model.backbone.with_cp = False
        with warnings.catch_warnings():
            # about the old way in which mmengine sets the kind of state dict
            warnings.filterwarnings("ignore", message="FSDP.state_dict_type", category=FutureWarning)
            self.model = self._wrap_model(model)
        self.optim_wrapper = self.runner.optim_wrapper
        return self.model

    def optim_state_dict(self) -> dict:
        """The whole optimizer's state by parameter name, on the first rank; empty on the others."""
        return FSDP.optim_state_dict(self.model, self.optim_wrapper.optimizer)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load this rank's piece of a whole optimizer's state by parameter name.

        mmengine passes the arguments in the order of torch 2.0, which changed with 2.1.
        """
        optimizer = self.optim_wrapper.optimizer
        own = FSDP.optim_state_dict_to_load(model=self.model, optim=optimizer, optim_state_dict=state_dict)
        optimizer.load_state_dict(own)


def blocks_to_recompute(model: nn.Module) -> set[nn.Module]:
    """The blocks of the stages that the backbone's ``with_cp`` names."""
    backbone = model.backbone
    with_cp = getattr(backbone, "with_cp", False)
    stages = getattr(backbone, "stages", [backbone])  # an isotropic backbone has no stages
    return {
        module
        for i in resolve_with_cp(with_cp, len(stages))
        for module in stages[i].modules()
        if isinstance(module, Block)
    }


# ---- names and numbers of an optimizer's state


def plain_name(name: str) -> str:
    """``backbone.stages.0._fsdp_wrapped_module.0.weight`` -> ``backbone.stages.0.0.weight``."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def with_names(state_dict: dict, groups: list[list[str]]) -> dict:
    """Return an optimizer's state, already by name, with the members of its groups by name as well."""
    named = [
        {**group, "params": list(members)}
        for group, members in zip(state_dict["param_groups"], groups, strict=True)
    ]
    return {**state_dict, "param_groups": named}


def with_numbers(state_dict: dict, groups: list[list[str]]) -> dict:
    """Convert a whole optimizer's state from names to numbers over ``groups``, as torch saves it."""
    numbers = {name: number for number, name in enumerate(name for group in groups for name in group)}
    numbered = [
        {**group, "params": [numbers[name] for name in members]}
        for group, members in zip(state_dict["param_groups"], groups, strict=True)
    ]
    state = {numbers[name]: values for name, values in state_dict["state"].items()}
    return {**state_dict, "state": state, "param_groups": numbered}


@contextlib.contextmanager
def answering(owner: Any, state: dict) -> Iterator[None]:
    """Make ``owner.state_dict()`` return ``state``: all ranks gather it, one rank asks for it."""
    owner.state_dict = lambda *args, **kwargs: state
    try:
        yield
    finally:
        del owner.state_dict
