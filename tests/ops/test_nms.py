"""NMS against hand-computed numbers and the textbook loops."""

import sys

import pytest
import torch
from op_cases import loop_iou, loop_nms, loop_soft_nms, random_boxes

from convnext_dense.ops import batched_nms, nms, soft_nms

pytestmark = pytest.mark.usefixtures("portable")


def test_by_hand():
    # IoU: a and b share 9 columns of 11 (0.82), a and c 5 of 15 (0.33), b and c 6 of 14 (0.43).
    a, b, c, d = [0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [50, 50, 60, 60]
    boxes, scores = torch.tensor([c, a, d, b]).float(), torch.tensor([0.7, 0.9, 0.1, 0.8])
    assert nms(boxes, scores, 0.5).tolist() == [1, 0, 2]
    assert nms(boxes, scores, 0.3).tolist() == [1, 2]
    assert nms(boxes, scores, 0.9).tolist() == [1, 3, 0, 2]


def test_threshold_is_exclusive_and_the_offset_widens():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]])  # IoU exactly 1/2
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]
    touching = torch.tensor([[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 2.0, 1.0]])  # 2 of 6 pixels with offset 1
    assert nms(touching, torch.tensor([0.9, 0.8]), 0.3, offset=0).tolist() == [0, 1]
    assert nms(touching, torch.tensor([0.9, 0.8]), 0.3, offset=1).tolist() == [0]


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 700])
@pytest.mark.parametrize("offset", [0, 1])
def test_equals_the_loop(count, offset):
    boxes, scores = random_boxes(count, seed=count)
    order = scores.argsort(descending=True).tolist()
    for threshold in (0.0, 0.3, 0.7):
        assert nms(boxes, scores, threshold, offset).tolist() == loop_nms(boxes, order, threshold, offset)


def test_tiles_change_nothing(monkeypatch):
    boxes, scores = random_boxes(400)
    expected = nms(boxes, scores, 0.4)
    monkeypatch.setattr(sys.modules["convnext_dense.ops.nms"], "_TILE", 7)
    monkeypatch.setattr(sys.modules["convnext_dense.ops.nms"], "_BLOCK", 3)
    assert torch.equal(nms(boxes, scores, 0.4), expected)


def test_a_chain_of_overlaps_longer_than_a_block():
    # Each box overlaps only its neighbours: the greedy answer is every other box, settled one at a time.
    x = torch.arange(600.0) * 6
    boxes = torch.stack([x, 0 * x, x + 10, 0 * x + 10], 1)  # IoU of neighbours 4/16
    assert nms(boxes, -x, 0.2).tolist() == list(range(0, 600, 2))


def test_thousands_of_equal_scores():
    boxes, _ = random_boxes(2000, size=200.0)
    scores = torch.full((2000,), 0.5)
    kept = nms(boxes, scores, 0.5).tolist()
    assert kept == loop_nms(boxes, scores.sort(descending=True)[1].tolist(), 0.5)


def test_boxes_without_area_never_suppress_each_other():
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]] * 3)
    assert nms(point, torch.tensor([0.3, 0.2, 0.1]), 0.5).tolist() == [0, 1, 2]
    assert nms(point, torch.tensor([0.3, 0.2, 0.1]), 0.5, offset=1).tolist() == [0]


def test_no_boxes():
    kept = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64
    rows, kept = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert rows.shape == (0, 5)
    assert kept.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float64])
def test_other_dtypes_overlap_in_float32_or_better(dtype):
    boxes, scores = random_boxes(120)
    boxes = boxes.to(dtype)
    order = scores.argsort(descending=True).tolist()
    assert nms(boxes, scores, 0.5).tolist() == loop_nms(boxes.double(), order, 0.5)


def test_batched_keeps_labels_apart():
    boxes, scores = random_boxes(300)
    labels = torch.randint(0, 5, (300,), generator=torch.Generator().manual_seed(0)) * 2**40  # beyond float32
    expected = []
    for label in labels.unique():
        mine = (labels == label).nonzero().flatten()
        expected += mine[nms(boxes[mine], scores[mine], 0.3)].tolist()
    expected.sort(key=lambda i: -scores[i].item())
    assert batched_nms(boxes, scores, labels, 0.3).tolist() == expected
    assert len(expected) > len(nms(boxes, scores, 0.3))


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
def test_soft_equals_the_loop(method, offset):
    boxes, scores = random_boxes(150, seed=3)
    boxes, scores = boxes.double(), scores.double()
    rows, kept = soft_nms(boxes, scores, 0.3, 0.4, 0.05, method, offset)
    expected = loop_soft_nms(boxes, scores, 0.3, 0.4, 0.05, method, offset)
    decayed = torch.tensor([score for _, score in expected], dtype=torch.float64)
    assert kept.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(rows[:, 4], decayed, rtol=1e-12, atol=0)
    assert torch.equal(rows[:, :4], boxes[kept])


def test_soft_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [20.0, 0.0, 30.0, 10.0]])  # IoU 1/2
    assert loop_iou(boxes[0].tolist(), boxes[1].tolist(), 0) == 0.5
    rows, kept = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.5]), 0.3, method="linear")
    assert kept.tolist() == [0, 2, 1]
    torch.testing.assert_close(rows[:, 4], torch.tensor([0.9, 0.5, 0.4]))
    assert soft_nms(boxes, torch.tensor([0.9, 0.8, 0.5]), 0.3, method="naive")[1].tolist() == [0, 2]


def test_inputs_are_left_alone():
    boxes, scores = random_boxes(50)
    before = boxes.clone(), scores.clone()
    nms(boxes, scores, 0.5)
    soft_nms(boxes, scores)
    assert torch.equal(boxes, before[0])
    assert torch.equal(scores, before[1])


def test_bad_input_is_refused():
    boxes, scores = random_boxes(3)
    with pytest.raises(ValueError, match=r"boxes: want \(N, 4\)"):
        nms(boxes[:, :3], scores, 0.5)
    with pytest.raises(ValueError, match=r"scores: want \(3,\)"):
        nms(boxes, scores[:2], 0.5)
    with pytest.raises(ValueError, match=r"offset=2; use one of \(0, 1\)"):
        nms(boxes, scores, 0.5, offset=2)
    with pytest.raises(ValueError, match="labels: want"):
        batched_nms(boxes, scores, torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="'naive', 'linear', 'gaussian'"):
        soft_nms(boxes, scores, method="hard")
