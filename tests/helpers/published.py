"""Published figures and settings that tests compare with (files in ``tests/assets``)."""

import contextlib
import copy
import functools
import importlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from repository import ASSETS, ROOT
from waiting import HANGS

from convnext_dense import get_config

TABLES = json.loads((ASSETS / "paper_tables.json").read_text())
RECIPES = {recipe["config"]: recipe for recipe in json.loads((ASSETS / "recipes.json").read_text())}
COCO_RECIPES = [name for name in RECIPES if not name.startswith("upernet/")]


def param_groups(config: str) -> dict[str, tuple[float, float]]:
    """Parameter names of the whole backbone and a sample neck -> (lr scale, weight decay) as released."""
    groups = json.loads((ASSETS / "param_groups.json").read_text())[config]
    return {
        name: tuple(float(value) for value in key.split(","))
        for key, names in groups.items()
        for name in names.split()
    }


@functools.cache
def _config(name: str):
    return get_config(name)


def config(name: str):
    """A copy of a recipe's mmengine ``Config``, which is read once."""
    return copy.deepcopy(_config(name))


def coco_tiny() -> Path:
    """Folder of a few real COCO images; skips the test where there is none.

    ``CONVNEXT_DENSE_SHARED`` or a folder ``shared`` beside the checkout holds ``data/coco_tiny``.
    """
    shared = Path(os.environ.get("CONVNEXT_DENSE_SHARED", ROOT.parent / "shared"))
    folder = shared / "data" / "coco_tiny"
    if not folder.is_dir():
        pytest.skip("no real COCO images: set CONVNEXT_DENSE_SHARED to a folder with data/coco_tiny")
    return folder


def run_tool(*arguments: str) -> subprocess.CompletedProcess:
    """Run a command of ``tools/`` from the checkout, as a user would."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=HANGS)


def run_command(name: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a subcommand in this process, which spares its start."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    quiet = mock.patch.object(
        logging, "raiseExceptions", False
    )  # loggers of earlier tests have closed streams
    with quiet, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            importlib.import_module(f"convnext_dense.commands.{name}").main(list(arguments))
        except SystemExit as ended:
            status = ended.code or 0
    return subprocess.CompletedProcess([name, *arguments], status, out.getvalue(), err.getvalue())
