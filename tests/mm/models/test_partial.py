"""Parts of a ConvNeXt: together they are the whole network, which is the oracle here."""

import pytest
import torch
from mmengine.registry import MODELS

import convnext_dense
import convnext_dense.mm
from convnext_dense.errors import ArgumentError, CheckpointError
from convnext_dense.models.layer_decay import default_num_layers, layer_id

ARCH = dict(depths=(1, 1, 2, 1), dims=(8, 16, 32, 64))


@pytest.fixture(scope="module")
def whole():
    torch.manual_seed(0)
    return convnext_dense.ConvNeXt(ARCH, out_indices=(2, 3)).eval()


@pytest.fixture(scope="module")
def weights(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "whole.pth"
    torch.save({k: v for k, v in whole.state_dict().items() if not k.startswith("norm")}, path)
    return str(path)


def build(kind: str, weights: str | None = None, **options) -> torch.nn.Module:
    init = dict(init_cfg=dict(type="Pretrained", checkpoint=weights)) if weights else {}
    module = MODELS.build(dict(type=kind, arch=ARCH, **options, **init))
    module.init_weights()
    return module.eval()


def test_trunk_and_last_stage_are_the_whole_network(whole, weights):
    image = torch.randn(2, 3, 64, 96)
    expected = whole(image)
    trunk, last = build("ConvNeXtTrunk", weights), build("ConvNeXtLastStage", weights)
    with torch.no_grad():
        (level,) = trunk(image)
        torch.testing.assert_close(level, expected[0], rtol=1e-4, atol=1e-5)
        # the last stage begins with a LayerNorm, so the output norm before it changes nothing
        torch.testing.assert_close(last(level), expected[1], rtol=1e-4, atol=1e-4)
    kept = {*trunk.state_dict(), *last.state_dict()}
    assert kept == {*whole.state_dict()}


def test_layer_decay_groups_the_trunk_as_in_the_whole_network(whole):
    trunk = build("ConvNeXtTrunk")
    for name, _ in trunk.named_parameters():
        expected = layer_id(name, ARCH["depths"]), default_num_layers(ARCH["depths"]) + 2
        assert trunk.get_layer_depth(f"backbone.{name}", "backbone.") == expected


def test_weights_without_the_last_stage_do_not_fit(weights, tmp_path):
    state = {k: v for k, v in torch.load(weights).items() if not k.startswith("stages.3")}
    path = tmp_path / "cut.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"tensors not loaded, first \['stages.3.0"):
        build("ConvNeXtLastStage", str(path))
    build("ConvNeXtTrunk", str(path))


@pytest.mark.parametrize(
    ("options", "words"),
    [(dict(out_indices=(3,)), "returns its last stage"), (dict(frozen_stages=4), "the trunk has 3 stages")],
)
def test_the_trunk_has_no_fourth_stage(options, words):
    with pytest.raises(ArgumentError, match=words):
        MODELS.build(dict(type="ConvNeXtTrunk", arch=ARCH, **options))


def test_a_frozen_trunk_stays_in_evaluation_mode():
    trunk = MODELS.build(dict(type="ConvNeXtTrunk", arch=ARCH, frozen_stages=3)).train()
    assert not any(p.requires_grad for p in trunk.stages.parameters()) and not trunk.stages[2].training


def test_feedback_starts_at_nothing_and_reaches_stages_1_to_3(whole, weights):
    image = torch.randn(1, 3, 64, 64)
    feats = [torch.randn(1, 6, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    model = build("RFPConvNeXt", weights, rfp_inplanes=6)
    plain = build("RFPConvNeXt", weights, output_img=True)
    with torch.no_grad():
        returned, *levels = plain(image)
        assert returned is image
        for a, b in zip(model.rfp_forward(image, feats), levels, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        torch.testing.assert_close(levels[2], whole(image)[0])
        for i in (1, 2, 3):
            torch.nn.init.ones_(model.feedback[str(i)].weight)
            changed = model.rfp_forward(image, feats)
            same = [torch.equal(a, b) for a, b in zip(changed, levels, strict=True)]
            assert same == [j < i for j in range(4)]
            torch.nn.init.zeros_(model.feedback[str(i)].weight)
