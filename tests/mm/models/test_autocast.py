"""Predictions in half precision."""

import pytest
import torch
from torch import nn

from convnext_dense.errors import UserError
from convnext_dense.mm.models.autocast import predict_in


class Model(nn.Module):
    """Reports the dtype of its products."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def test_step(self, data: torch.Tensor) -> torch.dtype:
        return self.layer(data).dtype


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_have_the_dtype(dtype, expected):
    model = Model()
    line = predict_in(model, dtype, "cpu")
    assert model.test_step(torch.randn(2, 4)) == expected
    assert not torch.is_autocast_enabled("cpu"), "autocast ends with the step"
    assert line is None if dtype == "fp32" else line.startswith(f"products in {dtype}")


def test_a_cpu_without_such_products_is_named(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert "slower than fp32" in predict_in(Model(), "bf16", "cpu")


def test_a_device_without_autocast_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"--dtype bf16: .* has no autocast on meta; omit it"):
        predict_in(Model(), "bf16", "meta")
