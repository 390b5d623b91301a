"""Images below the stride are padded, and their predictions are those of the padded image, cropped."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData

from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.models.sliding_window import bound_predictions
from convnext_dense.mm.models.small_inputs import pad_small_inputs, smallest_side

MODES = {
    "whole": ConfigDict(mode="whole"),
    "slide": ConfigDict(mode="slide", crop_size=(48, 48), stride=(32, 32)),
}


@pytest.fixture(scope="module")
def model():
    from mmseg.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(load_config("demo/upernet_shapes").model).eval()
    return model


def sample(h, w, **more):
    from mmseg.structures import SegDataSample

    return SegDataSample(metainfo=dict(ori_shape=(h, w), img_shape=(h, w), **more))


def image(h, w):
    return torch.randint(0, 256, (3, h, w), generator=torch.Generator().manual_seed(h * w), dtype=torch.uint8)


def predicted(model, pixels):
    with torch.no_grad():
        (found,) = model.test_step(dict(inputs=[pixels], data_samples=[sample(*pixels.shape[1:])]))
    return found.pred_sem_seg.data


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_small_and_flat_images(model, mode, bound, monkeypatch):
    monkeypatch.setattr(model, "test_cfg", MODES[mode])
    large = (
        predicted(model, image(40, 33)) if not getattr(model.data_preprocessor, "pads_small", False) else None
    )
    pad_small_inputs(model)
    pad_small_inputs(model)
    assert len(model.data_preprocessor._forward_hooks) == 1
    if bound:
        bound_predictions(model)
    try:
        for h, w in ((1, 1), (20, 20), (6, 100), (90, 8), (32, 31)):
            pixels = image(h, w)
            # the mean colour is 0 after normalisation, the value that mmseg pads with
            mean = model.data_preprocessor.mean.flip(0)
            padded = mean.expand(-1, max(h, 32), max(w, 32)).clone()
            padded[:, :h, :w] = pixels
            found = predicted(model, pixels)
            assert found.shape == (1, h, w)
            assert torch.equal(found, predicted(model, padded)[:, :h, :w])
        if large is not None:
            assert torch.equal(predicted(model, image(40, 33)), large), "large ones as before"
    finally:
        model.__dict__.pop("predict", None)


def test_training_pads_labels_as_unlabelled(model):
    pad_small_inputs(model)
    entry = sample(20, 50)
    entry.gt_sem_seg = PixelData(data=torch.ones(1, 20, 50, dtype=torch.long))
    own, model.data_preprocessor.size, model.data_preprocessor.size_divisor = (
        model.data_preprocessor.size,
        None,
        4,
    )
    try:
        batch = model.data_preprocessor(dict(inputs=[image(20, 50)], data_samples=[entry]), True)
    finally:
        model.data_preprocessor.size, model.data_preprocessor.size_divisor = own, None
    assert batch["inputs"].shape == (1, 3, 32, 52)
    labels = batch["data_samples"][0].gt_sem_seg.data[0]
    assert labels.shape == (32, 52)
    assert (labels[:20, :50] == 1).all()
    assert (labels[20:] == 255).all()


def test_detectors_that_pad_to_nothing():
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    cfg = load_config("demo/mask_rcnn_shapes").model
    cfg.data_preprocessor.pad_size_divisor = 1
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg).eval()
    assert smallest_side(model) == 32
    pad_small_inputs(model)
    meta = dict(ori_shape=(6, 40), img_shape=(6, 40), scale_factor=(1.0, 1.0))
    with torch.no_grad():
        (found,) = model.test_step(dict(inputs=[image(6, 40)], data_samples=[DetDataSample(metainfo=meta)]))
    boxes, masks = found.pred_instances.bboxes, found.pred_instances.masks
    assert masks.shape[1:] == (6, 40)
    assert not len(boxes) or (boxes[:, 2].max() <= 40 and boxes[:, 3].max() <= 6)
    assert smallest_side(torch.nn.Linear(1, 1)) == 0
