"""One hierarchy of errors: what is meant for the user is known by its class, wherever it is raised."""

import ast
import builtins

import pytest
from repository import ROOT

from convnext_dense import ConvNeXt, errors

CLASSES = [value for value in vars(errors).values() if isinstance(value, type)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_is_of_the_hierarchy_and_a_built_in_error(kind):
    assert issubclass(kind, errors.DenseError)
    if kind is not errors.DenseError:
        assert issubclass(kind, ValueError | FileNotFoundError | RuntimeError)


def test_the_module_imports_nothing_of_the_package():
    tree = ast.parse((ROOT / "convnext_dense/errors.py").read_text())
    modules = [node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)]
    assert modules == ["re"] and not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]


def test_a_wrong_argument_is_both():
    with pytest.raises(errors.ArgumentError, match="tiny"):
        ConvNeXt("tinny")
    with pytest.raises(ValueError, match="tiny"):
        ConvNeXt("tinny")


def test_no_error_class_stands_apart():
    """Every exception class of the package is of the hierarchy, or a failure that no user can act on."""
    apart = {"SoakError", "UnknownSizeError", "DiedError"}
    plain = {name for name, value in vars(builtins).items() if isinstance(value, type)}
    for path in (ROOT / "convnext_dense").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and path.name != "errors.py":
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert node.name in apart or not bases & plain, f"{path}: {node.name}"
