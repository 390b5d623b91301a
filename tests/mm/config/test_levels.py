"""Neck and heads must read the levels that the backbone returns."""

import pytest

from convnext_dense.errors import UserError
from convnext_dense.mm.config.levels import backbone_channels, check_levels
from convnext_dense.mm.config.load import load_config


def test_levels_of_a_backbone():
    assert backbone_channels(dict(type="ConvNeXt", arch="base")) == (128, 256, 512, 1024)
    assert backbone_channels(dict(type="mmengine.ConvNeXt", out_indices=(-1,))) == (768,)
    assert backbone_channels(dict(type="ConvNeXt", arch="tinny")) is None
    assert backbone_channels(dict(type="ResNet", depth=50)) is None


@pytest.mark.parametrize(
    "recipe", ["cascade/convnext_b_3x", "upernet/isotropic_s_512_160k", "demo/upernet_shapes"]
)
def test_recipes_fit(recipe):
    check_levels(load_config(recipe))


@pytest.mark.parametrize(
    ("recipe", "key", "value", "line"),
    [
        ("demo/mask_rcnn_shapes", "out_indices", (1, 2, 3), r"model.neck.in_channels is .*\[64, 128, 256\]"),
        ("demo/upernet_shapes", "out_indices", (1, 2, 3), r"decode_head.in_channels .*\[64, 128, 256\]"),
        ("demo/upernet_shapes", "arch", "tiny", r"decode_head.in_channels is .*\[96, 192, 384, 768\]"),
        ("demo/upernet_shapes", "depths", (1, 1), r"model.backbone: ConvNeXt has no argument depths"),
    ],
)  # fmt: skip
def test_a_level_that_does_not_fit(recipe, key, value, line):
    cfg = load_config(recipe)
    cfg.model.backbone[key] = value
    with pytest.raises(UserError, match=line):
        check_levels(cfg)


def test_a_head_that_reads_a_level_too_many():
    cfg = load_config("demo/upernet_shapes")
    cfg.model.auxiliary_head.in_index = 4
    with pytest.raises(UserError, match=r"model\.auxiliary_head\.in_index is 4"):
        check_levels(cfg)
