"""How a ConvNeXt takes a backbone's place, decided by the levels and the parts after it."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

import convnext_dense.mm  # noqa: F401
from convnext_dense.mm.swap.channels import read_levels
from convnext_dense.mm.swap.consequences import group_changes, unread_changes
from convnext_dense.mm.swap.forms import choose_form
from convnext_dense.mm.swap.probe import Levels, RefusedError, Stages, probe

DIMS = (40, 80, 160, 320)


def make(stages: Stages, kind: str = "ConvNeXt", **options) -> dict:
    return dict(type=kind, out_indices=list(stages.out_indices), **options)


def heads(*indices) -> dict:
    first, *others = (dict(type="FCNHead", in_channels=64, in_index=i) for i in indices)
    return dict(decode_head=first, auxiliary_head=others)


@pytest.mark.parametrize(
    ("strides", "channels", "test_level", "model", "out_indices", "neck"),
    [
        # BiSeNetV2: a detail and a semantic branch
        ((8, 4, 8, 16, 32), (8, 1, 2, 4, 8), None, heads(0, 1, 2, 3, 4), [0, 1, 2, 3], (8, 1, 2, 4, 8)),
        # CGNet: one head, on the last of three maps
        ((2, 4, 8), (3, 5, 7), None, heads(2), [1, 2, 3], (0, 0, 7)),
        # PIDNet: three maps in training, the second of them in testing
        ((8, 8, 8), (4, 8, 4), 1, heads(-1), [1, 2, 3], (4, 8, 4)),
        # U-Net's decoder; the finest two at stride 4
        ((16, 8, 4, 2, 1), (9, 8, 7, 6, 5), None, heads(4, 3), [0, 1, 2, 3], (0, 0, 0, 6, 5)),
        # Hourglass: detectors' heads read all
        ((4, 4), (16, 16), None, dict(bbox_head=dict(type="CornerHead")), [0, 1, 2, 3], (16, 16)),
    ],
)
def test_branches_and_decoders_become_a_pyramid(strides, channels, test_level, model, out_indices, neck):
    levels = Levels(channels, strides, False, test_level)
    form = choose_form(dict(model, backbone=dict(type="Old")), levels, DIMS, make)
    assert form.backbone["out_indices"] == out_indices
    (change,) = form.changes  # the heads stay as they are
    assert change.path == ("model", "neck") and change.new["type"] == "LevelPyramid"
    assert tuple(change.new["out_channels"]) == neck and change.new.get("test_level") == test_level
    # the neck gives what the old backbone gave
    module = MODELS.build(change.new).train()
    maps = module([torch.randn(1, DIMS[i], 64 // 2**i, 64 // 2**i) for i in out_indices])
    found = [(m.shape[1], 256 // m.shape[2]) for m in maps if m is not None]
    assert found == [(c, max(s, 4)) for c, s, kept in zip(channels, strides, neck, strict=True) if kept]


def test_a_pyramid_is_put_before_the_old_neck():
    model = dict(backbone=dict(type="Old"), neck=dict(type="ICNeck", in_channels=(64, 256, 256)))
    form = choose_form(model, Levels((64, 256, 256), (8, 4, 16), False), DIMS, make)
    (change,) = form.changes
    assert [neck["type"] for neck in change.new] == ["LevelPyramid", "ICNeck"]
    assert change.new[1] == model["neck"] and "neck" in model


def test_coarser_levels_are_appended_and_their_readers_adapted():
    model = dict(
        backbone=dict(type="Old"),
        neck=dict(type="CSPNeXtPAFPN", in_channels=[320, 640, 960, 1280]),
        bbox_head=dict(type="Head", in_channels=320),
    )
    form = choose_form(model, Levels((320, 640, 960, 1280), (8, 16, 32, 64), False), DIMS, make)
    (change,) = form.changes
    assert form.backbone["out_indices"] == [1, 2, 3]
    assert change.new[0] == dict(type="CoarserLevels", in_channels=320, count=1)
    assert change.new[1]["in_channels"] == [80, 160, 320, 320]
    assert model["neck"]["in_channels"] == [320, 640, 960, 1280], "the given model stays as it is"


def test_c4_keeps_the_last_stage_for_the_regions():
    model = dict(
        backbone=dict(type="ResNet"),
        rpn_head=dict(in_channels=1024, feat_channels=1024),
        roi_head=dict(
            shared_head=dict(type="ResLayer", depth=50, stage=3, stride=2),
            bbox_roi_extractor=dict(out_channels=1024),
            bbox_head=dict(in_channels=2048),
        ),
    )
    form = choose_form(model, Levels((1024,), (16,), False), DIMS, make)
    assert form.backbone == dict(type="ConvNeXtTrunk", out_indices=[2])
    assert {".".join(c.path[1:]): c.new for c in form.changes} == {
        "rpn_head.in_channels": 160,
        "roi_head.bbox_roi_extractor.out_channels": 160,
        "roi_head.bbox_head.in_channels": 320,
        "roi_head.shared_head": dict(type="ConvNeXtLastStage"),
    }
    model["roi_head"]["shared_head"]["stride"] = 1
    with pytest.raises(RefusedError, match="if that has stride 2"):
        choose_form(model, Levels((1024,), (16,), False), DIMS, make)


def test_a_recursive_pyramid_gets_two():
    neck = dict(type="RFP", in_channels=[256, 512, 1024, 2048], rfp_backbone=dict(type="R", rfp_inplanes=256))
    model = dict(backbone=dict(type="R", output_img=True), neck=neck)
    form = choose_form(model, Levels((256, 512, 1024, 2048), (4, 8, 16, 32), False), DIMS, make)
    assert form.backbone == dict(type="RFPConvNeXt", out_indices=[0, 1, 2, 3], output_img=True)
    inner = dict(type="RFPConvNeXt", out_indices=[0, 1, 2, 3], rfp_inplanes=256)
    assert {c.path[2]: c.new for c in form.changes} == {"in_channels": list(DIMS), "rfp_backbone": inner}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (heads(-1), (3,)),
        (heads(3, 2), (2, 3)),
        (dict(decode_head=dict(in_index=[0, 1, 2, 3])), (0, 1, 2, 3)),
        (dict(decode_head=[dict(in_index=[1, 3]), dict(in_index=[1])]), (1, 3)),
        (dict(decode_head=dict(in_index=3, c1_in_channels=256)), (0, 3)),
        (dict(decode_head=dict(in_index=3), neck=dict(type="FPN")), (0, 1, 2, 3)),
        (dict(bbox_head=dict(type="A")), (0, 1, 2, 3)),
    ],
)
def test_the_levels_that_are_read(model, expected):
    assert read_levels(model, 4) == expected


@MODELS.register_module()
class _OtherInTraining(nn.Module):
    """Two maps in training and the second in testing, as DDRNet; ``mixed``: one of no known shape."""

    def __init__(self, mixed: bool = False) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 9, stride=8, padding=4)
        self.deep = nn.Conv2d(3, 8, 9, stride=8, padding=4)
        self.mixed = mixed

    def forward(self, x):
        maps = self.fine(x), self.deep(x)
        return maps if self.training else maps[1][:, :5] if self.mixed else maps[1]


def test_maps_of_training_are_measured_where_they_differ():
    assert probe(dict(type="mmengine._OtherInTraining")) == Levels((4, 8), (8, 8), False, test_level=1)
    with pytest.raises(RefusedError, match="other things in training"):
        probe(dict(type="mmengine._OtherInTraining", mixed=True))


@MODELS.register_module()
class _GroupNeck(nn.Module):
    def __init__(self, in_channels, norm_cfg, skip=0) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(norm_cfg["num_groups"], c // 2) for c in in_channels)
        self.skip = skip

    def forward(self, maps):
        return tuple(norm(m[:, ::2]) for norm, m in list(zip(self.norms, maps, strict=True))[self.skip :])


@pytest.mark.parametrize(("channels", "groups"), [((80, 160), 8), ((192, 384), None), ((30, 50), 1)])
def test_group_norms_get_the_largest_divisor_that_builds(channels, groups):
    neck = dict(type="_GroupNeck", in_channels=channels, norm_cfg=dict(type="GN", num_groups=32))
    found = {c.path: c.new for c in group_changes(dict(backbone=dict(), neck=[dict(type="Other"), neck]))}
    path = ("model", "neck", 1, "norm_cfg", "num_groups")
    assert found == ({path: groups} if groups else {})


@pytest.mark.parametrize(
    ("model", "unread"),
    [
        (dict(neck=dict(type="_GroupNeck", in_channels=(8, 8), norm_cfg=dict(num_groups=1), skip=1)), "[0]"),
        (dict(neck=dict(type="_GroupNeck", in_channels=(8, 8), norm_cfg=dict(num_groups=1))), None),
        (dict(neck=dict(type="NoSuchNeck")), None),
        (heads(1), "[0]"),
        (heads(1, 0), None),
    ],
)
def test_unread_levels_are_announced_to_distributed_training(model, unread):
    changes = list(unread_changes(Config(), model, (8, 8), (4, 8)))
    assert [c.path for c in changes] == ([("find_unused_parameters",)] if unread else [])
    assert all(unread in c.why and c.new is True for c in changes)
    assert not list(unread_changes(Config(dict(find_unused_parameters=True)), model, (8, 8), (4, 8)))
