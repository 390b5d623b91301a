"""The classifier against figures computed with the released code."""

import pytest
import torch
from golden import GOLDEN, assert_golden, fill_by_name, golden_array

from convnext_dense import Classifier


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"]
)
@pytest.mark.parametrize("case", GOLDEN["classifier"], ids=lambda case: case["arch"])
def test_logits_equal_the_reference(case, dtype, tolerance):
    model = fill_by_name(Classifier(case["arch"]).double()).to(dtype).eval()
    assert sum(p.numel() for p in model.parameters()) == case["n_parameters"]
    image = golden_array(case["input"]["seed"], case["input"]["shape"]).to(dtype)
    with torch.no_grad():
        assert_golden(model(image), case["logits"], tolerance)


def test_v2_and_other_class_counts():
    model = Classifier("atto", num_classes=7, use_grn=True)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert {name for name in model.state_dict() if "norm3" in name} == set()
