"""Arguments of other backbones: harmless ones are accepted, others name our spelling."""

import pytest
import torch
from mmengine.registry import MODELS

from convnext_dense.errors import ArgumentError
from convnext_dense.models.convnext import ConvNeXt

TINY = dict(type="ConvNeXt", arch=dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)))


@pytest.mark.parametrize(
    "other",
    [
        dict(gap_before_final_norm=False, linear_pw_conv=True, norm_cfg=dict(type="LN2d", eps=1e-6)),
        dict(act_cfg=dict(type="GELU"), stem_patch_size=4),
        dict(norm_eval=True, style="pytorch", num_stages=4, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1)),
        dict(use_checkpoint=False, num_classes=0, features_only=True),
        dict(pretrained=None),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_accepted(other):
    torch.manual_seed(0)
    plain = MODELS.build(dict(TINY))
    torch.manual_seed(0)
    spelled = MODELS.build(dict(TINY, **other))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), spelled.parameters(), strict=True))


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("gap_before_final_norm", True, "maps"),
        ("norm_cfg", dict(type="BN"), "LayerNorm"),
        ("norm_cfg", dict(type="LN2d", eps=1e-5), "eps=1e-6"),
        ("act_cfg", dict(type="ReLU"), "GELU"),
        ("in_chans", 4, "write in_channels"),
        ("depths", (1, 1, 1, 1), "arch=dict(depths"),
        ("use_checkpoint", True, "with_cp=True"),
        ("dilations", (1, 1, 1, 2), "output_stride"),
        ("dilations", 1, "output_stride"),
        ("num_classes", 1000, "classifier"),
        ("out_index", (0,), "similar: out_indices"),
        ("zzz", 1, "similar: arch, in_channels"),
    ],
)  # fmt: skip
def test_what_asks_for_something_else_names_our_spelling(key, value, remedy):
    with pytest.raises(ArgumentError, match=f"ConvNeXt has no argument '?{key}") as raised:
        MODELS.build(dict(TINY, **{key: value}))
    assert remedy in str(raised.value)


def test_pretrained_is_an_init_cfg(tmp_path):
    torch.save(ConvNeXt(TINY["arch"]).state_dict(), path := tmp_path / "weights.pth")
    model = MODELS.build(dict(TINY, pretrained=str(path)))
    model.init_weights()
    assert torch.equal(model.state_dict()["norm0.weight"], torch.load(path)["norm0.weight"])
    with pytest.raises(ArgumentError, match="keep one"):
        MODELS.build(dict(TINY, pretrained="a.pth", init_cfg=dict(type="Pretrained", checkpoint="b.pth")))
