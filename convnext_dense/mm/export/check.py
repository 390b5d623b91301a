"""The proof that a file computes what PyTorch computes: several images of several sizes, run by both."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from convnext_dense.data.synthetic import draw_scene
from convnext_dense.export.engines import Engine
from convnext_dense.export.metadata import Metadata
from convnext_dense.mm.export.load import Exportable

LOGITS, LABELS, PIXELS, SCORES = 1e-4, 0.9999, 0.01, 1e-4
"""Largest difference of logits; least share of equal labels; largest difference of a box's sides in pixels,
and of a score or a mask's probability."""


SCENE = 160  # pixels, as in the demo
BORDER = 20  # pixels


class Verdict(NamedTuple):
    """How the outputs for one input compare.

    Attributes:
        shape: (N, H, W) of the input.
        text: figures in words.
        passed: whether they are within the limits.
    """

    shape: tuple[int, int, int]
    text: str
    passed: bool


def compare(model: Exportable, engine: Engine, inputs: Sequence[np.ndarray]) -> Iterator[Verdict]:
    """Run each input, (N, 3, H, W) uint8, by PyTorch and by the engine."""
    for images in inputs:
        n, _, height, width = images.shape
        sizes = valid_sizes(n, model.metadata)
        with torch.no_grad():
            given = None if sizes is None else torch.from_numpy(sizes)
            outputs = model.network(torch.from_numpy(images), given)
        expected = {name: x.numpy() for name, x in zip(model.outputs, outputs, strict=True)}
        found = engine.run(images, sizes)
        judge = judge_detections if model.metadata.kind == "detector" else judge_segmentation
        text, passed = judge(expected, found, model.metadata)
        yield Verdict((n, height, width), text, passed)


def valid_sizes(count: int, metadata: Metadata) -> np.ndarray | None:
    """(N, 2) heights and widths for a network of one size: the whole, and a border less for each next image.

    A narrow one: inside a wide one all places look alike, and nothing decides the order of their boxes.
    """
    if metadata.fixed_hw is None:
        return None
    whole = np.array(metadata.fixed_hw, np.int64)
    return np.stack([np.maximum(whole - BORDER * i, 1) for i in range(count)])


def example_inputs(metadata: Metadata) -> list[np.ndarray]:
    """Batches to compare on: the recipe's size, upright, odd sides, two images, one without objects."""
    if metadata.fixed_hw:
        h, w = metadata.fixed_hw
        sizes = [(1, h, w), (2, h, w)]
    elif metadata.crop_hw:
        h, w = metadata.crop_hw
        sizes = [(1, h, w), (2, h, w), (1, h // 2 + 3, w)]
    else:
        long, short = max(metadata.scale or (160, 160)), min(metadata.scale or (160, 160))
        h, w = short, min(long, short * 4 // 3)
        sizes = [(1, h, w), (1, w + 1, h), (2, h // 2 + 5, w // 2 - 7)]
    scenes = [np.stack([picture((h, w), seed) for seed in range(n)]) for n, h, w in sizes]
    _, h, w = sizes[-1]
    # nearly one colour: of one alone, all places would have equal scores, whose order nothing decides
    empty = np.random.default_rng(0).integers(111, 118, (1, 3, h, w), np.uint8)
    return [*scenes, empty]


def picture(hw: tuple[int, int], seed: int) -> np.ndarray:
    """Shapes beside each other: (3, H, W) uint8."""
    rows, columns = -(-hw[0] // SCENE), -(-hw[1] // SCENE)
    # all different: equal ones would have equal scores, whose order nothing decides
    scenes = [draw_scene(SCENE, seed, "val", index).image for index in range(rows * columns)]
    grid = np.stack(scenes).reshape(rows, columns, SCENE, SCENE, 3)
    whole = grid.swapaxes(1, 2).reshape(rows * SCENE, columns * SCENE, 3)[: hw[0], : hw[1]]
    return np.ascontiguousarray(whole.transpose(2, 0, 1))


# ---- segmentation


def judge_segmentation(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], metadata: Metadata
) -> tuple[str, bool]:
    """Compare logits and the labels that they give, or labels."""
    if "labels" in expected:
        equal = float((expected["labels"] == found["labels"]).mean())
        return f"labels equal in {equal:.4%} of pixels", equal >= LABELS
    a, b = expected["logits"], found["logits"]
    if a.shape != b.shape:
        return f"logits of shape {b.shape}, not {a.shape}", False
    difference = float(np.abs(a - b).max())
    threshold = metadata.binary_threshold
    one, two = ((x > _logit(threshold)) if threshold is not None else x.argmax(1) for x in (a, b))
    equal = float((one == two).mean())
    text = f"logits differ by {difference:.1e}, labels equal in {equal:.4%} of pixels"
    return text, difference <= LOGITS * max(1.0, float(np.abs(a).max())) and equal >= LABELS


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


# ---- detections


def judge_detections(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], metadata: Metadata
) -> tuple[str, bool]:
    """Match detections one to one and compare boxes, scores and masks."""
    pixels = scores = masks = 0.0
    total, lost = 0, 0
    for image in range(len(expected["count"])):
        a, b = (_of_image(side, image) for side in (expected, found))
        pairs = matched(a, b)
        total += len(a["scores"])
        lost += _unmatched(a, [i for i, _ in pairs], metadata) + _unmatched(
            b, [j for _, j in pairs], metadata
        )
        for i, j in pairs:
            pixels = max(pixels, float(np.abs(a["boxes"][i] - b["boxes"][j]).max()))
            scores = max(scores, float(abs(a["scores"][i] - b["scores"][j])))
            if "masks" in a:
                masks = max(masks, float(np.abs(a["masks"][i] - b["masks"][j]).max()))
    text = f"{total} detections, {lost} without a partner, "
    text += f"boxes differ by {pixels:.1e} pixels, scores by {scores:.1e}"
    if "masks" in expected:
        text += f", masks by {masks:.1e}"
    return text, lost == 0 and pixels <= PIXELS and max(scores, masks) <= SCORES


def _of_image(outputs: Mapping[str, np.ndarray], image: int) -> dict[str, np.ndarray]:
    count = int(outputs["count"][image])
    return {name: values[image][:count] for name, values in outputs.items() if name != "count"}


def matched(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> list[tuple[int, int]]:
    """Pairs of detections with one label and nearly one box, the best scores first."""
    free, pairs = set(range(len(b["scores"]))), []
    for i, (box, label, score) in enumerate(zip(a["boxes"], a["labels"], a["scores"], strict=True)):
        near = [
            (float(np.abs(b["boxes"][j] - box).max()) + float(abs(b["scores"][j] - score)), j)
            for j in free
            if b["labels"][j] == label
        ]
        if near and min(near)[0] < 1.0:
            pairs.append((i, min(near)[1]))
            free.discard(min(near)[1])
    return pairs


def _unmatched(side: Mapping[str, np.ndarray], partners: list[int], metadata: Metadata) -> int:
    """Detections without a partner whose score does not lie at a border that rounding decides.

    The borders are the lowest score that counts, and the last place of a full list.
    """
    scores = side["scores"]
    alone = np.setdiff1d(np.arange(len(scores)), partners)
    last = float(scores.min()) if len(scores) >= metadata.max_per_image else metadata.score_thr
    return int((scores[alone] > last + SCORES).sum())
