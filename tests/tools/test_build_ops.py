"""tools/build_ops.py without a compiler: what it keeps, in which order it acts, and what it says."""

import importlib.util
from pathlib import Path

import pytest
from repository import ROOT

SPEC = importlib.util.spec_from_file_location("build_ops", ROOT / "tools" / "build_ops.py")


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """The module, with all calls to the outside replaced; ``tool.done`` lists them."""
    tool = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(tool)
    monkeypatch.setenv("CONVNEXT_DENSE_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["build_ops.py"])
    tool.done = []

    def check_installed():
        return (
            None
            if any(step.startswith("pip install") for step in tool.done)
            else "No module named 'mmcv._ext'"
        )

    def build_wheel(folder):
        tool.done.append("build")
        folder.mkdir(parents=True)
        (folder / "mmcv-2.1.0-any.whl").touch()
        return folder / "mmcv-2.1.0-any.whl"

    tool.pip = lambda *args: tool.done.append(" ".join(["pip", args[0], Path(args[-1]).name]))
    tool.check_installed, tool.build_wheel = check_installed, build_wheel
    return tool


def test_builds_once_and_installs_from_the_cache_then(tool, capsys):
    assert tool.main() == 0
    assert tool.done == ["build", "pip uninstall mmcv", "pip install mmcv-2.1.0-any.whl"]
    tool.done.clear()
    assert tool.main() == 0
    assert tool.done == ["pip uninstall mmcv", "pip install mmcv-2.1.0-any.whl"]
    assert "wheel from the cache" in capsys.readouterr().out


def test_does_nothing_where_the_ops_run(tool):
    tool.check_installed = lambda: None
    assert tool.main() == 0
    assert tool.done == []


def test_force_builds_again(tool, monkeypatch):
    monkeypatch.setattr("sys.argv", ["build_ops.py", "--force"])
    tool.check_installed = lambda: None
    assert tool.main() == 0
    assert tool.done[0] == "build"


def test_a_failed_build_leaves_mmcv_lite(tool, capsys):
    def build_wheel(folder):
        raise tool.BuildError("no C++ compiler")

    tool.build_wheel = build_wheel
    assert tool.main() == 1
    assert tool.done == []
    assert "no C++ compiler" in capsys.readouterr().err


def test_ops_that_do_not_run_are_an_error(tool, capsys):
    tool.check_installed = lambda: "undefined symbol"
    assert tool.main() == 1
    assert "undefined symbol" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["torch", "python", "accelerator"])
def test_key_distinguishes_environments(tool, monkeypatch, name):
    before = tool.cache_key()
    if name == "torch":
        monkeypatch.setattr(tool.torch, "__version__", "9.9.9")
    elif name == "python":
        monkeypatch.setattr(tool.sys, "version_info", type("V", (), {"major": 3, "minor": 99}))
    else:
        monkeypatch.setattr(tool, "builds_cuda", lambda: True)
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0")
    assert tool.cache_key() != before
    assert set(tool.cache_key()) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")


def test_progress_counts_objects(tool, capsys):
    tool.show_progress(iter(["  Running command\n", "  [1/77] c++ -c a.cpp\n", "[77/77] c++ -c b.cpp\n"]))
    first, last = capsys.readouterr().out.splitlines()
    assert first == "compiling mmcv: 1/77 objects, 0:00 elapsed"
    assert last.startswith("compiling mmcv: 77/77 objects")
    # 20 objects after the first took 100 s: 5 s each, 56 left
    assert (
        tool.progress_line(21, 77, 130, 100) == "compiling mmcv: 21/77 objects, 2:10 elapsed, about 4:40 left"
    )


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("c++: fatal error: Killed signal terminated program cc1plus", "MAX_JOBS=1"),
        ("ERROR: No matching distribution found for mmcv==2.1.0", "network"),
        ("RuntimeError: The detected CUDA version (11.2) mismatches", "CUDA_HOME"),
    ],
)
def test_failures_carry_their_remedy(tool, tmp_path, line, remedy):
    log = tmp_path / "build.log"
    log.write_text("\n".join(["start", line, *["later"] * 50]))
    explained = tool.explain_failure(log)
    assert remedy in explained.splitlines()[-1]
    assert "mmcv-lite is still in place" in explained
    assert str(log) in explained
    assert line in explained
