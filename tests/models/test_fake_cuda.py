"""The networks on fake CUDA tensors: devices, shapes and dtypes of what a GPU would compute."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import CUDA_BUILD, HALF, HostTensorError, autocast_on_cuda, facts, fake_cuda, moved
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from convnext_dense import ConvNeXt, IsotropicConvNeXt
from convnext_dense.layers import fused_block, lean_block, onednn_linear
from convnext_dense.models.convnext import Block
from convnext_dense.models.pyramid import SimpleFeaturePyramid

pytestmark = [
    CUDA_BUILD,
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),  # of folded weights
]
MICRO = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
NETWORKS = {
    "v1": dict(),
    "v2": dict(use_grn=True),
    "unscaled": dict(layer_scale_init_value=0.0),
    "atrous": dict(output_stride=8),
    "recomputed": dict(with_cp=True),
}
IMAGE = (2, 3, 70, 96)
EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS)
EVERY_LEVEL = pytest.mark.parametrize("memory", lean_block.MEMORY)


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """Fake parameters are of a tensor subclass, with which a block calls its parts one by one."""
    monkeypatch.setattr(lean_block, "is_bare", lambda block: True)


def calls(monkeypatch, module: object, name: str = "pointwise") -> list:
    """Grows by one entry whenever ``module.name`` runs."""
    made, run = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: made.append(name) or run(*args, **kwargs))
    return made


def on_meta(kind: type, **options) -> nn.Module:
    with torch.device("meta"):
        return kind(**options)


# ---- the guard


def test_the_guard_finds_a_tensor_on_the_cpu():
    with pytest.raises(HostTensorError, match="zeros"), fake_cuda():
        torch.zeros(3)
    with pytest.raises(HostTensorError, match=r"\[\(2,\)\]"), fake_cuda():
        torch.tensor([1.0, 2.0])
    with pytest.raises(HostTensorError, match="_to_copy"), fake_cuda():
        torch.zeros(3, device="cuda").cpu()
    with fake_cuda():
        x = torch.ones(3, device="cuda") * torch.tensor(2.0) + torch.tensor([1.0, 2.0, 3.0], device="cuda")
        assert x.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            x.sum().item()  # a wait of the host


def test_the_guard_finds_a_planted_fault_in_a_block():
    block = on_meta(Block, dim=8)
    forward = block.norm.forward
    block.norm.forward = lambda y: forward(y) + torch.zeros(8)
    with pytest.raises(HostTensorError), fake_cuda(), torch.no_grad():
        moved(block)(torch.empty(1, 8, 5, 5, device="cuda"))


# ---- the backbone


@EVERY_NETWORK
@EVERY_LEVEL
def test_training_forward(network, memory, monkeypatch):
    lean = calls(monkeypatch, lean_block)
    options = dict(arch=MICRO, memory=memory, **NETWORKS[network])
    expected = facts(ConvNeXt(**options)(torch.zeros(IMAGE)))
    del lean[:]
    model = on_meta(ConvNeXt, **options)
    with fake_cuda():
        found = moved(model)(torch.empty(IMAGE, device="cuda"))
        assert all(level.is_contiguous() for level in found)
    assert facts(found) == expected
    assert len(lean) == (0 if memory == "plain" else sum(MICRO["depths"]))


@EVERY_NETWORK
def test_fused_inference(network, monkeypatch):
    fused = calls(monkeypatch, fused_block)
    options = dict(arch=MICRO, **NETWORKS[network])
    expected = facts(ConvNeXt(**options).eval()(torch.zeros(IMAGE)))
    model = on_meta(ConvNeXt, **options).eval()
    with fake_cuda(), torch.no_grad():
        found = moved(model).fuse()(torch.empty(IMAGE, device="cuda"))
        assert all(level.is_contiguous() for level in found)
    assert facts(found) == expected
    assert len(fused) == sum(MICRO["depths"])


@pytest.mark.parametrize("network", ["v1", "v2"])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("way", ["plain", "lean", "leaner", "fused"])
def test_autocast(network, dtype, way):
    """The norms, which come last, are float32 by PyTorch's list, whatever a block returns."""
    options = dict(arch=MICRO, memory="lean" if way == "fused" else way, **NETWORKS[network])
    shapes = [shape for shape, _ in facts(ConvNeXt(**options)(torch.zeros(IMAGE)))]
    model, blocks = on_meta(ConvNeXt, **options), []
    for stage in model.stages:
        stage[-1].register_forward_hook(lambda block, args, out: blocks.append(out.dtype))
    with fake_cuda(), autocast_on_cuda(dtype), torch.set_grad_enabled(way != "fused"):
        model = moved(model).eval().fuse() if way == "fused" else moved(model)
        levels = model(torch.empty(IMAGE, device="cuda"))
    assert facts(levels) == [(shape, torch.float32) for shape in shapes]
    # a layer scale is float32, as is the stem's norm; without the former, later stages add 16-bit numbers
    later = dtype if network == "v2" else torch.float32
    assert blocks == [torch.float32, later, later, later]


@pytest.mark.parametrize("dtype", HALF)
def test_cast_networks(dtype):
    """``model.half()`` and ``model.bfloat16()``, fused: no part leaves the dtype."""
    model = on_meta(ConvNeXt, arch=MICRO).to(dtype).eval()
    with fake_cuda(), torch.no_grad():
        levels = moved(model).fuse()(torch.empty(IMAGE, device="cuda", dtype=dtype))
    assert {level.dtype for level in levels} == {dtype}


@pytest.mark.parametrize("fused", [False, True])
def test_isotropic_network_and_its_pyramid(fused):
    arch = dict(depths=(2,), dims=(16,))
    network, neck = (
        (IsotropicConvNeXt, dict(arch=arch)),
        (SimpleFeaturePyramid, dict(in_channels=16, num_outs=5)),
    )
    parts = [kind(**options).eval() for kind, options in (network, neck)]
    expected = facts(nn.Sequential(*parts)(torch.zeros(IMAGE)))
    parts = [on_meta(kind, **options).eval() for kind, options in (network, neck)]
    with fake_cuda(), torch.set_grad_enabled(not fused):
        model = moved(nn.Sequential(*parts))
        if fused:
            model[0].fuse()
        found = model(torch.empty(IMAGE, device="cuda"))
    assert facts(found) == expected


def test_no_product_is_onednns(monkeypatch):
    monkeypatch.setattr(onednn_linear, "_onednn_linear", None)  # a call of it fails
    monkeypatch.setattr(onednn_linear, "onednn_is_exact", lambda dtype: True)
    model = on_meta(ConvNeXt, arch=MICRO).eval()
    with fake_cuda(), torch.no_grad():
        moved(model).fuse()(torch.empty(IMAGE, device="cuda"))
        folded = model.stages[0][0]._folded
        assert folded.w1.layout == folded.w2.layout == torch.strided


@pytest.mark.parametrize("way", ["plain", "lean", "fused"])
def test_blocks_stay_channels_last(way, monkeypatch):
    """Then the pointwise part reads the output of the depthwise convolution without a copy."""
    seen = []
    model = on_meta(ConvNeXt, arch=MICRO, memory="lean" if way == "fused" else way)
    for stage in model.stages:
        stage[0].dwconv.register_forward_hook(lambda conv, args, out: seen.extend((*args, out)))
    monkeypatch.setattr(lean_block, "is_plain", lambda part, kind: True)  # these hooks read no values
    with fake_cuda(), torch.set_grad_enabled(way != "fused"):
        model = moved(model).eval().fuse() if way == "fused" else moved(model)
        model(torch.empty(IMAGE, device="cuda"))
    assert len(seen) == 8
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_a_dropped_path_makes_its_mask_on_the_device():
    block = on_meta(Block, dim=8, drop_path_rate=0.5)
    with fake_cuda():
        assert facts(moved(block)(torch.empty(2, 8, 5, 5, device="cuda"))) == [((2, 8, 5, 5), torch.float32)]


# ---- the hand-written gradients


KINDS = {
    "scaled": dict(layer_scale_init_value=1.0),
    "unscaled": dict(layer_scale_init_value=0.0),
    "grn": dict(layer_scale_init_value=0.0, use_grn=True),
    "grn_scaled": dict(use_grn=True),
}


def gradients(block: Block, y: Tensor, memory: str) -> list[Tensor | None]:
    """Call the function's forward, and its backward with what that saved, without autograd."""
    weights = lean_block.weights_of(block)
    plan = lean_block.Plan(block.norm.eps, memory == "lean", *lean_block.dtypes(y, weights))
    ctx = SimpleNamespace(needs_input_grad=(False, True, *(w is not None for w in weights)))
    ctx.save_for_backward = lambda *tensors: setattr(ctx, "saved_tensors", tensors)
    out = lean_block._Pointwise.forward(ctx, plan, y, *weights)
    assert out.dtype == plan.output
    return list(lean_block._Pointwise.backward(ctx, torch.empty_like(out)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", ["lean", "leaner"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@torch.no_grad()
def test_hand_written_gradients(kind, memory, dtype):
    """As on the CPU in shape; each has the dtype of what it is the gradient of."""
    block = Block(8, **KINDS[kind])
    expected = facts(gradients(block, torch.zeros(2, 5, 7, 8), memory))
    assert len(expected) == 1 + len(lean_block.weights_of(block).given())
    with fake_cuda(), nullcontext() if dtype == torch.float32 else autocast_on_cuda(dtype):
        y = torch.empty(2, 5, 7, 8, device="cuda", dtype=dtype)
        found = gradients(moved(block), y, memory)
    assert facts(found) == [(expected[0][0], dtype), *expected[1:]]


@pytest.mark.parametrize("memory", ["lean", "leaner"])
@torch.no_grad()
def test_results_in_one_piece_are_not_copied(memory, monkeypatch):
    """A GPU works on all positions at once, so each result is the output of the last operation."""
    written, run = [], Tensor.__setitem__
    monkeypatch.setattr(
        Tensor, "__setitem__", lambda self, *args: written.append(args[0]) or run(self, *args)
    )
    block = on_meta(Block, dim=8)
    with fake_cuda():
        gradients(moved(block), torch.empty(2, 5, 7, 8, device="cuda"), memory)
    assert not written
