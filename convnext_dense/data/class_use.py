"""Which classes a data set has labels of, and whether anything is left to learn.

Each file may be in order and training on them still be useless: every outline is missing, every pixel
ignored, every image left out by a filter. Labels are counted as training will see them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

SHOWN = 8  # names per line


class MapUse(NamedTuple):
    """Label maps of a split by the values that they hold.

    Attributes:
        classes: value -> class that is trained; other values are ignored.
        held: value -> number of maps in which it occurs.
        opened: number of maps that were read.
        total: number of maps.
        folder: where they are.
        shifts: whether 0 means unlabelled and the classes count from 1.
    """

    classes: Mapping[int, str]
    held: Mapping[int, int]
    opened: int
    total: int
    folder: str
    shifts: bool = False

    def absent(self) -> list[int]:
        """Values of the classes that occur in no map."""
        return [value for value in self.classes if not self.held.get(value)]

    def lines(self, trains: bool = True) -> tuple[list[str], str | None]:
        """Lines for the user, and why nothing is left to learn or to compare with (``None`` if there is)."""
        absent = self.absent()
        if not absent or not self.opened:
            return [], None
        ignored = [value for value in sorted(self.held) if value not in self.classes]
        which = [f"{self.classes[value]} (value {value})" for value in absent]
        maps = f"the {self.opened:,} label maps of {self.folder}"
        if self.opened < self.total:
            maps = f"the {self.opened:,} label maps opened (of {self.total:,}) of {self.folder}"
        also = "".join(f"; {value} (ignored) is in {self._many(value)} of them" for value in ignored[:3])
        line = f"{len(absent)} of {len(self.classes)} classes occur in none of {maps}: {_some(which)}{also}"
        left = len(self.classes) - len(absent)
        if left == 1:
            line += f"; {self._only()} holds all the labels"
        # one class alone is the only answer, which a model need not learn but an evaluation may have
        if self.opened < self.total or left > int(trains):
            return [line + self._hint(absent)], None
        nothing = "learn" if trains else "compare with"
        return [], f"nothing to {nothing}: {line}{self._hint(absent) or self._remedy(ignored)}"

    def _many(self, value: int) -> str:
        return "all" if self.held[value] == self.opened else f"{self.held[value]:,}"

    def _only(self) -> str:
        value = next(value for value in self.classes if self.held.get(value))
        return f"{self.classes[value]} (value {value})"

    def _hint(self, absent: Sequence[int]) -> str:
        """What to try where the class of the highest value is missing and the value 0 is left out."""
        if not self.shifts or not self.held.get(0) or max(self.classes, default=0) not in absent:
            return ""
        return "; if 0 is a class, set reduce_zero_label=False in the datasets"

    def _remedy(self, ignored: Sequence[int]) -> str:
        first, last = min(self.classes), max(self.classes)
        instead = f", not {', '.join(map(str, ignored[:3]))}" if ignored else ""
        return f"; write the values of the classes, {first} to {last}{instead}, into the maps"


def map_use(
    classes: Mapping[int, str], held: Iterable[Iterable[int]], total: int, folder: str, shifts: bool = False
) -> MapUse:
    """Count the values of label maps; ``held`` has the values of each map that was read."""
    maps = [set(map(int, values)) for values in held]
    return MapUse(classes, Counter(v for values in maps for v in values), len(maps), total, folder, shifts)


def trained_values(
    stored: Sequence[str], shifts: bool, label_map: Mapping[int, int] | None, ignored: int
) -> dict[int, str]:
    """Value in a label map -> name of the class that is trained with it.

    Args:
        stored: names of the values in the files, without the unlabelled one.
        shifts: whether the value 0 means unlabelled, so that the classes count from 1.
        label_map: class in the files -> class that is trained; ``None``: they are the same.
        ignored: label that the loss leaves out.
    """
    found = {}
    for index, name in enumerate(stored):
        label = (label_map or {}).get(index, index)
        if label not in (255, ignored):
            found[index + int(shifts)] = name
    return found


# ---- boxes and masks


class ObjectUse(NamedTuple):
    """Annotations of a file by what becomes of them in training.

    Attributes:
        per_class: class -> number of objects that are trained, also 0.
        lost: why annotations are not trained -> their number.
        images: number of images.
        kept: number of images that the dataset's filter keeps.
        path: the file.
        remedies: reason -> what to do about it.
    """

    per_class: Mapping[str, int]
    lost: Mapping[str, int]
    images: int
    kept: int
    path: str
    remedies: Mapping[str, str]

    def stop(self) -> str | None:
        """Why there is nothing to learn, ``None`` if there is."""
        trained = sum(self.per_class.values())
        if trained and self.kept:
            return None
        reasons = sorted(self.lost, key=lambda reason: -self.lost[reason])
        listed = ", ".join(f"{self.lost[reason]:,} {reason}" for reason in reasons)
        remedy = "".join(f"; {self.remedies[reason]}" for reason in reasons[:1] if reason in self.remedies)
        total = sum(self.lost.values()) + trained
        kept = "" if self.kept else f"; filter_cfg keeps none of its {self.images:,} images"
        return (
            f"nothing to learn from {self.path}: none of its {total:,} annotations can be trained on"
            f"{': ' if listed else ''}{listed}{kept}{remedy}"
        )


def absent_classes(uses: Sequence[ObjectUse]) -> str | None:
    """The line that names classes without an object in any of the files of a split."""
    counts: Counter[str] = Counter()
    for use in uses:
        counts.update(use.per_class)
    absent = [name for name in counts if not counts[name]]
    if not absent:
        return None
    files = ", ".join(dict.fromkeys(use.path for use in uses))
    lacking = f"{len(absent)} of {len(counts)} classes have no annotation to train on"
    return f"{lacking} in {files}: {_some(absent)}"


NO_MASK = "without a usable mask (segmentation)"
CROWD = "crowds (iscrowd)"
IGNORED = "marked to be ignored"
SMALL = "of boxes below one pixel"


def object_use(
    content: Mapping[str, Any],
    classes: Sequence[str],
    path: str,
    without_mask: int = 0,
    filter_cfg: Mapping | None = None,
) -> ObjectUse:
    """Count the objects that mmdet trains.

    Args:
        content: a file in COCO's format after :func:`convnext_dense.data.coco_repair.repair`.
        classes: class names that are trained.
        path: the file, for messages.
        without_mask: annotations that the repair has made regions to ignore, because they lack a mask.
        filter_cfg: the dataset's filter, with ``filter_empty_gt`` and ``min_size`` in pixels.
    """
    names = {c["id"]: c["name"] for c in content["categories"] if c["name"] in classes}
    others = Counter(
        c["name"] for c in content["categories"] if c["id"] not in names
    )  # their annotations are left out
    least = (filter_cfg or {}).get("min_size", 0)
    sides = {image["id"]: min(image["width"], image["height"]) for image in content["images"]}
    large = {number for number, side in sides.items() if side >= least}
    of_class = {a["image_id"] for a in content["annotations"] if a["category_id"] in names}
    kept = large & of_class if (filter_cfg or {}).get("filter_empty_gt") else large
    too_small = f"on images smaller than min_size={least} of filter_cfg"
    elsewhere = f"of other categories ({_some(list(others))})"
    per_class = Counter(dict.fromkeys(classes, 0))
    lost: Counter[str] = Counter()
    for annotation in content["annotations"]:
        width, height = annotation["bbox"][2:]
        if annotation["category_id"] not in names:
            lost[elsewhere] += 1
        elif annotation["image_id"] not in large:
            lost[too_small] += 1
        elif annotation.get("ignore"):
            lost[IGNORED] += 1
        elif width < 1 or height < 1:
            lost[SMALL] += 1
        elif annotation.get("iscrowd"):
            lost[CROWD] += 1
        else:
            per_class[names[annotation["category_id"]]] += 1
    masks = min(without_mask, lost[CROWD])
    lost += Counter({NO_MASK: masks})
    lost -= Counter({CROWD: masks})
    remedies = {
        NO_MASK: "give outlines, or train without a mask head: --boxes-only",
        CROWD: "iscrowd=1 marks regions to ignore; write 0 for single objects",
        too_small: f"lower min_size: the largest shorter side is {max(sides.values(), default=0)}",
        elsewhere: f"the classes asked for are {_some(list(classes))}",
    }
    return ObjectUse(per_class, lost, len(sides), len(kept), path, remedies)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names) - SHOWN} more)" if len(names) > SHOWN else "")
