"""setup.py: what the package and its extras ask pip for."""

import runpy
from unittest import mock

import pytest
from packaging.requirements import Requirement
from repository import ROOT

from convnext_dense.toolboxes import DISTRIBUTIONS, REQUIRED, SUPPORTED

TOOLBOXES = {name for names in DISTRIBUTIONS.values() for name in names}


@pytest.fixture(scope="module")
def arguments() -> dict:
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


def names(requirements: list[str]) -> set[str]:
    return {Requirement(line).name for line in requirements}


def test_the_package_itself_asks_for_no_toolbox(arguments):
    assert names(arguments["install_requires"]) == {"torch", "numpy", "safetensors", "filelock"}


@pytest.mark.parametrize(("extra", "line"), [("lite", "official"), ("onedl", "onedl")])
def test_an_extra_is_one_line_in_the_versions_that_the_doctor_accepts(arguments, extra, line):
    asked = {r.name: r.specifier for r in map(Requirement, arguments["extras_require"][extra])}
    served = {
        module: name
        for module in REQUIRED
        for name, of in DISTRIBUTIONS[module].items()
        if name in asked and of == line
    }
    assert {*served} == {*REQUIRED}
    assert TOOLBOXES & {*asked} == {*served.values()}
    for module, name in served.items():
        assert asked[name] == Requirement(f"{name}{SUPPORTED[line][module]}").specifier


def test_no_other_extra_brings_a_toolbox(arguments):
    for extra, lines in arguments["extras_require"].items():
        assert extra in ("lite", "onedl") or not TOOLBOXES & names(lines), extra


def test_the_pinned_versions_lie_in_the_ranges(arguments):
    for extra, files in {"lite": ["runtime", "lite"], "onedl": ["onedl"]}.items():
        lines = [line for f in files for line in (ROOT / f"requirements/{f}.txt").read_text().splitlines()]
        pinned = dict(line.split("==") for line in lines if "==" in line)
        for line in (*arguments["install_requires"], *arguments["extras_require"][extra]):
            wanted = Requirement(line)
            if wanted.name in pinned:
                assert pinned[wanted.name] in wanted.specifier, line
