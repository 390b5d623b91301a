"""Statistics of the COCO training pipeline against the released policy."""

import functools

import pytest
import torch
from mmengine.registry import init_default_scope
from published import config

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)

RUNS = 600


@functools.cache
def pipeline_outputs() -> list[tuple[tuple, list]]:
    """(final (height, width), crops as (before, after)) of each run over a 640x480 image."""
    import numpy as np
    from mmcv.transforms import Compose
    from mmdet.datasets.transforms import RandomCrop
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    init_default_scope("mmdet")
    pipeline = Compose(config("mask_rcnn/convnext_t_3x").train_pipeline[2:-1])  # neither load nor pack
    crops: list = []
    original = RandomCrop.transform

    def recorded(self, results):
        before = results["img"].shape[:2]
        out = original(self, results)
        crops.append((before, out["img"].shape[:2]))
        return out

    outputs = []
    np.random.seed(0)
    RandomCrop.transform = recorded
    try:
        for _ in range(RUNS):
            crops.clear()
            results = pipeline(
                dict(
                    img=np.zeros((480, 640, 3), np.uint8),
                    img_shape=(480, 640),
                    ori_shape=(480, 640),
                    gt_bboxes=HorizontalBoxes(torch.tensor([[100.0, 100.0, 300.0, 300.0]])),
                    gt_bboxes_labels=np.zeros(1, np.int64),
                    gt_ignore_flags=np.zeros(1, bool),
                    gt_masks=BitmapMasks(np.ones((1, 480, 640), np.uint8), 480, 640),
                )
            )
            assert (
                results["img"].shape[:2] == results["gt_masks"].masks.shape[1:]
                or len(results["gt_masks"]) == 0
            )
            outputs.append((results["img"].shape[:2], list(crops)))
    finally:
        RandomCrop.transform = original
    return outputs


def test_half_of_the_images_are_cropped():
    share = sum(bool(crops) for _, crops in pipeline_outputs()) / RUNS
    assert share == pytest.approx(0.5, abs=0.06)  # three standard deviations


def test_scales_are_uniform_from_480_to_800():
    shorter = [min(shape) for shape, crops in pipeline_outputs() if not crops]
    assert set(shorter) == set(range(480, 801, 32))
    counts = [shorter.count(size) for size in range(480, 801, 32)]
    expected = len(shorter) / 11
    chi_square = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_square < 29.6  # 99.9% quantile at 10 degrees of freedom


def test_crops_are_384_to_600_pixels_of_an_image_resized_to_400_500_or_600():
    cropped = [(crops[0], shape) for shape, crops in pipeline_outputs() if crops]
    assert {min(before) for (before, _), _ in cropped} == {400, 500, 600}
    for (before, after), final in cropped:
        for limit, side in zip(before, after, strict=True):
            assert min(384, limit) <= side <= min(600, limit)
        assert max(final) <= 1333 and min(final) <= 800
