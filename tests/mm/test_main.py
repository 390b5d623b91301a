"""``python -m convnext_dense.mm SCRIPT`` runs a script as Python would, with all registered."""

import sys

import pytest
import torch
from mmengine.logging import HistoryBuffer

from convnext_dense.mm.__main__ import main


@pytest.mark.parametrize("arguments", [[], ["no_such_script.py"]])
def test_it_needs_a_script(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mm", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "usage: python -m convnext_dense.mm SCRIPT" in capsys.readouterr().err


def test_a_script_reads_checkpoints_and_gets_its_arguments(tmp_path, monkeypatch, capsys):
    torch.save(dict(hub=HistoryBuffer([1.0], [1])), state := tmp_path / "state.pth")
    (tmp_path / "beside.py").write_text("value = 7\n")
    (script := tmp_path / "script.py").write_text(
        "import sys, torch, beside\nprint(torch.load(sys.argv[1])['hub'].mean(), __name__, beside.value)\n"
    )
    monkeypatch.setattr(sys, "argv", ["mm", str(script), str(state)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = torch.serialization.get_safe_globals()
    try:
        main()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert capsys.readouterr().out == "1.0 __main__ 7\n"
