"""timm imports torchvision, whose wheel is built for CUDA; beside a CPU torch its compiled ops are not there.

Only the registration of their stand-ins fails, and no ConvNeXt uses them. Importing this module
imports torchvision without them, where it is installed.
"""

import contextlib

import torch

_register_fake = torch.library.register_fake


def _skip_missing(op, *args, **kwargs):
    if isinstance(op, str) and op.startswith("torchvision::"):
        return lambda function: function
    return _register_fake(op, *args, **kwargs)


torch.library.register_fake = _skip_missing
with contextlib.suppress(ImportError):
    import torchvision  # noqa: F401
torch.library.register_fake = _register_fake
