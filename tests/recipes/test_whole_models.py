"""Whole recipes against the released code, in float64: outputs, losses, gradients and one step.

The golden values come from the released code on mmdet 2.11 and mmseg 0.11. Recipes that it was not run for
are compared with the oracle, up to the outputs of the RPN or the logits.
"""

import functools
import importlib
from typing import NamedTuple

import numpy as np
import oracle
import pytest
import torch
from published import RECIPES
from whole_models import (
    COUNTS,
    EVERY_RECIPE,
    GOLDEN,
    ORIGINAL_HW,
    Predicted,
    Whole,
    build,
    differences,
    distance,
    paste_in_float64,
    predicted,
    quantity_of,
    release_habits,
    samples_of,
    trained,
)

from convnext_dense.mm.mmcv_ext import current_ops

SMALL = ["mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x", "upernet/convnext_t_512_160k"]
COMPUTED = list(GOLDEN) if EVERY_RECIPE else SMALL
SEGMENTORS = [name for name in COMPUTED if name.startswith("upernet/")]
WITH_HABITS = SMALL[0]  # also runs with the habits of mmdet 3.3 in place
CASES = [(name, q) for name in COMPUTED for q in dict.fromkeys(map(quantity_of, samples_of(GOLDEN[name])))]

# Largest difference, relative to the largest value of a sample. Golden values have 13 digits.
DETECTOR = 1e-12
FLOAT32 = {"losses", "total"}  # targets, and binary cross entropy: their last bit depends on the processor
SEGMENTOR = 1e-10  # the denominator of mmseg's losses, 40,960 pixels, is 1.19e-7 too large

EPS = torch.finfo(torch.float32).eps  # mmdet 3.3 and mmseg 1.2 add it to the denominators of losses
# With the habits in place: the differences from the release are in these ranges, not larger and not smaller.
HABITS = {
    "proposal_rows": (1e-9, 2e-6),
    "boxes": (1e-9, 2e-6),
    "losses": (1e-9, 1e-6),
    "gradients": (1e-9, 1e-3),
    "gradient_norm": (1e-10, 1e-6),
    "stepped": (1e-12, 1e-5),
}


class Measured(NamedTuple):
    """Results of a recipe.

    Attributes:
        found: outputs in evaluation mode.
        values: all golden quantities, as the release defines them.
        habitual: the same with the habits of mmdet 3.3 in place; for the recipe ``WITH_HABITS`` only.
        expected: the oracle's values for ``found.tensors``.
    """

    found: Predicted
    values: dict
    habitual: dict
    expected: dict[str, torch.Tensor]


@torch.no_grad()
def oracle_outputs(whole: Whole) -> dict[str, torch.Tensor]:
    weights = whole.model.state_dict()
    if whole.segments:
        return oracle.segmentor_outputs(weights, whole.images, ORIGINAL_HW)
    return oracle.detector_outputs(weights, whole.images)


def skip_detectors_in_float64(name: str) -> None:
    """Skip where RoIAlign and NMS are mmcv's own."""
    if not name.startswith("upernet/") and current_ops() == "mmcv compiled":
        pytest.skip("mmcv's compiled RoIAlign and NMS have no float64 on a CPU")


@functools.cache
def measured(name: str) -> Measured:
    """Compute all that the tests compare, from one model, which is then dropped."""
    skip_detectors_in_float64(name)
    whole, habitual = build(name), {}
    expected = oracle_outputs(whole)
    with pytest.MonkeyPatch.context() as patch:
        if not whole.segments:
            paste_in_float64(patch)
        if name == WITH_HABITS:
            habitual = predicted(whole).values | trained(whole)
        if not whole.segments:
            release_habits(patch)
        found = predicted(whole)
        return Measured(found, found.values | trained(whole), habitual, expected)


@pytest.mark.parametrize(("name", "quantity"), CASES)
def test_golden_value(name, quantity):
    allowed = SEGMENTOR if name in SEGMENTORS else 1e-8 if quantity in FLOAT32 else DETECTOR
    found = differences(GOLDEN[name], measured(name).values)[quantity]
    assert found.size <= (0 if quantity in COUNTS else allowed), found.place


@pytest.mark.parametrize("name", SEGMENTORS)
@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_bounded_prediction_has_the_golden_logits(name, mode):
    golden, ours = GOLDEN[name][mode], measured(name).found.bounded[mode]
    assert distance(np.array(golden), np.array(ours)) <= SEGMENTOR


def assert_equal_outputs(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Every value, to 1e-10 of the largest one."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-10 * float(tensor.abs().max()))


@pytest.mark.parametrize("name", COMPUTED)
def test_equals_the_oracle(name):
    assert_equal_outputs(measured(name).found.tensors, measured(name).expected)


@pytest.mark.skipif(not EVERY_RECIPE, reason="XL needs 6 GB: set CONVNEXT_DENSE_EVERY_RECIPE")
@pytest.mark.parametrize("name", sorted(RECIPES.keys() - GOLDEN.keys()))
def test_recipes_without_golden_values_equal_the_oracle(name, monkeypatch):
    skip_detectors_in_float64(name)
    whole = build(name)
    paste_in_float64(monkeypatch)
    assert_equal_outputs(predicted(whole).tensors, oracle_outputs(whole))


# ---------------------------------------------------------------------- known differences


@pytest.mark.parametrize("quantity", HABITS)
def test_habits_of_mmdet_have_a_small_effect(quantity):
    least, most = HABITS[quantity]
    assert least < differences(GOLDEN[WITH_HABITS], measured(WITH_HABITS).habitual)[quantity].size < most


def test_habits_of_mmdet_change_no_decision():
    found = differences(GOLDEN[WITH_HABITS], measured(WITH_HABITS).habitual)
    assert found["features"].size <= DETECTOR
    assert [found[name].size for name in ("parameters", "proposals", "labels", "mask_pixels")] == [0] * 4


def test_denominators_of_mmdet_change_the_losses():
    # Anchors are float32 in training, so nothing else touches this term. Its denominator is 512 samples.
    golden = np.array(GOLDEN[WITH_HABITS]["losses"]["loss_rpn_bbox"])
    ours = np.array(measured(WITH_HABITS).habitual["losses"]["loss_rpn_bbox"])
    assert distance(golden, ours) == pytest.approx(EPS / 512, rel=0.05)


def test_denominators_of_mmseg_change_the_losses():
    name, term = SEGMENTORS[0], "decode.loss_seg"
    golden, ours = GOLDEN[name]["losses"][term], measured(name).values["losses"][term]
    assert distance(np.array(golden), np.array(ours)) == pytest.approx(EPS / (2 * 128 * 160), rel=0.05)


@pytest.mark.parametrize("package", ["mmdet.models.losses.utils", "mmseg.models.losses.utils"])
def test_denominators_are_too_large_by_the_precision_of_float32(package):
    reduce = importlib.import_module(package).weight_reduce_loss
    loss = reduce(torch.ones(3, dtype=torch.float64), avg_factor=4.0)
    assert float(loss) == pytest.approx(3 / (4 + EPS), rel=1e-14)


def test_anchors_of_prediction_follow_the_features():
    from mmdet.models.task_modules.prior_generators import AnchorGenerator

    generator = AnchorGenerator(strides=[4], ratios=[0.5], scales=[8])
    single, double = (
        generator.grid_priors([(32, 40)], dtype=dtype, device="cpu")[0]
        for dtype in (torch.float32, torch.float64)
    )
    assert double.dtype == torch.float64
    assert 1e-7 < float((single - double).abs().max()) < 2e-5  # pixels


def test_masks_are_not_pasted_in_float64(monkeypatch):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    masks, boxes = torch.ones(1, 1, 28, 28), torch.tensor([[2.0, 2.0, 9.0, 9.0]], dtype=torch.float64)
    with pytest.raises(RuntimeError):
        _do_paste_mask(masks, boxes, 16, 16, skip_empty=False)
    paste_in_float64(monkeypatch)
    pasted, _ = _do_paste_mask(masks, boxes, 16, 16, skip_empty=False)
    assert float(pasted[0, 5, 5]) == 1 and float(pasted[0, 12, 12]) == 0
