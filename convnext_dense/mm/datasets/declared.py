"""What the class of a dataset says about its files: suffixes, folders, class names, values.

The defaults of a class are not entries of a config, and not always in its signature (``REFUGEDataset`` takes
``**options`` and passes ``.png`` on). So the dataset is built, without reading its files, and asked.
"""

import contextlib
import inspect
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope

from convnext_dense.errors import DatasetNotFoundError, UserError
from convnext_dense.mm.datasets.paths import datasets_of
from convnext_dense.mm.type_names import class_of, type_name

PLAIN_READERS = ("BaseSegDataset", "BaseCDDataset")
"""Classes whose ``load_data_list`` takes the files of two folders, or those of a list, by their suffixes."""


class LabelMaps(NamedTuple):
    """How a dataset of label maps reads its files.

    Attributes:
        folders: of the images, of the label maps.
        suffixes: of the images, of the label maps.
        stored: class names of the values in the files, without the unlabelled one; ``None`` if unknown.
        classes: class names that are trained; fewer than ``stored`` where the config wants some of them.
        reduces_zero: whether the value 0 is unlabelled and the classes count from 1.
        label_map: class in the files -> class that is trained, 255 for none; ``None``: they are the same.
        own_reader: whether the class finds its files in another way than mmseg's ``BaseSegDataset``.
    """

    folders: tuple[Path, Path]
    suffixes: tuple[str, str]
    stored: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    reduces_zero: bool
    label_map: dict[int, int] | None
    own_reader: bool


def scope_of(cfg: Config) -> contextlib.AbstractContextManager:
    """The toolbox in which the names of types in ``cfg`` are looked up: two have a ``CityscapesDataset``."""
    fallback = "mmseg" if "decode_head" in (cfg.get("model") or {}) else "mmdet"
    scope = cfg.get("default_scope")
    return DefaultScope.overwrite_default_scope(fallback if scope in (None, "mmengine") else scope)


def dataset_class(data: Mapping) -> type | None:
    """The class of a dataset's config in the current scope; ``None`` if it is not registered."""
    with DATASETS.switch_scope_and_registry(None) as registry:
        found = class_of(data["type"], registry)
    return found if inspect.isclass(found) else None


def is_kind(data: Mapping, *names: str) -> bool:
    """Whether the class of a dataset, or one that it inherits from, has one of these names."""
    kind = dataset_class(data)
    return any(base.__name__ in names for base in kind.__mro__) if kind else type_name(data) in names


def as_built(data: Mapping, **changes: Any) -> Any:
    """The dataset of a config without pipeline and, unless ``changes`` say so, before it reads its files.

    Raises:
        UserError: the class refuses the config, or its files.
        DatasetNotFoundError: a file that the class reads at once.
    """
    entry = ConfigDict({**data, "pipeline": [], "lazy_init": True, "test_mode": False, **changes})
    try:
        # classes report their progress on stdout
        with DATASETS.switch_scope_and_registry(None) as registry, contextlib.redirect_stdout(io.StringIO()):
            return registry.build(entry)
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"{type_name(data)}: no file {error.filename or error}") from None
    except Exception as error:  # a class's own code raises anything for a file that it does not understand
        raise UserError(_refusal(data, error)) from None


def _refusal(data: Mapping, error: Exception) -> str:
    """The line for a dataset that its class did not build."""
    own = getattr(dataset_class(data), "METAINFO", {}).get("classes") or ()
    stated = (data.get("metainfo") or {}).get("classes") or ()
    unknown = [name for name in stated if name not in own]
    if own and unknown and "subset" in str(error):
        return (
            f"metainfo.classes of {type_name(data)}: {unknown[0]!r} is not one of its {len(own)} classes, "
            "and it takes only some of these; for label values of your own give --classes, or "
            "type=BaseSegDataset"
        )
    if "palette" in str(error) and (palette := (data.get("metainfo") or {}).get("palette")):
        return (
            f"metainfo of {type_name(data)} has {len(palette)} colours (palette) for {len(stated or own)} "
            "classes; give one per class, or leave palette out"
        )
    if "need at least one array" in str(error):  # mmengine packs an empty list
        kept = (
            f"filter_cfg={dict(data['filter_cfg'])}" if data.get("filter_cfg") else "the class's own filter"
        )
        return f"{type_name(data)}: no image is left of {data.get('ann_file')}; check {kept} and the classes"
    where = f" in {data['ann_file']}" if data.get("ann_file") else ""
    said = str(error).strip().split("\n")[0] or type(error).__name__
    missing = f"no entry {said}" if isinstance(error, KeyError) else said
    return f"{type_name(data)} cannot be used{where}: {missing}"


def label_maps_of(data: Mapping) -> LabelMaps:
    """How the class of a dataset of label maps reads its files.

    Raises:
        UserError: the class refuses the config.
    """
    dataset = as_built(data)
    kind = type(dataset)
    prefix = dataset.data_prefix
    known = getattr(kind, "METAINFO", {}).get("classes")
    classes = dataset.metainfo.get("classes")
    reader = getattr(kind, "load_data_list", None)
    own_reader = getattr(reader, "__qualname__", "").partition(".")[0] not in PLAIN_READERS
    if classes is None and own_reader:  # they may be in the file, as in the Decathlon's
        classes = as_built(data, lazy_init=False).metainfo.get("classes")
    return LabelMaps(
        (Path(prefix.get("img_path") or ""), Path(prefix.get("seg_map_path") or "")),
        (getattr(dataset, "img_suffix", ".jpg"), getattr(dataset, "seg_map_suffix", ".png")),
        tuple(known or classes or ()) or None,
        tuple(classes or ()) or None,
        bool(getattr(dataset, "reduce_zero_label", False)),
        getattr(dataset, "label_map", None),
        own_reader,
    )


def takes_some_classes(data: Mapping) -> bool:
    """Whether a dataset of label maps trains some of the classes of its files, or numbers them anew."""
    known = getattr(dataset_class(data), "METAINFO", {}).get("classes")
    stated = (data.get("metainfo") or {}).get("classes")
    return bool(known and stated) and list(known) != list(stated)


def detection_classes_of(data: Mapping) -> tuple[str, ...]:
    """Class names of a detection dataset: the config's, those of its class, or of the file that it names."""
    dataset = as_built(data)
    classes = dataset.metainfo.get("classes")
    if not classes and hasattr(dataset, "_parse_label_file"):  # Open Images; its metainfo comes later
        classes = dataset._parse_label_file(dataset.label_file)[0]
    classes = (classes,) if isinstance(classes, str) else classes
    return tuple(classes or ())


def colours(classes: Sequence, given: Sequence = (), known: Mapping | None = None) -> list[tuple]:
    """A colour for each class: those given in its order, or known by its name, else one at random."""
    generator, known = random.Random(0), known or {}
    drawn = [tuple(generator.randrange(40, 256) for _ in range(3)) for _ in classes]
    named = [tuple(known.get(name, colour)) for name, colour in zip(classes, drawn, strict=True)]
    return [*map(tuple, given[: len(classes)]), *named[len(given) :]]


def with_colours(meta: Mapping) -> dict:
    """``meta`` with a list of one colour per class; words such as ``random``, and nothing, stay.

    mmdet takes a tuple for one colour of all classes, also a tuple of colours.
    """
    classes, palette = meta.get("classes") or (), meta.get("palette")
    if not isinstance(palette, list | tuple) or not palette:
        return dict(meta)
    if not isinstance(palette[0], Sequence):  # one colour alone, such as (220, 20, 60)
        return {**meta, "palette": [tuple(palette) for _ in classes]}
    if len(palette) == len(classes):
        return {**meta, "palette": list(palette)}
    return {**meta, "palette": colours(classes, palette)}


def colours_of(meta: Mapping, count: int) -> tuple[tuple[int, int, int], ...]:
    """(red, green, blue) of each of ``count`` classes, where ``meta`` has no palette at random."""
    palette = with_colours(meta).get("palette")
    given = palette if isinstance(palette, list) else ()
    return tuple(tuple(map(int, colour)) for colour in colours(range(count), given))  # type: ignore[misc]


def dataset_meta(cfg: Config) -> dict:
    """Class names and colours of the config's test dataset, without reading its files."""
    data = datasets_of(cfg, ("test",))[0]
    with scope_of(cfg):
        known = getattr(dataset_class(data), "METAINFO", {})
    return {**known, **(data.get("metainfo") or {})}


def reads_coco(data: Mapping) -> bool:
    """Whether the class reads boxes or masks from a file in COCO's format with ``pycocotools``."""
    kind = dataset_class(data)
    if kind is None or not any(base.__name__ == "CocoDataset" for base in kind.__mro__):
        return type_name(data) == "CocoDataset"
    # LVIS inherits, but reads with another package; panoptic and video files have other entries
    return not is_kind(data, "LVISV05Dataset", "CocoPanopticDataset")


def is_plain_coco(data: Mapping) -> bool:
    """Whether an annotation file in COCO's format names the images as the class looks for them.

    Objects365 v2 leaves out the first folders of each name.
    """
    return reads_coco(data) and not is_kind(data, "Objects365V2Dataset")


def entries_of(dataset: Any) -> list[dict]:
    """What a built dataset says about each of its samples."""
    return [dataset.get_data_info(index) for index in range(len(dataset))]
