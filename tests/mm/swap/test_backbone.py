"""Any config's backbone is replaced with everything that depends on it, or refused with the reason."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from published import run_command
from torch import nn

import convnext_dense.mm
from convnext_dense import ARCHS
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.swap.backbone import PRETRAINED, learning_rate, swap_backbone
from convnext_dense.mm.swap.channels import new_list, new_number
from convnext_dense.mm.swap.heads import head_changes
from convnext_dense.mm.swap.probe import Levels, RefusedError, Stages, choose_stages, probe
from convnext_dense.mm.swap.smoke_test import TrialError, try_model
from convnext_dense.mm.swap.write import default_output, format_changes, literal, write_config

RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
PSPNET = "mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py"
R50 = (256, 512, 1024, 2048)
ATTO = ARCHS["atto"].dims


@pytest.mark.parametrize(
    ("strides", "dilated", "expected"),
    [
        ((4, 8, 16, 32), False, Stages((0, 1, 2, 3), 32)),  # FPN
        ((8, 16, 32), False, Stages((1, 2, 3), 32)),  # YOLO
        ((16,), False, Stages((2,), 32)),
        ((32,), False, Stages((3,), 32)),  # DETR
        ((4, 8, 8, 8), True, Stages((0, 1, 2, 3), 8)),  # PSPNet
        ((4, 8, 16, 16), True, Stages((0, 1, 2, 3), 16)),  # DeepLab at stride 16
        ((8,), True, Stages((3,), 8)),
        ((16,), True, Stages((3,), 16)),  # DETR-DC5
        ((8, 16), True, Stages((1, 3), 16)),  # SSD's VGG, whose last layers are dilated
    ],
)
def test_stages_follow_the_strides(strides, dilated, expected):
    assert choose_stages(Levels((1,) * len(strides), strides, dilated)) == expected


@pytest.mark.parametrize(
    ("strides", "dilated", "words"),
    [
        ((1, 4, 8), False, r"levels of stride \[1\]; ConvNeXt has"),
        ((16, 16, 16, 16), False, "which repeat without dilation: no pyramid"),
        ((8, 16, 8), False, "rise from one stage to the next"),
        ((32, 16, 8, 4), False, "rise from one stage to the next"),  # a decoder
        ((4, 4), True, "ConvNeXt would have"),
    ],
)
def test_levels_that_no_convnext_has_are_refused(strides, dilated, words):
    with pytest.raises(RefusedError, match=words):
        choose_stages(Levels((1,) * len(strides), strides, dilated))


@pytest.mark.parametrize(
    ("backbone", "scope", "expected"),
    [
        (dict(type="ResNet", depth=18), "mmdet", Levels((64, 128, 256, 512), (4, 8, 16, 32), False)),
        (
            dict(
                type="ResNetV1c", depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), init_cfg="ignored"
            ),
            "mmseg",
            Levels((64, 128, 256, 512), (4, 8, 8, 8), True),
        ),
        (
            dict(type="SwinTransformer", embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
            "mmdet",
            Levels((24, 48, 96, 192), (4, 8, 16, 32), False),
        ),
        (
            dict(type="ResNet", depth=50, dcn=dict(type="DCNv2"), stage_with_dcn=(False, True, True, True)),
            "mmdet",
            Levels(R50, (4, 8, 16, 32), False),
        ),
    ],
    ids=["resnet", "dilated", "swin", "deformable"],
)
def test_a_backbone_is_measured(backbone, scope, expected):
    load_config(RETINANET if scope == "mmdet" else PSPNET)  # registers the toolbox
    init_default_scope(scope)
    assert probe(backbone) == expected


@MODELS.register_module()
class _ReturnsTokens(nn.Module):
    def forward(self, x):
        return (x.flatten(2),)


@MODELS.register_module()
class _NeedsMore(nn.Module):
    def forward(self, x, text):
        return (x,)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("_ReturnsTokens", "a tensor of 3 dimensions"),
        ("_NeedsMore", "does not run on an image alone .*'text'"),
    ],
)
def test_what_is_no_pyramid_of_an_image_is_refused(kind, words):
    init_default_scope("mmengine")
    with pytest.raises(RefusedError, match=words):
        probe(dict(type=kind))


@pytest.mark.parametrize(
    ("value", "index", "is_input", "expected"),
    [
        (R50, None, True, [40, 80, 160, 320]),
        (R50, None, False, [40, 80, 160, 320]),  # under any key, as a whole
        ((2048, 1024, 512), None, True, [320, 160, 80]),  # YOLOv3 counts from the deepest
        ((1024, 2048), [2, 3], True, [160, 320]),
        ((256, 256), None, True, [40, 40]),
        ((512, 1024), None, False, None),  # a part, under a key without meaning
        ((256, 300), None, True, None),
    ],
)
def test_lists_of_channels(value, index, is_input, expected):
    assert new_list(value, index, R50, ATTO, is_input) == expected


@pytest.mark.parametrize(
    ("value", "index", "old", "expected"),
    [
        (2048, -1, R50, 320),
        (1024, 2, R50, 160),
        (1024, None, R50, 160),
        (64, 0, (64, 64, 128, 128), 40),
        (64, None, (64, 64, 128, 128), 80),  # ambiguous: the deepest
        (300, 3, R50, None),
    ],
)
def test_numbers_of_channels(value, index, old, expected):
    assert new_number(value, index, old, ATTO) == expected


def test_the_public_name():
    assert convnext_dense.mm.swap_backbone is swap_backbone
    with pytest.raises(AttributeError, match="no attribute 'swap_bakbone'"):
        _ = convnext_dense.mm.swap_bakbone


@pytest.mark.parametrize(
    ("arch", "recipe"),
    [
        ("tiny", "convnext_t_3x"),
        ("small", "convnext_s_3x"),
        ("base", "convnext_b_in22k_3x"),
        ("large", "convnext_l_in22k_3x"),
        ("xlarge", "convnext_xl_in22k_3x"),
    ],
)
def test_a_swap_starts_from_the_weights_that_the_recipes_start_from(arch, recipe):
    assert PRETRAINED[arch] == load_config(f"cascade/{recipe}").model.backbone.init_cfg.checkpoint


def test_a_detector_is_swapped_written_and_reads_back(tmp_path):
    cfg = load_config(RETINANET)
    before = cfg.to_dict()
    swap = swap_backbone(cfg, "base")
    assert cfg.to_dict() == before, "the caller's config stays as it is"
    model = swap.cfg.model
    assert model.backbone.arch == "base" and model.backbone.out_indices == [0, 1, 2, 3]
    assert model.backbone.init_cfg.checkpoint.endswith("convnext_base_22k_224.pth")
    assert model.neck.in_channels == list(ARCHS["base"].dims) and model.neck.out_channels == 256
    assert model.bbox_head == dict(cfg.model.bbox_head, type="convnext_dense.RetinaHead")
    assert (
        swap.cfg.optim_wrapper.optimizer.type == "AdamW" and swap.cfg.optim_wrapper.type == "AmpOptimWrapper"
    )
    assert "256, 512, 1024, 2048" in format_changes(swap.changes)
    path = tmp_path / default_output(RETINANET, "base")
    write_config(swap, RETINANET, path)
    assert [p.name for p in tmp_path.iterdir()] == ["retinanet_r50_fpn_1x_coco_convnext-base.py"]
    written = Config.fromfile(path)
    assert written.model.neck.in_channels == model.neck.in_channels
    assert written.train_cfg.max_epochs == cfg.train_cfg.max_epochs
    assert len(path.read_text().splitlines()) < 45


def test_dilated_heads_keep_their_resolution(tmp_path):
    cfg = load_config(PSPNET)
    swap = swap_backbone(cfg, "atto", pretrained="none", amp=False)
    assert swap.cfg.model.backbone.output_stride == 8 and "init_cfg" not in swap.cfg.model.backbone
    assert swap.cfg.model.decode_head.in_channels == 320
    assert swap.cfg.model.auxiliary_head.in_channels == 160
    assert "pretrained" not in swap.cfg.model
    assert swap.cfg.optim_wrapper.type == "OptimWrapper"
    try_model(swap.cfg, size=64)
    # the user's own file is named by its relative path
    source = tmp_path / "configs" / "mine.py"
    source.parent.mkdir()
    cfg.dump(source)
    mine = swap_backbone(load_config(str(source)), "atto", pretrained="none")
    write_config(mine, str(source), tmp_path / "swapped.py")
    assert '_base_ = "configs/mine.py"' in (tmp_path / "swapped.py").read_text()


@pytest.mark.parametrize("amp", [True, False])
def test_uper_head_is_the_fast_one_in_any_precision(amp):
    head = dict(type="UPerHead", in_channels=[1, 2])
    (change,) = head_changes(dict(decode_head=head), "mmseg", amp)
    assert change.path == ("model", "decode_head", "type") and change.new == "convnext_dense.UPerHead"
    assert "multiply-adds" in change.why
    assert not list(head_changes(dict(decode_head=dict(type="FCNHead")), "mmseg", amp=False))


CASCADE = "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py"


def test_heads_keep_coordinates_in_float32_where_the_config_trains_with_amp(tmp_path):
    swap = swap_backbone(load_config(CASCADE), "atto", pretrained="none")
    ours = {".".join(map(str, c.path)): c.new for c in swap.changes if c.path[-1] == "type"}
    assert ours == {
        "model.rpn_head.type": "convnext_dense.RPNHead",
        "model.roi_head.type": "convnext_dense.CascadeRoIHead",
        "model.roi_head.bbox_roi_extractor.type": "convnext_dense.SingleRoIExtractor",
        **{f"model.roi_head.bbox_head.{i}.type": "convnext_dense.Shared2FCBBoxHead" for i in range(3)},
        "model.roi_head.mask_roi_extractor.type": "convnext_dense.SingleRoIExtractor",
        "model.roi_head.mask_head.type": "convnext_dense.FCNMaskHead",
    }
    write_config(swap, CASCADE, tmp_path / "swapped.py")
    written = Config.fromfile(tmp_path / "swapped.py").model.roi_head
    assert [head.type for head in written.bbox_head] == ["convnext_dense.Shared2FCBBoxHead"] * 3
    plain = swap_backbone(load_config(CASCADE), "atto", pretrained="none", amp=False)
    assert not [c for c in plain.changes if c.path[-1] == "type"]


@pytest.mark.parametrize(
    ("kind", "scope", "mended"),
    [
        ("RetinaHead", "mmdet", True),
        ("mmdet.RetinaHead", "mmseg", True),
        ("UPerHead", "mmseg", True),
        ("convnext_dense.RetinaHead", "mmdet", False),
        ("mmseg.MaskFormerHead", "mmseg", False),  # ours of that name is a subclass of mmdet's
        ("FPN", "mmdet", False),
        ("NoSuchHead", "mmdet", False),
    ],
)
def test_only_subclasses_of_the_very_class_take_its_place(kind, scope, mended):
    found = list(head_changes(dict(bbox_head=dict(type=kind)), scope, amp=True))
    assert [c.path for c in found] == ([("model", "bbox_head", "type")] if mended else [])


def test_a_head_that_reads_several_levels_of_a_neck(tmp_path):
    cfg = load_config("mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py")
    swap = swap_backbone(cfg, "atto", pretrained="none")
    assert swap.cfg.model.neck.in_channels == list(ARCHS["atto"].dims)
    assert swap.cfg.model.decode_head[0].in_index == [0, 1, 2, 3]
    try_model(swap.cfg, size=64)


def test_whatever_changes_in_the_optimizer_is_said():
    cfg = load_config("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py")
    reasons = {change.path: change.why for change in swap_backbone(cfg, "atto").changes}
    assert reasons[("optim_wrapper",)].split("; ")[1:] == [
        "weight decay 0.05, not 0.0001",
        "layer decay in place of the rates of backbone",
        "mixed precision as released (--no-amp: as before)",
    ]
    assert reasons[("model", "backbone")].endswith("random weights: the release has none of atto")
    same = {change.path: change.why for change in swap_backbone(cfg, "tiny", amp=False).changes}
    assert "precision" not in same[("optim_wrapper",)] and "random" not in same[("model", "backbone")]


def test_the_optimizer_stays_when_asked_and_adam_keeps_its_rate():
    cfg = load_config("mmdet::detr/detr_r50_8xb2-150e_coco.py")
    assert "optim_wrapper" not in {c.path[0] for c in swap_backbone(cfg, keep_optim=True).changes}
    assert learning_rate(cfg)[0] == 1e-4 and "as before" in learning_rate(cfg)[1]
    wrapper = swap_backbone(cfg).cfg.optim_wrapper
    assert wrapper.clip_grad == dict(max_norm=0.1, norm_type=2)
    retina = load_config(RETINANET)
    retina.auto_scale_lr.base_batch_size = 32
    assert learning_rate(retina)[0] == pytest.approx(2e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda cfg: cfg.model.pop("backbone"), "the config has no model.backbone"),
        (
            lambda cfg: cfg.model.update(
                backbone=None, image_encoder=dict(type="ViT"), text_encoder=dict(type="CLIP")
            ),
            "no model.backbone: its image_encoder and text_encoder were trained together",
        ),
        (lambda cfg: cfg.model.backbone.pop("type"), "model.backbone has no type: another library"),
        (
            lambda cfg: cfg.model.update(roi_head=dict(shared_head=dict(type="ResLayer"))),
            r"shared_head \(ResLayer\) over strides \[4, 8, 16, 32\]",
        ),
        (
            lambda cfg: (
                cfg.model.neck.update(rfp_backbone=dict()) or cfg.model.backbone.update(out_indices=(1, 2, 3))
            ),
            r"an RFP over levels of strides \[8, 16, 32\]",
        ),
    ],
)
def test_what_cannot_be_swapped_is_refused(change, words):
    cfg = load_config(RETINANET)
    change(cfg)
    with pytest.raises(RefusedError, match=words):
        swap_backbone(cfg)


def test_images_of_other_channels_keep_their_normalisation():
    cfg = load_config(PSPNET)
    cfg.model.backbone.in_channels = 25
    for key in ("mean", "std", "bgr_to_rgb"):
        cfg.model.data_preprocessor.pop(key)
    new = swap_backbone(cfg, "atto", pretrained="none").cfg
    assert new.model.backbone.in_channels == 25
    assert new.model.data_preprocessor == cfg.model.data_preprocessor
    try_model(new, size=64)


def test_a_model_without_a_preprocessor_reads_images_that_are_ready():
    cfg = load_config(PSPNET)
    cfg.model.data_preprocessor = cfg.model.test_cfg = None
    changes = swap_backbone(cfg, "atto", pretrained="none").changes
    assert not [c for c in changes if "data_preprocessor" in c.path]


def test_a_model_that_would_fail_says_where():
    cfg = swap_backbone(load_config(RETINANET), "atto", pretrained="none").cfg
    cfg.model.neck.in_channels = [40, 80, 161, 320]
    with pytest.raises(
        TrialError, match=r"a training step fails in neck\.lateral_convs\.1\.conv \(Conv2d\).*161"
    ):
        try_model(cfg, size=64)
    cfg.model.neck.type = "NoSuchNeck"
    with pytest.raises(TrialError, match=r"building the model fails: .*NoSuchNeck"):
        try_model(cfg, size=64)


def test_literals_read_back():
    value = dict(
        type="A" * 60,
        inner=dict(numbers=[1, 2.5, None, True], names=("a", 'quote"')),
        custom={"head.bias": dict(lr_mult=2.0)},
    )
    text = literal(value)
    assert eval(text) == value and max(map(len, text.splitlines())) <= 100
    assert literal([]) == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mmdet::no/such.py"], "error: no config mmdet::no/such.py"),
        (["absent.py"], "error: no config file absent.py"),
    ],
)
def test_the_command_fails_in_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = run_command("swap", *arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_swaps_tries_and_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_command("swap", RETINANET, "--arch", "atto", "-o", "out/a.py")
    assert done.returncode == 0, done.stderr
    assert "model.neck.in_channels" in done.stdout and "wrote out/a.py" in done.stdout
    cfg = Config.fromfile(tmp_path / "out/a.py")
    init_default_scope("mmdet")
    cfg.model.backbone.pop("init_cfg", None)
    assert isinstance(MODELS.build(cfg.model).backbone, nn.Module)
    assert torch.is_grad_enabled()
