"""All errors that a user can act on, in one hierarchy, and the one relevant line of other errors.

A message is one line, or a few, that name the file or the key and the remedy; command lines print it without
a traceback. Each class is also the built-in error that callers of a library expect. This module imports
nothing of the package.
"""

import re


class DenseError(Exception):
    """Base of all errors whose message is meant for the user."""


class UserError(DenseError, ValueError):
    """A wrong argument of a command, or a wrong entry of a config."""


class ArgumentError(DenseError, ValueError):
    """A wrong argument of a class or function, such as an unknown arch."""


class CheckpointError(DenseError, ValueError):
    """A checkpoint that cannot be read or does not fit the model.

    Attributes:
        names_file: whether the message already names the file.
    """

    names_file = False


class MissingPackageError(CheckpointError):
    """An optional package that is absent or broken; the message has the command that installs it."""


class InstallationError(DenseError, RuntimeError):
    """Packages that cannot be compiled or replaced; what was installed before is still there."""


class DataError(DenseError, ValueError):
    """Images, annotations or records that cannot be used."""


class DatasetNotFoundError(DenseError, FileNotFoundError):
    """Files that a config needs are not on disk."""


def reason(error: BaseException) -> str:
    """The one relevant line of torch's long message about a damaged or refused file.

    Torch's own first line advises reading the file unsafely; that line is never shown.
    """
    _, found, detail = str(error).partition("WeightsUnpickler error: ")
    lines = (detail if found else str(error)).split("\n")
    line = next((line for line in lines if line.strip()), type(error).__name__)
    line = re.split(r" Please use| Please file|Re-running `torch.load`|In PyTorch 2\.6", line)[0].strip()
    return line[:300] or type(error).__name__
