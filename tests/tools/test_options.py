"""The command lines and their options are a contract: a change of code that changes them shows here.

After a change that is meant, ``python tests/tools/test_options.py`` rewrites ``tests/assets/options.json``.
"""

import argparse
import importlib.util
import json
import sys
from unittest import mock

import pytest
from repository import ROOT

FROZEN = ROOT / "tests/assets/options.json"
TOOLS = {path.stem: path for path in sorted((ROOT / "tools").rglob("*.py"))}


class _Parsed(Exception):
    """Carries the parser out of a command's ``main``."""


def parser_of(tool: str) -> argparse.ArgumentParser:
    """The parser that a command of ``tools/`` builds."""

    def stop(parser: argparse.ArgumentParser, *args: object) -> None:
        raise _Parsed(parser)

    spec = importlib.util.spec_from_file_location(f"tools_{tool}", TOOLS[tool])
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    with (
        mock.patch.object(sys, "argv", [tool]),
        mock.patch.object(argparse.ArgumentParser, "parse_args", stop),
        pytest.raises(_Parsed) as parsed,
    ):
        spec.loader.exec_module(module)
        module.main()
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


def has_parser(tool: str) -> bool:
    return "ArgumentParser" in TOOLS[tool].read_text()


@pytest.mark.parametrize("tool", sorted(filter(has_parser, TOOLS)))
def test_options_are_the_frozen_ones(tool):
    assert options_of(parser_of(tool)) == json.loads(FROZEN.read_text())[tool]


def test_every_command_is_frozen():
    assert sorted(json.loads(FROZEN.read_text())) == sorted(filter(has_parser, TOOLS))


if __name__ == "__main__":
    current = {tool: options_of(parser_of(tool)) for tool in sorted(filter(has_parser, TOOLS))}
    FROZEN.write_text(json.dumps(current, indent=1) + "\n")
