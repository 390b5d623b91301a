"""mmcv's own wrappers over the stand-in for ``mmcv._ext``; a compiled mmcv keeps its own ops."""

import importlib
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from op_cases import features_like, loop_nms, loop_soft_nms, random_boxes, random_rois
from repository import ROOT

import convnext_dense.mm.mmcv_ext as adapter
from convnext_dense import ops

adapter.install_ops()
import mmcv.ops  # noqa: E402

SERVED = ("roi_align_forward", "roi_align_backward", "nms", "softnms")


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """The stand-in's ops under mmcv's wrappers, even where mmcv is compiled."""
    ext = adapter._StandIn()
    for name in SERVED:
        monkeypatch.setattr(sys.modules["mmcv._ext"], name, getattr(ext, name))
    return ext


@pytest.fixture
def uninstalled(monkeypatch):
    """State before any installation; yields a function that sets how ``mmcv._ext`` imports."""
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.setattr(mmcv, "_ext", None, raising=False)
    real = importlib.import_module

    def imports_as(outcome: Exception | ModuleType) -> None:
        def import_module(name, package=None):
            if name != "mmcv._ext":
                return real(name, package)
            if isinstance(outcome, Exception):
                raise outcome
            return sys.modules.setdefault(name, outcome)

        monkeypatch.setattr(adapter.importlib, "import_module", import_module)

    yield imports_as
    sys.modules.pop("mmcv._ext", None)


def test_installs_where_the_ops_are_absent_and_only_once(uninstalled, recwarn):
    uninstalled(ModuleNotFoundError("No module named 'mmcv._ext'", name="mmcv._ext"))
    assert adapter.install_ops() == "stand-in"
    first = sys.modules["mmcv._ext"]
    assert isinstance(first, adapter._StandIn)
    assert mmcv._ext is first
    assert adapter.install_ops() == "stand-in" and adapter.current_ops() == ops.op_backend()
    assert sys.modules["mmcv._ext"] is first
    assert not recwarn.list


def test_installing_touches_no_device(uninstalled, monkeypatch):
    """It runs at import, before a process of several has chosen its GPU."""
    uninstalled(ModuleNotFoundError("No module named 'mmcv._ext'", name="mmcv._ext"))
    tried = []
    monkeypatch.setattr(ops, "op_backend", lambda device_type=None: tried.append(device_type) or "portable")
    adapter.install_ops()
    adapter.install_ops()
    assert not tried
    assert adapter.current_ops("cuda") == "portable" and tried == ["cuda"]


@pytest.mark.parametrize(
    ("built", "device", "gpu", "named"),
    [
        ("not available", "cuda", True, adapter.CPU_ONLY),
        ("not available", None, True, adapter.CPU_ONLY),
        ("not available", None, False, "mmcv compiled"),
        ("not available", "cpu", True, "mmcv compiled"),
        ("13.0", "cuda", True, "mmcv compiled"),
    ],
)
def test_ops_compiled_without_a_gpu_are_named(uninstalled, monkeypatch, built, device, gpu, named):
    compiled = ModuleType("mmcv._ext")
    compiled.get_compiling_cuda_version = lambda: built  # as mmcv's info.cpp answers
    uninstalled(compiled)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert adapter.current_ops(device) == named


@pytest.mark.parametrize(
    ("device", "backend", "words"),
    [
        ("cuda", "portable", "portable (calls for every box: install the torchvision"),
        ("cuda", "torchvision", "torchvision"),
        ("cpu", "portable", "portable"),
    ],
)
def test_a_run_on_a_gpu_names_the_missing_kernels(monkeypatch, device, backend, words):
    monkeypatch.setattr(adapter, "install_ops", lambda: "stand-in")
    monkeypatch.setattr(ops, "op_backend", lambda device_type: backend)
    line = adapter.ops_line(device)
    assert line.startswith(words) and line.endswith(")") == (words != backend)


def test_leaves_compiled_ops_in_place(uninstalled):
    compiled = ModuleType("mmcv._ext")
    uninstalled(compiled)
    assert adapter.install_ops() == "mmcv"
    assert adapter.current_ops() == "mmcv compiled"
    assert sys.modules["mmcv._ext"] is compiled


@pytest.mark.parametrize(
    "error",
    [
        ImportError("/x/_ext.so: undefined symbol: _ZN3c105ErrorC2E\nmore", name="mmcv._ext"),
        OSError("libc10.so: cannot open shared object file"),
        ModuleNotFoundError("No module named 'other'", name="other"),
    ],
)
def test_compiled_ops_that_do_not_load_count_as_absent(uninstalled, error):
    uninstalled(error)
    with pytest.warns(UserWarning, match="convnext-dense ops") as caught:
        assert adapter.install_ops() == "stand-in"
    (warning,) = caught
    assert str(error).splitlines()[0] in str(warning.message)
    assert "\n" not in str(warning.message)
    assert warning.filename == __file__


def test_without_mmcv_says_how_to_get_it():
    code = "import sys; sys.modules['mmcv'] = None; import convnext_dense.mm.mmcv_ext"  # the package installs
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "mmcv is not installed: pip " in done.stderr.splitlines()[-1]


def test_missing_ops_raise_when_called_and_name_the_remedy(stand_in):
    assert hasattr(stand_in, "deform_conv_forward")
    with pytest.raises(NotImplementedError, match=r"'deform_conv_forward'.*convnext-dense ops"):
        stand_in.deform_conv_forward(torch.zeros(1), kernel=3)


def test_dunders_are_those_of_a_module(stand_in):
    for name in ("__path__", "__file__", "__wrapped__", "_private"):
        assert not hasattr(stand_in, name)
    assert stand_in.__name__ == stand_in.__spec__.name == "mmcv._ext"


def test_mmcv_does_not_take_it_for_compiled(uninstalled):
    uninstalled(ModuleNotFoundError(name="mmcv._ext"))
    adapter.install_ops()
    spec = importlib.util.find_spec("mmcv._ext")
    assert spec.loader is None  # what mmcv.utils.ext_loader.check_ops_exist() looks at
    assert "no compiled operators" in sys.modules["mmcv._ext"].get_compiler_version()


def test_roi_align_forward_and_backward():
    x, rois = features_like((2, 3, 9, 13)), random_rois(6, 2, 36, 52)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = ops.roi_align(ours, rois, (5, 3), 0.25, 2, False)
    got = mmcv.ops.RoIAlign((5, 3), 0.25, 2, "avg", False)(theirs, rois)
    assert torch.equal(got, expected)
    weights = features_like(got.shape)
    got.backward(weights.mT.contiguous().mT)  # gradients come in any layout
    expected.backward(weights)
    assert torch.equal(theirs.grad, ours.grad)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float64])
def test_roi_align_dtypes(dtype):
    x, rois = features_like((2, 3, 9, 13), dtype).requires_grad_(), random_rois(6, 2, 36, 52)
    got = mmcv.ops.roi_align(x, rois.to(dtype), (7, 7), 0.25, 0, "avg", True)
    got.sum().backward()
    assert got.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(got, ops.roi_align(x, rois.to(dtype), 7, 0.25))


def test_roi_align_reads_channels_last():
    x, rois = features_like((2, 8, 9, 13)), random_rois(6, 2, 36, 52)
    pool = mmcv.ops.RoIAlign(7, 0.25)
    expected = pool(x, rois)
    got = pool(x.contiguous(memory_format=torch.channels_last), rois)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_roi_align_max_is_refused():
    with pytest.raises(NotImplementedError, match=r"pool_mode='max'.*convnext-dense ops"):
        mmcv.ops.RoIAlign(7, pool_mode="max")(torch.ones(1, 1, 4, 4), torch.zeros(1, 5))


def test_nms_plain_and_batched():
    boxes, scores = random_boxes(200)
    order = scores.argsort(descending=True).tolist()
    rows, kept = mmcv.ops.nms(boxes, scores, 0.4)
    assert kept.tolist() == loop_nms(boxes, order, 0.4)
    assert torch.equal(rows, torch.cat([boxes, scores[:, None]], 1)[kept])
    _, kept = mmcv.ops.nms(boxes.numpy(), scores.numpy(), 0.4, offset=1, score_threshold=0.2, max_num=9)
    assert kept.tolist() == loop_nms(boxes, [i for i in order if scores[i] > 0.2], 0.4, 1)[:9]
    labels = torch.arange(200) % 3
    _, kept = mmcv.ops.batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.4})
    assert kept.tolist() == ops.batched_nms(boxes, scores, labels, 0.4).tolist()


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(method):
    boxes, scores = random_boxes(80)
    rows, kept = mmcv.ops.soft_nms(boxes, scores, 0.3, 0.4, 0.05, method)
    expected = loop_soft_nms(boxes, scores, 0.3, 0.4, 0.05, method, 0)
    assert kept.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(rows[:, 4], torch.tensor([score for _, score in expected]))
    assert torch.equal(rows[:, :4], boxes[kept])


def test_no_boxes_at_all():
    rows, kept = mmcv.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert rows.shape == (0, 5)
    assert len(kept) == 0
    rows, kept = mmcv.ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert rows.shape == (0, 5)
    assert mmcv.ops.RoIAlign(7)(torch.ones(1, 2, 4, 4), torch.zeros(0, 5)).shape == (0, 2, 7, 7)
