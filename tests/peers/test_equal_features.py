"""Random weights saved by another library, in its own naming, give the same features here.

Runs where the library is installed: `make peers`.
"""

import pytest
import torch
from torch import nn

from convnext_dense import ARCHS, Classifier, ConvNeXt, load_checkpoint
from convnext_dense.checkpoints.convert import convert, largest_difference
from convnext_dense.checkpoints.load import in_our_names, own_tensors
from convnext_dense.checkpoints.other_libraries import BUILDERS, stage_maps

V1 = ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge")
V2 = ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
CASES = [
    *((library, arch, False) for library in ("timm", "hf", "mmpretrain") for arch in V1),
    *((library, arch, True) for library in ("timm", "hf", "mmpretrain") for arch in V2),
    *(("torchvision", arch, False) for arch in ("tiny", "small", "base", "large")),
]
LIBRARY = {"hf": "transformers", "mmpretrain": "mmpretrain", "timm": "timm", "torchvision": "torchvision"}
CLASSES = 5


def builder(library: str):
    pytest.importorskip(LIBRARY[library], exc_type=ImportError)
    if library == "mmpretrain":
        from convnext_dense.mm.bench.mmpretrain import mmpretrain_model

        return mmpretrain_model
    return BUILDERS[library]


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Values of every parameter far from its initial one, maps of a steady scale."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2 and "grn" not in name and "layer_scale" not in name:
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        elif "grn" in name or name.endswith("bias"):
            parameter.copy_(0.2 * noise)
        else:
            parameter.copy_(1 + 0.2 * noise)
    model.eval()
    return model


def assert_equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert ((actual - expected).abs().max() / expected.std()).item() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(("library", "arch", "use_grn"), CASES)
def test_every_stage_and_the_logits(tmp_path, library, arch, use_grn):
    peer = randomise(builder(library)(ARCHS[arch], use_grn, CLASSES))
    torch.save(peer.state_dict(), tmp_path / "theirs.pth")
    ours = Classifier(arch, num_classes=CLASSES, use_grn=use_grn).eval()
    report = load_checkpoint(ours, tmp_path / "theirs.pth")
    assert len(report.loaded) == len(peer.state_dict()) and not report.fresh and not report.dropped
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    maps, logits = stage_maps(peer, image)
    for stage, expected in zip(ours.backbone.forward_stages(image), maps, strict=True):
        assert_equal(stage, expected)
    if logits is not None:  # mmpretrain's forward returns features
        assert_equal(ours(image), logits)
    back = convert(own_tensors(ours), library).state
    assert set(back) == set(peer.state_dict())
    assert all(torch.equal(back[key], value) for key, value in peer.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("use_grn", [False, True])
@pytest.mark.parametrize("library", ["hf", "mmpretrain"])
def test_every_normalised_level(tmp_path, library, use_grn):
    build = builder(library)
    if library == "hf":
        import transformers

        family = "ConvNextV2" if use_grn else "ConvNext"
        config = getattr(transformers, f"{family}Config")(
            depths=list(ARCHS["nano"].depths),
            hidden_sizes=list(ARCHS["nano"].dims),
            out_features=[f"stage{i}" for i in range(1, 5)],
        )
        peer = randomise(getattr(transformers, f"{family}Backbone")(config))
    else:
        peer = randomise(build(ARCHS["nano"], use_grn, 0))
    torch.save(peer.state_dict(), tmp_path / "theirs.pth")
    ours = ConvNeXt("nano", use_grn=use_grn).eval()
    assert not load_checkpoint(ours, tmp_path / "theirs.pth").fresh
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    out = peer(image)
    for level, expected in zip(ours(image), getattr(out, "feature_maps", out), strict=True):
        assert_equal(level, expected)


@torch.no_grad()
def test_timm_features_only(tmp_path):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    peer = randomise(timm.create_model("convnext_atto", features_only=True))
    torch.save(peer.state_dict(), tmp_path / "theirs.pth")
    ours = ConvNeXt("atto").eval()
    load_checkpoint(ours, tmp_path / "theirs.pth")
    image = torch.randn(1, 3, 64, 64)
    for stage, expected in zip(ours.forward_stages(image), peer(image), strict=True):
        assert_equal(stage, expected)


@torch.no_grad()
def test_dinov3_as_transformers_saves_it(tmp_path):
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    arch = ARCHS["atto"]
    config = transformers.DINOv3ConvNextConfig(depths=list(arch.depths), hidden_sizes=list(arch.dims))
    peer = randomise(transformers.DINOv3ConvNextModel(config))
    peer.save_pretrained(tmp_path)
    ours = ConvNeXt("atto").eval()
    report = load_checkpoint(ours, tmp_path)
    assert report.naming == "transformers DINOv3"
    image = torch.randn(1, 3, 64, 64)
    maps, _ = stage_maps(peer, image)
    for stage, expected in zip(ours.forward_stages(image), maps, strict=True):
        assert_equal(stage, expected)


@pytest.mark.parametrize("library", ["timm", "hf", "torchvision", "mmpretrain"])
def test_verification_sees_equal_models_and_a_changed_one(library):
    build = builder(library)
    model = Classifier("atto", num_classes=CLASSES)
    tensors = {name: value.clone() for name, value in own_tensors(randomise(model)).items()}
    image = torch.randn(1, 3, 64, 64)
    assert max(largest_difference(tensors, library, build, image).values()) < 1e-5

    def build_changed(*args):
        peer = build(*args)

        def change(module, _keys):
            next(module.parameters()).data.mul_(1.01)

        peer.register_load_state_dict_post_hook(change)
        return peer

    assert max(largest_difference(tensors, library, build_changed, image).values()) > 1e-4


def test_the_names_of_a_fresh_timm_model_are_known():
    timm = pytest.importorskip("timm", exc_type=ImportError)
    names = [
        name for name in timm.list_models("convnext*") if not any(part in name for part in ("ols", "rms"))
    ]
    assert len(names) > 15
    with torch.device("meta"):
        for name in names:
            state = timm.create_model(name).state_dict()
            renamed, tensors = in_our_names(state, name)
            assert renamed.naming.name == "timm" and len(tensors) + len(renamed.dropped) == len(state)
