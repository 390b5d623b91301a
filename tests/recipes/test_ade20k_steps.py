"""Each ADE20K recipe builds and takes a step: loss, backward, predict."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from published import config
from repository import ROOT

import convnext_dense.mm  # noqa: F401
from convnext_dense import list_configs
from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.models.meta_device import build_on_meta

ALL = [name for name in list_configs() if name.startswith("upernet/")]
# The others differ from these in depth and width. They run on the meta device, at the crop of the recipe,
# unless CONVNEXT_DENSE_EVERY_RECIPE is set.
SMALL = {"upernet/convnext_t_512_160k", "upernet/swin_t_512_160k"}
COMPUTED = ALL if os.environ.get("CONVNEXT_DENSE_EVERY_RECIPE") else sorted(SMALL)
UNTRAINED = (1 + 0.4) * math.log(150)  # cross entropy of a uniform guess, with the auxiliary head's 0.4


def on_cpu(name: str, crop: int | None = None) -> Config:
    """The recipe on one CPU, without weights to download; ``crop`` in pixels replaces its own."""
    cfg = config(name)
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    cfg.model.backbone.init_cfg = None
    if crop:
        train = cfg.train_dataloader.dataset.pipeline
        assert [train[2].type, train[3].type] == ["RandomResize", "RandomCrop"]
        train[2].scale, train[3].crop_size = (4 * crop, crop), (crop, crop)
        cfg.val_dataloader.dataset.pipeline[1].scale = (4 * crop, crop)
        cfg.model.data_preprocessor["size"] = (crop, crop)
        cfg.model.test_cfg.update(crop_size=(crop, crop), stride=(crop * 2 // 3, crop * 2 // 3))
    init_default_scope(cfg.default_scope)
    return cfg


def synthetic_batch(height: int, width: int) -> dict:
    """Two images of noise with all 150 labels, as the data loader gives them."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width)))
        sample.gt_sem_seg = PixelData(data=torch.randint(150, (1, height, width), generator=generator))
        samples.append(sample)
    images = [torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def trained(cfg: Config, batch: dict) -> tuple[torch.nn.Module, float]:
    """The model after the loss and the backward pass of one batch, gradients checked; and the loss."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()  # the heads start with small class logits
    model.train()
    loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, training=True), mode="loss"))
    loss.backward()
    gradients = {name: param.grad for name, param in model.named_parameters()}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for part in ("backbone.", "decode_head.", "auxiliary_head."):
        first = next(name for name in gradients if name.startswith(part))
        assert gradients[first].abs().sum() > 0, first
    return model.eval(), float(loss.detach())


@pytest.mark.parametrize("name", COMPUTED)
def test_loss_backward_and_predict(name):
    model, loss = trained(on_cpu(name, crop=64), synthetic_batch(64, 64))
    assert loss == pytest.approx(UNTRAINED, rel=0.1)
    predictions = model.test_step(synthetic_batch(64, 100))  # two windows per image
    assert len(predictions) == 2
    for sample in predictions:
        assert sample.seg_logits.data.shape == (150, 64, 100)
        labels = sample.pred_sem_seg.data
        assert labels.shape == (1, 64, 100) and labels.min() >= 0 and labels.max() < 150


@pytest.mark.parametrize("name", sorted(set(ALL) - SMALL))
def test_forward_and_backward_on_meta(name):
    cfg = on_cpu(name)
    crop = cfg.model.data_preprocessor["size"]
    model = build_on_meta(cfg).train()
    features = model.extract_feat(torch.empty(2, 3, *crop, device="meta"))
    logits, auxiliary = model.decode_head(features), model.auxiliary_head(features)
    (logits.sum() + auxiliary.sum()).backward()
    assert not [key for key, param in model.named_parameters() if param.grad is None]
    assert logits.shape == (2, 150, crop[0] // 4, crop[1] // 4)
    assert auxiliary.shape == (2, 150, crop[0] // 16, crop[1] // 16)
    model.test_cfg.mode = "whole"
    meta = [dict(img_shape=(96, 130), ori_shape=(96, 130))]
    assert model.eval().inference(torch.empty(1, 3, 96, 130, device="meta"), meta).shape == (1, 150, 96, 130)


@pytest.fixture
def ade20k(tmp_path) -> Path:
    """Three training and one validation image of 90 x 60 pixels in ADE20K's layout, with labels 0 to 150."""
    generator = np.random.RandomState(0)
    for split, count in (("training", 3), ("validation", 1)):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(count):
            image = generator.randint(256, size=(60, 90, 3)).astype(np.uint8)
            label = generator.randint(151, size=(60, 90)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "images" / split / f"{i}.jpg"), image)
            cv2.imwrite(str(tmp_path / "annotations" / split / f"{i}.png"), label)
    return tmp_path


def dataset(cfg: Config, split: str, root: Path):
    data = cfg[f"{split}_dataloader"].dataset
    data.data_root = str(root)
    data.img_suffix = next((root / data.data_prefix.img_path).iterdir()).suffix  # ADE20K's are .jpg
    return DATASETS.build(data)


@pytest.mark.parametrize("name", ["upernet/convnext_t_512_160k", "upernet/convnext_l_in22k_640_160k"])
def test_the_data_arrive_as_in_the_release(name, ade20k):
    cfg = on_cpu(name)
    crop = cfg.crop_size[0]
    train, val = dataset(cfg, "train", ade20k), dataset(cfg, "val", ade20k)
    assert len(train) == 3 and len(val) == 1 and len(train.metainfo["classes"]) == 150
    np.random.seed(0)
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    samples = [train[i % 3] for i in range(6)]
    assert all(max(sample["inputs"].shape[1:]) <= crop for sample in samples)
    batch = preprocess(pseudo_collate(samples), training=True)
    assert batch["inputs"].shape == (6, 3, crop, crop)
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in batch["data_samples"]])
    assert labels.shape == (6, crop, crop)
    assert set(labels.unique().tolist()) == {*range(150), 255}
    small = [sample for sample in samples if min(sample["inputs"].shape[1:]) < crop]
    assert small and len(small) < 6  # ratios below 1 are padded to the crop, those above are cut

    (image, sample) = val[0].values()
    assert image.shape == (3, crop, crop * 3 // 2)  # 60 x 90 pixels, the shorter side to the crop
    on_disk = cv2.imread(str(ade20k / "annotations/validation/0.png"), cv2.IMREAD_UNCHANGED).astype(int)
    np.testing.assert_array_equal(sample.gt_sem_seg.data[0], np.where(on_disk == 0, 255, on_disk - 1))
    padded = preprocess(pseudo_collate([val[0]]), training=False)["inputs"]
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    rgb = image.numpy()[::-1].transpose(1, 2, 0)
    np.testing.assert_allclose(padded[0].permute(1, 2, 0), (rgb - mean) / std, atol=1e-5)


def take_a_step(root: Path) -> None:
    """One step of the smallest recipe over the images of a folder, with crops of 64 pixels."""
    cfg = on_cpu("upernet/convnext_t_512_160k", crop=64)
    train, val = dataset(cfg, "train", root), dataset(cfg, "val", root)
    model, loss = trained(cfg, pseudo_collate([train[0], train[1]]))
    assert 0 < loss < 1.1 * UNTRAINED  # pixels without a label count as zero
    (sample,) = model.test_step(pseudo_collate([val[0]]))
    assert sample.pred_sem_seg.shape == sample.ori_shape == sample.gt_sem_seg.shape
    from mmseg.evaluation import IoUMetric

    metric = IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = val.metainfo
    metric.process({}, [sample.to_dict()])
    assert 0 <= metric.evaluate(1)["mIoU"] < 100


def test_a_step_on_synthetic_images(ade20k):
    take_a_step(ade20k)


def test_a_step_on_real_images():
    shared = Path(os.environ.get("CONVNEXT_DENSE_SHARED", ROOT.parent / "shared"))
    folder = shared / "data" / "camvid_tiny"
    if not folder.is_dir():
        pytest.skip("no real street scenes: set CONVNEXT_DENSE_SHARED to a folder with data/camvid_tiny")
    take_a_step(folder)
