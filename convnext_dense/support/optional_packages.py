"""Optional packages: one place to import them."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from convnext_dense.errors import MissingPackageError, reason


def optional(name: str, purpose: str, package: str | None = None) -> ModuleType:
    """Import an optional module; one that is installed but broken counts as absent.

    Raises:
        MissingPackageError: it is absent; the message has the command that installs it.
    """
    try:
        with without_compiled_torchvision():
            return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        broken = "" if isinstance(error, ModuleNotFoundError) else f" (it is broken: {reason(error)})"
        raise MissingPackageError(
            f"{purpose} needs {name.partition('.')[0]}{broken}; "
            f"pip install {package or name.partition('.')[0]}"
        ) from None


@contextmanager
def without_compiled_torchvision() -> Iterator[None]:
    """Allow imports of torchvision even if its wheel does not fit this build of torch.

    A wheel for CUDA with a torch without CUDA has none of its operators. Only the registration of
    their fake versions then fails, and no ConvNeXt uses them. Nothing is done before torch is imported, which
    this does not do itself: the runtime of exported models works without it.
    """
    if (torch := sys.modules.get("torch")) is None:
        yield
        return
    register = torch.library.register_fake

    def careful(op: Any, *args: Any, **kwargs: Any) -> Callable[[Callable], Callable]:
        decorate = register(op, *args, **kwargs)

        def decorator(function: Callable) -> Callable:
            try:
                return decorate(function)
            except RuntimeError:
                return function

        return decorator

    torch.library.register_fake = careful
    try:
        yield
    finally:
        torch.library.register_fake = register
