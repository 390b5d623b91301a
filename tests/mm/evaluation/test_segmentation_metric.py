"""mIoU, mAcc, aAcc and the classes' table, as ``tools/test.py`` prints them, against a confusion matrix."""

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import METRICS, MODELS, init_default_scope
from PIL import Image
from repository import ROOT
from waiting import HANGS

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmseg is imported)
from convnext_dense.data.synthetic import SEGMENTATION_CLASSES, make_shapes

IGNORED = 255


def confusion(labels: list[np.ndarray], predictions: list[np.ndarray], classes: int) -> np.ndarray:
    """(truth, prediction) counts of the pixels that are not ignored."""
    matrix = np.zeros((classes, classes), np.int64)
    for label, prediction in zip(labels, predictions, strict=True):
        valid = label != IGNORED
        np.add.at(matrix, (label[valid], prediction[valid]), 1)
    return matrix


def scores(matrix: np.ndarray) -> dict[str, np.ndarray | float]:
    """IoU and accuracy of each class, their means over classes that occur, accuracy of all pixels (%)."""
    hits, truth, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):
        iou, accuracy = hits / (truth + predicted - hits), hits / truth
    return dict(
        IoU=100 * iou,
        Acc=100 * accuracy,
        mIoU=100 * np.nanmean(iou),
        mAcc=100 * np.nanmean(accuracy),
        aAcc=100 * hits.sum() / matrix.sum(),
    )


def table(text: str) -> dict[str, list[float]]:
    """Rows of the printed table: class -> [IoU, Acc]."""
    rows = re.findall(
        r"^\|\s*(\w[\w ]*?)\s*\|\s*([\d.]+|nan)\s*\|\s*([\d.]+|nan)\s*\|\s*$", text, re.MULTILINE
    )
    return {name: [float(iou), float(accuracy)] for name, iou, accuracy in rows}


def evaluate(labels, predictions, names) -> tuple[dict, dict[str, list[float]]]:
    """Metrics and printed table of the evaluator that the recipes name."""
    init_default_scope("mmseg")
    metric = METRICS.build(dict(type="IoUMetric", iou_metrics=["mIoU"]))
    metric.dataset_meta = dict(classes=names)
    for label, prediction in zip(labels, predictions, strict=True):
        maps = (("gt_sem_seg", label), ("pred_sem_seg", prediction))
        metric.process({}, [{key: dict(data=torch.from_numpy(value)[None]) for key, value in maps}])
    printed = io.StringIO()
    logger, handler = MMLogger.get_instance("metric", log_level="INFO"), logging.StreamHandler(printed)
    logger.addHandler(handler)
    found = metric.evaluate(len(labels))
    logger.removeHandler(handler)
    return found, table(printed.getvalue())


def assert_equal(found: dict, rows: dict[str, list[float]], expected: dict, names: tuple[str, ...]) -> None:
    for key in ("mIoU", "mAcc", "aAcc"):
        assert float(found[key]) == pytest.approx(expected[key], abs=0.0051), key  # printed with two decimals
    assert list(rows) == list(names)
    for i, name in enumerate(names):
        row = [expected["IoU"][i], expected["Acc"][i]]
        assert rows[name] == pytest.approx(row, abs=0.0051, nan_ok=True), name


def disturbed(label: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """The label map shifted, with a tenth of its pixels at random."""
    prediction = np.roll(label, rng.integers(-6, 7, 2), (0, 1)).astype(np.int64)
    wrong = (rng.random(label.shape) < 0.1) | (prediction >= classes)
    prediction[wrong] = rng.integers(0, classes, wrong.sum())
    return prediction


def test_synthetic_labels():
    rng = np.random.default_rng(0)
    names = ("sky", "road", "tree", "never there", "car")
    labels = [rng.choice([0, 1, 2, 4, IGNORED], (6, 9)).repeat(8, 0).repeat(8, 1) for _ in range(4)]
    predictions = [disturbed(label, 5, rng) for label in labels]
    for prediction in predictions:
        prediction[prediction == 3] = 0
    found, rows = evaluate(labels, predictions, names)
    expected = scores(confusion(labels, predictions, 5))
    assert np.isnan(expected["IoU"][3]), "a class that never occurs counts in no mean"
    assert 30 < expected["mIoU"] < 90
    assert_equal(found, rows, expected, names)


def test_perfect_and_constant_predictions():
    label = np.repeat([0, 1, 1, 1], 5)[None].repeat(7, 0)
    found, _ = evaluate([label], [label], ("a", "b"))
    assert (found["mIoU"], found["mAcc"], found["aAcc"]) == (100, 100, 100)
    found, rows = evaluate([label], [np.ones_like(label)], ("a", "b"))
    assert (found["mIoU"], found["mAcc"], found["aAcc"]) == (37.5, 50, 75)
    assert rows == dict(a=[0, 0], b=[75, 100])


@pytest.fixture
def camvid() -> Path:
    """Label maps of street scenes; skips the test where there are none."""
    shared = Path(os.environ.get("CONVNEXT_DENSE_SHARED", ROOT.parent / "shared"))
    folder = shared / "data/camvid_tiny/annotations/validation"
    if not folder.is_dir():
        pytest.skip("no street scenes: set CONVNEXT_DENSE_SHARED to a folder with data/camvid_tiny")
    return folder


def test_street_scenes(camvid):
    streets = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree")
    names = (*streets, "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist")
    labels = [np.asarray(Image.open(path)).astype(np.int64) for path in sorted(camvid.iterdir())]
    for label in labels:
        label[label == 11] = IGNORED  # unlabelled
        assert set(np.unique(label)) <= {*range(11), IGNORED}
    rng = np.random.default_rng(1)
    predictions = [disturbed(label, 11, rng) for label in labels]
    found, rows = evaluate(labels, predictions, names)
    assert_equal(found, rows, scores(confusion(labels, predictions, 11)), names)


def varied(model):
    """The random model with logits of zero mean and unit variance per class, so that none is everywhere."""
    conv = model.decode_head.conv_seg
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        image = torch.randn(1, 3, 96, 96, generator=generator)
        std, mean = torch.std_mean(model.encode_decode(image, [dict(img_shape=(96, 96))]), (0, 2, 3))
        conv.bias.copy_((conv.bias - mean) / std)
        conv.weight.div_(std[:, None, None, None])
    return model


def test_the_command_line_prints_them(tmp_path):
    """A random model by sliding windows: the label maps that it writes give the numbers that it prints."""
    make_shapes(tmp_path / "shapes", train=1, val=3, size=96)
    cfg = Config.fromfile(ROOT / "configs/demo/upernet_shapes.py")
    init_default_scope(cfg.default_scope)
    torch.manual_seed(1)
    model = MODELS.build(cfg.model).eval()
    model.init_weights()
    varied(model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / "random.pth")
    command = [
        sys.executable,
        str(ROOT / "tools/test.py"),
        "demo/upernet_shapes",
        "random.pth",
        "--window-batch",
        "3",
    ]
    command += ["--data-root", "shapes/ade20k", "--out", "m.json", "--cfg-options"]
    command += ["test_evaluator.output_dir=maps", "model.test_cfg.mode=slide"]
    command += ["model.test_cfg.crop_size=(64,64)", "model.test_cfg.stride=(40,40)"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=HANGS)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "windows of 64x64 pixels; batch: 3" in output

    # on disk 0 is "no label", so both sides lose one
    truth = sorted((tmp_path / "shapes/ade20k/annotations/validation").iterdir())
    labels = [np.asarray(Image.open(path)).astype(np.int64) - 1 for path in truth]
    predictions = [
        np.asarray(Image.open(tmp_path / "maps" / path.name)).astype(np.int64) - 1 for path in truth
    ]
    for label in labels:
        label[label < 0] = IGNORED
    assert len(truth) == 3
    assert len(np.unique(predictions)) > 1
    expected = scores(confusion(labels, predictions, len(SEGMENTATION_CLASSES)))
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert_equal(metrics, table(output), expected, SEGMENTATION_CLASSES)
    for key in ("mIoU", "mAcc", "aAcc"):
        assert re.search(rf"^{key} +- +{metrics[key]:.2f} +-", output, re.MULTILINE)


def test_a_window_batch_of_nothing_is_refused(tmp_path):
    command = [sys.executable, str(ROOT / "tools/test.py"), "any", "any.pth", "--window-batch", "0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 2
    assert "'0' is not a whole number above 0" in done.stderr
