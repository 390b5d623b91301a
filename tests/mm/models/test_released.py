"""Cascade's mask heads and the padding of masks, compared with the release."""

import numpy as np
import torch
from mmengine.registry import MODELS as ROOT
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from published import config

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)


def targets(kind: str) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Shapes of two images' padded masks, all ones, and the targets (28, 28) of a box."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    init_default_scope("mmdet")
    model = config("mask_rcnn/convnext_t_3x").model
    options = {key: value for key, value in model.data_preprocessor.items() if key != "type"}
    sizes = [(96, 128), (128, 160)]  # height and width; the batch takes the second
    samples = []
    for h, w in sizes:
        samples.append(DetDataSample(metainfo=dict(img_shape=(h, w))))
        ones = BitmapMasks(np.ones((1, h, w), np.uint8), h, w)
        samples[-1].gt_instances = InstanceData(bboxes=torch.zeros(1, 4), masks=ones)
    images = [torch.zeros(3, h, w, dtype=torch.uint8) for h, w in sizes]
    data = ROOT.get(kind)(**options)(dict(inputs=images, data_samples=samples), training=True)
    masks = [sample.gt_instances.masks for sample in data["data_samples"]]
    box, index = np.array([[122.0, 90, 128, 96]], np.float32), np.zeros(1, int)  # in the corner of the first
    return [m.masks.shape[1:] for m in masks], [
        m.crop_and_resize(box, (28, 28), index, "cpu").to_ndarray()[0] for m in masks
    ]


def test_masks_are_padded_to_the_image_and_not_to_the_batch():
    """Beyond its last pixel centre the released mask repeats its edge, where the batch has zeros."""
    shapes, (target, _) = targets("convnext_dense.DetDataPreprocessor")
    assert shapes == [(96, 128), (128, 160)]
    assert target.all(), "a mask of ones gives a target of ones"
    shapes, (target, _) = targets("mmdet.DetDataPreprocessor")
    assert shapes == [(128, 160), (128, 160)]
    assert not target[-1, -1] and 0 < (~target).sum() < 10, "mmdet's takes a corner from the object"


def test_cascade_initialises_its_mask_heads():
    """Kaiming's normal distribution over the fan out, as released; mmdet's own class keeps PyTorch's."""
    cfg = config("cascade/resnet50_3x").model.roi_head
    cfg.bbox_head = [dict(head, norm_cfg=dict(type="BN")) for head in cfg.bbox_head]
    init_default_scope("mmdet")
    stds = {}
    for kind in ("convnext_dense.CascadeRoIHead", "mmdet.CascadeRoIHead"):
        torch.manual_seed(0)
        head = ROOT.build(dict(cfg, type=kind, train_cfg=None, test_cfg=None))
        head.init_weights()
        last = head.mask_head[2]
        stds[kind] = [float(layer.weight.detach().std()) for layer in (last.upsample, last.conv_logits)]
        assert bool(last.conv_logits.bias.any()) == (kind == "mmdet.CascadeRoIHead")
    fan_outs = [256 * 2 * 2, 80]
    for found, fan_out in zip(stds["convnext_dense.CascadeRoIHead"], fan_outs, strict=True):
        assert abs(found / np.sqrt(2 / fan_out) - 1) < 0.02
    assert np.allclose(stds["mmdet.CascadeRoIHead"], [0.018, 0.036], atol=0.001)
