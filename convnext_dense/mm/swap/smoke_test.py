"""A training step and a prediction on synthetic images, to find failing configs at once."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from convnext_dense.errors import UserError
from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.config.inner_model import backbone_owner
from convnext_dense.mm.swap.language import SmallLanguageModel
from convnext_dense.mm.swap.synthetic import test_batches, training_batch
from convnext_dense.mm.type_names import is_pretrained
from convnext_dense.support.nested import Path, mappings

# Sides of the two synthetic images in pixels. Segmentors run at stride 8, so a smaller size is enough.
SIZE = {"mmseg": 64}
DEFAULT_SIZE, LARGE_SIZE = 128, 448
MANY_CLASSES, FEW_CLASSES = 2000, 80
LOAD = dict(num_points=256, max_per_img=100, nms_pre=100, num_queries=100, num_cp=-1)


class TrialError(UserError):
    """A model that does not build, train or predict; the message has the module and its error."""


def try_model(cfg: Config, size: int | None = None) -> None:
    """Build the model with random weights, take one training step and predict, on the CPU.

    A failed model is tried again with larger images: some heads select a fixed number of positions,
    or halve the map more often than a small image allows.

    Args:
        cfg: config of mmdet, mmseg or mmpretrain; it is not changed.
        size: side of the two synthetic images in pixels; by default small, then larger.

    Raises:
        TrialError: the failed step, the module and its error message.
    """
    first = size or SIZE.get(cfg.get("default_scope"), DEFAULT_SIZE)
    try:
        _try_once(cfg, first)
    except TrialError:
        if size:
            raise
        _try_once(cfg, LARGE_SIZE)


def _try_once(cfg: Config, size: int) -> None:
    cfg = Config(cfg.to_dict())
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    _plain(cfg.model)
    _small_load(cfg.model)
    for _, node in mappings(cfg.model):
        preprocessor = node.get("data_preprocessor")
        if isinstance(preprocessor, Mapping):
            preprocessor.pop("batch_augments", None)  # they pad to 1024x1024 and more
            if preprocessor.get("size"):
                preprocessor["size"] = (size, size)  # segmentors pad to the crop of the recipe
    scope = cfg.get("default_scope") or "mmengine"
    init_default_scope(scope)
    torch.manual_seed(0)
    with failing_as("building the model"):
        model = MODELS.build(cfg.model)
    _tame(model)
    hub = MessageHub.get_current_instance()  # some losses warm up by iterations
    hub.update_info("iter", 0)
    hub.update_info("epoch", 0)
    running: list[str] = []
    with _watched(model, running):
        with failing_as("a training step", running):
            model.train()
            loss, _ = model.parse_losses(_losses(model, scope, (size, size), backbone_owner(cfg.model)))
            loss.backward()
        with failing_as("a prediction", running), torch.no_grad():
            model.eval()
            for batch in test_batches(scope, model, (size, size)):
                model.test_step(batch)
    _check_gradients(model)


@torch.no_grad()
def _tame(model: nn.Module) -> None:
    """Set to zero what no weight is: NaN, infinity and values from 1000.

    Some models of mmdet leave parameters as the memory was, and fill them in ``init_weights``, which would
    also load pretrained weights.
    """
    for parameter in model.parameters():
        parameter.masked_fill_(~(parameter.abs() < 1000), 0.0)


def _losses(model: nn.Module, scope: str, hw: tuple[int, int], owner: Path | None) -> dict:
    """Losses of one step; of the detector inside a tracker that does not train itself."""
    batch = model.data_preprocessor(training_batch(scope, model, hw), True)
    try:
        return model(**batch, mode="loss")
    except NotImplementedError:
        inner = model.get_submodule(".".join(map(str, owner or ())))
        if inner is model:
            raise
        samples = [
            sample[0] if hasattr(sample, "video_data_samples") else sample for sample in batch["data_samples"]
        ]
        images = batch["inputs"]
        return inner.loss(images[:, 0] if images.dim() == 5 else images, samples)


def _plain(model: Mapping) -> None:
    """Random weights everywhere, also in teachers, a small text encoder, and float32 as the CPU needs it."""
    for _, node in mappings(model):
        if is_pretrained(node.get("init_cfg")):
            node["init_cfg"] = None
        for key in ("pretrained", "teacher_ckpt", "use_autocast"):
            node.pop(key, None)
        if "language_model" in node:
            node["language_model"] = dict(type=SmallLanguageModel)


def _small_load(model: Mapping) -> None:
    """Reduce the numbers of mask points, proposals, queries, classes and boxes before NMS; recompute nothing.

    12544 points per query, 1000 proposals of 1203 classes or the NMS of 13204 classes take minutes on a CPU
    and show nothing more. ``num_cp`` counts layers that are computed again in the backward pass, by a package
    of its own.
    """
    for _, node in mappings(model):
        if isinstance(node.get("num_classes"), int) and node["num_classes"] > MANY_CLASSES:
            node["num_classes"] = FEW_CLASSES
        for key, most in LOAD.items():
            if isinstance(node.get(key), int) and node[key] > most:
                node[key] = most


@contextlib.contextmanager
def failing_as(step: str, running: list[str] | None = None) -> Iterator[None]:
    """Turn any exception into a :class:`TrialError` that names the step and the innermost running module."""
    try:
        yield
    except Exception as error:  # a third-party model may raise anything
        said = " ".join(str(error).split())[:200] or type(error).__name__
        where = f" in {running[-1]}" if running else ""
        raise TrialError(f"{step} fails{where}: {type(error).__name__}: {said}") from error


@contextlib.contextmanager
def _watched(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the running modules in ``running``, the innermost last."""
    hooks = []
    for name, module in model.named_modules():
        label = f"{name} ({type(module).__name__})" if name else type(module).__name__
        hooks.append(module.register_forward_pre_hook(lambda *_, label=label: running.append(label)))
        hooks.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_gradients(model: nn.Module) -> None:
    parameters = [p for name, p in model.named_parameters() if "backbone." in name and p.requires_grad]
    if parameters and all(p.grad is None for p in parameters):
        raise TrialError("the loss does not depend on the backbone: no parameter of it has a gradient")
