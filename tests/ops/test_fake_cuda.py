"""RoIAlign and NMS on fake CUDA tensors: the parts whose shapes do not depend on values.

Left out, because shapes or control flow depend on values there: the loop of greedy NMS (how many boxes are
left), ``_survivors`` (until nothing changes), Soft-NMS (on the CPU for every device) and the extents of
RoIAlign's crops, which are read on the host: :func:`boxes_of` takes their place here.
"""

from importlib import import_module

import pytest
import torch
from fake_cuda import CUDA_BUILD, HALF, facts, fake_cuda

pytestmark = CUDA_BUILD
# the package has functions of the same names
nms_module, roi_align_module = (import_module(f"convnext_dense.ops.{name}") for name in ("nms", "roi_align"))
GEOMETRY = roi_align_module._Geometry((7, 5), 0.25, 0, True)
SHAPE = (2, 6, 20, 30)
BOXES = 4


def boxes_of(rois, input_shape, geometry, dtype, device):
    """One chunk of boxes, as ``_chunks`` yields them: weights on the device, extents on the host."""
    (p, q), (height, width) = geometry.output_size, input_shape[2:]
    rows = torch.empty(len(rois), p, height, dtype=dtype, device=device)
    columns = torch.empty(len(rois), q, width, dtype=dtype, device=device)
    ys, xs = [slice(2, 9)] * len(rois), [slice(3, 17)] * len(rois)
    images = [0, 0, 1, 1]
    indices = torch.empty(len(rois), dtype=torch.int64, device=device)
    yield indices, zip(images, rows, columns, ys, xs, strict=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
def test_products_of_roi_align(dtype, monkeypatch):
    monkeypatch.setattr(roi_align_module, "_chunks", boxes_of)
    with fake_cuda():
        features = torch.empty(SHAPE, dtype=dtype, device="cuda")
        rois = torch.empty(BOXES, 5, device="cuda")
        pooled = roi_align_module._portable_forward(features, rois, GEOMETRY)
        gradient = roi_align_module._portable_backward(pooled, rois, SHAPE, GEOMETRY)
    assert facts(pooled) == [((BOXES, 6, 7, 5), dtype)]
    assert facts(gradient) == [(SHAPE, dtype)]


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_torchvisions_roi_align(dtype):
    """What a GPU calls where torchvision is installed; no box is looked at on the host."""
    ops = pytest.importorskip("torchvision.ops", exc_type=ImportError)
    with fake_cuda():
        features = torch.empty(SHAPE, dtype=dtype, device="cuda")
        rois = torch.empty(BOXES, 5, device="cuda")
        pooled = roi_align_module._torchvision_roi_align(ops, features, rois, GEOMETRY)
    assert facts(pooled) == [((BOXES, 6, 7, 5), dtype)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize("offset", [0, 1])
def test_overlaps_of_nms(dtype, offset):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    with fake_cuda():
        boxes, others = (torch.empty(n, 4, dtype=dtype, device="cuda") for n in (3, 5))
        a, b = (nms_module._columns(x, offset) for x in (boxes, others))
        overlap = nms_module._iou(a, b, offset)
        suppressed = nms_module._suppresses(a, b, 0.5, offset)
        moved = nms_module._with_offset(boxes, offset)
    assert facts([a, b, overlap]) == [((5, 3), wide), ((5, 5), wide), ((3, 5), wide)]
    assert facts([suppressed, moved]) == [((3, 5), torch.bool), ((3, 4), wide)]
