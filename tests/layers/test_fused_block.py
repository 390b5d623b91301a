"""The fused inference path against the parts called one by one, and when it must not be used."""

import copy
import io

import pytest
import torch
from golden import fill_by_name
from torch import nn

from convnext_dense import ConvNeXt, IsotropicConvNeXt
from convnext_dense.layers import fused_block, lean_block, onednn_linear
from convnext_dense.models.convnext import Block

MICRO = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
BUILDS = {
    "v1": lambda: ConvNeXt(MICRO),
    "v1_unscaled": lambda: ConvNeXt(MICRO, layer_scale_init_value=0),
    "v2": lambda: ConvNeXt(MICRO, use_grn=True),
    "v2_scaled": lambda: ConvNeXt(MICRO, use_grn=True, layer_scale_init_value=1.0),
    "isotropic": lambda: IsotropicConvNeXt(dict(depths=(3,), dims=(16,)), layer_scale_init_value=1.0),
}
EVERY_BUILD = pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def random_model(build=BUILDS["v1"]) -> nn.Module:
    return fill_by_name(build()).eval()


def levels(model: nn.Module, x: torch.Tensor = IMAGE) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model(x)


def largest_error(found, expected) -> float:
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected, strict=True))


@pytest.fixture
def runs(monkeypatch) -> list[torch.Tensor]:
    """Grows by one entry whenever a block takes the fused path."""
    made, run = [], fused_block.pointwise
    monkeypatch.setattr(
        fused_block, "pointwise", lambda folded, *args: made.append(folded) or run(folded, *args)
    )
    return made


@EVERY_BUILD
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("cut", [False, True])
def test_outputs_stay_the_same(build, onednn, cut, runs, monkeypatch):
    if cut:
        monkeypatch.setattr(lean_block, "POSITIONS", 20)
    if not onednn:
        monkeypatch.setattr(onednn_linear, "onednn_is_exact", lambda dtype: False)
    model = random_model(build)
    expected, state = levels(model), {name: t.clone() for name, t in model.state_dict().items()}
    assert model.fuse() is model.fuse() is model
    found = levels(model)
    assert len(runs) == sum(model.depths)
    assert largest_error(found, expected) < 1e-5
    assert all(level.is_contiguous() for level in found)
    assert [level.shape for level in found] == [level.shape for level in expected]
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[name], t) for name, t in state.items())
    exact = levels(model.double(), IMAGE.double())
    assert largest_error(levels(model.fuse(), IMAGE.double()), exact) < 1e-12


@EVERY_BUILD
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_as_close_as_the_parts(build, dtype, runs):
    model = random_model(build)
    exact = levels(model)
    for cast in (False, True):
        model, x = (model.to(dtype), IMAGE.to(dtype)) if cast else (model, IMAGE)
        with torch.autocast("cpu", dtype=dtype, enabled=not cast):
            plain = levels(model, x)
            found = levels(model.fuse(), x)
        assert [level.dtype for level in found] == [level.dtype for level in plain]
        for a, b, reference in zip(found, plain, exact, strict=True):
            assert (a.float() - reference).norm() < 1.5 * (b.float() - reference).norm()
        assert len(runs) == sum(model.depths) * (1 + cast)


def test_an_input_is_not_written_to():
    block = Block(8).eval()
    block.fuse()
    x = torch.randn(1, 8, 5, 6).to(memory_format=torch.channels_last)
    kept = x.clone()
    assert not torch.equal(levels(block, x), kept)
    assert torch.equal(x, kept)


def test_training_mode_is_refused_in_one_line_and_undoes_it(runs):
    model = random_model()
    for build in (ConvNeXt(MICRO), IsotropicConvNeXt(dict(depths=(1,), dims=(8,)))):
        with pytest.raises(RuntimeError, match=r"call \.eval\(\)") as error:
            build.fuse()
        assert "\n" not in str(error.value)
    model.fuse().train().eval()
    levels(model)
    assert not runs
    levels(model.fuse().eval())
    assert len(runs) == 5


def load(model):
    model.load_state_dict(fill_by_name(ConvNeXt(MICRO)).double().float().state_dict())


def load_one_block(model):
    block = model.stages[2][1].pwconv2
    block.load_state_dict({name: t + 1 for name, t in block.state_dict().items()})


def edit(model):
    with torch.no_grad():
        model.stages[0][0].norm.weight.mul_(2)


def replace(model):
    model.stages[0][0].gamma = nn.Parameter(torch.full((8,), 3.0))


def assign(model):
    model.load_state_dict({name: t + 0.1 for name, t in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [load, load_one_block, edit, replace, assign], ids=lambda f: f.__name__)
def test_changed_parameters_are_never_used_with_old_weights(change):
    torch.manual_seed(0)
    fused = random_model().fuse()
    plain = copy.deepcopy(fused)
    before = levels(fused)
    change(fused)
    change(plain)
    found, expected = levels(fused), levels(plain)
    assert largest_error(found, expected) < 1e-5
    assert change is load or largest_error(found, before) > 1e-3
    assert largest_error(levels(fused.fuse()), expected) < 1e-5


def test_moving_copying_and_pickling_drop_it(runs):
    model = random_model().fuse()
    expected = levels(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [
        copy.deepcopy(model),
        torch.load(file, weights_only=False),
        random_model().fuse().double().float(),
    ]
    runs.clear()
    for other in copies:
        assert largest_error(levels(other), expected) < 1e-5
    assert not runs
    levels(model)
    assert len(runs) == 5  # the copied model itself is still fused


def test_gradients_hooks_and_exporters_see_the_parts(runs):
    model = random_model().fuse()
    expected = levels(model)
    runs.clear()
    sum(level.sum() for level in model(IMAGE)).backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        exported = torch.export.export(model, (IMAGE,)).module()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert largest_error(exported(IMAGE), expected) < 1e-5
        assert largest_error(compiled(IMAGE), expected) < 1e-5
    assert not runs
    seen = []
    model.stages[1][0].pwconv1.register_forward_hook(lambda *args: seen.append(args))
    levels(model)
    assert len(seen) == 1 and len(runs) == 4


def test_inference_mode_and_parameters_made_in_it(runs):
    expected = levels(random_model())
    with torch.inference_mode():
        model = random_model().fuse()
        assert largest_error(model(IMAGE), expected) < 1e-5
    assert len(runs) == 5


def test_a_part_that_was_replaced_is_left_alone(runs):
    model = random_model()
    model.stages[0][0].pwconv1 = nn.Sequential(model.stages[0][0].pwconv1)
    expected = levels(model)
    assert largest_error(levels(model.fuse()), expected) < 1e-5
    assert len(runs) == 4


def test_a_hook_on_the_convolution_holds_its_output(runs):
    """The fused path writes over it."""
    model = random_model().fuse()
    expected, held, copied = levels(model), [], []
    model.stages[0][0].dwconv.register_forward_hook(lambda *args: held.append(args[-1]))
    model.stages[0][0].dwconv.register_forward_hook(lambda *args: copied.append(args[-1].clone()))
    runs.clear()
    assert largest_error(levels(model), expected) < 1e-5
    assert len(runs) == 4
    assert torch.equal(held[0], copied[0])


# ---- oneDNN's products


def needs_onednn(dtype: torch.dtype) -> None:
    if not onednn_linear.onednn_is_exact(dtype):
        pytest.skip(f"this build or CPU has no such product in {dtype}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 1024])
def test_packed_weights_are_for_any_rows_and_threads(dtype, rows):
    needs_onednn(dtype)
    torch.manual_seed(0)
    weight, bias, x = (t.to(dtype) for t in (torch.randn(96, 24), torch.randn(96), torch.randn(rows, 24)))
    expected = nn.functional.gelu(nn.functional.linear(x.float(), weight.float(), bias.float()))
    packed, threads = onednn_linear.pack(weight), torch.get_num_threads()
    assert packed.layout != torch.strided
    assert torch.equal(packed.to_dense(), weight)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    try:
        for several in (threads, 1, 2):
            torch.set_num_threads(several)
            found = onednn_linear.linear(x, packed, bias, gelu=True).float()
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_stay_with_pytorch(dtype):
    weight = torch.randn(8, 4, dtype=dtype)
    assert onednn_linear.pack(weight) is weight


def missing(*args):
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


def other_gelu(x, weight, bias, gelu):
    y = nn.functional.linear(x, weight.to_dense(), bias)
    return nn.functional.gelu(y, approximate="tanh") if gelu else y


def other_order(x, weight, bias, gelu):
    plain = weight.to_dense().flip(0) if weight.layout != torch.strided else weight
    y = nn.functional.linear(x, plain, bias)
    return nn.functional.gelu(y) if gelu else y


@pytest.mark.parametrize("broken", [missing, other_gelu, other_order])
def test_a_build_without_the_operators_is_detected(broken, monkeypatch):
    needs_onednn(torch.float32)
    monkeypatch.setattr(onednn_linear, "_onednn_linear", broken)
    assert not onednn_linear.onednn_is_exact.__wrapped__(torch.float32)
