"""Evaluation batches of several sizes give each image the prediction that it has alone."""

import copy

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.models.mixed_sizes import allow_mixed_sizes, by_size, groups_by_size

DIMS = [8, 16, 24, 32]


def images(*sides):
    torch.manual_seed(0)
    return [torch.randint(0, 256, (3, *side), dtype=torch.uint8) for side in sides]


def test_groups_hold_equal_images_in_their_order():
    assert groups_by_size(images((4, 6), (6, 4), (4, 6), (4, 4), (6, 4))) == [[0, 2], [1, 4], [3]]


def test_predictions_come_back_in_the_order_of_the_batch():
    sizes = []

    def step(data):
        sizes.append([tuple(image.shape[1:]) for image in data["inputs"]])
        return [f"{sample}!" for sample in data["data_samples"]]

    data = dict(inputs=images((4, 6), (6, 4), (4, 6)), data_samples=["a", "b", "c"])
    assert by_size(step, data) == ["a!", "b!", "c!"]
    assert sizes == [[(4, 6), (4, 6)], [(6, 4)]]


def test_augmented_images_stay_together():
    """With augmentations, a batch is a list of views, each a list of images."""
    seen = []

    def step(data):
        seen.append([len(view) for view in data["inputs"]])
        return [sample for sample in data["data_samples"][0]]

    views = [images((4, 6), (6, 4)), images((8, 12), (12, 8))]
    assert by_size(step, dict(inputs=views, data_samples=[["a", "b"], ["a2", "b2"]])) == ["a", "b"]
    assert seen == [[1, 1], [1, 1]]


@pytest.fixture(scope="module")
def segmentor():
    small = {
        "model.backbone.arch": dict(_delete_=True, depths=[1, 1, 1, 1], dims=DIMS),
        "model.decode_head.in_channels": DIMS,
        "model.decode_head.channels": 8,
        "model.auxiliary_head.in_channels": DIMS[2],
    }
    cfg = load_config("demo/upernet_shapes", small)
    init_default_scope("mmseg")
    torch.manual_seed(0)
    return MODELS.build(cfg.model).eval()


def batch(parts):
    from mmseg.structures import SegDataSample  # after the stand-in for mmcv's operators

    samples = []
    for image in parts:
        hw = tuple(image.shape[1:])
        samples.append(SegDataSample(metainfo=dict(ori_shape=hw, img_shape=hw, pad_shape=hw)))
    return dict(inputs=list(parts), data_samples=samples)


@torch.no_grad()
def test_a_segmentor_predicts_each_image_as_alone(segmentor):
    several = images((64, 96), (96, 64), (64, 96))
    with pytest.raises(AssertionError, match="image size in a batch should be the same"):
        segmentor.val_step(batch(several))
    allowed = copy.deepcopy(segmentor)
    allow_mixed_sizes(allowed)
    twin = copy.deepcopy(allowed)  # its step must be its own, not that of the original
    assert twin.val_step.__self__ is twin
    for step in (allowed.val_step, allowed.test_step, twin.test_step):
        found = step(batch(several))
        for image, sample in zip(several, found, strict=True):
            (alone,) = segmentor.test_step(batch([image]))
            assert torch.equal(sample.pred_sem_seg.data, alone.pred_sem_seg.data)
            assert torch.allclose(sample.seg_logits.data, alone.seg_logits.data, atol=1e-5)


def test_detectors_are_left_alone():
    model = torch.nn.Linear(1, 1)
    allow_mixed_sizes(model)
    assert "val_step" not in vars(model)
