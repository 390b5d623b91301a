"""Which entries of a config are channels of its backbone, and what they become."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from convnext_dense.support.nested import Path, mappings

IN_CHANNELS = ("in_channels", "in_channel", "c1_in_channels")  # how consumers name their input channels
HEADS = ("decode_head", "auxiliary_head")  # of a segmentor: they say by `in_index` what they read
NOT_CONSUMERS = ("backbone", "data_preprocessor", "train_cfg", "test_cfg")


class Change(NamedTuple):
    """One changed entry of a config: path, old value, new value, reason."""

    path: Path
    old: object
    new: object
    why: str


def consumer_changes(
    model: Mapping, old: tuple[int, ...], new: tuple[int, ...], passed: Mapping[int, int]
) -> Iterator[Change]:
    """Channels of the parts that read the backbone: the neck, or every head if there is no neck.

    Args:
        model: the model's config.
        old: channels of the old levels.
        new: channels of the new levels.
        passed: output of the neck -> level of the backbone that the neck passes on unchanged.
    """
    neck = model.get("neck")
    if isinstance(neck, Mapping):
        yield from _channel_changes(neck, ("model", "neck"), old, new)
        yield from _handed_on(model, neck, old, new)
        yield from _passed_changes(model, old, new, passed)
    elif neck:  # several in a row: only the first one reads the backbone
        yield from _channel_changes(neck[0], ("model", "neck", 0), old, new)
    else:
        for path, head in _heads(model):
            yield from _channel_changes(head, path, old, new)
        yield from _region_changes(model.get("roi_head") or {}, old, new)


def read_levels(model: Mapping, count: int) -> tuple[int, ...]:
    """Which of the ``count`` maps of a backbone its readers take; all of them where that is not said."""
    heads = [head for key in HEADS for _, head in mappings(model.get(key), keys=())]
    if model.get("neck") or not heads:
        return tuple(range(count))
    found: set[int] = set()
    for head in heads:
        index = head.get("in_index", -1)
        found.update(i % count for i in (index if isinstance(index, list | tuple) else [index]))
        if "c1_in_channels" in head:  # reads the first map as well
            found.add(0)
    return tuple(sorted(found))


def _heads(model: Mapping) -> Iterator[tuple[Path, Mapping]]:
    """Heads and other parts of a model that read maps, with their paths."""
    for key, node in model.items():
        if key not in (*NOT_CONSUMERS, "neck"):
            for path, head in mappings(node, keys=()):
                yield ("model", key, *path), head


def _passed_changes(
    model: Mapping, old: tuple[int, ...], new: tuple[int, ...], passed: Mapping[int, int]
) -> Iterator[Change]:
    """Heads that read a level of the backbone through a neck that does not change it (JPU)."""
    for path, head in _heads(model):
        index = head.get("in_index", -1)
        level = passed.get(index) if isinstance(index, int) else None  # a head may read several
        if level is not None and head.get("in_channels") == old[level]:
            why = "channels of a level that the neck passes on"
            yield Change((*path, "in_channels"), old[level], new[level], why)


def _region_changes(roi_head: Mapping, old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[Change]:
    """Channels of regions cut directly from the backbone's maps, which stay the same up to the heads."""
    for key, node in roi_head.items():
        entry = "out_channels" if key.endswith("_roi_extractor") else "in_channels"
        if isinstance(node, Mapping) and isinstance(node.get(entry), int):
            found = new_number(node[entry], None, old, new)
            if found not in (None, node[entry]):
                yield Change(("model", "roi_head", key, entry), node[entry], found, "channels of the regions")


def _channel_changes(
    node: Mapping, path: Path, old: tuple[int, ...], new: tuple[int, ...], top: bool = True
) -> Iterator[Change]:
    """Entries of one consumer that name channels of the old backbone; nested ones only if unambiguous."""
    for key, value in node.items():
        found = None
        if isinstance(value, list | tuple) and value and all(isinstance(v, int) for v in value):
            found = new_list(tuple(value), _index(node), old, new, key in IN_CHANNELS)
        elif isinstance(value, int) and (top or "in_index" in node) and key in IN_CHANNELS:
            found = new_number(value, 0 if key == "c1_in_channels" else _index(node), old, new)
        elif isinstance(value, Mapping):
            yield from _channel_changes(value, (*path, key), old, new, top=False)
        if isinstance(value, tuple) and found is not None:
            found = tuple(found)  # some classes require a tuple
        if found is not None and found != value:
            yield Change((*path, key), value, found, "channels of the new levels")


def _index(node: Mapping) -> object:
    index = node.get("in_index")
    return list(index) if isinstance(index, list | tuple) else index


def new_list(
    value: tuple[int, ...], index: object, old: tuple[int, ...], new: tuple[int, ...], is_input: bool
) -> list[int] | None:
    """Channels of several levels, or ``None`` when they are not those of the backbone.

    Args:
        value: the present entry.
        index: levels that it belongs to, if the config says so (``in_index``).
        old: channels of the old levels.
        new: channels of the new levels.
        is_input: whether the key means input channels; other lists must equal ``old`` as a whole.
    """
    if isinstance(index, list) and len(index) == len(value) and value == tuple(old[i] for i in index):
        return [new[i] for i in index]
    if value == old:
        return list(new)
    distinct = len(set(old)) == len(old)
    if is_input and distinct and set(value) <= set(old):
        return [new[old.index(channels)] for channels in value]
    return None


def new_number(value: int, index: object, old: tuple[int, ...], new: tuple[int, ...]) -> int | None:
    """Channels of one level: level ``index`` if it fits, else the deepest level with that number."""
    if isinstance(index, int) and -len(old) <= index < len(old) and old[index] == value:
        return new[index]
    fitting = [i for i, channels in enumerate(old) if channels == value]
    return new[fitting[-1]] if fitting else None


def _handed_on(model: Mapping, neck: Mapping, old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[Change]:
    """Outputs of a neck that passes on the backbone's levels unchanged (SSD), and the heads' inputs."""
    out = neck.get("out_channels")
    if not isinstance(out, list | tuple) or tuple(out[: len(old)]) != old:
        return
    passed = type(out)([*new, *out[len(old) :]])
    yield Change(("model", "neck", "out_channels"), out, passed, "levels that the neck passes on")
    for key, node in model.items():
        if key != "neck" and isinstance(node, Mapping) and tuple(node.get("in_channels") or ()) == tuple(out):
            path = ("model", key, "in_channels")
            yield Change(path, node["in_channels"], passed, "channels that the neck gives")
