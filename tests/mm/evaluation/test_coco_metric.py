"""The COCO evaluator of the recipes against pycocotools on the same detections."""

import json
import random

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS, init_default_scope
from published import coco_tiny, config
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import convnext_dense.mm  # noqa: F401  (puts the ops in place before mmdet is imported)

MISSING_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # COCO's 80 categories are numbered 1 to 90


def class_names() -> tuple[str, ...]:
    from mmdet.datasets import CocoDataset

    return CocoDataset.METAINFO["classes"]


def synthetic_coco(path) -> None:
    """Ten images with rectangles and triangles of three categories."""
    rng = random.Random(0)
    ids = [i for i in range(1, 91) if i not in MISSING_IDS]
    categories = [dict(id=i, name=name) for i, name in zip(ids, class_names(), strict=True)]
    annotations = []
    for image_id in range(1, 11):
        for number in range(5):
            x, y, w, h = rng.uniform(0, 120), rng.uniform(0, 90), rng.uniform(5, 75), rng.uniform(5, 55)
            polygon = [x, y, x + w, y, x + w, y + h] + ([x, y + h] if number % 2 else [])
            annotation = dict(id=len(annotations) + 1, image_id=image_id, category_id=rng.choice([1, 3, 90]))
            annotation.update(bbox=[x, y, w, h], area=w * h, iscrowd=0, segmentation=[polygon])
            annotations.append(annotation)
    images = [dict(id=i, file_name=f"{i}.jpg", width=200, height=150) for i in range(1, 11)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def perturbed(truth: COCO, image_id: int, rng: np.random.Generator) -> list[dict]:
    """The image's objects with boxes and masks moved a little, a score, and some of them missed."""
    detections = []
    for annotation in truth.imgToAnns[image_id]:
        if annotation["iscrowd"] or rng.random() < 0.15:
            continue
        x, y, w, h = annotation["bbox"]
        box = np.array([x, y, x + w, y + h]) + rng.normal(0, 0.08, 4) * [w, h, w, h]
        mask = np.roll(truth.annToMask(annotation), rng.integers(-4, 5, 2), (0, 1))
        detections.append(
            dict(
                category_id=annotation["category_id"],
                box=box.astype(np.float32),
                mask=np.asfortranarray(mask, np.uint8),
                score=np.float32(rng.random()),
            )
        )
    return detections


def as_results(image_id: int, detections: list[dict], kind: str) -> list[dict]:
    """Detections in COCO's result format, written without mmdet."""
    results = []
    for detection in detections:
        result = dict(
            image_id=image_id, category_id=detection["category_id"], score=float(detection["score"])
        )
        if kind == "bbox":
            x1, y1, x2, y2 = detection["box"].tolist()
            result["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        else:
            result["segmentation"] = rle.encode(detection["mask"])
        results.append(result)
    return results


def as_sample(image: dict, detections: list[dict], truth: COCO) -> dict:
    """Detections as a detector returns them."""
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    labels = [class_names().index(names[detection["category_id"]]) for detection in detections]
    shape = (image["height"], image["width"])
    instances = dict(
        bboxes=torch.tensor(np.array([d["box"] for d in detections])).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
        scores=torch.tensor(np.array([d["score"] for d in detections])),
        masks=torch.tensor(np.array([d["mask"] for d in detections])).reshape(-1, *shape).bool(),
    )
    return dict(img_id=image["id"], ori_shape=shape, pred_instances=instances)


def pycocotools_scores(truth: COCO, results: list[dict], kind: str) -> list[float]:
    """AP, AP50, AP75, AP of small, medium and large objects, to three decimals."""
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.params.maxDets = [100, 300, 1000]  # mmdet's; each image here has fewer than 100
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [round(value, 3) for value in evaluation.stats[:6].tolist()]


@pytest.mark.parametrize("source", ["synthetic", "real"])
def test_perturbed_ground_truth_scores_what_pycocotools_scores(source, tmp_path):
    init_default_scope("mmdet")
    if source == "real":
        annotation_file = coco_tiny() / "annotations" / "instances_val2017.json"
    else:
        annotation_file = tmp_path / "annotations.json"
        synthetic_coco(annotation_file)
    truth = COCO(str(annotation_file))
    evaluator = config("mask_rcnn/convnext_t_3x").val_evaluator
    evaluator.update(ann_file=str(annotation_file), outfile_prefix=str(tmp_path / "ours"))
    metric = METRICS.build(evaluator)
    metric.dataset_meta = dict(classes=class_names())

    rng = np.random.default_rng(0)
    images = truth.dataset["images"]
    detections = {image["id"]: perturbed(truth, image["id"], rng) for image in images}
    for image in images:
        metric.process({}, [as_sample(image, detections[image["id"]], truth)])
    ours = metric.evaluate(len(images))

    for kind in ("bbox", "segm"):
        reported = [ours[f"coco/{kind}_mAP{suffix}"] for suffix in ("", "_50", "_75", "_s", "_m", "_l")]
        assert 0.1 < reported[0] < 0.95
        results = [result for i, found in detections.items() for result in as_results(i, found, kind)]
        assert pycocotools_scores(truth, results, kind) == reported
        written = json.loads((tmp_path / f"ours.{kind}.json").read_text())
        if kind == "segm":  # with a box pycocotools would sort objects by its size, not by that of the mask
            written = [{key: value for key, value in result.items() if key != "bbox"} for result in written]
        assert pycocotools_scores(truth, written, kind) == reported
