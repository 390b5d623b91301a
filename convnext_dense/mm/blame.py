"""The entry of a config that an error is about, read from the traceback.

An error is blamed on the config only where it was raised while mmengine read or merged a config, built an
object from it, or looked up an entry that it does not have. Anything else may be a fault of the code.
"""

import difflib
import inspect
import linecache
import re
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

from mmengine.config import Config
from mmengine.registry import MODELS, OPTIMIZERS

from convnext_dense.mm.type_names import type_name
from convnext_dense.support.nested import mappings

HINT = "run again with --traceback to see where"
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"missing \d+ required (?:positional|keyword-only) arguments?: (.+)")
_TWICE = re.compile(r"multiple values for (?:keyword )?argument '(\w+)'")
_READS = ("fromfile", "_file2dict", "_parse_lazy_import", "_is_lazy_import", "_get_base_files")
_OURS = str(Path(__file__).resolve().parents[1])


class Call(NamedTuple):
    """One frame of a traceback: where it is, and its local variables."""

    file: str
    name: str
    line: int
    local: Mapping[str, object]

    def within(self, file: str, *names: str) -> bool:
        """Whether it is one of the functions ``names`` (any, if there are none) of a file of mmengine."""
        return self.file.replace("\\", "/").endswith(f"mmengine/{file}") and (not names or self.name in names)


def calls_of(error: BaseException) -> list[Call]:
    """The calls that led to ``error``, outermost first."""
    frames: Iterator[tuple[FrameType, int]] = traceback.walk_tb(error.__traceback__)
    return [Call(f.f_code.co_filename, f.f_code.co_name, line, f.f_locals) for f, line in frames]


def one_line(error: BaseException, call: Call | None = None) -> str:
    """``KeyError: 'x'`` without line breaks; an error without a message shows the line that raised it."""
    said = error.args[0] if isinstance(error, KeyError) and len(error.args) == 1 else error
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    text = lines[0] if lines else linecache.getline(call.file, call.line).strip() if call else ""
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def place(error: BaseException) -> str:
    """``file.py:12 in function``: where an error was raised, last two folders only."""
    last = calls_of(error)[-1]
    return f"{'/'.join(Path(last.file).parts[-3:])}:{last.line} in {last.name}"


def blame(error: BaseException) -> str | None:
    """One line that names file, key and remedy; ``None`` unless the error is provably the config's."""
    calls = calls_of(error)
    if not calls:
        return None
    for rule in (_merging, _lazy_type, _reading, _absent, _optimizer, _building):
        try:
            text = rule(error, calls)
        except Exception:  # values of a wrong kind, compared here: they must not replace the error itself
            return None
        if text:
            return text
    return None


def entry(error: BaseException) -> str:
    """``FILE: model.backbone``: the entry that was built when ``error`` was raised; ``""`` if none was."""
    calls = calls_of(error)
    built = [call for call in calls if _builds(call)]
    found = _entry_of(calls, built)
    return _where(calls, found) if found else ""


# ---- reading and merging


def _merging(error: BaseException, calls: list[Call]) -> str | None:
    """A child config or ``--cfg-options`` that does not fit its base."""
    merges = [call for call in calls if call.within("config/config.py", "_merge_a_into_b")]
    if not merges or not merges[0].local:
        return None
    keys = [str(call.local["k"]) for call in merges if "k" in call.local]
    path = ".".join(keys)
    last = merges[-1].local
    options = any(call.within("config/config.py", "merge_from_dict") for call in calls)
    files = [str(call.local["filename"]) for call in calls if call.within("config/config.py", "_file2dict")]
    where = f"--cfg-options {path}" if options or not files else f"{files[-1]}: {path}"
    base, key = last.get("b"), last.get("k")
    if isinstance(error, KeyError) and isinstance(base, list):
        return f"{where}: the list has {len(base)} entries, so the indices are 0 to {len(base) - 1}"
    if not isinstance(last.get("a"), Mapping):
        return f"{where}: an entry of a list is changed key by key: write {path}.KEY=VALUE"
    if isinstance(base, Mapping) and key in base and not isinstance(base[key], Mapping):
        there = f"a {type(base[key]).__name__} ({_short(base[key])})"
        return f"{where} is a mapping here and {there} in the base; add _delete_=True to it to replace that"
    return f"{where} does not fit the base, where it has no entries of this kind ({one_line(error)})"


def _lazy_type(error: BaseException, calls: list[Call]) -> str | None:
    """An import of a pure-Python config that fails when its type is needed."""
    if isinstance(error, ImportError) and any(call.within("config/lazy.py") for call in calls):
        return f"{one_line(error)}; correct the import, or add its folder to PYTHONPATH"
    return None


def _reading(error: BaseException, calls: list[Call]) -> str | None:
    """A config file that cannot be read."""
    reads = [call for call in calls if call.within("config/config.py", *_READS)]
    if not reads:
        return None
    files = list(dict.fromkeys(str(call.local["filename"]) for call in reads if "filename" in call.local))
    file = files[-1] if files else "the config"
    if isinstance(error, SyntaxError):
        code = f": {error.text.strip()}" if error.text else ""
        return f"{file}:{error.lineno}: {error.msg}{code}"
    own = [call for call in calls if call.file in {*files, *(str(Path(name).absolute()) for name in files)}]
    named = [call for call in calls if call.within("config/config.py", "_get_cfg_path")]
    if named:
        base = named[-1].local.get("cfg_path")
        return f"{named[-1].local.get('filename')}: _base_ names {base!r}: {one_line(error)}"
    if isinstance(error, FileNotFoundError):
        child = f"{files[-2]}: " if len(files) > 1 else ""
        return f"{child}no config file {file}; correct the path, which is relative to the file that names it"
    if isinstance(error, ImportError) and not own:
        cause = one_line(error.__cause__ or error)
        return f"{file}: custom_imports: {cause}; correct the name, or add its folder to PYTHONPATH"
    line = f":{own[-1].line}" if own else ""
    return f"{file}{line}: {one_line(error, calls[-1])}"


# ---- building


def _builds(call: Call) -> bool:
    return call.within("registry/build_functions.py", "build_from_cfg", "build_scheduler_from_cfg")


def _building(error: BaseException, calls: list[Call]) -> str | None:
    """An entry from which no object can be built."""
    built = [call for call in calls if _builds(call)]
    runner = [
        call
        for call in calls
        if call.within("registry/build_functions.py", "build_runner_from_cfg")
        or (call.within("runner/runner.py") and call.name.startswith(("build_", "register_", "_build")))
        or call.within("runner/runner.py", "from_cfg", "__init__", "_check_train_cfg")
    ]
    if not built and not runner:
        return None
    where = _where(calls, _entry_of(calls, built))
    kind = _class_of(built[-1]) if built else None
    name = getattr(kind, "__name__", "")
    direct = not built or calls[-1] is built[-1] or isinstance(error, TypeError)
    if direct and (text := _arguments(error, calls, built, kind, where)):
        return text
    if text := _layer(error, calls):
        return text
    if calls[-1].file.startswith(_OURS):
        wrong = next(_misfits(kind, built[-1].local.get("args", {})), None) if built else None
        return wrong and f"{where}: {wrong}"  # otherwise it is perhaps our own fault
    return f"{where}{f' ({name})' if name else ''}: {one_line(error, calls[-1])}; {HINT}"


def _entry_of(calls: list[Call], built: list[Call]) -> tuple:
    """Path of the innermost entry of the config; a class may build others from its own defaults."""
    return next((path for call in reversed(built) if (path := _find_built(calls, call))), ())


def _layer(error: BaseException, calls: list[Call]) -> str | None:
    """A norm, activation or convolution that mmcv does not know; mmcv's own message does not name it."""
    name = calls[-1].local.get("layer_type")
    if not isinstance(error, KeyError) or not isinstance(name, str) or "Cannot find" not in str(error):
        return None
    cfg = _config(calls)
    paths = [path for path, node in mappings(cfg._cfg_dict) if node.get("type") == name] if cfg else []
    near = difflib.get_close_matches(name, MODELS.module_dict, n=3)
    hint = f"similar: {', '.join(near)}" if near else "no similar name"
    return f"{_where(calls, paths[0] if paths else ())}: no layer is called {name!r}; {hint}"


def _optimizer(error: BaseException, calls: list[Call]) -> str | None:
    """An optimizer without a rate to multiply, or that mmengine does not know: it asks for its arguments."""
    multiplies = calls[-1].within("optim/optimizer/default_constructor.py", "add_params")
    if multiplies and getattr(calls[-1].local.get("self"), "base_lr", error) is None:
        where = _where(calls, ("optim_wrapper", "optimizer"))
        return f"{where} has no lr, which paramwise_cfg multiplies; give lr"
    if multiplies and isinstance(error, TypeError):
        paramwise = calls[-1].local["self"].paramwise_cfg
        for path, key, value in (
            (path, *item) for path, node in mappings(paramwise) for item in node.items()
        ):
            if str(key).endswith("_mult") and not isinstance(value, int | float):
                where = _where(calls, ("optim_wrapper", "paramwise_cfg", *path, key))
                return f"{where} is a {type(value).__name__} ({_short(value)}); it must be a number"
    asked = [call for call in calls if call.within("optim/optimizer/default_constructor.py", "__call__")]
    if not asked or asked[-1].local.get("optimizer_cls", error) is not None:
        return None
    name = type_name(asked[-1].local.get("optimizer_cfg"))
    near = difflib.get_close_matches(name, OPTIMIZERS.module_dict, n=3)
    hint = f"similar: {', '.join(near)}" if near else "no similar name"
    return f"{_where(calls, ('optim_wrapper', 'optimizer'))}: no optimizer is called {name!r}; {hint}"


def _class_of(call: Call) -> object:
    return call.local.get("obj_cls") or call.local.get("scheduler_cls")


def _arguments(
    error: BaseException, calls: list[Call], built: list[Call], kind: object, where: str
) -> str | None:
    """Arguments that a class does not take, lacks, or cannot be a class's at all."""
    text, name = str(error), getattr(kind, "__name__", "the class")
    given = built[-1].local.get("args", {}) if built else {}
    if match := _UNEXPECTED.search(text):
        key = match[1]
        if not built or key not in given:  # the loader's own arguments, or those that a class passes on
            path = _having(calls, key)
            return (
                f"{_where(calls, path)} has an entry {key!r} that its class does not take" if path else None
            )
        near = difflib.get_close_matches(key, _parameters(kind), n=3)
        remedy = f"similar: {', '.join(near)}" if near else f"it takes {', '.join(_parameters(kind))}"
        return f"{where}: {name} has no argument {key!r}; {remedy}"
    if match := _MISSING.search(text):
        own = built and (calls[-1] is built[-1] or f"{name}." in text)
        return f"{where}: {name} needs {match[1]}" if own else None
    if match := _TWICE.search(text):
        return f"{where}: {match[1]} is set by {name} itself; leave it out" if match[1] in given else None
    if 'must contain the key "type"' in text:
        return f"{where} has no type: {_short(built[-1].local.get('cfg'))}" if built else None
    if "should be a dict" in text and built and calls[-1] is built[-1]:
        outer = _where(calls, _find_built(calls, built[-2])) if len(built) > 1 else where
        value = built[-1].local.get("cfg")
        return f"{outer}: {_short(value)} is a {type(value).__name__}; write a mapping with a type"
    return None


def _misfits(kind: object, given: Mapping) -> Iterator[str]:
    """Arguments given to a class of ours whose values are not of the annotated types."""
    hints: dict[str, object] = {}
    for base in reversed(getattr(kind, "__mro__", ())):
        if base.__module__.startswith(__package__.partition(".")[0]):
            hints |= typing.get_type_hints(base.__init__)
    for key, value in given.items():
        if not fits_type(value, hints.get(key, Any)):
            takes = f"{getattr(kind, '__name__', kind)} takes {_named(hints[key])}"
            yield f"{key} is a {type(value).__name__} ({_short(value)}); {takes}"


def fits_type(value: object, hint: Any) -> bool:
    """Whether ``value`` may be of an annotated type; entries of lists and mappings are not looked at."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits_type(value, part) for part in typing.get_args(hint))
    kind = origin or hint
    if not isinstance(kind, type) or kind is Any:
        return kind is not None or value is None
    if issubclass(kind, Sequence) and kind is not str:  # a config may have either
        return isinstance(value, list | tuple)
    return isinstance(value, int | float if kind is float else kind)


def _named(hint: Any) -> str:
    """An annotated type as code has it: ``float``, ``tuple[int, ...] | None``."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _parameters(kind: object) -> list[str]:
    """Names that a class's constructor takes, those of its bases included where it passes others on."""
    names: dict[str, None] = {}
    for base in getattr(kind, "__mro__", ()) or (kind,):
        init = base.__dict__.get("__init__") if isinstance(base, type) else base
        if init is None or base is object:
            continue
        try:
            parameters = inspect.signature(init).parameters.values()
        except (TypeError, ValueError):
            continue
        names |= {p.name: None for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    names.pop("self", None)
    return list(names)


# ---- entries that are not there


def _absent(error: BaseException, calls: list[Call]) -> str | None:
    """An entry that was looked up in a config, which does not have it."""
    last = calls[-1]
    if not last.within("config/config.py", "__getattr__", "__missing__"):
        return None
    holder, name = last.local.get("self"), last.local.get("name")
    if not isinstance(holder, Mapping):
        return None
    cfg = _config(calls)
    paths = (
        [path for path, node in mappings(cfg._cfg_dict) if node is holder or node == holder] if cfg else []
    )
    near = difflib.get_close_matches(str(name), list(holder), n=2)
    has = f"similar: {', '.join(near)}" if near else f"it has {', '.join(map(str, holder)) or 'nothing'}"
    return f"{_where(calls, paths[0] if paths else ())} has no entry {name!r}; {_short(has)}"


# ---- where an entry is


def _config(calls: list[Call]) -> Config | None:
    """The whole config, as the outermost call has it."""
    for call in calls:
        for value in [*call.local.values(), getattr(call.local.get("self"), "cfg", None)]:
            if isinstance(value, Config) and "model" in value._cfg_dict:
                return value
    return None


def _find_built(calls: list[Call], call: Call) -> tuple:
    """Path of the entry that a call builds; a copy of it is known by its type and its values."""
    cfg, part = _config(calls), call.local.get("cfg")
    if cfg is None or not isinstance(part, Mapping):
        return ()
    kind = type_name(part)
    if not kind:
        same = [(path, node) for path, node in mappings(cfg._cfg_dict) if node == part]
    else:
        same = [(path, node) for path, node in mappings(cfg._cfg_dict) if type_name(node) == kind]
    best = max(same, key=lambda item: sum(item[1].get(k) == v for k, v in part.items()), default=((), None))
    return best[0]


def _having(calls: list[Call], key: str) -> tuple:
    """Path of the first mapping with an entry ``key``."""
    cfg = _config(calls)
    return next((path for path, node in mappings(cfg._cfg_dict) if key in node), ()) if cfg else ()


def _where(calls: list[Call], path: tuple) -> str:
    cfg = _config(calls)
    file = cfg.filename if cfg is not None and cfg.filename else "the config"
    return f"{file}: {'.'.join(map(str, path))}" if path else str(file)


def _short(value: object) -> str:
    text = " ".join(str(value).split())  # an optimizer, which mmengine adds to a schedule, has many lines
    return text if len(text) <= 160 else f"{text[:157]}..."
