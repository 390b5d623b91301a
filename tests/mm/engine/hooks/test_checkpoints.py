"""The command that a stopped run names; ``test_loops`` stops runs and resumes them."""

import pytest

from convnext_dense.mm.engine.hooks.checkpoints import resume_command


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["tools/train.py", "c.py"], "python tools/train.py c.py --resume"),
        (["tools/train.py", "c.py", "--resume"], "python tools/train.py c.py --resume"),
        (["convnext-dense train", "c.py"], "convnext-dense train c.py --resume"),
        (["tools/train.py", "c.py", "--launcher=slurm"], "the same command with --resume"),
        (["t.py", "c.py", "--work-dir", "my runs"], "python t.py c.py --work-dir 'my runs' --resume"),
    ],
)
def test_the_command_that_resumes(argv, command):
    assert resume_command(argv) == command
