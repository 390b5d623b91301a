"""The command of this process, for messages that name a command to run next."""

import sys

SCRIPT = "convnext-dense"


def command_for(subcommand: str, script: str | None = None) -> str:
    """``convnext-dense train`` in a process of that command, else ``python tools/train.py``.

    Args:
        subcommand: name of the subcommand of ``convnext-dense``.
        script: file of ``tools/`` without its suffix, if it has another name.
    """
    if sys.argv[0].startswith(SCRIPT):
        return f"{SCRIPT} {subcommand}"
    return f"python tools/{script or subcommand}.py"
