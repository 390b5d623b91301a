"""tools/dev/check_install.py without pip: what counts as a change."""

import importlib

import pytest
from repository import ROOT


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools/dev")
    return importlib.import_module("check_install")


def test_this_package_is_no_change_and_all_else_is(tool):
    before = "mmcv-lite==2.1.0\nnumpy==2.4.6\n"
    ours = "convnext_dense @ file:///tmp/convnext_dense-0.1.0-py3-none-any.whl\n"
    assert tool.difference(before, before + ours) == []
    assert tool.difference(before, ours + "mmcv==2.1.0\nnumpy==2.4.6\ntqdm==4.70.1\n") == [
        "-mmcv-lite==2.1.0",
        "+mmcv==2.1.0",
        "+tqdm==4.70.1",
    ]


def test_an_unknown_row_is_named_before_anything_is_built(tool, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["check_install.py", "oneld"])
    monkeypatch.setattr(tool, "build", lambda folder: pytest.fail("built"))
    with pytest.raises(SystemExit):
        tool.main()
    assert "no row oneld" in capsys.readouterr().err
