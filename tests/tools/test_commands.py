"""The command lines end to end on synthetic shapes: train, resume, test, predict, and their errors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published import run_command
from repository import ROOT
from waiting import HANGS

from convnext_dense.data.synthetic import make_shapes
from convnext_dense.evaluation.folder import Evaluation
from convnext_dense.results.records import read_records

RECIPES = {
    "det": ("demo/mask_rcnn_shapes", "coco", "coco/segm_mAP_50"),
    "seg": ("demo/upernet_shapes", "ade20k", "mIoU"),
}
SHORT = ("default_hooks.logger.interval=1", "default_hooks.checkpoint.interval=2")


def run(tool: str, *args: object, cwd: Path, status: int = 0) -> str:
    """Output of a tool, run from ``cwd``; checks its exit status."""
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=HANGS)
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    return output


def limits(iterations: int) -> tuple[str, ...]:
    return (
        "--cfg-options",
        f"train_cfg.max_iters={iterations}",
        f"train_cfg.val_interval={iterations}",
        *SHORT,
    )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, train=16, val=3, size=96)
    return root


@pytest.fixture(scope="module", params=list(RECIPES))
def trained(request, shapes, tmp_path_factory):
    """(recipe, data root, metric, folder, output of a two-iteration training)."""
    recipe, layout, metric = RECIPES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    data = shapes / layout
    output = run(
        "train", recipe, "--data-root", data, "--work-dir", "run", "--seed", 3, *limits(2), cwd=folder
    )
    return recipe, data, metric, folder, output


def test_training_says_what_matters_and_logs(trained):
    recipe, _, metric, folder, output = trained
    assert f"{recipe}.py" in output
    assert "batch: 4 images per step (1 process x 4); learning rate" in output
    assert "device: cpu" in output
    assert "RoIAlign and NMS: " in output
    assert "eta: " in output
    assert (folder / "run/iter_2.pth").is_file()
    (log,) = (folder / "run").glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert records[0]["loss"] > 0
    assert metric in records[-1]
    assert list((folder / "run").glob("*/vis_data/events.out.tfevents.*"))


def test_resume_continues_where_training_stopped(trained, tmp_path):
    recipe, data, _, folder, _ = trained
    shutil.copytree(folder / "run", tmp_path / "run")  # the other tests read it as training left it
    output = run(
        "train", recipe, "--data-root", data, "--work-dir", "run", "--resume", *limits(3), cwd=tmp_path
    )
    assert "resuming from run/iter_2.pth" in output
    assert "Iter(train) [3/3]" in output
    assert "Iter(train) [1/3]" not in output


def test_testing_prints_metrics_and_draws(trained):
    recipe, data, metric, folder, _ = trained
    options = ("--data-root", data, "--out", "m.json", "--show-dir", "pictures", "--score-thr", 0.01)
    output = run("test", recipe, "run/iter_2.pth", *options, cwd=folder)
    metrics = json.loads((folder / "m.json").read_text())
    name = {"coco/segm_mAP_50": "mask AP50", "mIoU": "mIoU"}[metric]
    assert 0 <= metrics[name] <= 100
    assert f"\n{name} " in output
    (record,) = read_records(folder / "results", "accuracy")
    assert record["metrics"] == metrics
    (evaluation,) = (folder / "work_dirs").rglob("evaluation.json")
    assert Evaluation.load(evaluation.parent).record == record
    pictures = sorted((folder / "pictures").iterdir())
    assert len(pictures) == 3
    height, width, _ = np.asarray(Image.open(pictures[0]).convert("RGB")).shape
    assert width == 2 * height, "ground truth and prediction side by side"


def test_predicting_on_own_images(trained, tmp_path):
    recipe, _, _, folder, _ = trained
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)).save(
        tmp_path / "mine.jpg"
    )
    (tmp_path / "broken.png").write_bytes(b"no image")
    output = run("predict", recipe, folder / "run/iter_2.pth", tmp_path, "--score-thr", 0.01, cwd=tmp_path)
    assert "left out" in output
    assert "broken.png" in output and "not an image file" in output
    results = json.loads((tmp_path / "predictions/predictions.json").read_text())
    (found,) = results.values()
    assert Image.open(tmp_path / "predictions/mine.png").size == (90, 70)
    if "upernet" in recipe:
        labels = np.asarray(Image.open(tmp_path / "predictions/mine_labels.png"))
        assert labels.shape == (70, 90)
        assert sum(found.values()) == pytest.approx(1, abs=1e-3)
    else:
        assert all(entry["segmentation"]["size"] == [70, 90] and entry["score"] >= 0.01 for entry in found)


def test_errors_are_one_line_with_the_remedy(trained, tmp_path, monkeypatch):
    recipe, data, _, folder, _ = trained
    checkpoint = folder / "run/iter_2.pth"
    monkeypatch.chdir(tmp_path)

    def refused(name: str, *arguments: object) -> str:
        done = run_command(name, *map(str, arguments))
        assert done.returncode == 2, done.stderr
        return done.stderr

    output = refused("train", recipe, "--data-root", "nowhere", "--device", "cpu")
    assert "error: no dataset at nowhere/" in output
    assert "--data-root" in output
    output = run("train", recipe, "--data-root", data, "--pretrained", "absent.pth", cwd=tmp_path, status=2)
    assert "error: no checkpoint at absent.pth" in output
    assert "--pretrained none" in output
    other = next(name for name, _, _ in RECIPES.values() if name != recipe)
    output = refused("predict", other, checkpoint, tmp_path / "x.jpg")
    assert "no image or folder at" in output
    Image.new("RGB", (64, 64)).save(tmp_path / "x.jpg")
    output = refused("predict", other, checkpoint, tmp_path / "x.jpg")
    assert "does not fit this config's model" in output
    assert "Traceback" not in output
