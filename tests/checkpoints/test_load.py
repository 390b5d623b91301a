"""Loading is exact: files that fit load completely; all others give a one-line error and change nothing."""

import hashlib

import pytest
import torch

from convnext_dense import CheckpointError, Classifier, ConvNeXt, load_checkpoint
from convnext_dense.checkpoints.load import infer_arch

MICRO = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))


def released_classifier(arch=MICRO) -> dict[str, torch.Tensor]:
    """State dict of a classifier in the released naming, with random values."""
    torch.manual_seed(0)
    body = {
        k: torch.randn_like(v) for k, v in ConvNeXt(arch).state_dict().items() if not k.startswith("norm")
    }
    last = body["stages.3.0.norm.weight"].numel()
    head = {"norm.weight": last, "norm.bias": last, "head.weight": (10, last), "head.bias": 10}
    return {**body, **{key: torch.randn(shape) for key, shape in head.items()}}


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_a_released_classifier_loads_whole(tmp_path, caplog, wrapper):
    state = released_classifier()
    path = tmp_path / "convnext.pth"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    model = ConvNeXt(MICRO)
    with caplog.at_level("INFO", logger="convnext_dense"):
        report = load_checkpoint(model, str(path))
    own = model.state_dict()
    body = [key for key in state if not key.startswith(("norm.", "head."))]
    assert all(torch.equal(own[key], state[key]) for key in body)
    assert set(report.loaded) == set(body)
    assert (
        set(own) - set(report.loaded)
        == set(report.fresh)
        == {f"norm{i}.{p}" for i in range(4) for p in ("weight", "bias")}
    )
    count = len(body)
    assert f"backbone: {count}/{count} tensors from facebook naming (dropped: norm.*, head.*" in caplog.text


def test_the_released_tiny_has_178_backbone_tensors(tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save({"model": released_classifier("tiny")}, path)
    assert len(load_checkpoint(ConvNeXt("tiny"), str(path)).loaded) == 178


def test_the_backbone_of_a_detector_loads_with_its_output_norms(tmp_path):
    source = ConvNeXt(MICRO)
    state = {f"backbone.{key}": torch.randn_like(value) for key, value in source.state_dict().items()}
    path = tmp_path / "detector.pth"
    torch.save({"state_dict": {**state, "neck.conv.weight": torch.zeros(1)}}, path)
    model = ConvNeXt(MICRO, out_indices=(1, 3))
    report = load_checkpoint(model, str(path))
    assert all(torch.equal(value, state[f"backbone.{key}"]) for key, value in model.state_dict().items())
    assert report.fresh == ()
    assert {key.split(".")[0] for key in report.dropped} == {"norm0", "norm2", "neck"}
    assert "(dropped: norm0.*, norm2.*, neck.*)" in str(report)


def damaged(state: dict, kind: str) -> dict:
    key = "stages.2.1.pwconv1.weight"
    changes = {
        "missing": {k: v for k, v in state.items() if k != key},
        "unknown": {**state, "stages.2.1.attention.weight": torch.zeros(1)},
        "misshapen": {**state, key: state[key][:-1]},
    }
    return changes[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", r"1 missing, first \['stages.2.1.pwconv1.weight'\]"),
        ("unknown", r"stages.2.1.attention.weight"),
        ("misshapen", r"stages.2.1.pwconv1.weight \(95, 24\) for \(96, 24\)"),
    ],
)
def test_a_misfit_is_named_and_loads_nothing(tmp_path, kind, words):
    path = tmp_path / "bad.pth"
    torch.save(damaged(released_classifier(), kind), path)
    model = ConvNeXt(MICRO)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words) as error:
        load_checkpoint(model, str(path))
    assert "bad.pth" in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_another_arch_is_the_named_cause(tmp_path):
    path = tmp_path / "small.pth"
    with torch.device("meta"):
        keys = ConvNeXt("small").state_dict()
    # one element each, expanded: the shapes of the small arch in a small file
    torch.save({k: torch.zeros(1).expand(v.shape) for k, v in keys.items()}, path)
    with pytest.raises(CheckpointError, match="the file is small, the model tiny"):
        load_checkpoint(ConvNeXt("tiny"), str(path))
    assert infer_arch(keys).depths == (3, 3, 27, 3)


def saved(tmp_path, state, name="w.pth"):
    torch.save(state, tmp_path / name)
    return tmp_path / name


def test_a_part_is_loaded_only_when_asked_for(tmp_path):
    state = released_classifier()
    key = "stages.2.1.pwconv1.weight"
    path = saved(tmp_path, {**{k: v for k, v in state.items() if "stages.3" not in k}, key: state[key][:-1]})
    model = ConvNeXt(MICRO)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_checkpoint(model, path, strict=False)
    own = model.state_dict()
    left = {key} | {name for name in own if name.startswith(("stages.3", "norm"))}
    assert set(report.fresh) == left
    assert all(torch.equal(own[name], before[name] if name in left else state[name]) for name in own)
    total = sum(not name.startswith("norm") for name in own)
    assert f"{len(report.loaded)}/{total} tensors" in str(report)
    assert "9 missing, first ['stages.3.0.gamma'" in str(report) and "1 of another shape" in str(report)


def test_strict_false_still_refuses_what_fits_nowhere(tmp_path):
    path = saved(tmp_path, released_classifier(dict(depths=(1, 1, 2, 1), dims=(7, 9, 11, 13))))
    with pytest.raises(CheckpointError, match="nothing in it fits"):
        load_checkpoint(ConvNeXt(MICRO), path, strict=False)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_a_stem_for_other_channels_keeps_the_features(tmp_path, channels):
    path = saved(tmp_path, released_classifier())
    rgb, other = ConvNeXt(MICRO).eval(), ConvNeXt(MICRO, in_channels=channels).eval()
    load_checkpoint(rgb, path)
    report = load_checkpoint(other, path)
    assert "stem: " in str(report)
    if channels == 1:
        grey = torch.randn(1, 1, 32, 32)
        expected, actual = rgb(grey.expand(1, 3, 32, 32)), other(grey)
    else:
        image = torch.randn(1, channels, 32, 32)
        expected, actual = rgb(image[:, :3]), other(image)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_two_input_channels_have_no_certain_meaning(tmp_path):
    with pytest.raises(CheckpointError, match=r"0\.0\.weight \(8, 3, 4, 4\) for \(8, 2, 4, 4\)"):
        load_checkpoint(ConvNeXt(MICRO, in_channels=2), saved(tmp_path, released_classifier()))


@pytest.mark.parametrize(
    ("file", "model", "cause"),
    [
        (dict(use_grn=True), dict(), "the file is ConvNeXt V2, the model V1"),
        (dict(), dict(use_grn=True), "the file is ConvNeXt V1, the model V2"),
        (dict(), dict(layer_scale_init_value=0), "the model needs layer_scale_init_value=1.0"),
        (dict(layer_scale_init_value=0), dict(), "the model needs layer_scale_init_value=0"),
    ],
)
def test_the_likely_cause_is_named(tmp_path, file, model, cause):
    path = saved(tmp_path, ConvNeXt(MICRO, **file).state_dict())
    with pytest.raises(CheckpointError, match=cause):
        load_checkpoint(ConvNeXt(MICRO, **model), path)


def test_a_classifier_of_other_classes_is_the_named_cause(tmp_path):
    path = saved(tmp_path, released_classifier())
    with pytest.raises(CheckpointError, match="the file has 10 classes, the model 1000"):
        load_checkpoint(Classifier(MICRO), path)
    model = Classifier(MICRO, num_classes=10)
    load_checkpoint(model, path)
    assert torch.equal(model.head.weight, released_classifier()["head.weight"])


def test_a_missing_output_norm_of_a_dense_checkpoint_is_an_error(tmp_path):
    state = {k: v for k, v in ConvNeXt(MICRO).state_dict().items() if not k.startswith("norm1")}
    with pytest.raises(CheckpointError, match=r"2 missing, first \['norm1.weight'"):
        load_checkpoint(ConvNeXt(MICRO), saved(tmp_path, state))


def test_the_digest_is_checked(tmp_path):
    path = saved(tmp_path, released_classifier())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    load_checkpoint(ConvNeXt(MICRO), path, sha256=digest)
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        load_checkpoint(ConvNeXt(MICRO), path, sha256="0" * 64)


def test_averaged_weights_are_taken_when_asked_for(tmp_path):
    plain, averaged = released_classifier(), {k: v + 1 for k, v in released_classifier().items()}
    path = saved(tmp_path, {"model": plain, "model_ema": averaged})
    model = ConvNeXt(MICRO)
    for ema, state in ((False, plain), (True, averaged)):
        load_checkpoint(model, path, ema=ema)
        assert torch.equal(model.state_dict()["stages.0.0.gamma"], state["stages.0.0.gamma"])
