"""Faults of annotations in COCO's format: found in memory, counted by kind, repaired where possible.

:func:`repair` takes the content of an annotation file and returns one that can be used for training, and
the faults. The action for each kind is a row of :data:`KINDS`; the decisions on one annotation are pure
functions of plain values.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from convnext_dense.data.coco_masks import WH, repair_mask, repair_polygons
from convnext_dense.data.coco_tidy import Id, is_id, is_number, is_size, named, tidy
from convnext_dense.errors import DataError

BORDER = 1.0  # pixels over the border that come from rounding, or from boxes that include the last pixel
NAMED = 3  # entries named per kind


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        what: the faulty things, in the plural.
        done: how training handles them.
        breaks_evaluation: whether the metric would fail on them or be wrong.
        tidied: whether nothing is lost, so that an evaluation can read a copy of the file without them.
    """

    what: str
    done: str
    breaks_evaluation: bool
    tidied: bool = False


KINDS: dict[str, Kind] = {
    "image": Kind("images without an id or a file name", "left out", True),
    "image twice": Kind("images listed twice", "taken once", False),
    "image id": Kind("images that share an id with another file", "left out with their annotations", True),
    "spelling": Kind(
        "images whose file has another spelling (Windows' separators, accents)", "found there", True, True
    ),
    "size as text": Kind("images whose width and height are text", "read as numbers", True, True),
    "image size": Kind("images without width and height", "taken from the file", True, True),
    "image unsized": Kind(
        "images without width and height, and no readable file", "left out with their annotations", True
    ),
    "reference": Kind(
        "annotations whose ids are text where their image or category has a number, or the other way round",
        "matched",
        True,
        True,
    ),
    "orphan": Kind("annotations of an unknown image", "left out", False),
    "category": Kind("annotations without a known category", "left out", False),
    "listed twice": Kind("annotations listed twice", "taken once", True),
    "id": Kind("annotations without an id of their own", "given a new one", True),
    "no box": Kind("annotations without a box of four finite numbers", "left out", True),
    "box of outline": Kind("boxes missing or empty beside a good outline", "taken from the outline", True),
    "empty box": Kind("boxes without width or height", "left out", False),
    "outside": Kind("boxes outside their image", "left out", False),
    "border": Kind("boxes that reach over the border of their image", "cut there", False),
    "area": Kind("annotations without a positive area", "taken from the box", True),
    "polygon": Kind("polygons of fewer than three points or with wrong coordinates", "removed", True),
    "rle": Kind("masks (RLE) that do not describe their image", "removed", True),
    "mask": Kind("annotations without a usable mask", "kept as regions to ignore", True),
}


class AnnotationFileError(DataError):
    """An annotation file that cannot be used."""


class Fault(NamedTuple):
    """``count`` times the same kind of fault; ``first`` names the first few."""

    kind: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    first: tuple[str, ...]

    def __str__(self) -> str:
        row = KINDS[self.kind]
        more = ", ..." if self.count > len(self.first) else ""
        return f"{row.what}: {self.count}, first {', '.join(self.first)}{more}; {row.done}"


class Findings:
    """Counts faults and keeps the first of each kind."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, list[str]] = {}

    def add(self, kind: str, where: Callable[[], str]) -> None:
        """Count one more; the name of ``where`` is computed only if it is reported."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        first = self.first.setdefault(kind, [])
        if len(first) < NAMED:
            first.append(where())

    def faults(self) -> list[Fault]:
        """The faults in the order of :data:`KINDS`."""
        return [Fault(k, self.counts[k], tuple(self.first[k])) for k in KINDS if k in self.counts]


def repair(
    content: Any,
    masks: bool = False,
    wh_of: Callable[[str], WH | None] = lambda file_name: None,
    progress: Callable[[Sequence], Iterable] = iter,
    exists: Callable[[str], bool] = lambda file_name: True,
) -> tuple[dict, list[Fault]]:
    """The content of an annotation file without its faults, and the faults; ``content`` is not changed.

    Args:
        content: parsed annotation file.
        masks: whether masks are trained; if not, they are not read.
        wh_of: (width, height) of an image file by its ``file_name``, for images without a size.
        progress: wraps the list of annotations, to show progress.
        exists: whether there is an image file of this name, asked for names that may be spelled otherwise.

    Raises:
        AnnotationFileError: no images, annotations or categories, before or after repair.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            raise AnnotationFileError(f"no annotations in COCO's format: there is no list of {key}")
    categories = {c["id"] for c in content["categories"] if _has_id(c)}
    if len(categories) < len(content["categories"]):
        raise AnnotationFileError("two categories share an id, or one has none, so the class is ambiguous")
    findings = Findings()
    content = tidy(content, wh_of, exists, findings.add)
    images = repair_images(content["images"], wh_of, findings)
    left_out = {entry["id"] for entry in content["images"] if _has_id(entry)} - images.keys()
    annotations = repair_annotations(
        (entry for entry in progress(content["annotations"]) if not _belongs_to(entry, left_out)),
        images,
        categories,
        masks,
        findings,
        _first_free(content),
    )
    for name, left in (("images", images), ("annotations", annotations)):
        if not left:
            faults = "".join(f"; {fault}" for fault in findings.faults())
            raise AnnotationFileError(f"it has no usable {name}{faults}")
    return {**content, "images": list(images.values()), "annotations": annotations}, findings.faults()


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and is_id(entry.get("id"))


def _belongs_to(entry: Any, images: set) -> bool:
    """Whether an annotation's image is among ``images`` (ids)."""
    owner = entry.get("image_id") if images and isinstance(entry, dict) else None
    return is_id(owner) and owner in images


def _first_free(content: Mapping) -> int:
    """The lowest annotation id above all used ids."""
    used = (a.get("id") for a in content["annotations"] if isinstance(a, dict))
    return 1 + max((int(n) for n in used if is_id(n) and not isinstance(n, str)), default=0)


# ---- images


def repair_images(entries: Sequence, wh_of: Callable[[str], WH | None], findings: Findings) -> dict[Id, dict]:
    """Usable image entries by their id."""
    images: dict[Id, dict] = {}
    shared = set()
    for entry in entries:
        number, name = (entry.get("id"), entry.get("file_name")) if isinstance(entry, dict) else (None, None)
        where = partial(named, "image", number, name)
        if not is_id(number) or not name or not isinstance(name, str):
            findings.add("image", where)
        elif number not in images:
            images[number] = entry
        elif images[number]["file_name"] == name:
            findings.add("image twice", where)
        else:
            findings.add("image id", where)
            shared.add(number)
    for number in shared:  # it is unknown whose the annotations are
        del images[number]
    unsized = [number for number, entry in images.items() if not is_size(entry)]
    for number in unsized:
        name = images[number]["file_name"]
        wh = wh_of(name)
        findings.add("image size" if wh else "image unsized", partial(named, "image", number, name))
        if wh:
            images[number] = {**images[number], "width": wh[0], "height": wh[1]}
        else:
            del images[number]
    return images


# ---- annotations


def repair_annotations(
    entries: Iterable,
    images: Mapping[Id, Mapping],
    categories: set,
    masks: bool,
    findings: Findings,
    next_id: int,
) -> list[dict]:
    """Usable annotations, in their order; new ids count from ``next_id``."""
    usable = []
    seen: dict[Id, Any] = {}
    for entry in entries:
        annotation = entry if isinstance(entry, dict) else {}
        number, owner = annotation.get("id"), annotation.get("image_id")
        image = images.get(owner) if is_id(owner) else None
        if image is None:
            findings.add("orphan", partial(named, "annotation", number, f"image {owner}"))
            continue
        kinds: tuple[str, ...]
        repaired: dict | None = None
        if not is_id(label := annotation.get("category_id")) or label not in categories:
            kinds = ("category",)
        elif is_id(number) and number in seen and seen[number] == entry:
            kinds = ("listed twice",)
        else:
            wh = image["width"], image["height"]
            repaired, kinds = repair_annotation(annotation, wh, masks)
        if repaired is not None and (not is_id(number) or number in seen):
            kinds = ("id", *kinds)
            repaired = {**repaired, "id": next_id}
            next_id += 1
        for kind in kinds:
            where = f"image {owner}, {image['file_name']}"
            findings.add(kind, partial(named, "annotation", number, where))
        if repaired is not None:
            usable.append(repaired)
            seen.setdefault(number if is_id(number) else repaired["id"], entry)
    return usable


def repair_annotation(annotation: dict, wh: WH, masks: bool) -> tuple[dict | None, tuple[str, ...]]:
    """An annotation to train with, or ``None``, and the kinds of its faults.

    Args:
        annotation: an annotation with an image and a category.
        wh: (width, height) of its image.
        masks: whether its mask is trained.
    """
    box, kind = repair_box(annotation.get("bbox"), wh, annotation.get("segmentation"))
    kinds = [kind] if kind else []
    if box is None:
        return None, tuple(kinds)
    changes: dict[str, Any] = {"bbox": box} if kind else {}
    area = annotation.get("area")
    if not (is_number(area) and area > 0):
        kinds.append("area")
        changes["area"] = box[2] * box[3]
    if masks:
        segmentation = annotation.get("segmentation")
        mask, faults = repair_mask(segmentation, wh)
        kinds += faults
        if mask is None:  # an object is still there: training must not treat it as background
            kinds.append("mask")
            changes |= {"segmentation": [_outline(box)], "iscrowd": 1}
        elif mask is not segmentation:
            changes["segmentation"] = mask
    return ({**annotation, **changes} if changes else annotation), tuple(kinds)


def repair_box(box: Any, wh: WH, segmentation: Any = None) -> tuple[list[float] | None, str | None]:
    """(x, y, width, height) to train with and the kind of fault; each ``None`` if there is none.

    Args:
        box: box of the file.
        wh: (width, height) of the image.
        segmentation: the mask beside it, whose polygons replace a missing or an empty box.
    """
    kind = box_fault(box, wh)
    if kind in ("no box", "empty box"):
        polygons, _ = repair_polygons(segmentation, wh) if isinstance(segmentation, list) else ([], [])
        instead = _bounds(polygons) if polygons else None
        if instead is None or box_fault(instead, wh) in ("no box", "empty box", "outside"):
            return None, kind
        return _cut(instead, wh), "box of outline"
    if kind == "outside":
        return None, kind
    return (_cut(box, wh) if kind else box), kind


def box_fault(box: Any, wh: WH) -> str | None:
    """The first fault found of ``[x, y, width, height]``."""
    try:
        x, y, width, height = box
        finite = math.isfinite(x + y + width + height)
    except (TypeError, ValueError):
        return "no box"
    if not finite:
        return "no box"
    if width <= 0 or height <= 0:
        return "empty box"
    right, bottom = x + width, y + height
    if x >= wh[0] or y >= wh[1] or right <= 0 or bottom <= 0:
        return "outside"
    if x < -BORDER or y < -BORDER or right > wh[0] + BORDER or bottom > wh[1] + BORDER:
        return "border"
    return None


def _cut(box: Sequence[float], wh: WH) -> list[float]:
    x, y = max(box[0], 0), max(box[1], 0)
    return [x, y, min(box[0] + box[2], wh[0]) - x, min(box[1] + box[3], wh[1]) - y]


def _bounds(polygons: Sequence[Sequence[float]]) -> list[float]:
    xs = list(chain.from_iterable(polygon[::2] for polygon in polygons))
    ys = list(chain.from_iterable(polygon[1::2] for polygon in polygons))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _outline(box: Sequence[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]
