"""Averages of windows equal mmseg's, and resized logits equal ``F.interpolate``."""

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from torch.nn import functional as F

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmseg is imported)
from convnext_dense.errors import UserError
from convnext_dense.export import windows
from convnext_dense.export.windows import label_map, resize_bands, resize_labels, slide

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(4, 3)).astype(np.float32)


def network(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) -> (4, h, w): what it says of a pixel depends on the whole window."""
    logits = np.einsum("oc,hwc->ohw", WEIGHT, pixels.astype(np.float32) / 255)
    ramp = np.linspace(0, 1, pixels.shape[0], dtype=np.float32)[:, None]
    return logits + ramp * np.float32(pixels.mean() / 255)


def by_mmseg(picture, crop, stride):
    """mmseg's own loop over windows with the same network."""
    from mmseg.models.segmentors import EncoderDecoder

    class Segmentor(EncoderDecoder):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.test_cfg = ConfigDict(mode="slide", crop_size=crop, stride=stride)
            self.out_channels = 4

        def encode_decode(self, inputs, metas):
            return torch.tensor(network(inputs[0].permute(1, 2, 0).numpy()))[None]

    meta = dict(ori_shape=picture.shape[:2], img_shape=picture.shape[:2])
    inputs = torch.tensor(picture).permute(2, 0, 1)[None].float()
    return Segmentor().slide_inference(inputs, [meta])[0].numpy()


@pytest.mark.parametrize("band_bytes", [1, 3000, 2**20])
@pytest.mark.parametrize(
    ("hw", "crop", "stride"),
    [
        ((60, 80), (32, 32), (21, 21)),
        ((61, 83), (32, 48), (21, 32)),
        ((32, 32), (32, 32), (32, 32)),
        ((20, 90), (32, 32), (21, 21)),  # lower than a window
        ((20, 30), (32, 32), (21, 21)),  # smaller than a window
        ((64, 64), (32, 32), (32, 32)),
    ],
)
def test_averages_are_mmsegs(monkeypatch, hw, crop, stride, band_bytes):
    monkeypatch.setattr(windows, "_BAND_BYTES", band_bytes)
    picture = RNG.integers(0, 256, (*hw, 3), np.uint8)
    bands = list(slide(picture, crop, stride, network))
    np.testing.assert_allclose(np.concatenate(bands, 1), by_mmseg(picture, crop, stride), atol=2e-6)


def test_gaps_between_windows_are_refused():
    with pytest.raises(UserError, match="leaves gaps"):
        list(slide(np.zeros((40, 40, 3), np.uint8), (16, 16), (20, 16), network))


def cut(logits: np.ndarray) -> list[np.ndarray]:
    places = np.sort(RNG.integers(1, logits.shape[1] + 1, 3))
    return [band for band in np.split(logits, places, 1) if band.shape[1]]


@pytest.mark.parametrize("band_bytes", [1, 3000, 2**20])
@pytest.mark.parametrize("align_corners", [False, True])
def test_resized_logits_are_those_of_torch(monkeypatch, align_corners, band_bytes):
    monkeypatch.setattr(windows, "_BAND_BYTES", band_bytes)
    for _ in range(60):
        classes, h, w, new_h, new_w = (int(n) for n in RNG.integers(1, [6, 90, 90, 150, 150]))
        logits = RNG.normal(size=(classes, h, w)).astype(np.float32)
        bands = resize_bands(cut(logits), (h, w), (new_h, new_w), align_corners)
        expected = F.interpolate(
            torch.tensor(logits)[None], (new_h, new_w), mode="bilinear", align_corners=align_corners
        )
        resized = np.concatenate(list(bands), 1)
        np.testing.assert_allclose(resized, expected[0].numpy(), atol=1e-5)


def test_labels_are_the_largest_logits_or_a_binary_map():
    logits = RNG.normal(size=(5, 12, 9)).astype(np.float32)
    labels = label_map(cut(logits), None)
    assert labels.dtype == np.uint8 and np.array_equal(labels, torch.tensor(logits).argmax(0).numpy())
    one = 200 * RNG.normal(size=(1, 12, 9)).astype(np.float32)
    expected = (torch.tensor(one[0]).sigmoid() > 0.3).numpy()
    assert np.array_equal(label_map([one], 0.3), expected)
    assert label_map([np.zeros((300, 2, 2), np.float32)], None).dtype == np.uint16


def test_labels_are_resized_to_the_nearest():
    labels = RNG.integers(0, 9, (7, 5))
    assert np.array_equal(resize_labels(labels, (7, 5)), labels)
    expected = F.interpolate(torch.tensor(labels)[None, None].float(), (20, 3), mode="nearest-exact")
    assert np.array_equal(resize_labels(labels, (20, 3)), expected[0, 0].numpy())
