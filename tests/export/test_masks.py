"""Masks equal those of mmdet's FCNMaskHead, and run lengths equal pycocotools' bytes."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)
from convnext_dense.data.coco_masks import run_lengths
from convnext_dense.export.masks import Mask, compressed, paste_mask, paste_masks

RNG = np.random.default_rng(0)


def by_mmdet(probabilities, boxes, hw, threshold):
    """Masks of mmdet's own head for boxes of the image."""
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead

    head = FCNMaskHead(num_convs=0, in_channels=1, conv_out_channels=1, num_classes=1)
    logits = torch.special.logit(torch.tensor(probabilities, dtype=torch.float64)).float()[:, None]
    results = InstanceData(bboxes=torch.tensor(boxes), labels=torch.zeros(len(boxes), dtype=torch.long))
    meta = dict(ori_shape=hw, scale_factor=(1.0, 1.0))
    cfg = ConfigDict(mask_thr_binary=threshold)
    (results,) = head.predict_by_feat([logits], [results], [meta], cfg, rescale=True)
    return results.masks.numpy(), logits.sigmoid()[:, 0].numpy()


def some_boxes(hw, count):
    """Boxes that begin and end anywhere, also outside the image, but touch it."""
    corners = RNG.uniform(-20, np.array([hw[1], hw[0]]) + 20, (count * 4, 2, 2)).astype(np.float32)
    corners.sort(1)
    boxes = corners.reshape(-1, 4)
    boxes[::5] = boxes[::5].round()
    touching = (boxes[:, 2:] > 2).all(1) & (boxes[:, 0] < hw[1] - 2) & (boxes[:, 1] < hw[0] - 2)
    return boxes[touching][:count]


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("hw", [(120, 160), (333, 201), (9, 700)])
def test_masks_are_mmdets(hw, threshold):
    boxes = some_boxes(hw, 60)
    expected, probabilities = by_mmdet(RNG.random((len(boxes), 28, 28)), boxes, hw, threshold)
    masks = paste_masks(probabilities, boxes, hw, threshold)
    pasted = np.stack([mask.full() for mask in masks])
    assert expected.any((1, 2)).mean() > 0.9 and pasted.shape == expected.shape
    assert (pasted != expected).sum() <= 2, "but for rare ties"
    assert [mask.area() for mask in masks] == pasted.sum((1, 2)).tolist()


def test_smooth_masks_are_mmdets_too():
    """As networks predict them: a blob, sure inside and outside."""
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    blobs = np.stack(
        [1 / (1 + np.exp(20 * (x**2 / a + y**2 / b - 0.6))) for a, b in RNG.uniform(0.5, 2, (40, 2))]
    )
    boxes = some_boxes((300, 400), 40)
    expected, probabilities = by_mmdet(blobs[: len(boxes)], boxes, (300, 400), 0.5)
    pasted = np.stack([mask.full() for mask in paste_masks(probabilities, boxes, (300, 400), 0.5)])
    assert np.array_equal(pasted, expected)


def test_boxes_outside_the_image_or_without_width_have_no_or_any_mask():
    """mmdet stops at the first kind, and takes the middle column of the probabilities for the second."""
    full = np.ones((28, 28), np.float32)
    for box in ([50, 50, 60, 60], [-30, -30, -20, -20], [5, -9, 8, -3]):
        mask = paste_mask(full, np.array(box, np.float32), (20, 30), 0.5)
        assert not mask.full().any() and mask.full().shape == (20, 30)
    box = np.array([[7, 3, 7, 12]], np.float32)
    expected, probabilities = by_mmdet(np.full((1, 28, 28), 0.9), box, (20, 30), 0.5)
    assert np.array_equal(paste_mask(probabilities[0], box[0], (20, 30), 0.5).full(), expected[0])


def pycocotools_counts(pixels: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_run_lengths_are_those_of_pycocotools(share):
    for _ in range(40):
        h, w = (int(side) for side in RNG.integers(1, 90, 2))
        top, left = int(RNG.integers(0, h)), int(RNG.integers(0, w))
        pixels = RNG.random((int(RNG.integers(0, h - top + 1)), int(RNG.integers(0, w - left + 1)))) < share
        mask = Mask((h, w), top, left, pixels)
        rle = mask.as_rle()
        assert rle == {"size": [h, w], "counts": pycocotools_counts(mask.full())}
        assert sum(run_lengths(rle["counts"])) == h * w


def test_run_lengths_of_whole_images():
    for pixels in (np.zeros((700, 900), bool), np.ones((700, 900), bool), np.eye(3000, dtype=bool)):
        assert Mask(pixels.shape, 0, 0, pixels).as_rle()["counts"] == pycocotools_counts(pixels)


def test_the_decoder_reads_any_numbers_back():
    for _ in range(200):
        lengths = RNG.integers(0, 10 ** RNG.integers(1, 9), RNG.integers(1, 40))
        assert run_lengths(compressed(lengths)) == lengths.tolist()
