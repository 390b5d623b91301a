"""Where a config looks for its data, and one clear error when it is not there."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict

from convnext_dense.errors import DatasetNotFoundError
from convnext_dense.support.nested import mappings

SPLITS = ("train", "val", "test")
INNER = ("dataset", "datasets")  # entries of wrappers such as RepeatDataset and ConcatDataset


def iter_datasets(node: object) -> Iterator[ConfigDict]:
    """Dataset configs that name files, alone or inside wrappers."""
    return (data for _, data in mappings(node, INNER) if "data_prefix" in data or "ann_file" in data)


def datasets_of(cfg: Config, splits: tuple[str, ...] = SPLITS) -> list[ConfigDict]:
    """Dataset configs of the given splits, in their order."""
    return [data for split in splits for data in iter_datasets(cfg.get(f"{split}_dataloader"))]


def set_data_root(cfg: Config, root: str) -> None:
    """Point every dataset at ``root``, and every evaluator path that lay under an old root."""
    root = f"{root.rstrip('/')}/"
    old_roots = {data["data_root"] for data in datasets_of(cfg) if data.get("data_root")}
    for data in datasets_of(cfg):
        data["data_root"] = root
    for split in SPLITS:
        for _, evaluator in mappings(cfg.get(f"{split}_evaluator"), keys=()):
            for key, value in evaluator.items():
                for old in old_roots:
                    if isinstance(value, str) and value.startswith(old):
                        evaluator[key] = root + value[len(old) :].lstrip("/")


def required_paths(data: ConfigDict) -> list[Path]:
    """Annotation file and image folders of one dataset config."""
    root = Path(data.get("data_root") or "")
    parts = [data.get("ann_file"), *(data.get("data_prefix") or {}).values()]
    return [root / part for part in parts if part]


def check_data(cfg: Config, splits: tuple[str, ...] = SPLITS) -> None:
    """Raise :class:`DatasetNotFoundError` with the first missing path, the expected layout and the remedy."""
    # files in a storage backend (S3, petrel) are not checked here
    local = [data for data in datasets_of(cfg, splits) if not data.get("backend_args")]
    paths = list(dict.fromkeys(path for data in local for path in required_paths(data)))
    missing = [path for path in paths if not path.exists()]
    if missing:
        layout = "\n".join(f"  {'missing' if path in missing else 'found  '}  {path}" for path in paths)
        raise DatasetNotFoundError(
            f"no dataset at {missing[0]} (give --data-root FOLDER); the layout expected:\n{layout}"
        )


def image_paths(dataset: object) -> list[str]:
    """Paths of the images of a built dataset, in its order; none if it does not list them."""
    if not hasattr(dataset, "get_data_info"):
        return []
    return [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
