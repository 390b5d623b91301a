"""How this process was started, for messages that name a command to run next."""

import sys

SCRIPT = "convnext-dense"


def command_for(subcommand: str, script: str | None = None) -> str:
    """``convnext-dense train`` in a process of that command, else ``python tools/train.py``.

    Args:
        subcommand: as ``convnext-dense`` has it.
        script: the file of ``tools/`` without its suffix, where it has another name.
    """
    if sys.argv[0].startswith(SCRIPT):
        return f"{SCRIPT} {subcommand}"
    return f"python tools/{script or subcommand}.py"
