"""Synthetic scenes of coloured shapes in COCO's and in ADE20K's folder layout.

A scene is a pure function of ``(seed, split, index)``: other scenes do not change it. Colour
and texture are drawn independently of the class, so only the outline separates a circle from a cross. Shapes
overlap, reach over the border and span a factor of three in size; the dark background is textured, noisy and
cluttered with lines as vivid as the shapes.

    root/
      shapes.json                                   marks a finished folder: what it was made from
      coco/annotations/instances_{train,val}2017.json
      coco/{train,val}2017/000000000001.jpg
      ade20k/images/{training,validation}/000000000001.jpg
      ade20k/annotations/{training,validation}/000000000001.png
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from convnext_dense.data.polygons import mask_polygons
from convnext_dense.errors import ArgumentError

CLASSES = ("circle", "triangle", "cross")
"""Shape names; an instance's label is its index here, its COCO category id the index plus one."""

SEGMENTATION_CLASSES = ("background", *CLASSES)
"""Names of the label-map values 1, 2, ... (0 is ADE20K's "other", which ``reduce_zero_label`` ignores)."""

MARKER = "shapes.json"
SPLITS = {"train": ("train2017", "training"), "val": ("val2017", "validation")}
MIN_SIZE = 64  # pixels; below it the smallest shapes lose their outline

_VERSION = 1  # increase it when the same numbers would draw other scenes
_SUPERSAMPLE = 4  # sub-pixels per side of a pixel, for anti-aliased edges
_RADIUS = (0.1, 0.25)  # of the image side
_TILT = np.radians(12)  # to either side of upright
_MIN_VISIBLE = 0.75  # a shape with a smaller visible share is not drawn
_MIN_CONTRAST = 90.0  # RGB distance between any two of background and shapes


@dataclass(frozen=True)
class ShapesSpec:
    """All values that the content of a shapes folder depends on.

    ``train`` and ``val`` count scenes, ``size`` is the side of the square images in pixels.
    """

    train: int
    val: int
    size: int
    seed: int
    version: int = _VERSION

    def __post_init__(self) -> None:
        if self.train < 1 or self.val < 1:
            raise ArgumentError(f"train={self.train}, val={self.val}: both splits need at least one scene")
        if self.size < MIN_SIZE:
            raise ArgumentError(f"size={self.size}: scenes need at least {MIN_SIZE} pixels per side")


@dataclass(frozen=True)
class Scene:
    """One picture and its ground truth.

    ``image``: (H, W, 3) uint8 RGB. ``labels``: (N,) indices into `CLASSES`. ``masks``: (N, H, W) bool, the
    visible part of each shape; no two masks share a pixel.
    """

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray

    @property
    def label_map(self) -> np.ndarray:
        """(H, W) uint8: 1 is background, 2 + label is a shape (see `SEGMENTATION_CLASSES`)."""
        label_map = np.ones(self.image.shape[:2], np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            label_map[mask] = 2 + label
        return label_map


# --------------------------------------------------------------------------------------- outlines


def outline(name: str) -> np.ndarray:
    """Vertices of a shape within the unit circle, (V, 2) as x, y.

    Raises:
        ValueError: ``name`` is not one of `CLASSES`.
    """
    if name == "circle":
        return _on_circle(48)
    if name == "triangle":
        return _on_circle(3)
    if name == "cross":  # two bars of length 2 and width 0.6, cut back to the unit circle
        a, b = 0.3, 0.95
        return np.array([(a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a),
                         (-a, -a), (-a, -b), (a, -b), (a, -a), (b, -a), (b, a)])  # fmt: skip
    raise ArgumentError(f"shape {name!r}; use one of {CLASSES}")


def _on_circle(count: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(count) / count - np.pi / 2  # the first vertex on top: y points down
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _coverage(polygon: np.ndarray, size: int) -> np.ndarray:
    """(V, 2) pixel coordinates -> (size, size) float32, the share of each pixel that the polygon covers."""
    canvas = np.zeros((size * _SUPERSAMPLE,) * 2, np.uint8)
    # A sub-pixel's centre lies at +0.5, where OpenCV counts from the centre of pixel 0.
    points = np.rint((polygon * _SUPERSAMPLE - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [points], 255, shift=4)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _random_outline(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """A shape of random scale, stretch, rotation and place: (V, 2) in pixels."""
    low, high = np.log(_RADIUS)
    radius = size * np.exp(rng.uniform(low, high))
    stretch = np.exp(rng.uniform(-0.1, 0.1))
    angle = rng.uniform(-_TILT, _TILT)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = rng.uniform(0.6 * radius, size - 0.6 * radius, 2)  # some shapes reach over the border
    return outline(CLASSES[label]) * [stretch, 1 / stretch] @ rotation.T * radius + centre


# ---------------------------------------------------------------------------------------- painting


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """(size, size) float32 in [0, 1] with bumps about ``size / cells`` pixels wide."""
    grid = rng.random((cells, cells), dtype=np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) float32 in [0, 1]: waves of a random direction and a period of 5 to 20 pixels."""
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    frequency = 2 * np.pi / rng.uniform(5, 20)
    axis = np.arange(size, dtype=np.float32) * frequency
    wave = np.sin(axis[None, :] * np.cos(angle) + axis[:, None] * np.sin(angle) + phase)
    return ((1 + wave) / 2).astype(np.float32)


def _paint(rng: np.random.Generator, colour: np.ndarray, size: int, tint: float) -> np.ndarray:
    """A plain, cloudy or striped surface around ``colour``: (size, size, 3) float32 RGB.

    ``tint`` is how much the texture's strength differs between the channels, in grey levels.
    """
    kind = rng.integers(3)
    if kind == 0:
        return np.broadcast_to(colour, (size, size, 3))
    texture = _stripes(rng, size) if kind == 1 else _smooth_noise(rng, size, int(rng.integers(3, 24)))
    strength = rng.uniform(15, 45) + rng.uniform(-tint, tint, 3)
    return colour + (texture - 0.5)[..., None] * strength.astype(np.float32)


def _vivid_colour(rng: np.random.Generator, used: list[np.ndarray]) -> np.ndarray:
    """A saturated RGB colour at least `_MIN_CONTRAST` from those used, or the farthest of twenty tries."""
    hue, saturation, value = rng.uniform([0, 0.55, 130], [360, 1, 250], (20, 3)).T
    # The hue's shift of each channel along the colour circle, 0 = full, 1 = lowest.
    shift = np.clip(np.abs((hue[:, None] / 60 - [0, 2, 4] + 3) % 6 - 3) - 1, 0, 1)
    tries = value[:, None] * (1 - saturation[:, None] * shift)
    distance = np.linalg.norm(tries[:, None] - np.stack(used)[None], axis=2).min(axis=1)
    enough = np.flatnonzero(distance >= _MIN_CONTRAST)
    return tries[enough[0] if len(enough) else distance.argmax()].astype(np.float32)


def _scribble(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Thin lines that belong to no class, drawn into (S, S, 3) float32 ``canvas``."""
    size = len(canvas)
    for _ in range(rng.integers(1, 5)):
        start, end = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(canvas, start, end, _vivid_colour(rng, [canvas[0, 0]]).tolist(), int(rng.integers(1, 3)))


def _blend(rng: np.random.Generator, canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> None:
    """Lay a shape over (S, S, 3) float32 ``canvas``; only its own rectangle is painted, for speed."""
    x, y, width, height = cv2.boundingRect((cover > 0).astype(np.uint8))
    where = np.s_[y : y + height, x : x + width]
    surface = _paint(rng, colour, max(width, height), tint=25)[:height, :width]
    canvas[where] += cover[where][..., None] * (surface - canvas[where])


def _visible(covers: list[np.ndarray]) -> list[np.ndarray]:
    """Coverages from back to front -> bool masks of the visible part of each."""
    free = np.ones_like(covers[0], bool)
    masks = []
    for cover in reversed(covers):
        mask = (cover >= 0.5) & free
        free &= ~mask
        masks.append(mask)
    return masks[::-1]


def _drop_hidden(labels: list[int], covers: list[np.ndarray], areas: list[float]) -> None:
    """Remove, in place, the most hidden shape until every shape shows at least `_MIN_VISIBLE` of its area."""
    while True:
        shown = [mask.sum() / area for mask, area in zip(_visible(covers), areas, strict=True)]
        worst = int(np.argmin(shown))
        if shown[worst] >= _MIN_VISIBLE or len(shown) == 1:
            return
        for column in (labels, covers, areas):
            del column[worst]


def draw_scene(size: int, seed: int, split: str, index: int) -> Scene:
    """The scene ``index`` of a split; ``size`` is the image's side in pixels.

    Raises:
        ValueError: ``split`` is not one of `SPLITS`.
    """
    if split not in SPLITS:
        raise ArgumentError(f"split={split!r}; use one of {tuple(SPLITS)}")
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    labels = rng.integers(len(CLASSES), size=rng.integers(3, 8)).tolist()
    polygons = [_random_outline(rng, label, size) for label in labels]
    covers = [_coverage(polygon, size) for polygon in polygons]
    areas = [float(cv2.contourArea(polygon.astype(np.float32))) for polygon in polygons]
    _drop_hidden(labels, covers, areas)

    used = [rng.uniform(20, 70) + rng.uniform(-10, 10, 3)]  # nearly grey, darker than every shape
    canvas = _paint(rng, used[0], size, tint=10).astype(np.float32, order="C")
    canvas += (_smooth_noise(rng, size, 4) - 0.5)[..., None] * 40  # uneven light
    _scribble(rng, canvas)
    for cover in covers:
        used.append(_vivid_colour(rng, used))
        _blend(rng, canvas, cover, used[-1])
    canvas += rng.standard_normal(canvas.shape, np.float32) * rng.uniform(3, 10)
    image = np.rint(canvas.clip(0, 255)).astype(np.uint8)
    return Scene(image, np.array(labels), np.stack(_visible(covers)))


# ------------------------------------------------------------------------------------------- folders


def make_shapes(
    root: str | Path, train: int = 1000, val: int = 120, size: int = 160, seed: int = 0
) -> ShapesSpec:
    """Write ``train`` and ``val`` scenes of ``size`` pixels per side in both layouts under ``root``.

    The folder is written atomically. One that already holds the same scenes is not changed.

    Raises:
        FileExistsError: ``root`` holds something else; it is not changed.
        ValueError: a count below one, or ``size`` below `MIN_SIZE`.
    """
    root = Path(root)
    spec = ShapesSpec(train, val, size, seed)
    if _is_made(root, spec):
        return spec
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.with_name(f".{root.name}.partial-{uuid.uuid4().hex}")
    try:
        for split, count in (("train", train), ("val", val)):
            _write_split(partial, split, (draw_scene(size, seed, split, index) for index in range(count)))
        (partial / MARKER).write_text(json.dumps(asdict(spec)) + "\n")
        try:
            partial.rename(root)
        except OSError:  # another process was faster: fine if it made the same
            if not _is_made(root, spec):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return spec


def _is_made(root: Path, spec: ShapesSpec) -> bool:
    """Whether ``root`` holds the scenes of ``spec``; False also for a missing or an empty folder."""
    marker = root / MARKER
    found = json.loads(marker.read_text()) if marker.is_file() else None
    if found == asdict(spec):
        return True
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        what = "no finished shapes" if found is None else f"shapes of {found}, not of {asdict(spec)}"
        raise FileExistsError(f"{root} holds {what}; remove it or name another folder")
    return False


def _write_split(root: Path, split: str, scenes: Iterator[Scene]) -> None:
    """Write one split in both layouts; image ids count from 1, as in COCO."""
    coco_split, ade_split = SPLITS[split]
    coco_images = root / "coco" / coco_split
    ade_images = root / "ade20k" / "images" / ade_split
    ade_maps = root / "ade20k" / "annotations" / ade_split
    for folder in (coco_images, ade_images, ade_maps, root / "coco" / "annotations"):
        folder.mkdir(parents=True, exist_ok=True)

    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, scene in enumerate(scenes, start=1):
        stem = f"{image_id:012d}"
        jpeg = _encode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        (coco_images / f"{stem}.jpg").write_bytes(jpeg)
        (ade_images / f"{stem}.jpg").write_bytes(jpeg)
        (ade_maps / f"{stem}.png").write_bytes(_encode(".png", scene.label_map, []))
        height, width = scene.image.shape[:2]
        images.append(dict(id=image_id, file_name=f"{stem}.jpg", height=height, width=width))
        for annotation in _coco_annotations(scene):
            annotations.append(dict(id=len(annotations) + 1, image_id=image_id, **annotation))
    categories = [dict(id=i, name=name, supercategory="shape") for i, name in enumerate(CLASSES, start=1)]
    table = dict(images=images, annotations=annotations, categories=categories)
    (root / "coco" / "annotations" / f"instances_{coco_split}.json").write_text(json.dumps(table))


def _encode(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    """Compress an (H, W) or a BGR (H, W, 3) uint8 image."""
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {suffix} image")
    return data.tobytes()


def _coco_annotations(scene: Scene) -> Iterator[dict]:
    """The scene's instances in COCO's format, without ids; boxes are x, y, width, height in pixels."""
    for label, mask in zip(scene.labels.tolist(), scene.masks, strict=True):
        x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box = [int(x[0]), int(y[0]), int(x[-1] - x[0]) + 1, int(y[-1] - y[0]) + 1]
        yield dict(
            category_id=label + 1,
            segmentation=mask_polygons(mask),
            area=int(mask.sum()),
            bbox=box,
            iscrowd=0,
        )
