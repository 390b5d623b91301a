"""Recipes by name, from a checkout and from a wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from repository import ROOT

from convnext_dense import config_path, list_configs
from convnext_dense.recipes import run_name


@pytest.mark.parametrize("name", ["mask_rcnn/convnext_t_3x", "configs/mask_rcnn/convnext_t_3x.py"])
def test_a_recipe_is_found_by_name_or_path(name):
    assert config_path(name).samefile(ROOT / "configs/mask_rcnn/convnext_t_3x.py")


def test_runs_of_recipes_with_one_file_name_have_folders_of_their_own():
    names = ["mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x"]
    assert [run_name(config_path(name)) for name in names] == names
    assert run_name("/somewhere/else/my_config.py") == "my_config"


def test_bases_are_not_recipes():
    assert "mask_rcnn/convnext_t_3x" in list_configs()
    assert not [name for name in list_configs() if name.startswith("_base_")]


def test_an_unknown_name_lists_the_near_ones():
    with pytest.raises(ValueError, match="mask_rcnn/convnext_t_3x"):
        config_path("mask_rcnn/convnext_tiny_3x")


def test_the_wheel_carries_every_config(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        ROOT,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    expected = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py")}
    assert {f"convnext_dense/{path.as_posix()}" for path in expected} <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]
    code = "import convnext_dense as c; print(c.config_path('mask_rcnn/convnext_t_3x'))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    assert Path(out.stdout.strip()).is_relative_to(tmp_path)
