"""What decides the verdicts of a survey, as a key: verdicts with another key are not reused."""

import ast
import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

import convnext_dense
from convnext_dense.mm.mmcv_ext import current_ops
from convnext_dense.support.sources import code_checksum, imported_modules
from convnext_dense.support.system import installed_version
from convnext_dense.toolboxes import line_of, read_toolboxes, toolbox_versions

PACKAGE = Path(convnext_dense.__file__).parent
JUDGES = ("convnext_dense.mm.swap.verdict", "convnext_dense.mm.mmcv_ext")  # the trial, and its operators
# Importing it registers all that a config may name. Of that, a trial builds models; it runs no hook, loop,
# optimizer or data set, so these decide nothing.
REGISTERS_ALL = "convnext_dense.mm"
# distributions besides the toolboxes without which some models do not run
OPTIONAL = ("torchvision", "scikit-image", "scikit-learn", "lap", "transformers")


def deciding_code() -> dict[str, str]:
    """Module -> checksum, for all modules of this package that a swap and its trial use.

    These are the trial, its operators, the classes of models that this package registers, and what all of
    these import.
    """
    models = [name for name, path in _modules().items() if _registers_models(path.read_text("utf-8"))]
    found = imported_modules(PACKAGE, [*JUDGES, *models], stop=(REGISTERS_ALL,))
    return {name: code_checksum(path.read_text("utf-8")) for name, path in found.items()}


def _modules() -> dict[str, Path]:
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]
    return {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in files}


def _registers_models(source: str) -> bool:
    """Whether a module calls ``MODELS.register_module``."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return any(ast.unparse(node) == "MODELS.register_module" for node in nodes)


def environment() -> dict[str, str]:
    """Line and versions of the toolboxes, kind of operators, and versions of torch and optional packages."""
    boxes = read_toolboxes()
    optional = {name: installed_version(name) for name in OPTIONAL}
    return {
        "line": line_of(boxes) or "none",
        "operators": "compiled" if current_ops() == "mmcv compiled" else "portable",
        **toolbox_versions(boxes),
        "torch": torch.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),  # its patch releases decide nothing
        **{name: version for name, version in optional.items() if version},
    }


def key_of(code: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """Checksum of both, the key of a verdict."""
    text = json.dumps([dict(code), dict(environment)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names whose value differs, or that only one of the two has."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
