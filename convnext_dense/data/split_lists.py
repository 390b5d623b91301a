"""Images and label maps of a segmentation set: those of a list of names, or all files of two folders.

mmseg's ``BaseSegDataset`` reads one name per line, without its suffix; a name may hold spaces.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from convnext_dense.data.check import Problem, check_folder, check_pairs, find_files, gather
from convnext_dense.data.spellings import read_text
from convnext_dense.errors import DataError


class PairFiles(NamedTuple):
    """Files of a set by name.

    Attributes:
        images, maps: name -> file that is there.
        problems: names without a file.
    """

    images: dict[str, Path]
    maps: dict[str, Path]
    problems: list[Problem]


def read_names(path: str | Path) -> list[str]:
    """Names of a split list, one per line, without the white space around them; empty lines are left out.

    Raises:
        DataError: not a text file in UTF-8, or one without names.
    """
    try:
        names = [line.strip() for line in read_text(path).split("\n")]
    except OSError as error:
        raise DataError(f"cannot read the list of names {path} ({error.strerror})") from None
    if not any(names):
        raise DataError(f"no names in {path}; a line holds one name, without the suffix of the file")
    return [name for name in names if name]


def pair_files(
    folders: tuple[Path, Path], suffixes: tuple[str, str], names: Sequence[str] | None, source: str
) -> PairFiles:
    """Images and label maps of a set.

    Args:
        folders: of the images, of the label maps.
        suffixes: of the images, of the label maps.
        names: those of a list, which may lie anywhere below the folders; ``None``: all files.
        source: name of the list, for messages.
    """
    if names is None:
        images, maps = (find_files(folder, suffix) for folder, suffix in zip(folders, suffixes, strict=True))
        empty = [
            problem
            for folder, files, suffix in zip(folders, (images, maps), suffixes, strict=True)
            for problem in check_folder(folder, files, suffix)
        ]
        pairs = check_pairs(images, maps)
        problems = empty or [_explained(problem, folders, suffixes, images) for problem in pairs]
        return PairFiles(images, maps, problems)
    wanted = {name: folders[0] / (name + suffixes[0]) for name in names}
    images = {name: path for name, path in wanted.items() if path.is_file()}
    maps = {name: path for name in names if (path := folders[1] / (name + suffixes[1])).is_file()}
    lost = {str(path): "" for name, path in wanted.items() if name not in images}
    if lost:
        first = next(name for name in names if name not in images)
        lost[next(iter(lost))] = why_missing(first, folders[0], suffixes[0])
    alone = {str(path): "" for name, path in images.items() if name not in maps}
    missing = gather(f"images of {source} that are not there", lost, droppable=bool(images))
    return PairFiles(images, maps, [*missing, *gather("images without a label map", alone, droppable=True)])


def why_missing(name: str, folder: Path, suffix: str) -> str:
    """Why a name of a list may have no file, as far as one can see."""
    stem = Path(name).stem
    if name.lower().endswith(suffix.lower()) and (folder / name).is_file():
        return f"the list must name {stem}: {suffix} is added to every name"
    if other := with_other_suffix(folder, name, suffix):
        return f"there is {other}, and the data set reads names that end in {suffix}"
    first = name.split()[0] if name.split() else name
    if first != name and any((folder / (first + end)).is_file() for end in ("", suffix)):
        return "a line holds one name and nothing else"
    return ""


def with_other_suffix(folder: Path, name: str, suffix: str) -> str | None:
    """A file of the same name whose suffix differs, perhaps in its case only."""
    parent = (folder / name).parent
    stem = Path(name).name
    entries: Iterable[Path] = parent.iterdir() if parent.is_dir() else ()
    found = sorted(path.name for path in entries if path.stem == stem and path.suffix != suffix)
    return found[0] if found else None


def _explained(
    problem: Problem, folders: tuple[Path, Path], suffixes: tuple[str, str], images: Mapping[str, Path]
) -> Problem:
    """Say of label maps without an image where the image may be: mmseg reads one suffix, as it is written."""
    if problem.what != "label maps without an image":
        return problem
    name = Path(problem.first).relative_to(folders[1]).as_posix().removesuffix(suffixes[1])
    # a_gt.png belongs to the image a; 10.png is no map of the image 1
    begins = [image for image in images if name.startswith(image) and not name[len(image)].isalnum()]
    if begins:
        image = max(begins, key=len)
        end = name.removeprefix(image) + suffixes[1]
        return problem._replace(detail=f"there is {images[image].name}", remedy=f"set seg_map_suffix={end!r}")
    other = with_other_suffix(folders[0], name, suffixes[0])
    if other is None:
        return problem
    return problem._replace(
        detail=f"there is {other}, and the data set reads names that end in {suffixes[0]}",
        remedy="rename the images so that all have one suffix, or set img_suffix",
    )


def listed(root: Path, data: Mapping) -> Path | None:
    """The list of names of a dataset's config; ``None`` if it takes all files, as for a folder."""
    path = root / data["ann_file"] if data.get("ann_file") else None
    return None if path is None or path.is_dir() else path
