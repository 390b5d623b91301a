"""Checks of detection datasets that are not read by ``pycocotools``: Pascal VOC's, LVIS, Open Images, ..."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict

from convnext_dense.data.check import Problem, gather
from convnext_dense.data.image_headers import PictureError, read_header
from convnext_dense.data.split_lists import read_names, with_other_suffix
from convnext_dense.data.voc_xml import XmlCheck
from convnext_dense.mm.datasets.declared import as_built, entries_of, is_kind, label_maps_of
from convnext_dense.mm.type_names import type_name

MAX_NAMES = 30_000
"""Longer lists take minutes to read: their files are not opened before the run does."""


def check_boxes(data: ConfigDict) -> tuple[list[Problem], int]:
    """Faults of a dataset with boxes, and its number of images.

    Faults are files that are missing or damaged, images of another size, and no box at all.

    Raises:
        UserError: the class does not understand its files.
        DatasetNotFoundError: a file that it names.
    """
    if not is_kind(data, "BaseDetDataset"):
        return [], 0
    problems: list[Problem] = []
    names: Counter[str] = Counter()
    if is_kind(data, "XMLDataset"):
        problems, names = _check_xml(data)
        if problems:  # the class would fail on them, without the name of the file
            return problems, 0
    dataset = as_built(data, lazy_init=False, filter_cfg=None)
    entries = entries_of(dataset)
    problems = _check_images(data, entries)
    for name in dataset.metainfo.get("classes") or ():
        names.pop(name, None)
    others, source = ", ".join(f"{name} ({n})" for name, n in names.most_common(5)), str(data.get("ann_file"))
    if not any(entry.get("instances") for entry in entries):
        what = f"{type_name(data)} without any box of its classes"
        there, remedy = f"its objects are {others}", "give --classes, or metainfo in the config"
        problems.append(Problem(what, source, 1, there, remedy) if others else Problem(what, source, 1))
    elif others:
        problems.append(
            Problem(
                f"objects of {source} whose names are no class",
                next(iter(names)),
                names.total(),
                others,
                droppable=True,
                harmless_in_evaluation=True,
            )
        )
    return problems, len(entries)


def _check_images(data: ConfigDict, entries: Sequence[dict]) -> list[Problem]:
    """Images that are missing, unreadable, or of another size than annotated."""
    missing: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    sizes: dict[str, str] = {}
    for entry in entries:
        path = Path(entry["img_path"])
        if not path.is_file():
            other = with_other_suffix(path.parent, path.stem, path.suffix)
            missing[str(path)] = f"there is {other}" if other else ""
            continue
        try:
            header = read_header(path)
        except (OSError, PictureError) as error:
            unreadable[str(path)] = str(error)
            continue
        stated = (entry.get("width"), entry.get("height"))
        if None not in stated and stated not in (header.upright, header.stored):
            is_wh = f"{header.upright[0]}x{header.upright[1]}"
            sizes[str(path)] = f"{is_wh}, annotated as {stated[0]}x{stated[1]}"
    remedy = ""
    if any(missing.values()) and is_kind(data, "XMLDataset", "CrowdHumanDataset", "OpenImagesDataset"):
        remedy = f"{type_name(data)} reads .jpg alone: convert the images"
    return [
        *gather(f"images of {data.get('ann_file')} that are not there", missing, remedy, droppable=True),
        *gather("files that cannot be read", unreadable, droppable=True),
        *gather(f"images of another size than {data.get('ann_file')} says", sizes, droppable=True),
    ]


def _check_xml(data: ConfigDict) -> tuple[list[Problem], Counter[str]]:
    """Faults of XML files, and the number of objects by name."""
    dataset = as_built(data)
    names = read_names(dataset.ann_file)
    check = XmlCheck()
    for name in names:
        check.add(name, _xml_path(dataset, name))
        if len(check.names) > MAX_NAMES:
            break
    return check.problems(str(dataset.ann_file)), check.objects


def _xml_path(dataset: Any, name: str) -> Path:
    """Where ``XMLDataset`` or ``WIDERFaceDataset`` looks for the annotations of an image."""
    if any(base.__name__ == "WIDERFaceDataset" for base in type(dataset).__mro__):
        return Path(dataset.data_prefix["img"], "Annotations", f"{name}.xml")
    return Path(dataset.sub_data_root, dataset.ann_subdir, f"{name}.xml")


def named_files(data: Mapping) -> Callable[[str], Path]:
    """A function from a name in the list of a dataset to a file: its annotations in XML, or its image."""
    if is_kind(data, "XMLDataset"):
        return partial(_xml_path, as_built(data))
    layout = label_maps_of(data)
    return lambda name: layout.folders[0] / (name + layout.suffixes[0])
