"""Choosing, NMS and pooling with fixed sizes against mmcv and mmdet, which drop rows."""

import pytest
import torch

pytest.importorskip("onnxscript")
import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmcv and mmdet are imported)

# isort: split
from mmcv.ops import batched_nms
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures.bbox import bbox2roi
from op_cases import random_boxes

from convnext_dense.mm.export import fixed_size as fixed


def test_the_best_are_those_of_topk_and_then_fillers():
    scores = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))
    values, places = fixed.best(scores, 4)
    expected = scores.topk(4)
    assert torch.equal(values, expected.values) and torch.equal(places, expected.indices)
    values, places = fixed.best(scores, 9)
    expected = scores.sort(descending=True)
    assert torch.equal(values[:, :7], expected.values) and torch.equal(places[:, :7], expected.indices)
    assert (values[:, 7:] == fixed.NOTHING).all() and (places < 7).all()


def test_taking_rows_is_indexing():
    values = torch.arange(30.0).view(2, 5, 3)
    places = torch.tensor([[4, 0, 0], [2, 3, 1]])
    expected = torch.stack([rows[index] for rows, index in zip(values, places, strict=True)])
    assert torch.equal(fixed.take(values, places), expected)


def test_boxes_are_clipped_to_their_own_image():
    boxes = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0)) * 100
    clipped = fixed.clipped(boxes, torch.tensor([[40, 90], [70, 20]]))
    for found, box, (h, w) in zip(clipped, boxes, [(40, 90), (70, 20)], strict=True):
        assert torch.equal(found[:, 0::2], box[:, 0::2].clamp(0, w))
        assert torch.equal(found[:, 1::2], box[:, 1::2].clamp(0, h))


def test_small_boxes_lose_their_score():
    boxes = torch.tensor([[[0.0, 0.0, 3.0, 9.0], [0.0, 0.0, 3.1, 3.1], [5.0, 5.0, 5.0, 9.0]]])
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    nothing = fixed.NOTHING
    assert torch.equal(fixed.without_small(scores, boxes, -1), scores), "mmdet filters from 0 on"
    assert fixed.without_small(scores, boxes, 0).tolist() == [pytest.approx([0.9, 0.8, nothing])]
    assert fixed.without_small(scores, boxes, 3).tolist() == [pytest.approx([nothing, 0.8, nothing])]


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("count", [1, 40, 300])
def test_nms_keeps_the_boxes_of_mmcv_in_its_order(count, threshold):
    """Images of a batch have different numbers of boxes; fillers lie anywhere, also far outside."""
    lists = [random_boxes(count, seed=seed) for seed in range(3)]
    boxes, scores = (torch.stack(parts) for parts in zip(*lists, strict=True))
    g = torch.Generator().manual_seed(count)
    labels = torch.randint(0, 4, scores.shape, generator=g)
    there = torch.rand(scores.shape, generator=g) < torch.tensor([[1.0], [0.6], [0.0]])
    boxes = torch.where(there[..., None], boxes, 1e5)
    kept = fixed.suppressed(boxes, torch.where(there, scores, fixed.NOTHING), labels, threshold)
    values, places = fixed.best(kept, count)
    for image, valid in enumerate(there):
        present = valid.nonzero().flatten()
        expected, keep = torch.zeros(0, 5), present
        if len(present):
            cfg = dict(type="nms", iou_threshold=threshold)
            expected, keep = batched_nms(
                boxes[image][present], scores[image][present], labels[image][present], cfg
            )
        n = len(expected)
        assert torch.equal(places[image, :n], present[keep][:n])
        assert torch.equal(values[image, :n], expected[:, 4])
        assert (values[image, n:] == fixed.NOTHING).all()


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("strides", [(4,), (4, 8, 16, 32)])
def test_pooling_is_that_of_mmdet(strides, ratio):
    extractor = SingleRoIExtractor(
        roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=ratio),
        out_channels=3,
        featmap_strides=list(strides),
    )
    g = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 3, 512 // s, 384 // s, generator=g) for s in (4, 8, 16, 32, 64)]
    boxes = torch.stack([random_boxes(40, size=float(size), seed=size)[0] for size in (40, 900)])
    boxes[1, :3] = torch.tensor([-20.0, 5.0, 500.0, 480.0])  # of the coarsest level, and beyond the image
    boxes[0, :3] = 0  # fillers: no area, at the corner
    expected = extractor(tuple(levels[: len(strides)]), bbox2roi(list(boxes)))
    levels_of = extractor.map_roi_levels(bbox2roi(list(boxes)), len(strides))
    assert len(levels_of.unique()) == len(strides), "boxes of all levels"
    found = fixed.pool(extractor, levels, boxes, 7)
    assert found.shape == (80, 3, 7, 7)
    assert torch.allclose(found, expected, atol=1e-6)
