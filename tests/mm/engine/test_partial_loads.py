"""Loads that take a part of a file: which tensors come from it, and what is said."""

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from torch import nn

from convnext_dense.errors import CheckpointError, UserError
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.engine.checkpoints import whole_model_state
from convnext_dense.mm.engine.partial_loads import (
    NewHeads,
    check_new_heads,
    check_pretrained,
    loaded_as_far_as_it_fits,
)
from convnext_dense.mm.models.backbones import ConvNeXt
from convnext_dense.mm.models.meta_device import build_on_meta

SMALL = dict(arch=dict(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32]))


def segmentor(classes: int) -> Config:
    cfg = load_config("demo/upernet_shapes")
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.num_classes = classes
    return cfg


def test_new_heads_replace_the_layers_of_the_classes_alone():
    cfg = segmentor(2)
    model, old = build_on_meta(cfg), build_on_meta(segmentor(4)).state_dict()
    with pytest.raises(CheckpointError, match=r"4 of another shape.*train from it with --new-heads"):
        whole_model_state(model, old, "old.pth")
    heads = NewHeads(cfg)
    state = whole_model_state(model, old, "old.pth", heads)
    layers = [
        f"{head}.conv_seg.{part}" for head in ("auxiliary_head", "decode_head") for part in ("bias", "weight")
    ]
    assert sorted(heads.anew) == layers
    own = model.state_dict()
    assert all(state[key] is (own if key in layers else old)[key] or key in layers for key in own)
    assert [tuple(state[key].shape) for key in layers[:2]] == [(2,), (2, 48, 1, 1)]
    assert heads.line("old.pth").endswith("(--new-heads): auxiliary_head.conv_seg, decode_head.conv_seg")


def test_new_heads_also_for_as_many_other_classes():
    heads = NewHeads(segmentor(4))
    model = build_on_meta(segmentor(4))
    whole_model_state(model, model.state_dict(), "old.pth", heads)
    assert len(heads.anew) == 4


def test_a_head_that_the_model_does_not_have_is_left_out_and_named():
    old = build_on_meta(segmentor(4)).state_dict()
    cfg = segmentor(2)
    cfg.model.auxiliary_head = None
    model = build_on_meta(cfg)
    with pytest.raises(
        CheckpointError, match=r"not in the model.*has more heads, train from it with --new-heads"
    ):
        whole_model_state(model, old, "old.pth")
    heads = NewHeads(cfg)
    model.load_state_dict(whole_model_state(model, old, "old.pth", heads))
    assert "start anew (--new-heads): decode_head.conv_seg; not used: auxiliary_head." in heads.line(
        "old.pth"
    )
    old["neck.weight"] = torch.zeros(1, device="meta")
    with pytest.raises(CheckpointError, match="1 not in the model"):
        whole_model_state(model, old, "old.pth", NewHeads(cfg))


def test_another_backbone_is_no_matter_of_heads():
    cfg = segmentor(4)
    old = build_on_meta(cfg).state_dict()
    old["backbone.stages.0.0.pwconv1.weight"] = torch.zeros(1, 1, device="meta")
    with pytest.raises(CheckpointError, match="1 of another shape") as error:
        whole_model_state(build_on_meta(cfg), old, "old.pth", NewHeads(cfg))
    assert "--new-heads" not in str(error.value)


@pytest.mark.parametrize(
    ("entries", "resumes", "said"),
    [({}, False, "needs a whole model"), (dict(load_from="a.pth"), True, "leave it out with --resume")],
)
def test_new_heads_of_nothing(entries, resumes, said):
    with pytest.raises(UserError, match=said):
        check_new_heads(Config(entries), resumes)


def test_load_strict_false_says_what_fits():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {"module.0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(4)}
    line = loaded_as_far_as_it_fits(model, {"state_dict": state}, "a.pth")
    assert line == (
        "load_strict = False: 1/4 tensors from a.pth (1 of another shape, first 0.bias; "
        "2 not in the file, first 1.weight)"
    )
    with pytest.raises(CheckpointError, match=r"a\.pth: none of its 1 tensors fits the model"):
        loaded_as_far_as_it_fits(model, {"state_dict": {"x": torch.zeros(1)}}, "a.pth")


# ---- Pretrained


class Plain(BaseModule):
    def __init__(self, **init: object) -> None:
        super().__init__(init_cfg=dict(type="Pretrained", **init))
        self.layer = nn.Linear(2, 3)


def test_a_file_for_a_module_of_a_toolbox_is_counted(tmp_path):
    path = str(tmp_path / "a.pth")
    torch.save({"backbone.layer.weight": torch.zeros(3, 2), "backbone.layer.bias": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="none of its 2 tensors fits model"):
        check_pretrained(Plain(checkpoint=path))
    with pytest.raises(CheckpointError, match=r"no tensor begins with 'neck\.' .* begin with backbone\."):
        check_pretrained(Plain(checkpoint=path, prefix="neck"))
    assert check_pretrained(Plain(checkpoint=path, prefix="backbone.")) == [f"model: 2/2 tensors from {path}"]


def test_a_prefix_chooses_among_the_models_of_a_file(tmp_path):
    student, teacher = ConvNeXt(**SMALL).state_dict(), ConvNeXt(**SMALL).state_dict()
    both = {f"student.backbone.{key}": value for key, value in student.items()}
    both |= {f"teacher.backbone.{key}": value for key, value in teacher.items()}
    torch.save(both, tmp_path / "both.pth")

    def loaded(prefix: str) -> dict:
        init = dict(type="Pretrained", checkpoint=str(tmp_path / "both.pth"), prefix=prefix)
        model = ConvNeXt(**SMALL, init_cfg=init)
        model.init_weights()
        return model.state_dict()

    for prefix, expected in (("student.backbone.", student), ("teacher.backbone", teacher)):
        found = loaded(prefix)
        assert all(torch.equal(found[key], expected[key]) for key in found)
    with pytest.raises(CheckpointError, match=r"no tensor begins with 'backbone\.' .*student\., teacher\."):
        loaded("backbone.")
