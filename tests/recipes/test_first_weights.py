"""First weights of the recipes, without pretrained ones, against those of the released models.

``first_weights.json`` has the statistics of one draw of three released models. ``RULES`` says from which
distributions they come. The rules are checked against the draw, and every recipe against the rules.
"""

import functools
import json
import math
import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from packaging.version import Version
from published import config
from repository import ASSETS
from torch import nn
from whole_models import EVERY_RECIPE

from convnext_dense import list_configs
from convnext_dense.mm.config.edit import set_plain_batch_norm

RELEASED = json.loads((ASSETS / "first_weights.json").read_text())
ALL = [name for name in list_configs() if name.startswith(("mask_rcnn/", "cascade/", "upernet/"))]
PARTS = ("backbone", "neck", "rpn_head", "roi_head", "decode_head", "auxiliary_head")

SIGMAS = 6.0
ROUNDING = 5e-4  # relative; the file has four digits
UNIFORM, NORMAL = 1.8, 3.0  # kurtosis

# ---------------------------------------------------------------------- rules

Shape = tuple[int, ...]


class Distribution(NamedTuple):
    """Mean, standard deviation and kurtosis of the elements of a tensor."""

    mean: float
    std: float
    kurtosis: float = NORMAL


def constant(value: float) -> Callable[[Shape], Distribution]:
    return lambda shape: Distribution(value, 0.0)


def normal(std: float) -> Callable[[Shape], Distribution]:
    return lambda shape: Distribution(0.0, std)


def xavier_uniform(shape: Shape) -> Distribution:
    """Glorot and Bengio (2010): within sqrt(6 / (fan in + fan out))."""
    fans = (shape[0] + shape[1]) * math.prod(shape[2:])
    return Distribution(0.0, math.sqrt(2 / fans), UNIFORM)


def kaiming_fan_out(shape: Shape) -> Distribution:
    """He et al. (2015), normal, for ReLU."""
    return Distribution(0.0, math.sqrt(2 / (shape[0] * math.prod(shape[2:]))))


# The first pattern that is found in a name decides. The truncation of the backbone's normal distribution, at
# 2 / 0.02 = 100 standard deviations, has no effect.
RULES: tuple[tuple[str, Callable[[Shape], Distribution]], ...] = (
    (r"\.bias$", constant(0.0)),
    (r"\.gamma$", constant(1.0)),
    (r"\.(bn|norm\d?)\.weight$", constant(1.0)),
    (r"^backbone\.downsample_layers\.(0\.1|[1-3]\.0)\.weight$", constant(1.0)),
    (r"^backbone\.", normal(0.02)),
    (r"^neck\.(lateral|fpn)_convs\.", xavier_uniform),
    (r"^rpn_head\.rpn_(conv|cls|reg)\.", normal(0.01)),
    (r"\.shared_fcs\.\d\.", xavier_uniform),
    (r"\.fc_cls\.", normal(0.01)),
    (r"\.fc_reg\.", normal(0.001)),
    (r"\.shared_convs\.\d\.conv\.", kaiming_fan_out),
    (r"\.mask_head\.(\d\.)?(convs\.\d\.conv|upsample|conv_logits)\.", kaiming_fan_out),
    (r"\.conv_seg\.", normal(0.01)),
    (r"^(decode|auxiliary)_head\..*\.conv\.", kaiming_fan_out),
)


def rule(name: str, shape: Shape) -> Distribution:
    """The distribution of a parameter.

    Raises:
        KeyError: a name that no rule knows.
    """
    for pattern, distribution in RULES:
        if re.search(pattern, name):
            return distribution(shape)
    raise KeyError(name)


# ---------------------------------------------------------------------- statistics


class Statistics(NamedTuple):
    """What is known of the elements of a drawn tensor."""

    shape: Shape
    mean: float
    std: float
    largest: float

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def statistics(tensor: torch.Tensor) -> Statistics:
    std, mean = torch.std_mean(tensor.detach(), correction=0)
    smallest, largest = tensor.detach().aminmax()
    return Statistics(tuple(tensor.shape), mean.item(), std.item(), max(-smallest.item(), largest.item()))


def disagreement(name: str, found: Statistics, rounding: float = 0.0) -> str | None:
    """What contradicts the rule of a parameter, in words."""
    expected = rule(name, found.shape)
    if expected.std == 0:
        equal = found.mean == expected.mean and found.std == 0
        return None if equal else f"{name}: {found}, not the constant {expected.mean}"
    noise = SIGMAS * expected.std / math.sqrt(found.count)
    spread = SIGMAS * math.sqrt((expected.kurtosis - 1) / (4 * found.count)) + rounding
    # a uniform distribution ends at sqrt(3) standard deviations, and hundreds of normal numbers do not
    bounded = found.largest <= math.sqrt(3) * expected.std * (1 + 1e-6 + rounding)
    agrees = (
        abs(found.mean) <= noise
        and abs(found.std / expected.std - 1) <= spread
        and bounded == (expected.kurtosis == UNIFORM)
    )
    return None if agrees else f"{name}: {found}, not {expected}"


def disagreements(found: dict[str, Statistics], rounding: float = 0.0) -> list[str]:
    reports = (disagreement(name, values, rounding) for name, values in found.items())
    return [report for report in reports if report]


# ---------------------------------------------------------------------- draws


def untrained(name: str) -> Config:
    """A recipe without pretrained weights, on one CPU."""
    cfg = config(name)
    set_plain_batch_norm(cfg, world_size=1, device="cpu")
    cfg.model.backbone.init_cfg = None
    init_default_scope(cfg.default_scope)
    return cfg


def drawn(model: nn.Module, seed: str) -> dict[str, Statistics]:
    """Initialise a model as a run does."""
    torch.manual_seed(zlib.crc32(seed.encode()))
    model.init_weights()
    return {name: statistics(parameter) for name, parameter in model.named_parameters()}


@functools.cache
def drawn_part(scope: str, text: str) -> dict[str, Statistics]:
    """Draw a part of a model from its config in JSON. Recipes share most parts, so most are drawn once."""
    init_default_scope(scope)
    torch.manual_seed(0)
    return drawn(MODELS.build(ConfigDict(json.loads(text))), text)


def parts_of(cfg: Config) -> dict[str, str]:
    """Parts of a model whose distributions the release fixes -> their configs in JSON.

    The backbone is left out where it is not a ConvNeXt of the paper; so is the neck of the isotropic models.
    """
    backbone = cfg.model.backbone
    parts = {name: cfg.model[name] for name in PARTS if cfg.model.get(name)}
    if backbone.type != "ConvNeXt" or backbone.get("use_grn"):
        del parts["backbone"]
    else:
        backbone.drop_path_rate = 0.0  # no weights depend on it
    if "neck" in parts and parts["neck"].type != "FPN":
        del parts["neck"]
    return {name: json.dumps(part, sort_keys=True) for name, part in parts.items()}


def drawn_parts(name: str, without: tuple[str, ...] = ()) -> dict[str, Statistics]:
    """First weights of a recipe, part by part, under the names of the whole model."""
    cfg = untrained(name)
    return {
        f"{part}.{key}": values
        for part, text in parts_of(cfg).items()
        if part not in without
        for key, values in drawn_part(cfg.default_scope, text).items()
    }


# ---------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", RELEASED)
def test_rules_describe_the_released_draw(name):
    shapes = {key: values.shape for key, values in drawn_parts(name).items()}
    assert shapes.keys() == RELEASED[name].keys()
    released = {
        key: Statistics(shapes[key], mean, std, largest)
        for key, (_, mean, std, largest, _) in RELEASED[name].items()
    }
    assert all(values.count == RELEASED[name][key][0] for key, values in released.items())
    assert disagreements(released, ROUNDING) == []


@pytest.mark.parametrize("name", RELEASED)
def test_kurtosis_of_the_released_draw(name):
    found = drawn_parts(name)
    for key, (count, *_, kurtosis) in RELEASED[name].items():
        expected = rule(key, found[key].shape)
        if expected.std:
            assert kurtosis == pytest.approx(expected.kurtosis, abs=SIGMAS * math.sqrt(24 / count) + 1e-3), (
                key
            )


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.13"),
    reason="trunc_normal_ before torch 2.13 draws a 2 in place of 0.02 once in some million numbers",
)
@pytest.mark.parametrize("name", ALL)
def test_first_weights_of_a_recipe(name):
    found = drawn_parts(name, without=() if name in RELEASED else ("backbone",))
    heads = ("decode_head", "auxiliary_head") if name.startswith("upernet/") else ("rpn_head", "roi_head")
    assert {key.partition(".")[0] for key in found} >= set(heads)
    assert disagreements(found) == []


@pytest.mark.skipif(not EVERY_RECIPE, reason="minutes and gigabytes: set CONVNEXT_DENSE_EVERY_RECIPE")
@pytest.mark.parametrize("name", ALL)
def test_first_weights_of_a_whole_model(name):
    cfg = untrained(name)
    parts = tuple(f"{part}." for part in parts_of(cfg))
    torch.manual_seed(0)
    found = drawn(MODELS.build(cfg.model), name)
    assert disagreements({key: values for key, values in found.items() if key.startswith(parts)}) == []


def test_mask_heads_of_mmdet_start_from_the_defaults_of_pytorch():
    """mmdet's own Cascade does not initialise them; ``convnext_dense.CascadeRoIHead`` does not."""
    cfg = untrained("cascade/convnext_t_3x").model.roi_head
    for head in cfg.bbox_head:
        head.fc_out_channels = 8  # keeps the draw short
    found = {}
    for scope in ("mmdet", "convnext_dense"):
        torch.manual_seed(0)
        model = MODELS.build(ConfigDict(cfg, type=f"{scope}.CascadeRoIHead"))
        found[scope] = {f"roi_head.{key}": values for key, values in drawn(model, scope).items()}
    assert disagreements(found["convnext_dense"]) == []
    wrong = {report.partition(":")[0] for report in disagreements(found["mmdet"])}
    assert wrong == {
        f"roi_head.mask_head.{stage}.{layer}.{part}"
        for stage in range(3)
        for layer in ("upsample", "conv_logits")
        for part in ("weight", "bias")
    }
    for layer, fan_in in (("upsample", 256 * 2 * 2), ("conv_logits", 256)):
        std = found["mmdet"][f"roi_head.mask_head.0.{layer}.weight"].std
        assert std == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.03)  # 0.018 and 0.036
