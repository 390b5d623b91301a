"""The hand-written gradients against autograd's, and what is kept for them."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp, vmap
from waiting import HANGS

from convnext_dense import ConvNeXt, IsotropicConvNeXt
from convnext_dense.layers import lean_block
from convnext_dense.layers.basic import LayerNorm2d
from convnext_dense.models.archs import ARCHS
from convnext_dense.models.convnext import Block

MICRO = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
KINDS = {
    "scaled": dict(layer_scale_init_value=1.0),
    "unscaled": dict(layer_scale_init_value=0.0),
    "grn": dict(layer_scale_init_value=0.0, use_grn=True),
    "grn_scaled": dict(use_grn=True),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EVERY_LEVEL = pytest.mark.parametrize("memory", ["lean", "leaner"])


@pytest.fixture(params=[None, 7], ids=["whole", "pieces"])
def cut(request, monkeypatch):
    """Work on all positions of these small maps at once, or on seven at a time."""
    if request.param:
        monkeypatch.setattr(lean_block, "POSITIONS", request.param)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def random_block(kind: str, dim: int = 8, **kwargs) -> Block:
    torch.manual_seed(0)
    block = Block(dim, **KINDS[kind], **kwargs)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    return block


def image(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def calls(monkeypatch) -> list[str]:
    """Grows by one entry whenever the hand-written path runs."""
    made, run = [], lean_block.pointwise
    monkeypatch.setattr(lean_block, "pointwise", lambda *args: made.append(args[-1]) or run(*args))
    return made


def outcome(block: Block, x: torch.Tensor, memory: str, **autocast) -> dict[str, torch.Tensor]:
    """Output and every gradient of a random loss."""
    block.memory = memory
    block.zero_grad()
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", **autocast) if autocast else torch.enable_grad():
        y = block(x)
    (y.double() * image(*y.shape, dtype=torch.float64).flip(0)).sum().backward()
    return {"y": y.detach(), "x": x.grad, **{name: p.grad for name, p in block.named_parameters()}}


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@EVERY_KIND
@EVERY_LEVEL
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_gradients_equal_autograds(kind, memory, memory_format, cut):
    block = random_block(kind)
    x = image(3, 8, 5, 7).to(memory_format=memory_format)
    found, expected = outcome(block, x, memory), outcome(block, x, "plain")
    assert {name: error(found[name], expected[name]) for name in expected} == pytest.approx(
        dict.fromkeys(expected, 0), abs=1e-6
    )
    exact = outcome(block.double(), x.double(), memory), outcome(block, x.double(), "plain")
    assert max(error(exact[0][name], exact[1][name]) for name in expected) < 1e-13


@EVERY_KIND
@EVERY_LEVEL
def test_gradients_equal_finite_differences(kind, memory, monkeypatch):
    monkeypatch.setattr(lean_block, "POSITIONS", 5)
    made = calls(monkeypatch)
    block = random_block(kind, dim=2, memory=memory).double()
    names, parameters = zip(*block.named_parameters(), strict=True)
    x = image(2, 2, 3, 2, dtype=torch.float64).requires_grad_()
    weights = [p.detach().clone().requires_grad_() for p in parameters]

    def run(x, *weights):
        return functional_call(block, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *weights)) and made


def test_grn_has_a_gradient_where_a_channel_is_zero():
    block = random_block("grn")
    with torch.no_grad():
        block.pwconv1.weight[:3], block.pwconv1.bias[:3] = 0, 0
    x = image(2, 8, 4, 4)
    found, expected = outcome(block, x, "lean"), outcome(block, x, "plain")
    assert max(error(found[name], expected[name]) for name in expected) < 1e-6


@EVERY_KIND
@EVERY_LEVEL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_has_the_dtypes_and_the_accuracy_of_the_plain_path(kind, memory, dtype, cut):
    block, x = random_block(kind), image(3, 8, 5, 7)
    exact = outcome(block.double(), x.double(), "plain")
    block.float()
    found = outcome(block, x, memory, dtype=dtype)
    plain = outcome(block, x, "plain", dtype=dtype)
    for name in exact:
        assert found[name].dtype == plain[name].dtype
        assert (
            error(found[name], exact[name])
            < 1.5 * error(plain[name], exact[name]) + torch.finfo(dtype).eps / 2
        ), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_backward_pass_inside_autocast_keeps_float32(kind):
    block, x = random_block(kind), image(2, 8, 5, 7)
    expected = outcome(block, x, "lean")
    block.zero_grad()
    loss = (block(x).double() * image(2, 8, 5, 7, dtype=torch.float64).flip(0)).sum()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss.backward()
    for name, p in block.named_parameters():
        assert name.startswith("dwconv") or torch.equal(p.grad, expected[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_16_bits(dtype):
    block, x = random_block("scaled"), image(2, 8, 5, 7)
    exact = outcome(block.double(), x.double(), "plain")
    found, plain = (outcome(block.to(dtype), x.to(dtype), memory) for memory in ("lean", "plain"))
    for name in exact:
        assert found[name].dtype == plain[name].dtype == dtype
        assert (
            error(found[name], exact[name])
            < 1.5 * error(plain[name], exact[name]) + torch.finfo(dtype).eps / 2
        ), name


@pytest.mark.parametrize("value", [1e-6, 0.0])
def test_float16_keeps_a_tiny_layer_scale(value):
    block, x = random_block("scaled"), image(2, 8, 5, 7)
    with torch.no_grad():
        block.gamma[:4] = value  # 1e-6 times a weight is 0 in float16
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    grads = {}
    for block.memory in ("plain", "lean"):
        block.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = (block(x) * image(2, 8, 5, 7).flip(0)).sum()
        scaler.scale(loss).backward()
        scaler.unscale_(torch.optim.SGD(block.parameters()))
        grads[block.memory] = {name: p.grad.clone() for name, p in block.named_parameters()}
        scaler.update()
    for name, expected in grads["plain"].items():
        assert error(grads["lean"][name], expected) < 5e-3, name
    small = grads["lean"]["pwconv2.weight"][:4]
    assert small.any() == (value > 0)
    assert error(grads["lean"]["gamma"][:4], grads["plain"]["gamma"][:4]) < 5e-3


@EVERY_KIND
def test_frozen_parameters_and_inputs(kind):
    x = image(2, 8, 4, 5)
    block = random_block(kind)
    expected = outcome(block, x, "plain")
    names = [name for name, _ in block.named_parameters() if not name.startswith("dwconv")]
    for trained in [[], ["norm.weight"], ["gamma", "grn.gamma"], ["grn.beta"], ["pwconv2.bias"], *zip(names)]:
        for behind in (True, False):  # whether something before the block is trained
            for name, p in block.named_parameters():
                p.requires_grad_(name in trained).grad = None
            block.memory = "lean"
            given = x.clone().requires_grad_(behind)
            y = block(given)
            if not y.requires_grad:
                assert not behind and not set(trained) & set(names)
                continue
            (y * image(*y.shape).flip(0)).sum().backward()
            assert (given.grad is not None) == behind
            found = {name: p.grad for name, p in block.named_parameters() if p.grad is not None}
            assert set(found) == set(trained) & set(names)
            assert all(error(found[name], expected[name]) < 1e-6 for name in found)
            assert not behind or error(given.grad, expected["x"]) < 1e-6


@EVERY_LEVEL
@pytest.mark.parametrize("build", [ConvNeXt, IsotropicConvNeXt])
@pytest.mark.parametrize("with_cp", [False, True])
def test_whole_models_accumulate_the_same_gradients(build, memory, with_cp, monkeypatch):
    made = calls(monkeypatch)
    arch = MICRO if build is ConvNeXt else dict(depths=(3,), dims=(8,))
    grads = []
    for level in ("plain", memory):
        torch.manual_seed(0)
        model = build(arch, drop_path_rate=0.3, layer_scale_init_value=1.0, with_cp=with_cp, memory=level)
        for seed in (1, 2):  # two steps before one update; the same samples are dropped
            torch.manual_seed(seed)
            sum(y.sin().mean() for y in model(torch.randn(3, 3, 64, 64))).backward()
        grads.append([p.grad for p in model.parameters()])
    blocks = sum(arch["depths"])
    assert made == [memory] * blocks * 2 * (2 if with_cp else 1)
    assert all(error(a, b) < 1e-5 for a, b in zip(*grads, strict=True))


def kept_bytes(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of all memory kept for the backward pass, without parameters."""
    known = {p.untyped_storage()._cdata for p in model.parameters()}
    kept = {}  # holds the storages, so that no address occurs twice
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage()._cdata, t.untyped_storage()) and t, lambda t: t
    ):
        levels = model(x)
    assert levels[0].requires_grad
    return sum(storage.nbytes() for address, storage in kept.items() if address not in known)


class PaperBlock(nn.Module):
    """A block as the paper describes it, one operation after the other."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand, self.gelu, self.project = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(self.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class PaperModel(nn.Module):
    def __init__(self, arch: str) -> None:
        super().__init__()
        depths, dims = ARCHS[arch]
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), LayerNorm2d(dims[0]))
        pairs = itertools.pairwise(dims)
        self.downs = nn.ModuleList(nn.Sequential(LayerNorm2d(a), nn.Conv2d(a, b, 2, 2)) for a, b in pairs)
        self.stages = nn.ModuleList(
            nn.Sequential(*(PaperBlock(c) for _ in range(n))) for n, c in zip(depths, dims, strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm2d(c) for c in dims)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for down, stage, norm in zip([self.stem, *self.downs], self.stages, self.norms, strict=True):
            x = stage(down(x))
            maps.append(norm(x))
        return maps


@pytest.mark.parametrize("arch", ["tiny", "base"])
def test_kept_memory_is_half_and_a_quarter(arch):
    with torch.device("meta"):
        x = torch.empty(1, 3, 512, 512)
        plain = kept_bytes(PaperModel(arch), x)
        kept = {memory: kept_bytes(ConvNeXt(arch, memory=memory), x) for memory in lean_block.MEMORY}
        grn = {
            memory: kept_bytes(ConvNeXt(arch, use_grn=True, memory=memory), x) for memory in lean_block.MEMORY
        }
    assert plain / 2**20 == pytest.approx({"tiny": 544, "base": 1156}[arch], abs=2)  # as timm 1.0.31 keeps
    assert kept["plain"] == pytest.approx(plain, rel=0.01)
    assert kept["lean"] < 0.53 * plain and kept["leaner"] < 0.22 * plain
    assert grn["lean"] < 0.44 * grn["plain"]  # of GRN, one tensor of 4C channels less


def test_kept_memory_is_that_of_real_tensors():
    x = torch.randn(1, 3, 64, 64)
    with torch.device("meta"):
        expected = kept_bytes(ConvNeXt(MICRO), x.to("meta"))
    assert kept_bytes(ConvNeXt(MICRO), x) == expected


def test_nothing_is_kept_or_taken_over_without_gradients(monkeypatch):
    made, block, x = calls(monkeypatch), random_block("scaled"), image(1, 8, 4, 4)
    with torch.no_grad():
        block(x)
    block.requires_grad_(False)(x)
    assert not made
    block(x.requires_grad_())
    assert made == ["lean"]


def test_second_derivatives_are_refused_only_where_they_are_taken():
    block, x = random_block("scaled"), image(1, 8, 4, 4).requires_grad_()
    (first,) = torch.autograd.grad(block(x).sum(), x, create_graph=True)
    block.memory = "plain"
    (expected,) = torch.autograd.grad(block(x).sum(), x, create_graph=True)
    torch.testing.assert_close(first, expected)
    expected.square().sum().backward()
    with pytest.raises(RuntimeError, match="memory='plain'"):
        first.square().sum().backward()


def test_transforms_tracing_and_compilers_see_plain_operations(monkeypatch):
    block, x = random_block("scaled"), image(2, 8, 4, 4)
    expected = outcome(block, x, "plain")
    block.memory, made = "lean", calls(monkeypatch)
    torch.testing.assert_close(vmap(block)(x[:, None])[:, 0], expected["y"])
    weights = {name: p.detach() for name, p in block.named_parameters()}
    grads = torch.func.grad(lambda w: functional_call(block, w, (x,)).sum())(weights)
    assert set(grads) == set(weights)
    _, slope = jvp(block, (x,), (torch.ones_like(x),))
    step = 1e-3 * torch.ones_like(x)
    torch.testing.assert_close(
        slope, (block(x + step) - block(x - step)).detach() / 2e-3, rtol=0.05, atol=0.05
    )
    assert len(made) == 2  # of the two differences
    made.clear()
    torch.jit.trace(block, (x,), check_trace=False)
    torch.export.export(block, (x,))
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected["y"])
    assert not made


def test_replaced_and_hooked_parts_are_called(monkeypatch):
    made, x = calls(monkeypatch), image(1, 8, 4, 4)
    seen = []
    block = random_block("scaled")
    for register in (block.pwconv1.register_forward_hook, nn.modules.module.register_module_forward_hook):
        handle = register(lambda module, *args: seen.append(module))
        block(x)
        handle.remove()
    assert seen.count(block.pwconv1) == 2 and not made
    block.pwconv2 = nn.Sequential(block.pwconv2, nn.Dropout(0.0))
    block(x).sum().backward()
    assert not made
    block = random_block("scaled")
    nn.utils.parametrizations.weight_norm(block.pwconv1)
    block(x).sum().backward()
    assert not made and block.pwconv1.parametrizations.weight.original0.grad is not None


def test_a_wrong_choice_is_one_line():
    for build in (lambda: Block(8, memory="least"), lambda: ConvNeXt(MICRO, memory="least")):
        with pytest.raises(ValueError, match=r"memory='least'; use one of \('plain', 'lean', 'leaner'\)"):
            build()


WORKER = """
import sys
import torch
from torch import distributed, nn
from convnext_dense import ConvNeXt

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
model = nn.parallel.DistributedDataParallel(ConvNeXt(arch, memory="lean"))
images = torch.randn(4, 3, 64, 64)
sum(y.sin().mean() for y in model(images[2 * rank : 2 * rank + 2])).backward()
grads = [p.grad for p in model.parameters()]
if rank == 0:
    torch.manual_seed(0)
    whole = ConvNeXt(arch, memory="plain")
    sum(y.sin().mean() for y in whole(torch.randn(4, 3, 64, 64))).backward()
    for grad, p in zip(grads, whole.parameters(), strict=True):
        assert (grad - p.grad).norm() < 1e-5 * p.grad.norm(), (grad, p.grad)
distributed.barrier()
distributed.destroy_process_group()
"""


def test_two_processes_average_the_gradients(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("this build of PyTorch has no distributed package")
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    ends = [worker.communicate(timeout=HANGS)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], ends
