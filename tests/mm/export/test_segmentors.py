"""Segmentors from pixels to logits against mmseg's own predictions, in PyTorch."""

import functools

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnxscript")
import exportable
from exportable import SEGMENTORS, as_loaded, pictures
from mmseg.structures import SegDataSample

LOGITS = 1e-5
BINARY = {
    "model__decode_head__out_channels": 1,
    "model__decode_head__num_classes": 2,
    "model__decode_head__loss_decode": dict(type="CrossEntropyLoss", use_sigmoid=True),
}


@functools.cache
def model_of(name: str) -> nn.Module:
    return exportable.build(exportable.config(name))


def predicted(model: nn.Module, images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """mmseg's logits (N, C, H, W), or probabilities of a single class, and labels (N, H, W)."""
    samples = model.test_step(as_loaded(images, SegDataSample))
    logits = torch.stack([sample.seg_logits.data for sample in samples])
    return logits, torch.cat([sample.pred_sem_seg.data for sample in samples]).long()


def check(model: nn.Module, images: list[Tensor], batch: Tensor, sizes: Tensor | None = None) -> None:
    """Compare logits and labels with mmseg's."""
    (logits,) = exportable.network(model)(batch, sizes)
    (labels,) = exportable.network(model, labels=True)(batch, sizes)
    assert logits.shape[2:] == labels.shape[1:] == batch.shape[2:]
    expected, classes = predicted(model, images)
    h, w = expected.shape[2:]
    logits, labels = logits[:, :, :h, :w], labels[:, :h, :w]
    if expected.shape[1] == 1:
        logits = logits.sigmoid()
    scale = max(1.0, float(expected.abs().max()))
    assert torch.allclose(logits, expected, rtol=0, atol=LOGITS * scale)
    assert torch.equal(labels, classes) and labels.dtype == torch.int64
    assert len(classes.unique()) > 1, "several classes, or the labels prove nothing"


@pytest.mark.parametrize("name", SEGMENTORS)
@pytest.mark.parametrize("sizes", [[(64, 96)], [(75, 53), (75, 53)]], ids=["one", "two"])
def test_as_mmseg(name, sizes):
    images = pictures(*sizes)
    check(model_of(name), images, torch.stack(images))


def test_a_single_channel():
    images = pictures((64, 96))
    model = exportable.build(exportable.config("upernet", **BINARY))
    model.decode_head.threshold = float(predicted(model, images)[0].median())
    check(model, images, torch.stack(images))


def test_a_window_of_a_model_that_slides():
    cfg = exportable.config("upernet")
    cfg.model.test_cfg = dict(mode="slide", crop_size=(64, 64), stride=(43, 43))
    images = pictures((64, 64))
    check(exportable.build(cfg), images, torch.stack(images))


@pytest.mark.parametrize("name", ["upernet", "pspnet"])
def test_an_image_filled_up_is_one_that_mmseg_pads(name):
    """mmseg takes all images of a batch to be of one size; pads them to a multiple, and cuts that off."""
    cfg = exportable.config(name)
    cfg.model.data_preprocessor.update(test_cfg=dict(size_divisor=128), pad_val=1)
    images = pictures((75, 100), (75, 100))
    batch = nn.functional.pad(torch.stack(images), (0, 28, 0, 53), value=9)
    check(exportable.build(cfg), images, batch, torch.tensor([[75, 100]] * 2))


def test_images_smaller_than_the_stride():
    images = pictures((20, 50))
    check(model_of("upernet"), images, torch.stack(images))
