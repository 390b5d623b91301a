"""Reference figures computed with the released code, and the recipe that fills weights for them."""

import json
import zlib

import numpy as np
import pytest
import torch
from repository import ASSETS
from torch import nn

GOLDEN = json.loads((ASSETS / "golden_features.json").read_text())


def golden_array(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(tuple(shape)))


def fill_by_name(model: nn.Module) -> nn.Module:
    """Give each parameter the value that its name and shape determine."""
    for name, parameter in model.named_parameters():
        name = name.removeprefix("backbone.")  # of our classifier; the released one has no such part
        r = golden_array(zlib.crc32(name.encode()), parameter.shape)
        if parameter.dim() >= 2 and not name.endswith(("grn.gamma", "grn.beta")):
            r = r / np.sqrt(np.prod(parameter.shape[1:]))
        elif name.endswith("gamma") and "grn" not in name:
            r = 0.5 + 0.1 * r
        elif name.endswith("weight"):
            r = 1 + 0.1 * r
        else:
            r = 0.1 * r
        parameter.data.copy_(r)
    return model


def assert_golden(actual: torch.Tensor, expected: dict, tolerance: float) -> None:
    """Shape, mean, standard deviation and single values, to ``tolerance`` standard deviations."""
    assert list(actual.shape) == expected["shape"]
    scale = expected["std"]
    assert actual.mean().item() == pytest.approx(expected["mean"], abs=tolerance * scale)
    assert actual.std(correction=0).item() == pytest.approx(scale, rel=tolerance)
    torch.testing.assert_close(
        actual.reshape(-1)[expected["flat_index"]].double(),
        torch.tensor(expected["values"], dtype=torch.float64),
        rtol=tolerance,
        atol=tolerance * scale,
    )
