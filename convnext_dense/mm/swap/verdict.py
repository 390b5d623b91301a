"""The verdict on one config: its backbone is swapped, and the result tried.

What fails is tried with its own backbone as well.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

from mmengine.config import Config

from convnext_dense.mm.config.load import load_config
from convnext_dense.mm.swap.backbone import swap_backbone
from convnext_dense.mm.swap.probe import RefusedError
from convnext_dense.mm.swap.smoke_test import try_model
from convnext_dense.mm.swap.structures import digest_of, one_line, quiet

# "fails as it is": also with its own backbone (a missing package or op, or a broken config)
Outcome = Literal["passes", "refused", "fails as it is", "fails"]

ARCH = "atto"  # this tests the structure, not the size
TIME_LIMIT = 600  # seconds of CPU time for one model, so that other processes change no verdict


class Verdict(NamedTuple):
    """What became of one config.

    Attributes:
        outcome: see :data:`Outcome`.
        reason: why it does not pass; empty if it does.
        trial: digest of the swapped model that was tried; empty if none was.
        seconds: of CPU time; small if an equal model had been tried before.
    """

    outcome: Outcome
    reason: str
    trial: str
    seconds: float


def judge(name: str, tried: dict[str, str]) -> Verdict:
    """Swap the backbone of a config and try the result; every outcome is a verdict.

    Args:
        name: ``mmdet::folder/file.py``.
        tried: digest of a model -> why it fails, empty if it does not. Models in it are not tried again;
            what is tried is added.
    """
    start, trial = time.process_time(), ""
    try:
        with quiet(), _time_limit(TIME_LIMIT):
            cfg = load_config(name)
            swapped = swap_backbone(cfg, ARCH, pretrained="none").cfg
            trial = digest_of(swapped)
            outcome, reason = _outcome(cfg, swapped, tried)
    except RefusedError as error:
        outcome, reason = "refused", one_line(error)
    except Exception as error:  # a config can run any code, and the swap may be at fault
        outcome, reason = "fails", f"the swap ends in {type(error).__name__}: {one_line(error)}"
    return Verdict(outcome, reason, trial, round(time.process_time() - start, 1))


def _outcome(cfg: Config, swapped: Config, tried: dict[str, str]) -> tuple[Outcome, str]:
    if not (reason := _failure(swapped, tried)):
        return "passes", ""
    if own := _failure(cfg, tried):
        return "fails as it is", own
    return "fails", reason


def _failure(cfg: Config, tried: dict[str, str]) -> str:
    """Error message of a model that fails, or an empty string."""
    digest = digest_of(cfg)
    if digest not in tried:
        try:
            try_model(cfg)
            tried[digest] = ""
        except Exception as error:  # of a third-party model
            tried[digest] = one_line(error)
    return tried[digest]


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` each time that many seconds of CPU time have passed."""

    def expire(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} s of CPU time")

    before = signal.signal(signal.SIGPROF, expire)
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
