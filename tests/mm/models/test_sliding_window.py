"""Windows in batches and labels in bands, against mmseg's own loop and ``F.interpolate`` on whole maps."""

import copy

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from repository import ROOT
from torch import nn
from torch.nn import functional as F

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmseg is imported)
from convnext_dense.errors import UserError
from convnext_dense.mm.models import sliding_window
from convnext_dense.mm.models.sliding_window import (
    BoundedPredict,
    bound_predictions,
    choose_window_batch,
    crop_bands,
    resize_bands,
)
from convnext_dense.support.windows import window_starts

GIB = 2**30


def varied(model):
    """The random model with logits of zero mean and unit variance per class, so that none is everywhere."""
    conv = model.decode_head.conv_seg
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        image = torch.randn(1, 3, 96, 96, generator=generator)
        std, mean = torch.std_mean(model.encode_decode(image, [dict(img_shape=(96, 96))]), (0, 2, 3))
        conv.bias.copy_((conv.bias - mean) / std)
        conv.weight.div_(std[:, None, None, None])
    return model


@pytest.fixture(scope="module")
def segmentor():
    """UperNet of the demo with random weights, sliding windows of 64x96 with a stride of 43x51."""
    cfg = Config.fromfile(ROOT / "configs/demo/upernet_shapes.py")
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    model.init_weights()
    varied(model)
    model.test_cfg = ConfigDict(mode="slide", crop_size=(64, 96), stride=(43, 51))
    return model


@pytest.fixture
def model(segmentor):
    """The segmentor as mmseg builds it, with its own test_cfg."""
    state = segmentor.test_cfg
    segmentor.test_cfg = copy.deepcopy(state)
    segmentor.__dict__.pop("predict", None)
    yield segmentor
    segmentor.test_cfg = state
    segmentor.__dict__.pop("predict", None)


def meta(height: int, width: int, **more) -> dict:
    return dict(ori_shape=(height, width), img_shape=(height, width), pad_shape=(height, width), **more)


def sample(entries: dict):
    from mmseg.structures import SegDataSample

    return SegDataSample(metainfo=entries)


def labels_of(samples: list) -> list[torch.Tensor]:
    return [item.pred_sem_seg.data for item in samples]


@pytest.mark.parametrize(
    ("free", "pixels", "classes", "expected"),
    [
        (16 * GIB, 512 * 512, 150, 10),  # 0.79 GiB per window, half of the memory
        (16 * GIB, 640 * 640, 150, 6),
        (80 * GIB, 512 * 512, 150, 16),  # the largest batch
        (1 * GIB, 640 * 640, 150, 1),
        (0, 512 * 512, 150, 1),
    ],
)
def test_the_batch_follows_from_the_memory(free, pixels, classes, expected):
    assert choose_window_batch(free, pixels, classes) == expected


@pytest.mark.parametrize(
    ("size", "window", "stride", "starts"),
    [
        (512, 512, 341, [0]),
        (300, 512, 341, [0]),
        (683, 512, 341, [0, 171]),
        (2048, 512, 512, [0, 512, 1024, 1536]),
    ],
)
def test_window_starts(size, window, stride, starts):
    assert window_starts(size, window, stride) == starts


def test_windows_with_gaps_are_refused():
    with pytest.raises(UserError, match="stride 700 leaves gaps"):
        window_starts(2048, 512, 700)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("size_in", "size_out"),
    [((40, 30), (95, 71)), ((95, 71), (40, 30)), ((33, 20), (33, 47)), ((50, 20), (7, 20)), ((1, 9), (5, 9))],
)
def test_a_resize_in_bands_is_that_of_the_whole_map(size_in, size_out, align_corners, monkeypatch):
    monkeypatch.setattr(sliding_window, "BAND_BYTES", 2000)  # a few rows
    whole = torch.randn(1, 3, *size_in, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(whole, size_out, mode="bilinear", align_corners=align_corners)
    for sizes in (3, 1, 1000):
        found = list(resize_bands(iter(whole.split(sizes, 2)), size_in, size_out, align_corners))
        torch.testing.assert_close(torch.cat(found, 2), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rows", [1, 4, 20])
def test_bands_lose_their_padding(rows):
    whole = torch.randn(1, 2, 20, 10)
    found = torch.cat(list(crop_bands(iter(whole.split(rows, 2)), 20, (1, 2, 5, 3))), 2)
    torch.testing.assert_close(found, whole[:, :, 5:17, 1:8], atol=0, rtol=0)


@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize("size", [(64, 96), (150, 201), (131, 97), (40, 50), (50, 260), (203, 64)])
def test_logits_equal_mmsegs_one_by_one(model, size, batch, monkeypatch):
    monkeypatch.setattr(sliding_window, "BAND_BYTES", 30_000)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model.slide_inference(images, [meta(*size), meta(*size)])
        for image, whole in zip(images, expected, strict=True):
            bands = list(BoundedPredict(model, batch).window_bands(image[None], meta(*size)))
            torch.testing.assert_close(torch.cat(bands, 2)[0], whole, atol=1e-5, rtol=0)
    assert expected.std() > 0.1, "meaningful logits"


def test_windows_go_through_the_network_in_equal_batches(model, monkeypatch):
    seen = []
    original = model.encode_decode
    monkeypatch.setattr(model, "encode_decode", lambda x, metas: seen.append(len(x)) or original(x, metas))
    image = torch.zeros(1, 3, 150, 198)  # 3 x 3 windows
    with torch.no_grad():
        list(BoundedPredict(model, 8).window_bands(image, meta(150, 198)))
    assert seen == [5, 4]


@pytest.mark.parametrize("mode", ["slide", "whole"])
@pytest.mark.parametrize(
    "more", [{}, dict(flip=True, flip_direction="horizontal"), dict(padding_size=[3, 5, 2, 9])]
)
def test_label_maps_equal_mmsegs(model, mode, more, monkeypatch):
    monkeypatch.setattr(sliding_window, "BAND_BYTES", 30_000)
    model.test_cfg.mode = mode
    images = torch.randn(2, 3, 110, 141, generator=torch.Generator().manual_seed(3))
    metas = [meta(110, 141, **more) for _ in images]
    metas[1]["ori_shape"] = (151, 90)
    with torch.no_grad():
        expected = labels_of(model.predict(images, [sample(entry) for entry in metas]))
        bound_predictions(model, 4 if mode == "slide" else None)
        found = model.predict(images, [sample(entry) for entry in metas])
    for ours, theirs in zip(labels_of(found), expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        # a flip before or after the resize rounds differently where two classes tie
        assert (ours != theirs).float().mean() <= (1e-3 if more.get("flip") else 0)
        assert len(ours.unique()) > 1
    assert "seg_logits" not in found[0]


def test_vertical_flips_and_binary_maps(model, monkeypatch):
    monkeypatch.setattr(sliding_window, "BAND_BYTES", 8_000)
    image = torch.randn(1, 3, 100, 120, generator=torch.Generator().manual_seed(4))
    entry = meta(100, 120, flip=True, flip_direction="vertical")
    predict = BoundedPredict(model, 4)
    with torch.no_grad():
        (expected,) = labels_of(model.predict(image, [sample(entry)]))
        (found,) = labels_of(predict(image, [sample(entry)]))
    assert torch.equal(found, expected)
    model.decode_head.threshold = 0.3
    binary = predict.labels(torch.tensor([[[-2.0, -0.5, 0.0]]]))
    assert binary.tolist() == [[[0, 1, 1]]]
    assert binary.dtype == torch.int64, "class numbers, as of other heads"


def test_without_samples_the_input_is_the_original(model):
    image = torch.randn(1, 3, 100, 120)
    with torch.no_grad():
        (expected,) = labels_of(model.predict(image))
        (found,) = labels_of(BoundedPredict(model, 4)(image))
    assert torch.equal(found, expected)


class _Column(nn.Module):
    """A segmentor of 150 classes without a network: the class of a pixel is its first channel."""

    align_corners = False
    out_channels = 150
    test_cfg = ConfigDict(mode="slide", crop_size=(512, 512), stride=(341, 341))

    def encode_decode(self, images, metas):
        return (images[:, :1] == torch.arange(150).view(1, 150, 1, 1)).float()


def test_a_large_image_never_has_a_map_of_all_classes(monkeypatch):
    """1500 x 1100 pixels of 150 classes are 0.99 GB; no tensor comes near, and every label is right."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, list | tuple) else [result]:
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return result

    height, width = 1500, 1100
    truth = (torch.arange(height)[:, None] // 16 + torch.arange(width) // 64) % 150
    image = truth.float()[None, None].expand(1, 3, -1, -1)
    with Largest() as largest:
        (found,) = labels_of(BoundedPredict(_Column(), 1)(image, [sample(meta(height, width))]))
    assert torch.equal(found[0], truth)
    assert largest.elements <= 150 * 512 * width, "one row of windows"


def test_what_is_bounded_and_what_is_left_alone(model):
    assert bound_predictions(nn.Linear(1, 1)) is None
    with pytest.raises(UserError, match="Linear does not predict"):
        bound_predictions(nn.Linear(1, 1), 4)
    assert "96x64 pixels; batch: 4" in bound_predictions(nn.DataParallel(model), 4)
    assert isinstance(model.predict, BoundedPredict)
    model.test_cfg.mode = "whole"
    assert bound_predictions(model) is None
    with pytest.raises(UserError, match="whole images"):
        bound_predictions(model, 4)

    class Own(type(model)):
        def slide_inference(self, inputs, batch_img_metas):
            raise NotImplementedError

    model.__class__, original = Own, model.__class__
    try:
        del model.__dict__["predict"]
        assert bound_predictions(model) is None
        assert "predict" not in model.__dict__
    finally:
        model.__class__ = original
