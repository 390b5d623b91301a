"""Each COCO recipe builds and takes a step: loss, backward, predict."""

import os

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import InstanceData
from published import coco_tiny, config

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)
from convnext_dense import list_configs
from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.models.complexity import two_stage_forward
from convnext_dense.mm.models.meta_device import build_on_meta

ALL = [name for name in list_configs() if name.startswith(("mask_rcnn/", "cascade/"))]
# The others differ from these in depth and width. They run on the meta device, at the paper's image size,
# unless CONVNEXT_DENSE_EVERY_RECIPE is set: that takes some minutes and 8 GB.
SMALL = {"mask_rcnn/convnext_t_3x", "mask_rcnn/swin_t_3x", "cascade/convnext_t_3x", "cascade/resnet50_3x"}
COMPUTED = ALL if os.environ.get("CONVNEXT_DENSE_EVERY_RECIPE") else sorted(SMALL)


def few_proposals(cfg: Config) -> Config:
    """The recipe on one CPU: plain BN, and a number of proposals that suits small images."""
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    cfg.model.backbone.init_cfg = None
    stages = cfg.model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 16
    cfg.model.train_cfg.rpn_proposal.max_per_img = 30
    cfg.model.test_cfg.rpn.max_per_img = 30
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    cfg.model.test_cfg.rcnn.max_per_img = 10
    return cfg


def synthetic_batch(size: int) -> dict:
    """Two images of noise with two objects each, as the data loader gives them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        boxes = torch.tensor([[8.0, 8.0, 60.0, 50.0], [40.0, 30.0, 110.0, 120.0]])
        masks = torch.zeros(2, size, size, dtype=torch.uint8)
        for mask, box in zip(masks, boxes.int().tolist(), strict=True):
            mask[box[1] : box[3], box[0] : box[2]] = 1
        sample = DetDataSample(
            metainfo=dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0), img_id=0)
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([0, 79]), masks=BitmapMasks(masks.numpy(), size, size)
        )
        samples.append(sample)
    images = [torch.randint(256, (3, size, size), generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


def trained(cfg: Config, batch: dict) -> torch.nn.Module:
    """The model of a recipe after the loss and the backward pass of one batch, gradients checked."""
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).train()
    loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, training=True), mode="loss"))
    loss.backward()
    assert 0 < float(loss.detach()) < 100
    gradients = {name: param.grad for name, param in model.named_parameters() if param.requires_grad}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    first = next(name for name in gradients if name.startswith("backbone."))
    assert gradients[first].abs().sum() > 0
    return model.eval()


@pytest.mark.parametrize("name", COMPUTED)
def test_loss_backward_and_predict(name):
    model = trained(few_proposals(config(name)), synthetic_batch(128))
    predictions = model.test_step(synthetic_batch(128))
    assert len(predictions) == 2
    for sample in predictions:
        found = sample.pred_instances
        assert 0 < len(found) <= 10 and found.masks.shape == (len(found), 128, 128)
        assert found.bboxes.min() >= 0 and found.bboxes.max() <= 128


@pytest.mark.parametrize("name", sorted(set(ALL) - SMALL))
def test_forward_and_backward_on_meta(name):
    cfg = config(name)
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    model = build_on_meta(cfg).train()
    outputs = two_stage_forward(model, torch.empty(1, 3, 800, 1280, device="meta"))
    sum(output.sum() for output in outputs).backward()
    assert not [key for key, param in model.named_parameters() if param.requires_grad and param.grad is None]
    mask_logits, box_deltas = outputs[-1], outputs[11]
    assert mask_logits.shape == (100, 80, 28, 28) and box_deltas.shape == (1000, 320)


def small_dataset(cfg: ConfigDict, resize: int) -> BaseDataset:
    """Dataset over the few real images, whose step ``resize`` makes them small; the rest as in the recipe."""
    cfg.data_root = str(coco_tiny())
    cfg.pipeline[resize] = dict(type="Resize", scale=(333, 200), keep_ratio=True)
    init_default_scope("mmdet")
    return DATASETS.build(cfg)


@pytest.mark.parametrize("name", ["mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x"])
def test_a_step_on_real_images(name):
    cfg = few_proposals(config(name))
    train = small_dataset(cfg.train_dataloader.dataset, resize=3)
    val = small_dataset(cfg.val_dataloader.dataset, resize=1)
    assert len(train) > 40 and len(val) == 25
    model = trained(cfg, pseudo_collate([train[0], train[1]]))
    (sample,) = model.test_step(pseudo_collate([val[0]]))
    assert sample.pred_instances.masks.shape[1:] == sample.ori_shape
    assert len(sample.pred_instances) > 0
