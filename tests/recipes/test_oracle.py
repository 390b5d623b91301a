"""The oracle against the golden values of the released code; none of our models is used."""

from collections.abc import Iterator, Mapping

import golden_rules as rules
import numpy as np
import oracle
import pytest
import torch
from published import config
from whole_models import EVERY_RECIPE, GOLDEN, LOGITS_SAMPLED, ORIGINAL_HW, distance

from convnext_dense.mm.config.edit import set_plain_batch_norm
from convnext_dense.mm.models.meta_device import build_on_meta

# Mask R-CNN has the same parts as Cascade up to the proposals.
SMALL = ["cascade/convnext_t_3x", "upernet/convnext_t_512_160k"]
LARGE = ["mask_rcnn/convnext_t_3x", "cascade/convnext_b_3x", "upernet/convnext_b_512_160k"]


class GoldenWeights(Mapping):
    """The weights of a recipe by the golden rules, each made when it is asked for."""

    def __init__(self, name: str) -> None:
        cfg = config(name)
        set_plain_batch_norm(cfg, world_size=1, device="cpu")
        self.shapes = {key: tensor.shape for key, tensor in build_on_meta(cfg).state_dict().items()}

    def __getitem__(self, key: str) -> torch.Tensor:
        return rules.weight(key, self.shapes[key])

    def __contains__(self, key: object) -> bool:
        return key in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def assert_golden(outputs: dict[str, torch.Tensor], key: str, expected: list[float], count: int = 3) -> None:
    found = rules.sample(key, outputs[key], count)
    assert distance(np.array(expected), np.array(found)) < 1e-12, key


@pytest.mark.parametrize("name", SMALL + LARGE if EVERY_RECIPE else SMALL)
@torch.no_grad()
def test_oracle_computes_the_golden_values(name):
    weights, golden = GoldenWeights(name), GOLDEN[name]
    if name.startswith("upernet/"):
        outputs = oracle.segmentor_outputs(weights, rules.images(), ORIGINAL_HW)
        assert_golden(outputs, "whole", golden["whole"], LOGITS_SAMPLED)
    else:
        outputs = oracle.detector_outputs(weights, rules.padded_images())
        for i, image in enumerate(golden["test"]):
            scores = [outputs[f"objectness{level}"][i].sigmoid().max() for level in range(5)]
            best = image["proposal_rows"]["0"][4]  # no other proposal can suppress the first one
            assert float(max(scores)) == pytest.approx(best, rel=1e-12)
    for i, expected in enumerate(golden["features"]):
        assert_golden(outputs, f"level{i}", expected)
