"""The command ``convnext-dense``: which subcommands there are, and the two that ``tools/`` has not."""

import importlib
import sys

import pytest
from environments import environment
from mmengine.config import Config

from convnext_dense import cli, get_config, list_configs
from convnext_dense.support.command_line import command_for


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command line in this process: exit status, and what it printed."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["convnext-dense"])
        status = 0
        try:
            cli.main(list(map(str, arguments)))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else bool(ended.code)
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_subcommand_is_in_the_help_and_has_help(name, command):
    assert f"  {name} " in command("--help")[1]
    status, said = command(name, "--help")
    assert status == 0
    assert said.startswith(f"usage: convnext-dense {name} ")


def test_no_subcommand_prints_the_help_and_fails(command):
    assert command() == (2, cli.usage() + "\n")


@pytest.mark.parametrize(("name", "hint"), [("trai", "did you mean train?"), ("x", "--help lists them")])
def test_an_unknown_subcommand_is_one_line(name, hint, command):
    status, said = command(name)
    assert status == 2
    assert said.startswith(f"error: no subcommand '{name}'; ") and said.endswith(f"{hint}\n")


def test_without_the_stack_a_command_says_what_to_install(command, monkeypatch):
    monkeypatch.delitem(sys.modules, "convnext_dense.commands.train", raising=False)
    monkeypatch.setitem(sys.modules, "mmengine", None)
    monkeypatch.setitem(sys.modules, "mmengine.config", None)
    for name in [name for name in sys.modules if name.startswith("convnext_dense.mm")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(cli, "read_toolboxes", environment)
    status, said = command("train", "any")
    assert status == 2
    assert said.startswith("error: train needs the OpenMMLab stack")
    assert said.endswith("pip install 'convnext_dense[lite]'\n")


def test_a_fault_of_our_own_modules_is_no_missing_stack(command, monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'convnext_dense.gone'", name="convnext_dense.gone")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="gone"):
        command("train")


def test_list_prints_recipes_by_pattern(command):
    assert command("list") == (0, "\n".join(list_configs()) + "\n")
    assert command("list", "convnextv2_h")[1].splitlines() == [
        name for name in list_configs() if "convnextv2_h" in name
    ]
    status, said = command("list", "resnet9000")
    assert status == 1, said


@pytest.mark.parametrize("name", ["cascade/convnext_b_3x", "upernet/convnext_t_512_160k"])
def test_a_copied_recipe_is_complete_and_equal(name, command, tmp_path):
    out = tmp_path / "mine.py"
    status, said = command("copy", name, out)
    assert (status, said) == (0, f"wrote {out}; next: convnext-dense train {out} --data-root ...\n")
    assert "_base_ =" not in out.read_text()
    assert Config.fromfile(out).to_dict() == get_config(name).to_dict()


def test_copy_spoils_no_file(command, tmp_path):
    out = tmp_path / "mine.py"
    out.write_text("kept")
    assert command("copy", "cascade/convnext_b_3x", out) == (2, f"error: {out} exists; --force replaces it\n")
    assert out.read_text() == "kept"
    assert command("copy", "cascade/convnext_b_3x", out, "--force")[0] == 0
    assert "ends in .py" in command("copy", "cascade/convnext_b_3x", tmp_path / "mine")[1]
    assert "cascade/convnext_b_3x" in command("copy", "cascade/convnext_base_3x", tmp_path / "x.py")[1]


def test_messages_name_the_command_that_is_used(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convnext-dense swap", "x"])
    assert command_for("train") == "convnext-dense train"
    monkeypatch.setattr(sys, "argv", ["tools/swap_backbone.py", "x"])
    assert command_for("train") == "python tools/train.py"
    assert command_for("swap", "swap_backbone") == "python tools/swap_backbone.py"
