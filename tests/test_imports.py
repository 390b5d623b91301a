"""The arrows of the design: core <- mm <- tools, and only mm knows OpenMMLab."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

OPENMMLAB = {"mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain"}
# returns an mmengine Config by contract; imports mmengine only when called
LAZY = {("convnext_dense/recipes.py", "mmengine")}


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


CORE = [path for path in files("convnext_dense") if "mm" not in path.relative_to(ROOT).parts]


def test_the_walk_sees_the_code():
    assert len(CORE) > 5
    assert "mmengine.model.BaseModule" in imports_of(ROOT / "convnext_dense/mm/models/backbones.py")


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_imports_no_openmmlab_and_no_adapter(path):
    for name in imports_of(path):
        package = name.split(".")[0]
        assert package not in OPENMMLAB or (str(path.relative_to(ROOT)), package) in LAZY, name
        assert not name.startswith("convnext_dense.mm"), name


@pytest.mark.parametrize("path", files("convnext_dense") + files("configs"), ids=lambda path: path.stem)
def test_nothing_imports_tools(path):
    assert not {name for name in imports_of(path) if name.split(".")[0] == "tools"}


def test_core_works_where_openmmlab_is_absent():
    code = f"""
import sys
for name in {sorted(OPENMMLAB)}: sys.modules[name] = None
import torch, convnext_dense
assert len(convnext_dense.ConvNeXt('tiny')(torch.zeros(1, 3, 32, 32))) == 4
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
