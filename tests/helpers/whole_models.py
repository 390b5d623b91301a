"""Our recipes under the rules of the golden whole models, and what they compute.

``predicted`` and ``trained`` compute the quantities of ``tests/assets/golden_whole_models.json``, laid out in
the same way, for any released recipe. ``differences`` compares the two.
"""

import copy
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import golden_rules as rules
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from published import config
from repository import ASSETS
from torch import Tensor, nn
from torch.nn import functional as F

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)
from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.models.sliding_window import BoundedPredict

GOLDEN = json.loads((ASSETS / "golden_whole_models.json").read_text())
# Models of size B and L take minutes and up to 10 GB; they run where this is set.
EVERY_RECIPE = bool(os.environ.get("CONVNEXT_DENSE_EVERY_RECIPE"))
ORIGINAL_HW = (100, 130)  # to which segmentors resize their logits
CHOSEN, CHOSEN_BUFFERS, LOGITS_SAMPLED = 36, 8, 12
ZERO = 1e-9  # values below it are zero in exact arithmetic: shifts before a batch norm


# Quantities that are counted, and so equal the golden ones exactly.
COUNTS = {"parameters", "proposals", "mask_pixels", "labels"}
COUNTS |= {f"{mode}_labels" for mode in ("slide", "whole", "several")}


# ---------------------------------------------------------------------- model and data


@dataclass
class Whole:
    """A recipe as a float64 model with golden weights, and two images with their annotations."""

    cfg: Config
    model: nn.Module
    images: Tensor  # (2, 3, H, W)
    samples: list

    @property
    def segments(self) -> bool:
        return hasattr(self.model, "decode_head")

    def to(self, device: str) -> "Whole":
        """The same on another device."""
        samples = [sample.to(device) for sample in self.samples]
        return Whole(self.cfg, self.model.to(device), self.images.to(device), samples)


def golden_settings(name: str) -> Config:
    """The recipe with the few settings that the golden values need: no randomness, and small numbers."""
    cfg = config(name)
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    cfg.optim_wrapper.type = "OptimWrapper"  # no autocast: the model is float64
    train, test = cfg.model.train_cfg, cfg.model.test_cfg
    if "decode_head" in cfg.model:
        for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
            head.dropout_ratio = 0.0
        test.update(crop_size=(96, 96), stride=(64, 64))
        return cfg
    for stage in train.rcnn if isinstance(train.rcnn, list) else [train.rcnn]:
        stage.sampler.num = 24
    train.rpn_proposal.max_per_img = test.rpn.max_per_img = 60
    test.rcnn.update(max_per_img=12, score_thr=0.02)
    return cfg


def build(name: str) -> Whole:
    """Build a recipe and fill it by the golden rules."""
    cfg = golden_settings(name)
    init_default_scope(cfg.default_scope)
    model = rules.fill(MODELS.build(cfg.model).double())
    if "decode_head" in cfg.model:
        return Whole(
            cfg, model, rules.images(), [segmentation_sample(labels) for labels in rules.label_maps()]
        )
    samples = [detection_sample(i) for i in range(len(rules.IMAGES_HW))]
    return Whole(cfg, model, rules.padded_images(), samples)


def detection_sample(index: int):
    """Boxes, classes and masks of a golden image."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    image, canvas = rules.IMAGES_HW[index], rules.CANVAS_HW
    shapes = dict(img_shape=image, ori_shape=image, pad_shape=canvas, batch_input_shape=canvas)
    sample = DetDataSample(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))
    boxes, labels, masks = rules.objects(index)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=BitmapMasks(masks, *canvas))
    return sample


def segmentation_sample(labels: Tensor):
    """The label map (H, W) of a golden image."""
    from mmseg.structures import SegDataSample

    shape = tuple(labels.shape)
    sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
    sample.gt_sem_seg = PixelData(data=labels[None])
    return sample


# ---------------------------------------------------------------------- known differences


def paste_in_float64(patch: pytest.MonkeyPatch) -> None:
    """Let float32 masks be sampled at float64 places. PyTorch refuses it, so both code bases need this."""
    grid_sample = F.grid_sample
    patch.setattr(F, "grid_sample", lambda x, grid, **options: grid_sample(x.to(grid), grid, **options))


def release_habits(patch: pytest.MonkeyPatch) -> None:
    """Disable two habits of mmdet 3.3 that show in float64 only.

    - Anchors of prediction have the dtype of the features; those of the release were always float32.
    - The denominator of a loss is ``avg_factor + 1.19e-7``; that of the release was ``avg_factor``.
    """
    from mmdet.models.losses import utils
    from mmdet.models.task_modules.prior_generators import AnchorGenerator

    grid_priors = AnchorGenerator.grid_priors

    def in_float32(self, featmap_sizes, dtype=None, device="cpu"):
        return grid_priors(self, featmap_sizes, dtype=torch.float32, device=device)

    class TorchWithoutEps:
        """``torch`` for one module, whose ``finfo(...).eps`` is 0."""

        class finfo:
            eps = 0.0

            def __init__(self, dtype: torch.dtype) -> None: ...

        def __getattr__(self, name: str):
            return getattr(torch, name)

    patch.setattr(AnchorGenerator, "grid_priors", in_float32)
    patch.setattr(utils, "torch", TorchWithoutEps())


# ---------------------------------------------------------------------- testing


@dataclass
class Predicted:
    """What a model computes in evaluation mode.

    Attributes:
        values: quantities, laid out as in the golden file.
        bounded: samples of the logits of ``BoundedPredict``, by mode of testing; segmentors only.
        tensors: outputs in full: features ``level0`` ..., and the RPN's ``objectness0``, ``deltas0`` ... or
            the logits ``whole``.
    """

    values: dict
    bounded: dict[str, list[float]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def predicted(whole: Whole) -> Predicted:
    """Run the model in evaluation mode."""
    whole.model.eval()
    found = segmentations(whole) if whole.segments else detections(whole)
    levels = [tensor for name, tensor in found.tensors.items() if name.startswith("level")]
    found.values["parameters"] = sum(p.numel() for p in whole.model.parameters())
    found.values["features"] = [rules.sample(f"level{i}", level) for i, level in enumerate(levels)]
    return found


def detections(whole: Whole) -> Predicted:
    """Proposals, boxes and masks of the two images, from one pass."""
    model, seen = whole.model, {}
    predict = model.rpn_head.predict

    def kept(levels, *args, **kwargs):
        seen.update(levels=levels, proposals=copy.deepcopy(predict(levels, *args, **kwargs)))
        return copy.deepcopy(seen["proposals"])

    model.rpn_head.predict = kept
    hook = model.rpn_head.register_forward_hook(lambda module, args, output: seen.update(rpn=output))
    try:
        samples = model.predict(whole.images, copy.deepcopy(whole.samples), rescale=True)
    finally:
        hook.remove()
        del model.rpn_head.predict  # the method of the class is visible again
    pairs = zip(seen["proposals"], samples, strict=True)
    named = dict(level=seen["levels"], objectness=seen["rpn"][0], deltas=seen["rpn"][1])
    return Predicted(
        dict(test=[detected(proposals, sample.pred_instances) for proposals, sample in pairs]),
        tensors={f"{name}{i}": x for name, levels in named.items() for i, x in enumerate(levels)},
    )


def detected(proposals: InstanceData, found: InstanceData) -> dict:
    """The golden quantities of an image; boxes by class, then by falling score."""
    rows = torch.cat([proposals.bboxes, proposals.scores[:, None]], 1).tolist()
    order = torch.sort(found.labels, stable=True).indices  # mmdet sorts by score
    return dict(
        proposals=len(rows),
        proposal_rows={str(i): rows[i] for i in (0, 1, 2, 10, 20, len(rows) - 1)},
        boxes=torch.cat([found.bboxes, found.scores[:, None]], 1)[order].tolist(),
        labels=found.labels[order].tolist(),
        mask_pixels=found.masks[order].flatten(1).sum(1).tolist(),
    )


class Remembered:
    """``encode_decode`` of a segmentor that runs once per input and metadata."""

    def __init__(self, model: nn.Module) -> None:
        self.compute = model.encode_decode
        self.results: dict[tuple[bytes, str], Tensor] = {}

    def __call__(self, inputs: Tensor, metas: list[dict]) -> Tensor:
        key = (inputs.cpu().numpy().tobytes(), repr([sorted(meta.items()) for meta in metas]))
        if key not in self.results:
            self.results[key] = self.compute(inputs, metas)
        return self.results[key]


def segmentations(whole: Whole) -> Predicted:
    """Logits of the first image by windows, as a whole, and averaged over four views."""
    from mmseg.structures import SegDataSample

    model, image = whole.model, whole.images[:1]
    small = F.interpolate(image, (64, 80), mode="bilinear", align_corners=False)
    # BoundedPredict asks for the same windows again
    model.encode_decode = Remembered(model)

    def metainfo(view: Tensor, flip: bool = False) -> dict:
        shape = tuple(view.shape[2:])
        shapes = dict(ori_shape=ORIGINAL_HW, img_shape=shape, pad_shape=shape)
        return dict(shapes, flip=flip, flip_direction="horizontal")

    def logits(view: Tensor, flip: bool = False) -> Tensor:
        sample = SegDataSample(metainfo=metainfo(view, flip))
        return model.predict(view, [sample])[0].seg_logits.data[None]

    maps, bounded = {}, {}
    for mode in ("slide", "whole"):
        model.test_cfg.mode = mode
        maps[mode] = logits(image)
        rows = BoundedPredict(model, window_batch=1).original_rows(image, [metainfo(image)])
        bounded[mode] = rules.sample(mode, torch.cat([part for _, _, part in rows], 1), LOGITS_SAMPLED)
    views = [(image, False), (image.flip(3), True), (small, False), (small.flip(3), True)]
    maps["several"] = sum(logits(*view).softmax(1) for view in views) / len(views)
    del model.encode_decode
    values = {mode: rules.sample(mode, x, LOGITS_SAMPLED) for mode, x in maps.items()}
    values |= {f"{mode}_labels": most_frequent(x.argmax(1)) for mode, x in maps.items()}
    features = {f"level{i}": level for i, level in enumerate(model.extract_feat(whole.images))}
    return Predicted(values, bounded, features | {"whole": maps["whole"]})


def most_frequent(labels: Tensor, count: int = 5) -> dict[str, int]:
    """The most frequent labels and their pixels; the smaller label first where two tie."""
    pixels = Counter(labels.flatten().tolist())
    return {str(label): pixels[label] for label in sorted(pixels, key=lambda x: (-pixels[x], x))[:count]}


# ---------------------------------------------------------------------- training


def trained(whole: Whole) -> dict:
    """Losses, gradients and one step of the optimizer, laid out as in the golden file.

    The parameters are restored. Running statistics of batch norm keep what they saw.
    """
    model = whole.model.train()
    torch.manual_seed(rules.SEED)
    losses = model.loss(whole.images, copy.deepcopy(whole.samples))
    total, _ = model.parse_losses(losses)
    total.backward()
    parameters = dict(model.named_parameters())
    buffers = {name: buffer for name, buffer in model.named_buffers() if "running" in name}
    names = rules.chosen(parameters, CHOSEN)
    values = dict(
        losses=loss_terms(losses),
        total=total.item(),
        gradients={name: rules.sample(name, parameters[name].grad) for name in names},
        gradient_norm=torch.stack([p.grad.norm() for p in parameters.values()]).norm().item(),
        buffers={n: rules.sample(n, buffers[n], 2) for n in rules.chosen(buffers, CHOSEN_BUFFERS)},
    )
    for name in parameters.keys() - set(names):
        parameters[name].grad = None  # the optimizer passes them over, which saves time and memory
    before = {name: parameters[name].detach().clone() for name in names}
    build_optim_wrapper(model, whole.cfg.optim_wrapper).optimizer.step()
    values["stepped"] = {name: rules.sample(name, parameters[name]) for name in names}
    with torch.no_grad():
        for name in names:
            parameters[name].copy_(before[name]).grad = None
    return values


def loss_terms(losses: dict) -> dict[str, list[float]]:
    """Terms by their released names, without mmseg's accuracy, which the two versions count differently."""
    terms = {}
    for name, value in losses.items():
        if not name.endswith("acc_seg"):
            name = name.replace("loss_ce", "loss_seg")
            terms[name] = [float(x) for x in value] if isinstance(value, list) else [float(value)]
    return terms


# ---------------------------------------------------------------------- comparison


class Difference(NamedTuple):
    """The largest difference of a quantity, relative to the largest value of its sample, and its place."""

    size: float
    place: str


def samples_of(tree: object, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], np.ndarray]:
    """Flatten nested dicts and lists of lists into one array per sample."""
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict | list):
        items = ((str(i), part) for i, part in enumerate(tree))
    else:
        return {path: np.atleast_1d(np.asarray(tree, float))}
    return {key: x for name, part in items for key, x in samples_of(part, (*path, name)).items()}


def distance(golden: np.ndarray, ours: np.ndarray) -> float:
    """Largest difference relative to the largest golden value; 0 where both are below ``ZERO``."""
    assert golden.shape == ours.shape
    scale = np.abs(golden).max(initial=0.0)
    if max(scale, np.abs(ours).max(initial=0.0)) < ZERO:
        return 0.0
    return float(np.abs(golden - ours).max() / max(scale, ZERO))


def quantity_of(path: tuple[str, ...]) -> str:
    """``test, 0, boxes, 3`` -> ``boxes``; ``losses, loss_cls`` -> ``losses``."""
    return path[2] if path[0] == "test" else path[0]


def differences(golden: dict, ours: dict) -> dict[str, Difference]:
    """Largest difference of each quantity.

    Raises:
        AssertionError: a sample that only one of the two has, or shapes that differ.
    """
    golden, ours = samples_of(golden), samples_of(ours)
    golden = {path: values for path, values in golden.items() if not path[-1].endswith("acc_seg")}
    assert golden.keys() == ours.keys(), sorted(golden.keys() ^ ours.keys())
    worst: dict[str, Difference] = {}
    for path, values in golden.items():
        found = Difference(distance(values, ours[path]), ".".join(path))
        worst[quantity_of(path)] = max(worst.get(quantity_of(path), Difference(0.0, "")), found)
    return worst
