"""Every naming that a library uses is recognised, loads completely, and survives a round trip."""

import pytest
import torch
from namings import ENTRIES, MICRO, random_state

from convnext_dense import CheckpointError, Classifier, ConvNeXt, IsotropicConvNeXt, load_checkpoint
from convnext_dense.checkpoints.convert import convert
from convnext_dense.checkpoints.load import dense_kernel, in_our_names
from convnext_dense.checkpoints.namings import rename

KNOWN = [name for name, entry in ENTRIES.items() if entry["representable"]]
CLASSIFIERS = [name for name in KNOWN if "classifier" in name] + ["timm_v1", "timm_v2", "torchvision_v1"]


def saved(tmp_path, state):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("name", KNOWN)
def test_a_backbone_takes_all_its_tensors(tmp_path, name):
    entry = ENTRIES[name]
    state = random_state(entry["keys"])
    if name == "facebook_dinov3":  # one norm under two names
        state.update({f"norms.3.{p}": state[f"norm.{p}"] for p in ("weight", "bias")})
    if name == "facebook_isotropic":
        model = IsotropicConvNeXt(dict(depths=(3,), dims=(24,)))
    else:
        model = ConvNeXt(MICRO, use_grn=entry["v2"])
    report = load_checkpoint(model, saved(tmp_path, state))
    own = model.state_dict()
    body = {key for key in own if not key.startswith("norm")}
    assert body <= set(report.loaded)
    assert set(report.loaded) | set(report.fresh) == set(own)
    assert all(key.startswith("norm") for key in report.fresh)
    # every value came from the file, each from another key, and all of the backbone's were used
    sums = {round(value.double().sum().item(), 9): key for key, value in state.items()}
    used = [sums[round(own[key].double().sum().item(), 9)] for key in report.loaded]
    assert len(set(used)) == len(used)
    left = set(state) - set(used)
    assert len(report.dropped) == len(left)
    assert all(any(key.endswith(name) for key in left) for name in report.dropped)


# What each library calls the parameters of the second block of stage 2, written down by hand.
LANDMARKS = {
    "timm_v1": (
        "stages.2.blocks.1.conv_dw.weight",
        "stages.2.blocks.1.mlp.fc2.bias",
        "stages.3.downsample.1.bias",
    ),
    "timm_v1_features": (
        "stages_2.blocks.1.conv_dw.weight",
        "stages_2.blocks.1.mlp.fc2.bias",
        "stages_3.downsample.1.bias",
    ),
    "torchvision_v1": ("features.5.1.block.0.weight", "features.5.1.block.5.bias", "features.6.1.bias"),
    "hf_v1_model": (
        "encoder.stages.2.layers.1.dwconv.weight",
        "encoder.stages.2.layers.1.pwconv2.bias",
        "encoder.stages.3.downsampling_layer.1.bias",
    ),
    "hf_dinov3_model": (
        "model.stages.2.layers.1.depthwise_conv.weight",
        "model.stages.2.layers.1.pointwise_conv2.bias",
        "model.stages.3.downsample_layers.1.bias",
    ),
    "mmpretrain_v1_classifier": (
        "backbone.stages.2.1.depthwise_conv.weight",
        "backbone.stages.2.1.pointwise_conv2.bias",
        "backbone.downsample_layers.3.1.bias",
    ),
}
OURS = ("stages.2.1.dwconv.weight", "stages.2.1.pwconv2.bias", "downsample_layers.3.1.bias")


@pytest.mark.parametrize("name", LANDMARKS)
def test_landmarks_go_where_they_belong(name):
    names = rename(ENTRIES[name]["keys"]).names
    assert tuple(names[key][0] for key in LANDMARKS[name]) == OURS


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_takes_head_and_norm(tmp_path, name):
    entry = ENTRIES[name]
    if name == "facebook_v2_fcmae_released":
        pytest.skip("has no head")
    model = Classifier(MICRO, num_classes=5, use_grn=entry["v2"])
    report = load_checkpoint(model, saved(tmp_path, random_state(entry["keys"])))
    assert not report.fresh and len(report.loaded) == len(model.state_dict()) == len(entry["keys"])


@pytest.mark.parametrize(
    "name", ["timm_v1_head_hidden", "timm_v1_head_norm_first", "facebook_v2_fcmae_sparse"]
)
def test_a_head_that_means_something_else_is_refused(tmp_path, name):
    entry = ENTRIES[name]
    model = Classifier(MICRO, num_classes=5, use_grn=entry["v2"])
    with pytest.raises(
        CheckpointError, match=r"head\.pre_logits|missing, first \['norm\.|no classifier head"
    ):
        load_checkpoint(model, saved(tmp_path, random_state(entry["keys"])))


@pytest.mark.parametrize("name", ["timm_overlap", "timm_rms"])
def test_variants_with_other_layers_are_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"missing|stem\.2"):
        load_checkpoint(ConvNeXt(MICRO), saved(tmp_path, random_state(ENTRIES[name]["keys"])))


TARGET_OF = {
    "timm_v1": "timm",
    "timm_v2": "timm",
    "torchvision_v1": "torchvision",
    "hf_v1_classifier": "hf",
    "hf_v2_classifier": "hf",
    "hf_v1_backbone": "hf",
    "hf_v1_model": "hf",
    "mmpretrain_v1_classifier": "mmpretrain",
    "mmpretrain_v2_classifier": "mmpretrain",
    "mmpretrain_v1_backbone": "mmpretrain",
    "mmpretrain_v2_backbone": "mmpretrain",
    "facebook_v1_classifier": "facebook",
    "facebook_v2_classifier": "facebook",
    "facebook_isotropic": "facebook",
    "facebook_v1_dense": "facebook",
}


@pytest.mark.parametrize("name", TARGET_OF)
def test_there_and_back_is_bit_identical(name):
    state = random_state(ENTRIES[name]["keys"])
    _, tensors = in_our_names(state, name)
    back = convert(tensors, TARGET_OF[name])
    assert not back.left_out
    assert set(back.state) == set(state)
    assert all(torch.equal(back.state[key], state[key]) for key in state)


@pytest.mark.parametrize("arch", ["atto", "nano"])
def test_the_small_archs_go_to_timm_as_convolutions(arch):
    tensors = ConvNeXt(arch, out_indices=3).state_dict()
    converted = convert(tensors, "timm")
    assert converted.left_out == ("norm3.weight", "norm3.bias")
    assert converted.state["stages.0.blocks.0.mlp.fc1.weight"].shape[2:] == (1, 1)
    _, back = in_our_names(converted.state, "timm")
    assert all(torch.equal(back[name], tensors[name]) for name in back)


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("facebook_v2_classifier", "torchvision", r"no place for 10 tensors, first \['stages\.0\.0\.grn"),
        ("facebook_isotropic", "timm", r"no place for"),
        ("facebook_v1_dense", "keras", r"use one of \('facebook'"),
    ],
)
def test_what_a_target_cannot_hold_is_named(name, target, words):
    _, tensors = in_our_names(random_state(ENTRIES[name]["keys"]), name)
    with pytest.raises(CheckpointError, match=words):
        convert(tensors, target)


def test_a_sparse_kernel_keeps_its_geometry():
    """MinkowskiEngine flattens by columns: position 1 of a 2x2 kernel is second row, first column."""
    depthwise = torch.arange(4.0).reshape(4, 1)
    assert torch.equal(dense_kernel(depthwise), torch.tensor([[[[0.0, 2.0], [1.0, 3.0]]]]))
    full = torch.randn(4, 3, 5)  # K * K, I, O
    dense = dense_kernel(full)
    assert dense.shape == (5, 3, 2, 2)
    # the released conversion, step by step
    expected = full.permute(2, 1, 0).reshape(5, 3, 2, 2).transpose(3, 2)
    assert torch.equal(dense, expected)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["layer1.0.conv1.weight", "fc.weight"], "no known ConvNeXt naming"),
        (["downsample_layers.0.0.weight", "attn.qkv.weight"], "1 keys unknown to the facebook naming"),
        ([], "no known ConvNeXt naming"),
    ],
)
def test_unknown_keys_raise(keys, words):
    with pytest.raises(KeyError, match=words):
        rename(keys)


def test_keys_beside_the_backbone_are_distinguished():
    renamed = rename(["backbone.downsample_layers.0.0.weight", "backbone.norm0.weight", "neck.a.weight"])
    assert renamed.beside == ("neck.a.weight",) and renamed.container == "backbone."
