"""Layer decay in mmengine: groups as released, mmengine's own options, and resumes by name."""

import copy

import pytest
import torch
from fake_cuda import CUDA_BUILD, facts, fake_cuda, moved
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from published import RECIPES, param_groups
from torch import nn

import convnext_dense.mm
import convnext_dense.mm.engine.optimizer  # noqa: F401
from convnext_dense.mm.models.backbones import ConvNeXt

TINY = dict(depths=(1, 1, 4, 1), dims=(4, 8, 12, 16))


class Model(BaseModule):
    """A backbone and one more layer, which stands for neck and heads."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(4, 4, 1)


def wrapper(model: nn.Module, lr: float = 1.0, **paramwise) -> OptimWrapper:
    cfg = dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=lr, weight_decay=0.05),
        constructor="LayerDecayOptimWrapperConstructor",
        paramwise_cfg=dict(decay_rate=0.5) | paramwise,
    )
    return build_optim_wrapper(model, cfg)


def by_name(optim_wrapper: OptimWrapper) -> dict[str, dict]:
    return {name: group for group in optim_wrapper.optimizer.param_groups for name in group["param_names"]}


@pytest.mark.parametrize("scope", ["mmengine", "mmdet", "mmseg"])
@pytest.mark.parametrize("config", RECIPES)
def test_groups_of_every_released_recipe(config, scope):
    if scope != "mmengine":
        pytest.importorskip(scope)
    recipe = RECIPES[config]
    with torch.device("meta"):
        model = Model(ConvNeXt(arch=recipe["arch"]))
    decay = {key: value for key, value in recipe["layer_decay"].items() if key != "num_layers"}
    with DefaultScope.overwrite_default_scope(scope):
        groups = by_name(wrapper(model, lr=recipe["optimizer"]["lr"], **decay))
    published = param_groups(config)
    assert set(groups) == set(published)
    for name, (scale, weight_decay) in published.items():
        assert groups[name]["lr_scale"] == pytest.approx(scale, abs=1e-9), name
        assert groups[name]["lr"] == pytest.approx(scale * recipe["optimizer"]["lr"], abs=1e-12), name
        assert groups[name]["weight_decay"] == weight_decay, name


def test_groups_hold_their_own_parameters_from_input_to_heads():
    model = Model(ConvNeXt(arch=TINY))
    parameters = dict(model.named_parameters())
    groups = wrapper(model).optimizer.param_groups
    for group in groups:
        pairs = zip(group["params"], group["param_names"], strict=True)
        assert all(param is parameters[name] for param, name in pairs)
    layers = [group["layer_id"] for group in groups]
    assert layers == sorted(layers) and layers[-1] == 3 + 2 + 1  # stage 2 of 4 blocks has two groups
    assert sum(len(group["params"]) for group in groups) == len(parameters)


@CUDA_BUILD
def test_groups_of_a_model_on_a_gpu():
    expected = wrapper(Model(ConvNeXt(arch=TINY))).optimizer.param_groups
    with torch.device("meta"):
        model = Model(ConvNeXt(arch=TINY))
    with fake_cuda():
        moved(model)
    groups = wrapper(model).optimizer.param_groups  # mmengine notes the settings with a tensor on the CPU
    assert [{**group, "params": None} for group in groups] == [
        {**group, "params": None} for group in expected
    ]
    assert [facts(group["params"]) for group in groups] == [facts(group["params"]) for group in expected]
    assert {param.device.type for group in groups for param in group["params"]} == {"cuda"}


def test_num_layers_can_be_given():
    groups = by_name(wrapper(Model(ConvNeXt(arch=TINY)), num_layers=9))
    assert groups["backbone.stages.3.0.gamma"]["lr_scale"] == 0.5
    assert groups["backbone.stages.0.0.gamma"]["lr_scale"] == 0.5**9


class Around(BaseModule):
    """Models around models: a student and its frozen teacher, or a tracker's detector beside other nets."""

    def __init__(self, **models: nn.Module):
        super().__init__()
        for name, model in models.items():
            self.add_module(name, model)


def test_a_model_inside_a_model_decays_as_it_does_alone():
    alone = by_name(wrapper(Model(ConvNeXt(arch=TINY))))
    teacher = Model(ConvNeXt(arch=TINY)).requires_grad_(False)
    around = Around(teacher=teacher, student=Model(ConvNeXt(arch=TINY)), reid=nn.Conv2d(3, 4, 1))
    groups = by_name(wrapper(around))
    expected = {f"student.{name}": group["lr_scale"] for name, group in alone.items()}
    expected |= {"reid.weight": 1.0, "reid.bias": 1.0}
    assert {name: group["lr_scale"] for name, group in groups.items()} == expected


def test_a_second_backbone_in_the_neck_decays_as_the_first():
    model = Model(ConvNeXt(arch=TINY))
    model.neck = Around(rfp_modules=nn.ModuleList([ConvNeXt(arch=TINY)]))
    groups = by_name(wrapper(model))
    for name, _ in model.backbone.named_parameters():
        first, second = groups[f"backbone.{name}"], groups[f"neck.rfp_modules.0.{name}"]
        assert first["lr_scale"] == second["lr_scale"]


def test_frozen_parameters_are_left_out():
    groups = by_name(wrapper(Model(ConvNeXt(arch=TINY, frozen_stages=2))))
    frozen = (
        "backbone.downsample_layers.0",
        "backbone.downsample_layers.1",
        "backbone.stages.0",
        "backbone.stages.1",
    )
    assert not [name for name in groups if name.startswith(frozen)]
    # the numbering is still that of the whole backbone
    assert groups["backbone.stages.2.0.gamma"]["lr_scale"] == 0.5**3


def test_grn_has_no_weight_decay():
    model = Model(ConvNeXt(arch=TINY))
    for stage in model.backbone.stages:
        for block in stage:
            block.grn = nn.Module()
            block.grn.gamma = nn.Parameter(torch.zeros(1, 1, 1, 16))
            block.grn.beta = nn.Parameter(torch.zeros(1, 1, 1, 16))
    groups = by_name(wrapper(model))
    assert groups["backbone.stages.2.3.grn.gamma"]["weight_decay"] == 0
    assert (
        groups["backbone.stages.2.3.grn.beta"]["lr_scale"] == groups["backbone.stages.2.3.gamma"]["lr_scale"]
    )
    assert groups["backbone.stages.2.3.pwconv1.weight"]["weight_decay"] == 0.05


def test_options_are_those_of_mmengine():
    """At decay rate 1 the groups are those of mmengine's default constructor."""
    options = dict(
        norm_decay_mult=0.25,
        bias_decay_mult=0.5,
        custom_keys={
            "backbone.stages.2": dict(lr_mult=0.1, decay_mult=2.0),
            "stages.2.1": dict(lr_mult=0.2, decay_mult=3.0),  # shorter than the key above, so it loses
            "gamma": dict(decay_mult=0.0),
        },
    )
    model = Model(ConvNeXt(arch=TINY))
    ours = by_name(wrapper(model, decay_rate=1.0, **copy.deepcopy(options)))
    cfg = dict(optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05), paramwise_cfg=options)
    names = {id(param): name for name, param in model.named_parameters()}
    for group in build_optim_wrapper(model, cfg).optimizer.param_groups:
        name = names[id(group["params"][0])]
        for key in ("lr", "weight_decay"):
            assert ours[name][key] == pytest.approx(group[key], rel=1e-12), (name, key)


def test_a_custom_rate_multiplies_the_decayed_one_and_keeps_the_released_weight_decay():
    groups = by_name(wrapper(Model(ConvNeXt(arch=TINY)), custom_keys={"neck": dict(lr_mult=10.0)}))
    assert groups["neck.weight"]["lr"] == 10.0 and groups["neck.weight"]["weight_decay"] == 0.05
    assert groups["neck.bias"]["lr"] == 10.0 and groups["neck.bias"]["weight_decay"] == 0.0


class Numbered(nn.Module):
    """A backbone that numbers its layers by mmpretrain's protocol."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    def get_layer_depth(self, name: str, prefix: str = ""):
        if not name.startswith(prefix + "layers."):
            return 4, 5
        return 1 + int(name.removeprefix(prefix).split(".")[1]), 5


def test_other_backbones_number_their_own_layers():
    groups = by_name(wrapper(Model(Numbered())))
    scales = [groups[f"backbone.layers.{i}.weight"]["lr_scale"] for i in range(3)]
    assert scales == [0.5**3, 0.5**2, 0.5] and groups["neck.weight"]["lr_scale"] == 1
    with pytest.raises(TypeError, match="layer_wise"):
        wrapper(Model(Numbered()), decay_type="stage_wise")


def test_an_unknown_backbone_is_refused_with_the_method_it_needs():
    with pytest.raises(TypeError, match=r"layers of Conv2d .* get_layer_depth\(name: str, prefix: str\)"):
        wrapper(Model(nn.Conv2d(3, 4, 1)))
    with pytest.raises(TypeError, match="`backbone`; Conv2d has none"):
        wrapper(nn.Conv2d(3, 4, 1))


@pytest.mark.parametrize(
    ("paramwise", "message"),
    [
        (dict(decay_rate=None), "decay_rate=None"),
        (dict(decay_rate=1.5), r"decay_rate=1.5; use a number in \(0, 1\]"),
        (dict(decay_type="layer"), "'layer_wise', 'stage_wise'"),
        (dict(num_layers=2), "num_layers=2; at least 4"),
        (dict(layer_decay=0.7), r"unknown .*'layer_decay'.*decay_rate"),
    ],
)
def test_wrong_options_are_named(paramwise, message):
    with pytest.raises(ValueError, match=message):
        wrapper(Model(ConvNeXt(arch=TINY)), **paramwise)


def train_a_step(model: nn.Module, optim_wrapper: OptimWrapper) -> None:
    features = model.backbone(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32))
    loss = model.neck(features[0]).square().mean() + sum(level.square().mean() for level in features[1:])
    optim_wrapper.update_params(loss)


def saved(optim_wrapper: OptimWrapper, path) -> dict:
    torch.save(optim_wrapper.state_dict(), path)
    return torch.load(path, weights_only=True)


def test_a_resume_matches_parameters_by_name_whatever_their_order(tmp_path):
    torch.manual_seed(0)
    model = Model(ConvNeXt(arch=TINY))
    optim_wrapper = wrapper(model, lr=0.01)
    for _ in range(2):
        train_a_step(model, optim_wrapper)
    state = saved(optim_wrapper, tmp_path / "optimizer.pth")

    resumed = copy.deepcopy(model)
    other = wrapper(resumed, lr=0.01)
    other.optimizer.param_groups.reverse()
    for group in other.optimizer.param_groups:
        group["params"].reverse()
        group["param_names"].reverse()
    other.load_state_dict(state)

    for _ in range(2):
        train_a_step(model, optim_wrapper)
        train_a_step(resumed, other)
    for name, param in model.named_parameters():
        assert torch.equal(param, resumed.get_parameter(name)), name
    assert by_name(other)["backbone.stages.3.0.gamma"]["lr"] == 0.01 * 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch=dict(TINY, depths=(1, 1, 5, 1))), r"only in this model, first \['backbone.stages.2.4"),
        (dict(arch=dict(TINY, depths=(1, 1, 3, 1))), r"only in the checkpoint, first \['backbone.stages.2.3"),
        (
            dict(decay_rate=0.25),
            r"in another group, first \['backbone.downsample_layers.0.0.weight .*lr x0.0156",
        ),
        (dict(decay_type="stage_wise"), r"in another group"),
        (
            dict(arch=dict(TINY), frozen_stages=0),
            r"only in the checkpoint, first \['backbone.downsample_layers.0",
        ),
    ],
)
def test_a_resume_with_other_groups_says_what_differs(changes, message):
    state = wrapper(Model(ConvNeXt(arch=TINY))).state_dict()
    backbone = {key: changes[key] for key in ("arch", "frozen_stages") if key in changes}
    paramwise = {key: value for key, value in changes.items() if key not in backbone}
    other = wrapper(Model(ConvNeXt(**{"arch": TINY, **backbone})), **paramwise)
    with pytest.raises(ValueError, match=f"cannot resume with other parameter groups: .*{message}"):
        other.load_state_dict(state)


def test_a_checkpoint_of_another_constructor_is_refused():
    model = Model(ConvNeXt(arch=TINY))
    plain = build_optim_wrapper(model, dict(optimizer=dict(type="AdamW", lr=1.0)))
    with pytest.raises(ValueError, match="1 groups without parameter names"):
        wrapper(model).load_state_dict(plain.state_dict())
