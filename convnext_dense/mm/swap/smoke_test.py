"""A training step and a prediction on synthetic images, to find failing configs at once."""

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from convnext_dense.errors import UserError
from convnext_dense.mm.config.edit import set_plain_batch_norm, set_pretrained
from convnext_dense.support.nested import mappings

# Sides of the two synthetic images in pixels. Segmentors run at stride 8, so a smaller size is enough.
SIZE = {"mmseg": 64}
DEFAULT_SIZE, LARGE_SIZE = 128, 320
LOAD = dict(num_points=256, max_per_img=50, nms_pre=100)


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
    set_pretrained(cfg, "none")
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    _small_load(cfg.model)
    preprocessor = cfg.model.get("data_preprocessor", {})
    preprocessor.pop("batch_augments", None)  # they pad to 1024x1024 and more
    if preprocessor.get("size"):
        preprocessor["size"] = (size, size)  # segmentors pad to the crop of the recipe
    scope = cfg.get("default_scope") or "mmengine"
    init_default_scope(scope)
    torch.manual_seed(0)
    with failing_as("building the model"):
        model = MODELS.build(cfg.model)
    hub = MessageHub.get_current_instance()  # some losses warm up by iterations
    hub.update_info("iter", 0)
    hub.update_info("epoch", 0)
    batch = synthetic_batch(scope, model, size)
    running: list[str] = []
    with _watched(model, running):
        with failing_as("a training step", running):
            model.train()
            losses = model(**model.data_preprocessor(batch, True), mode="loss")
            loss, _ = model.parse_losses(losses)
            loss.backward()
        with failing_as("a prediction", running), torch.no_grad():
            model.eval()
            model.test_step(synthetic_batch(scope, model, size))
    _check_gradients(model)


def _small_load(model: Mapping) -> None:
    """Reduce the numbers of mask points, proposals and boxes before NMS.

    12544 points per query or 1000 proposals of 1203 classes take minutes on a CPU and show nothing more.
    """
    for _, node in mappings(model):
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
    parameters = dict(model.backbone.named_parameters())
    without = [name for name, p in parameters.items() if p.requires_grad and p.grad is None]
    if len(without) == len(parameters):
        raise TrialError("the loss does not depend on the backbone: no parameter of it has a gradient")


def synthetic_batch(scope: str, model: nn.Module, size: int) -> dict:
    """Two images of noise with annotations, in the format of that toolbox's data loader."""
    generator = torch.Generator().manual_seed(0)
    mean = getattr(model.data_preprocessor, "mean", None)
    shape = (3 if mean is None else len(mean), size, size)
    images = [torch.randint(256, shape, generator=generator, dtype=torch.uint8) for _ in range(2)]
    make = {"mmseg": _segmentation, "mmpretrain": _classification}.get(scope, _detection)
    return dict(inputs=images, data_samples=[make(model, size, generator) for _ in images])


def _segmentation(model: nn.Module, size: int, generator: torch.Generator):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    heads = model.decode_head if isinstance(model.decode_head, nn.ModuleList) else [model.decode_head]
    classes = max(int(getattr(head, "num_classes", 2)) for head in heads)
    sample = SegDataSample(
        metainfo=dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size), flip=False)
    )
    labels = torch.randint(classes, (1, size, size), generator=generator)
    sample.gt_sem_seg = PixelData(data=labels)
    sample.gt_edge_map = PixelData(data=(labels > 0).long())
    return sample


def _classification(model: nn.Module, size: int, generator: torch.Generator):
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(0)


def _detection(model: nn.Module, size: int, generator: torch.Generator):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0], [40.0, 30.0, 110.0, 120.0]]) * size / 128
    masks = torch.zeros(2, size, size, dtype=torch.uint8)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = 1
    metainfo = dict(
        img_shape=(size, size),
        ori_shape=(size, size),
        pad_shape=(size, size),
        batch_input_shape=(size, size),
        scale_factor=(1.0, 1.0),
        flip=False,
        img_id=0,
        img_path="synthetic.jpg",
        border=np.array([0, size, 0, size]),  # CenterNet crops it
    )
    sample = DetDataSample(metainfo=metainfo)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 0]))
    if any("mask" in name for name, _ in model.named_modules()):
        sample.gt_instances.masks = BitmapMasks(masks.numpy(), size, size)
    none = torch.zeros(0, dtype=torch.long)
    sample.ignored_instances = InstanceData(
        bboxes=boxes[:0], labels=none, masks=BitmapMasks(masks[:0].numpy(), size, size)
    )
    sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, size, size, dtype=torch.long))
    sample.proposals = InstanceData(bboxes=boxes, scores=torch.ones(2), labels=torch.tensor([0, 0]))
    return sample
