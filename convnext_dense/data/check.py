"""Checks of a data set before training: pure functions that return problems.

A problem names the first affected file and the number of files. Image sizes
come from file headers; the values of label maps need the whole file, so these two
checks take the maps one by one, in an order and up to a time that the caller sets.
"""

import json
import mmap
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convnext_dense.data.coco_repair import (
    KINDS,
    AnnotationFileError,
    Fault,
    Findings,
    repair,
    repair_images,
)
from convnext_dense.data.image_io import (
    IMAGE_SUFFIXES,
    ChannelsError,
    Header,
    PictureError,
    label_numbers,
    read_header,
    size_on_disk,
    size_text,
)
from convnext_dense.errors import DataError


class ClassNamesError(DataError):
    """Class names that cannot be read or used."""


class Problem(NamedTuple):
    """``count`` times the same fault; ``first`` is the first file, or entry of a file, that has it.

    Training can continue without what is ``droppable``. A fault of an ``annotation`` is repaired and logged
    where training reads the file. What is ``harmless_in_evaluation`` changes none of its figures.
    """

    what: str
    first: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    detail: str = ""
    remedy: str = ""
    droppable: bool = False
    annotation: bool = False
    harmless_in_evaluation: bool = False

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.what}: {self.count}, first {self.first}{detail}{remedy}"


def gather(what: str, found: Mapping[str, str], remedy: str = "", droppable: bool = False) -> list[Problem]:
    """One problem of all files in ``found`` (file -> detail), or none."""
    if not found:
        return []
    first = next(iter(found))
    return [Problem(what, first, len(found), found[first], remedy, droppable)]


# ---- class names


def parse_classes(text: str) -> tuple[str, ...]:
    """Names from ``a,b,c``, or from a JSON file with a list of names or ``{"classes": [...]}``.

    Raises:
        ClassNamesError: an unreadable file, or names that are empty, repeated or not text.
    """
    if text.lower().endswith(".json"):
        names = _classes_file(Path(text))
    else:
        names = [name.strip() for name in text.split(",")]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise ClassNamesError(f"class names {text}: every class needs a name, not {names!r}")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ClassNamesError(f"class names {text}: {repeated[0]!r} is there more than once")
    return tuple(names)


def _classes_file(path: Path) -> list:
    wanted = 'a list of names or {"classes": [names]}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClassNamesError(f"cannot read class names from {path} ({error}); expected {wanted}") from None
    names = content.get("classes") if isinstance(content, dict) else content
    if not isinstance(names, list):
        raise ClassNamesError(f"no class names in {path}; expected {wanted}")
    return names


# ---- images and label maps


def find_files(folder: str | Path, suffix: str) -> dict[str, Path]:
    """Files below ``folder`` that end in ``suffix``, by relative name without it; no hidden files."""
    found = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.endswith(suffix) and not name.startswith("."):
                path = Path(parent, name)
                found[path.relative_to(folder).as_posix().removesuffix(suffix)] = path
    return dict(sorted(found.items()))


def common_suffix(folder: str | Path) -> str | None:
    """``.png`` if all images below ``folder`` are ``*.png``; ``None`` if they differ or there is none."""
    suffixes = {path.suffix for path in find_files(folder, "").values()}
    images = {suffix for suffix in suffixes if suffix.lower() in IMAGE_SUFFIXES}
    return images.pop() if len(images) == 1 else None


def check_folder(folder: str | Path, files: Mapping[str, Path], suffix: str) -> list[Problem]:
    """The problem of an empty folder, or of one whose files have other suffixes."""
    if files:
        return []
    others = [str(path) for path in find_files(folder, "").values()]
    detail = f"it has {len(others)} other files, such as {others[0]}" if others else "it is empty"
    return [Problem(f"folder without any *{suffix}", str(folder), 1, detail)]


def check_pairs(images: Mapping[str, Path], maps: Mapping[str, Path]) -> list[Problem]:
    """Images without a label map and label maps without an image, by name."""
    alone = {str(path): "" for name, path in images.items() if name not in maps}
    orphans = {str(path): "" for name, path in maps.items() if name not in images}
    return [
        *gather("images without a label map", alone, droppable=True),
        *gather("label maps without an image", orphans),
    ]


def _fits(header: Header, wh: tuple[int, ...]) -> bool:
    """Whether training can use an image with annotations of this (width, height).

    It reads the image as it is stored if only that has the size of the annotations.
    """
    return wh in (header.upright, header.stored)


def wrong_values(
    values: Iterable[int], num_classes: int, ignore_index: int = 255, reduce_zero_label: bool = False
) -> list[int]:
    """Values of a label map that are neither a class nor ignored, ascending.

    With ``reduce_zero_label`` the value 0 is ignored and the classes are 1 to ``num_classes``.
    """
    first = int(reduce_zero_label)
    allowed = {*range(first, num_classes + first), ignore_index}
    if reduce_zero_label:
        allowed |= {0, 255}
    return sorted({int(value) for value in values} - allowed)


class PairCheck:
    """Collects the faults of (image, label map) pairs, checked one by one.

    Args:
        num_classes: number of classes of the model.
        ignore_index: value of unlabelled pixels.
        reduce_zero_label: whether 0 means unlabelled and classes count from 1.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, reduce_zero_label: bool = False) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.reduce_zero_label = reduce_zero_label
        self.unreadable: dict[str, str] = {}
        self.sizes: dict[str, str] = {}
        self.modes: dict[str, str] = {}
        self.values: dict[str, str] = {}

    def add(self, image: Path, label_map: Path) -> None:
        """Check one pair: sizes from headers, values of the whole map."""
        path = image
        try:
            header = read_header(image)
            path = label_map
            pixels = label_numbers(label_map.read_bytes())
        except ChannelsError as error:
            self.modes[str(label_map)] = f"it has {error.channels}"
            return
        except (OSError, PictureError) as error:
            self.unreadable[str(path)] = str(error)
            return
        wh = pixels.shape[::-1]
        if not _fits(header, wh):
            self.sizes[str(label_map)] = f"{size_text(wh)}, its image {size_text(header.upright)}"
        wrong = wrong_values(np.unique(pixels), self.num_classes, self.ignore_index, self.reduce_zero_label)
        if wrong:
            self.values[str(label_map)] = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")

    def problems(self) -> list[Problem]:
        """The problems found so far."""
        first = int(self.reduce_zero_label)
        also = "0 and 255 mean" if self.reduce_zero_label else f"{self.ignore_index} means"
        last = self.num_classes - 1 + first
        allowed = f"{self.num_classes} classes have the values {first} to {last}, {also} unlabelled"
        one = "a map holds one class number per pixel"
        return [
            *gather("files that cannot be read", _sorted(self.unreadable), droppable=True),
            *gather("label maps with more than one channel", _sorted(self.modes), one, droppable=True),
            *gather("label maps of another size than their image", _sorted(self.sizes), droppable=True),
            *gather("label maps with wrong values", _sorted(self.values), allowed),
        ]


def _sorted(found: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(found.items()))


# ---- annotation files in COCO's format


def read_categories(path: str | Path) -> list[dict[str, Any]]:
    """The categories of an annotation file, without parsing the rest of a large one.

    Raises:
        ClassNamesError: not a JSON file, or one without named categories.
    """
    key, decoder = b'"categories"', json.JSONDecoder()
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = content.rfind(key) + len(key)
            tail = content[start : start + (4 << 20)]  # 4 MiB hold 50,000 categories
        found, _ = decoder.raw_decode(tail.decode("utf-8", "ignore").lstrip(": \t\r\n"))
    except (OSError, ValueError):
        found = _parsed(path).get("categories")
    named = isinstance(found, list) and all(isinstance(c, dict) and {"id", "name"} <= c.keys() for c in found)
    if not found or not named:
        raise ClassNamesError(f"no categories with id and name in {path}")
    return found


def _parsed(path: str | Path) -> dict:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClassNamesError(f"cannot read annotations from {path} ({error})") from None
    if not isinstance(content, dict):
        raise ClassNamesError(f"no COCO annotations in {path}: it holds a {type(content).__name__}")
    return content


def select_categories(names: Sequence[str], wanted: Sequence[str] | None, source: str) -> tuple[str, ...]:
    """``wanted`` in the order of the file, all ``names`` of the file if ``None``.

    mmdet numbers the classes in the order of the file, in whatever order they are requested.

    Raises:
        ClassNamesError: wanted names that the file lacks, or names that it has twice.
    """
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ClassNamesError(f"{source} has the category {repeated[0]!r} more than once")
    if wanted is None:
        return tuple(names)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise ClassNamesError(
            f"{source} has no category {missing[0]!r} ({len(missing)} of {len(wanted)} names are missing);"
            f" it has {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        )
    return tuple(name for name in names if name in wanted)


def check_coco(path: str | Path, image_folder: str | Path) -> list[Problem]:
    """Faults of an annotation file and of its images.

    Annotations are judged by :func:`convnext_dense.data.coco_repair.repair`, as when training reads the file.
    Images are missing, unreadable, or of another size than annotated.
    """
    folder = Path(image_folder)

    def wh_of(file_name: str) -> tuple[int, int] | None:
        return size_on_disk(folder / file_name)

    content = _parsed(path)
    try:
        if content.get("annotations"):
            repaired, faults = repair(content, wh_of=wh_of)
            images = repaired["images"]
        else:  # images alone, to be predicted
            findings = Findings()
            images = repair_images(content.get("images") or [], wh_of, findings).values()
            faults = findings.faults()
    except AnnotationFileError as error:
        return [Problem(f"annotation file that cannot be used: {error}", str(path), 1)]
    if not images:
        return [Problem("annotation file without images", str(path), 1)]
    return [
        *_check_files(images, folder, path),
        *(_as_problem(fault, path) for fault in faults),
    ]


def _check_files(images: Iterable[Mapping], folder: Path, path: str | Path) -> list[Problem]:
    """Images of an annotation file that are missing, unreadable, or of another size than annotated."""
    missing: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    sizes: dict[str, str] = {}
    for entry in images:
        file = folder / entry["file_name"]
        if not file.is_file():
            missing[str(file)] = ""
            continue
        try:
            header = read_header(file)
        except (OSError, PictureError) as error:
            unreadable[str(file)] = str(error)
            continue
        stated = (entry["width"], entry["height"])
        if not _fits(header, stated):
            sizes[str(file)] = f"{size_text(header.upright)}, the annotation file says {size_text(stated)}"
    return [
        *gather(f"images of {path} that are not there", missing, droppable=True),
        *gather("files that cannot be read", unreadable, droppable=True),
        *gather(f"images of another size than {path} says", sizes, droppable=True),
    ]


def _as_problem(fault: Fault, path: str | Path) -> Problem:
    kind = KINDS[fault.kind]
    return Problem(
        f"{kind.what} in {path}",
        fault.first[0],
        fault.count,
        droppable=True,
        annotation=True,
        harmless_in_evaluation=not kind.breaks_evaluation,
    )
