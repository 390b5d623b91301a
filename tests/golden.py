"""Reference figures computed with the released code, and the recipe that fills weights for them."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

GOLDEN = json.loads((Path(__file__).parent / "data" / "golden_features.json").read_text())


def golden_array(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(tuple(shape)))


def fill_by_name(model: nn.Module) -> nn.Module:
    """Give each parameter the value that its name and shape determine."""
    for name, parameter in model.named_parameters():
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
