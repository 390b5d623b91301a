"""Waiting for threads and processes: no result depends on how busy the machine is."""

import time
from collections.abc import Callable

HANGS = 1800  # seconds after which something counts as hung; working code stays far below


def wait_until(condition: Callable[[], object]) -> None:
    """Poll ``condition`` until it holds.

    Raises:
        TimeoutError: it never did.
    """
    end = time.monotonic() + HANGS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {HANGS} s in vain")
        time.sleep(0.02)
