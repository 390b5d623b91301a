"""Calls of this environment's pip."""

import subprocess
import sys
from collections.abc import Mapping

from convnext_dense.errors import InstallationError


def pip(*args: str, env: Mapping[str, str] | None = None) -> None:
    """Run pip of this environment, silently unless it fails.

    Raises:
        InstallationError: pip failed; the message has its command and its output.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *args]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode and "No module named pip" in done.stderr:
        raise InstallationError(f"{sys.prefix} has no pip, as uv makes it: uv pip install pip")
    if done.returncode:
        raise InstallationError(f"pip {' '.join(args)} failed:\n{(done.stderr or done.stdout).strip()}")
