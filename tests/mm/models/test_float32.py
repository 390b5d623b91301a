"""Coordinates, targets, losses and NMS stay in float32 under autocast, compared with plain numpy.

What the release defines for half precision: RoI levels and RoIAlign in float32, and float32 proposals from
the half-precision outputs of the RPN.
"""

import copy
import inspect
import re
import sys
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS as ROOT
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from published import config
from repository import ROOT as ROOT_FOLDER
from torch.utils._python_dispatch import TorchDispatchMode  # no public hook sees every operation

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)
from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.mmcv_ext import current_ops
from convnext_dense.mm.models.float32 import METHODS, WITHOUT_SUBCLASS
from convnext_dense.mm.models.precision import full_precision, to_float32
from convnext_dense.mm.models.registry import MODELS, SCOPE
from convnext_dense.mm.models.tta import DetectionTTA, SegmentationTTA

HALF = [torch.float16, torch.bfloat16]
STRIDES = [4, 8, 16, 32]


def mmdets(kind: str) -> type:
    return ROOT.get(f"mmdet.{kind}")


def types_in(node: object) -> Iterator[str]:
    """Every ``type`` below ``node``."""
    if isinstance(node, Mapping):
        if isinstance(node.get("type"), str):
            yield node["type"]
        for value in node.values():
            yield from types_in(value)
    elif isinstance(node, list | tuple):
        for item in node:
            yield from types_in(item)


# ---- which classes


def test_every_head_of_the_toolboxes_has_its_subclass():
    taken = set()
    for scope in ("mmdet", "mmseg"):
        MODELS.get("RPNHead")  # fills the registries
        for name, base in ROOT.children[scope].module_dict.items():
            package = next((p for p in METHODS if getattr(base, "__module__", "").startswith(p)), None)
            if package and name not in (*taken, *WITHOUT_SUBCLASS):
                taken.add(name)
                ours = MODELS.get(name)
                assert issubclass(ours, base), name
                own = {method for method in METHODS[package] if hasattr(base, method)}
                between = ours.__mro__[: ours.__mro__.index(base)]  # ours may have several parents
                assert own <= {method for kind in between for method in vars(kind)}, name
    assert {"RPNHead", "RetinaHead", "SABLHead", "HTCMaskHead", "GenericRoIExtractor", "UPerHead"} <= taken


def test_only_heads_that_ask_for_their_own_class_have_none():
    for name in WITHOUT_SUBCLASS:
        assert f"self.__class__ is {name}" in inspect.getsource(ROOT.get(f"mmdet.{name}"))
        assert MODELS.get(name) is None


COMPUTES_NOTHING = {"StandardRoIHead"}  # passes tensors on


def test_no_recipe_names_a_head_of_the_toolboxes():
    named = re.compile(r'type="([\w.]*(?:Head|RoIExtractor))"')
    for path in sorted((ROOT_FOLDER / "configs").rglob("*.py")):
        kinds = set(named.findall(path.read_text())) - COMPUTES_NOTHING
        assert all(kind.startswith(f"{SCOPE}.") for kind in kinds), path


@pytest.mark.parametrize("name", ["mask_rcnn/swin_t_3x", "cascade/resnet50_3x", "upernet/swin_t_512_160k"])
def test_recipes_and_baselines_use_them(name):
    heads = [kind for kind in types_in(config(name).model) if kind.endswith(("Head", "RoIExtractor"))]
    assert len(heads) >= 2
    assert not [kind for kind in heads if not kind.startswith(f"{SCOPE}.") and kind not in COMPUTES_NOTHING]


def test_autocast_and_half_tensors_stop_at_the_entry():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision():
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    given = dict(a=[x.half(), (x.bfloat16(), 3)], b=x.double(), c=x.long())
    cast = to_float32(given)
    assert cast["a"][0].dtype == cast["a"][1][0].dtype == torch.float32
    assert cast["a"][1][1] == 3 and cast["b"] is given["b"] and cast["c"] is given["c"]


# ---- RoI levels and RoIAlign


def extractor(kind: type) -> torch.nn.Module:
    layer = dict(type="RoIAlign", output_size=7, sampling_ratio=0)
    return kind(roi_layer=layer, out_channels=1, featmap_strides=STRIDES)


def released_levels(sides: np.ndarray) -> np.ndarray:
    """(K, 2) widths and heights in pixels -> level of the pyramid: 56 pixels and less are level 0."""
    scale = np.sqrt(np.float32(sides[:, 0]) * np.float32(sides[:, 1]))
    return np.clip(np.floor(np.log2(scale / np.float32(56) + np.float32(1e-6))), 0, 3).astype(int)


def levels_read(module: torch.nn.Module, sides: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The level that the extractor reads each box at: level i of the pyramid is i everywhere."""
    maps = [torch.full((1, 1, 1344 // s, 1344 // s), float(i), dtype=dtype) for i, s in enumerate(STRIDES)]
    corner = torch.full((len(sides), 2), 8.0)
    rois = torch.cat([torch.zeros(len(sides), 1), corner, corner + torch.tensor(sides)], 1)
    pooled = module(maps, rois)
    assert pooled.dtype == dtype
    return pooled[:, 0, 3, 3].float().round().int().numpy()


@pytest.mark.parametrize("dtype", HALF)
def test_boxes_are_read_at_the_released_level(dtype):
    sides = np.random.RandomState(0).uniform(4, 1300, (400, 2)).astype(np.float32)
    sides[:4] = [(300, 300), (256, 256), (447, 447), (256, 1300)]
    expected = released_levels(sides)
    assert set(expected) == {0, 1, 2, 3} and list(expected[:3]) == [2, 2, 2]
    np.testing.assert_array_equal(
        levels_read(extractor(MODELS.get("SingleRoIExtractor")), sides, dtype), expected
    )


def test_mmdets_own_extractor_misplaces_large_boxes_in_fp16():
    """The reason for all this: 300 x 300 overflows, and stride 32 is read in place of 16."""
    sides = np.array([(300, 300), (200, 200)], np.float32)
    plain = levels_read(extractor(mmdets("SingleRoIExtractor")), sides, torch.float16)
    assert list(plain) == [3, 1] and list(released_levels(sides)) == [2, 1]


@pytest.mark.parametrize("dtype", HALF)
def test_coordinates_are_not_rounded(dtype):
    """On a ramp, RoIAlign averages to the centre of each bin: an oracle for where it samples."""
    ramp = torch.arange(0, 64.0).expand(1, 1, 64, 64)  # column index: exact in both dtypes
    maps = [ramp.to(dtype), *(torch.zeros(1, 1, 4, 4, dtype=dtype) for _ in STRIDES[1:])]
    start = np.array([100.3, 33.71, 129.9])  # in pixels; 47 wide, so level 0 at stride 4
    rois = torch.tensor([[0, x, 40.3, x + 47, 90.1] for x in start], dtype=torch.float32)
    pooled = extractor(MODELS.get("SingleRoIExtractor"))(maps, rois)[:, 0, 3].double().numpy()
    bins = start[:, None] / 4 - 0.5 + (np.arange(7) + 0.5) * (47 / 4 / 7)
    rounding = bins.max() * torch.finfo(dtype).eps / 2
    np.testing.assert_allclose(pooled, bins, atol=rounding + 1e-4)


# ---- proposals


def rpn(kind: type) -> torch.nn.Module:
    cfg = config("mask_rcnn/convnext_t_3x").model
    options = {key: value for key, value in cfg.rpn_head.items() if key != "type"}
    test = copy.deepcopy(cfg.test_cfg.rpn)
    test.update(nms_pre=120, max_per_img=60)
    init_default_scope("mmdet")
    return kind(**options, train_cfg=cfg.train_cfg.rpn, test_cfg=test)


HW = (96, 150)  # of the image, in pixels
MAPS = [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]  # of strides 4 to 64


def raw_outputs(dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits (1, 3, h, w) and deltas (1, 12, h, w) in half precision; no two logits of a level are equal."""
    random = np.random.RandomState(3)
    bits = np.arange(2**15)  # the first half of all half-precision numbers: the positive ones
    values = torch.from_numpy(bits.astype(np.int16)).view(dtype).double().numpy()
    values = np.unique(values[np.isfinite(values) & (values < 3) & (values > 0.001)])
    scores, deltas = [], []
    for h, w in MAPS:
        signed = np.concatenate([-values, values])
        chosen = random.choice(signed, 3 * h * w, replace=len(signed) < 3 * h * w)
        scores.append(torch.from_numpy(chosen).to(dtype).view(1, 3, h, w))
        deltas.append(torch.from_numpy(0.4 * random.standard_normal((1, 12, h, w))).to(dtype))
    return scores, deltas


def proposals_in_numpy(scores: list[torch.Tensor], deltas: list[torch.Tensor], size: int) -> np.ndarray:
    """Released proposals, (n, 5) by falling score, from the formulas of the Faster R-CNN and FPN papers."""
    boxes, points, levels = [], [], []
    for level, (s, d) in enumerate(zip(scores, deltas, strict=True)):
        stride, (h, w) = 4 * 2**level, s.shape[2:]
        s = s.double().numpy()[0].transpose(1, 2, 0).reshape(-1)
        d = d.double().numpy()[0].transpose(1, 2, 0).reshape(-1, 4)
        y, x = (axis.reshape(-1, 1) * stride for axis in np.mgrid[:h, :w])
        tall = np.sqrt([0.5, 1.0, 2.0])  # height / width, one anchor of 8 strides each
        width, height = 8 * stride / tall, 8 * stride * tall
        anchors = np.stack(np.broadcast_arrays(x + 0 * width, y, width, height), -1).reshape(-1, 4)
        limit = abs(np.log(16 / 1000))
        cx, cy = anchors[:, 0] + d[:, 0] * anchors[:, 2], anchors[:, 1] + d[:, 1] * anchors[:, 3]
        bw, bh = (anchors[:, 2 + i] * np.exp(np.clip(d[:, 2 + i], -limit, limit)) for i in (0, 1))
        box = np.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], 1)
        best = np.argsort(-s, kind="stable")[:size]
        boxes.append(box[best].clip(0, [HW[1], HW[0], HW[1], HW[0]]))
        points.append(1 / (1 + np.exp(-s[best])))
        levels += [level] * len(best)
    boxes, points, levels = np.concatenate(boxes), np.concatenate(points), np.array(levels)
    kept: list[int] = []
    for i in np.argsort(-points, kind="stable"):
        if all(levels[i] != levels[j] or iou(boxes[i], boxes[j]) <= 0.7 for j in kept):
            kept.append(i)
    return np.concatenate([boxes, points[:, None]], 1)[kept[:60]]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return sides.prod() / max(sum(areas) - sides.prod(), 1e-6)


def proposals(head: torch.nn.Module, outputs: tuple) -> InstanceData:
    meta = dict(img_shape=HW, scale_factor=(1.0, 1.0))
    (found,) = head.predict_by_feat(*outputs, batch_img_metas=[meta], rescale=False)
    return found


@pytest.mark.parametrize("dtype", HALF)
def test_proposals_from_half_precision_outputs_are_float32(dtype):
    outputs = raw_outputs(dtype)
    with torch.autocast("cpu", dtype):
        found = proposals(rpn(MODELS.get("RPNHead")), outputs)
    expected = proposals_in_numpy(*outputs, size=120)
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
    np.testing.assert_allclose(found.scores.numpy(), expected[:, 4], atol=1e-6)
    # equal scores (bfloat16 has few) may come in any order
    order = [np.lexsort(rows.round(2).T) for rows in (found.bboxes.numpy(), expected[:, :4])]
    np.testing.assert_allclose(found.bboxes.numpy()[order[0]], expected[order[1], :4], atol=1e-3)


@pytest.mark.skipif(current_ops() == "mmcv compiled", reason="mmcv's compiled NMS has no float16 on a CPU")
def test_mmdets_own_proposals_are_rounded():
    outputs = raw_outputs(torch.float16)
    plain = proposals(rpn(mmdets("RPNHead")), outputs)
    expected = proposals_in_numpy(*outputs, size=120)
    assert plain.bboxes.dtype == torch.float16
    assert len(plain.scores.unique()) < 0.95 * len(np.unique(expected[:, 4].astype(np.float32)))


# ---- whole models


class HalfPrecision(TorchDispatchMode):
    """Collect the operations with half-precision results that lie outside of networks' forward passes."""

    FORWARD = ("forward", "forward_single", "psp_forward", "_forward_feature", "cls_seg")
    CODE = ("mmdet", "mmcv", "mmseg", "convnext_dense")

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, list | tuple) else [result]
        if any(isinstance(t, torch.Tensor) and t.dtype in HALF for t in tensors) and not func.is_view:
            self.seen += 1
            frame = sys._getframe(1)
            while not self._decides(frame.f_code):
                frame = frame.f_back
            path = frame.f_code.co_filename.rpartition("site-packages/")[2]
            backbone = "convnext_dense/" in path and "convnext_dense/mm/" not in path
            cast_back = path.endswith("mm/models/float32.py")  # RoI features, as released
            if frame.f_code.co_name not in self.FORWARD and not backbone and not cast_back:
                self.found.add((f"{path}:{frame.f_code.co_name}", func.__name__))
        return result

    def _decides(self, code) -> bool:
        """Code of a toolbox or of ours; mmseg's ``resize`` only does what its caller wants."""
        return any(part in code.co_filename for part in self.CODE) and code.co_name != "resize"


def small(name: str):
    """A recipe with few channels, blocks and proposals: CPUs are slow in half precision."""
    cfg = config(name)
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    model, dims = cfg.model, [8, 16, 24, 32]
    model.backbone.update(
        arch=dict(depths=[1, 1, 1, 1], dims=dims), init_cfg=None, drop_path_rate=0.0, out_indices=(0, 1, 2, 3)
    )
    if "rpn_head" in model:
        model.neck.update(in_channels=dims, out_channels=16)
        model.rpn_head.update(in_channels=16, feat_channels=16)
        head = model.roi_head
        for part in (head.bbox_roi_extractor, head.mask_roi_extractor):
            part.out_channels = 16
        head.mask_head.update(in_channels=16, conv_out_channels=16)
        for box_head in head.bbox_head if isinstance(head.bbox_head, list) else [head.bbox_head]:
            box_head.update(in_channels=16, conv_out_channels=16, fc_out_channels=32)
        for stage in (
            model.train_cfg.rcnn if isinstance(model.train_cfg.rcnn, list) else [model.train_cfg.rcnn]
        ):
            stage.sampler.num = 8
        model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 20
        model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    else:
        model.decode_head.update(in_channels=dims, channels=16, dropout_ratio=0.0)
        model.auxiliary_head.update(in_channels=dims[2], channels=16, dropout_ratio=0.0)
        model.data_preprocessor.size = (128, 128)
        model.test_cfg = dict(mode="whole")
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    return ROOT.build(model)


def batch_of(model: torch.nn.Module) -> dict:
    """Two noise images with two objects, or with a label map, as a data loader gives them."""
    random = np.random.RandomState(1)
    images = [torch.from_numpy(random.randint(0, 256, (3, 128, 128)).astype(np.uint8)) for _ in range(2)]
    meta = dict(img_shape=(128, 128), ori_shape=(128, 128), pad_shape=(128, 128), scale_factor=(1.0, 1.0))
    samples = []
    for _ in images:
        if hasattr(model, "roi_head"):
            from mmdet.structures import DetDataSample
            from mmdet.structures.mask import BitmapMasks

            boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0], [40.0, 30.0, 110.0, 120.0]])
            masks = np.zeros((2, 128, 128), np.uint8)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
                mask[y1:y2, x1:x2] = 1
            sample = DetDataSample(metainfo=dict(meta, img_id=0))
            sample.gt_instances = InstanceData(
                bboxes=boxes, labels=torch.tensor([0, 79]), masks=BitmapMasks(masks, 128, 128)
            )
        else:
            from mmengine.structures import PixelData
            from mmseg.structures import SegDataSample

            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=torch.from_numpy(random.randint(0, 150, (1, 128, 128))))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


TASKS = ["mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x", "upernet/convnext_t_512_160k"]


@pytest.fixture(scope="module", params=TASKS)
def model(request):
    return small(request.param)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_ends_with_the_forward_passes(model, dtype):
    batch = batch_of(model)
    data = model.train().data_preprocessor(copy.deepcopy(batch), True)
    with HalfPrecision() as audit, torch.autocast("cpu", dtype):
        losses = model(**data, mode="loss")
        assert {t.dtype for t in _tensors(losses)} == {torch.float32}
        with torch.no_grad():
            model.eval().test_step(copy.deepcopy(batch))
            augmented(model).test_step(two_views(batch))
    assert audit.seen > 50, "autocast was on"
    assert not audit.found


def augmented(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside of test-time augmentation."""
    return (DetectionTTA if hasattr(model, "roi_head") else SegmentationTTA)(module=model)


def two_views(batch: dict) -> dict:
    """The batch, and its mirror image, as collated augmentations."""
    views = dict(inputs=[], data_samples=[])
    for flip in (False, True):
        samples = copy.deepcopy(batch["data_samples"])
        for sample in samples:
            sample.set_metainfo(dict(flip=flip, flip_direction="horizontal" if flip else None))
        views["inputs"].append([image.flip(2) if flip else image for image in batch["inputs"]])
        views["data_samples"].append(samples)
    return views


def _tensors(node: object) -> Iterator[torch.Tensor]:
    if isinstance(node, torch.Tensor):
        yield node
    else:
        for item in node.values() if isinstance(node, dict) else node:
            yield from _tensors(item)


@pytest.mark.parametrize("dtype", HALF)
def test_losses_are_those_of_float32_on_the_same_outputs(model, dtype):
    """Record what each head hands out in half precision; the losses equal those of its float32 copy."""
    calls = []

    def recorded(head, name):
        method = getattr(head, name)

        def run(*args, **kwargs):
            random = torch.get_rng_state()  # anchors are sampled
            found = method(*args, **kwargs)
            calls.append((method, args, kwargs, found, random))
            return found

        return run

    parts = _loss_methods(model)
    for head, name in parts:
        setattr(head, name, recorded(head, name))
    try:
        data = model.train().data_preprocessor(batch_of(model), True)
        with torch.autocast("cpu", dtype):
            model(**data, mode="loss")
    finally:
        for head, name in parts:
            delattr(head, name)
    assert len(calls) == len(parts)
    for method, args, kwargs, found, random in calls:
        torch.set_rng_state(random)
        if method.__name__ == "loss_by_feat":  # Cascade hands its box heads float32 already
            assert any(t.dtype == dtype for t in _tensors([arg for arg in args if _is_data(arg)]))
        again = method(*to_float32(args), **to_float32(kwargs))
        pairs = list(zip(_tensors(_losses(found)), _tensors(_losses(again)), strict=True))
        assert pairs and all(torch.equal(a, b) for a, b in pairs)


def _loss_methods(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str]]:
    if not hasattr(model, "roi_head"):
        return [(model.decode_head, "loss_by_feat"), (model.auxiliary_head, "loss_by_feat")]
    heads = [model.roi_head.bbox_head, model.roi_head.mask_head]
    flat = [h for each in heads for h in (each if isinstance(each, torch.nn.ModuleList) else [each])]
    boxes = [(head, "loss_and_target") for head in flat if hasattr(head, "fc_cls")]
    return [(model.rpn_head, "loss_by_feat"), *boxes]


def _is_data(argument: object) -> bool:
    return isinstance(argument, torch.Tensor) or (
        isinstance(argument, list | tuple) and all(isinstance(item, torch.Tensor) for item in argument)
    )


def _losses(found: dict) -> dict:
    """Losses alone: ``loss_and_target`` also returns its targets."""
    return found.get("loss_bbox", found) if isinstance(found.get("loss_bbox"), dict) else found
