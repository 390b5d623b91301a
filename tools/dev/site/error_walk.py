"""Every message that this package raises, read from its source: what ``errors.md`` of the site is made from.

Nothing is imported: a walk over the syntax tree finds each ``raise Class("...")``, turns f-strings into
patterns with named gaps, and follows a message through a local variable or a function of the same module.
"""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "convnext_dense"

PROTOCOL = frozenset(
    {"KeyError", "AttributeError", "IndexError", "StopIteration", "Interrupted", "SoakError"}
)
"""Raised for the interpreter or for another part of the package, never shown to a user."""

EXPLAINING = {  # functions that turn the errors of others into one line
    "mm/errors.py": ("explain", "_unregistered"),
    "mm/blame.py": (
        "_merging",
        "_lazy_type",
        "_reading",
        "_building",
        "_layer",
        "_optimizer",
        "_absent",
        "_arguments",
    ),
}


@dataclass(frozen=True)
class Gap:
    """A part of a message that a run fills in."""

    name: str


Message = tuple[str | Gap, ...]
"""Text and gaps, in their order."""


@dataclass(frozen=True)
class Entry:
    """One ``raise``, or one function that explains the errors of others.

    ``messages`` holds the alternatives of one place: each branch of a conditional message is one.
    """

    module: str  # path below the package, such as "mm/config/edit.py"
    line: int
    error: str
    function: str
    messages: tuple[Message, ...] = field(compare=False)
    when: str = ""

    @property
    def room(self) -> str:
        """``mm/config`` for ``mm/config/edit.py``; the package itself for a module on its top."""
        return "/".join(self.module.split("/")[:-1])


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Each module of the package by its path, in the order of the paths."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def entries() -> list[Entry]:
    """All messages of the package, by module and line."""
    return [entry for module, tree in sources() for entry in entries_of(module, tree)]


def entries_of(module: str, tree: ast.Module) -> list[Entry]:
    """The messages of one module, given by its path below the package."""
    walk = _Module(module, tree)
    found = [*walk.raised(), *walk.explaining(EXPLAINING.get(module, ()))]
    return sorted(found, key=lambda entry: entry.line)


def error_classes() -> dict[str, str]:
    """The classes below ``DenseError`` of all modules, with the first paragraph of their docstrings."""
    bases, texts = {}, {}
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
                texts[node.name] = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())

    def ours(name: str) -> bool:
        return name == "DenseError" or any(ours(base) for base in bases.get(name, ()))

    return {name: texts[name] for name in bases if ours(name)}


def annotation_faults() -> list[tuple[str, str]]:
    """What a start says of each kind of fault of an annotation file, and what training does with it."""
    tree = ast.parse((PACKAGE / "data/coco_repair.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _class_of(node) == "Kind"]
    return [(ast.literal_eval(call.args[0]), ast.literal_eval(call.args[1])) for call in calls]


class _Module:
    """The syntax tree of one module, with what is needed to follow a message."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name, self.tree = name, tree
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        self.functions = {function.name: function for function in functions}
        self.inside = {id(node): function for function in functions for node in ast.walk(function)}
        self.texts = _constants(tree)
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("convnext_dense"):
                known = _constants_of(node.module or "")
                self.texts |= {alias.name: known[alias.name] for alias in node.names if alias.name in known}

    def raised(self) -> Iterator[Entry]:
        """Each ``raise`` with a message; ``raise A(...) if x else B(...)`` is two."""
        for node in ast.walk(self.tree):
            for call in _calls(node.exc) if isinstance(node, ast.Raise) else ():
                error = _class_of(call)
                # argparse's error begins with the option
                message = call.args[-1 if error.startswith("argparse.") else 0] if call.args else None
                error = error.split(".")[-1]
                if error in PROTOCOL or not error[0].isupper() or not _is_text(message, error):
                    continue
                function = self.inside.get(id(node))
                when = _when(function, error) if self.count(function, error) == 1 else ""
                messages = tuple(self.messages(message, function))
                name = function.name if function else ""
                yield Entry(self.name, call.lineno, error, name, messages, when)

    def count(self, function: ast.FunctionDef | None, error: str) -> int:
        """How often a function raises a class: the docstring of one that raises it once says when."""
        nodes = ast.walk(function) if function else ()
        calls = [call for node in nodes if isinstance(node, ast.Raise) for call in _calls(node.exc)]
        return sum(_class_of(call).split(".")[-1] == error for call in calls)

    def explaining(self, names: tuple[str, ...]) -> Iterator[Entry]:
        for name in names:
            function = self.functions[name]
            for node in ast.walk(function):
                if isinstance(node, ast.Return) and isinstance(
                    node.value, ast.JoinedStr | ast.Constant | ast.BinOp
                ):
                    messages = tuple(m for m in self.messages(node.value, function) if any(m))
                    if messages and node.value is not None and letters(messages[0]) > 8:
                        yield Entry(self.name, node.lineno, "", name, messages)

    # ---- a message

    def messages(self, node: ast.expr, function: ast.FunctionDef | None, depth: int = 0) -> list[Message]:
        """The alternatives of an expression."""
        if isinstance(node, ast.Constant):
            return [(str(node.value),)] if isinstance(node.value, str) else []
        if isinstance(node, ast.JoinedStr):
            return [_joined([part for value in node.values for part in self.part(value, function)])]
        if isinstance(node, ast.IfExp):
            return [*self.messages(node.body, function, depth), *self.messages(node.orelse, function, depth)]
        if isinstance(node, ast.BoolOp):
            return [message for value in node.values for message in self.messages(value, function, depth)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left = self.messages(node.left, function, depth)
            right = self.messages(node.right, function, depth)
            return [_joined([*a, *b]) for a in left for b in right]
        followed = self.follow(node, function, depth) if depth < 2 else []
        return followed or [(Gap(_gap_name(node)),)]

    def follow(self, node: ast.expr, function: ast.FunctionDef | None, depth: int) -> list[Message]:
        """What a local variable was set to, or what a function of this module returns."""
        if isinstance(node, ast.Name) and function:
            values = [
                statement.value
                for statement in ast.walk(function)
                if isinstance(statement, ast.Assign)
                and any(isinstance(target, ast.Name) and target.id == node.id for target in statement.targets)
            ]
            return [m for value in values for m in self.messages(value, function, depth + 1)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.functions:
            called = self.functions[node.func.id]
            returned = [n.value for n in ast.walk(called) if isinstance(n, ast.Return) and n.value]
            return [m for value in returned for m in self.messages(value, called, depth + 1)]
        return []

    def part(self, node: ast.expr, function: ast.FunctionDef | None) -> list[str | Gap]:
        """One part of an f-string; a short choice between two texts stays readable."""
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        if (
            isinstance(node, ast.FormattedValue)
            and isinstance(node.value, ast.Name)
            and node.value.id in self.texts
        ):
            return [self.texts[node.value.id]]
        value = node.value if isinstance(node, ast.FormattedValue) else node
        if isinstance(value, ast.IfExp):
            texts = [v.value for v in (value.body, value.orelse) if isinstance(v, ast.Constant)]
            if len(texts) == 2 and all(isinstance(text, str) for text in texts):
                return [f"({'|'.join(texts)})" if all(texts) else f"[{''.join(texts)}]"]
        return [Gap(_gap_name(value))]


def _constants(tree: ast.Module) -> dict[str, str]:
    """Names of a module that stand for a text."""
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


@functools.cache
def _constants_of(module: str) -> dict[str, str]:
    path = ROOT / (module.replace(".", "/") + ".py")
    return _constants(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _calls(raised: ast.expr | None) -> list[ast.Call]:
    """The exceptions that a ``raise`` may make."""
    if isinstance(raised, ast.IfExp):
        return [*_calls(raised.body), *_calls(raised.orelse)]
    return [raised] if isinstance(raised, ast.Call) else []


def _class_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def _is_text(node: ast.expr | None, error: str) -> bool:
    """Whether the argument of a ``raise`` is a message; a status of ``SystemExit`` is a number."""
    if node is None or error != "SystemExit":
        return node is not None
    return isinstance(node, ast.JoinedStr | ast.BinOp) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _joined(parts: list[str | Gap]) -> Message:
    """Neighbouring texts as one."""
    message: list[str | Gap] = []
    for part in parts:
        if isinstance(part, str) and message and isinstance(message[-1], str):
            message[-1] += part
        elif part != "":
            message.append(part)
    return tuple(message)


def letters(message: Message) -> int:
    """How many characters of a message are fixed."""
    return sum(len(part) for part in message if isinstance(part, str))


_NAMES = {
    "error": "reason",
    "e": "reason",
    "err": "reason",
    "self": "value",
    "k": "key",
    "v": "value",
    "n": "number",
}


def _gap_name(node: ast.expr) -> str:
    """A word for what an expression stands for: its last name that says something."""
    if isinstance(node, ast.Name):
        return _NAMES.get(node.id, node.id).replace("_", " ").strip()
    if isinstance(node, ast.Attribute):
        inner = _gap_name(node.value)
        return inner if node.attr in ("name", "stem", "args") else node.attr.replace("_", " ").strip()
    if isinstance(node, ast.Subscript):
        key = node.slice
        return (
            key.value
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
            else _gap_name(node.value)
        )
    if isinstance(node, ast.Call):
        return _call_name(node)
    if isinstance(node, ast.BinOp):
        return _gap_name(node.left)
    if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp):
        return _gap_name(node.generators[0].iter)
    if isinstance(node, ast.IfExp):
        return _gap_name(node.body)
    if isinstance(node, ast.BoolOp):
        return _gap_name(node.values[0])
    if isinstance(node, ast.Starred | ast.Await):
        return _gap_name(node.value)
    if isinstance(node, ast.List | ast.Tuple) and node.elts:
        return _gap_name(node.elts[-1])
    return "..."


_SEEN_THROUGH = {
    *(
        "join",
        "sorted",
        "str",
        "repr",
        "list",
        "set",
        "tuple",
        "min",
        "max",
        "map",
        "reversed",
        "round",
        "dict",
    ),
    *("getattr", "get_args", "reason", "partition", "type_name", "size_text", "_short"),
}
"""Functions that change how a value is written, and not what it stands for."""


def _call_name(node: ast.Call) -> str:
    name = ast.unparse(node.func).split(".")[-1]
    if name in ("len", "sum"):
        return "number"
    if name == "type":
        return "type"
    if node.args and name in _SEEN_THROUGH:
        return _gap_name(node.args[0] if name == "getattr" else node.args[-1])
    if isinstance(node.func, ast.Attribute) and not node.args:
        return _gap_name(node.func.value)
    return name.replace("_", " ").strip()


def _when(function: ast.FunctionDef | None, error: str) -> str:
    """What the docstring of the function says after ``Raises: error:``."""
    text = (ast.get_docstring(function) or "") if function else ""
    _, found, raises = text.partition("Raises:\n")
    if not found:
        return ""
    match = re.search(rf"^ +{error}: (.+(?:\n {{8,}}.+)*)", raises, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""
