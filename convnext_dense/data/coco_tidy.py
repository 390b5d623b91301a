"""What converters write in other ways than COCO's own file, and what means the same: nothing is lost.

Windows' separators in file names, widths and heights as text or not at all, ids that are text in one list and
numbers in the other. :func:`tidy` writes them as COCO does. Ids that are whole floating-point numbers need
nothing: they are equal to, and found as, the same integers.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeGuard

from convnext_dense.data.coco_masks import WH
from convnext_dense.data.spellings import existing

Add = Callable[[str, Callable[[], str]], None]
"""Takes a kind of fault and what names the entry."""

Id = int | float | str


def is_id(value: Any) -> TypeGuard[Id]:
    """Whether ``value`` can be an id: a whole number, also as 17.0, or text."""
    return isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())


def is_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def is_size(entry: Mapping) -> bool:
    """Whether an image has a width and a height."""
    return all(is_number(entry.get(key)) and entry[key] >= 1 for key in ("width", "height"))


def named(what: str, number: Any, detail: str | None) -> str:
    """The name of an entry in a report."""
    return f"{what} {number}" + (f" ({detail})" if detail else "")


def tidy(
    content: Mapping,
    wh_of: Callable[[str], WH | None],
    exists: Callable[[str], bool],
    add: Add,
) -> Mapping:
    """``content`` as COCO would write it; the same object if it needs nothing. It is not changed.

    Args:
        content: parsed annotation file.
        wh_of: (width, height) of an image file by its ``file_name``, ``None`` if it cannot be read.
        exists: whether there is a file of this name.
        add: is called for each entry that is written in another way.
    """
    changes: dict[str, list] = {}
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key, []), list):
            return content
    images = content.get("images", [])
    better = [_tidy_image(entry, wh_of, exists, add) for entry in images]
    if any(new is not old for new, old in zip(better, images, strict=True)):
        changes["images"] = better
    annotations = content.get("annotations", [])
    owners, classes = _ids(better), _ids(content.get("categories", []))
    matched = [_matched(entry, owners, classes, add) for entry in annotations]
    if any(new is not old for new, old in zip(matched, annotations, strict=True)):
        changes["annotations"] = matched
    return {**content, **changes} if changes else content


def _ids(entries: Iterable) -> set[Id]:
    return {entry["id"] for entry in entries if isinstance(entry, dict) and is_id(entry.get("id"))}


# ---- images


def _tidy_image(
    entry: Any, wh_of: Callable[[str], WH | None], exists: Callable[[str], bool], add: Add
) -> Any:
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name or not is_id(entry.get("id")):
        return entry
    where = partial(named, "image", entry["id"], name)
    changes: dict[str, Any] = {}
    if (there := existing(name, exists)) != name:
        add("spelling", where)
        changes["file_name"] = there
    if not is_size(entry):
        wh = size_in_words(entry)
        kind = "size as text"
        if wh is None:
            wh, kind = wh_of(there), "image size"
        if wh is not None:
            add(kind, where)
            changes |= {"width": wh[0], "height": wh[1]}
    return {**entry, **changes} if changes else entry


def size_in_words(entry: Mapping) -> WH | None:
    """(width, height) that are numbers as text, ``None`` for anything else."""
    sides = []
    for key in ("width", "height"):
        try:
            side = float(entry[key])
        except (KeyError, TypeError, ValueError):
            return None
        if not side.is_integer() or side < 1:
            return None
        sides.append(int(side))
    return sides[0], sides[1]


# ---- annotations


def _matched(entry: Any, owners: set[Id], classes: set[Id], add: Add) -> Any:
    """An annotation whose image and category are written as in their lists."""
    if not isinstance(entry, dict):
        return entry
    changes = {}
    for key, known in (("image_id", owners), ("category_id", classes)):
        number = entry.get(key)
        if is_id(number) and number not in known and (other := twin(number)) in known:
            changes[key] = other
    if not changes:
        return entry
    add("reference", partial(named, "annotation", entry.get("id"), f"image {entry.get('image_id')}"))
    return {**entry, **changes}


def twin(number: Id) -> Id | None:
    """``17`` for ``"17"`` or ``"17.0"``, ``"17"`` for ``17``; ``None`` if text is no whole number."""
    if not isinstance(number, str):
        return str(int(number))
    try:
        value = float(number)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None
