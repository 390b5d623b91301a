"""Costs of each step of the roadmap for dense prediction: measurements, table and figure.

The accuracy is the paper's; all else is counted or measured on this machine.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from convnext_dense.bench.complexity import Complexity, count_macs, count_params
from convnext_dense.bench.timing import (
    HW,
    MIB,
    saved_bytes,
    time_interleaved,
)
from convnext_dense.errors import ArgumentError
from convnext_dense.models.roadmap import STEPS, Roadmap, Step
from convnext_dense.reports.style import BLUE, GREEN, ORANGE, PURPLE, save_figure
from convnext_dense.results import paper
from convnext_dense.support.system import device_name
from convnext_dense.support.text_tables import markdown, replace_between

ALTERNATIVES = ("kernel_5", "kernel_9", "kernel_11")  # tried, but not part of the later steps
PAPER_SIZE = 224  # pixels per side at which the paper counts MACs
PUBLISHED = dict(zip(STEPS, paper.ROADMAP, strict=True))
"""The paper's label, accuracy and MACs of every step."""


class StepCost(NamedTuple):
    """One row of the report.

    Attributes:
        name: name of the step.
        macs: multiply-accumulates with a 1000-way classifier at 224x224, as the paper counts.
        params: parameters of the backbone with all four levels.
        saved_bytes: activations kept for the backward pass.
        seconds: median latency of a forward pass by size.
    """

    name: str
    macs: int
    params: int
    saved_bytes: int
    seconds: dict[str, float]


class Report(NamedTuple):
    """Rows in the roadmap's order and the conditions of the measurement.

    Attributes:
        conditions: conditions in one line.
        memory_hw: (height, width) of the image for ``saved_bytes``; batch 1.
        rows: one row per step.
    """

    conditions: str
    memory_hw: HW
    rows: tuple[StepCost, ...]

    def record(self) -> dict:
        """Plain values, ready for JSON."""
        rows = [row._asdict() for row in self.rows]
        return dict(conditions=self.conditions, memory_size=list(self.memory_hw), rows=rows)

    @classmethod
    def from_record(cls, record: Mapping) -> "Report":
        """The inverse of :meth:`record`."""
        rows = tuple(StepCost(**row) for row in record["rows"])
        return cls(record["conditions"], tuple(record["memory_size"]), rows)


# --------------------------------------------------------------------------------------- measurements


def imagenet_complexity(step: str) -> Complexity:
    """The step as an ImageNet classifier at 224x224: last level, global average, linear layer."""
    with torch.device("meta"):
        body = Roadmap(step, out_indices=3)
        head = nn.Linear(body.dims[-1], 1000)
        image = torch.empty(1, 3, PAPER_SIZE, PAPER_SIZE)
    macs = count_macs(lambda: head(body(image)[0].mean((2, 3))))  # (1, C, H, W) -> (1, C) -> (1, 1000)
    return Complexity(count_params(body) + count_params(head), macs, (PAPER_SIZE, PAPER_SIZE))


def measure(
    shapes: Sequence[HW],
    repeats: int,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda line: None,
    steps: Sequence[str] = tuple(STEPS),
) -> Report:
    """Measure ``steps`` at every (height, width) of ``shapes``, batch 1; activations at the first size.

    Raises:
        ValueError: an unknown step, no size, or fewer than one repeat.
    """
    if not shapes:
        raise ArgumentError("no sizes to measure at; give at least one (height, width)")
    torch.manual_seed(0)
    models = {step: Roadmap(step).to(device) for step in steps}
    kept = {}
    image = torch.randn(1, 3, *shapes[0], device=device)
    for step, model in models.items():
        kept[step] = saved_bytes(model.train(), image)
        progress(f"{step}: {kept[step] / MIB:.0f} MiB kept for backward")
        model.eval()
    seconds: dict[str, dict[str, float]] = {step: {} for step in steps}
    for height, width in shapes:
        image = torch.randn(1, 3, height, width, device=device)
        progress(f"{height}x{width}: {repeats} repeats of {len(steps)} steps")
        forwards = [partial(model, image) for model in models.values()]
        with torch.inference_mode():
            taken = time_interleaved(forwards, repeats, device)
        for step, runs in zip(steps, taken, strict=True):
            seconds[step][f"{height}x{width}"] = statistics.median(runs.device or runs.wall)
    rows = tuple(
        StepCost(step, imagenet_complexity(step).macs, count_params(model), kept[step], seconds[step])
        for step, model in models.items()
    )
    return Report(conditions(device, repeats), shapes[0], rows)


def conditions(device: str, repeats: int) -> str:
    """Hardware, threads, precision, versions and repeats in one line."""
    where = device_name(device)
    if not device.startswith("cuda"):
        where += f", {torch.get_num_threads()} thread{'s'[: torch.get_num_threads() > 1]}"
    return f"{where}; batch 1, float32, torch {torch.__version__}; medians of {repeats} interleaved repeats"


# ---------------------------------------------------------------------------------------------- table


def format_markdown(report: Report) -> str:
    """The rows as a Markdown table, with the conditions below it."""
    sizes = list(report.rows[0].seconds)
    head = [
        "step", "paper's label", "top-1 (paper)", "GMACs at 224", "paper", "M params",
        *(f"ms at {size}" for size in sizes), f"MiB kept at {_by(report.memory_hw)}",
    ]  # fmt: skip
    lines = [head]
    for row in report.rows:
        published = PUBLISHED[row.name]
        lines.append(
            [
                f"`{row.name}`" + (" (alternative)" if row.name in ALTERNATIVES else ""),
                published.step,
                f"{published.top1:.1f}",
                f"{row.macs / 1e9:.2f}",
                f"{published.macs_g:.1f}",
                f"{row.params / 1e6:.1f}",
                *(f"{1000 * row.seconds[size]:.0f}" for size in sizes),
                f"{row.saved_bytes / MIB:.0f}",
            ]
        )
    return f"{markdown(lines, 'llr')}\nMeasured on {report.conditions}.\n"


def replace_table(text: str, table: str) -> str:
    """Replace the text between the two ``roadmap table`` comments of ``text``.

    Raises:
        ValueError: the comments are missing.
    """
    return replace_between(
        text, "<!-- roadmap table: begin -->", "<!-- roadmap table: end -->", f"\n{table}\n"
    )


# --------------------------------------------------------------------------------------------- figure

_GREY = "#444444"
_TEXT = 8
_ON_WHITE = dict(facecolor="white", edgecolor="none", pad=0.6)  # the dashed line stops at a label


def plot_report(path: str | Path, report: Report) -> None:
    """Draw one row per step as in the paper's figure; panels of accuracy, MACs, latency and kept activations.

    Args:
        path: file to write; its suffix chooses the format.
        report: what to draw; latency at its last size.
    """
    figure = Figure(figsize=(11, 5.8), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    size = list(report.rows[0].seconds)[-1]
    steps = [STEPS[row.name] for row in report.rows]
    _dots(panels[0], steps)
    columns = (
        ([row.macs / 1e9 for row in report.rows], ORANGE, 2),
        ([1000 * row.seconds[size] for row in report.rows], GREEN, 0),
        ([row.saved_bytes / MIB for row in report.rows], PURPLE, 0),
    )
    for axes, (values, colour, digits) in zip(panels[1:], columns, strict=True):
        _bars(axes, steps, values, colour, digits)
    titles = (
        "ImageNet top-1\nin the paper, %",
        f"GMACs\nat {PAPER_SIZE}x{PAPER_SIZE}",
        f"latency\nat {size}, ms",
        f"kept for backward\nat {_by(report.memory_hw)}, MiB",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=_TEXT + 2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=_TEXT)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(steps)), [PUBLISHED[step.name].step for step in steps], fontsize=_TEXT + 1)
    panels[0].invert_yaxis()
    note = "Dashed: the first row. Hatched and hollow: alternatives, not part of the rows below them."
    figure.supxlabel(f"{note}\n{report.conditions}.", fontsize=_TEXT)
    save_figure(figure, path, dpi=130)


def _dots(axes: Axes, steps: Sequence[Step]) -> None:
    """Draw accuracy as dots, because bars would have to start at zero."""
    accuracies = [PUBLISHED[step.name].top1 for step in steps]
    path = [(PUBLISHED[step.name].top1, i) for i, step in enumerate(steps) if step.name not in ALTERNATIVES]
    axes.axvline(accuracies[0], color=_GREY, lw=0.8, ls="--")
    axes.plot(*zip(*path, strict=True), color=BLUE, lw=1.2)
    for i, (step, accuracy) in enumerate(zip(steps, accuracies, strict=True)):
        face = "white" if step.name in ALTERNATIVES else BLUE
        axes.plot(accuracy, i, marker="o", ms=6, markerfacecolor=face, markeredgecolor=BLUE, ls="")
        axes.annotate(
            f"{accuracy:.1f}",
            (accuracy, i),
            xytext=(8, 0),
            textcoords="offset points",
            fontsize=_TEXT,
            va="center",
            color=_GREY,
            bbox=_ON_WHITE,
        )
    axes.set_xlim(min(accuracies) - 0.5, max(accuracies) + 1)


def _bars(axes: Axes, steps: Sequence[Step], values: Sequence[float], colour: str, digits: int) -> None:
    bars = axes.barh(range(len(steps)), values, color=colour, height=0.7)
    for bar, step in zip(bars, steps, strict=True):
        if step.name in ALTERNATIVES:
            bar.set(facecolor="white", edgecolor=colour, hatch="////", linewidth=0.8)
    axes.axvline(values[0], color=_GREY, lw=0.8, ls="--")
    labels = [f"{value:.{digits}f}" for value in values]
    axes.bar_label(bars, labels, fontsize=_TEXT, padding=4, color=_GREY, bbox=_ON_WHITE)
    axes.set_xlim(0, 1.25 * max(values))


def _by(hw: HW) -> str:
    return f"{hw[0]}x{hw[1]}"
