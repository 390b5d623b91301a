"""Augmented tests: config edits as tables, merging against oracles, ``tools/test.py --tta`` end to end."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from repository import ROOT
from waiting import HANGS

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet and mmseg are imported)
from convnext_dense.data.synthetic import make_shapes
from convnext_dense.errors import UserError
from convnext_dense.mm.config.tta import augmented_pipeline, set_tta
from convnext_dense.mm.models import sliding_window

DEMOS = {"seg": "upernet_shapes", "det": "mask_rcnn_shapes"}
LAYOUTS = {"seg": "ade20k", "det": "coco"}


def demo(kind: str) -> Config:
    return Config.fromfile(ROOT / f"configs/demo/{DEMOS[kind]}.py")


def build(cfg: dict, scope: str):
    """A model with random weights."""
    init_default_scope(scope)
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg)).eval()
    model.init_weights()
    return model


# ---- pipelines

STEPS = [
    ConfigDict(type="LoadImageFromFile"),
    ConfigDict(type="LoadAnnotations", reduce_zero_label=True),
    ConfigDict(type="mmseg.Resize", scale=(2048, 512), keep_ratio=True),
    ConfigDict(type="PackSegInputs", meta_keys=("img_path", "ori_shape")),
]


def test_the_scale_of_the_test_pipeline_is_multiplied():
    load, augment = augmented_pipeline(STEPS, (0.5, 1.75))
    resizes, flips, annotations, pack = augment.transforms
    assert load == STEPS[0]
    assert [step.scale for step in resizes] == [(1024, 256), (3584, 896)]
    assert all(step.keep_ratio for step in resizes)
    assert [(step.prob, step.direction) for step in flips] == [(0.0, "horizontal"), (1.0, "horizontal")]
    assert annotations == [STEPS[1]], "read after the flip, at the original size"
    assert pack[0].meta_keys == ("img_path", "ori_shape", "scale_factor", "flip", "flip_direction")
    assert STEPS[2].scale == (2048, 512), "the test pipeline itself stays"
    assert STEPS[3].meta_keys == ("img_path", "ori_shape")


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ([], dict(scale_factor=(0.75, 0.75), keep_ratio=True)),
        ([dict(type="Resize", scale_factor=2.0)], dict(scale_factor=(1.5, 1.5))),
        ([dict(type="Resize", scale_factor=(2.0, 4.0))], dict(scale_factor=(1.5, 3.0))),
        ([dict(type="Resize", scale=200)], dict(scale=(150, 150))),
    ],
)
def test_other_ways_to_resize(resize, expected):
    steps = [STEPS[0], *map(ConfigDict, resize), STEPS[1]]
    ((found,), _, _) = augmented_pipeline(steps, (0.75,))[1].transforms
    assert found == dict(type="Resize", **expected)


def test_what_cannot_be_varied_says_so():
    with pytest.raises(UserError, match=r"RandomResize.*tta_pipeline"):
        augmented_pipeline([STEPS[0], ConfigDict(type="RandomResize", scale=(8, 8))], (1.0,))
    with pytest.raises(UserError, match="SingleStageDetector"):
        set_tta(Config(dict(model=dict(type="SingleStageDetector", bbox_head=dict()))))


def test_the_configs_own_pipeline_and_model_win():
    cfg = demo("seg")
    assert "0.5, 0.75, 1.0, 1.25, 1.5, 1.75" in set_tta(cfg)
    assert cfg.model.type == "SegmentationTTA", "mmseg's default_runtime names SegTTAModel"
    assert cfg.model.module.type == "EncoderDecoder"
    assert len(cfg.test_dataloader.dataset.pipeline[1].transforms[0]) == 6
    cfg = demo("seg")
    cfg.tta_model = dict(type="SegmentationTTA", mode="slide")
    cfg.tta_pipeline = [dict(type="Mine")]
    assert "tta_pipeline" in set_tta(cfg)
    assert cfg.model.mode == "slide"
    assert cfg.test_dataloader.dataset.pipeline == [dict(type="Mine")]


# ---- segmentation


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
    return varied(build(demo("seg").model, "mmseg"))


def segmentation_views(flips: list[bool], sizes: list[tuple[int, int]]) -> dict:
    """Collated augmentations of two images of 90 x 70 pixels."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(5)
    base = [torch.randint(0, 256, (3, 90, 70), generator=generator).float() for _ in range(2)]
    data = dict(inputs=[], data_samples=[])
    for flip, size in zip(flips, sizes, strict=True):
        images = [torch.nn.functional.interpolate(image[None], size, mode="bilinear")[0] for image in base]
        meta = dict(
            ori_shape=(90, 70), img_shape=size, flip=flip, flip_direction="horizontal" if flip else None
        )
        data["inputs"].append([image.flip(2) if flip else image for image in images])
        data["data_samples"].append([SegDataSample(metainfo={**meta, "img_path": f"{i}"}) for i in range(2)])
    return data


@pytest.mark.parametrize(
    ("flips", "sizes"),
    [
        ([False], [(90, 70)]),
        ([False, True], [(90, 70)] * 2),
        ([False, True, False, True], [(64, 48), (64, 48), (128, 96), (128, 96)]),
    ],
)
def test_probabilities_are_those_of_mmsegs_own_model(segmentor, flips, sizes, monkeypatch):
    from mmseg.models import SegTTAModel

    monkeypatch.setattr(sliding_window, "BAND_BYTES", 5_000)
    data = segmentation_views(flips, sizes)
    with torch.no_grad():
        theirs = SegTTAModel(segmentor).test_step(copy.deepcopy(data))
        ours = MODELS.build(dict(type="SegmentationTTA", module=segmentor)).test_step(copy.deepcopy(data))
    for found, expected in zip(ours, theirs, strict=True):
        assert found.img_path == expected.img_path
        assert found.pred_sem_seg.shape == (90, 70)
        different = (found.pred_sem_seg.data[0] != expected.pred_sem_seg.data).float().mean()
        assert different <= 1e-3, "only where two classes tie"
        assert len(found.pred_sem_seg.data.unique()) > 1


def test_two_flips_of_a_symmetric_pair_agree(segmentor):
    """Image and mirror image have mirrored label maps when both views are merged."""
    data = segmentation_views([False, True], [(90, 70)] * 2)
    mirrored = copy.deepcopy(data)
    mirrored["inputs"] = mirrored["inputs"][::-1]
    model = MODELS.build(dict(type="SegmentationTTA", module=segmentor))
    with torch.no_grad():
        first, second = model.test_step(data)[0], model.test_step(mirrored)[0]
    same = first.pred_sem_seg.data == second.pred_sem_seg.data.flip(2)
    assert same.float().mean() >= 1 - 1e-3


def test_whole_images_as_published_unless_the_config_slides(segmentor):
    before = segmentor.test_cfg
    segmentor.test_cfg = ConfigDict(mode="slide", crop_size=(64, 64), stride=(40, 40))
    try:
        model = MODELS.build(dict(type="SegmentationTTA", module=segmentor))
        assert model.module.test_cfg.mode == "whole"
        model = MODELS.build(dict(type="SegmentationTTA", module=segmentor, mode="slide"))
        assert model.module.test_cfg.mode == "slide"
        assert model.module.test_cfg.crop_size == (64, 64)
    finally:
        segmentor.test_cfg = before


# ---- detection


def small_cascade() -> ConfigDict:
    """The demo's Mask R-CNN with the three box heads and mask heads of Cascade."""
    cfg = Config.fromstring('_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"', ".py").model
    small = demo("det").model
    heads, narrow = cfg.roi_head, small.roi_head
    for head in heads.bbox_head:
        head.update(in_channels=64, fc_out_channels=64, num_classes=4, reg_class_agnostic=False)
    for name in ("bbox_roi_extractor", "mask_roi_extractor", "mask_head"):
        heads[name] = narrow[name]
    small.roi_head, small.type = heads, "CascadeRCNN"
    small.pop("train_cfg")
    return small


@pytest.fixture(scope="module", params=["mask_rcnn", "cascade"])
def detector(request):
    model = build(demo("det").model if request.param == "mask_rcnn" else small_cascade(), "mmdet")
    with torch.no_grad():  # boxes that differ from their proposals, scores that differ from each other
        for name, parameter in model.roi_head.named_parameters():
            if "fc_reg" in name or "fc_cls" in name or "conv_logits" in name:
                parameter.normal_(0, 0.3)
    return model


def detection_views(flips: list[bool], sizes: list[tuple[int, int]], mirrored: bool = False) -> dict:
    """Collated augmentations of two images of 120 x 100 pixels."""
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(6)
    base = [torch.randint(0, 256, (3, 30, 25), generator=generator).float() for _ in range(2)]
    base = [image.repeat_interleave(4, 1).repeat_interleave(4, 2) for image in base]
    data = dict(inputs=[], data_samples=[])
    for flip, (height, width) in zip(flips, sizes, strict=True):
        images = [torch.nn.functional.interpolate(x[None], (height, width), mode="bilinear")[0] for x in base]
        meta = dict(
            ori_shape=(120, 100),
            img_shape=(height, width),
            scale_factor=(width / 100, height / 120),
            flip=flip,
            flip_direction="horizontal" if flip else None,
        )
        data["inputs"].append([image.flip(2) if flip != mirrored else image for image in images])
        data["data_samples"].append([DetDataSample(metainfo=meta) for _ in range(2)])
    return data


def detect(model, data: dict) -> list:
    with torch.no_grad():
        return [s.pred_instances for s in model.test_step(copy.deepcopy(data))]


def augmented(detector):
    return MODELS.build(dict(type="DetectionTTA", module=detector))


def assert_same(found, expected, mirror: bool = False) -> None:
    """Equal detections; ``mirror`` turns the expected ones around in the 100 pixels of width."""
    boxes, masks = expected.bboxes, expected.masks
    if mirror:
        boxes, masks = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1]), masks.flip(2)
        boxes = boxes + torch.tensor([100.0, 0, 100, 0])
    assert len(expected.bboxes) >= 5
    torch.testing.assert_close(found.bboxes, boxes, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=0)
    assert torch.equal(found.labels, expected.labels)
    assert found.masks.shape == masks.shape
    assert masks.any()
    assert (found.masks != masks).float().mean() < 1e-4


@pytest.mark.parametrize("size", [(120, 100), (180, 150)])
def test_one_view_is_the_plain_prediction(detector, size):
    data = detection_views([False], [size])
    plain = detect(detector, {key: value[0] for key, value in data.items()})
    for found, expected in zip(detect(augmented(detector), data), plain, strict=True):
        assert_same(found, expected)


def test_a_view_given_twice_changes_nothing(detector):
    once = detect(augmented(detector), detection_views([False], [(180, 150)]))
    twice = detect(augmented(detector), detection_views([False] * 2, [(180, 150)] * 2))
    for found, expected in zip(twice, once, strict=True):
        assert_same(found, expected)


def test_the_flipped_view_of_a_mirror_image_is_the_mirrored_prediction(detector):
    plain = detect(augmented(detector), detection_views([False], [(120, 100)]))
    flipped = detect(augmented(detector), detection_views([True], [(120, 100)], mirrored=True))
    for found, expected in zip(flipped, plain, strict=True):
        assert_same(found, expected, mirror=True)


def test_boxes_and_masks_of_several_views_are_merged(detector):
    """The best box of each view comes first among the merged, and masks are means over the views."""
    flips, sizes = [False, True, False], [(120, 100), (120, 100), (180, 150)]
    singles = [
        detect(augmented(detector), detection_views([f], [s])) for f, s in zip(flips, sizes, strict=True)
    ]
    seen = []
    model = augmented(detector)
    head = model.module.roi_head.mask_head
    head = head[-1] if model.cascade else head
    original = head.predict_by_feat
    head.predict_by_feat = lambda masks, *args, **kwargs: (
        seen.append(masks[0]) or original(masks, *args, **kwargs)
    )
    try:
        merged = detect(model, detection_views(flips, sizes))
    finally:
        del head.predict_by_feat
    for i, found in enumerate(merged):
        assert found.scores[0] == pytest.approx(
            max(float(single[i].scores[0]) for single in singles), abs=1e-6
        )
        assert len(found) == len(seen[i])
        assert ((seen[i] >= 0) & (seen[i] <= 1)).all()
        probabilities = []
        with torch.no_grad():
            for flip, size in zip(flips, sizes, strict=True):
                data = detection_views([flip], [size])
                view = detector.data_preprocessor({key: value[0] for key, value in data.items()}, False)
                x = tuple(level[i : i + 1] for level in detector.extract_feat(view["inputs"]))
                boxes = found.bboxes.clone()
                if flip:
                    boxes[:, [0, 2]] = 100 - boxes[:, [2, 0]]
                boxes = boxes * torch.tensor([size[1] / 100, size[0] / 120] * 2)
                rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
                stages = range(3) if model.cascade else [None]
                maps = [
                    detector.roi_head._mask_forward(*[n for n in [s] if n is not None], x, rois)
                    for s in stages
                ]
                mean = sum(m["mask_preds"].sigmoid() for m in maps) / len(maps)
                probabilities.append(mean.flip(3) if flip else mean)
        torch.testing.assert_close(seen[i], sum(probabilities) / 3, atol=1e-5, rtol=0)


def test_nothing_found_is_an_empty_result(detector):
    cfg = detector.roi_head.test_cfg
    detector.roi_head.test_cfg = ConfigDict(cfg, score_thr=1.1)
    try:
        for found in detect(augmented(detector), detection_views([False, True], [(120, 100)] * 2)):
            assert found.bboxes.shape == (0, 4)
            assert found.masks.shape == (0, 120, 100)
    finally:
        detector.roi_head.test_cfg = cfg


def test_views_without_proposals_add_nothing(detector):
    from mmengine.structures import InstanceData

    meta = dict(img_shape=(120, 100), scale_factor=(1.0, 1.0))
    empty = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0, 5))
    one = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 50, 60] * 4]), scores=torch.tensor([[0.9, 0, 0, 0, 0.1]])
    )
    found = augmented(detector)._merge_boxes([empty, one], [meta, meta])
    assert found.bboxes.tolist() == [[10, 10, 50, 60]]
    assert len(augmented(detector)._merge_boxes([empty, empty], [meta, meta])) == 0


def test_heads_that_predict_otherwise_are_refused(detector):
    class Other(type(detector.roi_head)):
        pass

    head, original = detector.roi_head, type(detector.roi_head)
    head.__class__ = Other
    try:
        with pytest.raises(UserError, match="not Other"):
            augmented(detector)
    finally:
        head.__class__ = original


# ---- the command line


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, train=1, val=2, size=96)
    return root


@pytest.mark.parametrize("kind", list(DEMOS))
def test_the_command_line(kind, shapes, tmp_path):
    model = build(demo(kind).model, "mmseg" if kind == "seg" else "mmdet")
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / "random.pth")
    command = [sys.executable, ROOT / "tools/test.py", f"demo/{DEMOS[kind]}", "random.pth", "--tta"]
    command += ["--data-root", shapes / LAYOUTS[kind], "--out", "m.json", "--show-dir", "pictures"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ratios = "(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)" if kind == "seg" else "(0.75, 1.0, 1.25)"
    assert f"augmented test: ratios {ratios}, each flipped too" in done.stdout + done.stderr
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert ("mIoU" if kind == "seg" else "mask AP") in metrics
    assert len(list((tmp_path / "pictures").iterdir())) == 2
