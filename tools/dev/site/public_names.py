"""The public names of the package, read from its source, and which of them lack a docstring."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "convnext_dense"


def exported() -> dict[str, str]:
    """``convnext_dense.ConvNeXt``, ...: what an ``__all__`` names, and where each is defined."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        body = tree.body
        origins = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)  # also those for type checkers alone
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                own = {name: f"{_module(path)}.{name}" for name in ast.literal_eval(node.value)}
                names |= {full: origins.get(name, full) for name, full in own.items()}
    return names


def registered() -> list[str]:
    """Full names of the classes that a config can name: those below ``@REGISTRY.register_module``."""
    names = []
    for path in sorted((PACKAGE / "mm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and any(map(_registers, node.decorator_list)):
                names.append(f"{_module(path)}.{node.name}")
    return names


def without_docstring() -> list[str]:
    """Public classes and functions without a docstring."""
    wanted = {*exported().values(), *registered()}
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            kinds = ast.ClassDef | ast.FunctionDef
            if isinstance(node, kinds) and not ast.get_docstring(node):
                missing += {f"{_module(path)}.{node.name}"} & wanted
    return missing


def _registers(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(".register_module")


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
