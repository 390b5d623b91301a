"""Progress of a compilation of mmcv, and the cause and the remedy of one that failed."""

import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_COUNTER = re.compile(r"\s*\[(\d+)/(\d+)\]")  # ninja's
_QUIET = 30.0  # seconds between two lines where the output is no terminal


def tee(lines: Iterable[str], log: Path) -> Iterator[str]:
    """Yield ``lines``, and write each to ``log`` at once."""
    with log.open("w", encoding="utf-8", buffering=1) as file:
        for line in lines:
            file.write(line)
            yield line


def show_progress(lines: Iterable[str]) -> None:
    """Show ninja's counter: one line that is rewritten on a terminal; elsewhere a line every 30 seconds."""
    live, start, printed = sys.stdout.isatty(), time.monotonic(), -_QUIET
    first: float | None = None
    for line in lines:
        match = _COUNTER.match(line)
        if not match:
            continue
        now = time.monotonic()
        first = first or now
        done, total = int(match[1]), int(match[2])
        text = progress_line(done, total, now - start, now - first)
        if live:
            print(f"\r{text}\x1b[K", end="", flush=True)
        elif now - start - printed >= _QUIET or done == total:
            printed = now - start
            print(text, flush=True)
    if live and first:
        print()


def progress_line(done: int, total: int, elapsed: float, compiling: float) -> str:
    """``elapsed`` and ``compiling`` (since the first object) in seconds."""
    left = compiling / (done - 1) * (total - done) if done > 1 else None
    eta = "" if left is None else f", about {minutes(left)} left"
    return f"compiling mmcv: {done}/{total} objects, {minutes(elapsed)} elapsed{eta}"


def minutes(seconds: float) -> str:
    """``125`` -> ``2:05``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def explain_failure(lines: list[str], log: Path, cuda: str | None) -> str:
    """The errors of a failed compilation, where its log is, and the likely remedy.

    Args:
        lines: of the log.
        log: its path.
        cuda: version of CUDA that torch was built with.
    """
    # setuptools prints a lot after an error, so the end of the log is the second choice.
    errors = [line.strip() for line in lines if re.search(r"(?i)error:|Killed", line)]
    remedy = "see the log"
    if any("Killed" in line for line in lines):
        remedy = "memory ran out; compile one file at a time: --jobs 1"
    elif any("CUDA version" in line or ("nvcc" in line and "not found" in line) for line in lines):
        remedy = f"set CUDA_HOME to a CUDA toolkit of the version torch was built with ({cuda})"
    shown = "\n".join(errors[:10] or lines[-15:])
    return f"the compilation of mmcv failed; nothing was replaced.\n{shown}\n\nLog: {log}\nRemedy: {remedy}"
