"""convnext-dense ops: in which order it acts, and when it has nothing to do."""

from pathlib import Path

import pytest
from environments import OFFICIAL, ONEDL, environment

from convnext_dense.commands import ops
from convnext_dense.errors import InstallationError
from convnext_dense.installation.wheel import Source

WHEEL, OLD = Path("/cache/mmcv.whl"), Path("/old.whl")


@pytest.fixture
def command(monkeypatch):
    """The command without its effects; ``command.done`` lists them."""

    def start(boxes, *arguments: str, works: bool = True):
        done = []
        monkeypatch.setattr(ops, "read_toolboxes", lambda: boxes)
        monkeypatch.setattr(ops, "source_to_compile", lambda _: Source("mmcv", "2.1.0"))
        monkeypatch.setattr(ops, "check_installed", lambda: None if works else "undefined symbol")
        monkeypatch.setattr(ops, "compiled_wheel", lambda *args: done.append(("compile", *args)) or WHEEL)
        monkeypatch.setattr(
            ops, "exchange", lambda old, *_: done.append(("exchange", *old)) or [Path("/old.whl")]
        )
        ops.main(arguments)
        return done

    return start


@pytest.mark.parametrize(("line", "old"), [(OFFICIAL, "mmcv-lite"), (ONEDL, "onedl-mmcv")])
def test_what_is_replaced_and_how_to_go_back(command, capsys, line, old):
    done = command(environment(*line))
    assert [step[0] for step in done] == ["compile", "exchange"]
    assert done[1] == ("exchange", old)
    assert capsys.readouterr().out.splitlines()[-1].endswith("pip install --no-deps /old.whl")


def test_operators_that_run_are_left_alone(command, capsys):
    boxes = environment("mmcv 2.1.0", compiled=True)
    assert command(boxes) == []
    assert "nothing to do" in capsys.readouterr().out
    assert command(boxes, "--force")
    assert command(boxes, works=False)  # built for another torch


def test_jobs_reach_the_compiler(command):
    assert command(environment(*OFFICIAL), "--jobs", "3")[0][2] == 3
    with pytest.raises(SystemExit):
        command(environment(*OFFICIAL), "--jobs", "0")


@pytest.mark.parametrize(
    ("error", "words"),
    [(InstallationError("no compiler"), "^error: no compiler$"), (KeyboardInterrupt(), "goes on from here")],
)
def test_errors_are_one_line_and_an_interruption_says_what_is_kept(monkeypatch, error, words):
    def run(*_):
        raise error

    monkeypatch.setattr(ops, "run", run)
    with pytest.raises(SystemExit, match=words):
        ops.main([])
