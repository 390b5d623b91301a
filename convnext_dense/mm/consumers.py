"""Which entries of a config are channels of its backbone, and what they become."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

Path = tuple[str | int, ...]

IN_CHANNELS = ("in_channels", "in_channel", "c1_in_channels")  # what consumers call their input's channels
NOT_CONSUMERS = ("backbone", "data_preprocessor", "train_cfg", "test_cfg")


class Change(NamedTuple):
    """One entry of a config: where, what it was, what it is, why."""

    path: Path
    old: object
    new: object
    why: str


def consumer_changes(model: Mapping, old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[Change]:
    """Channels of whatever reads the backbone: the neck, or without one every head."""
    neck = model.get("neck")
    if isinstance(neck, Mapping):
        yield from _channel_changes(neck, ("model", "neck"), old, new)
        yield from _handed_on(model, neck, old, new)
    elif neck:  # several in a row: only the first one sees the backbone
        yield from _channel_changes(neck[0], ("model", "neck", 0), old, new)
    else:
        for key, node in model.items():
            if key in NOT_CONSUMERS:
                continue
            nodes = [((key,), node)] if isinstance(node, Mapping) else []
            if isinstance(node, list | tuple):
                nodes = [((key, i), item) for i, item in enumerate(node) if isinstance(item, Mapping)]
            for path, consumer in nodes:
                yield from _channel_changes(consumer, ("model", *path), old, new)


def _channel_changes(
    node: Mapping, path: Path, old: tuple[int, ...], new: tuple[int, ...], top: bool = True
) -> Iterator[Change]:
    """Entries of one consumer that name channels of the old backbone, below it as far as they are sure."""
    for key, value in node.items():
        found = None
        if isinstance(value, list | tuple) and value and all(isinstance(v, int) for v in value):
            found = new_list(tuple(value), _index(node), old, new, key in IN_CHANNELS)
        elif isinstance(value, int) and (top or "in_index" in node) and key in IN_CHANNELS:
            found = new_number(value, 0 if key == "c1_in_channels" else _index(node), old, new)
        elif isinstance(value, Mapping):
            yield from _channel_changes(value, (*path, key), old, new, top=False)
        if found is not None and found != (list(value) if isinstance(value, list | tuple) else value):
            yield Change((*path, key), value, found, "channels of the new levels")


def _index(node: Mapping) -> object:
    index = node.get("in_index")
    return list(index) if isinstance(index, list | tuple) else index


def new_list(
    value: tuple[int, ...], index: object, old: tuple[int, ...], new: tuple[int, ...], is_input: bool
) -> list[int] | None:
    """Channels of several levels, or ``None`` when they are not those of the backbone.

    Args:
        value: the entry as it is.
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
    """Channels of one level: of ``index`` if that fits, else of the deepest level with that number."""
    if isinstance(index, int) and -len(old) <= index < len(old) and old[index] == value:
        return new[index]
    fitting = [i for i, channels in enumerate(old) if channels == value]
    return new[fitting[-1]] if fitting else None


def _handed_on(model: Mapping, neck: Mapping, old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[Change]:
    """A neck that passes the backbone's levels on as they are (SSD): its outputs and the heads' inputs."""
    out = neck.get("out_channels")
    if not isinstance(out, list | tuple) or tuple(out[: len(old)]) != old:
        return
    passed = [*new, *out[len(old) :]]
    yield Change(("model", "neck", "out_channels"), out, passed, "levels that the neck passes on")
    for key, node in model.items():
        if key != "neck" and isinstance(node, Mapping) and tuple(node.get("in_channels") or ()) == tuple(out):
            path = ("model", key, "in_channels")
            yield Change(path, node["in_channels"], passed, "channels that the neck gives")
