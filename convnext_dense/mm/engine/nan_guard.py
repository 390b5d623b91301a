"""Stop a run at a NaN or infinite loss or gradient before it reaches the weights, and explain it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.optim import Optimizer

from convnext_dense.errors import UserError
from convnext_dense.support.files import replacing, write_text
from convnext_dense.support.modules import unwrapped
from convnext_dense.support.nested import mappings
from convnext_dense.support.seeding import seed_all


class NotFiniteError(UserError):
    """Training stopped at a step whose loss or gradient is not finite; the weights are unchanged."""


def check_updates(wrapper: OptimWrapper) -> None:
    """Make ``wrapper`` raise :class:`NotFiniteError` for a loss or gradient that is not finite.

    Its optimizer gets torch's own hook for the gradients. There is none for the loss, so the check is put
    before this object's ``update_params``, which works for every class of wrapper, also for a user's own.
    Mixed precision with a scaler skips steps whose gradient is not finite, and lowers its scale: these never
    reach the check.
    """
    update_params = wrapper.update_params

    def check_and_update(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not torch.isfinite(loss):
            raise NotFiniteError(f"the loss is {loss.item()}")
        update_params(loss, *args, **kwargs)

    wrapper.update_params = check_and_update
    optimizer = getattr(wrapper, "optimizer", None)  # a wrapper of several optimizers has none
    if isinstance(optimizer, Optimizer):
        optimizer.register_step_pre_hook(_check_gradients)


def _check_gradients(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    if getattr(optimizer, "found_inf", None) is not None:
        return  # a fused optimizer under a scaler: scaled gradients, and its kernel leaves out such a step
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients and not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
        raise NotFiniteError("the gradient is not finite")


def explained(error: NotFiniteError, runner: Runner, batch: Any, key: Sequence[int]) -> NotFiniteError:
    """Return ``error`` with the place where it began, after writing ``batch`` to the work folder.

    Args:
        error: what :func:`check_updates` found.
        runner: the runner.
        batch: input of ``train_step``.
        key: seed of this forward pass; see :func:`convnext_dense.support.seeding.seed_all`.
    """
    step = runner.iter + 1
    where = diagnose(runner, batch, key)
    rank = f"_rank{runner.rank}" if runner.world_size > 1 else ""
    folder = Path(runner.work_dir, f"not_finite_step_{step}{rank}")
    message = f"step {step}: {error}; {where}"
    dump(folder, batch, message, key)
    return NotFiniteError(
        f"{message}. The weights were not changed, and earlier checkpoints are good. The batch is in "
        f"{folder}. Lower the learning rate (optim_wrapper.optimizer.lr), clip gradients "
        "(optim_wrapper.clip_grad.max_norm=1) or check the batch; `--resume --seed N` draws other samples"
    )


def diagnose(runner: Runner, batch: Any, key: Sequence[int]) -> str:
    """Find what failed first: parameters, the output of a module, or the gradient of a parameter group.

    Forward and backward are run once more, with the same random numbers. In a run of several processes
    they would wait for each other, so there only the parameters are checked.
    """
    model = unwrapped(runner.model)
    groups = _group_names(runner.optim_wrapper, model)
    bad = [name for name, param in model.named_parameters() if not _finite(param)]
    if bad:
        return f"{len(bad)} parameters are not finite, the first is {bad[0]} ({groups.get(bad[0], 'frozen')})"
    if runner.world_size > 1:
        return "all parameters are finite (resume in one process to see where it starts)"
    seed_all(*key)
    module, gradients = _run_again(model, runner.optim_wrapper, batch)
    if module == "data_preprocessor":
        return "the batch itself is not finite"
    if module is not None:
        inside = [groups[name] for name in groups if name.startswith(f"{module}.")]
        of_group = f" ({inside[0]})" if inside else ""
        return f"all parameters are finite; the first output that is not finite is that of {module}{of_group}"
    if gradients:  # the gradient comes from the heads, so the last in the order of the model failed first
        first = gradients[-1]
        return (
            f"all parameters and outputs are finite, {len(gradients)} gradients are not; the nearest to "
            f"the loss is that of {first} ({groups[first]})"
        )
    return "it did not happen again when the step was repeated"


def _finite(tensor: Tensor) -> bool:
    if hasattr(tensor, "to_local"):  # sharded: the other ranks may not be here to combine their answers
        tensor = tensor.to_local()
    return bool(torch.isfinite(tensor).all())


def _group_names(wrapper: OptimWrapper, model: nn.Module) -> dict[str, str]:
    """Parameter name -> its group, as in ``group layer_3_decay, lr 1e-4``."""
    names = {id(param): name for name, param in model.named_parameters()}
    return {
        names[id(param)]: f"group {group.get('name', number)}, lr {group['lr']:.3g}"
        for number, group in enumerate(wrapper.param_groups)
        for param in group["params"]
        if id(param) in names
    }


def _run_again(model: nn.Module, wrapper: OptimWrapper, batch: Any) -> tuple[str | None, list[str]]:
    """The first module with an output that is not finite, or the parameters with such gradients."""
    found: list[str] = []

    def look(name: str):
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if not found and not all(_finite(tensor) for tensor in _tensors(output)):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    wrapper.zero_grad()
    try:
        with wrapper.optim_context(model):
            data = model.data_preprocessor(batch, True)
            losses = model(**data, mode="loss") if isinstance(data, dict) else model(*data, mode="loss")
            loss, _ = model.parse_losses(losses)
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0], []
    bad = [name for name, value in losses.items() if not all(_finite(t) for t in _tensors(value))]
    if bad:
        return f"the loss {bad[0]}", []
    loss.backward()
    gradients = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    wrapper.zero_grad()
    return None, gradients


def _tensors(value: Any) -> list[Tensor]:
    """Floating tensors in nested containers."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


# ---- the batch on disk


def dump(folder: Path, batch: Any, message: str, key: Sequence[int]) -> None:
    """Write ``batch.pth`` (tensors and plain values), ``report.txt`` and one picture per image."""
    content = plain(batch)
    with replacing(folder / "batch.pth") as partial:
        torch.save({"batch": content, "key": list(key)}, partial)
    write_text(folder / "report.txt", f"{message}\nimages: {', '.join(_paths(content)) or 'unknown'}\n")
    inputs = content.get("inputs", []) if isinstance(content, dict) else []
    for number, image in enumerate(inputs):  # (3, H, W) uint8 BGR, as the pipelines leave it
        if isinstance(image, Tensor) and image.ndim == 3 and len(image) == 3 and image.dtype == torch.uint8:
            cv2.imwrite(str(folder / f"image_{number}.png"), image.permute(1, 2, 0).numpy())


def plain(value: Any) -> Any:
    """Reduce ``value`` to tensors, containers, numbers and text, which any ``torch.load`` reads safely."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()) if value.dtype.kind in "biuf" else value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, BaseDataElement):
        return {name: plain(item) for name, item in value.all_items()}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if hasattr(value, "to_ndarray"):  # mmdet's masks
        return plain(value.to_ndarray())
    if hasattr(value, "tensor"):  # and boxes
        return plain(value.tensor)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _paths(content: Any) -> list[str]:
    """``img_path`` of every sample."""
    found = [node.get("img_path") for _, node in mappings(content)]
    return [path for path in found if isinstance(path, str)]
