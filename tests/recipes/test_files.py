"""A recipe is read in at most three files, all of this package: itself and two bases."""

import ast
import re
from pathlib import Path

import pytest
from repository import ROOT

from convnext_dense.recipes import config_path, list_configs

CONFIGS = ROOT / "configs"
BASES = sorted((CONFIGS / "_base_").glob("*.py"))
FILES = sorted(CONFIGS.rglob("*.py"))


def bases_of(path: Path) -> list[str]:
    """What ``_base_`` of a config names, in the words of the file."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_base_":
            named = ast.literal_eval(node.value)
            return [named] if isinstance(named, str) else list(named)
    return []


def files_of(path: Path) -> list[Path]:
    """The file and all from which it inherits, without repetition."""
    found = [path.resolve()]
    for name in bases_of(path):
        found += [file for file in files_of(path.parent / name) if file not in found]
    return found


@pytest.mark.parametrize("name", list_configs())
def test_a_recipe_is_whole_in_three_files(name):
    files = files_of(config_path(name))
    assert len(files) <= 3, [str(file) for file in files]
    assert {file.is_relative_to(CONFIGS) for file in files} == {True}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_no_file_inherits_from_another_package(path):
    assert not re.findall(r"\w+::", path.read_text())


@pytest.mark.parametrize("path", BASES, ids=lambda path: path.stem)
def test_a_base_inherits_nothing_and_is_used(path):
    assert not bases_of(path)
    assert any(path in files_of(config_path(name)) for name in list_configs())


def test_the_walk_finds_chains_and_repeated_bases(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("_base_ = './a.py'\n")
    (tmp_path / "c.py").write_text("_base_ = ['a.py', 'b.py']\n")
    assert [file.name for file in files_of(tmp_path / "c.py")] == ["c.py", "a.py", "b.py"]


def test_the_bases_of_two_crops_differ_in_their_sizes_alone():
    """Both are written out, because a base has no base; so nothing else may drift apart."""
    small, large = (
        {
            node.targets[0].id: ast.unparse(node.value)
            for node in ast.parse((CONFIGS / f"_base_/ade20k_160k_{crop}.py").read_text()).body
            if isinstance(node, ast.Assign)
        }
        for crop in (512, 640)
    )
    assert list(small) == list(large)
    assert {key: (small[key], large[key]) for key in small if small[key] != large[key]} == {
        "crop_size": ("(512, 512)", "(640, 640)"),
        "scale": ("(2048, 512)", "(2560, 640)"),
    }
