"""Checks of a data set before training: pure functions that return problems.

A problem names the first affected file and the number of files. Image sizes
come from file headers; the values of label maps need the whole file, so these two
checks take the maps one by one, in an order and up to a time that the caller sets.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convnext_dense.data.image_headers import (
    IMAGE_SUFFIXES,
    ChannelsError,
    Header,
    PictureError,
    read_header,
    size_text,
)
from convnext_dense.data.image_io import label_numbers
from convnext_dense.data.spellings import read_json, read_text
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
    """Names from ``a,b,c``, a JSON file with a list of names or ``{"classes": [...]}``, or lines of text.

    Raises:
        ClassNamesError: an unreadable file, or names that are empty, repeated or not text.
    """
    if text.lower().endswith(".json"):
        names = _classes_file(Path(text))
    elif Path(text).is_file():
        names = [line.strip() for line in read_text(text).splitlines() if line.strip()]
    elif text.lower().endswith(".txt"):
        raise ClassNamesError(f"cannot read class names from {text}: no such file")
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
        content = read_json(path)
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


def fits(header: Header, wh: tuple[int, ...]) -> bool:
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
        header_of: reads the sizes of an image; ``None``: it has no two dimensions to compare.
        maps: whether label maps are pictures; if not, their contents are not checked.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        reduce_zero_label: bool = False,
        header_of: Callable[[Path], Header | None] = read_header,
        maps: bool = True,
    ) -> None:
        self.header_of = header_of
        self.maps = maps
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.reduce_zero_label = reduce_zero_label
        self.unreadable: dict[str, str] = {}
        self.sizes: dict[str, str] = {}
        self.modes: dict[str, str] = {}
        self.values: dict[str, str] = {}
        self.held: dict[str, tuple[int, ...]] = {}  # label map -> its values; threads may share the check

    def add(self, image: Path, label_map: Path) -> None:
        """Check one pair: sizes from headers, values of the whole map."""
        path = image
        try:
            header = self.header_of(image)
            if not self.maps:
                return
            path = label_map
            pixels = label_numbers(label_map.read_bytes())
        except ChannelsError as error:
            self.modes[str(label_map)] = f"it has {error.channels}"
            return
        except (OSError, PictureError) as error:
            self.unreadable[str(path)] = str(error)
            return
        wh = pixels.shape[::-1]
        if header is not None and not fits(header, wh):
            self.sizes[str(label_map)] = f"{size_text(wh)}, its image {size_text(header.upright)}"
        held = tuple(np.unique(pixels).tolist())
        self.held[str(label_map)] = held
        wrong = wrong_values(held, self.num_classes, self.ignore_index, self.reduce_zero_label)
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
