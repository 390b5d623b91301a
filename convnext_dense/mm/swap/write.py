"""A swapped config as a readable file that inherits from the original, and as a table of changes."""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from convnext_dense.errors import UserError
from convnext_dense.mm.config.by_name import PREFIX
from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.swap.backbone import Swap
from convnext_dense.mm.swap.channels import Change
from convnext_dense.mm.type_names import type_name
from convnext_dense.support.files import replacing
from convnext_dense.support.nested import rebuilt
from convnext_dense.support.text_tables import aligned

LINE = 100  # characters of a written config
WIDTH = 48  # characters of a value in the table
_ORDER = ("custom_imports", "load_from", "model", "optim_wrapper", "find_unused_parameters")


def format_changes(changes: Sequence[Change]) -> str:
    """Table of changes: entry, from, to, why."""
    rows = [(".".join(map(str, c.path)), _brief(c.old), _brief(c.new), c.why) for c in changes]
    return aligned([("entry", "from", "to", "why"), *rows])


def _brief(value: object) -> str:
    if isinstance(value, dict) and "optimizer" in value:
        optimizer = value["optimizer"]
        return f"{_kind(value) or 'OptimWrapper'}({_kind(optimizer)}, lr={optimizer.get('lr')})"
    if isinstance(value, dict) and "type" in value:
        inner = ", ".join(f"{k}={v}" for k, v in value.items() if k in ("arch", "depth", "out_indices"))
        text = f"{_kind(value)}({inner})"
    elif isinstance(value, dict) and "imports" in value:
        text = ", ".join(value["imports"])
    else:
        text = "-" if value is None else type_name(value) if isinstance(value, type) else str(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _kind(entry: dict) -> str:
    """The type of an entry as its config spells it; a class by its name."""
    kind = entry.get("type")
    return kind if isinstance(kind, str) else type_name(kind)


def write_config(swap: Swap, source: str, path: str | Path) -> None:
    """Write the swapped config as a child of ``source``: each difference with its reason.

    A pure-Python config has no children of this kind: the whole is written.

    Args:
        swap: result of :func:`convnext_dense.mm.swap.backbone.swap_backbone`.
        source: path of the original, name of a recipe, or ``mmdet::...``; becomes ``_base_``.
        path: file to write, atomically.

    Raises:
        UserError: the file, read again, differs from the swapped config.
    """
    path = Path(path)
    title = f'"""{Path(source).stem} with a ConvNeXt backbone.\n\n{_reasons(swap.changes)}\n"""\n\n'
    text = title + (
        _whole(swap.cfg) if _is_lazy(source) else _child(swap, source, _base(source, path.parent))
    )
    with replacing(path.with_suffix(".py")) as partial:
        readable = partial.with_suffix(".py")  # mmengine reads by suffix
        readable.write_text(text)
        try:
            _check_written(readable, swap.cfg)
            readable.replace(partial)
        finally:
            readable.unlink(missing_ok=True)


def _is_lazy(source: str) -> bool:
    """Whether ``source`` is a file of pure Python, with classes for types."""
    return Path(source).is_file() and Config._is_lazy_import(source)


def _base(source: str, folder: Path) -> str:
    """What ``_base_`` names: a recipe by the package, so that it is found from anywhere."""
    if "::" in source:
        return source
    return _relative(Path(source), folder) if Path(source).is_file() else f"{PREFIX}{source}"


def _child(swap: Swap, source: str, base: str) -> str:
    parts = [f'_base_ = "{base}"\n']
    sections = _sections(swap, load_config(source).to_dict())
    for key in sorted(sections, key=_ORDER.index):
        comment = "".join(f"# {c.why}\n" for c in swap.changes if c.path == (key,))
        parts.append(f"{comment}{key} = {literal(sections[key], len(key) + 3)}\n")
    return "\n".join(parts)


def _whole(cfg: Config) -> str:
    """All of ``cfg`` with import paths for classes."""
    return Config(_with_import_paths(cfg.to_dict())).pretty_text


def _with_import_paths(node: object) -> object:
    """Copy with import paths for classes; tuples stay, because some transforms take no lists."""
    if isinstance(node, dict):
        return {key: _with_import_paths(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(map(_with_import_paths, node))
    return _import_path(node)


def _import_path(value: object) -> object:
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else value


def literal(value: object, used: int = 0, indent: int = 0) -> str:
    """``value`` as Python code of a config: one line if it fits, else one entry per line.

    Args:
        value: nested dicts, lists and plain values.
        used: characters before it on its line.
        indent: indentation of the line on which it starts.
    """
    flat = _flat(value)
    if used + indent + len(flat) <= LINE or not isinstance(value, dict | list) or not value:
        return flat
    pad = " " * (indent + 4)
    if isinstance(value, list):
        entries = [literal(item, 1, indent + 4) for item in value]
        brackets = "[]"
    else:
        named = all(str(key).isidentifier() for key in value)
        names = [f"{key}=" if named else f"{key!r}: " for key in value]
        entries = [
            name + literal(item, len(name) + 1, indent + 4)
            for name, item in zip(names, value.values(), strict=True)
        ]
        brackets = ("dict(", ")") if named else "{}"
    lines = "".join(f"{pad}{entry},\n" for entry in entries)
    return f"{brackets[0]}\n{lines}{' ' * indent}{brackets[1]}"


def _flat(value: object) -> str:
    if isinstance(value, dict) and all(str(key).isidentifier() for key in value):
        return f"dict({', '.join(f'{key}={_flat(item)}' for key, item in value.items())})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_flat(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flat, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _relative(source: Path, folder: Path) -> str:
    return os.path.relpath(source.resolve(), folder.resolve())


def _reasons(changes: Sequence[Change]) -> str:
    return "\n".join(f"{'.'.join(map(str, c.path))}: {c.why}" for c in changes)


def _has(node: object, path: tuple) -> bool:
    """Whether the entry exists, be it ``None``."""
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True


def _sections(swap: Swap, base: Mapping) -> dict[str, object]:
    """Nested overrides for the child config; entries that must not be merged are marked ``_delete_``."""
    sections: dict = {}
    for change in swap.changes:
        node, path, value = sections, change.path, copy.deepcopy(change.new)
        numbers = [i for i, key in enumerate(path) if isinstance(key, int)]
        if numbers:  # a child cannot change one entry of a list, so it repeats the list
            path = path[: numbers[0]]
            value = _at(swap.cfg, path)
        # an entry that the base lacks would keep the mark
        if isinstance(value, dict) and path != ("custom_imports",) and _has(base, path):
            value = dict(_delete_=True, **value)
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = value
    return sections


def _at(cfg: Config, path: tuple) -> object:
    node = cfg
    for key in path:
        node = node[key]
    return [item.to_dict() if hasattr(item, "to_dict") else item for item in node]


def _check_written(path: Path, expected: Config) -> None:
    written, wanted = _plain(Config.fromfile(path)), _plain(expected)
    differing = sorted(key for key in written.keys() | wanted.keys() if written.get(key) != wanted.get(key))
    if differing:
        raise UserError(f"the written config differs from the swapped one in {differing}")


def _plain(cfg: Config) -> dict:
    """Comparable form: tuples as lists, no ``None`` entries, no scopes of a base in another package."""
    return rebuilt(
        cfg.to_dict(), _import_path, keep=lambda key, value: value is not None and key != "_scope_"
    )


def default_output(source: str, arch: str) -> Path:
    """``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py`` -> ``retinanet_r50_fpn_1x_coco_convnext-base.py``."""
    return Path(f"{Path(source).stem}_convnext-{arch}.py")
