"""Measurements side by side as records, and records as a table."""

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from convnext_dense.bench.timing import (
    LIBRARIES,
    MIB,
    Conditions,
    Pass,
    Runs,
    Subject,
    kept_bytes,
    peak_bytes,
    time_interleaved,
)
from convnext_dense.support.system import device_name, versions
from convnext_dense.support.text_tables import aligned
from convnext_dense.toolboxes import toolbox_versions


def measure(
    subjects: Sequence[Subject],
    direction: Pass,
    conditions: Conditions,
    repeats: int,
    tick: Callable[[], None] = lambda: None,
) -> list[dict]:
    """Measure ``subjects`` side by side; one record each, see :func:`record_of`."""
    counts = [count_memory(subject, conditions.device) for subject in subjects]
    runs = [Runs([], [], []) for _ in subjects]
    if conditions.device.type != "meta":
        runs = time_interleaved([s.run for s in subjects], repeats, conditions.device, tick)
    best = best_other(subjects, runs)
    return [
        record_of(subject, taken, memory, direction, conditions, best)
        for subject, taken, memory in zip(subjects, runs, counts, strict=True)
    ]


def count_memory(subject: Subject, device: torch.device) -> tuple[int | None, int | None]:
    """Bytes kept for backward and the peak; each ``None`` where nothing can be counted."""
    kept = None
    if subject.kept is not None:
        there = (*subject.model.parameters(), *subject.model.buffers(), subject.image)
        kept = kept_bytes(subject.kept, there)
    if device.type == "meta":
        return kept, None
    subject.run()  # the peak shall not include the optimizer's state and caches
    return kept, peak_bytes(subject.run, device)


def best_other(subjects: Sequence[Subject], runs: Sequence[Runs]) -> float | None:
    """Seconds of the fastest contender that is not ours; ``None`` without one."""
    medians = [
        statistics.median(taken.judged)
        for subject, taken in zip(subjects, runs, strict=True)
        if taken.judged and not subject.ours and not subject.entries.get("bound")
    ]
    return min(medians, default=None)


def record_of(
    subject: Subject,
    runs: Runs,
    memory: tuple[int | None, int | None],
    direction: Pass,
    conditions: Conditions,
    best: float | None,
) -> dict:
    """One contender's measurement as plain values, ready for JSON.

    Fields: ``kind`` (speed), ``contender``, ``ours``, ``pass`` (inference or training), ``height``,
    ``width``, ``batch``, ``dtype``, ``compiled``, ``device``, ``threads``, ``versions``, ``repeats``,
    ``clock`` (from which ``ratio`` is taken: cpu, or cuda events), ``median_ms`` with ``low_ms`` and
    ``high_ms`` (wall clock, or CUDA events) of a whole batch, ``cpu_median_ms`` with its ``low`` and
    ``high`` (CPU time of the process), ``images_per_second`` (from ``median_ms``), ``ratio`` (time over
    that of the fastest contender that is not ours), ``kept_bytes`` (for backward), ``peak_bytes``.
    What cannot be measured is ``None``. The caller adds ``row``, ``part`` (backbone or model) and ``time``;
    a contender may add its own entries, such as ``memory``, ``fused`` or ``paper_fps``.
    """
    shown = runs.device or runs.wall
    median = 1000 * statistics.median(shown) if shown else None
    judged = statistics.median(runs.judged) if runs.judged else None
    kept, peak = memory
    return dict(
        kind="speed",
        contender=subject.name,
        ours=subject.ours,
        **{"pass": direction},
        height=conditions.shape[0],
        width=conditions.shape[1],
        batch=conditions.batch,
        dtype=conditions.dtype,
        compiled=conditions.compiled,
        device=device_name(conditions.device),
        threads=torch.get_num_threads(),
        versions=versions(("convnext_dense", "torch", *LIBRARIES)) | toolbox_versions(),
        repeats=len(shown),
        clock="cuda" if runs.device else "cpu",
        median_ms=_round(median) if median else None,
        low_ms=_round(1000 * min(shown)) if shown else None,
        high_ms=_round(1000 * max(shown)) if shown else None,
        cpu_median_ms=_round(1000 * statistics.median(runs.cpu)) if runs.cpu else None,
        cpu_low_ms=_round(1000 * min(runs.cpu)) if runs.cpu else None,
        cpu_high_ms=_round(1000 * max(runs.cpu)) if runs.cpu else None,
        images_per_second=_round(1000 * conditions.batch / median) if median else None,
        ratio=_round(judged / best) if judged and best else None,
        kept_bytes=kept,
        peak_bytes=peak,
        **subject.entries,
    )


def _round(value: float) -> float:
    return float(f"{value:.5g}")


def format_records(records: Sequence[Mapping]) -> str:
    """Records of one comparison as aligned text under a line with their conditions."""
    table = [("", "ms", "range", "CPU ms", "range", "images/s", "ratio", "kept MiB", "peak MiB", "")]
    for r in records:
        table.append(
            (
                r["contender"],
                _number(r["median_ms"], ".1f"),
                _range(r["low_ms"], r["high_ms"]),
                _number(r["cpu_median_ms"], ".1f"),
                _range(r["cpu_low_ms"], r["cpu_high_ms"]),
                _number(r["images_per_second"], ".2f"),
                _number(r["ratio"], ".3f"),
                _number(r["kept_bytes"] and r["kept_bytes"] / MIB, ".0f"),
                _number(r["peak_bytes"] and r["peak_bytes"] / MIB, ".0f"),
                f"paper: {r['paper_fps']:g} FPS on an A100" if r.get("paper_fps") else "",
            )
        )
    return f"{heading(records[0])}\n{aligned(table, 'lr')}"


def heading(record: Mapping) -> str:
    """The conditions of a comparison in one line."""
    threads = f", {record['threads']} CPU thread{'s'[: record['threads'] > 1]}"
    how = ", compiled" if record["compiled"] else ""
    unit = "an image" if record["batch"] == 1 else f"a batch of {record['batch']}"
    return (
        f"{record['pass']}, {record.get('part', 'backbone')}, {record['height']}x{record['width']}, {unit}, "
        f"{record['dtype']}{how}; {record['device']}{threads}, torch {record['versions']['torch']}; "
        f"medians of {record['repeats']} interleaved repeats, ratios of "
        f"{'CUDA' if record['clock'] == 'cuda' else 'CPU'} time to the best that is not ours"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{low:.0f}-{high:.0f}"
