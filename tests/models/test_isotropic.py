"""The isotropic backbone against figures computed with the released code."""

import pytest
import torch
from golden import GOLDEN, assert_golden, fill_by_name, golden_array

from convnext_dense import Classifier, IsotropicConvNeXt

MICRO = dict(depths=(3,), dims=(8,))
DTYPES = [(torch.float64, 1e-9), (torch.float32, 1e-4)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES, ids=["f64", "f32"])
@pytest.mark.parametrize("case", GOLDEN["isotropic"], ids=lambda case: str(case["dim"]))
def test_blocks_and_logits_equal_the_reference(case, dtype, tolerance):
    arch = dict(depths=(case["depth"],), dims=(case["dim"],))
    model = fill_by_name(Classifier(arch).double()).to(dtype).eval()
    assert sum(p.numel() for p in model.parameters()) == case["n_parameters"]
    image = golden_array(case["input"]["seed"], case["input"]["shape"]).to(dtype)
    with torch.no_grad():
        assert_golden(model.backbone.forward_stages(image)[0], case["blocks_output"], tolerance)
        assert_golden(model(image), case["logits"], tolerance)


def test_the_level_is_normalised_contiguous_and_of_stride_16():
    model = IsotropicConvNeXt(MICRO).eval()
    image = torch.randn(2, 3, 33, 64)
    (level,) = model(image)
    assert level.shape == (2, 8, 2, 4) and level.is_contiguous() and model.out_strides == (16,)
    assert level.mean(dim=1).abs().max() < 1e-5
    raw = model.forward_stages(image)[0]
    assert torch.allclose(
        level, torch.nn.functional.layer_norm(raw.movedim(1, -1), (8,), eps=1e-6).movedim(-1, 1)
    )


def test_recomputation_gives_the_same_gradients():
    model, image = IsotropicConvNeXt(MICRO), torch.randn(1, 3, 32, 32)
    grads = []
    for model.with_cp in (False, True):
        model.zero_grad()
        model(image)[0].square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("arch", "words"),
    [("tiny", "isotropic_small"), (dict(depths=(1, 1), dims=(8, 8)), "1 positive integers are needed")],
)
def test_an_unknown_arch_is_refused(arch, words):
    with pytest.raises(ValueError, match=words):
        IsotropicConvNeXt(arch)


def test_a_wrong_image_is_refused():
    with pytest.raises(ValueError, match="at least 16x16"):
        IsotropicConvNeXt(MICRO)(torch.zeros(1, 3, 15, 16))
