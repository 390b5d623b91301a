"""`tools/benchmark.py speed`: what is measured, what the records say, and errors in one line."""

import argparse
import json

import pytest
import torch

from convnext_dense.errors import UserError
from convnext_dense.mm.bench import models as mm_models
from convnext_dense.mm.bench import speed as mm_speed
from convnext_dense.mm.bench import speed_command
from convnext_dense.mm.bench.models import spread_boxes
from convnext_dense.mm.bench.speed import Level, arch_of, paper_shape, rival_rows
from convnext_dense.mm.models import backbones
from convnext_dense.models.archs import ARCHS, Arch
from convnext_dense.results import paper

FIELDS = {
    "kind", "contender", "ours", "row", "part", "pass", "height", "width", "batch", "dtype", "compiled",
    "device", "threads", "versions", "repeats", "clock", "median_ms", "low_ms", "high_ms", "cpu_median_ms",
    "cpu_low_ms", "cpu_high_ms", "images_per_second", "ratio", "kept_bytes", "peak_bytes", "time",
}  # fmt: skip


def run(*args: object) -> None:
    parser = argparse.ArgumentParser()
    speed_command.add_speed(parser.add_subparsers())
    parsed = parser.parse_args(["speed", *map(str, args)])
    parsed.run(parsed)


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_backbones_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(ARCHS, "micro", Arch((1, 1, 1, 1), (8, 16, 24, 32)))
    file = tmp_path / "speed.jsonl"
    levels = ("--memory", "plain", "lean", "lean+cp")
    run("micro", "--shape", 64, 96, "--repeats", 2, "--threads", 1, "--bound", *levels, "--json", file)
    by_pass = {"inference": {}, "training": {}}
    for record in records(file):
        assert set(record) >= FIELDS
        assert (record["part"], record["height"], record["width"], record["repeats"]) == (
            "backbone",
            64,
            96,
            2,
        )
        by_pass[record["pass"]][record["contender"]] = record
    assert {"convnext_dense", "facebook", "products alone, as fused"} <= set(by_pass["inference"])
    assert by_pass["inference"]["convnext_dense"]["fused"]
    training = by_pass["training"]
    kept = [training[f"convnext_dense, {name}"]["kept_bytes"] for name in ("plain", "lean", "lean, with_cp")]
    assert kept[0] > kept[1] > kept[2] > 0 and training["facebook"]["kept_bytes"] > kept[0]
    others = [r["cpu_median_ms"] for r in training.values() if not r["ours"]]
    for record in training.values():
        assert record["ratio"] == pytest.approx(record["cpu_median_ms"] / min(others), rel=1e-3)
    printed = capsys.readouterr()
    assert "inference, backbone, 64x96, an image, fp32" in printed.out and "CPU ms" in printed.out
    assert "mmpretrain" in training or "left out mmpretrain: " in printed.err


@pytest.mark.parametrize(("peers", "expected"), [((), set()), (("facebook",), {"facebook"})])
def test_peers_are_those_that_were_named(peers, expected, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHS, "micro", Arch((1, 1, 1, 1), (8, 16, 24, 32)))
    file = tmp_path / "speed.jsonl"
    run("micro", "--pass", "training", "--shape", 64, 64, "--repeats", 1, "--json", file, "--peers", *peers)
    found = records(file)
    assert {record["contender"] for record in found} == {"convnext_dense, lean"} | expected
    assert all((record["ratio"] is None) == (not expected) for record in found)


def test_bytes_alone_need_no_memory(tmp_path):
    file = tmp_path / "speed.jsonl"
    run("tiny", "--pass", "training", "--device", "meta", "--shape", 800, 1280, "--json", file)
    ours = next(record for record in records(file) if record["ours"])
    assert ours["median_ms"] is None and 1050 < ours["kept_bytes"] / 2**20 < 1150


@pytest.mark.parametrize("row", ["demo/mask_rcnn_shapes", "demo/upernet_shapes"])
def test_whole_models(row, tmp_path, monkeypatch):
    monkeypatch.setattr(mm_models, "PROPOSALS", 20)
    monkeypatch.setattr(mm_models, "MASK_ROIS", 5)
    file = tmp_path / "speed.jsonl"
    run(row, "--part", "model", "--shape", 64, 96, "--repeats", 1, "--json", file, "--peers", "stock")
    inference, stock, training, stock_training = records(file)
    assert (inference["part"], inference["row"], inference["contender"]) == ("model", row, row)
    assert inference["fused"] and inference["kept_bytes"] is None and inference["ratio"] > 0
    assert training["memory"] == "lean" and training["kept_bytes"] > 0 and training["median_ms"] > 0
    assert stock["contender"] == stock_training["contender"] == f"{row}, stock"
    assert not stock["ours"] and not stock["fused"] and stock["ratio"] == 1
    assert stock_training["kept_bytes"] > 0 and stock_training["ratio"] == 1


def test_exported_models_in_other_engines(tmp_path):
    pytest.importorskip("onnxscript")
    for engine in ("onnxruntime", "openvino"):
        pytest.importorskip(engine)
    file = tmp_path / "speed.jsonl"
    shape = ("--part", "model", "--pass", "inference", "--shape", 64, 96, "--repeats", 1)
    run("demo/mask_rcnn_shapes", *shape, "--peers", "onnxruntime", "openvino", "--json", file)
    ours, *others = records(file)
    assert ours["ours"] and [other["contender"].split(", ")[1].split()[0] for other in others] == [
        *("onnxruntime", "openvino")
    ]
    assert all(other["median_ms"] > 0 and not other["ours"] for other in others)


@pytest.mark.parametrize("row", ["demo/mask_rcnn_shapes", "demo/upernet_shapes"])
def test_the_stock_model_is_the_same_of_the_toolbox_classes(row):
    ours, stock = mm_models.build_model(row), mm_models.build_model(row, "plain", stock=True)
    own = {type(module).__module__ for module in stock.modules()}
    assert not {name for name in own if name.startswith("convnext_dense.mm")} - {backbones.__name__}
    found, expected = stock.state_dict(), ours.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_detector_has_the_load_of_the_papers_counts():
    model = mm_models.build_model("demo/mask_rcnn_shapes").eval()
    boxes, masks = [], []
    model.roi_head.bbox_head.register_forward_pre_hook(lambda _, args: boxes.append(len(args[0])))
    model.roi_head.mask_head.register_forward_pre_hook(lambda _, args: masks.append(len(args[0])))
    with torch.no_grad():
        found = mm_models.detect(model, torch.randn(2, 3, 64, 96))
    assert boxes == [2000] and masks == [200]
    assert [len(instances.masks) for instances in found] == [100, 100]
    assert found[0].masks.shape[1:] == (64, 96)


def test_boxes_lie_in_the_image_and_stay_the_same():
    image = torch.empty(1, 3, 800, 1280)
    boxes = spread_boxes(1000, image)
    assert torch.equal(boxes, spread_boxes(1000, image))
    assert boxes.min() >= 0 and (boxes[:, 2] <= 1280).all() and (boxes[:, 3] <= 800).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 15).all()


def test_rows_know_size_rivals_and_shape():
    assert rival_rows("cascade/convnext_t_3x") == ["cascade/swin_t_3x", "cascade/resnet50_3x"]
    assert rival_rows("cascade/convnext_b_in22k_3x") == ["cascade/swin_b_in22k_3x"]
    assert rival_rows("upernet/convnext_t_512_160k") == ["upernet/swin_t_512_160k"]
    assert rival_rows("cascade/swin_t_3x") == rival_rows("tiny") == []
    assert arch_of("base") == arch_of("imagenet/convnext_b_384") == arch_of("cascade/convnext_b_3x") == "base"
    assert arch_of("cascade/swin_t_3x") is None
    assert paper_shape("cascade/convnext_t_3x", "training") == (800, 1280)
    assert paper_shape("upernet/convnext_b_in22k_640_160k", "inference") == (640, 2560)
    assert paper_shape("upernet/convnext_b_in22k_640_160k", "training") == (640, 640)
    assert paper_shape("imagenet/convnext_b_384", "inference") == (384, 384)


def test_the_papers_fps_stand_beside_its_own_conditions_alone(monkeypatch):
    small = mm_models.build_model("demo/mask_rcnn_shapes")
    monkeypatch.setattr(mm_speed, "build_model", lambda *args: small)
    row, conditions = "mask_rcnn/convnext_t_3x", mm_speed.Conditions(torch.device("cpu"))
    subject = mm_speed.model_subject(row, "inference", conditions, True)
    assert subject.entries["paper_fps"] == paper.ROWS[row].fps == 25.6
    other = mm_speed.model_subject(row, "inference", conditions._replace(batch=2), True)
    assert other.entries["paper_fps"] is None


def test_levels():
    assert Level.parse("lean") == ("lean", False)
    assert Level.parse("plain+cp") == ("plain", True)
    assert Level.parse("leaner+cp01") == ("leaner", (0, 1))
    for wrong in ("fat", "lean+cp4", "lean+cpx"):
        with pytest.raises(UserError, match="use plain, lean, leaner"):
            Level.parse(wrong)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--device", "tpu"), "use cpu, cuda or meta"),
        (("--device", "meta"), "--part backbone --pass training"),
        (("--batch", 0), "--batch 0: at least 1"),
        (("--repeats", 0), "--repeats 0: at least 1"),
        (("--shape", 16, 64), "at least 32 pixels"),
        (("tiny", "--part", "model"), "tiny is a backbone alone"),
        (("tinyy",), r"arch='tinyy'; use one of .*'tiny'.* a recipe such as"),
        (("cascade/convnext_q_3x",), "no recipe 'cascade/convnext_q_3x'"),
    ],
)
def test_what_cannot_be_measured_is_reported_in_one_line(args, words):
    with pytest.raises(UserError, match=words) as error:
        run(*args)
    assert "\n" not in str(error.value)


def test_compiled_contenders_are_named_so(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda model, **kwargs: made.append(kwargs) or model)
    monkeypatch.setitem(ARCHS, "micro", Arch((1, 1, 1, 1), (8, 16, 24, 32)))
    file = tmp_path / "speed.jsonl"
    run("micro", "--pass", "inference", "--shape", 64, 64, "--repeats", 1, "--compile", "--json", file)
    assert all(record["compiled"] and not record.get("fused") for record in records(file))
    assert len(made) == len(records(file)) >= 2
