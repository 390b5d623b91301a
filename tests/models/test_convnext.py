"""The backbone against figures computed with the released code, and its interface."""

import json

import pytest
import torch
from golden import GOLDEN, assert_golden, fill_by_name, golden_array
from torch import nn

from convnext_dense import ARCHS, ConvNeXt
from convnext_dense.layers.basic import GRN, DropPath, drop_path_rates

MICRO = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
CASES = GOLDEN["hierarchical"]
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"]
)


def case_id(case: dict) -> str:
    return f"{case['arch']}-{'x'.join(map(str, case['input']['shape']))}"


def golden_model(case: dict, dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor]:
    model = fill_by_name(ConvNeXt(case["arch"]).double()).to(dtype).eval()
    return model, golden_array(case["input"]["seed"], case["input"]["shape"]).to(dtype)


@PRECISIONS
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_features_and_gradients_equal_the_reference(case, dtype, tolerance):
    model, image = golden_model(case, dtype)
    assert sum(p.numel() for p in model.parameters()) == case["n_parameters"]
    levels = model(image)
    for level, expected in zip(levels, case["outputs"], strict=True):
        assert_golden(level, expected, tolerance)
    if "grads" not in case:
        return
    loss = sum((level**2).mean() for level in levels)
    assert loss.item() == pytest.approx(case["loss"], rel=tolerance)
    loss.backward()
    parameters = dict(model.named_parameters())
    for name, expected in case["grads"].items():
        grad = parameters[name].grad.double()
        assert grad.norm().item() == pytest.approx(expected["norm"], rel=tolerance), name
        typical = expected["norm"] / grad.numel() ** 0.5  # single entries are sums that cancel
        torch.testing.assert_close(
            grad.reshape(-1)[:4],
            torch.tensor(expected["first"], dtype=torch.float64),
            rtol=tolerance,
            atol=tolerance * typical,
        )


@PRECISIONS
@pytest.mark.parametrize("case", GOLDEN["v2"], ids=lambda case: str(case["dims"][0]))
def test_v2_stages_equal_the_reference(case, dtype, tolerance):
    arch = dict(depths=case["depths"], dims=case["dims"])
    model = fill_by_name(ConvNeXt(arch, use_grn=True).double()).to(dtype).eval()
    width = case["dims"][-1]
    norms = 2 * sum(case["dims"])
    head = 2 * width + 1000 * width + 1000  # the released model's final norm and linear layer
    assert sum(p.numel() for p in model.parameters()) - norms + head == case["n_parameters_with_head"]
    image = golden_array(case["input"]["seed"], case["input"]["shape"]).to(dtype)
    for stage, expected in zip(model.forward_stages(image), case["stage_outputs"], strict=True):
        assert_golden(stage, expected, tolerance)


def test_v2_has_the_released_names_and_no_layer_scale():
    state = ConvNeXt(MICRO, use_grn=True).state_dict()
    assert state["stages.0.0.grn.gamma"].shape == state["stages.0.0.grn.beta"].shape == (1, 1, 1, 32)
    assert not [name for name in state if name.endswith("gamma") and "grn" not in name]
    assert not [name for name in ConvNeXt(MICRO).state_dict() if "grn" in name]


def test_grn_starts_as_the_identity_and_has_a_gradient_where_a_map_is_zero():
    layer = GRN(4)
    x = torch.randn(2, 3, 3, 4)
    x[..., 0] = 0
    x.requires_grad_()
    assert torch.equal(layer(x), x)
    layer(x).sum().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(layer.gamma.grad).all()


@pytest.mark.parametrize("key", GOLDEN["drop_path"])
def test_drop_path_rates_equal_the_reference(key):
    arch, rate = key.split("@")
    rates = drop_path_rates(float(rate), ARCHS[arch].depths)
    assert [len(stage) for stage in rates] == list(ARCHS[arch].depths)
    flat = [rate for stage in rates for rate in stage]
    assert flat == pytest.approx(GOLDEN["drop_path"][key], abs=1e-7)  # published in float32
    model = ConvNeXt(dict(depths=ARCHS[arch].depths, dims=(8, 8, 8, 8)), drop_path_rate=float(rate))
    assert [m.rate for m in model.modules() if isinstance(m, DropPath)] == flat


def test_drop_path_keeps_the_expectation_and_drops_whole_samples():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    out = layer(torch.ones(20000, 2, 1))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(layer.eval()(torch.ones(3, 2)), torch.ones(3, 2))


@pytest.mark.parametrize("given", [(0, 1, 2, 3), [1, 3], (0, -1), -1, 2])
def test_out_indices_select_levels_and_stay_unwritten(given):
    kept = json.dumps(given)
    model = ConvNeXt(MICRO, out_indices=given).eval()
    assert json.dumps(given) == kept
    indices = [i % 4 for i in ([given] if isinstance(given, int) else given)]
    levels = model(torch.randn(1, 3, 64, 96))
    assert [tuple(level.shape) for level in levels] == [
        (1, MICRO["dims"][i], 16 >> i, 24 >> i) for i in indices
    ]
    assert model.out_channels == tuple(MICRO["dims"][i] for i in indices)
    assert model.out_strides == tuple(4 << i for i in indices)
    assert {name.split(".")[0] for name in model.state_dict() if name.startswith("norm")} == {
        f"norm{i}" for i in indices
    }


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (65, 130), (32, 1000)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_any_size_gives_contiguous_levels(size, memory_format):
    levels = ConvNeXt(MICRO)(torch.randn(1, 3, *size).to(memory_format=memory_format))
    expected = [s // 4 for s in size]
    for level in levels:
        assert list(level.shape[2:]) == expected and level.is_contiguous()
        expected = [s // 2 for s in expected]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(arch="tinny"), "use one of"),
        (dict(arch=dict(depths=(1, 1, 1), dims=(8, 8, 8))), "4 positive integers"),
        (dict(arch=dict(depths=2.5, dims=(8, 8, 8, 8))), "arch depths=2.5; 4 positive integers"),
        (dict(arch=dict(depth=1)), "depths"),
        (dict(out_indices=(0, 4)), "4 is not a stage"),
        (dict(out_indices=(-5,)), "-5 is not a stage"),
        (dict(out_indices=(1, 0)), "rising order"),
        (dict(out_indices=(3, -1)), "each once"),
        (dict(out_indices=()), "at least one"),
        (dict(frozen_stages=5), "frozen_stages=5"),
        (dict(drop_path_rate=1.0), "drop path rate"),
    ],
)
def test_wrong_arguments_are_one_clear_error(kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        ConvNeXt(**{"arch": MICRO, **kwargs})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 3, 31, 64), "31x64"), ((1, 1, 64, 64), "1, 64"), ((3, 64, 64), "expected")]
)
def test_wrong_inputs_are_one_clear_error(shape, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(MICRO)(torch.zeros(shape))


def test_other_input_channels_and_no_layer_scale():
    model = ConvNeXt(MICRO, in_channels=5, layer_scale_init_value=0)
    assert not any("gamma" in name for name in model.state_dict())
    assert model(torch.randn(2, 5, 32, 32))[-1].shape == (2, 32, 1, 1)


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2, 4])
def test_frozen_stages(frozen_stages, caplog):
    with caplog.at_level("INFO", logger="convnext_dense"):
        model = ConvNeXt(MICRO, frozen_stages=frozen_stages, drop_path_rate=0.2)
    assert model.train() is model
    prefixes = ["downsample_layers.0."] if frozen_stages >= 0 else []
    prefixes += [
        f"{part}{i}." for i in range(frozen_stages) for part in ("downsample_layers.", "stages.", "norm")
    ]
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(tuple(prefixes))}
    modes = {name: module.training for name, module in model.named_modules() if name}
    assert all(
        modes[name] != name.startswith(tuple(p.rstrip(".") for p in prefixes))
        for name in modes
        if name not in ("stages", "downsample_layers")
    )
    count = sum(p.numel() for name, p in model.named_parameters() if name in frozen)
    assert (f"{count} of" in caplog.text) == (frozen_stages >= 0)
    sum(level.sum() for level in model(torch.randn(1, 3, 64, 64))).backward() if frozen_stages < 4 else None
    assert (
        all((p.grad is None) == (name in frozen) for name, p in model.named_parameters())
        or frozen_stages == 4
    )


def test_checkpointing_recomputes_the_same_gradients():
    torch.manual_seed(0)
    plain, recomputed = ConvNeXt(MICRO, drop_path_rate=0.5), ConvNeXt(MICRO, drop_path_rate=0.5, with_cp=True)
    recomputed.load_state_dict(plain.state_dict())
    image = torch.randn(4, 3, 64, 64)
    grads = []
    for model in (plain, recomputed):
        torch.manual_seed(1)  # the same samples are dropped
        sum(level.square().mean() for level in model(image)).backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close_to_float32(dtype):
    torch.manual_seed(0)
    model, image = ConvNeXt(MICRO), torch.randn(2, 3, 64, 64)
    expected = model(image)
    with torch.autocast("cpu", dtype=dtype):
        levels = model(image)
    for level, reference in zip(levels, expected, strict=True):
        assert (level.float() - reference).abs().max() < 0.05 * reference.std()
    sum(level.float().sum() for level in levels).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_meta_device_export_and_compile():
    with torch.device("meta"):
        levels = ConvNeXt("base", drop_path_rate=0.7)(torch.empty(1, 3, 800, 1280))
    assert levels[0].shape == (1, 128, 200, 320) and levels[0].is_meta
    model, image = ConvNeXt(MICRO).eval(), torch.randn(2, 3, 64, 96)
    expected = model(image)
    exported = torch.export.export(model, (image,)).module()
    # "eager" runs the captured graph without a C++ compiler: graph breaks are what can go wrong here
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for run in (exported, compiled):
        for level, reference in zip(run(image), expected, strict=True):
            torch.testing.assert_close(level, reference)


@pytest.mark.parametrize(("with_cp", "blocks"), [((0, 2), 3), ([], 0), (True, 5), (False, 0), ([3], 1)])
def test_recomputation_of_chosen_stages(with_cp, blocks):
    torch.manual_seed(0)
    model, image = ConvNeXt(MICRO), torch.randn(1, 3, 64, 64)
    grads, passes = [], []
    for stage in model.stages:
        for block in stage:
            block.dwconv.register_forward_hook(lambda *args: passes.append(1))
    for model.with_cp in (False, with_cp):
        model.zero_grad()
        passes.clear()
        sum(level.sin().mean() for level in model(image)).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert len(passes) == 5 + blocks  # a recomputed block runs twice
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("with_cp", [1, (4,), (-1,), (True,), "all"])
def test_wrong_stages_to_recompute_are_one_clear_error(with_cp):
    with pytest.raises(ValueError, match="sequence of stages 0 to 3") as error:
        ConvNeXt(MICRO, with_cp=with_cp)
    assert "\n" not in str(error.value)
