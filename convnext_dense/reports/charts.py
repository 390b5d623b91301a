"""Charts of accuracy: against cost, over recall, by class, and confusion between classes.

Each ``draw_*`` returns a matplotlib figure, which :func:`convnext_dense.reports.style.save_figure`
writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from convnext_dense.errors import ArgumentError
from convnext_dense.evaluation.coco_ap import AREAS, RECALLS, Precision
from convnext_dense.reports.style import BLUE, COLOURS, GREEN, ORANGE, PURPLE
from convnext_dense.results import paper

GREY = "#777777"
FAMILIES = {  # colour and marker, which also differ in print
    "ConvNeXt V2": (GREEN, "D"),
    "ConvNeXt": (BLUE, "o"),
    "Swin": (ORANGE, "s"),
    "ResNet, ResNeXt": (PURPLE, "^"),
    "other": (GREY, "v"),
}
NOTHING = "nothing"

COSTS = {
    "macs": "MACs in 1e9",
    "params": "parameters in 1e6",
    "latency": "measured latency in ms, batch 1",
}


class Point(NamedTuple):
    """One model of the chart of accuracy against cost.

    Attributes:
        label: such as ``ConvNeXt-T``.
        pretrain: ``1K`` or ``22K``.
        accuracy: accuracy in percent.
        costs: costs by the names of :data:`COSTS`, without unknown ones.
        size: image size, where one model is published at several.
        mine: whether it was measured here, not published.
    """

    label: str
    pretrain: str
    accuracy: float
    costs: Mapping[str, float]
    size: int | None = None
    mine: bool = False


# ------------------------------------------------------------------------------- accuracy against cost


def accuracy_of(row: paper.Row) -> float:
    """The main figure of a row: box AP, mIoU at several scales, or top-1, in percent."""
    if isinstance(row, paper.CocoRow):
        return row.box.ap
    return row.miou_ms if isinstance(row, paper.Ade20kRow) else row.top1


def label_of(row: paper.Row) -> str:
    """The name of a row's model, such as ``ConvNeXt-T``."""
    return row.backbone if isinstance(row, paper.CocoRow | paper.Ade20kRow) else row.model


def paper_points(rows: Sequence[paper.Row], latencies: Mapping[str, float]) -> list[Point]:
    """Published accuracy of ``rows`` against their published costs and measured ``latencies`` (row -> ms)."""
    points = []
    for row in rows:
        known = {"macs": row.macs_g, "params": row.params_m, "latency": latencies.get(row.name)}
        costs = {name: float(value) for name, value in known.items() if value is not None}
        size = row.size if isinstance(row, paper.ImageNetRow) else None
        points.append(Point(label_of(row), getattr(row, "pretrain", "1K"), accuracy_of(row), costs, size))
    return points


def measured_points(
    records: Sequence[Mapping], rows: Sequence[paper.Row], latencies: Mapping[str, float]
) -> list[Point]:
    """Accuracy measured on the paper's whole val set of ``rows``' task; other data is left out."""
    detection = isinstance(rows[0], paper.CocoRow)
    points = []
    for record in records:
        names = ("box AP",) if detection else ("mIoU",)
        if not record["dataset"]["full"] or names[0] not in record["metrics"]:
            continue
        if not detection and not record["tta"]:
            continue  # the chart has the mIoU of several scales
        row = paper.ROWS.get(record.get("row") or "")
        counted = record.get("complexity") or {}
        known = {
            "macs": counted.get("macs", 0) / 1e9 or (row and row.macs_g),
            "params": counted.get("params", 0) / 1e6 or (row and row.params_m),
            "latency": latencies.get(record.get("row") or record["config"]),
        }
        costs = {name: float(value) for name, value in known.items() if value}
        label = label_of(row) if row else record["config"]
        accuracy = record["metrics"][names[0]]
        points.append(Point(label, getattr(row, "pretrain", ""), accuracy, costs, mine=True))
    return points


def draw_cost(points: Sequence[Point], ylabel: str, latency_on: str = "") -> Figure:
    """A panel for each cost that at least two points have; the area of a bubble grows with its MACs.

    Args:
        points: models to draw.
        ylabel: label of the accuracy axis.
        latency_on: device of the measured latencies.

    Raises:
        ValueError: no cost is known of two points.
    """
    costs = [name for name in COSTS if sum(name in point.costs for point in points) >= 2]
    if not costs:
        raise ArgumentError("accuracy against cost needs two models of known cost")
    figure = Figure(figsize=(5.4 * len(costs) + 0.4, 4.6), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    most = max(point.costs.get("macs", 1) for point in points)
    for axes, cost in zip(panels, costs, strict=True):
        _bubbles(axes, [point for point in points if cost in point.costs], cost, most)
        axes.set_xlabel(COSTS[cost] + (f", {latency_on}" if cost == "latency" and latency_on else ""))
    panels[0].set_ylabel(ylabel)
    handles = [
        Line2D([], [], marker=marker, ls="", ms=9, color=colour, label=family)
        for family, (colour, marker) in FAMILIES.items()
        if any(_family(point.label) == family for point in points if not point.mine)
    ]
    handles += [
        Line2D([], [], ls="", marker="o", ms=9, color=GREY, label=text, markerfacecolor=fill)
        for text, fill in (("pretrained on 1K", "white"), ("on 22K", GREY))
    ]
    if any(point.mine for point in points):
        handles.append(Line2D([], [], ls="", ms=11, marker="*", color="black", label="measured here"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _bubbles(axes: Axes, points: Sequence[Point], cost: str, most: float) -> None:
    published = [point for point in points if not point.mine]
    for series in sorted({_series(point) for point in published}, key=str):
        line = sorted((p for p in published if _series(p) == series), key=lambda point: point.costs[cost])
        axes.plot(
            [p.costs[cost] for p in line], [p.accuracy for p in line],
            color=FAMILIES[series[0]][0], lw=1, ls="-" if series[1] == "22K" else "--", zorder=1,
        )  # fmt: skip
    for i, point in enumerate(sorted(points, key=lambda point: -point.costs.get("macs", 0))):
        _bubble(
            axes, point, (point.costs[cost], point.accuracy), 40 + 450 * point.costs.get("macs", 0) / most, i
        )
    known = [point.costs[cost] for point in points]
    if max(known) > 8 * min(known):  # small models would lie on top of each other
        axes.set_xscale("log")
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if min(known) / 2 < tick]
        axes.set_xticks([tick for tick in ticks if tick < 2 * max(known)])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _bubble(axes: Axes, point: Point, where: tuple[float, float], area: float, order: int) -> None:
    colour, marker = FAMILIES[_family(point.label)]
    if point.mine:
        axes.plot(*where, marker="*", ms=16, color="black", markeredgecolor="white", zorder=60)
        name = f"{point.label}, here"
    else:
        face = colour if point.pretrain == "22K" else "white"
        axes.scatter(
            *where,
            s=area,
            marker=marker,
            facecolor=face,
            edgecolor=colour,
            lw=1.6,
            alpha=0.85,
            zorder=2 + order,
        )
        known = _family(point.label) in ("ConvNeXt", "ConvNeXt V2", "Swin")
        name = point.label.rpartition("-")[2] if known else point.label
        name += f" {point.size}" if point.size else ""
    away = area**0.5 / 2 + 3  # points from the middle of the bubble
    below = (_family(point.label) == "Swin" or (point.size and point.pretrain == "1K")) and not point.mine
    axes.annotate(
        name, where, xytext=(0, 8) if point.mine else (0, -away if below else away),
        textcoords="offset points", ha="center",
        va="top" if below else "bottom", fontsize=7, zorder=70,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip


def _series(point: Point) -> tuple[str, str, int]:
    """Lists of models that a line joins."""
    return _family(point.label), point.pretrain, point.size or 0


def _family(label: str) -> str:
    if label.startswith(("ResNet", "X101")):
        return "ResNet, ResNeXt"
    return next((family for family in FAMILIES if label.startswith(family)), "other")


# ---------------------------------------------------------------------------------- precision and recall


def draw_precision_recall(precisions: Mapping[str, Precision]) -> Figure:
    """For boxes and masks: all classes by size at IoU 0.50 and 0.75, and each class at 0.50.

    With more than seven classes, all are grey except the three best and the three worst.

    Raises:
        ValueError: no object of any class.
    """
    if all(precision.curve() is None for precision in precisions.values()):
        raise ArgumentError("no precision-recall curve: the annotations have no object of the classes")
    figure = Figure(figsize=(10.5, 4.2 * len(precisions)), layout="constrained")
    panels = figure.subplots(len(precisions), 2, squeeze=False)
    for (left, right), (kind, precision) in zip(panels, precisions.items(), strict=True):
        name = {"bbox": "boxes", "segm": "masks"}[kind]
        _by_size(left, precision)
        left.set_title(f"{name}: all classes, by size")
        _by_class(right, precision)
        right.set_title(f"{name}: by class, IoU 0.50")
        for axes in (left, right):
            axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _by_size(axes: Axes, precision: Precision) -> None:
    for area, colour in zip(AREAS, ("black", BLUE, ORANGE, GREEN), strict=True):
        for iou, dashes in ((0.5, "-"), (0.75, "--")):
            curve = precision.curve(iou, area)
            if curve is not None:
                label = f"{area}, IoU {iou:.2f}: AP {precision.ap(iou, area):.1f}"
                axes.plot(
                    RECALLS, curve, color=colour, ls=dashes, lw=2 if area == "all" else 1.4, label=label
                )


def _by_class(axes: Axes, precision: Precision) -> None:
    labels = range(len(precision.classes))
    curves = {i: curve for i in labels if (curve := precision.curve(label=i)) is not None}
    ap = {i: precision.ap(0.5, label=i) for i in curves}
    order = sorted(ap, key=lambda i: -ap[i])
    shown = order if len(order) <= len(COLOURS) else [*order[:3], *order[-3:]]
    for i in set(order) - set(shown):
        axes.plot(RECALLS, curves[i], color="#BBBBBB", lw=0.6)
    for number, i in enumerate(shown):
        dashes = "-" if number < len(shown) / 2 else "--"
        label = f"{precision.classes[i]}: {ap[i]:.1f}"
        axes.plot(RECALLS, curves[i], color=COLOURS[number], ls=dashes, lw=1.6, label=label)
    if len(shown) < len(order):
        axes.plot([], [], color="#BBBBBB", lw=0.6, label=f"{len(order) - len(shown)} classes between")


# ------------------------------------------------------------------------------------- classes, confusion


def draw_classes(per_class: Mapping[str, Mapping[str, float | None]], figure_name: str) -> Figure:
    """Bars of one figure per class, best first, forty per column; classes that do not occur are left out.

    Raises:
        ValueError: no class has the figure.
    """
    values = {name: figures.get(figure_name) for name, figures in per_class.items()}
    known = sorted(((v, name) for name, v in values.items() if v is not None), reverse=True)
    if not known:
        raise ArgumentError(f"no class has a figure {figure_name!r}")
    columns = -(-len(known) // 40)
    rows = -(-len(known) // columns)
    figure = Figure(figsize=(4.6 * columns, 0.9 + 0.2 * max(rows, 4)), layout="constrained")
    mean = sum(v for v, _ in known) / len(known)
    for axes, start in zip(
        figure.subplots(1, columns, squeeze=False)[0], range(0, len(known), rows), strict=True
    ):
        part = known[start : start + rows]
        bars = axes.barh(range(len(part)), [v for v, _ in part], color=BLUE, height=0.72)
        on_white = dict(facecolor="white", edgecolor="none", pad=0.4)  # the dashed line stops at a label
        axes.bar_label(bars, [f"{v:.1f}" for v, _ in part], fontsize=7, padding=3, bbox=on_white)
        axes.set_yticks(range(len(part)), [name for _, name in part], fontsize=8)
        axes.axvline(mean, color="black", lw=1, ls="--", zorder=0)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xlim(0, 1.12 * max(known[0][0], 1))
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    missing = len(values) - len(known)
    note = f"; {missing} classes do not occur" if missing else ""
    figure.supxlabel(
        f"{figure_name} in %; dashed: mean of {len(known)} classes, {mean:.1f}{note}", fontsize=9
    )
    return figure


def draw_confusion(counts: np.ndarray, names: Sequence[str], unit: str, most: int = 20) -> Figure:
    """Share of each true class that was found as each class; of many classes the most confused ones.

    Args:
        counts: true class by found class.
        names: one name per row.
        unit: the counted unit, for the title.
        most: largest number of classes shown.
    """
    shown = confused_classes(counts, most)
    totals = counts.sum(1)
    shares = 100 * counts[np.ix_(shown, shown)] / np.maximum(totals[shown], 1)[:, None]
    side = 2.2 + 0.36 * max(len(shown), 6)
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    labels = [names[i] for i in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    for (row, column), share in np.ndenumerate(shares):
        if totals[shown[row]] and share >= 0.5:
            colour = "white" if share < 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    left_out = int((totals > 0).sum()) - len([i for i in shown if totals[i]])
    note = f"\nthe {len(shown)} most confused of {len(names)} classes" if left_out > 0 else ""
    axes.set(xlabel="found as", ylabel="true class")
    axes.set_title(f"{unit}\nin % of each row{note}", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.7)
    return figure


def confused_classes(counts: np.ndarray, most: int) -> list[int]:
    """Indices of the classes with most confusion, in class order; classes that never occur are left out."""
    occur = np.flatnonzero(counts.sum(0) + counts.sum(1))
    wrong = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
    return sorted(sorted(occur.tolist(), key=lambda i: (-wrong[i], i))[:most])
