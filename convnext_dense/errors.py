"""The error of a checkpoint, and the one line that matters of others."""

import re


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit the model.

    Attributes:
        names_file: whether the message names the file already.
    """

    names_file = False


def reason(error: BaseException) -> str:
    """The one line that matters of a page in which torch explains a damaged or refused file.

    Torch's own first line advises to read the file unsafely; that line never gets through.
    """
    _, found, detail = str(error).partition("WeightsUnpickler error: ")
    lines = (detail if found else str(error)).split("\n")
    line = next((line for line in lines if line.strip()), type(error).__name__)
    line = re.split(r" Please use| Please file|Re-running `torch.load`|In PyTorch 2\.6", line)[0].strip()
    return line[:300] or type(error).__name__
