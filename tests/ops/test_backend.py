"""The gate to torchvision, and what is passed through it, with a torchvision made of Python.

No real torchvision works with the CPU build of torch that the tests install, so a small module with
its signatures and its checks takes its place, computing with the slow loops.
"""

import sys
from types import ModuleType

import pytest
import torch
from op_cases import ROI_CASES, features_like, loop_nms, loop_roi_align, random_boxes, random_rois

from convnext_dense.ops import batched_nms, nms, op_backend, roi_align, roi_align_backward
from convnext_dense.ops.backend import torchvision_ops


class _LoopRoIAlign(torch.autograd.Function):
    """The loop, with the gradient of a linear map: its columns, one feature at a time."""

    @staticmethod
    def forward(ctx, x, *args):
        ctx.args, ctx.x = args, x
        return loop_roi_align(x, *args).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        gradient = torch.zeros_like(ctx.x)
        for i in range(gradient.numel()):
            unit = torch.zeros_like(ctx.x)
            unit.view(-1)[i] = 1
            gradient.view(-1)[i] = (loop_roi_align(unit, *ctx.args) * grad).sum()
        return gradient, None, None, None, None, None


def fake_ops() -> ModuleType:
    """``torchvision.ops`` of 0.15 to 0.24, as far as we call it."""
    ops = ModuleType("torchvision.ops")
    ops.calls = []

    def roi_align(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
        if input.dtype != boxes.dtype:
            raise RuntimeError("Expected tensor for argument #1 'input' to have the same type")
        negative = (boxes[:, 3:] < boxes[:, 1:3]).any()
        if not boxes.isfinite().all() or (negative and aligned and sampling_ratio <= 0):
            raise RuntimeError("vector: as many samples as a negative number says")  # the CPU kernel's way
        ops.calls.append((input.dtype, output_size, spatial_scale, sampling_ratio, aligned))
        return _LoopRoIAlign.apply(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)

    def nms(boxes, scores, iou_threshold):
        if boxes.dtype != scores.dtype or boxes.device.type == "meta":
            raise RuntimeError("dets should have the same type as scores")
        order = scores.sort(descending=True, stable=True)[1].tolist()
        return torch.tensor(loop_nms(boxes, order, iou_threshold), dtype=torch.int64)

    def batched_nms(boxes, scores, idxs, iou_threshold):
        return nms(boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None], scores, iou_threshold)

    ops.roi_align, ops.nms, ops.batched_nms = roi_align, nms, batched_nms
    return ops


def install(monkeypatch, ops: ModuleType | None) -> None:
    torchvision = ModuleType("torchvision")
    torchvision.__path__ = []
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.delitem(sys.modules, "torchvision.ops", raising=False)
    if ops is not None:
        torchvision.ops = ops
        monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    torchvision_ops.cache_clear()


@pytest.fixture(autouse=True)
def fresh_cache():
    yield
    torchvision_ops.cache_clear()


@pytest.fixture
def ops(monkeypatch):
    ops = fake_ops()
    install(monkeypatch, ops)
    yield ops


def test_absent(portable):
    assert op_backend("cpu") == "portable"


def test_without_its_submodule(monkeypatch):
    install(monkeypatch, None)
    assert op_backend("cpu") == "portable"


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_broken_at_import(monkeypatch, error):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torchvision":
                raise error("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    torchvision_ops.cache_clear()
    assert op_backend("cpu") == "portable"
    assert roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]]), 1).item() == 1


@pytest.mark.parametrize("name", ["nms", "roi_align"])
def test_kernels_that_do_not_run(monkeypatch, name):
    ops = fake_ops()

    def broken(*args):
        raise RuntimeError("Couldn't load custom C++ ops")

    setattr(ops, name, broken)
    install(monkeypatch, ops)
    assert op_backend("cpu") == "portable"


def test_kernels_for_one_device_only(ops):
    assert op_backend("cpu") == "torchvision"
    assert op_backend("meta") == "portable"  # as a CPU build says of "cuda"


@pytest.mark.parametrize("name", ["random", "no boxes", "no area", "one pixel"])
def test_roi_align_arguments(ops, monkeypatch, name):
    shape, rois, scale = ROI_CASES[name]
    x = features_like(shape, torch.float64)
    for ratio, aligned in ((0, True), (2, False)):
        got = roi_align(x, rois, (5, 3), scale, ratio, aligned)
        assert ops.calls[-1] == (torch.float64, (5, 3), scale, ratio, aligned)
        assert torch.equal(got, loop_roi_align(x, rois.double(), (5, 3), scale, ratio, aligned))


def test_roi_align_half_precision_goes_through_float32(ops):
    x, rois = features_like((1, 1, 4, 4), torch.bfloat16), torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
    assert roi_align(x, rois, 2).dtype == torch.bfloat16
    assert ops.calls[-1][0] == torch.float32


def test_roi_align_gradients(ops):
    x, rois = features_like((2, 1, 4, 5), torch.float64).requires_grad_(), random_rois(3, 2, 8, 10)
    output = roi_align(x, rois, 2, 0.5, 2)
    weights = features_like(output.shape, torch.float64)
    (expected,) = torch.autograd.grad(output, x, weights)
    with torch.no_grad():  # mmcv's wrappers call it so
        got = roi_align_backward(weights, rois, x.shape, 2, 0.5, 2)
    assert torch.equal(got, expected)
    assert got.abs().sum() > 0


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_offset(ops, offset):
    boxes, scores = random_boxes(150)
    boxes = boxes.round()  # on whole pixels, x2 + 1 - x1 and x2 - x1 + 1 are the same number
    order = scores.argsort(descending=True).tolist()
    assert nms(boxes, scores, 0.4, offset).tolist() == loop_nms(boxes, order, 0.4, offset)
    assert loop_nms(boxes, order, 0.4, 0) != loop_nms(boxes, order, 0.4, 1)


@pytest.mark.parametrize("offset", [0, 1])
def test_batched_nms_equals_portable(ops, monkeypatch, offset):
    boxes, scores = random_boxes(150)
    boxes, labels = boxes.round(), torch.arange(150) % 3
    through = batched_nms(boxes, scores, labels, 0.4, offset)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    torchvision_ops.cache_clear()
    assert op_backend("cpu") == "portable"
    assert torch.equal(through, batched_nms(boxes, scores, labels, 0.4, offset))


@pytest.mark.parametrize("ratio", [0, 2])
def test_boxes_that_stop_the_cpu_kernel_are_pooled_as_on_a_gpu(ops, ratio):
    x = features_like((1, 2, 12, 12))
    rois = torch.tensor([[0.0, 9, 2, 3, 11], [0, 1, 1, 9, 9], [0, float("inf"), 0, 1, 1]])
    got = roi_align(x, rois, (3, 2), 1.0, ratio)
    expected = loop_roi_align(x, rois[:2], (3, 2), 1.0, ratio, True).float()
    torch.testing.assert_close(got[:2], expected)
    assert got[2].isnan().all()
