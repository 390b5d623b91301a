"""One walk through nested mappings, lists and tuples, such as configs, and one copy of them with changes."""

from collections.abc import Callable, Iterator, Mapping, Sequence

Path = tuple[str | int, ...]
"""Keys and indices from the outermost container to an inner one."""


def mappings(
    node: object,
    keys: Sequence[str] | None = None,
    stop: Callable[[Mapping], bool] = lambda mapping: False,
) -> Iterator[tuple[Path, Mapping]]:
    """Yield every mapping in ``node`` with its path: outer ones first, then in the order of their keys.

    A mapping may be changed when it is yielded: what it then contains is walked.

    Args:
        node: a mapping, list or tuple; for anything else nothing is yielded.
        keys: entries of a mapping in which to look for more, in this order; by default all of them. With
            ``()``, only ``node`` itself or the mappings in its list are yielded.
        stop: mappings for which it is true are yielded, but not entered. It is called after the yield.
    """
    if isinstance(node, Mapping):
        yield (), node
        if stop(node):
            return
        chosen = node if keys is None else [key for key in keys if key in node]
        inner = [(key, node[key]) for key in chosen]
    elif isinstance(node, list | tuple):
        inner = list(enumerate(node))
    else:
        return
    for key, value in inner:
        for path, mapping in mappings(value, keys, stop):
            yield (key, *path), mapping


def rebuilt(
    node: object,
    leaf: Callable[[object], object] = lambda value: value,
    keep: Callable[[object, object], bool] = lambda key, value: True,
) -> object:
    """Copy ``node`` as plain dicts and lists, with ``leaf(value)`` for each leaf and without some entries.

    Args:
        node: mappings, lists and tuples, or a leaf.
        leaf: what takes the place of a value that is no container.
        keep: whether a mapping's entry, its key and its old value, is in the copy.
    """
    if isinstance(node, Mapping):
        return {key: rebuilt(value, leaf, keep) for key, value in node.items() if keep(key, value)}
    if isinstance(node, list | tuple):
        return [rebuilt(value, leaf, keep) for value in node]
    return leaf(node)
