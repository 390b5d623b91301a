"""Recipes by name, from a checkout and from a wheel."""

import os
import shutil
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


def test_runs_of_recipes_with_one_file_name_have_their_own_folders():
    names = ["mask_rcnn/convnext_t_3x", "cascade/convnext_t_3x"]
    assert [run_name(config_path(name)) for name in names] == names
    assert run_name("/somewhere/else/my_config.py") == "my_config"


def test_bases_are_not_recipes():
    assert "mask_rcnn/convnext_t_3x" in list_configs()
    assert not [name for name in list_configs() if name.startswith("_base_")]


def test_an_unknown_name_lists_the_near_ones():
    with pytest.raises(ValueError, match="mask_rcnn/convnext_t_3x"):
        config_path("mask_rcnn/convnext_tiny_3x")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, unpacked as pip would install it."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"  # a build leaves files behind, and takes those of an earlier one
    for name in ("convnext_dense", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w"]
    subprocess.run([sys.executable, *command, folder, copy], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_installed(site: Path, folder: Path, *command: object) -> str:
    """Output of a Python command that finds the package in ``site`` alone, run in ``folder``."""
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_the_package_and_its_recipes_alone(wheel):
    carried = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*.py")}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "convnext_dense").rglob("*.py")}
    recipes = {
        f"convnext_dense/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.py")
    }
    assert carried == sources | recipes
    assert (wheel / "convnext_dense/reports/page.html.jinja").is_file()
    (entries,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "convnext-dense = convnext_dense.cli:main" in entries.read_text()


def test_the_wheel_works_without_a_checkout(wheel, tmp_path):
    code = "import convnext_dense as c; print(c.config_path('mask_rcnn/convnext_t_3x'))"
    found = run_installed(wheel, tmp_path, "-c", code).strip()
    assert Path(found).is_relative_to(wheel)
    listed = run_installed(wheel, tmp_path, "-m", "convnext_dense", "list", "cascade").splitlines()
    assert listed == [name for name in list_configs() if name.startswith("cascade/")]
    run_installed(wheel, tmp_path, "-m", "convnext_dense", "copy", "cascade/convnext_b_3x", "mine.py")
    assert (tmp_path / "mine.py").is_file()
