"""Training curves from one or several logs: loss terms, learning rates by group, AP or mIoU."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from convnext_dense.errors import ArgumentError
from convnext_dense.reports.style import COLOURS, DASHES

METRICS = {
    "coco/bbox_mAP": ("box AP", 100.0),
    "coco/segm_mAP": ("mask AP", 100.0),
    "mIoU": ("mIoU", 1.0),
}
"""Logged name -> name here, and the factor to percent."""

RATE = "lr/"  # prefix of one parameter group's rate; the toolkit's hook logs it

Curve = tuple[list[int], list[float]]


class Log(NamedTuple):
    """One training.

    Attributes:
        losses: name -> (iterations, values), the total first.
        rates: group -> (iterations, learning rates); ``all`` where the groups share one.
        metrics: name -> (iterations, percent).
    """

    losses: dict[str, Curve]
    rates: dict[str, Curve]
    metrics: dict[str, Curve]


def read_log(source: str | Path) -> Log:
    """Read a work folder, with all its resumed parts, or one ``scalars.json``.

    Raises:
        FileNotFoundError: no log found.
        ValueError: a log without a loss.
    """
    source = Path(source)
    files = [source] if source.is_file() else sorted(source.glob("*/vis_data/scalars.json"))
    if not files:
        raise FileNotFoundError(f"no */vis_data/scalars.json in {source}: nothing was trained there")
    records: list[dict] = []
    for file in files:
        records = join_records(records, place_records(_read_lines(file)))
    losses = loss_curves(records)
    if not losses:
        raise ArgumentError(f"{source}: no loss among {len(records)} records")
    return Log(losses, _rates(records), _metrics(records))


def _read_lines(path: Path) -> list[dict]:
    """Read JSON lines; a last line that a crash cut off is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [record for record in records if "step" in record]


def place_records(records: Sequence[Mapping]) -> list[dict]:
    """Records with ``step`` counted in iterations throughout.

    mmengine logs validations by the number of the epoch, or with 0, so they get at least the step of the
    training record logged before them; one before any training is left out.
    """
    placed, step = [], 0
    for record in records:
        if "loss" in record:
            step = record["step"]
        if step:
            placed.append({**record, "step": max(step, record["step"])})
    return placed


def join_records(before: Sequence[dict], after: Sequence[dict]) -> list[dict]:
    """Merge a run and its continuation, which replaces repeated steps; a start from zero replaces all.

    ``after`` without a loss is a test and adds nothing.
    """
    steps = [record["step"] for record in after if "loss" in record]
    if not steps:
        return list(before)
    gap = steps[1] - steps[0] if len(steps) > 1 else 0
    from_zero = steps[0] <= max(gap, 1)
    return ([] if from_zero else [r for r in before if r["step"] < steps[0]]) + list(after)


def loss_curves(records: Sequence[Mapping]) -> dict[str, Curve]:
    """Loss name -> (steps, values), over the records that have it; the total first."""
    curves: dict[str, Curve] = {}
    for record in records:
        for name, value in record.items():
            if name.split(".")[-1].startswith("loss"):
                _add(curves, name, record["step"], value)
    return dict(sorted(curves.items(), key=lambda curve: curve[0] != "loss"))


def _rates(records: Sequence[Mapping]) -> dict[str, Curve]:
    groups: dict[str, Curve] = {}
    for record in records:
        named = {key.removeprefix(RATE): value for key, value in record.items() if key.startswith(RATE)}
        for name, value in named.items():
            _add(groups, name, record["step"], value)
    if groups:
        return groups
    shared: dict[str, Curve] = {}
    for record in records:
        if "lr" in record:
            _add(shared, "all", record["step"], record["lr"])
    return shared


def _metrics(records: Sequence[Mapping]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for record in records:
        for key, (name, factor) in METRICS.items():
            if key in record and record[key] >= 0:
                _add(curves, name, record["step"], factor * record[key])
    return curves


def _add(curves: dict[str, Curve], name: str, step: int, value: float) -> None:
    steps, values = curves.setdefault(name, ([], []))
    steps.append(step)
    values.append(value)


# ------------------------------------------------------------------------------------------- drawing


def draw_curves(runs: Mapping[str, Log]) -> Figure:
    """Panels of losses, learning rates and metrics: the terms of one run, or the totals of several.

    Raises:
        ValueError: no runs.
    """
    if not runs:
        raise ArgumentError("no runs to plot")
    has_metrics = any(log.metrics for log in runs.values())
    columns = 3 if has_metrics else 2
    figure = Figure(figsize=(4.6 * columns, 4.6), layout="constrained")
    panels = figure.subplots(1, columns)
    if len(runs) == 1:
        (log,) = runs.values()
        _draw_terms(panels[0], log.losses)
        draw_rates(panels[1], log.rates)
        if has_metrics:
            _draw_metrics(panels[2], log)
    else:
        _draw_runs(panels, runs)
    panels[0].set(title="loss", yscale="log")
    panels[1].set(title="learning rate", yscale="log")
    if has_metrics:
        panels[2].set(title="validation, %")
        panels[2].set_ylim(0, max(1, *(1.05 * top for top in _tops(runs))))
    for axes in panels:
        _finish(axes)
    return figure


def draw_losses(runs: Mapping[str, Log]) -> Figure:
    """A panel for each run with the terms of its loss, for runs that have no terms in common.

    Raises:
        ValueError: no runs.
    """
    if not runs:
        raise ArgumentError("no runs to plot")
    figure = Figure(figsize=(7 * len(runs), 4.6), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (title, log) in zip(panels, runs.items(), strict=True):
        _draw_terms(axes, log.losses)
        axes.set(title=title, ylabel="loss, mean of the last steps", yscale="log")
        _finish(axes)
    return figure


def _finish(axes: Axes) -> None:
    """Label the iterations; the legend stands below, where it covers no curve."""
    axes.set_xlabel("iteration")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize="x-small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _tops(runs: Mapping[str, Log]) -> list[float]:
    """Show the highest value of every metric."""
    return [max(values) for log in runs.values() for _, values in log.metrics.values()]


def _draw_terms(axes: Axes, losses: Mapping[str, Curve]) -> None:
    """The terms of one loss, the total in black."""
    for i, (name, (steps, values)) in enumerate(losses.items()):
        if name == "loss":
            axes.plot(steps, values, color="black", lw=2.2, label="total")
        else:
            colour, dashes = COLOURS[(i - 1) % len(COLOURS)], DASHES[(i - 1) // len(COLOURS) % 4]
            label = name.removeprefix("decode.")
            axes.plot(steps, values, color=colour, ls=dashes, lw=1.4, label=label)


def draw_rates(axes: Axes, rates: Mapping[str, tuple[Sequence, Sequence]]) -> None:
    """Learning rates by group, from the input to the heads in the order of a colour map."""
    shades = matplotlib.colormaps["cividis"]
    last = max(len(rates) - 1, 1)
    for i, (name, (steps, values)) in enumerate(rates.items()):
        colour = "black" if len(rates) == 1 else shades(0.9 * i / last)
        axes.plot(steps, values, color=colour, lw=1.5, label="all groups" if name == "all" else name)


def _draw_metrics(axes: Axes, log: Log) -> None:
    for i, (name, (steps, values)) in enumerate(log.metrics.items()):
        axes.plot(
            steps, values, color=COLOURS[i % len(COLOURS)], marker="os^"[i % 3], ms=4, lw=1.5, label=name
        )


def _draw_runs(panels: Sequence[Axes], runs: Mapping[str, Log]) -> None:
    """Draw totals, the range of the groups' rates, and the metrics; a colour and dashes for each run."""
    for i, (title, log) in enumerate(runs.items()):
        style: dict[str, Any] = dict(color=COLOURS[i % len(COLOURS)], ls=DASHES[i % len(DASHES)], lw=1.6)
        name, (steps, values) = next(iter(log.losses.items()))
        panels[0].plot(steps, values, label=title, **style)
        for j, (steps, values) in enumerate([*log.rates.values()][:: max(len(log.rates) - 1, 1)]):
            ends = f"{title} (lowest and highest group)" if len(log.rates) > 1 else title
            panels[1].plot(steps, values, label=None if j else ends, **style)
        for j, (name, (steps, values)) in enumerate(log.metrics.items()):
            panels[2].plot(steps, values, marker="os^"[j % 3], ms=4, label=f"{title}: {name}", **style)
