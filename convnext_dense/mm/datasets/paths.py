"""Where a config looks for its data, and one clear error when it is not there."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict

from convnext_dense.errors import DatasetNotFoundError, UserError
from convnext_dense.support.nested import mappings

SPLITS = ("train", "val", "test")
NAMES_FILES = ("data_prefix", "ann_file", "data_root")
MORE_FILES = ("label_file", "meta_file", "hierarchy_file", "image_level_ann_file")  # of Open Images
INNER = ("dataset", "datasets")  # entries of wrappers such as RepeatDataset and ConcatDataset


def iter_datasets(node: object) -> Iterator[ConfigDict]:
    """Dataset configs that name files, alone or inside wrappers."""
    return (data for _, data in mappings(node, INNER) if any(key in data for key in NAMES_FILES))


def datasets_of(cfg: Config, splits: tuple[str, ...] = SPLITS) -> list[ConfigDict]:
    """Dataset configs of the given splits, in their order."""
    return [data for split in splits for data in iter_datasets(cfg.get(f"{split}_dataloader"))]


def local_datasets(cfg: Config, splits: tuple[str, ...] = SPLITS) -> list[ConfigDict]:
    """Dataset configs with files on disk, each once: the test set is often the val set."""
    unique: dict[tuple, ConfigDict] = {}
    for data in datasets_of(cfg, splits):
        if not data.get("backend_args"):
            unique.setdefault((str(data.get("type")), *required_paths(data)), data)
    return list(unique.values())


def set_data_root(cfg: Config, root: str) -> None:
    """Point every dataset at ``root``, and every evaluator path that lay under an old root.

    Raises:
        UserError: data sets of several folders would become the same one.
    """
    root = f"{root.rstrip('/')}/" if root.rstrip("/") else "/"
    old_roots = {data["data_root"] for data in datasets_of(cfg) if data.get("data_root")}
    _refuse_merging(cfg)
    for data in datasets_of(cfg):
        data["data_root"] = root
    # the longest first: one root may lie in another
    ordered = sorted((str(old).rstrip("/") for old in old_roots), key=len, reverse=True)
    for split in SPLITS:
        for _, evaluator in mappings(cfg.get(f"{split}_evaluator"), keys=("metrics",)):
            for key, value in list(evaluator.items()):
                if isinstance(value, str):
                    evaluator[key] = moved(value, ordered, root)
                elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
                    evaluator[key] = [moved(item, ordered, root) for item in value]


def moved(path: str, old_roots: Sequence[str], root: str) -> str:
    """``path`` below ``root`` if it lay below one of ``old_roots``, folders without a slash at their end."""
    for old in old_roots:
        if path.startswith(f"{old}/"):
            return root + path[len(old) :].lstrip("/")
    return path


def _refuse_merging(cfg: Config) -> None:
    """Raise an error if data sets differ in nothing but their folder."""
    seen: dict[tuple, str] = {}
    for split in SPLITS:
        for data in datasets_of(cfg, (split,)):
            prefix = data.get("data_prefix") or {}
            place = (split, str(data.get("type")), data.get("ann_file"), *map(str, prefix.items()))
            folder = os.path.normpath(data.get("data_root") or "")
            if seen.setdefault(place, folder) != folder:
                raise UserError(
                    f"--data-root: {split}_dataloader reads {seen[place]} and {folder}, which one folder "
                    "cannot replace; set data_root of each data set in the config"
                )


def required_paths(data: ConfigDict) -> list[Path]:
    """Annotation file and image folders of one dataset config."""
    root = Path(data.get("data_root") or "")
    parts = [data.get("ann_file"), *(data.get("data_prefix") or {}).values(), *map(data.get, MORE_FILES)]
    return [root / part for part in parts if part]


def expected_paths(cfg: Config, splits: tuple[str, ...] = SPLITS) -> dict[Path, list[str]]:
    """Files and folders on disk that data sets name -> the loaders that read them."""
    readers: dict[Path, list[str]] = {}
    for split in splits:
        for data in datasets_of(cfg, (split,)):
            if data.get("backend_args"):  # a storage backend (S3, petrel)
                continue
            for path in required_paths(data):
                loaders = readers.setdefault(path, [])
                if f"{split}_dataloader" not in loaders:
                    loaders.append(f"{split}_dataloader")
    return readers


def check_data(cfg: Config, splits: tuple[str, ...] = SPLITS) -> None:
    """Raise :class:`DatasetNotFoundError` with the first missing path, the expected layout and the remedy."""
    readers = expected_paths(cfg, splits)
    missing = [path for path in readers if not path.exists()]
    if missing:
        layout = "\n".join(
            f"  {'missing' if path in missing else 'found  '}  {path} ({', '.join(loaders)})"
            for path, loaders in readers.items()
        )
        raise DatasetNotFoundError(
            f"no dataset at {missing[0]} (give --data-root FOLDER); the layout expected:\n{layout}"
        )


def image_paths(dataset: object) -> list[str]:
    """Paths of the images of a built dataset, in its order; none if it does not list them."""
    if not hasattr(dataset, "get_data_info"):
        return []
    return [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
