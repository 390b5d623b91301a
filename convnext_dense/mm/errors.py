"""Errors that a user can act on, as one line instead of a traceback."""

import contextlib
import difflib
import errno
import logging
import re
import sys
import urllib.error
from collections.abc import Iterator

import torch
from mmengine import registry
from mmengine.logging import MMLogger

from convnext_dense.errors import ArgumentError, DenseError
from convnext_dense.mm.blame import HINT, blame, entry, one_line, place

CUSTOM_IMPORTS = "custom_imports = dict(imports=['convnext_dense.mm'])"
_NOT_REGISTERED = re.compile(r"(?P<name>[\w.]+) is not in the (?P<registry>[\w:. ]+?) registry")

# gloo and nccl, when the process at the other end is gone
_PEER_GONE = re.compile(
    r"connection (closed|reset) by (remote )?peer|remote process exit(ed|ing)|broken pipe", re.IGNORECASE
)
_UNEQUAL = "stack expects each tensor to be equal size"
_BATCHING = ("stack_batch", "data_preprocessor", "collate")  # where samples become a batch
_WORKER_KILLED = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal: Killed|exited unexpectedly)")


def explain(error: BaseException) -> str | None:
    """One line of advice for an error that a user can act on, ``None`` for anything else."""
    if isinstance(error, ArgumentError) and (where := entry(error)):
        return f"{where}: {error}"
    if isinstance(error, DenseError):
        return str(error)
    if isinstance(error, urllib.error.URLError):
        return f"cannot download weights ({error}); give --pretrained PATH or --pretrained none"
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU's memory is full: lower train_dataloader.batch_size (gradients are accumulated to the "
            "recipe's batch), or set model.backbone.memory=leaner or model.backbone.with_cp=True"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left to write {error.filename or 'a log'}: free space, then continue with --resume"
    # later errors of the shutdown must not hide this one
    if any(isinstance(e, RuntimeError) and _PEER_GONE.search(str(e)) for e in _chain(error)):
        return "another process of this job ended, see its own message; start again with --resume to continue"
    if isinstance(error, RuntimeError) and _WORKER_KILLED.search(str(error)):
        return (
            "a process that loads data was killed, most likely because the memory is full: lower "
            "train_dataloader.num_workers and continue with --resume"
        )
    if _UNEQUAL in str(error) and any(name in place(error) for name in _BATCHING):
        return (
            "the images of a batch have different sizes: end train_dataloader.dataset.pipeline with a "
            "RandomCrop of model.data_preprocessor.size, or set train_dataloader.batch_size=1"
        )
    if match := _NOT_REGISTERED.search(str(error)):
        where = entry(error)
        return f"{where}: " * bool(where) + _unregistered(match["name"], match["registry"])
    return blame(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield ``error`` and the errors that were being handled when it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _unregistered(name: str, registry_name: str) -> str:
    """``MaskRCN`` of ``mmdet::model`` -> similar names and the line that registers ours."""
    kind = registry_name.split("::")[-1]
    roots = [
        item for item in vars(registry).values() if isinstance(item, registry.Registry) and item.name == kind
    ]
    known = {key for root in roots for key in _all_names(root)}
    scopes = [child.scope for root in roots for child in root.children.values() if name in child.module_dict]
    if scopes:
        wanted = scopes[0]
        return f"{name!r} is {wanted}'s: write default_scope = {wanted!r}, or type='{wanted}.{name}'"
    near = difflib.get_close_matches(name.split(".")[-1], known, n=3)
    hint = f"similar names: {', '.join(near)}" if near else "no similar name"
    return f"no {kind} is called {name!r}; {hint}; if it is one of ours, add to the config: {CUSTOM_IMPORTS}"


def _all_names(root: registry.Registry) -> set[str]:
    names = set(root.module_dict)
    for child in root.children.values():
        names |= _all_names(child)
    return names


@contextlib.contextmanager
def one_line_errors(traceback: bool | None = None) -> Iterator[None]:
    """Print what :func:`explain` knows and exit with status 2.

    Ctrl-C also ends in one line, with the shell's status 130.

    Args:
        traceback: what becomes of other errors. ``None``: they pass unchanged. ``False``: one line, too, and
            status 1; the traceback goes to the log file of a run. ``True``: every error passes unchanged.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        advice = None if traceback else explain(error)
        if advice is None and traceback is not False:
            raise
        print(f"error: {advice or _unexplained(error)}", file=sys.stderr)
        raise SystemExit(2 if advice else 1) from None


def _unexplained(error: Exception) -> str:
    """One line for an error that may be a fault of the code; its traceback goes to the log file."""
    files = []
    for logger in list(MMLogger._instance_dict.values()):
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "the run ended", (), None)
                record.exc_info = (type(error), error, error.__traceback__)
                handler.emit(record)
                files.append(handler.baseFilename)
    remedy = f"the traceback is in {files[-1]}" if files else HINT
    return f"{one_line(error)} ({place(error)}); {remedy}"
