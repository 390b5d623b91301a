"""From a config and a checkpoint to a network and what its file says of it."""

import pytest
import torch
from mmengine.config import ConfigDict

pytest.importorskip("onnxscript")
import exportable
from exportable import as_loaded, pictures

# isort: split
from mmdet.structures import DetDataSample

from convnext_dense.errors import CheckpointError, UserError
from convnext_dense.mm.export.load import load


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A function: name of a model -> its config and a checkpoint."""
    folder, known = tmp_path_factory.mktemp("checkpoints"), {}

    def of(name: str):
        if name not in known:
            known[name] = exportable.save(exportable.config(name), folder / f"{name}.pth")
        return exportable.config(name), known[name]

    return of


def test_a_detector(saved):
    cfg, checkpoint = saved("mask_rcnn")
    cfg.model.test_cfg.rcnn.update(score_thr=0.11, mask_thr_binary=0.4, nms=dict(iou_threshold=0.6))
    model = load(cfg, checkpoint, "demo/mask_rcnn_shapes", fixed_hw=(160, 192))
    assert model.outputs == ("boxes", "scores", "labels", "count", "masks")
    meta = model.metadata
    assert (meta.kind, meta.recipe, meta.fixed_hw) == ("detector", "demo/mask_rcnn_shapes", (160, 192))
    assert meta.classes == ("circle", "triangle", "cross")
    assert meta.palette == ((0, 114, 178), (230, 159, 0), (0, 158, 115))
    assert (meta.scale, meta.keep_ratio, meta.size_divisor) == ((160, 160), True, 32)
    assert (meta.score_thr, meta.iou_threshold, meta.max_per_image) == (0.11, 0.6, 30)
    assert (meta.masks, meta.mask_threshold, meta.precision) == (True, 0.4, "fp32")
    assert meta.torch == torch.__version__


def test_its_network_predicts_what_mmdet_does(saved):
    cfg, checkpoint = saved("mask_rcnn")
    images = pictures((61, 90))
    boxes = load(cfg, checkpoint, "mine").network(torch.stack(images))[0]
    model = exportable.build(cfg)
    model.load_state_dict(torch.load(checkpoint)["state_dict"])
    (expected,) = model.test_step(as_loaded(images, DetDataSample))
    found = expected.pred_instances.bboxes
    assert len(found) and torch.allclose(boxes[0, : len(found)], found, atol=1e-3)


def test_a_detector_of_mmdet(saved):
    cfg, checkpoint = saved("retinanet")
    meta = load(cfg, checkpoint, "mine").metadata
    assert (meta.scale, meta.keep_ratio, meta.size_divisor) == ((1333, 800), True, 32)
    assert (meta.score_thr, meta.iou_threshold, meta.max_per_image, meta.masks) == (0.05, 0.5, 100, False)
    assert (len(meta.classes), meta.classes[0], meta.palette[0]) == (80, "person", (220, 20, 60))


def test_a_segmentor_that_sees_whole_pictures(saved):
    cfg, checkpoint = saved("upernet")
    model = load(cfg, checkpoint, "demo/upernet_shapes", labels=True)
    meta = model.metadata
    assert model.outputs == ("labels",) and (meta.kind, meta.output, meta.mode) == (
        *("segmentor", "labels"),
        "whole",
    )
    assert meta.classes == ("background", "circle", "triangle", "cross")
    assert (meta.scale, meta.size_divisor, meta.crop_hw, meta.stride_hw) == (None, 1, None, None)
    assert (meta.align_corners, meta.binary_threshold) == (False, None)


def test_a_segmentor_that_slides(saved):
    cfg, checkpoint = saved("upernet")
    cfg.model.test_cfg = ConfigDict(mode="slide", crop_size=(96, 128), stride=(64, 85))
    cfg.test_dataloader.dataset.pipeline.insert(
        1, ConfigDict(type="mmseg.Resize", scale=(2048, 512), keep_ratio=True)
    )
    meta = load(cfg, checkpoint, "mine", fixed_hw=(96, 160)).metadata
    assert (meta.mode, meta.crop_hw, meta.stride_hw) == ("slide", (96, 128), (64, 85))
    assert (meta.scale, meta.keep_ratio, meta.fixed_hw) == ((2048, 512), True, (96, 160))
    with pytest.raises(UserError, match="--size 96 128"):
        load(cfg, checkpoint, "mine", fixed_hw=(64, 160))
    with pytest.raises(UserError, match=r"leave out --labels.*mode=whole"):
        load(cfg, checkpoint, "mine", labels=True)


def test_a_single_channel(tmp_path):
    head = {f"model__decode_head__{key}": value for key, value in dict(out_channels=1, num_classes=2).items()}
    cfg = exportable.config("upernet", **head, model__decode_head__threshold=0.4)
    cfg.model.decode_head.loss_decode = dict(type="CrossEntropyLoss", use_sigmoid=True)
    meta = load(cfg, exportable.save(cfg, tmp_path / "one.pth"), "mine").metadata
    assert meta.binary_threshold == 0.4


def test_class_names_of_the_checkpoint_come_first(tmp_path):
    cfg = exportable.config("mask_rcnn")
    meta = dict(classes=("a", "b", "c"), palette=[(1, 2, 3), (4, 5, 6), (7, 8, 9)])
    found = load(cfg, exportable.save(cfg, tmp_path / "named.pth", **meta), "mine").metadata
    assert found.classes == ("a", "b", "c") and found.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (dict(type="CenterCrop", crop_size=100), "CenterCrop"),
        (dict(type="Pad", size_divisor=32), "Pad"),
        (dict(type="mmseg.ResizeToMultiple", size_divisor=32), "ResizeToMultiple"),
        (dict(type="Resize", scale_factor=0.5), "scale_factor=0.5"),
        (dict(type="Resize", scale=(320, 320), keep_ratio=True), "one Resize"),  # a second
        (dict(type="LoadProposals"), "LoadProposals"),
    ],
)
def test_a_foreign_step_is_named(saved, step, named):
    cfg, checkpoint = saved("mask_rcnn")
    cfg.test_dataloader.dataset.pipeline.insert(2, ConfigDict(step))
    with pytest.raises(UserError) as error:
        load(cfg, checkpoint, "mine")
    assert named in str(error.value) and "test_dataloader.dataset.pipeline" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "option"), [(0, dict(color_type="grayscale")), (1, dict(interpolation="bicubic"))]
)
def test_an_option_that_changes_pixels_is_named(saved, place, option):
    cfg, checkpoint = saved("mask_rcnn")
    cfg.test_dataloader.dataset.pipeline[place].update(option)
    with pytest.raises(UserError, match=next(iter(option.values()))):
        load(cfg, checkpoint, "mine")


def test_what_does_not_fit(saved, tmp_path):
    cfg, _ = saved("mask_rcnn")
    _, other = saved("upernet")
    with pytest.raises(CheckpointError, match="does not fit this config's model"):
        load(cfg, other, "mine")
    cfg, checkpoint = saved("retinanet")
    with pytest.raises(UserError, match="leave out --labels"):
        load(cfg, checkpoint, "mine", labels=True)
    cfg.model.test_cfg.nms.type = "soft_nms"
    with pytest.raises(UserError, match=r"mine cannot be exported: .*soft_nms"):
        load(cfg, checkpoint, "mine")
