"""Small models with random weights that find something, and what is exported of them."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

pytest.importorskip("onnxscript")

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet and mmseg are imported)
from convnext_dense.mm.config.edit import set_plain_batch_norm, set_pretrained
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.export.detectors import Detector
from convnext_dense.mm.export.kinds import is_detector
from convnext_dense.mm.export.load import divisor_of
from convnext_dense.mm.export.prepare import Prepare
from convnext_dense.mm.export.segmentors import Segmentor
from convnext_dense.mm.export.traceable import traceable
from convnext_dense.mm.models.small_inputs import pad_small_inputs, smallest_side
from convnext_dense.mm.swap.backbone import swap_backbone

DIMS = [8, 16, 24, 32]
ARCH = dict(_delete_=True, depths=[1, 1, 1, 1], dims=DIMS)
FEW = dict(rpn=dict(nms_pre=60, max_per_img=40), rcnn=dict(max_per_img=20))  # boxes of a two-stage detector
BOXES = dict(in_channels=16, fc_out_channels=32, conv_out_channels=16)
CASCADE = {
    "model.backbone.arch": ARCH,
    "model.neck.in_channels": DIMS,
    "model.neck.out_channels": 16,
    **{f"model.rpn_head.{name}": 16 for name in ("in_channels", "feat_channels")},
    **{f"model.roi_head.{name}_roi_extractor.out_channels": 16 for name in ("bbox", "mask")},
    **{f"model.roi_head.bbox_head.{i}.{name}": n for i in range(3) for name, n in BOXES.items()},
    **{f"model.roi_head.mask_head.{name}": 16 for name in ("in_channels", "conv_out_channels")},
    "model.test_cfg": FEW,
}
SINGLE = {"model.bbox_head.feat_channels": 64, "model.bbox_head.stacked_convs": 2}
DETECTORS = {
    "mask_rcnn": ("demo/mask_rcnn_shapes", {"model.backbone.arch": ARCH, "model.neck.in_channels": DIMS}),
    "cascade": ("cascade/convnext_t_3x", CASCADE),
    "faster_rcnn": ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", {"model.test_cfg": FEW}),
    "retinanet": ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", SINGLE),
    "fcos": ("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", SINGLE),
    "atss": ("mmdet::atss/atss_r50_fpn_1x_coco.py", SINGLE),
}
NARROW = {"model.decode_head.channels": 48}
SEGMENTORS = {
    "upernet": (
        "demo/upernet_shapes",
        {
            "model.backbone.arch": ARCH,
            "model.decode_head.in_channels": DIMS,
            "model.auxiliary_head.in_channels": DIMS[2],
        },
    ),
    "pspnet": ("mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py", NARROW),
    "deeplabv3": ("mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py", NARROW),
    "segformer": ("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py", {}),
}
# last layers: how far their random weights spread, so that classes differ and boxes move; of those that see
# a vector, over the root of its length
SPREAD = {
    **{"fc_cls": 2.0, "conv_logits": 0.1, "conv_seg": 0.3, "fc_reg": 0.5},
    **dict.fromkeys(("retina_cls", "atss_cls", "conv_cls", "rpn_cls"), 0.03),
    **dict.fromkeys(("rpn_reg", "retina_reg", "atss_reg"), 0.02),
}


@functools.cache
def _config(name: str) -> Config:
    cfg = load_config(name)
    return swap_backbone(cfg, "atto", "none").cfg if "::" in name else cfg


def config(name: str, **overrides: object) -> Config:
    """The config of a model of the tables above; ``model__test_cfg=...`` sets ``model.test_cfg``."""
    source, settings = {**DETECTORS, **SEGMENTORS}[name]
    cfg = copy.deepcopy(_config(source))
    # a dictionary replaces what is there, so each goes in entry by entry
    own = {key.replace("__", "."): value for key, value in overrides.items()}
    cfg.merge_from_dict({**settings, **own})
    return cfg


def build(cfg: Config) -> nn.Module:
    """The model with random weights whose classes are confident."""
    cfg = copy.deepcopy(cfg)
    init_default_scope(cfg.default_scope)
    set_pretrained(cfg, "none")
    set_plain_batch_norm(cfg, 1, "cpu")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if spread := SPREAD.get(name.split(".")[-1]):
            inputs = module.in_features if isinstance(module, nn.Linear) else 1
            nn.init.normal_(module.weight, 0, spread / inputs**0.5)
            nn.init.zeros_(module.bias)
    pad_small_inputs(model)
    return model.eval().requires_grad_(False)


def save(cfg: Config, path: Path, **meta: object) -> str:
    """Write a checkpoint of a config's model with random weights; ``meta`` is its ``dataset_meta``."""
    entries = dict(dataset_meta=meta) if meta else {}
    torch.save(dict(state_dict=build(cfg).state_dict(), meta=entries), path)
    return str(path)


def network(model: nn.Module, labels: bool = False) -> nn.Module:
    """What is exported of a model."""
    model = traceable(model)
    prepare = Prepare(model.data_preprocessor, divisor_of(model.data_preprocessor), smallest_side(model))
    whole = Detector(model, prepare) if is_detector(model) else Segmentor(model, prepare, labels)
    return whole.eval()


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """RGB images (3, H, W) uint8: noise, coarse enough that a network sees something."""
    g = torch.Generator().manual_seed(seed)
    coarse = [torch.rand(1, 3, -(-h // 8), -(-w // 8), generator=g) * 255 for h, w in sizes]
    return [
        nn.functional.interpolate(x, hw, mode="bilinear")[0].to(torch.uint8)
        for x, hw in zip(coarse, sizes, strict=True)
    ]


def as_loaded(images: list[Tensor], sample: type) -> dict:
    """A batch as the test pipelines of mmdet and mmseg make it: BGR, with what they note of each image."""
    metas = [
        dict(img_shape=tuple(x.shape[1:]), ori_shape=tuple(x.shape[1:]), scale_factor=(1.0, 1.0))
        for x in images
    ]
    return dict(inputs=[x.flip(0) for x in images], data_samples=[sample(metainfo=meta) for meta in metas])
