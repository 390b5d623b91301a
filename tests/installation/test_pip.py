"""Calls of pip and what is said when they fail."""

import sys
import venv

import pytest

from convnext_dense.errors import InstallationError
from convnext_dense.installation.pip import pip


def test_a_failure_has_the_command_and_what_pip_said():
    with pytest.raises(InstallationError, match=r"(?s)pip show no-such-distribution failed:.*not found"):
        pip("show", "no-such-distribution")


def test_an_environment_without_pip(tmp_path, monkeypatch):
    venv.create(tmp_path, with_pip=False)
    monkeypatch.setattr(sys, "executable", str(next(tmp_path.glob("[bS]*/python*"))))
    with pytest.raises(InstallationError, match="uv pip install pip"):
        pip("--version")
