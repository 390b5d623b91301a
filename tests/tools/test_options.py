"""The command lines and their options are fixed: a change of code that changes them shows here.

After an intended change, ``PYTHONPATH=tests/helpers python tests/tools/test_options.py``
rewrites ``tests/assets/options.json``.
"""

import argparse
import importlib
import importlib.util
import json
import sys
from types import ModuleType
from unittest import mock

import pytest
from repository import ROOT

from convnext_dense.cli import COMMANDS

FROZEN = ROOT / "tests/assets/options.json"
SITE = ROOT / "tools/dev/site"  # parts of the site's build, which are no commands
TOOLS = {path.stem: path for path in sorted((ROOT / "tools").rglob("*.py")) if path.parent != SITE}
SUBCOMMANDS = {f"convnext-dense {name}": module for name, (module, _) in COMMANDS.items()}


class _Parsed(Exception):
    """Carries the parser out of a command's ``main``."""


def load(tool: str) -> ModuleType:
    """The module of a command."""
    if tool in SUBCOMMANDS:
        return importlib.import_module(f"convnext_dense.commands.{SUBCOMMANDS[tool]}")
    spec = importlib.util.spec_from_file_location(f"tools_{tool}", TOOLS[tool])
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    with mock.patch.object(sys, "path", [str(TOOLS[tool].parent), *sys.path]):  # as for a script
        spec.loader.exec_module(module)
    return module


def parser_of(tool: str) -> argparse.ArgumentParser:
    """The parser that a command of ``tools/`` or a subcommand builds."""

    def stop(parser: argparse.ArgumentParser, *args: object) -> None:
        raise _Parsed(parser)

    with (
        mock.patch.object(sys, "argv", [tool]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        pytest.raises(_Parsed) as parsed,
    ):
        load(tool).main()
    return parsed.value.args[0]


def options_of(parser: argparse.ArgumentParser) -> dict:
    """Options with their choices, positional arguments, and the same of each subcommand."""
    found: dict = {}
    for action in parser._actions:  # argparse has no public list of what a parser takes
        if isinstance(action, argparse._SubParsersAction):
            found |= {name: options_of(sub) for name, sub in action.choices.items()}
        elif action.dest != "help":
            name = " ".join(action.option_strings) or f"<{action.dest}>"
            found[name] = sorted(map(str, action.choices)) if action.choices else None
    return dict(sorted(found.items()))


NAMES = sorted([*TOOLS, *SUBCOMMANDS])


@pytest.mark.parametrize("tool", NAMES)
def test_options_are_the_frozen_ones(tool):
    assert options_of(parser_of(tool)) == json.loads(FROZEN.read_text())[tool]


def test_every_command_is_frozen():
    assert sorted(json.loads(FROZEN.read_text())) == NAMES


if __name__ == "__main__":
    FROZEN.write_text(json.dumps({tool: options_of(parser_of(tool)) for tool in NAMES}, indent=1) + "\n")
