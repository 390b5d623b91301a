"""Key lists of other code bases, taken from the libraries themselves (tests/assets/namings.json)."""

import json

import torch
from repository import ASSETS

_FILE = json.loads((ASSETS / "namings.json").read_text())
MICRO = dict(depths=tuple(_FILE["depths"]), dims=tuple(_FILE["dims"]))
ENTRIES: dict[str, dict] = {entry["name"]: entry for entry in _FILE["namings"]}


def random_state(keys: dict[str, list[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """One random tensor per key; no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in keys.items()}
