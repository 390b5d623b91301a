"""What a detector gets wrong: matches, confusions, and the mistakes with the highest scores.

Detections and objects of an image are matched in two rounds, best score first: with an object of the same
class, then with any object that is left. An IoU of 0.5 or more counts.
"""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

Kind = Literal["class", "duplicate", "location", "background", "missed"]

MATCH = 0.5  # least IoU of a match
NEAR = 0.1  # below this a detection has nothing to do with an object
SCORE = 0.3  # detections below are ignored

EXPLAINED = {
    "class": "another class",
    "duplicate": "found already",
    "location": "wrong place",
    "background": "nothing there",
    "missed": "not found",
}


class Objects(NamedTuple):
    """Objects or detections of one image.

    Attributes:
        labels: (n,) index of the class.
        boxes: (n, 4) x, y, width, height in pixels.
        masks: n run-length codes, or ``None``.
        scores: (n,), 1 for objects.
        crowd: (n,) whether it is a crowd, in which detections do not count.
    """

    labels: np.ndarray
    boxes: np.ndarray
    masks: list[dict] | None
    scores: np.ndarray
    crowd: np.ndarray


class Mistake(NamedTuple):
    """One detection that is wrong, or one object that was not found.

    Attributes:
        image_id: COCO's image id.
        label, box, score: values of the detection; for a missed object ``None``, its box and 0.
        truth, truth_box, iou: the object that overlaps most, or ``None``, ``None`` and its IoU.
    """

    image_id: int
    kind: Kind
    label: int | None
    box: tuple[float, ...]
    score: float
    truth: int | None
    truth_box: tuple[float, ...] | None
    iou: float


class Scenes(NamedTuple):
    """Images of a detection set with their objects and detections.

    Attributes:
        classes: names by label.
        files: image id -> file name.
        wh: image id -> (width, height) that the image was annotated at, ``None`` if it is not given.
        truths, found: image id -> objects.
    """

    classes: tuple[str, ...]
    files: dict[int, str]
    wh: dict[int, tuple[int, int] | None]
    truths: dict[int, Objects]
    found: dict[int, Objects]


def read_scenes(
    annotations: str | Path, detections: Iterable[Mapping], classes: Sequence[str], score: float = SCORE
) -> Scenes:
    """Annotations in COCO's format and detections in its result format, by image.

    Args:
        annotations: annotation file.
        detections: those below ``score`` are left out; either all have a mask or none.
        classes: names of the categories that count; labels follow their order.
        score: least score.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(annotations))
    numbers = {c["id"]: classes.index(c["name"]) for c in coco.dataset["categories"] if c["name"] in classes}
    truths = {
        image_id: _objects([(a, _mask(coco, a)) for a in coco.imgToAnns[image_id]], numbers)
        for image_id in coco.imgs
    }
    by_image: dict[int, list] = {image_id: [] for image_id in coco.imgs}
    for entry in detections:
        if entry["score"] >= score:
            by_image[entry["image_id"]].append((entry, entry.get("segmentation")))
    files = {image_id: image["file_name"] for image_id, image in coco.imgs.items()}
    wh = {
        image_id: (image["width"], image["height"]) if image.get("width") and image.get("height") else None
        for image_id, image in coco.imgs.items()
    }
    found = {image_id: _objects(entries, numbers) for image_id, entries in by_image.items()}
    return Scenes(tuple(classes), files, wh, truths, found)


def _mask(coco: COCO, annotation: Mapping) -> dict | None:
    """Run-length code of an annotation; an absent or empty outline means that it has a box alone."""
    return coco.annToRLE(annotation) if annotation.get("segmentation") else None


def _objects(entries: Iterable[tuple[Mapping, dict | None]], numbers: Mapping[int, int]) -> Objects:
    known = [(entry, mask) for entry, mask in entries if entry["category_id"] in numbers]
    known.sort(key=lambda item: -item[0].get("score", 1.0))
    masks = [mask for _, mask in known if mask is not None]
    return Objects(
        labels=np.array([numbers[e["category_id"]] for e, _ in known], dtype=int),
        boxes=np.array([e["bbox"] for e, _ in known], dtype=float).reshape(-1, 4),
        masks=masks if len(masks) == len(known) else None,
        scores=np.array([e.get("score", 1.0) for e, _ in known], dtype=float),
        crowd=np.array([e.get("iscrowd", 0) for e, _ in known], dtype=bool),
    )


def overlaps(found: Objects, truth: Objects) -> np.ndarray:
    """(detections, objects) IoU, of masks where both have them; for a crowd, the share inside it."""
    if not len(found.labels) or not len(truth.labels):
        return np.zeros((len(found.labels), len(truth.labels)))
    masks = found.masks is not None and truth.masks is not None
    a, b = (found.masks, truth.masks) if masks else (found.boxes, truth.boxes)
    return np.asarray(coco_mask.iou(a, b, truth.crowd.astype(np.uint8).tolist()))


def match(found: Objects, truth: Objects) -> tuple[np.ndarray, np.ndarray]:
    """Object of each detection: (n,) its index or -1, and (n,) whether the detection lies in a crowd.

    ``found`` is sorted by falling score.
    """
    iou = overlaps(found, truth)
    partner = np.full(len(found.labels), -1)
    free = ~truth.crowd
    for same_class in (True, False):
        for i in np.flatnonzero(partner < 0):
            fits = free & (iou[i] >= MATCH)
            if same_class:
                fits &= truth.labels == found.labels[i]
            if fits.any():
                partner[i] = int(np.argmax(np.where(fits, iou[i], -1)))
                free[partner[i]] = False
    in_crowd = (
        ((iou >= MATCH) & truth.crowd & (truth.labels == found.labels[:, None])).any(1)
        if len(truth.labels)
        else np.zeros(len(found.labels), dtype=bool)
    )
    return partner, in_crowd & (partner < 0)


def confusion(scenes: Scenes) -> np.ndarray:
    """(classes + 1, classes + 1) counts: true class by found class; the last one means no object."""
    count = len(scenes.classes)
    table = np.zeros((count + 1, count + 1), dtype=int)
    for image_id, truth in scenes.truths.items():
        found = scenes.found[image_id]
        partner, in_crowd = match(found, truth)
        for label, of, crowd in zip(found.labels, partner, in_crowd, strict=True):
            if not crowd:
                table[truth.labels[of] if of >= 0 else count, label] += 1
        for i in set(np.flatnonzero(~truth.crowd).tolist()) - set(partner.tolist()):
            table[truth.labels[i], count] += 1
    return table


def mistakes(scenes: Scenes) -> list[Mistake]:
    """Wrong detections, the highest score first, then missed objects, the largest first."""
    wrong, missed = [], []
    for image_id, truth in scenes.truths.items():
        found = scenes.found[image_id]
        iou = overlaps(found, truth)
        partner, in_crowd = match(found, truth)
        for i, label in enumerate(found.labels):
            hit = partner[i] >= 0 and truth.labels[partner[i]] == label
            if not hit and not in_crowd[i]:
                wrong.append(_mistake(image_id, found, i, truth, iou[i], partner[i]))
        for i in set(np.flatnonzero(~truth.crowd).tolist()) - set(partner.tolist()):
            box = tuple(truth.boxes[i])
            missed.append(Mistake(image_id, "missed", None, box, 0.0, int(truth.labels[i]), box, 0.0))
    wrong.sort(key=lambda mistake: -mistake.score)
    missed.sort(key=lambda mistake: -mistake.box[2] * mistake.box[3])
    return wrong + missed


def _mistake(image_id: int, found: Objects, i: int, truth: Objects, iou: np.ndarray, partner: int) -> Mistake:
    label = int(found.labels[i])
    iou = np.where(truth.crowd, 0, iou)
    nearest = int(np.argmax(iou)) if len(iou) else -1
    same = np.where(truth.labels == label, iou, 0) if len(iou) else np.zeros(1)
    kind: Kind
    if partner >= 0:
        kind, nearest = "class", int(partner)
    elif same.max() >= MATCH:
        kind, nearest = "duplicate", int(np.argmax(same))
    elif same.max() >= NEAR:
        kind, nearest = "location", int(np.argmax(same))
    elif nearest >= 0 and iou[nearest] >= MATCH:
        kind = "class"
    else:
        kind = "background"
    near = nearest >= 0 and iou[nearest] >= NEAR
    return Mistake(
        image_id,
        kind,
        label,
        tuple(found.boxes[i]),
        float(found.scores[i]),
        int(truth.labels[nearest]) if near else None,
        tuple(truth.boxes[nearest]) if near else None,
        float(iou[nearest]) if near else 0.0,
    )


def image_quality(found: Objects, truth: Objects) -> float | None:
    """Panoptic quality of one image, in [0, 1]: sum of the matches' IoU / (matches + half the others).

    ``None`` if there is no object and no detection.
    """
    iou = overlaps(found, truth)
    partner, in_crowd = match(found, truth)
    hits = [i for i, of in enumerate(partner) if of >= 0 and truth.labels[of] == found.labels[i]]
    false = len(found.labels) - len(hits) - int(in_crowd.sum())
    missed = int((~truth.crowd).sum()) - len(hits)
    if not hits and not false and not missed:
        return None
    return float(sum(iou[i, partner[i]] for i in hits) / (len(hits) + (false + missed) / 2))
