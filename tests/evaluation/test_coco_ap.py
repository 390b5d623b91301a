"""COCO's figures by both evaluators against pycocotools itself."""

import contextlib
import io
import json

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convnext_dense.evaluation import coco_ap
from convnext_dense.evaluation.coco_ap import (
    available_evaluators,
    average_precision,
    coco_metrics,
    load_evaluator,
)

CATEGORIES = [dict(id=7, name="cat"), dict(id=3, name="dog"), dict(id=90, name="bus")]  # not sorted by id


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """(annotation file, detections): thirty images of rotated boxes, a crowd in every fifth one."""
    rng = np.random.default_rng(0)
    images = [dict(id=i, file_name=f"{i}.jpg", width=200, height=150) for i in range(1, 31)]
    annotations, detections = [], []
    for image in images:
        for number in range(6):
            x, y, w, h = (float(v) for v in (*rng.uniform(0, 70, 2), *rng.uniform(6, 125, 2)))
            h = min(h, 149 - y)
            mask = np.zeros((150, 200), np.uint8)
            mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
            if number % 2:
                mask[int(y) : int(y + h / 2), int(x) : int(x + w / 2)] = 0
            if not mask.any():
                continue
            code = rle.encode(np.asfortranarray(mask))
            crowd = int(image["id"] % 5 == 0 and number == 0)
            category = int(rng.choice([7, 3, 90]))
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image["id"],
                    category_id=category,
                    bbox=[x, y, w, h],
                    area=float(mask.sum()),
                    iscrowd=crowd,
                    segmentation=dict(size=code["size"], counts=code["counts"].decode()),
                )
            )
            for _ in range(3):
                moved = np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
                code = rle.encode(np.asfortranarray(moved))
                box = np.array([x, y, w, h]) + rng.normal(0, 0.08, 4) * [w, h, w, h]
                found = dict(image_id=image["id"], score=float(rng.random()), bbox=[float(v) for v in box])
                found["category_id"] = category if rng.random() < 0.8 else int(rng.choice([7, 3, 90]))
                found["segmentation"] = dict(size=code["size"], counts=code["counts"].decode())
                detections.append(found)
    path = tmp_path_factory.mktemp("coco") / "annotations.json"
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=CATEGORIES)))
    return path, detections


def reference(path, detections: list[dict], kind: str, images=None, categories=None) -> np.ndarray:
    """The first six statistics that pycocotools prints, in percent."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        drop = "bbox" if kind == "segm" else "segmentation"
        found = truth.loadRes([{k: v for k, v in d.items() if k != drop} for d in detections])
        judge = COCOeval(truth, found, kind)
        if images:
            judge.params.imgIds = images
        if categories:
            judge.params.catIds = categories
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return 100 * judge.stats[:6]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_figures_are_those_of_pycocotools(scene, kind):
    path, detections = scene
    metrics = coco_metrics({kind: average_precision(path, detections, kind)})
    expected = reference(path, detections, kind)
    assert 5 < expected[0] < 95
    np.testing.assert_allclose(list(metrics.values()), expected, atol=1e-10)
    name = {"bbox": "box", "segm": "mask"}[kind]
    assert list(metrics) == [
        f"{name} {t}" for t in ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")
    ]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_faster_evaluator_gives_the_same_precisions(scene, kind):
    pytest.importorskip("faster_coco_eval")
    path, detections = scene
    slow = average_precision(path, detections, kind)
    fast = average_precision(path, detections, kind, "faster-coco-eval")
    assert slow.classes == fast.classes
    np.testing.assert_allclose(slow.values, fast.values, atol=1e-12)
    few = [detection for detection in detections if detection["image_id"] < 9]
    some = dict(classes=["bus", "cat"], images=list(range(1, 9)))
    slow = average_precision(path, few, kind, **some)
    fast = average_precision(path, few, kind, "faster-coco-eval", **some)
    np.testing.assert_allclose(slow.values, fast.values, atol=1e-12)


def test_classes_keep_the_order_of_the_file(scene):
    path, detections = scene
    precision = average_precision(path, detections, "bbox")
    assert precision.classes == ("cat", "dog", "bus")
    for label, category in enumerate((7, 3, 90)):
        expected = reference(path, detections, "bbox", categories=[category])
        assert precision.ap(label=label) == pytest.approx(expected[0])
        assert precision.ap(0.5, label=label) == pytest.approx(expected[1])


def test_part_of_classes_and_images(scene):
    path, detections = scene
    few = [detection for detection in detections if detection["image_id"] in (2, 3)]
    precision = average_precision(path, few, "bbox", classes=["bus", "cat"], images=[2, 3])
    assert precision.classes == ("cat", "bus")
    assert precision.ap() == pytest.approx(reference(path, few, "bbox", [2, 3], [7, 90])[0])


@pytest.mark.parametrize("evaluator", available_evaluators())
def test_nothing_found_is_zero_and_not_an_error(scene, evaluator):
    assert average_precision(scene[0], [], "segm", evaluator).ap() == 0


def test_a_curve_is_the_mean_of_the_classes(scene):
    precision = average_precision(*scene, "bbox")
    curve = precision.curve(0.5)
    assert curve.shape == (101,) and curve.mean() * 100 == pytest.approx(precision.ap(0.5))
    assert (np.diff(curve) <= 1e-12).all()
    empty = coco_ap.Precision(("x",), np.full((10, 101, 1, 4), -1.0))
    assert empty.curve() is None and np.isnan(empty.ap())
    assert coco_metrics({"bbox": empty}) == {}


def test_wrong_and_absent_evaluators_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"use one of \('pycocotools', 'faster-coco-eval'\)"):
        load_evaluator("coco")
    monkeypatch.setattr(coco_ap, "available_evaluators", lambda: ("pycocotools",))
    with pytest.raises(ValueError, match="pip install faster-coco-eval"):
        load_evaluator("faster-coco-eval")
