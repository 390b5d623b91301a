"""tools/dev/matrix_environments.py: the table of environments, and what an interruption leaves."""

import importlib.util
import io
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from repository import ROOT

from convnext_dense.errors import InstallationError
from convnext_dense.toolboxes import DISTRIBUTIONS, REQUIRED

SPEC = importlib.util.spec_from_file_location(
    "matrix_environments", ROOT / "tools/dev/matrix_environments.py"
)


@pytest.fixture
def tool(monkeypatch):
    """The module with commands that do nothing: they are noted, and fail where ``tool.fails`` says so."""
    tool = importlib.util.module_from_spec(SPEC)
    monkeypatch.setitem(sys.modules, SPEC.name, tool)
    SPEC.loader.exec_module(tool)
    tool.commands, tool.fails = [], lambda command: False

    def run(command, **_):
        tool.commands.append(command)
        if command[1:3] == ["-m", "venv"]:
            (tool.Path(command[3]) / "bin").mkdir(parents=True)
        return subprocess.CompletedProcess(command, int(tool.fails(command)))

    monkeypatch.setattr(tool.subprocess, "run", run)
    return tool


def named_log(tmp_path) -> io.StringIO:
    log = io.StringIO()
    log.name = str(tmp_path / "log")
    return log


def test_a_row_asks_for_each_package_once_and_for_one_line(tool):
    for name, row in tool.ROWS.items():
        wanted = [Requirement(line).name for line in row.requirements]
        assert len(wanted) == len(set(wanted)), name
        for module in REQUIRED:
            served = [of for package, of in DISTRIBUTIONS[module].items() if package in wanted]
            assert served == ([] if name == "core" else ["onedl" if "onedl" in name else "official"]), name


def test_rows_differ_in_what_their_name_says(tool):
    torch = {
        name: re.search(r"torch==(\S+)", " ".join(row.requirements))[1] for name, row in tool.ROWS.items()
    }
    assert {torch["official-torch-2.14"], torch["onedl-torch-2.14"]} == {"2.14.1"}
    assert torch["oldest"] == "2.6.0"
    assert {name for name, row in tool.ROWS.items() if row.compiled} == {
        "official-compiled",
        "onedl-compiled",
    }


def test_an_environment_is_made_once_and_anew_after_a_change(tool, tmp_path):
    first = tool.environment("core", tmp_path, named_log(tmp_path))
    made = len(tool.commands)
    assert tool.environment("core", tmp_path, named_log(tmp_path)) == first
    assert len(tool.commands) == made
    row = tool.ROWS["core"]
    tool.ROWS["core"] = row._replace(requirements=(*row.requirements, "tqdm"))
    assert tool.environment("core", tmp_path, named_log(tmp_path)) != first


def test_compiled_rows_run_the_command_for_it(tool, tmp_path):
    python = tool.environment("onedl-compiled", tmp_path, named_log(tmp_path))
    assert tool.commands[-1] == [str(python), "-m", "convnext_dense", "ops"]


def test_a_failure_names_the_log_and_leaves_nothing(tool, tmp_path):
    tool.fails = lambda command: "pip" in command
    with pytest.raises(InstallationError, match=rf"status 1; see {re.escape(str(tmp_path / 'log'))}"):
        tool.environment("core", tmp_path, named_log(tmp_path))
    assert not tool.folder_of("core", tmp_path).exists()


def test_what_an_interruption_left_is_made_again(tool, tmp_path):
    def interrupt(command):
        if "pip" in command:
            raise KeyboardInterrupt
        return False

    tool.fails = interrupt
    with pytest.raises(KeyboardInterrupt):
        tool.environment("core", tmp_path, named_log(tmp_path))
    left = tool.folder_of("core", tmp_path) / "half"
    left.touch()
    tool.fails = lambda command: False
    tool.environment("core", tmp_path, named_log(tmp_path))
    assert not left.exists()
