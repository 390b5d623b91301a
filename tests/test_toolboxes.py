"""Which distribution serves an import name, and what to do about it, as tables over environments."""

import importlib
import re
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from environments import MODULE, OFFICIAL, ONEDL, environment
from packaging.specifiers import SpecifierSet
from repository import ROOT

from convnext_dense import toolboxes
from convnext_dense.toolboxes import DISTRIBUTIONS, SUPPORTED


@pytest.mark.parametrize(
    ("boxes", "line", "command"),
    [
        (environment(), None, "pip install 'convnext_dense[lite]'"),
        (environment("onedl-mmengine 0.10.12"), "onedl", "pip install 'convnext_dense[onedl]'"),
        (environment(*ONEDL[:3]), "onedl", "pip install 'convnext_dense[onedl]'"),
        (
            environment("mmengine 0.10.7", "mmdet 3.3.0"),
            "official",
            "pip install 'mmcv-lite>=2.0,<2.2' 'mmsegmentation>=1.2.2,<1.3'",
        ),
        (environment(*OFFICIAL), "official", "convnext-dense doctor says what is wrong"),
        (environment(*ONEDL), "onedl", "convnext-dense doctor says what is wrong"),
    ],
    ids=["empty", "fork's engine", "fork without mmseg", "mmdet alone", "official", "fork"],
)
def test_what_is_missing_is_installed_from_the_line_that_is_there(boxes, line, command):
    assert toolboxes.line_of(boxes) == line
    assert toolboxes.mixture(boxes) is None
    assert toolboxes.advice(boxes) == command


@pytest.mark.parametrize(
    ("installed", "command"),
    [(OFFICIAL, "pip install 'mmpretrain>=1.2,<1.3'"), (ONEDL, "pip install 'onedl-mmpretrain>=1.3.6,<1.4'")],
    ids=["official", "fork"],
)
def test_an_optional_toolbox_that_is_needed(installed, command):
    assert toolboxes.advice(environment(*installed), "mmpretrain") == command


@pytest.mark.parametrize(
    ("boxes", "words", "removed", "installed"),
    [
        (
            environment(*OFFICIAL, "mmcv 2.1.0"),
            "mmcv-lite 2.1.0 and mmcv 2.1.0 overwrite each other's files",
            {"mmcv", "mmcv-lite"},
            "pip install 'mmcv-lite>=2.0,<2.2'",
        ),
        (
            environment(*OFFICIAL, "mmcv 2.1.0", compiled=True),
            "mmcv-lite 2.1.0 and mmcv 2.1.0 overwrite each other's files",
            {"mmcv", "mmcv-lite"},
            "pip install 'mmcv-lite>=2.0,<2.2' && convnext-dense ops",
        ),
        (
            environment(*ONEDL, "mmcv-lite 2.1.0"),
            "mmcv-lite 2.1.0 and onedl-mmcv 2.3.6 overwrite each other's files",
            {"mmcv-lite", "onedl-mmcv"},
            "pip install 'convnext_dense[onedl]'",
        ),
        (
            environment(*OFFICIAL, "onedl-mmengine 0.10.12"),
            "mmengine 0.10.7 and onedl-mmengine 0.10.12 overwrite each other's files",
            {"mmengine", "onedl-mmengine"},
            "pip install 'mmengine>=0.10.4,<0.11'",
        ),
        (
            environment(*OFFICIAL[:2], "onedl-mmdetection 3.5.1", OFFICIAL[3]),
            "onedl-mmdetection 3.5.1 beside toolboxes of the official line, which are not tested together",
            {"onedl-mmdetection"},
            "pip install 'mmdet>=3.3,<3.4'",
        ),
        (
            environment("onedl-mmengine 0.10.12", "mmcv 2.1.0", *ONEDL[2:], compiled=True),
            "onedl-mmengine 0.10.12, onedl-mmdetection 3.5.1, onedl-mmsegmentation 1.4.2 beside",
            {"onedl-mmengine", "onedl-mmdetection", "onedl-mmsegmentation"},  # the compiled mmcv stays
            "pip install 'mmengine>=0.10.4,<0.11' 'mmdet>=3.3,<3.4' 'mmsegmentation>=1.2.2,<1.3'",
        ),
        (
            environment(*ONEDL[:2], OFFICIAL[2], ONEDL[3]),
            "mmdet 3.3.0 beside toolboxes of the onedl line, which refuse each other",
            {"mmdet"},
            "pip install 'convnext_dense[onedl]'",
        ),
        (
            environment(*OFFICIAL, *ONEDL),
            "mmengine 0.10.7 and onedl-mmengine 0.10.12; mmcv-lite 2.1.0 and onedl-mmcv 2.3.6;",
            {d.split()[0] for d in OFFICIAL + ONEDL},
            "pip install 'convnext_dense[onedl]'",
        ),
    ],
    ids=[
        "mmcv twice",
        "mmcv twice, compiled",
        "lite over fork",
        "engine twice",
        "one of fork",
        "ops",
        "one official",
        "all",
    ],
)
def test_a_mixture_is_named_and_mended(boxes, words, removed, installed):
    fault = toolboxes.mixture(boxes)
    assert words in fault.text
    uninstall, _, install = fault.remedy.partition(" && ")
    assert set(uninstall.removeprefix("pip uninstall -y ").split()) == removed
    assert install == installed
    assert toolboxes.advice(boxes) == fault.remedy
    # the official mmdet asserts mmcv < 2.2 when it is imported; the fork's trains on the official mmcv
    assert fault.stops == ("not tested together" not in fault.text)


def test_no_advice_puts_the_official_mmcv_over_the_forks():
    for count in range(1, len(ONEDL) + 1):
        for extra in ([], ["mmcv-lite 2.1.0"]):
            boxes = environment(*ONEDL[:count], *extra)
            faults = [toolboxes.fault(box, boxes) for box in boxes.values()] + [toolboxes.mixture(boxes)]
            remedies = [toolboxes.advice(boxes), *(fault.remedy for fault in faults if fault)]
            assert not [r for r in remedies if "mmcv-lite" in r.rpartition("&&")[2] or "[lite]" in r]


@pytest.mark.parametrize(
    ("distribution", "compiled", "words"),
    [
        ("mmcv-lite 2.2.0", False, "needs >=2.0,<2.2; pip install 'mmcv-lite>=2.0,<2.2'"),
        ("mmcv 2.2.0", True, "needs >=2.0,<2.2; convnext-dense ops"),
        ("onedl-mmcv 2.3.5", False, "needs >=2.3.6,<2.4; pip install 'onedl-mmcv>=2.3.6,<2.4'"),
        ("onedl-mmcv 2.3.5", True, "'onedl-mmcv>=2.3.6,<2.4' && convnext-dense ops"),
        ("mmcv-full 1.7.2", True, "pip uninstall -y mmcv-full && pip install 'mmcv-lite>=2.0,<2.2'"),
        ("mmdet 3.2.0", False, "needs >=3.3,<3.4; pip install 'mmdet>=3.3,<3.4'"),
        ("mmengine 0.10.8rc1", False, ""),
        ("mmcv 2.1.0", True, ""),
        ("onedl-mmsegmentation 1.4.2", False, ""),
    ],
)
def test_versions(distribution, compiled, words):
    boxes = environment(distribution, compiled=compiled)
    fault = toolboxes.fault(boxes[MODULE[distribution.split()[0]]], boxes)
    assert bool(fault) == bool(words)
    assert not fault or words in f"{fault.text}; {fault.remedy}"


def test_mmpretrain_is_optional():
    boxes = environment(*OFFICIAL)
    assert toolboxes.fault(boxes["mmpretrain"], boxes) is None
    assert toolboxes.fault(boxes["mmdet"], boxes) is None


# ---- reading an environment from disk


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that is all of ``sys.path``, without the toolboxes of this environment."""
    for module in DISTRIBUTIONS:
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    return tmp_path


def install(site: Path, distribution: str, *files: str, **written: str) -> None:
    """Write what pip would write for an import name: empty ``files`` and ``written`` ones by stem."""
    name, version = distribution.split()
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    folder(site / MODULE[name], *files, **written)


def folder(package: Path, *files: str, **written: str) -> None:
    package.mkdir(exist_ok=True)
    for name in files:
        (package / name).touch()
    for stem, text in written.items():
        (package / f"{stem}.py").write_text(text)


def test_nothing_is_found_where_nothing_is(site):
    boxes = toolboxes.read_toolboxes()
    assert list(boxes) == list(DISTRIBUTIONS) and all(box.absent for box in boxes.values())
    assert toolboxes.toolbox_versions(boxes) == {}


@pytest.mark.parametrize("suffix", [EXTENSION_SUFFIXES[0], ".cpython-27-other.so", ""])
def test_an_installed_mmcv(site, suffix):
    install(site, "onedl-mmcv 2.3.6", "__init__.py", *([f"_ext{suffix}"] if suffix else []))
    box = toolboxes.read_toolbox("mmcv")
    compiled = suffix == EXTENSION_SUFFIXES[0]
    assert (box.line, box.version, box.checkout, box.compiled) == ("onedl", "2.3.6", False, compiled)
    assert box.folder == (site / "mmcv").resolve()
    assert toolboxes.toolbox_versions({"mmcv": box}) == {
        "onedl-mmcv": "2.3.6",
        "mmcv operators": "compiled" if compiled else "not compiled",
    }


def test_several_owners_of_one_folder(site):
    install(site, "mmcv 2.1.0", "__init__.py", version="__version__ = '2.1.0'\n")
    install(site, "onedl-mmcv 2.3.6", "__init__.py", version="__version__ = version('onedl-mmcv')\n")
    box = toolboxes.read_toolbox("mmcv")
    assert [str(owner) for owner in box.owners] == ["mmcv 2.1.0", "onedl-mmcv 2.3.6"]
    assert box.line is None and not box.checkout


def test_a_removal_that_took_the_files_of_both(site):
    install(site, "mmcv-lite 2.1.0")  # the folder stays, without __init__.py
    box = toolboxes.read_toolbox("mmcv")
    assert box.folder is None and box.owners
    fault = toolboxes.fault(box, toolboxes.read_toolboxes())
    assert "files are gone" in fault.text
    assert fault.remedy == "pip uninstall -y mmcv-lite && pip install 'mmcv-lite>=2.0,<2.2'"


def test_a_checkout_on_the_path(site):
    folder(site / "mmseg", __init__="", version="# of mmseg\n__version__ = '1.2.2'\n")
    box = toolboxes.read_toolbox("mmseg")
    assert box.checkout and box.line is None and box.version == "1.2.2"
    assert str(box) == f"mmseg 1.2.2 at {(site / 'mmseg').resolve()}, of no installed distribution"
    assert toolboxes.fault(box, {**environment(), "mmseg": box}) is None
    assert toolboxes.toolbox_versions({**environment(), "mmseg": box}) == {"mmseg": "1.2.2 (checkout)"}


def test_a_checkout_of_another_version(site):
    folder(site / "mmdet", __init__="__version__ = '2.28.0'\n")
    box = toolboxes.read_toolbox("mmdet")
    assert ">=3.3,<3.4 or >=3.5.1,<3.6" in toolboxes.fault(box, environment()).text


def test_a_checkout_before_the_installed_one(site, monkeypatch):
    install(site, "mmdet 3.3.0", "__init__.py")
    folder(site / "clone")
    folder(site / "clone" / "mmdet", __init__="", version="__version__ = '3.5.1'\n")
    monkeypatch.setattr(sys, "path", [str(site / "clone"), str(site)])
    box = toolboxes.read_toolbox("mmdet")
    assert box.checkout and box.version == "3.5.1"
    fault = toolboxes.fault(box, environment())
    assert "hides mmdet 3.3.0" in fault.text and "PYTHONPATH" in fault.remedy


def test_an_editable_install_is_no_checkout(site, monkeypatch):
    source = site / "clone"
    folder(source)
    folder(source / "mmseg", __init__="")
    install(site, "mmsegmentation 1.2.2")
    (site / "mmseg").rmdir()
    origin = f'{{"url": "{source.as_uri()}", "dir_info": {{"editable": true}}}}'
    (site / "mmsegmentation-1.2.2.dist-info" / "direct_url.json").write_text(origin)
    monkeypatch.setattr(sys, "path", [str(site), str(source)])
    box = toolboxes.read_toolbox("mmseg")
    assert (box.line, box.version, box.checkout) == ("official", "1.2.2", False)


def test_every_toolbox_has_a_range_on_each_line():
    for line, ranges in SUPPORTED.items():
        assert list(ranges) == list(DISTRIBUTIONS)
        assert all(SpecifierSet(wanted) for wanted in ranges.values())
        assert all(line in names.values() for names in DISTRIBUTIONS.values())


def test_the_extras_ask_for_these_ranges():
    asked = re.findall(r'"([\w-]+)([<>=].*?)"', (ROOT / "setup.py").read_text())
    asked = {name: wanted for name, wanted in asked if name in MODULE}
    assert len(asked) >= 4
    for name, wanted in asked.items():
        module = MODULE[name]
        assert wanted == SUPPORTED[DISTRIBUTIONS[module][name]][module]


def test_reading_imports_no_toolbox():
    code = "import sys; from convnext_dense import toolboxes as t; t.read_toolboxes(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mmengine", "mmcv", "mmdet", "mmseg"} & set(done.stdout.split())
