"""Checks of an annotation file in COCO's format before training: its categories, annotations and images."""

import json
import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from convnext_dense.data.check import ClassNamesError, Problem, fits, gather
from convnext_dense.data.coco_repair import (
    KINDS,
    AnnotationFileError,
    Fault,
    Findings,
    repair,
    repair_images,
)
from convnext_dense.data.coco_tidy import tidy
from convnext_dense.data.image_headers import Header, PictureError, read_header, size_text
from convnext_dense.data.spellings import read_json
from convnext_dense.data.views import wh_on_disk


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
        content = read_json(path)
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
            f" it has {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}; --classes names others"
        )
    return tuple(name for name in names if name in wanted)


def check_coco(
    path: str | Path,
    image_folder: str | Path,
    header_of: Callable[[Path], Header | None] = read_header,
    masks: bool = False,
    seen: Callable[[Mapping, Sequence[Fault]], None] = lambda content, faults: None,
) -> list[Problem]:
    """Faults of an annotation file and of its images.

    Annotations are judged by :func:`convnext_dense.data.coco_repair.repair`, as when training reads the file.
    Images are missing, unreadable, or of another size than annotated.

    Args:
        path: the annotation file.
        image_folder: folder of its images.
        header_of: reads the size of an image.
        masks: whether masks are used.
        seen: gets the content after the repair, and the faults.
    """
    folder = Path(image_folder)

    def wh_of(file_name: str) -> tuple[int, int] | None:
        return wh_on_disk(folder / file_name)

    def exists(file_name: str) -> bool:
        return (folder / file_name).is_file()

    content = _parsed(path)
    try:
        if content.get("annotations"):
            repaired, faults = repair(content, masks, wh_of, exists=exists)
            images = repaired["images"]
            seen(repaired, faults)
        else:  # images alone, to be predicted
            findings = Findings()
            tidied = tidy({"images": content.get("images") or []}, wh_of, exists, findings.add)
            images = repair_images(tidied["images"], wh_of, findings).values()
            faults = findings.faults()
            seen({**content, "images": [*images], "annotations": []}, faults)
    except AnnotationFileError as error:
        return [Problem(f"annotation file that cannot be used: {error}", str(path), 1)]
    if not images:
        return [Problem("annotation file without images", str(path), 1)]
    return [
        *_check_files(images, folder, path, header_of),
        *(_as_problem(fault, path) for fault in faults),
    ]


def _check_files(
    images: Iterable[Mapping],
    folder: Path,
    path: str | Path,
    header_of: Callable[[Path], Header | None],
) -> list[Problem]:
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
            header = header_of(file)
        except (OSError, PictureError) as error:
            unreadable[str(file)] = str(error)
            continue
        stated = (entry["width"], entry["height"])
        if header is not None and not fits(header, stated):
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
        harmless_in_evaluation=kind.tidied or not kind.breaks_evaluation,
    )
