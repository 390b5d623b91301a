"""Pictures of single predictions: beside their truth, and a detector's mistakes with the highest scores."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from pycocotools import mask as coco_mask

from convnext_dense.data.image_io import load_label_map, load_rgb
from convnext_dense.data.views import load_view
from convnext_dense.errors import ArgumentError, DatasetNotFoundError
from convnext_dense.evaluation.detection_errors import (
    EXPLAINED,
    Mistake,
    Objects,
    Scenes,
    image_quality,
    read_scenes,
)
from convnext_dense.evaluation.folder import Evaluation
from convnext_dense.reports.style import COLOURS

GAP = 6  # pixels between truth and prediction
UNLABELLED = (60, 60, 60)
WRONG = (230, 0, 126)  # not a class colour, and different from grey


class Card(NamedTuple):
    """One image with its prediction.

    Attributes:
        name: file name of the image.
        quality: panoptic quality of detections, or mean IoU of a label map, in percent.
        picture: (H, W, 3) uint8 RGB; truth left, prediction right.
    """

    name: str
    quality: float
    picture: np.ndarray


def class_colours(count: int) -> list[tuple[int, int, int]]:
    """RGB of each class: Okabe and Ito's seven, and for more classes hues that lie far apart."""
    okabe = [(int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)) for text in COLOURS]
    if count <= len(okabe):
        return okabe[:count]
    more = []
    for i in range(count - len(okabe)):
        lightness, saturation = (0.35, 0.5, 0.65)[i % 3], (0.9, 0.6)[i % 2]
        hue = (0.07 + i * 0.61803398875) % 1  # steps of the golden ratio keep hues apart
        r, g, b = colorsys.hls_to_rgb(hue, lightness, saturation)
        more.append((int(255 * r), int(255 * g), int(255 * b)))
    return okabe + more


def _fractions(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    return rgb[0] / 255, rgb[1] / 255, rgb[2] / 255


def best_and_worst(evaluation: Evaluation, count: int = 12) -> tuple[list[Card], list[Card]]:
    """Cards of the best predictions and of the worst ones, best and worst first.

    Images without objects and without detections are in neither list; no image is in both.
    """
    if evaluation.task == "detection":
        scenes = read_scenes(evaluation.annotations, evaluation.detections(), evaluation.classes)
        qualities = {i: image_quality(scenes.found[i], scenes.truths[i]) for i in scenes.truths}
        judged = {i: quality for i, quality in qualities.items() if quality is not None}
        ranked = sorted(judged, key=lambda i: -judged[i])
        cards = {i: (100 * judged[i], lambda i=i: detection_picture(evaluation, scenes, i)) for i in ranked}
        names = scenes.files
    else:
        known = {i: scene for i, scene in enumerate(evaluation.scenes) if scene["miou"] is not None}
        ranked = sorted(known, key=lambda i: -known[i]["miou"])
        cards = {i: (known[i]["miou"], lambda i=i: label_picture(evaluation, known[i])) for i in ranked}
        names = {i: scene_name(evaluation, scene) for i, scene in known.items()}
    half = min(count, len(ranked) // 2) if len(ranked) < 2 * count else count
    best, worst = ranked[: half or 1], ranked[::-1][:half]

    def make(chosen: Sequence[int]) -> list[Card]:
        return [Card(names[i], cards[i][0], cards[i][1]()) for i in chosen]

    return make(best), make(worst)


def scene_name(evaluation: Evaluation, scene: Mapping) -> str:
    """Path of a scene's image below the folder of all images: several folders may have a ``0001.jpg``."""
    return os.path.relpath(scene["image"], evaluation.images)


@contextmanager
def _of_data_set() -> Iterator[None]:
    """Say what to do about a missing file of the data set.

    Raises:
        DatasetNotFoundError: the block found no file.
    """
    try:
        yield
    except DatasetNotFoundError as error:
        raise DatasetNotFoundError(f"{error}: was the data set moved? (--data-root)") from None


def scene_picture(evaluation: Evaluation, scenes: Scenes, image_id: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image, in the orientation of its annotations.

    Raises:
        DatasetNotFoundError: missing.
        PictureError: not a usable picture.
    """
    with _of_data_set():
        path, wh = Path(evaluation.images) / scenes.files[image_id], scenes.wh[image_id]
        return load_view(path, wh) if wh else load_rgb(path)


def shrink(image: np.ndarray, side: int | None, labels: bool = False) -> np.ndarray:
    """(H, W) or (H, W, 3) with its longer side at most ``side`` pixels; labels are not interpolated."""
    if side is None or max(image.shape[:2]) <= side:
        return np.ascontiguousarray(image)
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    how = cv2.INTER_NEAREST if labels else cv2.INTER_AREA
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=how)


# --------------------------------------------------------------------------------------------- detection


def detection_picture(evaluation: Evaluation, scenes: Scenes, image_id: int, side: int = 320) -> np.ndarray:
    """Objects on the left, detections on the right, with masks, boxes, names and scores."""
    image = scene_picture(evaluation, scenes, image_id)
    colours = class_colours(len(scenes.classes))
    halves = [
        draw_objects(image, objects, scenes.classes, colours, side, scores)
        for objects, scores in ((scenes.truths[image_id], False), (scenes.found[image_id], True))
    ]
    return beside(halves)


def draw_objects(
    image: np.ndarray,
    objects: Objects,
    classes: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    side: int,
    scores: bool,
) -> np.ndarray:
    """A copy of ``image`` at most ``side`` pixels long with ``objects`` drawn, the largest first."""
    # small images are enlarged, or the names would cover them
    scale = side / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    canvas = cv2.resize(
        np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    )
    order = np.argsort(-objects.boxes[:, 2] * objects.boxes[:, 3])
    for i in order:
        if objects.masks is not None:
            mask = coco_mask.decode(objects.masks[i])
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(bool)
            canvas[mask] = (0.5 * canvas[mask] + 0.5 * np.array(colours[objects.labels[i]])).astype(np.uint8)
    for i in order:
        x, y, w, h = (round(v * scale) for v in objects.boxes[i])
        colour = colours[objects.labels[i]]
        cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, 2, cv2.LINE_AA)
    for i in order[::-1]:
        x, y, *_ = (round(v * scale) for v in objects.boxes[i])
        name = classes[objects.labels[i]] + (" (crowd)" if objects.crowd[i] else "")
        text = f"{name} {objects.scores[i]:.2f}" if scores else name
        _label(canvas, text, x, y, colours[objects.labels[i]])
    return canvas


def _label(canvas: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Draw text on ``colour`` above (x, y), or below if it would leave the picture."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    (width, height), _ = cv2.getTextSize(text, font, size, 1)
    x = min(max(x, 0), max(canvas.shape[1] - width - 4, 0))
    top = y - height - 6 if y >= height + 6 else y
    cv2.rectangle(canvas, (x, top), (x + width + 4, top + height + 6), colour, -1)
    bright = sum(colour) > 400
    cv2.putText(
        canvas,
        text,
        (x + 2, top + height + 2),
        font,
        size,
        (0, 0, 0) if bright else (255, 255, 255),
        1,
        cv2.LINE_AA,
    )


def beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of the same height in a row, with white between them."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    return np.concatenate(parts, 1)


def draw_mistakes(
    evaluation: Evaluation, scenes: Scenes, wrong: Sequence[Mistake], across: int = 4
) -> Figure:
    """Crops around mistakes: the detection solid, the nearest object dashed.

    Raises:
        ValueError: no mistakes.
    """
    if not wrong:
        raise ArgumentError(
            "no mistakes to draw: every detection above the score is right, and nothing was missed"
        )
    rows = -(-len(wrong) // across)
    figure = Figure(figsize=(2.9 * across, 3.1 * rows), layout="constrained")
    for number, mistake in enumerate(wrong):
        axes = figure.add_subplot(rows, across, number + 1)
        image = scene_picture(evaluation, scenes, mistake.image_id)
        x0, y0, x1, y1 = _window(mistake, image.shape[:2])
        axes.imshow(image, interpolation="nearest" if x1 - x0 < 100 else "antialiased")
        axes.set(xlim=(x0 - 0.5, x1 - 0.5), ylim=(y1 - 0.5, y0 - 0.5), xticks=[], yticks=[])
        if mistake.truth_box is not None:
            _frame(axes, mistake.truth_box, "white", "--")
        if mistake.label is not None:
            _frame(axes, mistake.box, COLOURS[4], "-")
        axes.set_title(_caption(mistake, scenes), fontsize=8)
        for spine in axes.spines.values():
            spine.set_color("#999999")
    figure.supxlabel("orange: the detection; dashed white: the object that overlaps most", fontsize=8)
    return figure


def _caption(mistake: Mistake, scenes: Scenes) -> str:
    name = Path(scenes.files[mistake.image_id]).with_suffix("").as_posix()
    if mistake.label is None:
        assert mistake.truth is not None  # the object that was missed
        return f"{scenes.classes[mistake.truth]}: not found\n{name}"
    head = f"{scenes.classes[mistake.label]} {mistake.score:.2f}: {EXPLAINED[mistake.kind]}"
    if mistake.kind in ("location", "duplicate"):
        head += f", IoU {mistake.iou:.2f}"
    elif mistake.kind == "background" and mistake.truth is not None:
        head += f"\nbut a corner of {scenes.classes[mistake.truth]} (IoU {mistake.iou:.2f})"
    elif mistake.truth is not None:
        head += f", {scenes.classes[mistake.truth]} (IoU {mistake.iou:.2f})"
    return f"{head}\n{name}"


def _window(mistake: Mistake, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a square around the boxes, moved into the image."""
    boxes = [box for box in (mistake.box, mistake.truth_box) if box is not None]
    x0, y0 = min(b[0] for b in boxes), min(b[1] for b in boxes)
    x1, y1 = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    side = min(max(1.5 * max(x1 - x0, y1 - y0), 40), max(shape))
    x = min(max((x0 + x1 - side) / 2, 0), max(shape[1] - side, 0))
    y = min(max((y0 + y1 - side) / 2, 0), max(shape[0] - side, 0))
    return x, y, x + side, y + side


def _frame(axes: Axes, box: Sequence[float], colour: str, dashes: str) -> None:
    x, y, width, height = box
    for edge, lw in (("black", 3.2), (colour, 1.8)):
        corner = (x - 0.5, y - 0.5)
        axes.add_patch(Rectangle(corner, width, height, fill=False, ls=dashes, edgecolor=edge, lw=lw))


# ------------------------------------------------------------------------------------------ segmentation


def read_truth(evaluation: Evaluation, scene: Mapping) -> np.ndarray:
    """(H, W) labels as the test saw them; unlabelled pixels have ``ignore_index``.

    Raises:
        DatasetNotFoundError: missing.
        PictureError: not a usable label map.
    """
    with _of_data_set():
        labels = load_label_map(scene["truth"]).astype(np.int32)
    if evaluation.reduce_zero_label:
        labels = np.where(labels == 0, 255, labels - 1)
        labels[labels == 254] = 255
    return labels


def label_picture(evaluation: Evaluation, scene: Mapping, side: int = 320) -> np.ndarray:
    """Truth, prediction, and the wrong pixels, over the image."""
    truth = read_truth(evaluation, scene).astype(np.uint16)
    with _of_data_set():
        image = load_view(scene["image"], (truth.shape[1], truth.shape[0]))
    truth = shrink(truth, side, labels=True)
    found = load_label_map(evaluation.folder / scene["prediction"]).astype(np.uint16)
    found = shrink(found, side, labels=True)
    image = cv2.resize(image, truth.shape[::-1], interpolation=cv2.INTER_AREA)
    colours = class_colours(len(evaluation.classes))
    ignored = (truth == evaluation.ignore_index) | (truth >= len(colours))
    wrong = np.repeat(np.mean(image, 2, keepdims=True), 3, 2)
    wrong[(truth != found) & ~ignored] = WRONG
    return beside([tint(image, truth, colours), tint(image, found, colours), wrong.astype(np.uint8)])


def tint(image: np.ndarray, labels: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """(H, W, 3) image under the colours of its labels; labels beyond are dark."""
    table = np.array([*colours, UNLABELLED], dtype=float)
    layer = table[np.minimum(labels, len(colours))]
    return (0.3 * image + 0.7 * layer).astype(np.uint8)


def draw_worst_maps(evaluation: Evaluation, count: int = 12) -> Figure:
    """The images with the lowest mean IoU: truth, prediction, wrong pixels.

    Raises:
        ValueError: no image has a labelled pixel.
    """
    known = sorted((s for s in evaluation.scenes if s["miou"] is not None), key=lambda s: s["miou"])[:count]
    if not known:
        raise ArgumentError("no image has a labelled pixel")
    pictures = [label_picture(evaluation, scene, 320) for scene in known]
    rows = -(-len(known) // 2)
    shape = pictures[0].shape
    legend = 0.35 + 0.25 * (min(len(evaluation.classes), 24) // 8)
    height = rows * (6.0 * shape[0] / shape[1] + 0.35) + legend
    figure = Figure(figsize=(12.4, height), layout="constrained", dpi=130)
    for number, (scene, picture) in enumerate(zip(known, pictures, strict=True)):
        axes = figure.add_subplot(rows, 2, number + 1)
        axes.imshow(picture)
        axes.set_axis_off()
        axes.set_title(f"{scene_name(evaluation, scene)}: mIoU {scene['miou']:.1f}", fontsize=9)
    colours = class_colours(len(evaluation.classes))
    there = set(np.flatnonzero(evaluation.arrays["confusion"].sum(1)).tolist())
    handles = [
        Patch(color=_fractions(colours[i]), label=name)
        for i, name in enumerate(evaluation.classes)
        if i in there
    ][:24]
    handles.append(Patch(color=_fractions(WRONG), label="wrong pixels (right picture)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False, fontsize=8)
    return figure
