"""Whole models on fake CUDA tensors: UperNet's losses and predictions; a detector's parts of fixed shapes.

Left out, because their shapes depend on values, which fake tensors do not have:

- mmseg's ``accuracy``, a logged figure: it selects the pixels that are not ignored;
- what follows the RPN's NMS, and a detector's losses: assigned targets and sampled boxes;
- the choice of a level for each RoI in ``SingleRoIExtractor.forward`` (``nonzero``); with one level it runs.
"""

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module

import pytest
import torch
from fake_cuda import CUDA_BUILD, HALF, autocast_on_cuda, facts, fake_cuda, like, moved
from mmengine.structures import PixelData
from published import config
from torch import Tensor, nn

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)
from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.models.meta_device import build_on_meta
from convnext_dense.mm.models.registry import MODELS
from convnext_dense.mm.models.sliding_window import BoundedPredict
from convnext_dense.mm.models.tta import SegmentationTTA

pytestmark = CUDA_BUILD
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, *HALF])
HW = (64, 96)
CLASSES = 150


def precision(dtype: torch.dtype) -> AbstractContextManager:
    return nullcontext() if dtype == torch.float32 else autocast_on_cuda(dtype)


def model_of(recipe: str) -> nn.Module:
    cfg = config(recipe)
    set_plain_batch_norm(cfg, world_size=1, device="cuda")
    cfg.model.backbone.init_cfg = None
    return build_on_meta(cfg)


# ---- UperNet


def segmentor() -> nn.Module:
    return model_of("upernet/convnext_t_512_160k")


def labelled(hw: tuple[int, int]):
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=hw, ori_shape=hw, pad_shape=hw))
    sample.gt_sem_seg = PixelData(data=torch.empty(1, *hw, dtype=torch.int64, device="cuda"))
    return sample


@EVERY_DTYPE
def test_losses_of_upernet(dtype):
    """With the accuracy, for which mmseg's own code selects pixels and waits for their number."""
    model = segmentor().train()
    with fake_cuda(), precision(dtype):
        losses = moved(model).loss(torch.empty(2, 3, *HW, device="cuda"), [labelled(HW) for _ in range(2)])
        total, logged = model.parse_losses(losses)
    assert {name for name in losses if "loss" in name} == {"decode.loss_ce", "aux.loss_ce"}
    expected = [((1,) if "acc" in name else (), torch.float32) for name in losses]
    assert facts(list(losses.values())) == expected
    assert facts([total, logged]) == [((), torch.float32)] * (len(losses) + 2)


@EVERY_DTYPE
@pytest.mark.parametrize("mode", ["whole", "slide"])
@torch.no_grad()
def test_predictions_of_upernet(dtype, mode):
    """Row by row, in windows or whole, with a fused backbone as in an evaluation; mmseg's own need values."""
    model = segmentor()
    model.test_cfg.update(mode=mode, crop_size=(48, 64), stride=(32, 32))
    with fake_cuda(), precision(dtype):
        moved(model).backbone.fuse()
        sample = labelled(HW)
        sample.set_metainfo(dict(ori_shape=(50, 70), img_padding_size=(0, 6, 0, 4)))
        predict = BoundedPredict(model, window_batch=2)
        (found,) = predict(torch.empty(1, 3, *HW, device="cuda"), [sample])
        rows = list(predict.original_rows(torch.empty(1, 3, *HW, device="cuda"), [sample.metainfo]))
    assert facts(found.pred_sem_seg.data) == [((1, 50, 70), torch.int64)]
    assert facts(rows) == [((CLASSES, rows.stop - rows.start, 70), torch.float32) for _, rows, _ in rows]


@torch.no_grad()
def test_augmented_predictions_of_upernet(monkeypatch):
    for module in ("tta", "sliding_window"):
        monkeypatch.setattr(f"convnext_dense.mm.models.{module}.free_memory", lambda device: 2**40)
    model = segmentor()
    model.data_preprocessor = Passed()
    with fake_cuda():
        merged = SegmentationTTA(module=moved(model))
        views = [labelled(HW), labelled(HW)]
        for flip, sample in enumerate(views):
            sample.set_metainfo(dict(flip=bool(flip), flip_direction="horizontal", ori_shape=(50, 70)))
        images = [torch.empty(1, 3, *HW, device="cuda") for _ in views]
        (found,) = merged.test_step(dict(inputs=images, data_samples=[[sample] for sample in views]))
    assert facts(found.pred_sem_seg.data) == [((1, 50, 70), torch.int64)]


class Passed(nn.Module):
    """A preprocessor of images that are ready."""

    def forward(self, data: dict, training: bool = False) -> dict:
        return data


# ---- a detector


def detector() -> nn.Module:
    return model_of("mask_rcnn/convnext_t_3x")


@EVERY_DTYPE
@pytest.mark.parametrize("training", [True, False])
def test_pyramid_rpn_and_heads(dtype, training):
    """As on ``meta``; each part's product is in autocast's dtype."""
    model, expected = detector(), detector()
    model.train(training)

    def run(model: nn.Module, device: str) -> list:
        levels = model.extract_feat(torch.empty(1, 3, *HW, device=device))
        head = model.roi_head
        return [
            *levels,
            *model.rpn_head(levels),
            *head.bbox_head(torch.empty(9, 256, 7, 7, device=device)),
            head.mask_head(torch.empty(9, 256, 14, 14, device=device)),
        ]

    with torch.no_grad():
        shapes = [shape for shape, _ in facts(run(expected, "meta"))]
    with fake_cuda(), precision(dtype), torch.set_grad_enabled(training):
        found = facts(run(moved(model), "cuda"))
    assert found == [(shape, dtype) for shape in shapes]


@EVERY_DTYPE
@torch.no_grad()
def test_proposals_before_nms_are_float32(dtype, monkeypatch):
    """Anchors, the choice of the best scores and the decoded boxes; the NMS is given all of them."""
    seen = []

    def nms(boxes: Tensor, scores: Tensor, levels: Tensor, cfg: dict) -> tuple[Tensor, Tensor]:
        seen.append((boxes, scores, levels))
        return torch.cat([boxes, scores[:, None]], 1)[:50], torch.empty(50, dtype=torch.int64, device="cuda")

    monkeypatch.setattr("mmdet.models.dense_heads.rpn_head.batched_nms", nms)
    head = detector().rpn_head
    # mmdet keeps them on the CPU and uploads them at each call
    anchors = head.prior_generator.base_anchors
    with fake_cuda(), precision(dtype):
        head.prior_generator.base_anchors = [like(each) for each in anchors]
        levels = [torch.empty(1, 256, 64 >> i, 96 >> i, device="cuda", dtype=dtype) for i in range(5)]
        (found,) = head.predict_by_feat(
            *moved(head)(levels), batch_img_metas=[dict(img_shape=(256, 384))], cfg=head.test_cfg
        )
    count = 1000 + 1000 + 1000 + 8 * 12 * 3 + 4 * 6 * 3  # of the best 1000 of each level
    assert facts(seen) == [((count, 4), torch.float32), ((count,), torch.float32), ((count,), torch.int64)]
    assert facts([found.bboxes, found.scores]) == [((50, 4), torch.float32), ((50,), torch.float32)]


@EVERY_DTYPE
@pytest.mark.parametrize("training", [True, False])
def test_a_roi_extractor_of_one_level(dtype, training, monkeypatch):
    """RoIAlign in float32; the result has the dtype of the level. In a step mmcv's wrapper records it."""
    ops = pytest.importorskip("torchvision.ops", exc_type=ImportError)
    monkeypatch.setattr(import_module("convnext_dense.ops.roi_align"), "torchvision_ops", lambda device: ops)
    layer = dict(type="RoIAlign", output_size=7, sampling_ratio=0)
    kind = MODELS.get("SingleRoIExtractor")
    extractor = kind(roi_layer=layer, out_channels=4, featmap_strides=[4])
    with fake_cuda(), precision(dtype), torch.set_grad_enabled(training):
        level = torch.empty(2, 4, 16, 24, device="cuda", dtype=dtype, requires_grad=training)
        pooled = extractor([level], torch.empty(5, 5, device="cuda"))
    assert facts(pooled) == [((5, 4, 7, 7), dtype)]


def test_levels_of_rois_are_found_in_float32():
    extractor = MODELS.get("SingleRoIExtractor")(
        roi_layer=dict(type="RoIAlign", output_size=7), out_channels=4, featmap_strides=[4, 8, 16, 32]
    )
    with fake_cuda():
        levels = extractor.map_roi_levels(torch.empty(5, 5, device="cuda"), 4)
    assert facts(levels) == [((5,), torch.int64)]
