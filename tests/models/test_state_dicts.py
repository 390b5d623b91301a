"""Names and shapes of every public model's parameters and buffers are fixed: checkpoints depend on them.

After an intended change, ``PYTHONPATH=tests/helpers python tests/models/test_state_dicts.py`` rewrites it.
"""

import hashlib
import json
from collections.abc import Callable

import pytest
import torch
from repository import ASSETS
from torch import nn

from convnext_dense import ARCHS, ISOTROPIC_ARCHS, Classifier, ConvNeXt, IsotropicConvNeXt
from convnext_dense.models.pyramid import SimpleFeaturePyramid
from convnext_dense.models.roadmap import STEPS, Roadmap

CONTRACT = ASSETS / "state_dicts.json"

MODELS: dict[str, Callable[[], nn.Module]] = {
    **{f"ConvNeXt {arch}": lambda arch=arch: ConvNeXt(arch) for arch in ARCHS},
    **{f"ConvNeXt V2 {arch}": lambda arch=arch: ConvNeXt(arch, use_grn=True) for arch in ARCHS},
    **{f"IsotropicConvNeXt {arch}": lambda arch=arch: IsotropicConvNeXt(arch) for arch in ISOTROPIC_ARCHS},
    **{f"Roadmap {step}": lambda step=step: Roadmap(step) for step in STEPS},
    "Classifier tiny": lambda: Classifier("tiny"),
    "Classifier of an isotropic network": lambda: Classifier(next(iter(ISOTROPIC_ARCHS))),
    "SimpleFeaturePyramid": lambda: SimpleFeaturePyramid(384),
}
IN_FULL = ("ConvNeXt atto", "ConvNeXt V2 atto", "SimpleFeaturePyramid")  # so that a difference can be read


def entries(name: str) -> list[str]:
    """``stages.0.0.gamma 96`` for each parameter and buffer, in order."""
    with torch.device("meta"):
        state = MODELS[name]().state_dict()
    return [f"{key} {'x'.join(map(str, value.shape))}" for key, value in state.items()]


def contract_of(name: str) -> dict:
    lines = entries(name)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return dict(count=len(lines), digest=digest) | (dict(entries=lines) if name in IN_FULL else {})


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_frozen_ones(name):
    expected = json.loads(CONTRACT.read_text())[name]
    if "entries" in expected:
        assert entries(name) == expected["entries"]
    assert contract_of(name) == expected


def test_no_model_is_left_out():
    assert json.loads(CONTRACT.read_text()).keys() == MODELS.keys()


if __name__ == "__main__":
    CONTRACT.write_text(json.dumps({name: contract_of(name) for name in MODELS}, indent=1) + "\n")
