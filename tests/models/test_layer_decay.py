"""Groups of every released recipe, parameter by parameter, and the rules beyond them."""

import pytest
import torch
from published import RECIPES, param_groups

from convnext_dense import ARCHS, ConvNeXt
from convnext_dense.models.layer_decay import (
    default_num_layers,
    infer_depths,
    is_decayed,
    layer_id,
    lr_scale,
)


def shapes(arch: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: param.shape for name, param in ConvNeXt(arch).named_parameters()}


@pytest.mark.parametrize("config", RECIPES)
def test_every_backbone_parameter_is_in_the_published_group(config):
    recipe = RECIPES[config]
    decay = recipe["layer_decay"]
    depths = ARCHS[recipe["arch"]].depths
    published = param_groups(config)
    parameters = shapes(recipe["arch"])
    assert set(published) == {*(f"backbone.{name}" for name in parameters), "neck.weight", "neck.bias"}
    for name, shape in parameters.items():
        layer = layer_id(name, depths, decay["decay_type"])
        scale = lr_scale(layer, decay["num_layers"] + 2, decay["decay_rate"])
        expected_scale, expected_decay = published[f"backbone.{name}"]
        assert scale == pytest.approx(expected_scale, abs=1e-9), name
        assert (0.05 if is_decayed(name, shape) else 0.0) == expected_decay, name


@pytest.mark.parametrize("config", RECIPES)
def test_published_number_of_layers_follows_from_the_depths(config):
    recipe = RECIPES[config]
    assert default_num_layers(ARCHS[recipe["arch"]].depths) == recipe["layer_decay"]["num_layers"]


def test_stage_wise_is_as_strange_as_published():
    names = ["downsample_layers.3.1.weight", *(f"stages.{i}.0.gamma" for i in range(4)), "norm3.weight"]
    ids = [layer_id(name, (3, 3, 27, 3), "stage_wise") for name in names]
    assert ids == [0, 1, 2, 3, 4, 13]
    scales = [lr_scale(i, 14, 0.9) for i in ids[1:5]]
    assert scales == pytest.approx([0.28, 0.31, 0.35, 0.39], abs=0.005)


@pytest.mark.parametrize(
    ("depths", "layers", "stage_2"),
    [
        ((2, 2, 6, 2), 5, [3, 3, 3, 4, 4, 4]),
        ((3, 3, 7, 3), 6, [3, 3, 3, 4, 4, 4, 5]),
        ((1, 1, 1, 1), 4, [3]),
    ],
)
def test_other_depths(depths, layers, stage_2):
    assert default_num_layers(depths) == layers
    assert [layer_id(f"stages.2.{j}.gamma", depths) for j in range(depths[2])] == stage_2
    assert layer_id("stages.3.0.gamma", depths) == layers
    assert layer_id("norm0.weight", depths) == layers + 1


def test_a_larger_number_of_layers_moves_stage_3_only():
    ids = [layer_id(name, (3, 3, 9, 3), num_layers=12) for name in ("stages.2.8.gamma", "stages.3.0.gamma")]
    assert ids == [5, 12]


def test_a_smaller_number_of_layers_cuts_stage_2_coarser_and_stays_monotonic():
    ids = [layer_id(f"stages.2.{j}.gamma", (3, 3, 27, 3), num_layers=6) for j in range(27)]
    assert ids == [3] * 9 + [4] * 9 + [5] * 9


@pytest.mark.parametrize(("depth", "layers"), [(18, 6), (36, 12), (4, 2)])
def test_isotropic(depth, layers):
    ids = [
        layer_id(name, (depth,)) for name in ("stem.weight", "blocks.0.gamma", f"blocks.{depth - 1}.gamma")
    ]
    assert ids == [0, 1, layers]
    assert default_num_layers((depth,)) == layers
    assert layer_id("norm.weight", (depth,)) == layers + 1


@pytest.mark.parametrize("arch", ARCHS)
def test_depths_are_read_off_the_names(arch):
    assert infer_depths(shapes(arch)) == ARCHS[arch].depths


def test_depths_of_other_networks():
    assert infer_depths(["stem.weight", "blocks.0.gamma", "blocks.11.gamma", "norm.weight"]) == (12,)
    assert infer_depths(["patch_embed.weight", "stages.0.blocks.1.norm1.weight"]) == ()
    assert infer_depths(["conv1.weight", "layer1.0.conv1.weight"]) == ()
    assert infer_depths([]) == ()


@pytest.mark.parametrize(
    ("name", "shape", "decayed"),
    [
        ("stages.0.0.dwconv.weight", (96, 1, 7, 7), True),
        ("mask_head.conv_logits.weight", (1, 256, 1, 1), True),
        ("stages.0.0.grn.gamma", (1, 1, 1, 384), False),
        ("stages.0.0.grn.beta", (1, 1, 1, 384), False),
        ("stages.0.0.gamma", (96,), False),
        ("head.bias", (80, 2), False),
        ("pos_embed", (1, 197, 768), False),
        ("stages.0.blocks.0.attn.w_msa.relative_position_bias_table", (169, 3), False),
    ],
)
def test_weight_decay(name, shape, decayed):
    assert is_decayed(name, shape) is decayed


def test_errors_say_what_to_use():
    with pytest.raises(ValueError, match=r"decay_type='layer'.*'layer_wise', 'stage_wise'"):
        layer_id("norm0.weight", (3, 3, 9, 3), "layer")
    with pytest.raises(ValueError, match=r"four stages .* or one"):
        default_num_layers((3, 3))
    with pytest.raises(ValueError, match="num_layers=3; at least 4"):
        layer_id("norm0.weight", (3, 3, 9, 3), num_layers=3)
