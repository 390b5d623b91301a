"""The package on a real GPU, held against the CPU and the released code; left out where there is none.

The other tests choose the GPU by themselves where something trains or predicts. Here is what they compute on
the CPU wherever they run: the golden values, the gradients, fused and compiled blocks, and the ops.
"""

import copy
import json
import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from golden import GOLDEN, assert_golden, fill_by_name, golden_array
from op_cases import ROI_CASES, features_like, random_boxes
from repository import ROOT
from torch import Tensor, nn
from waiting import HANGS

from convnext_dense import ConvNeXt
from convnext_dense.data.synthetic import make_shapes
from convnext_dense.layers import lean_block
from convnext_dense.models.compile import compile_in_place
from convnext_dense.ops import batched_nms, nms, roi_align, soft_nms
from convnext_dense.ops.backend import torchvision_ops

GPU = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
MICRO = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
NETWORKS = {
    "v1": dict(),
    "v2": dict(use_grn=True),
    "unscaled": dict(layer_scale_init_value=0.0),
    "atrous": dict(output_stride=8),
    "recomputed": dict(with_cp=True),
}
EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS)
EVERY_LEVEL = pytest.mark.parametrize("memory", lean_block.MEMORY)
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"]
)
HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
IMAGE = golden_array(0, (2, 3, 70, 96))


@pytest.fixture(autouse=True)
def float32_products(monkeypatch):
    """Products of float32 with all their bits: cuDNN's default, TF32, rounds the factors to ten."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def network_of(network: str, **options) -> nn.Module:
    return fill_by_name(ConvNeXt(MICRO, **NETWORKS[network], **options).double())


def outcome(model: nn.Module, image: Tensor, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Levels and gradients, on the CPU; products are taken in ``dtype``, if given, on the GPU."""
    model.zero_grad()
    image = image.detach().clone().requires_grad_()
    with torch.autocast(GPU, dtype, enabled=dtype is not None):
        levels = model(image)
    sum((level.double() ** 2).mean() for level in levels).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    found = {**{f"level{i}": level for i, level in enumerate(levels)}, "image": image.grad, **gradients}
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    return {name: error(found[name], expected[name]) for name in expected}


# ---- the backbone


@PRECISIONS
@pytest.mark.parametrize("case", GOLDEN["hierarchical"], ids=lambda case: case["arch"])
def test_features_equal_the_release(case, dtype, tolerance):
    model = fill_by_name(ConvNeXt(case["arch"]).double()).to(GPU, dtype).eval()
    image = golden_array(case["input"]["seed"], case["input"]["shape"]).to(GPU, dtype)
    for fused in (False, True):
        with torch.no_grad():
            levels = (model.fuse() if fused else model)(image)
        for level, expected in zip(levels, case["outputs"], strict=True):
            assert_golden(level.cpu(), expected, tolerance)


@EVERY_NETWORK
@EVERY_LEVEL
def test_gradients_equal_the_cpus(network, memory):
    model = network_of(network, memory=memory)
    expected = outcome(model, IMAGE)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        found = outcome(model.to(GPU, dtype), IMAGE.to(GPU, dtype))
        assert max(errors(found, expected).values()) < tolerance


@HALF
@pytest.mark.parametrize("network", ["v1", "v2", "unscaled"])
@pytest.mark.parametrize("memory", ["lean", "leaner"])
def test_lean_gradients_are_as_close_as_the_plain_ones(network, memory, dtype):
    model = network_of(network)
    exact = outcome(model, IMAGE)
    model.to(GPU, torch.float32)
    plain, lean = (
        errors(outcome(with_memory(model, level), IMAGE.to(GPU, torch.float32), dtype), exact)
        for level in ("plain", memory)
    )
    rounding = torch.finfo(dtype).eps
    assert {
        name: (lean[name], plain[name]) for name in exact if lean[name] > 1.5 * plain[name] + rounding
    } == {}


def with_memory(model: nn.Module, memory: str) -> nn.Module:
    for stage in model.stages:
        for block in stage:
            block.memory = memory
    return model


@EVERY_NETWORK
@HALF
@torch.no_grad()
def test_fused_blocks_are_as_close_as_the_parts(network, dtype):
    model = network_of(network).eval()
    exact = model(IMAGE)
    x = IMAGE.to(GPU, torch.float32)
    model.to(GPU, torch.float32)
    with torch.autocast(GPU, dtype):
        plain = model(x)
        found = model.fuse()(x)
    for a, b, level in zip(found, plain, exact, strict=True):
        assert a.dtype == b.dtype and a.is_contiguous()
        assert error(a.cpu(), level) < 1.5 * error(b.cpu(), level) + torch.finfo(dtype).eps


def test_compiled_blocks_train_at_several_sizes():
    model = network_of("v1").to(GPU, torch.float32)
    plain = copy.deepcopy(model)
    assert compile_in_place(model)
    for width in (96, 64, 128):
        image = IMAGE[..., :64].repeat(1, 1, 1, 2)[..., :width].to(GPU, torch.float32)
        found, expected = outcome(model, image), outcome(plain, image)
        assert max(errors(found, expected).values()) < 1e-4


# ---- ops


@pytest.fixture(params=["portable", "torchvision"])
def backend(request, monkeypatch) -> str:
    """Which kernels serve the ops on the GPU."""
    if request.param == "torchvision" and torchvision_ops(GPU) is None:
        pytest.skip("no torchvision with kernels for this GPU")
    if request.param == "portable":
        for name in ("nms", "roi_align"):
            monkeypatch.setattr(
                import_module(f"convnext_dense.ops.{name}"), "torchvision_ops", lambda _: None
            )
    return request.param


@pytest.mark.parametrize("name", ROI_CASES)
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_equals_the_cpus(name, aligned, backend):
    shape, rois, scale = ROI_CASES[name]
    rois = rois.double()

    def run(device: str) -> tuple[Tensor, Tensor]:
        x = features_like(shape, torch.float64).to(device).requires_grad_()
        pooled = roi_align(x, rois.to(device), 7, scale, 0, aligned)
        (pooled * features_like(tuple(pooled.shape), torch.float64).to(device)).sum().backward()
        return pooled.detach().cpu(), x.grad.cpu()

    for found, expected in zip(run(GPU), run("cpu"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [0, 1, 257, 3000])
@pytest.mark.parametrize("offset", [0, 1])
def test_nms_equals_the_cpus(count, offset, backend):
    boxes, scores = random_boxes(count, seed=count)
    labels = torch.arange(count) % 3
    on_gpu = [tensor.to(GPU) for tensor in (boxes, scores, labels)]
    assert nms(*on_gpu[:2], 0.5, offset).tolist() == nms(boxes, scores, 0.5, offset).tolist()
    found, expected = batched_nms(*on_gpu, 0.5, offset), batched_nms(boxes, scores, labels, 0.5, offset)
    assert found.device.type == GPU and found.tolist() == expected.tolist()
    for a, b in zip(soft_nms(*on_gpu[:2]), soft_nms(boxes, scores), strict=True):
        assert a.device.type == GPU and torch.equal(a.cpu(), b)


# ---- whole models


@pytest.mark.parametrize(
    "name", ["mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x", "upernet/convnext_t_512_160k"]
)
def test_whole_models_equal_the_release(name, monkeypatch):
    """Outputs, losses, gradients and one step in float64; the masks' pixels and the labels exactly."""
    pytest.importorskip("mmdet")
    import whole_models as wm

    whole = wm.build(name).to(GPU)
    if not whole.segments:
        wm.paste_in_float64(monkeypatch)
        wm.release_habits(monkeypatch)
    found = wm.differences(wm.GOLDEN[name], wm.predicted(whole).values | wm.trained(whole))
    allowed = dict.fromkeys(found, 1e-9) | dict.fromkeys(wm.COUNTS, 0.0)
    allowed |= dict(losses=1e-6, total=1e-6)  # binary cross entropy is float32 also in a float64 model
    assert {q: difference for q, difference in found.items() if difference.size > allowed[q]} == {}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "compiled"])
@pytest.mark.parametrize("recipe", ["demo/mask_rcnn_shapes", "demo/upernet_shapes"])
def test_training_learns_in_every_precision(recipe, precision, tmp_path):
    """Sixty steps, with gradient scaling in float16: each loss is finite, and the last ones are smaller."""
    pytest.importorskip("mmdet")
    make_shapes(tmp_path, train=16, val=2, size=96)
    part = tmp_path / ("coco" if "mask_rcnn" in recipe else "ade20k")
    settings = ["train_cfg.max_iters=60", "train_cfg.val_begin=1000000", "default_hooks.logger.interval=1"]
    settings.append("log_processor.window_size=1")
    flags = {"float32": ["--no-amp"], "compiled": ["--no-amp", "--compile"]}.get(precision, ["--amp"])
    if precision in ("bfloat16", "float16"):
        settings.append(f"optim_wrapper.dtype={precision}")
    paths = ["--data-root", str(part), "--work-dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "convnext_dense", "train", recipe, *paths, "--seed", "0"]
    command += ["--device", GPU, *flags, "--cfg-options", *settings]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (log,) = (tmp_path / "run").glob("*/vis_data/scalars.json")
    losses = [row["loss"] for row in map(json.loads, log.read_text().splitlines()) if "loss" in row]
    assert len(losses) == 60 and all(loss < 100 for loss in losses)  # NaN is not smaller
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
