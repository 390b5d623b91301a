"""Small evaluations with images on disk, for tests of pictures and pages."""

import json
from pathlib import Path

import cv2
import numpy as np

from convnext_dense.evaluation.coco_ap import average_precision, coco_metrics
from convnext_dense.evaluation.folder import (
    Evaluation,
    count_pixels,
    detection_classes,
    segmentation_classes,
    segmentation_metrics,
)

PART = dict(name="mine (not the paper's)", images=30, classes=2, objects=30, full=False)
CLASSES = ("cat", "<b>dog</b>")  # names are the user's and may hold anything


def record(config: str, metrics: dict, data: dict = PART, row: str | None = None) -> dict:
    return dict(
        kind="accuracy", row=row, config=config, checkpoint=dict(name="last.pth", hash="0"), tta=False,
        dataset=data, metrics=metrics, time="2026-01-02T03:04:05+00:00", seconds=1.0, device="cpu",
        ops="portable", versions={"torch": "2"},
    )  # fmt: skip


def detection(folder: Path, images: int = 30, full: bool = False) -> Evaluation:
    """One object per image; each image's detection is a little further off than the one before."""
    (folder / "images").mkdir(parents=True)
    annotations, found = [], []
    for i in range(images):
        picture = np.full((60, 80, 3), 40 + i, np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i:03d}.png"), picture)
        box = [10.0, 10.0, 40.0, 30.0]
        x, y, w, h = box
        polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotation = dict(id=i + 1, image_id=i, category_id=1 + i % 2, bbox=box, area=w * h, iscrowd=0)
        annotations.append({**annotation, "segmentation": polygon})
        moved = [x + 0.7 * i, y, w, h]
        found.append(dict(image_id=i, category_id=1 + i % 2, bbox=moved, score=0.9 - 0.01 * i))
    names = [dict(id=1, name=CLASSES[0]), dict(id=2, name=CLASSES[1])]
    entries = [dict(id=i, file_name=f"{i:03d}.png", width=80, height=60) for i in range(images)]
    path = folder / "annotations.json"
    path.write_text(json.dumps(dict(images=entries, annotations=annotations, categories=names)))
    (folder / "bbox.json").write_text(json.dumps(found))
    precisions = {"bbox": average_precision(path, found, "bbox")}
    data = dict(name="COCO val2017", images=5000, classes=80, objects=36781, full=True) if full else PART
    row = "mask_rcnn/convnext_t_3x" if full else None
    evaluation = Evaluation(
        folder=folder, task="detection", classes=CLASSES, images=str(folder / "images"),
        annotations=str(path), record=record("mine", coco_metrics(precisions), data, row),
        per_class=detection_classes(precisions),
        arrays={"bbox": precisions["bbox"].values},
    )  # fmt: skip
    evaluation.save()
    return evaluation


def segmentation(folder: Path, images: int = 26) -> Evaluation:
    """Two halves per image; the predicted boundary is one pixel further off in each image."""
    scenes, total = [], np.zeros((3, 3), int)
    for name in ("images", "truth", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(images):
        picture = np.full((40, 60, 3), 128, np.uint8)
        truth, found = np.zeros((2, 40, 60), np.uint8)
        truth[:, 30:] = 1
        truth[:5] = 255
        found[:, 30 + i :] = 1
        paths = [
            folder / "images" / f"{i}.png",
            folder / "truth" / f"{i}.png",
            folder / "labels" / f"{i}.png",
        ]
        for path, content in zip(paths, (picture, truth, found), strict=True):
            cv2.imwrite(str(path), content)
        counts = count_pixels(truth, found, 3, 255)
        total += counts
        figures = segmentation_metrics(counts)
        scenes.append(
            dict(image=str(paths[0]), truth=str(paths[1]), prediction=f"labels/{i}.png", miou=figures["mIoU"])
        )
    classes = ("wall", "floor", "never")
    evaluation = Evaluation(
        folder=folder, task="segmentation", classes=classes, images=str(folder / "images"),
        annotations=str(folder / "truth"), record=record("mine", segmentation_metrics(total)),
        per_class=segmentation_classes(total, classes), scenes=tuple(scenes), arrays=dict(confusion=total),
    )  # fmt: skip
    evaluation.save()
    return evaluation
