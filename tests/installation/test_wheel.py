"""The cache of compiled wheels: what a key distinguishes, and what failures and kills leave.

The builds are real ones, of a source distribution whose setup.py only copies a file.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from repository import ROOT
from waiting import HANGS, wait_until

from convnext_dense.errors import InstallationError
from convnext_dense.installation import wheel
from convnext_dense.installation.wheel import Source, cache_folder, cache_key, compiled_wheel

SOURCE = Source("onedl-mmcv", "2.3.6")
SETUP = """
import os, pathlib, time
from setuptools import setup
{before}
setup(name="onedl-mmcv", version="2.3.6", packages=["mmcv"], package_data={{"mmcv": ["_ext.*"]}})
"""
# an "object file" that an interrupted build keeps, then a compiler that never ends
HANG = """
build = pathlib.Path("build/temp.this"); build.mkdir(parents=True, exist_ok=True)
if not (build / "pid").exists():
    pathlib.Path("build/lib").mkdir()
    (build / "pid").write_text(str(os.getpid()))
    (build / "ready").touch()
    time.sleep(10**6)
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("CONVNEXT_DENSE_CACHE", str(tmp_path))
    return tmp_path


def unpack(before: str = "", operators: bool = True) -> Path:
    """Put a source distribution where the download would, beside the tools; return its folder."""
    work = cache_folder(SOURCE) / "work"
    (work / "tools").mkdir(parents=True)
    (work / "source" / "mmcv").mkdir(parents=True)
    (work / "source" / "setup.py").write_text(SETUP.format(before=before))
    (work / "source" / "mmcv" / "__init__.py").touch()
    if operators:
        (work / "source" / "mmcv" / "_ext.so").write_text("operators")
    return work / "source"


@pytest.mark.parametrize("part", ["torch", "python", "accelerator", "distribution", "version"])
def test_key_distinguishes_environments(monkeypatch, part):
    before, source = cache_key(SOURCE), SOURCE
    if part == "torch":
        monkeypatch.setattr(wheel.torch, "__version__", "9.9.9")
    elif part == "python":
        monkeypatch.setattr(wheel.sys, "version_info", SimpleNamespace(major=3, minor=99))
    elif part == "accelerator":
        monkeypatch.setattr(wheel, "builds_cuda", lambda: True)
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0")
    else:
        source = SOURCE._replace(**{part: "other"})
    assert cache_key(source) != before
    assert set(cache_key(source)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")


def test_compiles_once_and_keeps_only_wheel_and_log(capsys):
    unpack()
    first = compiled_wheel(SOURCE)
    assert sorted(path.name for path in first.parent.iterdir()) == ["build.log", first.name]
    assert compiled_wheel(SOURCE) == first
    assert "wheel from the cache" in capsys.readouterr().out


def test_force_compiles_from_the_start():
    kept = compiled_wheel_of(unpack())
    source = unpack()  # force removes it, and would then download
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        patch.setattr(wheel, "pip", lambda *args, env=None: calls.append(args) or stop())
        with pytest.raises(InstallationError, match="no network"):
            compiled_wheel(SOURCE, force=True)
    assert not source.exists()
    assert calls
    assert kept.exists()


def compiled_wheel_of(source: Path) -> Path:
    assert source.exists()
    return compiled_wheel(SOURCE)


def stop() -> None:
    raise InstallationError("no network")


def test_a_failed_build_leaves_no_wheel_and_names_the_log():
    source = unpack(before="raise SystemExit('error: no such header')")
    with pytest.raises(InstallationError, match="error: no such header"):
        compiled_wheel(SOURCE)
    assert wheel.cached_wheel(cache_folder(SOURCE)) is None
    assert source.exists()  # and the next call goes on


def test_a_wheel_without_operators_is_none():
    unpack(operators=False)
    with pytest.raises(InstallationError, match="without its operators"):
        compiled_wheel(SOURCE)
    assert wheel.cached_wheel(cache_folder(SOURCE)) is None


def test_without_a_compiler_nothing_is_begun(monkeypatch, cache):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InstallationError, match="no C\\+\\+ compiler"):
        compiled_wheel(SOURCE)
    assert not (cache_folder(SOURCE) / "work").exists()


def call(errors: int) -> subprocess.Popen:
    """Another process that asks for the wheel."""
    code = f"from convnext_dense.installation.wheel import *; compiled_wheel(Source{tuple(SOURCE)})"
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, text=True)


def test_a_second_call_waits_and_goes_on_where_the_first_was_killed():
    source = unpack(before=HANG)
    first = call(subprocess.DEVNULL)
    wait_until((source / "build" / "temp.this" / "ready").exists)
    second = call(subprocess.PIPE)
    while "waiting for another process" not in (line := second.stderr.readline()):
        assert line, "it did not wait"
    first.kill()
    assert first.wait(HANGS) != 0
    assert second.wait(HANGS) == 0
    assert wheel.cached_wheel(cache_folder(SOURCE))


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("killed_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_kill_ends_the_build_and_keeps_its_objects(killed_by, capsys):
    source = unpack(before=HANG)
    caller = call(subprocess.DEVNULL)
    objects = source / "build" / "temp.this"
    wait_until(lambda: (objects / "ready").exists())
    caller.send_signal(killed_by)
    assert caller.wait(HANGS) != 0
    build = int((objects / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{build}").exists())
    assert wheel.cached_wheel(cache_folder(SOURCE)) is None
    assert compiled_wheel(SOURCE).exists()  # setup.py found "pid", or it would hang
    assert "continuing" in capsys.readouterr().out
