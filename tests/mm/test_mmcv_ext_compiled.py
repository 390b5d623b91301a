"""The portable ops against mmcv's compiled kernels: values, gradients, boxes kept, whole predictions.

Runs where mmcv is compiled: ``make VENV=.venv-compiled ops``, then
``make VENV=.venv-compiled PYTEST_ARGS=tests/mm/test_mmcv_ext_compiled.py test``.
"""

import importlib.util
import itertools
import math
import sys

import pytest
import torch
from op_cases import ROI_CASES, features_like, random_boxes, random_rois

from convnext_dense import ops
from convnext_dense.mm.mmcv_ext import _StandIn, install_ops
from convnext_dense.ops.backend import torchvision_ops

if install_ops() != "mmcv":
    pytest.skip("needs compiled mmcv: convnext-dense ops", allow_module_level=True)

import mmcv._ext as ext
import mmcv.ops

OPTIONS = list(itertools.product((7, 14, (5, 3)), (0, 1, 2, 3), (True, False)))


@pytest.fixture(autouse=True)
def portable(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    torchvision_ops.cache_clear()
    yield
    torchvision_ops.cache_clear()


def assert_same_roi_align(x, rois, size, scale, ratio, aligned):
    size = (size, size) if isinstance(size, int) else size
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = ops.roi_align(ours, rois, size, scale, ratio, aligned)
    expected = mmcv.ops.roi_align(theirs, rois, size, scale, ratio, "avg", aligned)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    weights = features_like(got.shape, x.dtype)
    got.backward(weights)
    expected.backward(weights)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ROI_CASES)
def test_roi_align_edge_cases(name, dtype):
    shape, rois, scale = ROI_CASES[name]
    for size, ratio, aligned in OPTIONS:
        assert_same_roi_align(features_like(shape, dtype), rois.to(dtype), size, scale, ratio, aligned)


@pytest.mark.parametrize(("size", "ratio", "aligned"), OPTIONS)
def test_roi_align_random(size, ratio, aligned):
    x, rois = features_like((3, 16, 37, 53)), random_rois(150, 3, 8 * 37, 8 * 53)
    assert_same_roi_align(x, rois, size, 1 / 8, ratio, aligned)


def test_roi_align_of_channels_last_features_is_that_of_contiguous_ones():
    x, rois = features_like((2, 16, 37, 53)), random_rois(50, 2, 8 * 37, 8 * 53)
    expected = mmcv.ops.roi_align(x, rois, (7, 7), 1 / 8, 0, "avg", True)
    got = ops.roi_align(x.contiguous(memory_format=torch.channels_last), rois, 7, 1 / 8)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("x1", [3.0, float("nan")])
def test_boxes_at_which_the_kernel_for_the_cpu_stops_are_pooled_by_ours(x1):
    """Ours follows mmcv's kernel for CUDA; ``tests/ops/test_roi_align.py`` has the values."""
    x, rois = features_like((1, 1, 4, 4)), torch.tensor([[0, x1, 0, 2, 1]])
    with pytest.raises(RuntimeError, match="size"):
        mmcv.ops.roi_align(x, rois, (7, 7), 1.0, 0, "avg", True)
    pooled = ops.roi_align(x, rois, 7)
    assert pooled.isnan().all() if math.isnan(x1) else not pooled.any()


def boxes_of(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    boxes, scores = random_boxes(3000, size=600.0)
    if kind == "equal scores":
        scores = torch.full_like(scores, 0.5)
    elif kind == "few scores":
        scores = (scores * 7).ceil() / 7
    elif kind == "duplicates":
        boxes = boxes[torch.arange(3000) % 500]
    elif kind == "no area":
        boxes[::2, 2:] = boxes[::2, :2].round()
    elif kind == "inverted":
        boxes[::5] = boxes[::5].flip(1)
    elif kind == "empty":
        boxes, scores = boxes[:0], scores[:0]
    return boxes, scores


KINDS = ["random", "equal scores", "few scores", "duplicates", "no area", "inverted", "empty"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_the_same_boxes_in_the_same_order(kind, offset):
    boxes, scores = boxes_of(kind)
    for threshold in (0.0, 0.5, 0.7):
        expected = ext.nms(boxes, scores, iou_threshold=threshold, offset=offset)
        assert torch.equal(ops.nms(boxes, scores, threshold, offset), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_is_the_same_to_the_last_tie(kind, method):
    boxes, scores = boxes_of(kind)
    boxes, scores = boxes[:400], scores[:400]
    for offset in (0, 1):
        rows, kept = ops.soft_nms(boxes, scores, 0.3, 0.4, 0.05, method, offset)
        expected = torch.empty(len(boxes), 5)
        number = ("naive", "linear", "gaussian").index(method)
        options = {"iou_threshold": 0.3, "sigma": 0.4, "min_score": 0.05, "method": number, "offset": offset}
        indices = ext.softnms(boxes, scores, expected, **options)
        assert torch.equal(kept, indices)
        torch.testing.assert_close(rows, expected[: len(indices)], rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.fixture
def swap(monkeypatch):
    """Call to put the portable ops under mmcv's wrappers for the rest of the test; counts their calls."""

    def swap() -> dict[str, int]:
        calls, stand_in = {}, _StandIn()

        def counted(name, op):
            def call(*args, **kwargs):
                calls[name] = calls.get(name, 0) + 1
                return op(*args, **kwargs)

            return call

        for name in ("roi_align_forward", "roi_align_backward", "nms", "softnms"):
            monkeypatch.setattr(ext, name, counted(name, getattr(stand_in, name)))
        return calls

    return swap


@pytest.fixture(scope="module")
def detector():
    """Mask R-CNN R50-FPN with random weights whose class scores are spread, in eval mode."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    path = importlib.util.find_spec("mmdet").submodule_search_locations[0]
    config = Config.fromfile(f"{path}/.mim/configs/_base_/models/mask-rcnn_r50_fpn.py").model
    config.backbone.init_cfg = None
    config.test_cfg.rcnn.score_thr = 0.0
    config.test_cfg.rpn.max_per_img = 200
    config.test_cfg.rcnn.max_per_img = 30  # the mask head is most of the time
    config.train_cfg.rpn_proposal.max_per_img = 200
    config.train_cfg.rcnn.sampler.num = 64
    torch.manual_seed(0)
    model = MODELS.build(config)
    model.init_weights()
    for head in (model.rpn_head.rpn_cls, model.roi_head.bbox_head.fc_cls):
        torch.nn.init.normal_(head.weight, std=0.3)
    return model.eval()


def batch(detector):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    image = features_like((3, 128, 160)).mul(40).add(120).clamp(0, 255)
    boxes = random_rois(6, 1, 110, 140, seed=4)[:, 1:].clamp(min=0)
    masks = BitmapMasks((features_like((6, 128, 160), seed=5) > 0).numpy().astype("uint8"), 128, 160)
    sample = DetDataSample(
        metainfo={
            "img_shape": (128, 160),
            "ori_shape": (128, 160),
            "scale_factor": (1.0, 1.0),
            "pad_shape": (128, 160),
        }
    )
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(6), masks=masks)
    return detector.data_preprocessor({"inputs": [image], "data_samples": [sample]})


@torch.no_grad()
def test_mask_rcnn_predicts_the_same(detector, swap):
    data = batch(detector)
    (expected,) = detector(**data, mode="predict")
    calls = swap()
    (got,) = detector(**batch(detector), mode="predict")
    assert calls["nms"] and calls["roi_align_forward"]
    a, b = got.pred_instances, expected.pred_instances
    assert len(b) == 30
    assert torch.equal(a.labels, b.labels)
    torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-4, atol=1e-3)
    assert (a.masks != b.masks).float().mean() < 1e-4  # pixels whose probability is one half


def test_mask_rcnn_trains_the_same(detector, swap):
    def step():
        torch.manual_seed(0)  # RoIs are sampled
        detector.zero_grad()
        losses = detector(**batch(detector), mode="loss")
        sum(sum(v) if isinstance(v, list) else v for k, v in losses.items() if "loss" in k).backward()
        gradient = torch.cat([p.grad.flatten() for p in detector.parameters() if p.grad is not None])
        return losses, gradient

    expected, expected_gradient = step()
    calls = swap()
    got, gradient = step()
    assert calls["roi_align_backward"]
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5)
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()
