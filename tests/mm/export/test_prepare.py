"""Pixels to inputs of the network against the preprocessors of mmdet and mmseg."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("onnxscript")
import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet and mmseg are imported)

# isort: split
from mmdet.models import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample

from convnext_dense.mm.export.load import divisor_of
from convnext_dense.mm.export.prepare import Prepare

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def pictures(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    """RGB images (3, H, W) uint8."""
    g = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *hw), dtype=torch.uint8, generator=g) for hw in sizes]


def bgr(images: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the pipelines of mmdet and mmseg load."""
    return [image.flip(0) for image in images]


def prepared(preprocessor, images, sizes=None, smallest=0) -> torch.Tensor:
    return Prepare(preprocessor, divisor_of(preprocessor), smallest)(images, sizes)


DET = {
    "recipe": dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32),
    "caffe": dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], pad_size_divisor=32),
    "pad value": dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=20, pad_value=1.5),
    "no mean": dict(bgr_to_rgb=True, pad_size_divisor=16),
    "no padding": dict(mean=MEAN, std=STD, bgr_to_rgb=True),
}


@pytest.mark.parametrize("case", DET)
@pytest.mark.parametrize("hw", [(64, 96), (37, 101), (1, 33)])
def test_as_mmdet(case, hw):
    preprocessor = DetDataPreprocessor(**DET[case])
    images = pictures(hw, hw)
    data = dict(inputs=bgr(images), data_samples=[DetDataSample(metainfo=dict(img_shape=hw))] * 2)
    expected = preprocessor(data)["inputs"]
    found = prepared(preprocessor, torch.stack(images))
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(prepared(preprocessor, torch.stack(images).float()), found), "float pixels, too"


def test_sizes_pad_as_mmdet_pads_a_batch():
    """Images of different sizes in a batch: what is beyond their sides counts for nothing."""
    preprocessor = DetDataPreprocessor(**DET["pad value"])
    images = pictures((37, 101), (60, 55))
    samples = [DetDataSample(metainfo=dict(img_shape=tuple(x.shape[1:]))) for x in images]
    expected = preprocessor(dict(inputs=bgr(images), data_samples=samples))["inputs"]
    filled = torch.stack([F.pad(x, (0, 101 - x.shape[2], 0, 60 - x.shape[1]), value=77) for x in images])
    found = prepared(preprocessor, filled, torch.tensor([[37, 101], [60, 55]]))
    assert torch.allclose(found, expected, atol=1e-5)


SEG = {
    "recipe": dict(mean=MEAN, std=STD, bgr_to_rgb=True, size=(512, 512)),
    "bgr": dict(mean=MEAN, std=STD, size=(512, 512)),
    "padded": dict(mean=MEAN, std=STD, bgr_to_rgb=True, pad_val=2, test_cfg=dict(size_divisor=32)),
    "no mean": dict(bgr_to_rgb=True, size=(512, 512)),
}


@pytest.mark.parametrize("case", SEG)
@pytest.mark.parametrize("hw", [(64, 96), (37, 101)])
def test_as_mmseg(case, hw):
    preprocessor = SegDataPreProcessor(**SEG[case])
    images = pictures(hw, hw)
    data = dict(inputs=bgr(images), data_samples=[SegDataSample(metainfo=dict(img_shape=hw))] * 2)
    expected = preprocessor(data)["inputs"]
    found = prepared(preprocessor, torch.stack(images))
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("hw", [(5, 70), (40, 8), (40, 70)])
def test_small_images_are_padded_as_ours_are_elsewhere(hw):
    """`pad_small_inputs` does it for commands that predict with PyTorch; it is tested on its own."""
    preprocessor = SegDataPreProcessor(mean=MEAN, std=STD, bgr_to_rgb=True, pad_val=1)
    (image,) = pictures(hw)
    plain = preprocessor(dict(inputs=bgr([image])))["inputs"]
    expected = F.pad(plain, (0, max(32 - hw[1], 0), 0, max(32 - hw[0], 0)), value=1)
    assert torch.allclose(prepared(preprocessor, image[None], smallest=32), expected, atol=1e-5)
