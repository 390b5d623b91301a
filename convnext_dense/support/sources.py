"""Which modules of a package others import, and checksums of their code."""

import ast
import hashlib
from collections.abc import Container, Iterable
from pathlib import Path


def imports_of(source: str) -> set[str]:
    """Dotted names that Python code imports, at any place in it.

    ``from a import b`` gives ``a.b``, which may be a module or a name in ``a``.

    Raises:
        ValueError: a relative import, whose module the text alone does not tell.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: relative import")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_modules(package: Path, roots: Iterable[str], stop: Container[str] = ()) -> dict[str, Path]:
    """The modules of a package that ``roots`` import, directly or through others, and ``roots`` themselves.

    Importing ``a.b.c`` also runs ``a`` and ``a.b``; these are followed only where code imports them by name.

    Args:
        package: folder of the package.
        roots: dotted names of modules.
        stop: modules that are not followed and not in the result.

    Returns:
        module -> its file, sorted.
    """
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        known = _module(package, waiting.pop())
        if known is None or known[0] in found or known[0] in stop:
            continue
        name, path = known
        found[name] = path
        waiting += imports_of(path.read_text(encoding="utf-8"))
    return dict(sorted(found.items()))


def _module(package: Path, name: str) -> tuple[str, Path] | None:
    """The module of the package that a dotted name lies in, and its file; ``None`` for another package."""
    if name.split(".")[0] != package.name:
        return None
    base = package.parent.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if path.is_file():
            return name, path
    return _module(package, name.rpartition(".")[0])


def code_checksum(source: str) -> str:
    """Checksum of Python code that comments, docstrings and layout do not change."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]
