"""``convnext-dense export``: errors of one line, and what the other commands make of its file."""

import errno
import json
import sys

import numpy as np
import pytest
from PIL import Image
from published import run_command
from pycocotools import mask as coco_mask

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
import exportable
import onnx_models

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.export import run
from convnext_dense.results.records import read_records

DETECTOR, SEGMENTOR = "demo/mask_rcnn_shapes", "demo/upernet_shapes"
SOFT = "mask_rcnn/convnextv2_atto_3x"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(name: str, *arguments: object) -> str:
    """The line of a command that does not like its arguments."""
    done = run_command(name, *map(str, arguments))
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """Random weights of the demo's detector."""
    return exportable.save(load_config(DETECTOR), tmp_path_factory.mktemp("weights") / "detector.pth")


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ((SOFT, "absent.pth"), "--cfg-options model.test_cfg.rcnn.nms.type=nms"),
        ((DETECTOR, "absent.pth"), "absent.pth"),
        (("absent/config.py", "absent.pth"), "absent/config.py"),
        ((DETECTOR, "absent.pth", "--labels"), "leave out --labels"),
        ((SEGMENTOR, "absent.pth", "--calibration", "."), "--calibration is for --int8"),
        ((SEGMENTOR, "absent.pth", "--size", "0", "64"), "height and width in pixels"),
        ((SEGMENTOR, "absent.pth", "--int8"), "give --data-root, or --calibration FOLDER"),
        ((SEGMENTOR, "absent.pth", "--int8", "--calibration", "."), "no images in ."),
        ((SEGMENTOR, "absent.pth", "--int8", "--calibration", "absent"), "no image or folder at absent"),
    ],
)
def test_the_line_names_the_remedy(arguments, remedy, tmp_path):
    line = refused("export", *arguments, "-o", "m.onnx")
    assert remedy in line
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model(checkpoint, tmp_path):
    line = refused("export", SEGMENTOR, checkpoint, "-o", "m.onnx")
    assert "detector.pth does not fit this config's model" in line
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert "folder is a folder; give a file, such as folder/model.onnx" in refused(
        "export", DETECTOR, checkpoint, "-o", "folder"
    )
    assert "cannot make file" in refused("export", DETECTOR, checkpoint, "-o", "file/m.onnx")
    assert "give m.onnx" in refused("export", DETECTOR, checkpoint, "-o", "m.pth")

    def full(**entries):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run.tempfile, "TemporaryFile", full)
    said = refused("export", DETECTOR, checkpoint, "-o", "folder/m.onnx")
    assert "cannot write to folder (No space left on device); give another folder" in said
    assert "tracing" not in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    line = refused("export", DETECTOR, "absent.pth")
    assert f"export needs {package}" in line and 'pip install "convnext_dense[export]"' in line


def test_options_that_do_not_go_with_a_file(tmp_path):
    """They are refused before the data is looked for."""
    path = onnx_models.detector(tmp_path / "m.onnx", [], [], [])
    Image.new("RGB", (64, 64)).save(tmp_path / "x.jpg")
    for name, arguments in (("test", ()), ("predict", (tmp_path / "x.jpg",))):
        line = refused(name, DETECTOR, path, *arguments, "--dtype", "bf16", "--device", "cpu")
        assert "an exported file has its own precision; export it with --half" in line
    assert "predicts at one scale; test the checkpoint" in refused("test", DETECTOR, path, "--tta")
    line = refused("benchmark", "accuracy", path, "--engine", "onnx")
    assert "no recipe: give the config, and --checkpoint" in line


# ---- from the checkpoint to figures


@pytest.fixture(scope="module", params=[DETECTOR, SEGMENTOR], ids=["detector", "segmentor"])
def exported(request, tmp_path_factory):
    """(recipe, folder of the data, checkpoint, exported file, what the command said)."""
    folder = tmp_path_factory.mktemp("exported")
    make_shapes(folder / "shapes", train=2, val=4, size=96)
    checkpoint = exportable.save(load_config(request.param), folder / "model.pth")
    done = run_command("export", request.param, checkpoint, "-o", str(folder / "model.onnx"))
    assert done.returncode == 0, done.stderr
    layout = "coco" if request.param == DETECTOR else "ade20k"
    return request.param, folder / "shapes" / layout, checkpoint, folder / "model.onnx", done.stdout


def test_the_command_checks_and_writes(exported):
    recipe, _, _, path, said = exported
    lines = said.splitlines()
    assert recipe in lines[0] and sum(line.startswith("check ") for line in lines) == 4
    assert lines[-1].startswith(f"wrote {path}: ") and lines[-1].endswith("ONNX opset 18")
    assert sorted(each.name for each in path.parent.iterdir()) == ["model.onnx", "model.pth", "shapes"]


def test_predictions_are_those_of_the_checkpoint(exported, tmp_path):
    recipe, data, checkpoint, path, _ = exported
    images = next(
        folder for folder in sorted(data.rglob("val*")) if folder.is_dir() and any(folder.glob("*g"))
    )
    found = []
    for name, model in (("a", checkpoint), ("b", path)):
        arguments = (recipe, model, images, "--out", name, "--score-thr", "0.05", "--device", "cpu")
        done = run_command("predict", *map(str, arguments))
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(json.loads((tmp_path / name / "predictions.json").read_text()))
    expected, ours = found
    assert ours.keys() == expected.keys() and len(ours) == 4
    for image, entries in expected.items():
        if recipe == SEGMENTOR:
            assert ours[image] == pytest.approx(entries, abs=1e-3)
            continue
        assert len(entries) > 3
        for a, b in zip(entries, ours[image], strict=True):
            assert b["category_id"] == a["category_id"] and b["category_name"] == a["category_name"]
            assert b["bbox"] == pytest.approx(a["bbox"], abs=0.02)
            assert b["score"] == pytest.approx(a["score"], abs=1e-3)
            masks = [coco_mask.decode(x["segmentation"]) for x in (a, b)]
            assert (masks[0] == masks[1]).mean() > 0.999
    pictures = [sorted(each.name for each in (tmp_path / name).rglob("*")) for name in "ab"]
    assert pictures[0] == pictures[1]
    for name in pictures[0]:
        if name.endswith("_labels.png"):
            one, two = (np.asarray(Image.open(next((tmp_path / x).rglob(name)))) for x in "ab")
            assert (one == two).mean() > 0.999


def test_figures_are_those_of_the_checkpoint(exported, tmp_path):
    recipe, data, checkpoint, path, _ = exported
    for name, model in (("a", checkpoint), ("b", path)):
        arguments = (recipe, model, "--data-root", data, "--out", f"{name}.json", "--results", name)
        done = run_command("test", *map(str, arguments))
        assert done.returncode == 0, done.stdout + done.stderr
    expected, found = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=0.1)
    (record,) = read_records(tmp_path / "b", "accuracy")
    assert record["ops"].startswith("onnxruntime") and record["dtype"] == "fp32"
    done = run_command(
        *("benchmark", "accuracy", str(path), "--engine", "onnx"),
        *("--data-root", str(data), "--results", str(tmp_path / "c")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (again,) = read_records(tmp_path / "c", "accuracy")
    assert again["metrics"] == pytest.approx(record["metrics"]) and again["config"] == recipe
