"""The file itself: what is in it, that it computes the same, and that it is whole or not there."""

import collections
import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
import exportable
import onnx
import onnx_models

from convnext_dense.errors import UserError
from convnext_dense.export.engines import open_model
from convnext_dense.export.metadata import Metadata
from convnext_dense.export.runtime import Predictor
from convnext_dense.mm.export import run
from convnext_dense.mm.export.check import compare, example_inputs
from convnext_dense.mm.export.load import Exportable, load
from convnext_dense.mm.export.quantise import to_int8
from convnext_dense.mm.export.run import Request, checked, export
from convnext_dense.mm.export.write import save, to_onnx, values_by_module

SOURCES = (b".py", b"site-packages", b"/home", b"/tmp", b"stack_trace", b"pkg.torch")


class Tiny(nn.Module):
    """A segmentor of three convolutions, which is exported in a second."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = dict(stem=nn.Conv2d(3, 8, 3, padding=1), act=nn.ReLU(), body=nn.Conv2d(8, 8, 3, padding=1))
        self.model = nn.Sequential(collections.OrderedDict(**layers, head=nn.Conv2d(8, 3, 1)))

    def forward(self, images, sizes=None):
        x = images.to(self.model.stem.weight.dtype) / 255
        if sizes is not None:
            x = x * (torch.arange(x.shape[2]) < sizes[:, :1])[:, None, :, None]
        return (self.model(x).float(),)


def tiny(*args: object) -> Exportable:
    """In the place of `load`."""
    meta = onnx_models.metadata("segmentor", scale=(96, 64), opset=18)
    return Exportable(Tiny().eval().requires_grad_(False), ("logits",), meta)


@pytest.fixture(scope="module")
def small():
    """(what PyTorch runs, the graph with the exporter's notes)."""
    model = tiny()
    return model, to_onnx(model)


def pictures(count: int, *sizes: tuple[int, int]) -> list[np.ndarray]:
    return [torch.stack(exportable.pictures(*[hw] * count, seed=i)).numpy() for i, hw in enumerate(sizes)]


def axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, as `save` removes the notes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def tampered(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy in which a weight is wrong."""
    copy = copied(proto)
    (weight,) = (tensor for tensor in copy.graph.initializer if tensor.name == name)
    changed = onnx.numpy_helper.to_array(weight) * np.float32(1.5)  # a sum would be lost after a LayerNorm
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, name))
    return copy


# ---- a small network


def test_the_file_has_standard_operators_names_and_nothing_of_the_source(small, tmp_path):
    model, proto = small
    save(copied(proto), tmp_path / "m.onnx")
    written = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert [(each.domain, each.version) for each in written.opset_import] == [("", 18)]
    assert {node.domain for node in written.graph.node} == {""} and not written.functions
    assert [(value.name, axes(value)) for value in written.graph.input] == [("images", ["N", 3, "H", "W"])]
    assert [(value.name, axes(value)) for value in written.graph.output] == [("logits", ["N", 3, "H", "W"])]
    assert written.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    whole = (tmp_path / "m.onnx").read_bytes()
    assert not [word for word in SOURCES if word in whole]
    assert Predictor(tmp_path / "m.onnx").metadata == model.metadata


def test_values_lie_in_the_modules_that_compute_them(small):
    model, proto = small
    produced = values_by_module(proto)
    assert produced.keys() >= {"model.stem", "model.act", "model.body", "model.head"}
    types = {value: node.op_type for node in proto.graph.node for value in node.output}
    assert [types[value] for value in produced["model.body"]] == ["Conv"]
    assert [types[value] for value in produced["model.act"]] == ["Relu"]
    assert produced.keys() <= {name for name, _ in model.network.named_modules()}


@pytest.mark.parametrize("module", ["model.stem", "model.body", "model.head"])
def test_a_wrong_weight_names_its_module(small, tmp_path, module):
    model, proto = small
    produced = values_by_module(proto)
    save(tampered(proto, f"{module}.weight"), tmp_path / "m.onnx")
    with pytest.raises(UserError) as error:
        list(checked(model, tmp_path / "m.onnx", produced, exact=True))
    assert f"the first module that differs is {module}." in str(error.value)
    assert "--no-check" in str(error.value) and "\n" not in str(error.value)
    lines = list(checked(model, tmp_path / "m.onnx", produced, exact=False))
    assert len(lines) == len(example_inputs(model.metadata)), "reported only"


@pytest.fixture
def request_of(small, monkeypatch, tmp_path):
    """A function: options -> the request of an export of the small network into an empty folder."""
    monkeypatch.setattr(run, "load", tiny)
    monkeypatch.setattr(run, "to_onnx", lambda model: copied(small[1]))  # traced once
    return lambda **options: Request("mine", "unused.pth", tmp_path / "out" / "m.onnx", **options)


def exported(request: Request) -> list[str]:
    return list(export(exportable.config("upernet"), request))


def test_a_file_that_differs_gets_no_name(request_of, monkeypatch):
    request = request_of()
    wrong = lambda proto, path: save(tampered(proto, "model.body.weight"), path)  # noqa: E731
    monkeypatch.setattr(run, "save", wrong)
    with pytest.raises(UserError, match=r"model\.body\. Nothing was written"):
        exported(request)
    assert not list(request.out.parent.iterdir())
    exported(dataclasses.replace(request, check=False))
    assert request.out.is_file()


@pytest.mark.parametrize("place", ["to_onnx", "save", "checked"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_the_old_file(request_of, monkeypatch, place, error):
    request = request_of()
    request.out.parent.mkdir()
    request.out.write_text("the old one")

    def stop(*args):
        for path in args:
            if place == "save" and hasattr(path, "write_bytes"):
                path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(run, place, stop)
    with pytest.raises(error):
        exported(request)
    assert [path.name for path in request.out.parent.iterdir()] == ["m.onnx"]
    assert request.out.read_text() == "the old one"


def test_a_full_disk_is_one_line_about_the_file_that_was_asked_for(request_of, monkeypatch):
    request = request_of()

    def full(proto, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(run, "save", full)
    with pytest.raises(UserError) as error:
        exported(request)
    assert str(error.value) == f"cannot write {request.out}: No space left on device"
    assert not list(request.out.parent.iterdir())


def test_half_precision(request_of, monkeypatch):
    monkeypatch.setattr(run, "to_onnx", to_onnx)
    request = request_of(half=True)
    lines = exported(request)
    weights = onnx.load(request.out).graph.initializer
    assert {tensor.data_type for tensor in weights if tensor.name.startswith("model.")} == {
        onnx.TensorProto.FLOAT16
    }
    assert Predictor(request.out).metadata.precision == "fp16"
    (images,) = pictures(2, (40, 50))
    logits = open_model(request.out).run(images)["logits"]
    (expected,) = tiny().network(torch.from_numpy(images))
    assert logits.dtype == np.float32
    assert np.abs(logits - expected.numpy()).max() < 0.01 and sum("check" in line for line in lines) == 4


def save_pictures(folder, count: int) -> None:
    folder.mkdir()
    for i, image in enumerate(pictures(1, *[(70, 90)] * count)):
        Image.fromarray(image[0].transpose(1, 2, 0)).save(folder / f"{i}.png")


def test_eight_bits(request_of, tmp_path):
    save_pictures(tmp_path / "pictures", 3)
    request = request_of(int8=True, calibration=str(tmp_path / "pictures"))
    assert "int8: measuring ranges on 3 pictures" in exported(request)
    written = onnx.load(request.out)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in written.graph.node}
    assert {node.domain for node in written.graph.node} == {""}
    predictor = Predictor(request.out)
    assert predictor.metadata.precision == "int8"
    found = predictor(tmp_path / "pictures/0.png")["label_map"]
    exported(request_of())
    expected = Predictor(request.out)(tmp_path / "pictures/0.png")["label_map"]
    assert (found == expected).mean() > 0.9


# ---- whole models


@pytest.fixture(scope="module", params=["mask_rcnn", "upernet"])
def whole(request, tmp_path_factory):
    """(what PyTorch runs, the file of any size)."""
    folder, cfg = tmp_path_factory.mktemp(request.param), exportable.config(request.param)
    checkpoint = exportable.save(cfg, folder / "model.pth")
    path = folder / "model.onnx"
    list(export(exportable.config(request.param), Request("mine", checkpoint, path)))
    return load(cfg, checkpoint, "mine"), path


def same(model: Exportable, engine: str, path, inputs: list[np.ndarray]) -> None:
    for verdict in compare(model, open_model(path, engine), inputs):
        assert verdict.passed, verdict


def test_what_a_whole_file_has(whole):
    model, path = whole
    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    assert [(each.domain, each.version) for each in written.opset_import] == [("", 18)]
    assert {node.domain for node in written.graph.node} == {""} and not written.functions
    assert [(value.name, axes(value)) for value in written.graph.input] == [("images", ["N", 3, "H", "W"])]
    sides = {"boxes": [4], "scores": [], "labels": [], "masks": [28, 28]}
    expected = {name: ["N", 30, *rest] for name, rest in sides.items()} | {"count": ["N"]}
    if model.metadata.kind == "segmentor":
        expected = {"logits": ["N", 4, "H", "W"]}
    assert {value.name: axes(value) for value in written.graph.output} == expected
    whole_file = path.read_bytes()
    assert not [word for word in SOURCES if word in whole_file]
    assert Predictor(path).metadata == model.metadata == Metadata.from_json(model.metadata.to_json())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_computes_the_same_at_any_size(whole, engine):
    pytest.importorskip(engine)
    model, path = whole
    inputs = [
        *(*pictures(1, (64, 96), (131, 77), (33, 260)), *pictures(3, (50, 70))),
        np.zeros((2, 3, 64, 64), np.uint8),
        *pictures(1, (20, 17)),  # below the stride
    ]
    same(model, engine, path, inputs)


def test_eight_bits_of_a_whole_model(whole, tmp_path):
    model, path = whole
    save_pictures(tmp_path / "pictures", 3)
    to_int8(path, tmp_path / "int8.onnx", sorted((tmp_path / "pictures").iterdir()))
    predictor = Predictor(tmp_path / "int8.onnx")
    assert predictor.metadata == dataclasses.replace(model.metadata, precision="int8")
    found, expected = (each(tmp_path / "pictures/0.png") for each in (predictor, Predictor(path)))
    assert found.keys() == expected.keys()
    if "label_map" in found:
        assert (found["label_map"] == expected["label_map"]).mean() > 0.8
    else:
        assert len(found["scores"]) > 0


@pytest.mark.parametrize(
    ("name", "settings", "options"),
    [
        ("mask_rcnn", {}, {}),
        ("mask_rcnn", {"model__test_cfg__rcnn__score_thr": 1.0}, {}),
        ("upernet", {}, dict(labels=True)),
        ("upernet", {}, dict(half=True)),
    ],
    ids=["detector", "no detections", "labels", "half"],
)
def test_one_size(name, settings, options, tmp_path):
    """Pictures are filled up; what lies beyond their own ``sizes`` counts for nothing."""
    cfg = exportable.config(name, **settings)
    checkpoint = exportable.save(cfg, tmp_path / "model.pth")
    path = tmp_path / "model.onnx"
    request = Request("mine", checkpoint, path, fixed_hw=(96, 128), **options)
    lines = list(export(exportable.config(name, **settings), request))
    written = onnx.load(path)
    assert [(value.name, axes(value)) for value in written.graph.input] == [
        *[("images", ["N", 3, 96, 128]), ("sizes", ["N", 2])]
    ]
    assert all(axes(value)[0] == "N" for value in written.graph.output)
    model = load(cfg, checkpoint, "mine", (96, 128), options.get("labels", False))
    if options.get("half"):
        assert Predictor(path).metadata.precision == "fp16" and sum("check" in line for line in lines) == 3
        return
    inputs = [*pictures(1, (96, 128)), *pictures(3, (96, 128))]
    for engine in ("onnxruntime", "openvino"):
        pytest.importorskip(engine)
        same(model, engine, path, inputs)
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 128), np.uint8)
    noise[:, :, :60, :90] = inputs[0][:, :, :60, :90]
    runs = [open_model(path).run(images, np.array([[60, 90]])) for images in (inputs[0], noise)]
    for output, values in runs[0].items():
        inside = values[..., :60, :90] if output in ("logits", "labels") and values.ndim > 2 else values
        again = runs[1][output][..., :60, :90] if inside.shape != values.shape else runs[1][output]
        assert np.array_equal(inside, again), output
    if "score_thr" in str(settings):
        assert not runs[0]["count"].any() and not runs[0]["boxes"].any()


def test_a_wrong_weight_of_a_whole_model_names_its_module(tmp_path):
    cfg = exportable.config("mask_rcnn")
    checkpoint = exportable.save(cfg, tmp_path / "model.pth")
    model = load(cfg, checkpoint, "mine", (96, 128))
    proto = to_onnx(model)
    produced = values_by_module(proto)
    for module in ("model.backbone.downsample_layers.1.1", "model.neck.lateral_convs.1.conv"):
        save(tampered(proto, f"{module}.weight"), tmp_path / "m.onnx")
        with pytest.raises(UserError, match=f"the first module that differs is {re.escape(module)}\\."):
            list(checked(model, tmp_path / "m.onnx", produced, exact=True))
